//! Delivery receipts: how a publisher asks for them, and what a lobby answers.
//!
//! Pure, like the rest: the lobby gives what it counted, the publisher gets what was counted.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{HeaderValue, excerpt::Excerpt};

/// The header that asks each lobby for a [`Receipt`]; it needs the properties `reply-to` and `correlation-id`.
///
/// ```
/// assert_eq!(notify_protocol::RECEIPT_HEADER, "x-lobby-receipt");
/// ```
pub const RECEIPT_HEADER: &str = "x-lobby-receipt";

/// What the name of a reply queue begins with. Receipts go to no other queue: whoever may publish notifications may
/// not have the lobby write to a queue of somebody else's, or to a lobby's own.
///
/// The first two are the broker's: queues whose names it made up, and direct reply-to.
///
/// ```
/// assert!(notify_protocol::RECEIPT_QUEUES.iter().any(|prefix| "lobby-receipts.my-service".starts_with(prefix)));
/// ```
pub const RECEIPT_QUEUES: [&str; 3] = ["amq.gen-", "amq.rabbitmq.reply-to.", "lobby-receipts."];

/// Which lobbies answer.
///
/// ```
/// use notify_protocol::ReceiptScope;
/// assert_eq!(ReceiptScope::All.as_str(), "all");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReceiptScope {
    /// Lobbies where somebody was addressed, and lobbies that dropped the message: `written-only`.
    #[default]
    WrittenOnly,
    /// Lobbies where nobody was connected as well: `all`.
    All,
}

impl ReceiptScope {
    /// The header's value.
    ///
    /// ```
    /// use notify_protocol::ReceiptScope;
    /// assert_eq!(ReceiptScope::default().as_str(), "written-only");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WrittenOnly => "written-only",
            Self::All => "all",
        }
    }
}

/// What a message asks a lobby for.
///
/// ```
/// use notify_protocol::{HeaderValue, ReceiptRequest, ReceiptScope};
/// let headers = [(&b"x-lobby-receipt"[..], HeaderValue::LongString(b"all"))];
/// let request = ReceiptRequest::read(headers, Some("amq.gen-7"), Some("order-12"))?.expect("it asks");
/// assert_eq!((request.reply_to, request.correlation_id), ("amq.gen-7", "order-12"));
/// assert_eq!(request.scope, ReceiptScope::All);
/// # Ok::<(), notify_protocol::ReceiptRefusal>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptRequest<'a> {
    /// The queue that the receipt goes to, through the default exchange.
    pub reply_to: &'a str,
    /// Comes back with the receipt.
    pub correlation_id: &'a str,
    /// Whether lobbies without an addressee answer.
    pub scope: ReceiptScope,
}

impl<'a> ReceiptRequest<'a> {
    /// Reads the request from a delivery; `None` if there is none. A void header counts as not set, `all` means
    /// [`ReceiptScope::All`], and every other value [`ReceiptScope::WrittenOnly`].
    ///
    /// # Errors
    /// The message asks and cannot be answered. It is delivered all the same; the lobby counts the refusal.
    ///
    /// ```
    /// use notify_protocol::{HeaderValue, ReceiptRefusal, ReceiptRequest};
    /// let headers = || [(&b"x-lobby-receipt"[..], HeaderValue::Bool(true))];
    /// let foreign = ReceiptRequest::read(headers(), Some("payments"), Some("1"));
    /// assert_eq!(foreign, Err(ReceiptRefusal::ForeignQueue { reply_to: "\"payments\"".to_owned() }));
    /// assert_eq!(ReceiptRequest::read([], Some("payments"), Some("1")), Ok(None));
    /// ```
    pub fn read<'h>(
        headers: impl IntoIterator<Item = (&'h [u8], HeaderValue<'h>)>,
        reply_to: Option<&'a str>,
        correlation_id: Option<&'a str>,
    ) -> Result<Option<Self>, ReceiptRefusal> {
        let values = headers.into_iter().filter(|(name, _)| *name == RECEIPT_HEADER.as_bytes());
        let scope = match values.last() {
            Some((_, HeaderValue::LongString(b"all"))) => ReceiptScope::All,
            Some((_, value)) if value.is_set() => ReceiptScope::WrittenOnly,
            Some(_) | None => return Ok(None),
        };
        let present = |text: Option<&'a str>| text.filter(|text| !text.is_empty());
        let reply_to = present(reply_to).ok_or(ReceiptRefusal::NoReplyTo)?;
        let correlation_id = present(correlation_id).ok_or(ReceiptRefusal::NoCorrelationId)?;
        if !RECEIPT_QUEUES.iter().any(|prefix| reply_to.starts_with(prefix)) {
            return Err(ReceiptRefusal::ForeignQueue { reply_to: Excerpt(reply_to.as_bytes()).to_string() });
        }
        Ok(Some(Self { reply_to, correlation_id, scope }))
    }
}

