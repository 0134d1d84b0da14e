//! What the console says in words: whether the lobby is ready, where it consumes, and its limits.

use serde_json::{Value, json};

use crate::{config::Config, metrics::Figures};

/// Where the answers are.
#[derive(Debug, Clone)]
pub struct State {
    pub figures: Figures,
}

impl State {
    /// What may be different at each look.
    pub fn now(&self) -> Value {
        let (ready, why) = self.figures.readiness.check();
        let stats = self.figures.sessions.stats();
        let named = |pairs: Vec<(String, u64)>| {
            pairs
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name, json!(count)))
                .collect::<serde_json::Map<_, _>>()
        };
        let dropped = self.figures.outcomes.dropped().map(|(reason, count)| (reason.to_owned(), count));
        let codes = lobby_sessions::CLOSE_CODES.iter().zip(stats.closes);
        let before_login = self.figures.gate.counts.closes().map(|(_, count)| count);
        let closes =
            codes.zip(before_login).map(|((code, count), before)| (code.to_string(), count + before));
        let refused = self.figures.gate.doorkeeper.refused();
        let refused = refused.map(|(limit, count)| (limit.as_str().to_owned(), count));
        json!({
            "ready": ready,
            "draining": self.figures.readiness.is_draining(),
            "why": why,
            // A reload changes it.
            "max_connections": self.figures.gate.doorkeeper.most(),
            "dropped": named(dropped.collect()),
            "closes": named(closes.collect()),
            "refused": named(refused.collect()),
        })
    }
}

/// What stays the same while the process lives.
pub fn hello(config: &Config, websocket_port: Option<u16>) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "instance": config.instance_name.as_str(),
        "exchange": config.exchange.as_str(),
        "websocket": websocket_port.map(|port| json!({
            "port": port,
            "tls": config.uses_tls(lobby_sessions::Transport::WebSocket),
        })),
        "outbox_bytes": config.outbox.0,
        "outbox_total_bytes": config.outbox_total.0,
        "prefetch": config.prefetch,
    })
}
