//! A backend service as the lobby's publisher: every message is confirmed before the next line of a scenario.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use serde_json::{Value, json};

use crate::amqp_wire::{AmqpUrl, Message, Outcome, Properties, Publisher};

/// A confirming publisher to one exchange.
#[derive(Debug)]
pub(crate) struct Notifier {
    publisher: Publisher,
    exchange: String,
}

impl Notifier {
    pub(crate) async fn open(url: &AmqpUrl, exchange: &str) -> anyhow::Result<Self> {
        Ok(Self { publisher: Publisher::open(url).await?, exchange: exchange.to_owned() })
    }

    /// Publishes to the routing key of notifications; `headers` and `props` as in the vectors.
    pub(crate) async fn publish(
        &mut self,
        headers: &Value,
        props: &Value,
        body: &[u8],
    ) -> anyhow::Result<Outcome> {
        self.publish_to(NOTIFY_ROUTING_KEY, headers, props, body).await
    }

    pub(crate) async fn publish_to(
        &mut self,
        routing_key: &str,
        headers: &Value,
        props: &Value,
        body: &[u8],
    ) -> anyhow::Result<Outcome> {
        let message = Message {
            exchange: self.exchange.clone(),
            routing_key: routing_key.to_owned(),
            properties: Properties::encode(headers, props)?,
            body: Bytes::copy_from_slice(body),
        };
        self.publisher.publish_one(&message).await
    }

    /// Publishes to one user; the broker must have routed it.
    pub(crate) async fn notify_user(&mut self, user: i64, body: &str) -> anyhow::Result<()> {
        self.routed(&json!([["user-id", "l", user]]), body).await
    }

    /// Publishes to everyone; the broker must have routed it.
    pub(crate) async fn notify_all(&mut self, body: &str) -> anyhow::Result<()> {
        self.routed(&Value::Null, body).await
    }

    /// Broadcasts a message nobody has seen before and returns what to look for.
    pub(crate) async fn sentinel(&mut self) -> anyhow::Result<String> {
        let id = unique("sentinel");
        self.notify_all(&json!({"command": "sentinel", "id": id}).to_string()).await?;
        Ok(id)
    }

    async fn routed(&mut self, headers: &Value, body: &str) -> anyhow::Result<()> {
        let outcome = self.publish(headers, &json!({"delivery_mode": 2}), body.as_bytes()).await?;
        ensure!(outcome == Outcome::Confirmed, "the broker did not route {body}: {outcome:?}");
        Ok(())
    }
}

/// Text that stands nowhere else, and inside no other text made here.
pub(crate) fn unique(what: &str) -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{number}-end", std::process::id())
}

/// A numbered notification.
pub(crate) fn numbered(seq: u64) -> String {
    format!(r#"{{"command":"numbered","seq":{seq}}}"#)
}
