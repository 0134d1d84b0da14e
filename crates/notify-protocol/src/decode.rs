//! Decodes one delivery: headers and body in, address and checked body out.
//!
//! Pure: no I/O and no clock. A failure is permanent (the same bytes fail again), so the caller logs it, counts it
//! by [`DropReason::as_str`] and acks. Whether an addressed user is connected is not known here.

use crate::{Address, Body, DropReason, HeaderValue, Limits, address};

/// A delivery that can be routed, borrowed from the delivery's bytes.
///
/// ```
/// use notify_protocol::{Address, Decoded, Limits, decode};
/// let Decoded { address, body } = decode([], b"{}", &Limits::default())?;
/// assert_eq!((address, body.json()), (Address::Everyone, &b"{}"[..]));
/// # Ok::<(), notify_protocol::DropReason>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoded<'a> {
    /// Whom it is for.
    pub address: Address<'a>,
    /// What they get.
    pub body: Body<'a>,
}

/// Decodes a delivery whose routing key is [`NOTIFY_ROUTING_KEY`](crate::NOTIFY_ROUTING_KEY).
///
/// The body is checked before the address, its size before anything else: of several faults the first in that
/// order is reported. Linear in the length; nothing is allocated on success but a byte for each level of nesting.
/// Never panics.
///
/// ```
/// use notify_protocol::{Address, HeaderValue, Limits, UserId, decode};
/// let headers = [(&b"user-id"[..], HeaderValue::Int(42))];
/// let decoded = decode(headers, b"{}", &Limits::default())?;
/// assert_eq!(decoded.address, Address::User(UserId::new(42)));
/// # Ok::<(), notify_protocol::DropReason>(())
/// ```
///
/// # Errors
/// - [`DropReason::TooLarge`], [`DropReason::NonJson`], [`DropReason::NotObject`]: as [`Body::check`].
/// - [`DropReason::InvalidUserId`], [`DropReason::UndecodableHeaders`]: as [`address()`].
pub fn decode<'a>(
    headers: impl IntoIterator<Item = (&'a [u8], HeaderValue<'a>)>,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Decoded<'a>, DropReason> {
    let body = Body::check(body, limits)?;
    let address = address(headers)?;
    Ok(Decoded { address, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UNDECODABLE_HEADERS_MARKER, UserId};

    const LIMITS: Limits = Limits { max_body_bytes: 64 };
    const TO_42: (&[u8], HeaderValue<'static>) = (b"user-id", HeaderValue::Int(42));
    const TO_TRUE: (&[u8], HeaderValue<'static>) = (b"user-id", HeaderValue::Bool(true));

    #[test]
    fn good_delivery_gives_address_and_body() {
        let decoded = decode([TO_42], b" {\"a\":1}\n", &LIMITS).unwrap();
        assert_eq!(decoded.address, Address::User(UserId::new(42)));
        assert_eq!(decoded.body.json(), b"{\"a\":1}");
    }

    #[test]
    fn faults_are_reported_in_the_order_size_body_address() {
        let undecodable = (UNDECODABLE_HEADERS_MARKER.as_bytes(), HeaderValue::Void);
        for (header, body, label) in [
            (TO_TRUE, &[b'x'; 65][..], "too_large"),
            (TO_TRUE, b"x", "non_json"),
            (TO_TRUE, b"[]", "not_object"),
            (TO_TRUE, b"{}", "invalid_user_id"),
            (undecodable, b"x", "non_json"),
            (undecodable, b"{}", "undecodable_headers"),
        ] {
            assert_eq!(decode([header], body, &LIMITS).unwrap_err().as_str(), label);
        }
    }
}
