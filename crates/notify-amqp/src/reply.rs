//! Answers to whoever asked for them: to one queue by name, through the default exchange.

use lapin::{BasicProperties, types::ShortString};

use crate::{outgoing::Outgoing, properties::short, publish_error::PublishError};

/// How long an answer may wait in a queue that nobody reads.
const EXPIRY_MS: &str = "60000";

/// An answer. It is not mandatory: one for a queue that is gone costs nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The queue that it goes to, at most 255 bytes: the property `reply-to` of what is answered.
    pub reply_to: String,
    /// The property `correlation-id` of what is answered, at most 255 bytes.
    pub correlation_id: String,
    /// What kind of answer it is, such as `lobby.receipt`: the property `type`.
    pub kind: &'static str,
    /// JSON.
    pub body: Vec<u8>,
}

impl Reply {
    pub(crate) fn outgoing(self) -> Result<Outgoing, PublishError> {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_correlation_id(short("correlation id", &self.correlation_id)?)
            .with_type(short("type", self.kind)?)
            .with_expiration(EXPIRY_MS.into());
        Ok(Outgoing {
            exchange: ShortString::default(),
            routing_key: short("reply-to", &self.reply_to)?,
            mandatory: false,
            id: "".into(),
            properties,
            body: self.body,
        })
    }
}
