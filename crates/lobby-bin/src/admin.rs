//! The admin address: `/live`, `/ready`, `/metrics`, `/trace`.

mod trace;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{self, Figures},
    readiness::Readiness,
    trace::Trace,
};

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    figures: Figures,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    figures: Figures,
    trace: Arc<Trace>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/", get(index))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(render))
        .with_state(Admin { readiness, figures })
        .merge(trace::routes(trace));
    // Serving fails only with the listener, which is ours.
    let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
}

async fn index() -> &'static str {
    "lobby\n/live     the process serves\n/ready    it consumes from the broker\n/metrics  Prometheus text\n/trace    the last messages that somebody may miss; /trace?user=42: the last for one user\n"
}

async fn ready(State(admin): State<Admin>) -> Response {
    let (ready, why) = admin.readiness.check();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(why)).into_response()
}

async fn render(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::render(&admin.figures)).into_response()
}
