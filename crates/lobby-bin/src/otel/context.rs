//! The trace that a message belongs to, as its headers say: `traceparent` and `tracestate` (W3C Trace Context).

use std::str::FromStr;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The length of a `traceparent` of version 00, in bytes.
const LENGTH: usize = 55;
/// The longest `tracestate` that is passed on, in bytes: what everybody has to pass on at least (3.3.1.5). A longer one
/// is left out, as is one that is not valid; the trace stays the same.
const MAX_STATE: usize = 512;

/// The publisher's span that `traceparent` names, if it is sampled. Nothing for what is not valid: such a message belongs
/// to no trace (4.3).
///
/// A later version than 00 may say more behind a further dash, which is passed over (3.2.4).
pub fn sampled_parent(traceparent: &[u8]) -> Option<SpanContext> {
    let head = traceparent.get(..LENGTH)?;
    let (version, rest) = (&head[..2], &traceparent[LENGTH..]);
    let dashed = [2, 35, 52].iter().all(|at| head[*at] == b'-');
    let known = version == b"00";
    if !dashed || (known && !rest.is_empty()) || !(rest.is_empty() || rest[0] == b'-') {
        return None;
    }
    if hex(version)? == 0xff {
        return None;
    }
    let trace = TraceId::from(hex(&head[3..35])?);
    let parent = SpanId::from(hex(&head[36..52])? as u64);
    // Only one flag has a meaning (3.2.2.5).
    let flags = TraceFlags::new(hex(&head[53..55])? as u8) & TraceFlags::SAMPLED;
    let context = SpanContext::new(trace, parent, flags, true, TraceState::NONE);
    (context.is_valid() && context.is_sampled()).then_some(context)
}

/// The same with the `tracestate` that came with it.
pub fn with_state(parent: &SpanContext, tracestate: &[u8]) -> SpanContext {
    let text = std::str::from_utf8(tracestate).ok().filter(|text| text.len() <= MAX_STATE);
    let state = text.and_then(|text| TraceState::from_str(text).ok()).unwrap_or_default();
    SpanContext::new(parent.trace_id(), parent.span_id(), parent.trace_flags(), true, state)
}

/// Digits in lower case and nothing else; at most 32 of them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn n26_k15_a_traceparent_is_read_strictly_and_its_sampled_flag_respected() {
        let zeros = |count: usize| "0".repeat(count);
        for (text, sampled) in [
            (format!("00-{TRACE}-{PARENT}-01"), true),
            (format!("00-{TRACE}-{PARENT}-03"), true),
            (format!("00-{TRACE}-{PARENT}-00"), false),
            (format!("00-{TRACE}-{PARENT}-02"), false),
            (format!("cc-{TRACE}-{PARENT}-01"), true),
            (format!("cc-{TRACE}-{PARENT}-01-what-comes-then"), true),
            (format!("cc-{TRACE}-{PARENT}-01what-comes-then"), false),
            (format!("00-{TRACE}-{PARENT}-01-more"), false),
            (format!("00-{TRACE}-{PARENT}-01-"), false),
            (format!("ff-{TRACE}-{PARENT}-01"), false),
            (format!("00-{}-{PARENT}-01", zeros(32)), false),
            (format!("00-{TRACE}-{}-01", zeros(16)), false),
            (format!("00-{}-{PARENT}-01", TRACE.to_uppercase()), false),
            (format!("00-{TRACE}-{PARENT}-0A"), false),
            (format!("00-{TRACE}-{PARENT}-1"), false),
            (format!("00-{TRACE}_{PARENT}-01"), false),
            (format!("0x-{TRACE}-{PARENT}-01"), false),
            (format!(" 00-{TRACE}-{PARENT}-01"), false),
            (format!("00-{TRACE}-{PARENT}-01 "), false),
            (format!("00-{TRACE}-+{}-01", &PARENT[1..]), false),
            (String::new(), false),
            ("00-1-2-3".to_owned(), false),
            ("é".repeat(40), false),
        ] {
            let parent = sampled_parent(text.as_bytes());
            assert_eq!(parent.is_some(), sampled, "{text}");
            if let Some(parent) = parent {
                let ids = (parent.trace_id().to_string(), parent.span_id().to_string());
                assert_eq!(ids, (TRACE.to_owned(), PARENT.to_owned()), "{text}");
                assert!(parent.is_remote() && parent.trace_flags() == TraceFlags::SAMPLED, "{text}");
            }
        }
    }

    #[test]
    fn a_tracestate_is_passed_on_unless_it_is_not_valid_or_too_long() {
        let parent = sampled_parent(format!("00-{TRACE}-{PARENT}-01").as_bytes()).expect("a parent");
        let members = |last: usize| {
            let lengths = [124, 124, 124, last].into_iter().enumerate();
            lengths.map(|(n, length)| format!("a{n}={}", "x".repeat(length))).collect::<Vec<_>>().join(",")
        };
        let (longest, long) = (members(125), members(126));
        assert_eq!(longest.len(), MAX_STATE);
        for (given, passed_on) in [
            (&b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"[..], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
            (longest.as_bytes(), &*longest),
            (long.as_bytes(), ""),
            (b"no-value", ""),
            (b"UPPER=1", ""),
            (b"a=\xff", ""),
            (b"", ""),
        ] {
            let context = with_state(&parent, given);
            assert_eq!(context.trace_state().header(), passed_on);
            assert_eq!((context.trace_id(), context.is_sampled()), (parent.trace_id(), true));
        }
    }
}
