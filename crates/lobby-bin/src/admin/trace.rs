//! `/trace`: the last decisions, for one user or for nobody.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use notify_protocol::UserId;
use serde::Deserialize;

use crate::trace::{DEFAULT_LIMIT, Page, Trace};

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Messages to this user and broadcasts; without it, what somebody may miss.
    user: Option<i64>,
    /// At most [`MAX_LIMIT`](crate::trace::MAX_LIMIT).
    limit: Option<usize>,
}

/// The route, with the ring that it reads.
pub fn routes(trace: Arc<Trace>) -> Router {
    Router::new().route("/trace", get(answer)).with_state(trace)
}

async fn answer(State(trace): State<Arc<Trace>>, Query(question): Query<Question>) -> Json<Page> {
    let limit = question.limit.unwrap_or(DEFAULT_LIMIT);
    Json(match question.user {
        Some(user) => trace.about(UserId::new(user), limit),
        None => trace.missed(limit),
    })
}
