//! `/trace`: the last decisions, for one user or for nobody.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use notify_protocol::UserId;
use serde::Deserialize;
use serde_json::json;

use crate::trace::{DEFAULT_LIMIT, Outcome, Page, Trace};

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Messages to this user and broadcasts; without it, what somebody may miss.
    user: Option<i64>,
    /// No broadcasts.
    #[serde(default)]
    own: bool,
    /// All that came to this, whomever it was for.
    outcome: Option<Outcome>,
    /// At most [`MAX_LIMIT`](crate::trace::MAX_LIMIT).
    limit: Option<usize>,
}

impl Question {
    /// # Errors
    /// Parameters that contradict each other; the text says which.
    fn put_to(&self, trace: &Trace) -> Result<Page, &'static str> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        match (self.user.map(UserId::new), self.own, self.outcome) {
            (Some(user), true, None) => Ok(trace.addressed_to(user, limit)),
            (Some(user), false, None) => Ok(trace.about(user, limit)),
            (None, false, Some(outcome)) => Ok(trace.with_outcome(outcome, limit)),
            (None, false, None) => Ok(trace.missed(limit)),
            (None, true, _) => Err("own=true needs a user: /trace?user=42&own=true"),
            (Some(_), _, Some(_)) => Err("outcome is about everybody's messages: leave user out"),
        }
    }
}

/// The route, with the ring that it reads.
pub fn routes(trace: Arc<Trace>) -> Router {
    Router::new().route("/trace", get(answer)).with_state(trace)
}

async fn answer(State(trace): State<Arc<Trace>>, Query(question): Query<Question>) -> Response {
    match question.put_to(&trace) {
        Ok(page) => Json(page).into_response(),
        Err(why) => (StatusCode::BAD_REQUEST, Json(json!({"error": why}))).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use lobby_sessions::FrameMeter;
    use notify_amqp::Delivery;
    use notify_protocol::DropReason;

    use super::*;
    use crate::trace::Decided;

    #[test]
    fn each_question_chooses_its_decisions() {
        let trace = Trace::new(Arc::new(FrameMeter::new(8)));
        let reason = DropReason::NotObject { found: "array" };
        let user = |id| Decided::User(UserId::new(id));
        for decided in [user(42), Decided::Dropped(&reason), Decided::Everyone, user(7), Decided::Channel] {
            trace.record(&Delivery::detached("request.client.notify", b"{}".to_vec()), decided);
        }
        for (query, serials) in [
            ("user=42", Ok(vec![0, 2])),
            ("user=042&own=true", Ok(vec![0])),
            ("user=43&own=true", Ok(vec![])),
            ("user=42&limit=1", Ok(vec![2])),
            ("outcome=dropped", Ok(vec![1])),
            ("outcome=unfinished&limit=2", Ok(vec![2, 3])),
            ("", Ok(vec![1, 4])),
            ("own=true", Err("needs a user")),
            ("user=42&outcome=dropped", Err("leave user out")),
            ("user=42&own=true&outcome=dropped", Err("leave user out")),
        ] {
            let uri = format!("/trace?{query}").parse().expect("an address");
            let Query(question) = Query::<Question>::try_from_uri(&uri).expect(query);
            let answer = question.put_to(&trace);
            let found =
                answer.as_ref().map(|page| page.decisions.iter().map(|d| d.serial).collect::<Vec<_>>());
            match serials {
                Ok(serials) => assert_eq!(found, Ok(serials), "{query}"),
                Err(words) => assert!(found.is_err_and(|why| why.contains(words)), "{query}"),
            }
        }
        for query in ["user=x", "own=yes&user=1", "outcome=lost", "everyone=true"] {
            let uri = format!("/trace?{query}").parse().expect("an address");
            assert!(Query::<Question>::try_from_uri(&uri).is_err(), "{query}");
        }
    }
}
