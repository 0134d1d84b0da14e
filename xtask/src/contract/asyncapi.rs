//! An AsyncAPI 3 document of both sides: what publishers send through RabbitMQ, and what clients send and get.

use notify_protocol::{
    CHANNEL_HEADER, DEFAULT_EXCHANGE, EXCHANGE_KIND, NOTIFY_ROUTING_KEY, RECEIPT_HEADER, ReceiptScope,
    TRACEPARENT_HEADER, USER_ID_HEADER, limits::DEFAULT_MAX_BODY_BYTES,
};
use serde_json::{Map, Value, json};

const TRACEPARENT: &str = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$";

const REPLY_TO: &str = "$message.header#/reply_to";
const CORRELATION_ID: &str = "$message.header#/correlation_id";
/// What a publisher writes: `notify_protocol::RECEIPT_QUEUES`, and direct reply-to before the broker adds to it.
const REPLY_QUEUES: &str = r"^(amq\.gen-|amq\.rabbitmq\.reply-to$|lobby-receipts\.)";
/// The property `type` of a receipt.
const RECEIPT_KIND: &str = "lobby.receipt";

pub(super) fn document() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:lobby",
        "info": {
            "title": "lobby",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Trusted backend services publish notifications to RabbitMQ; the lobby writes each to the sockets of \
                            the players it is for. Made by `cargo xtask docs` from xtask/src/contract/asyncapi.rs.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "rabbitmq": {
                "host": "127.0.0.1:5672",
                "protocol": "amqp",
                "protocolVersion": "0-9-1",
                "description": "Where publishers and lobbies meet.",
            },
            "websocket": {"host": "127.0.0.1:8003", "pathname": "/", "protocol": "ws", "description": "Clients."},
            "tcp": {"host": "127.0.0.1:8002", "protocol": "tcp", "description": "Clients; one JSON object a line."},
        },
        "channels": {
            "notifications": {
                "address": NOTIFY_ROUTING_KEY,
                "title": "Notifications",
                "description": "The routing key of the exchange that every lobby's queue is bound to. Publish with the mandatory \
                                flag and wait for the confirm: a message that no lobby is bound for is returned.",
                "servers": [{"$ref": "#/servers/rabbitmq"}],
                "messages": messages(&["toUser", "toChannel", "toEveryone"]),
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": {"name": DEFAULT_EXCHANGE, "type": EXCHANGE_KIND, "durable": true, "autoDelete": false},
                        "bindingVersion": "0.3.0",
                    },
                },
            },
            "receipts": {
                "address": null,
                "title": "Receipts",
                "description": "The queue that the message's property reply_to names: receipts go there through the default \
                                exchange. Expires after 60 s, is sent at most once, and may be lost: a missing one proves nothing.",
                "servers": [{"$ref": "#/servers/rabbitmq"}],
                "messages": messages(&["receipt"]),
                "bindings": {
                    "amqp": {
                        "is": "queue",
                        "queue": {"durable": false, "exclusive": true, "autoDelete": true},
                        "bindingVersion": "0.3.0",
                    },
                },
            },
            "client": {
                "address": "/",
                "title": "A client's connection",
                "description": "TCP: one object a line. WebSocket: one object a message, ended by a newline too.",
                "servers": [{"$ref": "#/servers/websocket"}, {"$ref": "#/servers/tcp"}],
                "messages": messages(&[
                    "askSession", "auth", "ping", "pong", "session", "welcome", "authenticationFailed", "notice", "invalid",
                    "closing", "notification",
                ]),
            },
        },
        "operations": {
            "takeNotifications": {
                "action": "receive",
                "summary": "Publishers send, each lobby takes.",
                "channel": {"$ref": "#/channels/notifications"},
                "messages": of("notifications", &["toUser", "toChannel", "toEveryone"]),
                "reply": {
                    "address": {
                        "description": "The AMQP property reply_to. Only who asks by x-lobby-receipt is answered.",
                        "location": REPLY_TO,
                    },
                    "channel": {"$ref": "#/channels/receipts"},
                    "messages": of("receipts", &["receipt"]),
                },
            },
            "listenToClients": {
                "action": "receive",
                "summary": "What clients send.",
                "channel": {"$ref": "#/channels/client"},
                "messages": of("client", &["askSession", "auth", "ping", "pong"]),
            },
            "tellClients": {
                "action": "send",
                "summary": "What clients get.",
                "channel": {"$ref": "#/channels/client"},
                "messages": of("client", &[
                    "session", "welcome", "authenticationFailed", "ping", "pong", "notice", "invalid", "closing", "notification",
                ]),
            },
        },
        "components": {"messages": component_messages()},
    })
}

