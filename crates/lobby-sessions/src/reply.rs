//! What the lobby itself says to a client, as JSON text (`CLIENT_PROTOCOL`, life of a connection).

use notify_protocol::UserId;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::CloseReason;

/// Answer to `ask_session`: a number that names the connection, as FAF's clients expect it.
pub fn session(number: u32) -> String {
    json!({"command": "session", "session": number}).to_string()
}

/// The login succeeded; every notification follows this.
pub fn welcome(user: UserId, login: &str, now: OffsetDateTime) -> String {
    let id = user.get();
    // Whole milliseconds: some clients' date parsers take no more digits. A year that RFC 3339 cannot write does
    // not come from a clock.
    let now = now.replace_millisecond(now.millisecond()).unwrap_or(now).format(&Rfc3339).unwrap_or_default();
    json!({
        "command": "welcome",
        "me": {"id": id, "login": login},
        "id": id,
        "login": login,
        "current_time": now,
    })
    .to_string()
}

/// A token did not verify. The text is the same for every cause.
pub fn authentication_failed() -> String {
    json!({"command": "authentication_failed", "text": "The login was not accepted. Log in again."})
        .to_string()
}

/// The lobby asks whether the client is there.
pub const PING: &str = r#"{"command":"ping"}"#;

/// The answer to a client's ping.
pub const PONG: &str = r#"{"command":"pong"}"#;

/// The style of a [`notice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeStyle {
    /// Something went wrong.
    Error,
    /// The player is being signed out.
    Kick,
}

/// A text for a person's eyes.
pub fn notice(style: NoticeStyle, text: &str) -> String {
    let style = match style {
        NoticeStyle::Error => "error",
        NoticeStyle::Kick => "kick",
    };
    json!({"command": "notice", "style": style, "text": text}).to_string()
}

/// An unknown command while open. The command is not reflected.
pub fn invalid() -> String {
    json!({"command": "invalid", "text": "unknown command: send ask_session, auth, ping or pong"}).to_string()
}

/// The last line before the lobby closes.
pub fn closing(reason: CloseReason, retry_after_ms: Option<u64>) -> String {
    let mut line = json!({
        "command": "closing",
        "code": reason.code(),
        "reason": reason.text(),
        "reconnect": reason.reconnect(),
    });
    if let Some(wait) = retry_after_ms {
        line["retry_after_ms"] = wait.into();
    }
    line.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welcome_names_the_user_twice_as_fafs_clients_read_it() {
        let line = welcome(UserId::new(42), "Zep \"x\"\n", OffsetDateTime::UNIX_EPOCH);
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["me"], json!({"id": 42, "login": "Zep \"x\"\n"}));
        assert_eq!((&value["id"], &value["login"]), (&json!(42), &json!("Zep \"x\"\n")));
        assert_eq!(value["current_time"], "1970-01-01T00:00:00Z");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn closing_gives_a_wait_only_where_the_client_should_return() {
        let value = |reason: CloseReason| -> serde_json::Value {
            serde_json::from_str(&closing(reason, reason.retry_after_ms(1000, 7))).expect("JSON")
        };
        assert_eq!(value(CloseReason::Restart)["retry_after_ms"], 107);
        assert_eq!(value(CloseReason::Restart)["code"], 1012);
        assert_eq!(value(CloseReason::Replaced).get("retry_after_ms"), None);
        assert_eq!(value(CloseReason::Replaced)["reconnect"], false);
    }
}
