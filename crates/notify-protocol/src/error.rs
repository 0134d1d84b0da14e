//! Why a delivery reaches nobody, and why a message cannot be built.

/// Why a delivery is dropped. Permanent: the same bytes fail again, so the caller logs, counts and acks.
///
/// The texts give the offending value in a bounded length (below 512 bytes), escaped.
///
/// ```
/// use notify_protocol::{Limits, decode};
/// let reason = decode([], b"[]", &Limits::default()).unwrap_err();
/// assert_eq!(reason.as_str(), "not_object");
/// assert_eq!(reason.to_string(), "body is JSON of type array, expected an object");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// The body is not UTF-8 JSON (contract: *Body*).
    #[error("body is not JSON: {problem}")]
    NonJson {
        /// What is wrong and where.
        problem: String,
    },
    /// The body is JSON but not an object (contract: *Body*).
    #[error("body is JSON of type {found}, expected an object")]
    NotObject {
        /// The JSON type found instead.
        found: &'static str,
    },
    /// The `user-id` header is set to something that addresses nobody (contract: *Addressing*).
    #[error(
        "header `user-id` is {given}, expected an integer or a long string of ASCII digits, both within 64 bits signed"
    )]
    InvalidUserId {
        /// The value's AMQP type and an excerpt of it.
        given: String,
    },
    /// The body exceeds [`Limits::max_body_bytes`](crate::Limits::max_body_bytes).
    #[error("body is {len} bytes, limit {max}")]
    TooLarge {
        /// The body's length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The header table could not be parsed, so nobody knows whom the message was for.
    #[error("header table could not be decoded, the address is unknown")]
    UndecodableHeaders,
}

impl DropReason {
    /// Every metric label that [`DropReason::as_str`] can give.
    ///
    /// ```
    /// use notify_protocol::DropReason;
    /// assert!(DropReason::LABELS.contains(&DropReason::UndecodableHeaders.as_str()));
    /// ```
    pub const LABELS: [&'static str; 5] =
        ["non_json", "not_object", "invalid_user_id", "too_large", "undecodable_headers"];

    /// The metric label: `non_json`, `not_object`, `invalid_user_id`, `too_large` or `undecodable_headers`.
    ///
    /// ```
    /// use notify_protocol::DropReason;
    /// assert_eq!(DropReason::TooLarge { len: 2, max: 1 }.as_str(), "too_large");
    /// ```
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NonJson { .. } => "non_json",
            Self::NotObject { .. } => "not_object",
            Self::InvalidUserId { .. } => "invalid_user_id",
            Self::TooLarge { .. } => "too_large",
            Self::UndecodableHeaders => "undecodable_headers",
        }
    }
}

