//! What waits for one client, bounded in bytes. Holds shared frames, never copies of them.

use std::{collections::VecDeque, io::IoSlice};

use crate::{Frame, Transport};

/// How many frames one write takes at most; the kernel's own limit (`IOV_MAX`) is 1,024.
pub(crate) const MAX_SLICES: usize = 256;

/// An emptied queue larger than this is given back, so that idle sessions hold no memory.
const KEEP_CAPACITY: usize = 16;

/// What happens when a message does not fit into a session's outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverflowPolicy {
    /// The session is closed with 4000; the client reconnects and asks for the state anew.
    #[default]
    Disconnect,
    /// The oldest messages that are not partly sent make room.
    DropOldest,
}

/// The queue of one session.
#[derive(Debug)]
pub(crate) struct Outbox {
    transport: Transport,
    frames: VecDeque<Frame>,
    /// How much of the first frame the socket has taken.
    sent_of_first: usize,
    /// How many of the next bytes TLS has taken and the socket has not: they wait, and can no longer be dropped.
    held: usize,
    bytes: usize,
    max_bytes: usize,
}

/// The message does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Outbox {
    pub(crate) fn new(transport: Transport, max_bytes: usize) -> Self {
        Self { transport, frames: VecDeque::new(), sent_of_first: 0, held: 0, bytes: 0, max_bytes }
    }

    /// Queues a frame. An empty outbox takes any frame, so that a message larger than the limit still passes.
    pub(crate) fn push(&mut self, frame: &Frame) -> Result<(), Full> {
        let len = self.transport.bytes(frame).len();
        if !self.frames.is_empty() && self.bytes + len > self.max_bytes {
            return Err(Full);
        }
        self.push_beyond_limit(frame);
        Ok(())
    }

    /// Queues one of the lobby's own last words, which must follow what waits whatever the limit says.
    pub(crate) fn push_beyond_limit(&mut self, frame: &Frame) {
        let len = self.transport.bytes(frame).len();
        if len > 0 {
            self.bytes += len;
            self.frames.push_back(frame.clone());
        }
    }

    /// Begins an empty outbox with a frame of which `sent` bytes are sent.
    pub(crate) fn push_rest(&mut self, frame: &Frame, sent: usize) {
        debug_assert!(self.frames.is_empty() && self.sent_of_first == 0, "the rest of a frame comes first");
        self.push_beyond_limit(frame);
        self.bytes -= sent;
        self.sent_of_first = sent;
    }

    /// Drops the oldest frames that are not partly sent until `frame` fits; returns how many were dropped.
    pub(crate) fn make_room(&mut self, frame: &Frame) -> usize {
        let len = self.transport.bytes(frame).len();
        let first_whole = self.first_whole();
        let mut dropped = 0;
        while self.bytes + len > self.max_bytes {
            let Some(oldest) = self.frames.remove(first_whole) else { break };
            oldest.overflows();
            self.bytes -= self.transport.bytes(&oldest).len();
            dropped += 1;
        }
        dropped
    }

    /// Drops all that is not partly sent: the client is being closed for not reading it.
    pub(crate) fn drop_unsent(&mut self) {
        self.frames.drain(self.first_whole()..).for_each(|frame| frame.overflows());
        let kept: usize = self.frames.iter().map(|frame| self.transport.bytes(frame).len()).sum();
        self.bytes = kept - self.sent_of_first;
    }

    /// How many frames are on their way, in whole or in part: the first that is not may be dropped.
    fn first_whole(&self) -> usize {
        let mut under_way = self.sent_of_first + self.held;
        let begun = self.frames.iter().take_while(|frame| {
            let begun = under_way > 0;
            under_way = under_way.saturating_sub(self.transport.bytes(frame).len());
            begun
        });
        begun.count()
    }

    /// Notes that TLS has taken the next `bytes`. They are [`Outbox::advance`]d over when the socket has them.
    pub(crate) fn hold(&mut self, bytes: usize) {
        self.held = bytes;
    }

    /// What TLS has taken and the socket has not.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// What is to be written when only one frame waits.
    pub(crate) fn single(&self) -> Option<&[u8]> {
        match self.frames.as_slices() {
            ([frame], []) | ([], [frame]) => Some(&self.transport.bytes(frame)[self.sent_of_first..]),
            _ => None,
        }
    }

    /// Fills `slices` with what is to be written next; returns how many were filled, and their bytes.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> (usize, usize) {
        let (mut filled, mut bytes) = (0, 0);
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            let skip = if filled == 0 { self.sent_of_first } else { 0 };
            *slice = IoSlice::new(&self.transport.bytes(frame)[skip..]);
            filled += 1;
            bytes += slice.len();
        }
        (filled, bytes)
    }

    /// The socket took `written` bytes; returns how many frames that finished.
    pub(crate) fn advance(&mut self, written: usize) -> usize {
        let mut finished = 0;
        self.held = self.held.saturating_sub(written);
        self.bytes -= written;
        self.sent_of_first += written;
        while let Some(first) = self.frames.front() {
            let len = self.transport.bytes(first).len();
            if self.sent_of_first < len {
                break;
            }
            self.sent_of_first -= len;
            self.frames.pop_front();
            finished += 1;
        }
        if self.frames.is_empty() && self.frames.capacity() > KEEP_CAPACITY {
            self.frames = VecDeque::new();
        }
        finished
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Messages that wait, one of them begun perhaps.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.frames.iter().for_each(Frame::is_cut_off);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::FrameKind;

    fn frame(text: &str) -> Frame {
        Frame::control(text, FrameKind::Text)
    }

    fn drain(outbox: &mut Outbox, chunk: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let (filled, offered) = outbox.slices(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).collect();
            assert_eq!(bytes.len(), offered);
            let single = outbox.single().map(<[u8]>::to_vec);
            assert_eq!(single, (filled == 1).then(|| bytes.clone()));
            let bytes: Vec<u8> = bytes.into_iter().take(chunk).collect();
            wire.extend_from_slice(&bytes);
            outbox.advance(bytes.len());
        }
        wire
    }

    #[test]
    fn the_limit_is_in_bytes_and_an_empty_outbox_takes_any_message() {
        let mut outbox = Outbox::new(Transport::Tcp, 10);
        assert_eq!(outbox.push(&frame("a long message beyond the limit")), Ok(()));
        assert_eq!(outbox.push(&frame("b")), Err(Full));
        let mut outbox = Outbox::new(Transport::Tcp, 10);
        for _ in 0..5 {
            assert_eq!(outbox.push(&frame("b")), Ok(()));
        }
        assert_eq!((outbox.push(&frame("b")), outbox.bytes()), (Err(Full), 10));
    }

    #[test]
    fn dropping_the_oldest_never_cuts_a_frame_that_is_partly_sent() {
        let mut outbox = Outbox::new(Transport::Tcp, 9);
        for text in ["aa", "bb", "cc"] {
            assert_eq!(outbox.push(&frame(text)), Ok(()));
        }
        outbox.advance(1);
        assert_eq!(outbox.push(&frame("dd")), Err(Full));
        assert_eq!(outbox.make_room(&frame("dd")), 1);
        assert_eq!(outbox.push(&frame("dd")), Ok(()));
        assert_eq!(drain(&mut outbox, 100), b"a\ncc\ndd\n");
    }

    #[test]
    fn a_slow_clients_last_words_follow_the_frame_in_progress() {
        let mut outbox = Outbox::new(Transport::Tcp, 100);
        for text in ["aa", "bb"] {
            assert_eq!(outbox.push(&frame(text)), Ok(()));
        }
        outbox.advance(1);
        outbox.drop_unsent();
        outbox.push_beyond_limit(&frame("bye"));
        assert_eq!((outbox.bytes(), drain(&mut outbox, 2)), (6, b"a\nbye\n".to_vec()));
    }

    #[test]
    fn what_tls_has_taken_waits_and_is_never_dropped() {
        let four = || {
            let mut outbox = Outbox::new(Transport::Tcp, 12);
            for text in ["aa", "bb", "cc", "dd"] {
                assert_eq!(outbox.push(&frame(text)), Ok(()));
            }
            outbox.advance(1);
            outbox.hold(4);
            assert_eq!((outbox.held(), outbox.bytes()), (4, 11));
            outbox
        };
        let mut outbox = four();
        assert_eq!(outbox.make_room(&frame("e")), 1, "the one after the two that TLS has in part");
        outbox.advance(4);
        assert_eq!((outbox.held(), drain(&mut outbox, 100)), (0, b"\ndd\n".to_vec()));
        let mut outbox = four();
        outbox.drop_unsent();
        assert_eq!(outbox.bytes(), 5);
        outbox.advance(4);
        assert_eq!(drain(&mut outbox, 100), b"\n");
    }

    #[test]
    fn an_emptied_outbox_gives_its_memory_back() {
        let mut outbox = Outbox::new(Transport::WebSocket, 1 << 20);
        for _ in 0..500 {
            assert_eq!(outbox.push(&frame("x")), Ok(()));
        }
        drain(&mut outbox, 7);
        assert_eq!((outbox.frames.capacity(), outbox.bytes()), (0, 0));
    }

    proptest! {
        #[test]
        fn bytes_come_out_whole_and_in_order_however_the_socket_takes_them(
            texts in prop::collection::vec("[a-z]{0,40}", 1..300),
            chunk in 1usize..500,
            websocket: bool,
        ) {
            let transport = if websocket { Transport::WebSocket } else { Transport::Tcp };
            let mut outbox = Outbox::new(transport, usize::MAX);
            let frames: Vec<_> = texts.iter().map(|t| frame(t)).collect();
            frames.iter().for_each(|f| assert_eq!(outbox.push(f), Ok(())));
            let want: Vec<u8> = frames.iter().flat_map(|f| transport.bytes(f).to_vec()).collect();
            prop_assert_eq!(outbox.bytes(), want.len());
            prop_assert_eq!(drain(&mut outbox, chunk), want);
        }
    }
}
