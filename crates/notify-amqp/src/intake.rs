//! The consumer's end of the wire: reads the socket on the consumer's thread and takes the deliveries.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::io::{AsyncRead, AsyncWrite};

use crate::{delivery::Delivery, wire::Wire};

/// Reads in lapin's place for as long as it lives; then lapin reads again, and deliveries are dropped: they
/// are unacked and go back to the queue.
pub(crate) struct Intake<S: AsyncRead + AsyncWrite + Unpin> {
    wire: Arc<Wire<S>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Intake<S> {
    /// From now on the caller must poll. Deliveries that came before are kept, in their order.
    pub(crate) fn begin(wire: Arc<Wire<S>>) -> Self {
        wire.lock().tapped = true;
        Self { wire }
    }

    /// Moves what was delivered to the end of `waiting`; once the channel is dead, empties it instead.
    ///
    /// `Pending` when nothing came, and for ever once the connection is at its end: lapin reports that, after
    /// it has read what came before.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, waiting: &mut VecDeque<Delivery>) -> Poll<()> {
        let mut guard = self.wire.lock();
        let state = &mut *guard;
        while state.tapped && !state.tap.has_deliveries() {
            let read = self.wire.poll_read(state, cx);
            if state.tap.is_closed() {
                waiting.clear();
            }
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(end) => {
                    state.failure = end.err();
                    state.tapped = false;
                }
            }
            if !state.tapped || !state.tap.passed().is_empty() {
                self.wire.wake_reader();
            }
        }
        if !state.tap.has_deliveries() {
            return Poll::Pending;
        }
        state.tap.take_deliveries(waiting);
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drop for Intake<S> {
    fn drop(&mut self) {
        let mut state = self.wire.lock();
        state.tapped = false;
        state.tap.close();
        drop(state);
        self.wire.wake_reader();
    }
}

#[cfg(test)]
mod tests;
