//! JSON Schema (2020-12) of a delivery receipt. Its words are those of `docs/receipts.md`.

use std::sync::LazyLock;

use anyhow::{Context as _, anyhow};
use jsonschema::Validator;
use notify_protocol::{DropReason, ReceiptOutcome};
use serde_json::{Value, json};

/// What a lobby of this version says.
const OUTCOMES: [ReceiptOutcome; 5] = [
    ReceiptOutcome::Written,
    ReceiptOutcome::NotConnected,
    ReceiptOutcome::Dropped,
    ReceiptOutcome::Overflowed,
    ReceiptOutcome::Disconnected,
];

static VALIDATOR: LazyLock<Result<Validator, String>> =
    LazyLock::new(|| jsonschema::validator_for(&document()).map_err(|error| error.to_string()));

pub(super) fn document() -> Value {
    let dropped = ReceiptOutcome::Dropped.to_string();
    let reasons: Vec<_> = DropReason::LABELS.into_iter().chain(["channel_reserved"]).collect();
    let sessions = |what| json!({"type": "integer", "minimum": 0, "description": what});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:lobby:receipt",
        "$comment": "Made by `cargo xtask docs` from xtask/src/contract/receipt.rs.",
        "title": "What became of a message on one lobby",
        "description": "A later lobby may have further fields and further words for `outcome` and `reason`: readers pass over \
                        what they do not know.",
        "type": "object",
        "properties": {
            "instance": {"type": "string", "description": "The lobby."},
            "message_id": {"type": ["string", "null"], "description": "The message's property message-id."},
            "outcome": {
                "enum": OUTCOMES.map(|outcome| outcome.to_string()),
                "description": "`written`: the kernel took all of it for at least one session; whether a client read it nobody \
                                says.",
            },
            "reason": {"enum": reasons, "description": "Why the lobby drops it."},
            "sessions_matched": sessions("Sessions on this lobby that were addressed."),
            "sessions_written": sessions("Of these, the ones whose socket took the whole message."),
            "sessions_overflowed": sessions("Of these, the ones that were too slow."),
            "micros": {
                "type": "integer",
                "minimum": 0,
                "description": "Microseconds from the broker's delivery to the end of the batch of writes that the last write \
                                was in; without a write, to the decision.",
            },
        },
        "required": [
            "instance", "message_id", "outcome", "sessions_matched", "sessions_written", "sessions_overflowed", "micros",
        ],
        "if": {"properties": {"outcome": {"const": dropped}}, "required": ["outcome"]},
        "then": {"required": ["reason"]},
        "else": {"not": {"required": ["reason"]}},
        "examples": [
            {
                "instance": "pod-7", "message_id": "m-1", "outcome": "written", "sessions_matched": 1,
                "sessions_written": 1, "sessions_overflowed": 0, "micros": 212,
            },
            {
                "instance": "pod-8", "message_id": null, "outcome": "dropped", "reason": "non_json",
                "sessions_matched": 0, "sessions_written": 0, "sessions_overflowed": 0, "micros": 9,
            },
        ],
    })
}

/// # Errors
/// The body is not what the schema says of a receipt.
pub(crate) fn check(body: &[u8]) -> anyhow::Result<()> {
    let validator = VALIDATOR.as_ref().map_err(|error| anyhow!("the schema: {error}"))?;
    let value: Value = serde_json::from_slice(body).context("a receipt")?;
    validator
        .validate(&value)
        .map_err(|error| anyhow!("a receipt does not fit the schema: {error}; it is {value}"))
}

#[cfg(test)]
mod tests {
    use notify_protocol::Receipt;

    use super::*;

    #[test]
    fn the_schema_is_one_and_its_examples_fit() {
        let document = document();
        assert!(jsonschema::meta::is_valid(&document));
        for example in document["examples"].as_array().unwrap() {
            check(example.to_string().as_bytes()).unwrap();
        }
    }

    #[test]
    fn what_a_lobby_writes_fits() {
        for outcome in OUTCOMES {
            let receipt = Receipt {
                instance: "pod-7".to_owned(),
                message_id: None,
                outcome,
                reason: (outcome == ReceiptOutcome::Dropped).then(|| "too_large".to_owned()),
                sessions_matched: 3,
                sessions_written: 2,
                sessions_overflowed: 1,
                micros: u64::MAX,
            };
            check(&receipt.to_json()).unwrap();
        }
    }

    #[test]
    fn a_receipt_that_says_less_or_else_does_not_fit() {
        let good = document()["examples"][0].clone();
        for (key, value) in [
            ("instance", json!(7)),
            ("message_id", json!(true)),
            ("outcome", json!("read")),
            ("outcome", json!("dropped")), // without a reason
            ("reason", json!("non_json")), // of a message that was written
            ("sessions_written", json!(-1)),
            ("micros", json!(1.5)),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(check(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
        for key in ["instance", "message_id", "outcome", "sessions_matched", "sessions_overflowed", "micros"]
        {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(key);
            assert!(check(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
    }
}
