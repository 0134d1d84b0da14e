//! `/api/publish`: a test notification from the console, and what each lobby says became of it.
//!
//! It goes the way of every notification: to the exchange, confirmed, through the queue, to the sockets.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use notify_amqp::{PublishError, Publisher, PublisherConfig, ReceiptWait, Receipted};
use notify_protocol::{BuildError, Message, Notification, UserId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Admin;
use crate::config::{Config, connection};

/// How long receipts are collected. Nobody knows how many lobbies there are.
const RECEIPTS_WITHIN: Duration = Duration::from_secs(1);
/// Test notifications on their way at a time, for all who have the console open.
const AT_ONCE: usize = 2;

/// A test is of no use to who logs in later.
const EXPIRES: Duration = Duration::from_secs(10);

/// What publishes for the console.
#[derive(Debug)]
pub struct Desk {
    publishing: PublisherConfig,
    places: Semaphore,
}

/// One test notification. To whom is always said: leaving it out is no broadcast.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    to: To,
    /// The JSON text, which is sent as it is.
    body: String,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum To {
    /// A user id in digits: numbers of JavaScript end at 2⁵³.
    User(String),
    Everyone(Everyone),
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Everyone {
    Confirmed,
}

impl Desk {
    pub fn new(config: &Config) -> Self {
        let mut broker = connection(config);
        broker.connection_name.push_str(" console");
        let mut publishing = PublisherConfig::new(broker, config.exchange.as_str());
        (publishing.max_connections, publishing.max_channels) = (1, 1);
        Self { publishing, places: Semaphore::new(AT_ONCE) }
    }

    /// A place among those who publish; none where others have all of them.
    fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// Publishes over a connection that lasts as long as this takes.
    async fn publish(&self, message: &Message) -> Result<Receipted, PublishError> {
        let publisher = Publisher::new(self.publishing.clone())?;
        let outcome = publisher.publish_with_receipt(message, ReceiptWait::everyone(RECEIPTS_WITHIN)).await;
        publisher.close().await;
        outcome
    }
}

impl Draft {
    fn message(&self) -> Result<Message, String> {
        let notification = match &self.to {
            To::User(id) => {
                let id: i64 = id
                    .trim()
                    .parse()
                    .map_err(|_| format!("user {id:?} is no user id: write a whole number, like 42"))?;
                Notification::to_user(UserId::new(id))
            }
            To::Everyone(Everyone::Confirmed) => Notification::broadcast(),
        };
        notification
            .raw_json(self.body.as_bytes())
            .app_id("lobby console")
            .expires_in(EXPIRES)
            .build()
            .map_err(|error: BuildError| error.to_string())
    }
}

pub async fn publish(State(admin): State<Admin>, Json(draft): Json<Draft>) -> Response {
    let refuse = |status: StatusCode, error: String| (status, Json(json!({"error": error}))).into_response();
    let message = match draft.message() {
        Ok(message) => message,
        Err(why) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, why),
    };
    let Some(_place) = admin.desk.place() else {
        return refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "others publish from this console just now: try again".into(),
        );
    };
    match admin.desk.publish(&message).await {
        Ok(receipted) => Json(shown(&receipted)).into_response(),
        Err(error) => refuse(StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

fn shown(receipted: &Receipted) -> Value {
    json!({
        "message_id": receipted.published.message_id,
        "waited_ms": RECEIPTS_WITHIN.as_millis(),
        "receipts": receipted.receipts,
    })
}

#[cfg(test)]
mod tests {
    use notify_protocol::Address;

    use super::*;

    #[test]
    fn two_publish_at_a_time_and_the_next_when_one_is_done() {
        let config = crate::config::load(&crate::config::Sources::default()).expect("defaults").config;
        let desk = Desk::new(&config);
        let (first, second) = (desk.place(), desk.place());
        assert!(first.is_some() && second.is_some() && desk.place().is_none());
        drop(first);
        assert!(desk.place().is_some());
    }

    fn draft(text: &str) -> Result<Message, String> {
        serde_json::from_str::<Draft>(text).map_err(|error| error.to_string())?.message()
    }

    #[test]
    fn a_draft_is_to_whom_it_says() {
        let one = draft(r#"{"to":{"user":" 9007199254740993 "},"body":"{\"a\":1.10}"}"#).expect("a message");
        assert_eq!(one.address(), Address::User(UserId::new(9_007_199_254_740_993)));
        assert_eq!(one.body(), br#"{"a":1.10}"#);
        let all = draft(r#"{"to":{"everyone":"confirmed"},"body":"{}"}"#).expect("a message");
        assert_eq!(all.address(), Address::Everyone);
        assert!(all.properties().expiration.is_some(), "it does not wait for who comes later");
    }

    #[test]
    fn a_draft_that_is_wrong_is_never_a_broadcast() {
        for (text, says) in [
            (r#"{"body":"{}"}"#, "missing field `to`"),
            (r#"{"to":null,"body":"{}"}"#, "expected value"),
            (r#"{"to":{"user":null},"body":"{}"}"#, "null"),
            (r#"{"to":{"user":42},"body":"{}"}"#, "integer"),
            (r#"{"to":{"user":""},"body":"{}"}"#, "no user id"),
            (r#"{"to":{"user":"4 2"},"body":"{}"}"#, "no user id"),
            (r#"{"to":{"user":"4.2"},"body":"{}"}"#, "no user id"),
            (r#"{"to":"everyone","body":"{}"}"#, "invalid type"),
            (r#"{"to":{"everyone":true},"body":"{}"}"#, "expected value"),
            (r#"{"to":{"user":"42"},"body":"[]"}"#, "array"),
            (r#"{"to":{"user":"42"},"body":""}"#, "not JSON"),
            (r#"{"to":{"user":"42"},"body":"{}","more":1}"#, "unknown field"),
        ] {
            let error = draft(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
