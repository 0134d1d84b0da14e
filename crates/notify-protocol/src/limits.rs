//! What is refused for its size, with units and defaults.

/// The limits of one lobby.
///
/// Nesting has no limit of its own: the check is iterative, so [`max_body_bytes`](Self::max_body_bytes) bounds it.
///
/// ```
/// use notify_protocol::{Limits, decode};
/// let limits = Limits { max_body_bytes: 8 };
/// assert_eq!(decode([], b"{\"a\": 10}", &limits).unwrap_err().as_str(), "too_large");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body in bytes, as it comes from the broker (a BOM and white space count). Default 4 MiB + 64 KiB
    /// ([`DEFAULT_MAX_BODY_BYTES`]). The contract requires at least 1 MiB ([`MIN_MAX_BODY_BYTES`], for the
    /// configuration to check). A larger body is dropped as
    /// [`DropReason::TooLarge`](crate::DropReason::TooLarge).
    pub max_body_bytes: usize,
}

/// Default of [`Limits::max_body_bytes`]: 4 MiB of content and 64 KiB for what surrounds it. RabbitMQ 4 itself
/// refuses messages above 16 MiB.
///
/// ```
/// assert_eq!(notify_protocol::limits::DEFAULT_MAX_BODY_BYTES, 4_259_840);
/// ```
pub const DEFAULT_MAX_BODY_BYTES: usize = 4 * 1024 * 1024 + 64 * 1024;

/// The least that [`Limits::max_body_bytes`] may be set to, in bytes (contract: *Body*).
///
/// ```
/// assert_eq!(notify_protocol::limits::MIN_MAX_BODY_BYTES, 1_048_576);
/// ```
pub const MIN_MAX_BODY_BYTES: usize = 1024 * 1024;

/// Longest AMQP short string in bytes: header names and string properties.
///
/// ```
/// assert_eq!(notify_protocol::limits::MAX_SHORT_STRING_BYTES, 255);
/// ```
pub const MAX_SHORT_STRING_BYTES: usize = 255;

/// Most bytes that all headers of a published message may take on the wire. They travel in one frame, which the
/// broker limits to 128 KiB by default (`frame_max`); half of that leaves room for the properties.
///
/// ```
/// assert_eq!(notify_protocol::limits::MAX_HEADERS_BYTES, 65_536);
/// ```
pub const MAX_HEADERS_BYTES: usize = 64 * 1024;

/// Longest expiry the broker accepts, in milliseconds (49.7 days).
///
/// ```
/// assert_eq!(notify_protocol::limits::MAX_EXPIRY_MS, 4_294_967_295);
/// ```
pub const MAX_EXPIRY_MS: u64 = u32::MAX as u64;

/// Latest timestamp that may be published, in seconds since 1970: the end of the year 9999, past which other
/// consumers' AMQP libraries fail. Milliseconds sent by mistake are beyond it.
///
/// ```
/// assert_eq!(notify_protocol::limits::MAX_TIMESTAMP_SECONDS, 253_402_300_799);
/// ```
pub const MAX_TIMESTAMP_SECONDS: u64 = 253_402_300_799;

impl Default for Limits {
    fn default() -> Self {
        Self { max_body_bytes: DEFAULT_MAX_BODY_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_at_least_what_the_contract_requires() {
        assert_eq!(Limits::default().max_body_bytes, 4_259_840);
        assert!(Limits::default().max_body_bytes >= MIN_MAX_BODY_BYTES);
    }
}
