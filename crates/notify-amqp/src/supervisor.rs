//! Keeps one consumer alive: connect, declare, consume, and again.
use crate::{
    consumer::{ConsumerConfig, Dispatch},
    stats::ConsumerStats,
    status::{ConsumerStatus, Stopped},
};
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) struct Supervisor<D> {
    _config: ConsumerConfig,
    _dispatch: D,
    stop: watch::Receiver<bool>,
    _status: watch::Sender<ConsumerStatus>,
    _stats: Arc<ConsumerStats>,
}

impl<D: Dispatch> Supervisor<D> {
    pub(crate) fn new(
        _config: ConsumerConfig,
        _dispatch: D,
        stop: watch::Receiver<bool>,
        _status: watch::Sender<ConsumerStatus>,
        _stats: Arc<ConsumerStats>,
    ) -> Self {
        Self { _config, _dispatch, stop, _status, _stats }
    }
    pub(crate) async fn run(mut self) -> Stopped {
        let _ = self.stop.changed().await;
        Stopped::default()
    }
}
