//! The one signal that ends a consumer, whoever gives it: its owner, a handler, or the broker.

use tokio::sync::watch;

use crate::status::StopReason;

/// Gives the signal. The first reason counts.
#[derive(Debug, Clone)]
pub(crate) struct StopSignal(watch::Sender<Option<StopReason>>);

/// Waits for it.
pub(crate) type StopListener = watch::Receiver<Option<StopReason>>;

impl StopSignal {
    pub(crate) fn new() -> (Self, StopListener) {
        let (sender, listener) = watch::channel(None);
        (Self(sender), listener)
    }

    pub(crate) fn give(&self, reason: StopReason) {
        self.0.send_if_modified(|given| {
            let first = given.is_none();
            if first {
                *given = Some(reason);
            }
            first
        });
    }
}

/// Gives the signal when dropped: nobody owns the consumer any more.
#[derive(Debug)]
pub(crate) struct StopOnDrop(pub(crate) StopSignal);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.give(StopReason::Asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let (signal, listener) = StopSignal::new();
        let owner = StopOnDrop(signal.clone());
        assert_eq!(*listener.borrow(), None);
        signal.give(StopReason::Halted { code: 3 });
        drop(owner);
        assert_eq!(*listener.borrow(), Some(StopReason::Halted { code: 3 }));
    }
}
