//! `/api/sessions`: who is logged in; `/api/sessions/kick`: one of them no longer.

use axum::{
    Json,
    extract::{Query, State},
};
use lobby_sessions::{SessionInfo, SessionQuery};
use notify_protocol::UserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;

/// Sessions that one answer has unless asked for more or less, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// The longest text that is searched for.
const MAX_TEXT: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    #[serde(default)]
    text: String,
    /// This user's sessions only.
    user: Option<i64>,
    limit: Option<usize>,
}

impl Search {
    fn query(&self) -> SessionQuery {
        SessionQuery {
            text: self.text.trim().chars().take(MAX_TEXT).collect(),
            user: self.user.map(UserId::new),
            limit: self.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT),
        }
    }
}

pub async fn list(State(admin): State<Admin>, Query(search): Query<Search>) -> Json<Value> {
    let listing = admin.state.figures.sessions.list(&search.query()).await;
    let sessions: Vec<_> = listing.sessions.iter().map(shown).collect();
    Json(json!({"matching": listing.matching, "sessions": sessions}))
}

fn shown(session: &SessionInfo) -> Value {
    json!({
        "user": session.user.get(),
        "serial": session.serial,
        "login": session.login,
        "peer": session.peer.to_string(),
        "transport": session.transport.as_str(),
        "tls": session.tls,
        "age_s": session.age.as_secs(),
        "queued_bytes": session.queued_bytes,
        "behind_ms": session.behind.map(|behind| u64::try_from(behind.as_millis()).unwrap_or(u64::MAX)),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kick {
    user: i64,
    serial: u64,
}

pub async fn kick(State(admin): State<Admin>, Json(kick): Json<Kick>) -> Json<Value> {
    let kicked = admin.state.figures.sessions.kick(UserId::new(kick.user), kick.serial).await;
    Json(json!({"kicked": kicked}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_no_more_sessions_than_its_limit_whatever_is_asked_for() {
        for (asked, limit) in
            [(None, 100), (Some(0), 0), (Some(7), 7), (Some(1000), 1000), (Some(usize::MAX), 1000)]
        {
            let text = " x".repeat(MAX_TEXT);
            let query = Search { text, user: None, limit: asked }.query();
            assert_eq!((query.limit, query.text.len()), (limit, MAX_TEXT), "{asked:?}");
        }
    }
}
