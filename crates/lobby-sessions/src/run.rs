//! Frames that go to many sessions one after the other, prepared once for all of them.

use std::io::IoSlice;

use crate::{Frame, Transport, outbox::MAX_SLICES};

/// Consecutive frames as they go on the wire of one transport.
pub(crate) struct Run<'a> {
    slices: Vec<IoSlice<'a>>,
    /// Bytes of each system call's worth of frames, in the order of [`Run::parts`].
    bytes: Vec<usize>,
}

/// How much of a run a socket took.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Frames that were taken whole.
    pub(crate) whole: usize,
    /// Bytes of the frame after them.
    pub(crate) of_next: usize,
    /// Bytes in all.
    pub(crate) bytes: usize,
    /// System calls that wrote.
    pub(crate) writes: usize,
}

/// The same frames for either transport.
pub(crate) struct Runs<'a> {
    lines: Run<'a>,
    websocket: Run<'a>,
}

impl<'a> Runs<'a> {
    pub(crate) fn new(frames: &[&'a Frame]) -> Self {
        Self {
            lines: Run::new(frames.iter().map(|frame| frame.line())),
            websocket: Run::new(frames.iter().map(|frame| frame.websocket())),
        }
    }

    pub(crate) fn of(&self, transport: Transport) -> &Run<'a> {
        match transport {
            Transport::Tcp => &self.lines,
            Transport::WebSocket => &self.websocket,
        }
    }
}

impl<'a> Run<'a> {
    pub(crate) fn new(frames: impl Iterator<Item = &'a [u8]>) -> Self {
        let slices: Vec<_> = frames.map(IoSlice::new).collect();
        let bytes = slices.chunks(MAX_SLICES).map(|part| part.iter().map(|s| s.len()).sum()).collect();
        Self { slices, bytes }
    }

    /// All slices, and their bytes, if one system call takes them.
    #[cfg(feature = "io-uring")]
    pub(crate) fn single_part(&self) -> Option<(&[IoSlice<'a>], usize)> {
        match self.bytes[..] {
            [bytes] => Some((&self.slices, bytes)),
            _ => None,
        }
    }

    /// What one system call takes, and how many bytes that is.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&[IoSlice<'a>], usize)> {
        self.slices.chunks(MAX_SLICES).zip(self.bytes.iter().copied())
    }
}

impl std::ops::AddAssign for Sent {
    /// Adds what another socket took; where it stopped is not carried over.
    fn add_assign(&mut self, other: Self) {
        self.whole += other.whole;
        self.bytes += other.bytes;
        self.writes += other.writes;
    }
}

impl Sent {
    /// The socket took `bytes` of the `offered` ones of `part`; less than all means that it takes no more.
    pub(crate) fn add(&mut self, part: &[IoSlice<'_>], offered: usize, bytes: usize) {
        self.bytes += bytes;
        self.writes += usize::from(bytes > 0);
        if bytes == offered {
            self.whole += part.len();
            return;
        }
        self.of_next = bytes;
        for slice in part {
            if self.of_next < slice.len() {
                break;
            }
            self.of_next -= slice.len();
            self.whole += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_write_ends_inside_the_frame_after_the_last_whole_one() {
        let run = Run::new([&b"aa"[..], b"bbb", b"c"].into_iter());
        let (part, offered) = run.parts().next().expect("one part");
        for (bytes, whole, of_next) in [(0, 0, 0), (1, 0, 1), (2, 1, 0), (4, 1, 2), (5, 2, 0), (6, 3, 0)] {
            let mut sent = Sent::default();
            sent.add(part, offered, bytes);
            let writes = usize::from(bytes > 0);
            assert_eq!(sent, Sent { whole, of_next, bytes, writes }, "{bytes} bytes");
        }
    }

    #[test]
    fn a_long_run_is_parted_at_what_one_system_call_takes() {
        let frames = vec![&b"xyz"[..]; MAX_SLICES + 1];
        let run = Run::new(frames.into_iter());
        let parts: Vec<_> = run.parts().map(|(part, bytes)| (part.len(), bytes)).collect();
        assert_eq!(parts, [(MAX_SLICES, 3 * MAX_SLICES), (1, 3)]);
    }
}
