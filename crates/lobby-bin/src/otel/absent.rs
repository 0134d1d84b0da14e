//! A lobby that was built without the feature `otel`: there is no desk, so that the compiler leaves out what asks one.

use std::{sync::Arc, time::Duration};

use lobby_sessions::Reach;
use notify_amqp::Delivery;

use super::SpanCounts;
use crate::{config::Config, trace::Verdict};

/// There is none.
#[derive(Debug)]
pub enum SpanDesk {}

/// There is none.
#[derive(Debug)]
pub enum OpenSpan {}

/// Nothing that would run, and counts that stay at 0.
#[derive(Debug)]
pub struct Spans(Arc<SpanCounts>);

impl SpanDesk {
    pub fn open(&self, _: &Delivery) -> Option<OpenSpan> {
        match *self {}
    }
}

impl OpenSpan {
    pub fn dispatched(self, _: Verdict) -> Self {
        match self {}
    }

    pub fn written(self, _: Reach, _: Duration) {
        match self {}
    }

    pub fn dropped(self, _: Verdict, _: &str) {
        match self {}
    }
}

impl Spans {
    /// `otel.endpoint` is refused by the configuration's check, so there is nothing to start.
    pub fn start(_: &Config) -> anyhow::Result<(Self, Option<SpanDesk>)> {
        Ok((Self(Arc::default()), None))
    }

    pub fn counts(&self) -> Arc<SpanCounts> {
        Arc::clone(&self.0)
    }

    pub async fn finish(self, _: Duration) {}
}
