//! The admin address: `/live`, `/ready`, `/metrics`, `/trace`, `/drain`, and the console.

mod drain;
mod feed;
mod guard;
mod listening;
mod page;
mod publish;
mod sample;
mod sessions;
mod state;
mod trace;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::{drain::DrainState, publish::Desk, sample::Sample, state::hello};
use self::{feed::Feed, guard::Want, state::State as LobbyState};
use crate::{
    app::DrainDesk,
    config::Secret,
    metrics::{self, Figures},
    trace::Trace,
};

/// The largest test notification, as JSON text in JSON.
const MAX_DRAFT: usize = 256 * 1024;

/// What the console is made from.
pub struct Console {
    /// `admin.token`.
    pub token: Arc<ArcSwap<Secret>>,
    /// See [`hello`].
    pub hello: Value,
    /// What its form publishes with.
    pub desk: Desk,
    pub drain: DrainDesk,
}

#[derive(Clone)]
struct Admin {
    state: LobbyState,
    feed: Feed,
    hello: Arc<Value>,
    desk: Arc<Desk>,
    drain: DrainDesk,
    token: Arc<ArcSwap<Secret>>,
    stop: CancellationToken,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    figures: Figures,
    trace: Arc<Trace>,
    console: Console,
    stop: CancellationToken,
) {
    let state = LobbyState { figures };
    let feed = Feed::new();
    tokio::spawn(feed.clone().run(state.clone(), stop.clone()));
    let admin = Admin {
        state,
        feed,
        hello: Arc::new(console.hello),
        desk: Arc::new(console.desk),
        drain: console.drain,
        token: Arc::clone(&console.token),
        stop: stop.clone(),
    };
    let token = console.token;
    let guarded = |want| {
        let token = Arc::clone(&token);
        middleware::from_fn(move |request, next| guard(want, Arc::clone(&token), request, next))
    };
    let looks = Router::new()
        .route("/api/events", get(events))
        .route("/api/sessions", get(sessions::list))
        .route("/drain", get(drain::look))
        .with_state(admin.clone())
        .merge(trace::routes(trace))
        .layer(guarded(Want::Look));
    let acts = Router::new()
        .route("/api/sessions/kick", post(sessions::kick))
        .route("/api/publish", limited(post(publish::publish)))
        .route("/drain", post(drain::order))
        .with_state(admin.clone())
        .layer(guarded(Want::Act));
    let router = Router::new()
        .route("/", get(page::index))
        .route("/console.js", get(page::script))
        .route("/missed.js", get(page::missed))
        .route("/common.js", get(page::common))
        .route("/console.css", get(page::style))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(render))
        .with_state(admin)
        .merge(looks)
        .merge(acts);
    listening::serve(listener, router, listening::Limits::default(), stop).await;
}

/// Reads no more of a request than a draft may have.
fn limited<S: Clone + Send + Sync + 'static>(route: MethodRouter<S>) -> MethodRouter<S> {
    route.layer(DefaultBodyLimit::max(MAX_DRAFT))
}

async fn guard(want: Want, token: Arc<ArcSwap<Secret>>, request: Request, next: Next) -> Response {
    match guard::judge(want, request.headers(), &token.load()) {
        Ok(()) => next.run(request).await,
        Err(denied) => (denied.status, Json(json!({"error": denied.why}))).into_response(),
    }
}

async fn events(State(admin): State<Admin>) -> Response {
    let mut hello = admin.hello.as_ref().clone();
    hello["state"] = admin.state.now();
    hello["acts"] = json!(admin.token.load().is_set());
    match admin.feed.watch(hello, admin.stop.clone()) {
        Some(events) => events.into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": "too many watch already"})))
            .into_response(),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    let (ready, why) = admin.state.figures.readiness.check();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(why)).into_response()
}

async fn render(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::render(&admin.state.figures)).into_response()
}

/// Whether the reader is a browser, and not a person with a terminal.
fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_test_notification_over_its_limit_is_refused() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let counted = async |body: String| body.len().to_string();
        let router = Router::new().route("/", limited(post(counted)));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        for (bytes, status) in [(MAX_DRAFT, StatusCode::OK), (MAX_DRAFT + 1, StatusCode::PAYLOAD_TOO_LARGE)] {
            let sent = client.post(&url).body("x".repeat(bytes)).send().await.expect("an answer");
            assert_eq!(sent.status(), status, "{bytes} bytes");
        }
        serving.abort();
    }
}
