//! JSON Schema (2020-12) of what clients send and get. Its words are those of `docs/client-protocol.md`.

use serde_json::{Value, json};

/// Codes after which a client comes back by itself, and the others that the lobby sends.
const RETURN: [u16; 7] = [1001, 1012, 1013, 4000, 4001, 4002, 4004];
const STAY_AWAY: [u16; 8] = [1002, 1007, 1008, 1009, 4500, 4501, 4502, 4503];

pub(super) fn document() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:lobby:client-messages",
        "$comment": "Made by `cargo xtask docs` from xtask/src/contract/schema.rs.",
        "title": "What clients of the lobby send and get",
        "description": "One JSON object per line on TCP (ended by a newline), one per message on WebSocket.",
        "anyOf": [{"$ref": "#/$defs/fromClient"}, {"$ref": "#/$defs/fromLobby"}],
        "$defs": {
            "fromClient": {
                "description": "What a client may send. Any other command is answered by `invalid` once logged in, and closes with 4503 before.",
                "anyOf": references(&["askSession", "auth", "ping", "pong"]),
            },
            "fromLobby": {
                "description": "What a client gets. Only what follows the `welcome` can be a notification, which may have any `command`, or none.",
                "anyOf": references(&[
                    "session", "welcome", "authenticationFailed", "ping", "pong", "notice", "invalid", "closing", "notification",
                ]),
            },
            "askSession": message("ask_session", "Asks for a number that names the connection; optional, first.", json!({
                "user_agent": {"type": "string"},
                "version": {"type": "string"},
            }), &[], json!({"command": "ask_session", "user_agent": "faf-client", "version": "1.2.3"})),
            "auth": message("auth", "Logs in; sent again while open, with a fresh token of the same user, it extends the session.", json!({
                "token": {"type": "string", "description": "A JWT."},
                "unique_id": {"type": "string"},
                "session": {"type": ["integer", "string"]},
            }), &["token"], json!({"command": "auth", "token": "eyJhbGciOi…", "unique_id": "x", "session": 1_234_567_890})),
            "ping": message("ping", "Either side may ask whether the other is there.", json!({}), &[], json!({"command": "ping"})),
            "pong": message("pong", "The answer to `ping`.", json!({}), &[], json!({"command": "pong"})),
            "session": message("session", "The answer to `ask_session`.", json!({
                "session": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
            }), &["session"], json!({"command": "session", "session": 1_234_567_890})),
            "welcome": message("welcome", "Logged in. Notifications follow it and never precede it.", json!({
                "me": {
                    "type": "object",
                    "properties": {"id": {"type": "integer"}, "login": {"type": "string"}},
                    "required": ["id", "login"],
                },
                "id": {"type": "integer"},
                "login": {"type": "string"},
                "current_time": {"type": "string", "format": "date-time"},
            }), &["me", "id", "login", "current_time"], json!({
                "command": "welcome", "me": {"id": 42, "login": "Zep"}, "id": 42, "login": "Zep",
                "current_time": "2026-01-31T12:00:00.123Z",
            })),
            "authenticationFailed": message("authentication_failed", "A token that does not verify; three of them close with 4500.",
                json!({"text": {"type": "string"}}), &["text"],
                json!({"command": "authentication_failed", "text": "The login was not accepted. Log in again."})),
            "notice": message("notice", "For a person's eyes. Publishers use the same form for their own texts.", json!({
                "style": {"enum": ["error", "kick", "info"]},
                "text": {"type": "string"},
            }), &["style", "text"], json!({"command": "notice", "style": "info", "text": "Restart at 12:00"})),
            "invalid": message("invalid", "A command that the lobby does not know; the connection is kept.",
                json!({"text": {"type": "string"}}), &["text"],
                json!({"command": "invalid", "text": "unknown command: send ask_session, auth, ping or pong"})),
            "closing": closing(),
            "notification": {
                "description": "A publisher's own object, byte for byte but for line ends between its tokens.",
                "type": "object",
                "examples": [{"command": "notice", "style": "info", "text": "Your friend came online"}, {}],
            },
        },
    })
}

fn references(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"$ref": format!("#/$defs/{name}")})).collect()
}

/// An object with a `command`; what else it holds is allowed, so that messages can grow.
fn message(
    command: &str,
    description: &str,
    mut properties: Value,
    required: &[&str],
    example: Value,
) -> Value {
    properties["command"] = json!({"const": command});
    let required: Vec<_> = std::iter::once(&"command").chain(required).collect();
    json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "examples": [example],
    })
}

fn closing() -> Value {
    let codes: Vec<_> = RETURN.iter().chain(&STAY_AWAY).collect();
    let mut message = message(
        "closing",
        "The last line before the lobby closes; on WebSocket the close frame has the same code and reason.",
        json!({
            "code": {"enum": codes},
            "reason": {"type": "string"},
            "reconnect": {"type": "boolean", "description": "Whether the client should come back by itself."},
            "retry_after_ms": {"type": "integer", "minimum": 0},
        }),
        &["code", "reason", "reconnect"],
        json!({"command": "closing", "code": 1012, "reason": "the lobby restarts", "reconnect": true, "retry_after_ms": 1200}),
    );
    message["if"] = json!({"properties": {"code": {"enum": RETURN}}, "required": ["code"]});
    message["then"] = json!({"properties": {"reconnect": {"const": true}}});
    message["else"] = json!({"properties": {"reconnect": {"const": false}}});
    message
}
