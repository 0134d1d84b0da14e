//! Bytes from a client become messages, whichever transport they came over.
//!
//! Pure: no socket and no clock. Bytes may be split anywhere. The buffer holds at most one message of the
//! configured size, and none while the connection is idle.

use crate::{CloseReason, Transport, line, websocket};

/// What a client's bytes amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// One whole message, without the line end.
    Message(Vec<u8>),
    /// A WebSocket ping, to be answered with the same payload.
    Ping(Vec<u8>),
    /// A WebSocket close frame; the code is the client's, where it gave one.
    Close(Option<u16>),
    /// Nothing to answer: an empty line, a WebSocket pong, a small fragment of a message that goes on. It is told so that it
    /// counts among what a client may send.
    Nothing,
}

/// Decodes one connection's inbound bytes.
#[derive(Debug)]
pub struct Inbound {
    codec: Codec,
    buffer: Buffer,
    max_message: usize,
}

/// Bytes that came and are not consumed yet. Consuming moves a mark, not the bytes: a client that sends thousands
/// of tiny messages at once costs no more per byte than one that sends a single large one.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    at: usize,
}

impl Buffer {
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.at += count;
        debug_assert!(self.at <= self.bytes.len());
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn release_if_empty(&mut self) {
        if self.at == self.bytes.len() {
            *self = Self::default();
        }
    }
}

#[derive(Debug)]
enum Codec {
    Line(line::Lines),
    WebSocket(websocket::Frames),
}

impl Inbound {
    /// A decoder for `transport` that takes messages of at most `max_message` bytes.
    pub fn new(transport: Transport, max_message: usize) -> Self {
        let codec = match transport {
            Transport::Tcp => Codec::Line(line::Lines::default()),
            Transport::WebSocket => Codec::WebSocket(websocket::Frames::default()),
        };
        Self { codec, buffer: Buffer::default(), max_message }
    }

    /// Changes the limit, as when a connection has logged in.
    pub fn set_max_message(&mut self, bytes: usize) {
        self.max_message = bytes;
    }

    /// Takes bytes from the socket. Call [`Inbound::next`] until it has no more before reading again.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// The next event in the bytes so far, or `None` when more are needed.
    ///
    /// # Errors
    /// The reason to close the connection with; nothing after it can be decoded.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: more bytes may follow a None")]
    pub fn next(&mut self) -> Option<Result<Event, CloseReason>> {
        let event = match &mut self.codec {
            Codec::Line(lines) => lines.next(&mut self.buffer, self.max_message),
            Codec::WebSocket(frames) => frames.next(&mut self.buffer, self.max_message),
        };
        self.buffer.release_if_empty();
        event
    }

    /// Bytes held for a message that is not whole yet.
    pub fn buffered(&self) -> usize {
        self.buffer.rest().len()
    }
}

#[cfg(test)]
impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(transport: Transport, chunks: &[&[u8]], max: usize) -> Vec<Result<Event, CloseReason>> {
        let mut inbound = Inbound::new(transport, max);
        let mut events = Vec::new();
        for chunk in chunks {
            inbound.extend(chunk);
            while let Some(event) = inbound.next() {
                let failed = event.is_err();
                events.push(event);
                if failed {
                    return events;
                }
            }
            assert!(
                inbound.buffered() <= max + 64 + chunk.len(),
                "the buffer is bounded by the message limit"
            );
        }
        events
    }

    proptest! {
        #[test]
        fn bytes_split_anywhere_decode_as_they_do_whole(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), Just(0x81), Just(0x82), Just(0x00), any::<u8>()], 0..300),
            cuts in prop::collection::vec(0usize..300, 0..6),
            websocket: bool,
        ) {
            let transport = if websocket { Transport::WebSocket } else { Transport::Tcp };
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(events(transport, &chunks, 64), events(transport, &[&bytes], 64));
        }
    }

    #[test]
    fn an_idle_connection_holds_no_buffer() {
        let mut inbound = Inbound::new(Transport::Tcp, 100);
        inbound.extend(b"{}\n");
        assert!(inbound.next().is_some() && inbound.next().is_none());
        assert_eq!(inbound.buffer.bytes.capacity(), 0);
    }
}
