//! Hooks around each publish, for a service's own logs, traces and metrics.

use std::{fmt, time::Duration};

use crate::{publish_error::PublishError, publisher::Published};

/// Is told of every message before it is sent first, and of its outcome.
///
/// Called on the publisher's task: it must return at once and must not panic.
pub trait PublishObserver: fmt::Debug + Send + Sync {
    /// The message is about to be sent. Once for each message, however often it is sent.
    fn before_publish(&self, publishing: &Publishing<'_>) {
        let _ = publishing;
    }

    /// The message's one outcome, and how long it took from `before_publish`.
    fn published(
        &self,
        publishing: &Publishing<'_>,
        outcome: &Result<Published, PublishError>,
        took: Duration,
    ) {
        let _ = (publishing, outcome, took);
    }
}

/// The message that a [`PublishObserver`] is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Publishing<'a> {
    /// The property `message_id`.
    pub message_id: &'a str,
    /// The exchange; empty for the default one.
    pub exchange: &'a str,
    /// The routing key.
    pub routing_key: &'a str,
    /// The body's length in bytes.
    pub body_bytes: usize,
}
