//! What a client says, decoded from one inbound message.

use serde::Deserialize;

use crate::CloseReason;

/// A client's command.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// Asks for a session number; optional, first.
    AskSession,
    /// Logs in, or, while open, extends the session. A missing token counts as one that does not verify.
    Auth {
        /// The JWT as sent.
        token: String,
    },
    /// Asks whether the lobby is there.
    Ping,
    /// Answers the lobby's ping.
    Pong,
    /// Anything else.
    Unknown,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AskSession => "AskSession",
            Self::Auth { .. } => "Auth { token: *** }",
            Self::Ping => "Ping",
            Self::Pong => "Pong",
            Self::Unknown => "Unknown",
        })
    }
}

#[derive(Deserialize)]
struct Fields {
    command: Option<serde_json::Value>,
    token: Option<serde_json::Value>,
}

impl Command {
    /// Decodes one message.
    ///
    /// # Errors
    /// The reason to close with: 1007 for bytes that are not UTF-8; 4503 for what is not a JSON object with a
    /// `command` that is a string, or is nested more than 128 deep.
    pub fn decode(message: &[u8]) -> Result<Self, CloseReason> {
        let text = std::str::from_utf8(message).map_err(|_| CloseReason::NotUtf8)?;
        let text = text.trim_start_matches([' ', '\t', '\r', '\n']);
        if !text.starts_with('{') {
            return Err(CloseReason::Protocol("a message must be a JSON object"));
        }
        let fields: Fields = serde_json::from_str(text)
            .map_err(|_| CloseReason::Protocol("a message must be one JSON object"))?;
        let Some(serde_json::Value::String(command)) = fields.command else {
            return Err(CloseReason::Protocol("a message must have a `command` that is a string"));
        };
        Ok(match command.as_str() {
            "ask_session" => Self::AskSession,
            "auth" => Self::Auth {
                token: match fields.token {
                    Some(serde_json::Value::String(token)) => token,
                    _ => String::new(),
                },
            },
            "ping" => Self::Ping,
            "pong" => Self::Pong,
            _ => Self::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_apart_by_their_name_alone() {
        let token = |t: &str| Command::Auth { token: t.into() };
        for (text, want) in [
            (r#"{"command":"ask_session","user_agent":"x","version":"1"}"#, Command::AskSession),
            (r#"{"token":"abc","command":"auth","unique_id":"u","session":1}"#, token("abc")),
            (r#"{"command":"auth"}"#, token("")),
            (r#"{"command":"auth","token":7}"#, token("")),
            (r#" {"command":"ping"}"#, Command::Ping),
            (r#"{"command":"pong","extra":[1,{"a":null}]}"#, Command::Pong),
            (r#"{"command":"Ping"}"#, Command::Unknown),
        ] {
            assert_eq!(Command::decode(text.as_bytes()), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_command_closes_with_4503_and_bad_utf8_with_1007() {
        let deep = format!("{{\"command\":{}{}}}", "[".repeat(60_000), "]".repeat(60_000));
        for text in ["", "x", "[]", "\"ping\"", "{}", r#"{"command":1}"#, r#"{"command":"ping"} x"#, &deep] {
            assert_eq!(Command::decode(text.as_bytes()).map_err(CloseReason::code), Err(4503));
        }
        assert_eq!(Command::decode(b"{\"command\":\"\xff\"}"), Err(CloseReason::NotUtf8));
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        assert!(!format!("{:?}", Command::Auth { token: "s3cret".into() }).contains("s3cret"));
    }
}
