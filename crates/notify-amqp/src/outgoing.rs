//! One message as it goes to lapin: where to, with which properties, and its id.

use std::{sync::Arc, time::SystemTime};

use lapin::{BasicProperties, types::ShortString};
use notify_protocol::Message;

use crate::{
    properties::{properties, short},
    publish_error::PublishError,
    raw_message::RawMessage,
};

/// What is published, as often as it takes.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    /// Whether the broker returns it when no queue takes it.
    pub(crate) mandatory: bool,
    /// The property `message_id`.
    pub(crate) id: Arc<str>,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

impl Outgoing {
    /// A notification; it gets a UUID (version 7) and the present second where it has no id and no timestamp.
    pub(crate) fn notification(
        message: &Message,
        exchange: &ShortString,
        mandatory: bool,
    ) -> Result<Self, PublishError> {
        let id = match &message.properties().message_id {
            Some(id) => id.clone(),
            None => uuid::Uuid::now_v7().to_string(),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self {
            exchange: exchange.clone(),
            routing_key: short("routing key", message.routing_key())?,
            mandatory,
            properties: properties(message, &id, now)?,
            id: id.into(),
            body: message.body().to_vec(),
        })
    }
    /// A message as it is, without an id where it has none.
    pub(crate) fn raw(
        message: &RawMessage,
        exchange: &ShortString,
        mandatory: bool,
    ) -> Result<Self, PublishError> {
        Ok(Self {
            exchange: exchange.clone(),
            routing_key: short("routing key", &message.routing_key)?,
            mandatory,
            properties: message.properties.written()?,
            id: message.properties.message_id.as_deref().unwrap_or_default().into(),
            body: message.body.clone(),
        })
    }
}
