//! What became of handshakes, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lobby_sessions::CloseReason;

/// How many handshakes there are, and how the others ended.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that have not logged in yet.
    pub handshakes: AtomicU64,
    pub logged_in: AtomicU64,
    pub refused_tokens: AtomicU64,
    pub refused_upgrades: AtomicU64,
    pub left: AtomicU64,
    /// Connections of listed proxies that did not begin with a PROXY header.
    pub bad_proxy_headers: AtomicU64,
    pub failed_tls: AtomicU64,
    closed: [AtomicU64; lobby_sessions::CLOSE_CODES.len()],
}

impl Counts {
    /// Counts one that was closed with `reason`.
    pub fn closed_with(&self, reason: CloseReason) {
        if let Some(slot) = lobby_sessions::CLOSE_CODES.iter().position(|c| *c == reason.code()) {
            self.closed[slot].fetch_add(1, Relaxed);
        }
    }

    /// Connections closed before login, by code, in the order of [`lobby_sessions::CLOSE_CODES`].
    pub fn closes(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        lobby_sessions::CLOSE_CODES.into_iter().zip(self.closed.iter().map(|c| c.load(Relaxed)))
    }
}

/// Counts one more for as long as it lives.
pub struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    /// Counts it.
    pub fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
