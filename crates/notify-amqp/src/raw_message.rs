//! A message with everything that its publisher wrote, for who shows, keeps or repeats it.

use lapin::BasicProperties;

use crate::{
    delivery::Delivery,
    field::{NamedField, read_table, written_table},
    properties::short,
    publish_error::PublishError,
};

/// A message as it was published, whatever it holds: nothing of it is checked against the contract.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RawMessage {
    /// The routing key.
    pub routing_key: String,
    /// Headers and the other properties.
    pub properties: RawProperties,
    /// The body.
    pub body: Vec<u8>,
}

/// The basic properties of AMQP 0-9-1; each may be missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RawProperties {
    /// `content_type`.
    pub content_type: Option<String>,
    /// `content_encoding`.
    pub content_encoding: Option<String>,
    /// `headers`: a missing table is not the same as an empty one.
    pub headers: Option<Vec<NamedField>>,
    /// `delivery_mode`: 1 or 2.
    pub delivery_mode: Option<u8>,
    /// `priority`.
    pub priority: Option<u8>,
    /// `correlation_id`.
    pub correlation_id: Option<String>,
    /// `reply_to`.
    pub reply_to: Option<String>,
    /// `expiration`, in milliseconds.
    pub expiration: Option<String>,
    /// `message_id`.
    pub message_id: Option<String>,
    /// `timestamp`.
    pub timestamp: Option<u64>,
    /// `type`.
    pub kind: Option<String>,
    /// `user_id`: the login of who published it. The broker takes a message with it from that login only.
    pub user_id: Option<String>,
    /// `app_id`.
    pub app_id: Option<String>,
    /// `cluster_id`.
    pub cluster_id: Option<String>,
}

impl Delivery {
    /// Everything that the publisher wrote, copied. A header table that no parser could read, names that are not
    /// UTF-8, and tables nested deeper than 32 are as [`Delivery::headers`] has them; of a header that stood twice
    /// the last one is here.
    #[must_use]
    pub fn raw(&self) -> RawMessage {
        RawMessage {
            routing_key: self.routing_key().to_owned(),
            properties: RawProperties::read(self.properties()),
            body: self.body().to_vec(),
        }
    }
}

impl RawProperties {
    fn read(properties: &BasicProperties) -> Self {
        let text =
            |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
        Self {
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            headers: properties.headers().as_ref().map(read_table),
            delivery_mode: *properties.delivery_mode(),
            priority: *properties.priority(),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            expiration: text(properties.expiration()),
            message_id: text(properties.message_id()),
            timestamp: *properties.timestamp(),
            kind: text(properties.kind()),
            user_id: text(properties.user_id()),
            app_id: text(properties.app_id()),
            cluster_id: text(properties.cluster_id()),
        }
    }

    /// As lapin publishes them.
    pub(crate) fn written(&self) -> Result<BasicProperties, PublishError> {
        let mut properties = BasicProperties::default();
        if let Some(headers) = &self.headers {
            properties = properties.with_headers(written_table(headers)?);
        }
        if let Some(mode) = self.delivery_mode {
            properties = properties.with_delivery_mode(mode);
        }
        if let Some(priority) = self.priority {
            properties = properties.with_priority(priority);
        }
        if let Some(timestamp) = self.timestamp {
            properties = properties.with_timestamp(timestamp);
        }
        macro_rules! texts {
            ($($field:ident $with:ident,)*) => {$(
                if let Some(text) = &self.$field {
                    properties = properties.$with(short(stringify!($field), text)?);
                }
            )*};
        }
        texts! {
            content_type with_content_type,
            content_encoding with_content_encoding,
            correlation_id with_correlation_id,
            reply_to with_reply_to,
            expiration with_expiration,
            message_id with_message_id,
            kind with_type,
            user_id with_user_id,
            app_id with_app_id,
            cluster_id with_cluster_id,
        }
        Ok(properties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Field;

    #[test]
    fn every_property_survives_the_way_through_lapin_and_a_missing_one_stays_missing() {
        let text = |text: &str| Some(text.to_owned());
        let all = RawProperties {
            content_type: text("application/json"),
            content_encoding: text("utf-8"),
            headers: Some(vec![(b"user-id".to_vec(), Field::I32(42))]),
            delivery_mode: Some(2),
            priority: Some(7),
            correlation_id: text("c"),
            reply_to: text("r"),
            expiration: text("60000"),
            message_id: text("m"),
            timestamp: Some(1_700_000_000),
            kind: text("t"),
            user_id: text("guest"),
            app_id: text("a"),
            cluster_id: text(""),
        };
        assert_eq!(RawProperties::read(&all.written().unwrap()), all);
        let none = RawProperties::default();
        assert_eq!(RawProperties::read(&none.written().unwrap()), none);
        let empty = RawProperties { headers: Some(Vec::new()), ..none };
        assert_eq!(RawProperties::read(&empty.written().unwrap()), empty);
    }
}