/// Why a message that asks for a receipt gets none.
///
/// ```
/// let text = notify_protocol::ReceiptRefusal::NoReplyTo.to_string();
/// assert_eq!(text, "header `x-lobby-receipt` without the property `reply-to`");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptRefusal {
    /// Nobody knows where it should go.
    #[error("header `x-lobby-receipt` without the property `reply-to`")]
    NoReplyTo,
    /// Nobody would know what it belongs to.
    #[error("header `x-lobby-receipt` without the property `correlation-id`")]
    NoCorrelationId,
    /// The queue is none of [`RECEIPT_QUEUES`].
    #[error(
        "reply-to {reply_to} is no queue for receipts: name it \"lobby-receipts.…\", or let the broker name it"
    )]
    ForeignQueue {
        /// An excerpt of the name.
        reply_to: String,
    },
}

/// What became of a message on one lobby.
///
/// ```
/// use notify_protocol::ReceiptOutcome;
/// assert_eq!(ReceiptOutcome::NotConnected.to_string(), "not_connected");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReceiptOutcome {
    /// The kernel took the whole message for at least one session. Whether the client read it, nobody says.
    Written,
    /// Nobody who is addressed is connected to this lobby.
    NotConnected,
    /// The lobby drops it; the receipt has the reason.
    Dropped,
    /// It was written to no session, and at least one was too slow to have room for it.
    Overflowed,
    /// It was written to no session: the connections were lost before.
    Disconnected,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for ReceiptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Written => "written",
            Self::NotConnected => "not_connected",
            Self::Dropped => "dropped",
            Self::Overflowed => "overflowed",
            Self::Disconnected => "disconnected",
            Self::Unknown => "unknown",
        })
    }
}

/// One lobby's answer: the JSON object in the body of the message that it sends to `reply-to`.
///
/// ```
/// use notify_protocol::{Receipt, ReceiptOutcome};
/// let receipt = Receipt::from_json(
///     br#"{"instance":"pod-7","message_id":"m-1","outcome":"written","sessions_matched":1,
///         "sessions_written":1,"sessions_overflowed":0,"micros":123}"#,
/// )?;
/// assert_eq!((receipt.outcome, receipt.micros), (ReceiptOutcome::Written, 123));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The lobby.
    pub instance: String,
    /// The message's property `message-id`, where it had one.
    pub message_id: Option<String>,
    /// What became of it.
    pub outcome: ReceiptOutcome,
    /// Of a dropped message: the reason, as `lobby_deliveries_total` labels it, or `channel_reserved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Sessions that were addressed.
    pub sessions_matched: u64,
    /// Of these, the ones whose socket took the whole message.
    pub sessions_written: u64,
    /// Of these, the ones that were too slow: their outbox had no room, or they were closed for it.
    pub sessions_overflowed: u64,
    /// Microseconds from the delivery by the broker to the end of the batch of writes that the last write was in;
    /// without a write, to the decision.
    pub micros: u64,
}

