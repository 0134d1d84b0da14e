//! Samples once a second: the last quarter of an hour kept, each new one sent to whoever watches.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt, stream};
use lobby_sessions::Snapshot;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{sample::Sample, state::State};

const PERIOD: Duration = Duration::from_secs(1);
/// Samples that are kept: a quarter of an hour, about 150 KiB.
const KEPT: usize = 900;
/// Samples that a watcher may be behind before it misses some.
const BEHIND: usize = 8;
/// Who may watch at the same time.
const WATCHERS: usize = 32;

/// The samples and those who watch.
#[derive(Debug, Clone)]
pub struct Feed {
    kept: Arc<Mutex<VecDeque<Sample>>>,
    news: broadcast::Sender<Arc<str>>,
    places: Arc<Semaphore>,
}

impl Feed {
    /// Without samples yet.
    pub fn new() -> Self {
        Self {
            kept: Arc::default(),
            news: broadcast::channel(BEHIND).0,
            places: Arc::new(Semaphore::new(WATCHERS)),
        }
    }

    /// Takes samples until `stop`. What is sent is put together only while somebody watches.
    pub async fn run(self, state: State, stop: CancellationToken) {
        let mut times = Snapshot { buckets: Vec::new(), count: 0, sum_seconds: 0.0 };
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let sample = Sample::take(&state.figures, &mut times);
            self.keep(sample);
            if self.news.receiver_count() > 0 {
                let text = json!({"sample": sample, "state": state.now()}).to_string();
                // Whoever watched has left meanwhile.
                let _ = self.news.send(text.into());
            }
        }
    }

    fn keep(&self, sample: Sample) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(sample);
    }

    /// What is kept, the oldest first.
    pub fn history(&self) -> Vec<Sample> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// First the history beside `hello`, then each sample as it is taken. Nothing when too many watch already.
    pub fn watch(
        &self,
        mut hello: Value,
        stop: CancellationToken,
    ) -> Option<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let news = self.news.subscribe();
        hello["history"] = json!(self.history());
        let first = Event::default().event("hello").data(hello.to_string());
        let rest = stream::unfold((news, place), next).take_until(stop.cancelled_owned());
        let events = stream::once(async { first }).chain(rest).map(Ok);
        Some(Sse::new(events).keep_alive(KeepAlive::default()))
    }
}

type Watching = (broadcast::Receiver<Arc<str>>, OwnedSemaphorePermit);

async fn next((mut news, place): Watching) -> Option<(Event, Watching)> {
    loop {
        match news.recv().await {
            Ok(text) => return Some((Event::default().event("tick").data(&*text), (news, place))),
            // It reads slowly: the samples that it missed are in the history.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_bounded_and_ends_with_the_latest() {
        let feed = Feed::new();
        for at_ms in 0..2 * KEPT as u64 {
            feed.keep(Sample { at_ms, ..Sample::default() });
        }
        let history = feed.history();
        assert_eq!((history.len(), history[0].at_ms), (KEPT, KEPT as u64));
        assert_eq!(history.last().map(|sample| sample.at_ms), Some(2 * KEPT as u64 - 1));
    }

    #[tokio::test]
    async fn no_more_may_watch_than_there_are_places_and_a_place_comes_back() {
        let feed = Feed::new();
        let watch = || feed.watch(json!({}), CancellationToken::new());
        let mut watching: Vec<_> = (0..WATCHERS).map(|_| watch().expect("a place")).collect();
        assert!(watch().is_none());
        watching.pop();
        assert!(watch().is_some());
    }
}
