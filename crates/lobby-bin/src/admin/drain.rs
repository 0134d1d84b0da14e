//! `/drain`: how far it is, and the order to begin.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};

use super::Admin;

/// Where a lobby stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainState {
    pub draining: bool,
    /// Logged-in sessions that have not been told to go.
    pub sessions: u64,
    /// Connections that are open, told or not.
    pub connections: u64,
    /// Over how long sessions are told, in milliseconds (`shutdown.drain_window`).
    pub window_ms: u64,
    /// How long a drain may take (`shutdown.drain_timeout`).
    pub limit_ms: u64,
}

pub async fn look(State(admin): State<Admin>) -> Json<DrainState> {
    Json(state(&admin))
}

/// Begins to drain, or says how far it is where that has begun already.
pub async fn order(State(admin): State<Admin>) -> (StatusCode, Json<DrainState>) {
    admin.drain.order();
    (StatusCode::ACCEPTED, Json(DrainState { draining: true, ..state(&admin) }))
}

fn state(admin: &Admin) -> DrainState {
    let figures = &admin.state.figures;
    let times = admin.drain.times();
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    DrainState {
        draining: figures.readiness.is_draining(),
        sessions: figures.sessions.stats().sessions.iter().sum(),
        connections: figures.gate.doorkeeper.open() as u64,
        window_ms: millis(times.window),
        limit_ms: millis(times.limit),
    }
}