impl Receipt {
    /// The body of the message to `reply-to`.
    ///
    /// ```
    /// use notify_protocol::{Receipt, ReceiptOutcome};
    /// let receipt = Receipt {
    ///     instance: "pod-7".to_owned(),
    ///     message_id: None,
    ///     outcome: ReceiptOutcome::Dropped,
    ///     reason: Some("non_json".to_owned()),
    ///     sessions_matched: 0,
    ///     sessions_written: 0,
    ///     sessions_overflowed: 0,
    ///     micros: 9,
    /// };
    /// assert_eq!(Receipt::from_json(&receipt.to_json()).ok(), Some(receipt));
    /// ```
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a receipt; fields that this version does not know are passed over.
    ///
    /// # Errors
    /// It is none.
    ///
    /// ```
    /// assert!(notify_protocol::Receipt::from_json(b"{}").is_err());
    /// ```
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        value: Option<HeaderValue<'_>>,
        reply_to: Option<&'static str>,
        correlation_id: Option<&'static str>,
    ) -> Result<Option<ReceiptRequest<'static>>, ReceiptRefusal> {
        let headers = value.map(|value| (RECEIPT_HEADER.as_bytes(), value));
        ReceiptRequest::read(headers, reply_to, correlation_id)
    }

    #[test]
    fn the_header_asks_unless_it_is_void_and_only_all_asks_for_all() {
        for (value, scope) in [
            (None, None),
            (Some(HeaderValue::Void), None),
            (Some(HeaderValue::LongString(b"all")), Some(ReceiptScope::All)),
            (Some(HeaderValue::LongString(b"written-only")), Some(ReceiptScope::WrittenOnly)),
            (Some(HeaderValue::LongString(b"ALL")), Some(ReceiptScope::WrittenOnly)),
            (Some(HeaderValue::Bool(true)), Some(ReceiptScope::WrittenOnly)),
            (Some(HeaderValue::Table), Some(ReceiptScope::WrittenOnly)),
        ] {
            let got = read(value, Some("amq.gen-1"), Some("c")).map(|request| request.map(|r| r.scope));
            assert_eq!(got, Ok(scope), "{value:?}");
        }
    }

    #[test]
    fn receipts_go_to_reply_queues_only_and_never_to_a_lobbys_own() {
        let ask = Some(HeaderValue::LongString(b"all"));
        for (queue, allowed) in [
            ("amq.gen-JzTY20BRgKO-HjmUJj0wLg", true),
            ("amq.rabbitmq.reply-to.g1h2AA5yZXBseUAx", true),
            ("lobby-receipts.billing", true),
            ("faf-lobby.lobby.client.notify.pod-7", false),
            ("lobby-receipts", false),
            ("amq.rabbitmq.reply-to", false),
            ("x.amq.gen-1", false),
            (" amq.gen-1", false),
        ] {
            let got = read(ask, Some(queue), Some("c"));
            assert_eq!(matches!(got, Ok(Some(_))), allowed, "{queue}: {got:?}");
        }
        assert_eq!(read(ask, None, Some("c")), Err(ReceiptRefusal::NoReplyTo));
        assert_eq!(read(ask, Some(""), Some("c")), Err(ReceiptRefusal::NoReplyTo));
        assert_eq!(read(ask, Some("amq.gen-1"), Some("")), Err(ReceiptRefusal::NoCorrelationId));
        assert_eq!(read(None, Some("payments"), None), Ok(None), "nothing was asked for");
    }

    #[test]
    fn a_later_lobbys_words_do_not_break_an_older_publisher() {
        let json = br#"{"instance":"x","message_id":null,"outcome":"teleported","sessions_matched":0,
            "sessions_written":0,"sessions_overflowed":0,"micros":1,"colour":"red"}"#;
        assert_eq!(
            Receipt::from_json(json).map(|receipt| receipt.outcome).ok(),
            Some(ReceiptOutcome::Unknown)
        );
    }
}
