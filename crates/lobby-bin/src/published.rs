//! When a message was published, as far as its publisher says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds of a timestamp past which it cannot be meant: the end of the year 9999.
const LATEST: u64 = notify_protocol::limits::MAX_TIMESTAMP_SECONDS;

/// The property `timestamp`, in seconds; to the millisecond, where `message_id` is a UUID of version 7 (RFC 9562, 5.7) that
/// was made within that second or next to it. Nothing without a timestamp, or with one that makes no sense.
pub fn published_at(timestamp: Option<u64>, message_id: Option<&str>) -> Option<SystemTime> {
    let seconds = timestamp.filter(|seconds| (1..=LATEST).contains(seconds))?;
    let millis = message_id.and_then(uuid_millis).filter(|millis| (millis / 1000).abs_diff(seconds) <= 1);
    UNIX_EPOCH.checked_add(millis.map_or(Duration::from_secs(seconds), Duration::from_millis))
}

/// The time in a UUID of version 7, in milliseconds since 1970.
fn uuid_millis(id: &str) -> Option<u64> {
    let bytes = id.as_bytes();
    if bytes.len() != 36 || bytes[8] != b'-' || bytes[13] != b'-' || bytes[14] != b'7' {
        return None;
    }
    let hex = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .try_fold(0, |sum, digit| Some(sum << 4 | u64::from((*digit as char).to_digit(16)?)))
    };
    Some(hex(0..8)? << 16 | hex(9..13)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_tells_the_second_and_a_uuid_of_version_7_the_millisecond() {
        // 0x018bcfe568fb is 1,700,000,000,251.
        let v7 = "018bcfe5-68fb-7000-8000-000000000000";
        for (timestamp, id, millis) in [
            (Some(1_700_000_000), None, Some(1_700_000_000_000)),
            (Some(1_700_000_000), Some(v7), Some(1_700_000_000_251)),
            (Some(1_700_000_001), Some(v7), Some(1_700_000_000_251)),
            (Some(1_700_000_002), Some(v7), Some(1_700_000_002_000)),
            (Some(1_700_000_000), Some("018bcfe5-68fb-4000-8000-000000000000"), Some(1_700_000_000_000)),
            (Some(1_700_000_000), Some("018bcfe5-68xx-7000-8000-000000000000"), Some(1_700_000_000_000)),
            (Some(1_700_000_000), Some("é18bcfe-68fb-7000-8000-000000000000"), Some(1_700_000_000_000)),
            (Some(1_700_000_000), Some(""), Some(1_700_000_000_000)),
            (None, Some(v7), None),
            (Some(0), Some(v7), None),
            (Some(u64::MAX), None, None),
            (Some(1_700_000_000_000), Some(v7), None),
        ] {
            let got = published_at(timestamp, id)
                .map(|at| at.duration_since(UNIX_EPOCH).expect("after 1970").as_millis());
            assert_eq!(got, millis, "{timestamp:?} {id:?}");
        }
    }
}
