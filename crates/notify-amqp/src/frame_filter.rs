//! Passes the broker's bytes to lapin, repairing the frames that lapin's parser could not survive.
//!
//! Pure (sans-io): bytes are written into [`FrameFilter::space`] and read from [`FrameFilter::ready`].
//! Body frames and heartbeats pass as they come, in whatever pieces; method and content-header frames are
//! held until they are complete, at most one of them, so memory is bounded by the frame size agreed with
//! the broker. What it does not understand passes untouched: the parser behind it reports that.

use crate::{
    broker_version,
    repair::{self, Verdict},
};

/// Bytes before a frame's payload: type, channel, size.
const FRAME_HEADER: usize = 7;
/// The octet after the payload.
const FRAME_END: u8 = 0xce;
/// Free space offered to each read, at least.
const READ_SIZE: usize = 32 * 1024;

/// The state of one connection's inbound bytes.
#[derive(Debug)]
pub(crate) struct FrameFilter {
    /// `[start, checked)` may be read, `[checked, end)` is an incomplete frame, the rest is free.
    buffer: Vec<u8>,
    start: usize,
    checked: usize,
    end: usize,
    /// Bytes of the present frame that still pass untouched.
    passing: u64,
    /// No AMQP frames at all: everything passes.
    opaque: bool,
    max_payload: usize,
    marker: &'static str,
    counts: FilterCounts,
    broker_major: Option<u16>,
}

/// What the filter changed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FilterCounts {
    /// Frames in which bytes were replaced.
    pub(crate) repaired: u64,
    /// Content headers replaced by the marker.
    pub(crate) undecodable: u64,
}

/// A frame is larger than agreed: the stream cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame of {size} bytes, limit {max}")]
pub(crate) struct FrameTooLarge {
    pub(crate) size: u64,
    pub(crate) max: usize,
}

impl FrameFilter {
    /// A connection on which frames of at most `frame_max` bytes were agreed. Unreadable content headers
    /// are replaced by one with the only header `marker`.
    pub(crate) fn new(frame_max: u32, marker: &'static str) -> Self {
        let max_payload = frame_max as usize;
        Self {
            buffer: vec![0; FRAME_HEADER + max_payload + 1 + READ_SIZE],
            start: 0,
            checked: 0,
            end: 0,
            passing: 0,
            opaque: false,
            max_payload,
            marker,
            counts: FilterCounts::default(),
            broker_major: None,
        }
    }

    /// Where the next bytes from the broker are written; never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.checked, self.end) = (0, 0, 0);
        } else if self.buffer.len() - self.end < READ_SIZE && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.checked -= self.start;
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            // Only a reader that takes nothing gets here: a held frame leaves room by construction.
            self.buffer.resize(self.buffer.len() + READ_SIZE, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Notes that `n` bytes were written into the space.
    ///
    /// # Errors
    /// [`FrameTooLarge`]: close the connection.
    pub(crate) fn written(&mut self, n: usize) -> Result<(), FrameTooLarge> {
        self.end += n;
        debug_assert!(self.end <= self.buffer.len());
        while self.checked < self.end {
            if self.opaque {
                self.checked = self.end;
            } else if self.passing > 0 {
                let n = self.passing.min((self.end - self.checked) as u64);
                self.passing -= n;
                self.checked += n as usize;
            } else if !self.check_frame()? {
                break;
            }
        }
        Ok(())
    }

    /// The bytes that lapin may read.
    pub(crate) fn ready(&self) -> &[u8] {
        &self.buffer[self.start..self.checked]
    }

    /// Notes that the first `n` ready bytes were read.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.checked);
    }

    /// What was changed so far.
    pub(crate) fn counts(&self) -> FilterCounts {
        self.counts
    }

    /// The first number of the broker's version, once it has said it.
    pub(crate) fn broker_major(&self) -> Option<u16> {
        self.broker_major
    }

    /// Looks at the frame that starts at `checked`; returns whether there was enough of it.
    fn check_frame(&mut self) -> Result<bool, FrameTooLarge> {
        let frame = &mut self.buffer[self.checked..self.end];
        let &mut [kind, _, _, a, b, c, d, ref mut rest @ ..] = frame else {
            // The only other thing a broker says is its protocol header, and then it closes.
            self.opaque = frame.first().is_some_and(|kind| !matches!(kind, 1 | 2 | 3 | 8));
            return Ok(self.opaque);
        };
        let size = u32::from_be_bytes([a, b, c, d]);
        let payload_len = size as usize;
        match kind {
            1 | 2 => {}
            3 | 8 => {
                self.passing = FRAME_HEADER as u64 + u64::from(size) + 1;
                return Ok(true);
            }
            _ => {
                self.opaque = true;
                return Ok(true);
            }
        }
        if payload_len > self.max_payload {
            return Err(FrameTooLarge { size: size.into(), max: self.max_payload });
        }
        if rest.len() <= payload_len {
            return Ok(false);
        }
        let frame_len = FRAME_HEADER + payload_len + 1;
        if rest[payload_len] == FRAME_END {
            let payload = &mut rest[..payload_len];
            if kind == 1 && self.broker_major.is_none() {
                self.broker_major = broker_version::major(payload);
            }
            let verdict = if kind == 2 { repair::content_header(payload) } else { repair::method(payload) };
            match verdict {
                Verdict::Clean => {}
                Verdict::Repaired => self.counts.repaired += 1,
                Verdict::Unreadable if kind == 1 => {}
                Verdict::Unreadable => return Ok(self.replace(frame_len)),
            }
        }
        self.checked += frame_len;
        Ok(true)
    }

    /// Puts the marker header in the place of the content-header frame at `checked`.
    fn replace(&mut self, frame_len: usize) -> bool {
        let frame = self.checked..self.checked + frame_len;
        let payload = &self.buffer[frame.start + FRAME_HEADER..frame.end - 1];
        let Some(substitute) = repair::substitute(payload, self.marker) else {
            self.checked = frame.end;
            return true;
        };
        let mut new = self.buffer[frame.start..frame.start + 3].to_vec();
        new.extend((substitute.len() as u32).to_be_bytes());
        new.extend(substitute);
        new.push(FRAME_END);
        self.counts.undecodable += 1;
        self.end = self.end - frame_len + new.len();
        self.checked += new.len();
        self.buffer.splice(frame, new);
        true
    }
}

#[cfg(test)]
mod tests;