fn messages(names: &[&str]) -> Value {
    let reference =
        |name: &&str| ((*name).to_owned(), json!({"$ref": format!("#/components/messages/{name}")}));
    names.iter().map(reference).collect::<Map<_, _>>().into()
}

fn of(channel: &str, names: &[&str]) -> Value {
    names.iter().map(|name| json!({"$ref": format!("#/channels/{channel}/messages/{name}")})).collect()
}

fn component_messages() -> Value {
    let mut messages = Map::new();
    messages.insert("toUser".to_owned(), published(
        "To every session of one player",
        "The header is an integer of any AMQP type within 64 bits signed, or text of digits. Void counts as not set: the \
         message would reach everyone. Boolean, float and anything else are dropped. The AMQP property user-id is another \
         thing, the broker's login.",
        json!({USER_ID_HEADER: {"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}}),
        &[USER_ID_HEADER],
    ));
    messages.insert(
        "toChannel".to_owned(),
        published(
            "To one channel",
            "Reserved: recognised, acknowledged and sent to nobody.",
            json!({CHANNEL_HEADER: {"type": "string"}}),
            &[CHANNEL_HEADER],
        ),
    );
    messages.insert(
        "toEveryone".to_owned(),
        published("To every player who is logged in", "Neither user-id nor channel is set.", json!({}), &[]),
    );
    for (name, title) in [
        ("askSession", "Asks for a session number"),
        ("auth", "Logs in"),
        ("ping", "Are you there?"),
        ("pong", "The answer to ping"),
        ("session", "The session number"),
        ("welcome", "Logged in"),
        ("authenticationFailed", "The token does not verify"),
        ("notice", "A text for a person"),
        ("invalid", "A command that the lobby does not know"),
        ("closing", "The last line before the lobby closes"),
        ("notification", "A publisher's own object"),
    ] {
        let payload = json!({"$ref": format!("./client-messages.schema.json#/$defs/{name}")});
        messages.insert(name.to_owned(), json!({"title": title, "payload": payload}));
    }
    messages.insert(
        "receipt".to_owned(),
        json!({
            "title": "What became of a message on one lobby",
            "description": "From each lobby that has an opinion: it wrote or dropped the message, or could not write it; asked for \
                            all, also that nobody who is addressed is connected.",
            "contentType": "application/json",
            "correlationId": {"description": "The asker's.", "location": CORRELATION_ID},
            "headers": {
                "type": "object",
                "properties": {
                    "correlation_id": property(json!({"type": "string"})),
                    "type": property(json!({"const": RECEIPT_KIND})),
                },
                "required": ["correlation_id", "type"],
            },
            "payload": {"$ref": "./receipt.schema.json"},
            "bindings": {
                "amqp": {"contentEncoding": "utf-8", "messageType": RECEIPT_KIND, "bindingVersion": "0.3.0"},
            },
        }),
    );
    messages.into()
}

/// A basic property, which AsyncAPI has no place for but among the headers.
fn property(mut schema: Value) -> Value {
    let own = schema["description"].as_str().map(|text| format!(" {text}")).unwrap_or_default();
    schema["description"] =
        format!("The AMQP property of this name, not an entry of the headers' table.{own}").into();
    schema["x-amqp"] = "property".into();
    schema
}

fn published(title: &str, description: &str, mut headers: Value, required: &[&str]) -> Value {
    headers[TRACEPARENT_HEADER] = json!({"type": "string", "pattern": TRACEPARENT});
    headers[RECEIPT_HEADER] = json!({
        "enum": [ReceiptScope::WrittenOnly.as_str(), ReceiptScope::All.as_str()],
        "description": "Asks lobbies for a receipt: all of them, or not those where nobody who is addressed is connected.",
    });
    headers["reply_to"] = property(json!({
        "type": "string",
        "pattern": REPLY_QUEUES,
        "description": "The queue for receipts: one that the broker named, direct reply-to, or `lobby-receipts.` and more.",
    }));
    headers["correlation_id"] = property(json!({
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "description": "Comes back with each receipt.",
    }));
    json!({
        "title": title,
        "description": description,
        "contentType": "application/json",
        "correlationId": {"location": CORRELATION_ID},
        "headers": {
            "type": "object",
            "properties": headers,
            "required": required,
            "dependencies": {RECEIPT_HEADER: ["reply_to", "correlation_id"]},
        },
        "payload": {
            "type": "object",
            "description": format!(
                "One UTF-8 JSON object of at most {DEFAULT_MAX_BODY_BYTES} bytes; clients get it byte for byte, line ends \
                 between tokens as blanks."
            ),
        },
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": "0.3.0"}},
    })
}
