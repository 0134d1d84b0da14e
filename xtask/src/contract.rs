//! The directory `contract/`: what other teams' tools read, made from here by `cargo xtask docs` and checked by CI.
//!
//! The names come from `notify-protocol`, the vectors from its tests; messages of the client protocol stand in
//! [`schema`], receipts in [`receipt`], and what the end-to-end tests get of both is validated against them.

mod asyncapi;
mod receipt;
mod schema;
mod validator;

use std::path::Path;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

pub(crate) use receipt::check as check_receipt;
pub(crate) use validator::ClientMessage;

use crate::environment::{Environment, PROBE_LIMIT, run, said};
use crate::node;

const SCHEMA: &str = "contract/client-messages.schema.json";
const RECEIPT: &str = "contract/receipt.schema.json";
const ASYNC_API: &str = "contract/asyncapi.json";
const VECTORS: &str = "contract/vectors.jsonl";
const VECTORS_SOURCE: &str = "crates/notify-protocol/testdata/vectors.jsonl";

/// What has to stand in each file.
pub(crate) fn documents() -> anyhow::Result<Vec<(&'static str, String)>> {
    let json = |value| serde_json::to_string_pretty(&value).map(|text| text + "\n");
    let vectors =
        std::fs::read_to_string(VECTORS_SOURCE).with_context(|| format!("read {VECTORS_SOURCE}"))?;
    Ok(vec![
        (SCHEMA, json(schema::document())?),
        (RECEIPT, json(receipt::document())?),
        (ASYNC_API, json(asyncapi::document())?),
        (VECTORS, vectors),
    ])
}

/// Has AsyncAPI's own parser read the document; why not, where npm's registry cannot be reached.
///
/// # Errors
/// The parser finds an error in the document, or what it refers to.
pub(crate) async fn check_with_parser() -> anyhow::Result<Option<String>> {
    let home = match node::environment().await? {
        Environment::Ready(home) => home,
        Environment::Unreachable(reason) => return Ok(Some(reason)),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
    let mut parser = Command::new("node");
    parser.arg("check-asyncapi.mjs").arg(root.join(ASYNC_API)).current_dir(home);
    let output = run(parser, PROBE_LIMIT * 3).await?;
    ensure!(output.status.success(), "{ASYNC_API}: {}", said(&output));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_schema_is_one_and_each_message_fits_its_own_example() {
        let document = schema::document();
        assert!(jsonschema::meta::is_valid(&document));
        for (name, definition) in document["$defs"].as_object().unwrap() {
            let schema = json!({"$ref": format!("#/$defs/{name}"), "$defs": document["$defs"]});
            let validator = jsonschema::validator_for(&schema).unwrap();
            for example in definition["examples"].as_array().into_iter().flatten() {
                validator.validate(example).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            assert!(definition["examples"].is_array() || definition["anyOf"].is_array(), "{name}");
            assert!(!validator.is_valid(&json!(["no", "object"])), "{name}");
        }
    }

    #[test]
    fn who_publishes_may_ask_for_receipts_and_knows_where_they_come() {
        let document = asyncapi::document();
        for message in ["toUser", "toChannel", "toEveryone"] {
            let schema = &document["components"]["messages"][message]["headers"];
            let validator = jsonschema::validator_for(schema).unwrap();
            let asks = |scope: Value, reply_to: &str| {
                json!({
                    "user-id": 42, "channel": "x", "x-lobby-receipt": scope, "reply_to": reply_to, "correlation_id": "c",
                })
            };
            for queue in ["amq.gen-7", "amq.rabbitmq.reply-to", "lobby-receipts.mine"] {
                assert!(validator.is_valid(&asks(json!("all"), queue)), "{message} {queue}");
            }
            for queue in ["payments", "faf-lobby.lobby.client.notify.pod-7", "x.amq.gen-7", "lobby-receipts"]
            {
                assert!(!validator.is_valid(&asks(json!("all"), queue)), "{message} {queue}");
            }
            assert!(!validator.is_valid(&asks(json!("some"), "amq.gen-7")), "{message}");
            let lacks = |key: &str| {
                let mut asks = asks(json!("written-only"), "amq.gen-7");
                asks.as_object_mut().unwrap().remove(key);
                validator.is_valid(&asks)
            };
            assert!(!lacks("reply_to") && !lacks("correlation_id"), "{message}");
            assert!(lacks("x-lobby-receipt"), "{message}");
        }
        let reply = &document["operations"]["takeNotifications"]["reply"];
        assert_eq!(reply["address"]["location"], "$message.header#/reply_to");
        assert_eq!(reply["messages"][0]["$ref"], "#/channels/receipts/messages/receipt");
    }

    #[test]
    fn a_client_message_that_says_less_or_else_does_not_fit() {
        for (message, bad) in [
            (
                ClientMessage::Welcome,
                json!({"command": "welcome", "id": 42, "login": "a", "current_time": "x"}),
            ),
            (
                ClientMessage::Closing,
                json!({"command": "closing", "code": 4000, "reason": "x", "reconnect": false}),
            ),
            (
                ClientMessage::Closing,
                json!({"command": "closing", "code": 4501, "reason": "x", "reconnect": true}),
            ),
            (
                ClientMessage::Closing,
                json!({"command": "closing", "code": 4999, "reason": "x", "reconnect": false}),
            ),
            (ClientMessage::Session, json!({"command": "session", "session": -1})),
            (ClientMessage::Auth, json!({"command": "auth"})),
            (ClientMessage::Invalid, json!({"command": "invalid"})),
        ] {
            assert!(message.check(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
        let closing = json!({"command": "closing", "code": 4000, "reason": "x", "reconnect": true, "retry_after_ms": 7});
        ClientMessage::Closing.check(closing.to_string().as_bytes()).unwrap();
    }

    #[test]
    fn every_line_that_a_vector_expects_is_a_notification() {
        let vectors = include_str!("../../crates/notify-protocol/testdata/vectors.jsonl").lines();
        let mut lines = 0;
        for vector in vectors.map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            let expect = &vector["expect"];
            if expect["line_enc"] == "b64" {
                let line = BASE64_STANDARD.decode(expect["line"].as_str().unwrap()).unwrap();
                // Some bodies nest deeper, or hold larger numbers, than a document can be built from.
                if serde_json::from_slice::<Value>(&line).is_ok() {
                    lines += 1;
                    ClientMessage::Notification.check(&line).unwrap();
                }
            }
        }
        assert!(lines > 100, "{lines}");
    }
}
