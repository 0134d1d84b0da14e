//! One outgoing message, encoded once and shared by every session it goes to.
//!
//! A WebSocket frame from a server is not masked (RFC 6455, 5.1), so its header and the newline-framed line
//! stand in one buffer: WebSocket sessions send all of it, TCP sessions send it from an offset.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use notify_protocol::Body;

use crate::{Histogram, Reach, ReachLog};

/// The longest header of an unmasked frame: two bytes and a 64-bit length.
const MAX_HEADER: usize = 10;
const FIN: u8 = 0x80;

/// How a WebSocket session receives messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FrameKind {
    /// A text frame: what every browser and current client expects.
    #[default]
    Text,
    /// A binary frame, for the old Python client.
    Binary,
}

impl FrameKind {
    const fn opcode(self) -> u8 {
        match self {
            Self::Text => 0x1,
            Self::Binary => 0x2,
        }
    }
}

/// An encoded message. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Frame(Arc<Encoded>);

#[derive(Debug)]
struct Encoded {
    bytes: Box<[u8]>,
    /// Where the line begins: the length of the WebSocket header.
    line_at: usize,
    metered: Option<Metered>,
    report: Option<Report>,
}

/// Is told whom a message reached, and how long that took.
struct Report(Box<dyn FnOnce(Reach, Duration) + Send + Sync>);

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}

/// What all notifications together hold and take.
#[derive(Debug, Default)]
pub struct FrameMeter {
    live_bytes: AtomicU64,
    delivery_time: Histogram,
    publish_time: Histogram,
    reach: ReachLog,
}

impl FrameMeter {
    /// A meter that remembers the reach of the last `reach_entries` messages; see [`ReachLog::new`].
    pub fn new(reach_entries: usize) -> Self {
        Self { reach: ReachLog::new(reach_entries), ..Self::default() }
    }

    /// Bytes of all notifications that some session or queue still holds, each counted once however many share it.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Relaxed)
    }

    /// From the broker's delivery to the moment when the last session has let go of the notification.
    pub fn delivery_time(&self) -> &Histogram {
        &self.delivery_time
    }

    /// From the moment that the publisher names ([`Frame::published`]) to that same moment; a clock that is ahead of ours
    /// counts as no time at all.
    pub fn publish_time(&self) -> &Histogram {
        &self.publish_time
    }

    /// Whom the latest messages with a serial number reached.
    pub fn reach(&self) -> &ReachLog {
        &self.reach
    }
}

#[derive(Debug)]
struct Metered {
    meter: Arc<FrameMeter>,
    received_at: Instant,
    published_at: Option<SystemTime>,
    serial: Option<u64>,
    /// Zero at the end: there was no last write to measure.
    sessions: AtomicU32,
    overflowed: AtomicU32,
    cut_off: AtomicU32,
}

impl Metered {
    fn reach(&self) -> Reach {
        Reach {
            sessions: self.sessions.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
            cut_off: self.cut_off.load(Relaxed),
        }
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        if let Some(metered) = &self.metered {
            metered.meter.live_bytes.fetch_sub(self.bytes.len() as u64, Relaxed);
            let reach = metered.reach();
            if reach.sessions > 0 {
                metered.meter.delivery_time.record(metered.received_at.elapsed());
                if let Some(published_at) = metered.published_at {
                    metered.meter.publish_time.record(published_at.elapsed().unwrap_or_default());
                }
            }
            if let Some(serial) = metered.serial {
                metered.meter.reach.note(serial, reach);
            }
            if let Some(Report(report)) = self.report.take() {
                report(reach, metered.received_at.elapsed());
            }
        }
    }
}

impl Frame {
    /// Encodes a notification that came from the broker at `received_at`: one allocation, one copy, for all sessions
    /// together. Its bytes, and the time until the last session lets go of it, show in `meter`; so does whom it
    /// reached, if it has a `serial` number.
    pub fn notification(
        body: &Body<'_>,
        kind: FrameKind,
        received_at: Instant,
        meter: &Arc<FrameMeter>,
        serial: Option<u64>,
    ) -> Self {
        let (sessions, overflowed, cut_off) = Default::default();
        let meter = Arc::clone(meter);
        let metered =
            Metered { meter, received_at, published_at: None, serial, sessions, overflowed, cut_off };
        Self::encode(body.len(), kind, Some(metered), |line| body.append_line_to(line))
    }

