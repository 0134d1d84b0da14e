//! Takes the deliveries out of the broker's bytes, and passes all else on to lapin.
//!
//! Pure (sans-io). lapin could hand over deliveries too, but each would cross two more threads and be
//! allocated and queued several times. So lapin keeps what is rare and intricate (login, declarations,
//! acks, heartbeats, closing) and never sees a `basic.deliver`. Expects whole method and content-header
//! frames, as [`FrameFilter`](crate::frame_filter::FrameFilter) gives them; body frames in any pieces.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use lapin::protocol::basic::parse_properties;

use crate::delivery::Delivery;

/// Bytes before a frame's payload: type, channel, size.
const FRAME_HEADER: usize = 7;
const FRAME_END: u8 = 0xce;
const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const HEARTBEAT_FRAME: [u8; 8] = [HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];
/// While deliveries flow, lapin is told this often that the broker lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Memory set aside for a body before its first byte came, at most.
const FIRST_CAPACITY: u64 = 128 * 1024;

/// One connection's deliveries, of one channel at a time.
#[derive(Debug)]
pub(crate) struct DeliveryTap {
    place: Place,
    taking: Option<Taking>,
    deliveries: VecDeque<Delivery>,
    passed: Vec<u8>,
    /// How much of `passed` was read.
    read: usize,
    last_passed: Instant,
    /// The channel is dead or given up: what it still delivers comes again on another one.
    closed: bool,
    /// The channel that delivers; `None` before the first delivery.
    channel: Option<u16>,
    exchange: Arc<str>,
    routing_key: Arc<str>,
}

/// Where in the stream of bytes the tap is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// A frame begins here.
    Frame,
    /// So many bytes of the present frame still pass.
    Passing(u64),
    /// So many bytes of a body frame's payload are still taken, and then its end octet.
    Body(usize),
    /// No AMQP frames at all: everything passes.
    Opaque,
}

/// A delivery of which not everything has come.
#[derive(Debug)]
struct Taking {
    channel: u16,
    delivery: Delivery,
    /// Bytes of the body still to come; `None` before the content header.
    left: Option<u64>,
}

