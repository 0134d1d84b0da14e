//! The ids by which a message is found in other services' logs.

use notify_amqp::Delivery;
use notify_protocol::{HeaderValue, TRACEPARENT_HEADER};

/// The longest id that is logged, in bytes; a trace's parent has 55 (W3C Trace Context, version 00).
const MAX_ID: usize = 128;

/// What a message carries for that; none of it reaches a client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageIds {
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub traceparent: Option<String>,
}

impl MessageIds {
    /// Copies them, cut to a length and with everything escaped that could break a line.
    pub fn of(delivery: &Delivery) -> Self {
        let mut headers = delivery.headers();
        let traceparent = headers.find_map(|(name, value)| match value {
            HeaderValue::LongString(text) if name == TRACEPARENT_HEADER.as_bytes() => Some(text),
            _ => None,
        });
        Self {
            message_id: delivery.message_id().map(|id| shown(id.as_bytes())),
            correlation_id: delivery.correlation_id().map(|id| shown(id.as_bytes())),
            traceparent: traceparent.map(shown),
        }
    }
}

fn shown(id: &[u8]) -> String {
    id[..id.len().min(MAX_ID)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_cut_and_cannot_break_a_log_line() {
        assert_eq!(shown(b"00-4bf9-00f0-01"), "00-4bf9-00f0-01");
        assert_eq!(shown(b"a\nb\x1b[2J"), "a\\nb\\x1b[2J");
        assert_eq!(shown(&[b'x'; 1000]).len(), MAX_ID);
        let ids = MessageIds::of(&Delivery::detached("request.client.notify", b"{}".to_vec()));
        assert_eq!(ids, MessageIds::default());
    }
}