    /// Has `report` told whom a notification reached, and the time since it was received, once the last session has let
    /// go of it: right after the batch in which it was written, or when it is lost.
    ///
    /// `report` is called on the thread that lets go, a shard's as a rule, and must return at once. Only a frame that
    /// has not been cloned can report; others stay as they are.
    #[must_use]
    pub fn reporting(mut self, report: impl FnOnce(Reach, Duration) + Send + Sync + 'static) -> Self {
        if let Some(encoded) = Arc::get_mut(&mut self.0) {
            encoded.report = Some(Report(Box::new(report)));
        }
        self
    }

    /// Notes when the notification was published, for [`FrameMeter::publish_time`]. Only a frame that has not been cloned
    /// takes note; others stay as they are.
    #[must_use]
    pub fn published(mut self, at: Option<SystemTime>) -> Self {
        if let Some(Encoded { metered: Some(metered), .. }) = Arc::get_mut(&mut self.0) {
            metered.published_at = at;
        }
        self
    }

    /// Encodes a message of the lobby's own; `json` must not hold a newline.
    pub fn control(json: &str, kind: FrameKind) -> Self {
        debug_assert!(!json.contains(['\n', '\r']), "a raw line break would end the line early");
        Self::encode(json.len(), kind, None, |line| line.extend_from_slice(json.as_bytes()))
    }

    /// Bytes for WebSocket sessions only (pong and close frames); TCP sessions send nothing for it.
    pub(crate) fn websocket_only(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Encoded { line_at: bytes.len(), bytes: bytes.into(), metered: None, report: None }))
    }

    fn encode(
        json_len: usize,
        kind: FrameKind,
        metered: Option<Metered>,
        write_json: impl FnOnce(&mut Vec<u8>),
    ) -> Self {
        let payload_len = json_len + 1;
        let mut bytes = Vec::with_capacity(MAX_HEADER + payload_len);
        push_header(&mut bytes, kind.opcode(), payload_len);
        let line_at = bytes.len();
        write_json(&mut bytes);
        bytes.push(b'\n');
        debug_assert_eq!(bytes.len() - line_at, payload_len);
        if let Some(metered) = &metered {
            metered.meter.live_bytes.fetch_add(bytes.len() as u64, Relaxed);
        }
        Self(Arc::new(Encoded { bytes: bytes.into(), line_at, metered, report: None }))
    }

    /// What a TCP session sends: the object and `\n`.
    pub fn line(&self) -> &[u8] {
        &self.0.bytes[self.0.line_at..]
    }

    /// What a WebSocket session sends: one unmasked frame around the same line.
    pub fn websocket(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Notes that it is for so many more sessions.
    pub(crate) fn is_for(&self, sessions: usize) {
        if let Some(metered) = &self.0.metered {
            metered.sessions.fetch_add(u32::try_from(sessions).unwrap_or(u32::MAX), Relaxed);
        }
    }

    /// Notes that a session which it was for has no room for it, or no longer.
    pub(crate) fn overflows(&self) {
        if let Some(metered) = &self.0.metered {
            metered.overflowed.fetch_add(1, Relaxed);
        }
    }

    /// Notes that a session which it was for ends before the kernel has taken all of it.
    pub(crate) fn is_cut_off(&self) {
        if let Some(metered) = &self.0.metered {
            metered.cut_off.fetch_add(1, Relaxed);
        }
    }
}