/// The frames of a delivery did not come as AMQP has them: the stream cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unexpected {0} inside of a delivery")]
pub(crate) struct BrokenDelivery(&'static str);

impl DeliveryTap {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            place: Place::Frame,
            taking: None,
            deliveries: VecDeque::new(),
            passed: Vec::new(),
            read: 0,
            last_passed: now,
            closed: false,
            channel: None,
            exchange: Arc::default(),
            routing_key: Arc::default(),
        }
    }

    /// Takes in what came `now`; returns how many bytes it took. The rest is to be offered again, with more.
    ///
    /// # Errors
    /// [`BrokenDelivery`]: close the connection.
    pub(crate) fn feed(&mut self, bytes: &[u8], now: Instant) -> Result<usize, BrokenDelivery> {
        let passed_before = self.passed.len();
        let mut at = 0;
        while at < bytes.len() {
            match self.step(&bytes[at..], now)? {
                0 => break,
                n => at += n,
            }
        }
        if self.passed.len() > passed_before {
            self.last_passed = now;
        } else if now.saturating_duration_since(self.last_passed) >= SIGN_OF_LIFE
            && !matches!(self.place, Place::Passing(_) | Place::Opaque)
        {
            // Under a flood of deliveries the broker sends no heartbeats, and lapin would miss them.
            self.passed.extend(HEARTBEAT_FRAME);
            self.last_passed = now;
        }
        Ok(at)
    }

    /// Moves the complete deliveries, in the order they came, to the end of `into`.
    pub(crate) fn take_deliveries(&mut self, into: &mut VecDeque<Delivery>) {
        if into.is_empty() {
            std::mem::swap(&mut self.deliveries, into);
        } else {
            into.append(&mut self.deliveries);
        }
    }

    pub(crate) fn has_deliveries(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Bytes that wait for lapin.
    pub(crate) fn passed(&self) -> &[u8] {
        &self.passed[self.read..]
    }

    /// Notes that lapin took the first `n` passed bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.read += n;
        if self.read >= self.passed.len() {
            self.passed.clear();
            self.read = 0;
        }
    }

    /// From now on deliveries are dropped; so are those that wait.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.deliveries.clear();
    }

    /// Whether the channel is dead or given up.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes one piece of `bytes`, which are not empty; 0 if a frame's beginning is not there yet.
    fn step(&mut self, bytes: &[u8], now: Instant) -> Result<usize, BrokenDelivery> {
        match self.place {
            Place::Opaque => Ok(self.pass(bytes)),
            Place::Passing(left) => {
                let n = left.min(bytes.len() as u64);
                self.place = if n == left { Place::Frame } else { Place::Passing(left - n) };
                Ok(self.pass(&bytes[..n as usize]))
            }
            Place::Body(0) if bytes[0] != FRAME_END => Err(BrokenDelivery("end of a body frame")),
            Place::Body(0) => {
                self.place = Place::Frame;
                self.complete_if_whole();
                Ok(1)
            }
            Place::Body(left) => {
                let n = left.min(bytes.len());
                if let Some(taking) = &mut self.taking {
                    taking.delivery.extend_body(&bytes[..n]);
                }
                self.place = Place::Body(left - n);
                Ok(n)
            }
            Place::Frame => self.begin_frame(bytes, now),
        }
    }

    fn begin_frame(&mut self, bytes: &[u8], now: Instant) -> Result<usize, BrokenDelivery> {
        let &[kind, high, low, a, b, c, d, ref rest @ ..] = bytes else {
            return Ok(if frame_kind(bytes[0]) { 0 } else { self.pass_all(bytes) });
        };
        let channel = u16::from_be_bytes([high, low]);
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        if matches!(kind, METHOD | CONTENT_HEADER) && rest.len() <= size {
            return Ok(0);
        }
        if kind == METHOD && self.method_is_taken(&rest[..size], channel, now)? {
            return whole_frame(size, rest);
        }
        match (kind, self.taking.as_mut().filter(|taking| taking.channel == channel)) {
            (METHOD, Some(_)) => return Err(BrokenDelivery("method")),
            (CONTENT_HEADER, Some(taking)) => {
                if taking.left.is_some() {
                    return Err(BrokenDelivery("content header"));
                }
                taking.left = Some(read_header(&rest[..size], &mut taking.delivery)?);
                self.complete_if_whole();
                return whole_frame(size, rest);
            }
            (BODY, Some(taking)) => {
                let left = taking.left.and_then(|left| left.checked_sub(size as u64));
                taking.left = Some(left.ok_or(BrokenDelivery("body frame"))?);
                self.place = Place::Body(size);
                return Ok(FRAME_HEADER);
            }
            (METHOD | CONTENT_HEADER | BODY | HEARTBEAT, _) => {}
            _ => return Ok(self.pass_all(bytes)),
        }
        self.place = Place::Passing(FRAME_HEADER as u64 + size as u64 + 1);
        self.step(bytes, now)
    }

    /// Whether the method begins a delivery; if it ends the channel, all that waits is dropped.
    fn method_is_taken(
        &mut self,
        payload: &[u8],
        channel: u16,
        now: Instant,
    ) -> Result<bool, BrokenDelivery> {
        match payload {
            [0, 60, 0, 60, arguments @ ..] => {
                if self.taking.is_some() {
                    return Err(BrokenDelivery("basic.deliver"));
                }
                let delivery = self.read_deliver(arguments, now).ok_or(BrokenDelivery("basic.deliver"))?;
                self.channel = Some(channel);
                self.taking = Some(Taking { channel, delivery, left: None });
                Ok(true)
            }
            // channel.close: others of the connection may end without an end of the deliveries
            [0, 20, 0, 40, ..] if self.channel != Some(channel) => Ok(false),
            // channel.close, connection.close
            [0, 20, 0, 40, ..] | [0, 10, 0, 50, ..] => {
                self.taking = None;
                self.close();
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Consumer tag, delivery tag, redelivered, exchange, routing key.
    fn read_deliver(&mut self, arguments: &[u8], now: Instant) -> Option<Delivery> {
        let (_consumer, rest) = short_string(arguments)?;
        let (tag, rest) = rest.split_first_chunk::<8>()?;
        let (bits, rest) = rest.split_first()?;
        let (exchange, rest) = short_string(rest)?;
        let (routing_key, _) = short_string(rest)?;
        let exchange = same_or_new(&mut self.exchange, exchange)?;
        let routing_key = same_or_new(&mut self.routing_key, routing_key)?;
        Some(Delivery::begin(u64::from_be_bytes(*tag), exchange, routing_key, bits & 1 != 0, now))
    }

    fn complete_if_whole(&mut self) {
        let whole = self.taking.take_if(|taking| taking.left == Some(0));
        if let Some(taking) = whole
            && !self.closed
        {
            self.deliveries.push_back(taking.delivery);
        }
    }

    fn pass(&mut self, bytes: &[u8]) -> usize {
        self.passed.extend_from_slice(bytes);
        bytes.len()
    }

    fn pass_all(&mut self, bytes: &[u8]) -> usize {
        self.place = Place::Opaque;
        self.pass(bytes)
    }
}

fn frame_kind(kind: u8) -> bool {
    matches!(kind, METHOD | CONTENT_HEADER | BODY | HEARTBEAT)
}

/// The length of a frame that is there as a whole.
fn whole_frame(size: usize, rest: &[u8]) -> Result<usize, BrokenDelivery> {
    if rest[size] != FRAME_END {
        return Err(BrokenDelivery("end of a frame"));
    }
    Ok(FRAME_HEADER + size + 1)
}

/// Class, weight, body size, properties; returns the body's size in bytes.
fn read_header(payload: &[u8], delivery: &mut Delivery) -> Result<u64, BrokenDelivery> {
    let unreadable = BrokenDelivery("content header");
    let (&[0, 60, _, _], rest) = payload.split_first_chunk::<4>().ok_or(unreadable)? else {
        return Err(unreadable);
    };
    let (size, properties) = rest.split_first_chunk::<8>().ok_or(unreadable)?;
    let size = u64::from_be_bytes(*size);
    let (_, properties) = parse_properties(properties).map_err(|_| unreadable)?;
    delivery.set_properties(properties, size.min(FIRST_CAPACITY) as usize);
    Ok(size)
}

fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Most deliveries have the exchange and the key of the one before.
fn same_or_new(last: &mut Arc<str>, bytes: &[u8]) -> Option<Arc<str>> {
    if last.as_bytes() != bytes {
        *last = std::str::from_utf8(bytes).ok()?.into();
    }
    Some(last.clone())
}

#[cfg(test)]
mod tests;
