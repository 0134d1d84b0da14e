//! From a message of the contract to AMQP's basic properties.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use notify_protocol::{Message, OutHeader};

use crate::publish_error::PublishError;

/// The message's own properties and headers; `message_id` and `timestamp` (seconds since 1970) where it has none.
///
/// # Errors
/// [`PublishError::NameTooLong`]: a text exceeds AMQP's short string.
pub(crate) fn properties(message: &Message, id: &str, now: u64) -> Result<BasicProperties, PublishError> {
    let own = message.properties();
    let mut headers = FieldTable::default();
    for (name, value) in message.headers() {
        let value = match value {
            OutHeader::LongLong(number) => AMQPValue::LongLongInt(number),
            OutHeader::LongString(text) => AMQPValue::LongString(text.into()),
        };
        headers.insert(short("header name", name)?, value);
    }
    let mut properties = BasicProperties::default()
        .with_content_type(short("content type", own.content_type)?)
        .with_content_encoding(short("content encoding", own.content_encoding)?)
        .with_headers(headers)
        .with_delivery_mode(own.delivery_mode)
        .with_message_id(short("message id", id)?)
        .with_timestamp(own.timestamp.unwrap_or(now));
    if let Some(priority) = own.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(id) = &own.correlation_id {
        properties = properties.with_correlation_id(short("correlation id", id)?);
    }
    if let Some(queue) = &own.reply_to {
        properties = properties.with_reply_to(short("reply-to", queue)?);
    }
    if let Some(expiration) = &own.expiration {
        properties = properties.with_expiration(short("expiration", expiration)?);
    }
    if let Some(id) = &own.app_id {
        properties = properties.with_app_id(short("app id", id)?);
    }
    Ok(properties)
}

/// AMQP's short string: at most 255 bytes. lapin panics on longer ones.
pub(crate) fn short(what: &'static str, text: &str) -> Result<ShortString, PublishError> {
    ShortString::try_new(text).map_err(|_| PublishError::NameTooLong { what, len: text.len() })
}

#[cfg(test)]
mod tests {
    use notify_protocol::Notification;

    use super::*;

    #[test]
    fn the_messages_own_id_and_time_win() {
        let message = Notification::to_user(42).raw_json(r#"{"command":"x"}"#).build().unwrap();
        let filled = properties(&message, "made-up", 1_700_000_000).unwrap();
        assert_eq!(filled.message_id().as_ref().map(ShortString::as_str), Some("made-up"));
        assert_eq!(*filled.timestamp(), Some(1_700_000_000));
        assert_eq!(*filled.delivery_mode(), Some(2));
        let headers = filled.headers().as_ref().unwrap().inner();
        assert_eq!(headers.get("user-id"), Some(&AMQPValue::LongLongInt(42)));
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn texts_that_do_not_fit_are_errors_not_panics() {
        let message = Notification::broadcast().raw_json("{}").build().unwrap();
        let refused = properties(&message, &"x".repeat(256), 0);
        assert_eq!(refused, Err(PublishError::NameTooLong { what: "message id", len: 256 }));
    }
}