/// Appends the header of one unfragmented, unmasked frame (RFC 6455, 5.2).
pub(crate) fn push_header(out: &mut Vec<u8>, opcode: u8, payload_len: usize) {
    out.push(FIN | opcode);
    if let Ok(short @ 0..=125) = u8::try_from(payload_len) {
        out.push(short);
    } else if let Ok(medium) = u16::try_from(payload_len) {
        out.push(126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(payload_len as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use notify_protocol::Limits;

    use super::*;

    fn encode(json: &str, kind: FrameKind) -> Frame {
        let limits = Limits::default();
        let body = Body::check(json.as_bytes(), &limits).expect("an object");
        Frame::notification(&body, kind, Instant::now(), &Arc::default(), None)
    }

    #[test]
    fn line_and_websocket_frame_share_one_buffer() {
        let frame = encode(r#"{"a":1}"#, FrameKind::Text);
        assert_eq!(frame.line(), b"{\"a\":1}\n");
        assert_eq!(frame.websocket(), b"\x81\x08{\"a\":1}\n");
        assert!(frame.websocket().ends_with(frame.line()));
    }

    #[test]
    fn binary_kind_changes_the_opcode_and_nothing_else() {
        let (text, binary) = (encode("{}", FrameKind::Text), encode("{}", FrameKind::Binary));
        assert_eq!(binary.websocket()[0], 0x82);
        assert_eq!(binary.websocket()[1..], text.websocket()[1..]);
    }

    #[test]
    fn header_grows_with_the_payload_at_the_limits_of_rfc_6455() {
        for (payload, header) in [(3, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let json = format!("{{{}}}", " ".repeat(payload - 3));
            let frame = Frame::control(&json, FrameKind::Text);
            assert_eq!(frame.websocket().len(), header + payload, "payload {payload}");
            assert_eq!(frame.line().len(), payload);
        }
    }

    #[test]
    fn line_breaks_between_tokens_become_blanks() {
        assert_eq!(encode("{\r\n \"a\":\n1}", FrameKind::Text).line(), b"{   \"a\": 1}\n");
    }

    #[test]
    fn bytes_are_counted_once_and_the_clock_stops_when_the_last_clone_is_gone() {
        let meter = Arc::new(FrameMeter::default());
        let limits = Limits::default();
        let body = Body::check(b"{}", &limits).expect("an object");
        let frame = Frame::notification(&body, FrameKind::Text, Instant::now(), &meter, None);
        let second = frame.clone();
        frame.is_for(1);
        assert_eq!(meter.live_bytes(), 5);
        drop(frame);
        assert_eq!((meter.live_bytes(), meter.delivery_time().snapshot().count), (5, 0));
        drop(second);
        assert_eq!((meter.live_bytes(), meter.delivery_time().snapshot().count), (0, 1));
        drop(Frame::notification(&body, FrameKind::Text, Instant::now(), &meter, None));
        assert_eq!((meter.live_bytes(), meter.delivery_time().snapshot().count), (0, 1));
    }

    #[test]
    fn the_time_since_publishing_is_measured_where_it_is_known_and_somebody_was_there() {
        let meter = Arc::new(FrameMeter::default());
        let limits = Limits::default();
        let body = Body::check(b"{}", &limits).expect("an object");
        let frame = || Frame::notification(&body, FrameKind::Text, Instant::now(), &meter, None);
        let ago = |seconds| SystemTime::now().checked_sub(Duration::from_secs(seconds));
        let ahead = SystemTime::now() + Duration::from_secs(3600);
        for (at, sessions, count, seconds) in
            [(None, 1, 0, 0.0), (ago(3), 0, 0, 0.0), (ago(3), 2, 1, 3.0), (Some(ahead), 1, 2, 3.0)]
        {
            let frame = frame().published(at);
            frame.is_for(sessions);
            drop(frame);
            let snapshot = meter.publish_time().snapshot();
            assert_eq!(snapshot.count, count, "{at:?}");
            assert!((seconds..seconds + 1.0).contains(&snapshot.sum_seconds), "{snapshot:?}");
        }
        assert_eq!(meter.delivery_time().snapshot().count, 3);
    }

    #[test]
    fn reach_is_noted_when_the_last_clone_is_gone_and_only_with_a_serial_number() {
        let meter = Arc::new(FrameMeter::new(8));
        let limits = Limits::default();
        let body = Body::check(b"{}", &limits).expect("an object");
        let frame = |serial| Frame::notification(&body, FrameKind::Text, Instant::now(), &meter, serial);
        let first = frame(Some(7));
        first.is_for(3);
        first.overflows();
        first.is_cut_off();
        let second = first.clone();
        drop(first);
        assert_eq!(meter.reach().get(7), None);
        drop(second);
        assert_eq!(meter.reach().get(7), Some(Reach { sessions: 3, overflowed: 1, cut_off: 1 }));
        drop(frame(None));
        assert_eq!((0..7).find_map(|serial| meter.reach().get(serial)), None);
    }
}
