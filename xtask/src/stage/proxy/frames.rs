//! What a proxy knows of AMQP: where frames begin and end, and which of them are of a delivery. Pure but for the read.

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Swallow;

const METHOD: u8 = 1;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const CANCEL: [u8; 4] = [0, 60, 0, 30];

/// One frame with its head and its end.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; 7];
    from.read_exact(&mut frame).await?;
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
    frame.resize(7 + size + 1, 0);
    from.read_exact(&mut frame[7..]).await?;
    Ok(frame)
}

/// What one frame is to the proxy.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) passes: bool,
    /// It is the first of a delivery.
    pub(super) begins_delivery: bool,
    /// The number of a notification that comes with the redelivered flag.
    pub(super) marked: Option<u64>,
}

/// Follows the frames of one connection.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    in_swallowed_delivery: bool,
    in_marked_delivery: bool,
}

impl Sieve {
    pub(super) fn judge(&mut self, frame: &[u8], swallow: Swallow) -> Judged {
        let kind = frame.first().copied().unwrap_or_default();
        let payload = frame.get(7..frame.len() - 1).unwrap_or_default();
        if kind != METHOD {
            let passes = kind == HEARTBEAT || !self.in_swallowed_delivery;
            let marked = (kind == BODY && self.in_marked_delivery && passes).then(|| seq(payload)).flatten();
            return Judged { passes, begins_delivery: false, marked };
        }
        let begins_delivery = payload.starts_with(&DELIVER);
        self.in_swallowed_delivery = begins_delivery && swallow == Swallow::Deliveries;
        self.in_marked_delivery = begins_delivery && is_redelivered(payload);
        let cancelled = payload.starts_with(&CANCEL) && swallow == Swallow::Cancels;
        Judged { passes: !(self.in_swallowed_delivery || cancelled), begins_delivery, marked: None }
    }
}

/// The flag stands behind the consumer's tag and the delivery's.
fn is_redelivered(deliver: &[u8]) -> bool {
    let tag_length = deliver.get(4).copied().map_or(0, usize::from);
    deliver.get(4 + 1 + tag_length + 8).is_some_and(|bits| bits & 1 == 1)
}

/// The number of a notification whose body fits into one frame.
fn seq(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    serde_json::from_slice::<Numbered>(body).ok().map(|numbered| numbered.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1], &size[..], payload, &[0xce]].concat()
    }

    fn deliver(redelivered: bool) -> Vec<u8> {
        let tag = 7_u64.to_be_bytes();
        frame(
            METHOD,
            &[&DELIVER[..], b"\x04ctag", &tag[..], &[u8::from(redelivered)], b"\x01x\x01y"].concat(),
        )
    }

    #[test]
    fn deliveries_are_swallowed_whole_and_heartbeats_between_their_frames_are_not() {
        let frames = [
            deliver(false),
            frame(2, &[0, 60]),
            frame(HEARTBEAT, &[]),
            frame(BODY, b"x"),
            frame(METHOD, &[0, 60, 0, 80]),
            frame(METHOD, &[&CANCEL[..], &[1]].concat()),
        ];
        for (swallow, expected) in [
            (Swallow::Nothing, [true; 6]),
            (Swallow::Deliveries, [false, false, true, false, true, true]),
            (Swallow::Cancels, [true, true, true, true, true, false]),
        ] {
            let mut sieve = Sieve::default();
            assert_eq!(frames.each_ref().map(|frame| sieve.judge(frame, swallow).passes), expected);
        }
    }

    #[test]
    fn numbers_that_come_again_are_known_by_their_flag() {
        let mut sieve = Sieve::default();
        let body = frame(BODY, br#"{"command":"numbered","seq":41}"#);
        for (redelivered, marked) in [(false, None), (true, Some(41)), (false, None)] {
            assert!(sieve.judge(&deliver(redelivered), Swallow::Nothing).begins_delivery);
            assert_eq!(sieve.judge(&frame(2, &[0, 60]), Swallow::Nothing).marked, None);
            assert_eq!(sieve.judge(&body, Swallow::Nothing).marked, marked);
        }
        sieve.judge(&deliver(true), Swallow::Nothing);
        assert_eq!(sieve.judge(&frame(BODY, b"no number"), Swallow::Nothing).marked, None);
    }

    #[tokio::test]
    async fn frames_are_read_whole() {
        let all = [deliver(true), frame(HEARTBEAT, &[])];
        let bytes = all.concat();
        let mut from = bytes.as_slice();
        for expected in &all {
            assert_eq!(read(&mut from).await.unwrap(), *expected);
        }
        assert!(read(&mut from).await.is_err());
    }
}