/// Why [`NotificationBuilder::build`](crate::NotificationBuilder::build) refuses. Permanent: each text gives the
/// value and what to change.
///
/// ```
/// use notify_protocol::{BuildError, Notification};
/// let error = Notification::to_user(42).json(&["a list"]).build().unwrap_err();
/// assert_eq!(error, BuildError::BodyNotObject { found: "array" });
/// assert_eq!(error.to_string(), "body is JSON of type array; wrap it in an object such as {\"command\":…}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The value given to `json` cannot be written as JSON.
    #[error("body cannot be serialized as JSON: {problem}; give a type whose map keys are strings")]
    BodyNotSerializable {
        /// The serializer's own words.
        problem: String,
    },
    /// The bytes given to `raw_json` are not UTF-8 JSON.
    #[error("body is not JSON: {problem}; send one UTF-8 JSON object, not compressed")]
    BodyNotJson {
        /// What is wrong and where.
        problem: String,
    },
    /// The body is JSON but not an object.
    #[error("body is JSON of type {found}; wrap it in an object such as {{\"command\":…}}")]
    BodyNotObject {
        /// The JSON type found instead.
        found: &'static str,
    },
    /// The body is larger than a lobby accepts by default.
    #[error("body is {len} bytes, limit {max}; split it or send a reference to it")]
    BodyTooLarge {
        /// The body's length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A string property does not fit an AMQP short string.
    #[error("property `{property}` is {len} bytes, limit {max}; shorten it")]
    PropertyTooLong {
        /// The AMQP name of the property.
        property: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A property that must name something is empty.
    #[error("property `{property}` is empty; name a queue or leave it out")]
    PropertyEmpty {
        /// The AMQP name of the property.
        property: &'static str,
    },
    /// A message that expires at once reaches nobody.
    #[error("expiry is zero, the broker would drop the message at once; give at least 1 ms or none")]
    ZeroExpiry,
    /// The broker closes the channel over a longer expiry.
    #[error("expiry is {given_ms} ms, limit {max_ms} (49.7 days); leave it out to keep the message for ever")]
    ExpiryTooLong {
        /// The expiry in milliseconds.
        given_ms: u128,
        /// The limit in milliseconds.
        max_ms: u64,
    },
    /// The timestamp is after the year 9999.
    #[error("timestamp is {given} s, limit {max} (year 9999); give seconds since 1970, not milliseconds")]
    TimestampTooLarge {
        /// The timestamp in seconds.
        given: u64,
        /// The limit in seconds.
        max: u64,
    },
    /// The text is not a W3C `traceparent`.
    #[error(
        "traceparent is {given}; expected `00-<32 hex>-<16 hex>-<2 hex>` in lower case, neither id all zero"
    )]
    InvalidTraceparent {
        /// An excerpt of the value.
        given: String,
    },
    /// A header name does not fit an AMQP short string, or is empty.
    #[error("header name {name} is {len} bytes; give 1 to {max}")]
    InvalidHeaderName {
        /// An excerpt of the name.
        name: String,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The header has a meaning of its own, or is one letter away from one that has.
    #[error("header name {name} is reserved; {instead}")]
    ReservedHeader {
        /// The name as given.
        name: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A header stands twice; consumers disagree on which counts.
    #[error("header {name} is set twice; set it once")]
    DuplicateHeader {
        /// An excerpt of the name.
        name: String,
    },
    /// The headers do not fit one frame.
    #[error("headers take {len} bytes, limit {max}; move data into the body")]
    HeadersTooLarge {
        /// Their length on the wire in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
}

impl From<DropReason> for BuildError {
    /// A body that lobbies would drop cannot be sent.
    fn from(reason: DropReason) -> Self {
        match reason {
            DropReason::NotObject { found } => Self::BodyNotObject { found },
            DropReason::TooLarge { len, max } => Self::BodyTooLarge { len, max },
            DropReason::NonJson { problem } => Self::BodyNotJson { problem },
            // Of headers, not of bodies: `Body::check` never answers these.
            DropReason::InvalidUserId { .. } | DropReason::UndecodableHeaders => {
                Self::BodyNotJson { problem: reason.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_labels_are_stable() {
        for (reason, label) in [
            (DropReason::NonJson { problem: String::new() }, "non_json"),
            (DropReason::NotObject { found: "array" }, "not_object"),
            (DropReason::InvalidUserId { given: String::new() }, "invalid_user_id"),
            (DropReason::TooLarge { len: 2, max: 1 }, "too_large"),
            (DropReason::UndecodableHeaders, "undecodable_headers"),
        ] {
            assert_eq!(reason.as_str(), label);
        }
    }

    #[test]
    fn texts_name_the_value_and_the_limit() {
        assert_eq!(DropReason::TooLarge { len: 2, max: 1 }.to_string(), "body is 2 bytes, limit 1");
        assert_eq!(
            BuildError::ExpiryTooLong { given_ms: 5_000_000_000, max_ms: 4_294_967_295 }.to_string(),
            "expiry is 5000000000 ms, limit 4294967295 (49.7 days); leave it out to keep the message for ever"
        );
    }
}
