//! A stage with instruments: what a row plays on, and where it puts what it counts.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::figures::Figures;
use super::row::{Form, Row};
use super::watch::{Census, Watch};
use crate::broker::Broker;
use crate::late::Late;
use crate::lobby::{Lobby, Setup};
use crate::stage::Stage;
use crate::stage::tally::Tally;

/// A busy machine may be so much slower than a row's limit says, in the short form, where rows run side by side.
const SHORT_FORM_PATIENCE: u32 = 4;

/// Between two looks at the memory of a scenario's lobbies.
const SAMPLE: Duration = Duration::from_millis(100);

/// One run of one row.
#[derive(Debug)]
pub(super) struct Scene {
    stage: Stage,
    form: Form,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    figures: Figures,
    times: Vec<Duration>,
    watches: Vec<Arc<Watch>>,
}

impl Deref for Scene {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Scene {
    pub(super) async fn set(
        row: &Row,
        form: Form,
        broker: &Arc<Broker>,
        lobby: PathBuf,
    ) -> anyhow::Result<Self> {
        let stage = Stage::set(row.id, broker, lobby).await?;
        Ok(Self { stage, form, counted: Mutex::default() })
    }

    /// What the short and the long form differ in.
    pub(super) fn pick<T>(&self, short: T, long: T) -> T {
        match self.form {
            Form::Short => short,
            Form::Long => long,
        }
    }

    /// The usual lobby, ready and watched.
    pub(super) async fn lobby(&self) -> anyhow::Result<Lobby> {
        self.start(&self.setup()).await
    }

    /// Starts `setup`, waits until it is ready, and watches it.
    pub(super) async fn start(&self, setup: &Setup) -> anyhow::Result<Lobby> {
        let lobby = self.stage.start(setup).await?;
        self.watch(&lobby).await?;
        Ok(lobby)
    }

    /// Plays an end-to-end scenario on this row's stage; the most memory of any of its lobbies counts as the row's.
    pub(super) async fn plays(
        &self,
        scenario: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let mut scenario = std::pin::pin!(scenario);
        let mut look = tokio::time::interval(SAMPLE);
        loop {
            tokio::select! {
                outcome = &mut scenario => return outcome,
                _ = look.tick() => {
                    let alive = self.stage.pids().into_iter().filter_map(|pid| Census::of(pid).ok());
                    let peak = alive.map(|census| census.peak).max();
                    let mut counted = self.counted();
                    counted.figures.peak_bytes = counted.figures.peak_bytes.max(peak);
                }
            }
        }
    }

    /// Watches a lobby that nobody uses yet.
    pub(super) async fn watch(&self, lobby: &Lobby) -> anyhow::Result<()> {
        let watch = Arc::new(Watch::begin(lobby).await?);
        self.counted().watches.push(watch);
        Ok(())
    }

    /// Counts what became of the messages; `unmarked` comes from [`Tally::unmarked`] or [`Tally::unmarked_of`].
    ///
    /// # Errors
    /// Something was lost, out of order or for somebody else, or came twice without the flag.
    pub(super) fn count(&self, tally: &Tally, unmarked: u64) -> anyhow::Result<()> {
        self.count_after_kill(tally, unmarked)?;
        ensure!(unmarked == 0, "{unmarked} duplicates came without the redelivered flag");
        Ok(())
    }

    /// The same after a broker was killed: it may have forgotten that it delivered a message.
    pub(super) fn count_after_kill(&self, tally: &Tally, unmarked: u64) -> anyhow::Result<()> {
        self.counted().figures.add(tally, unmarked);
        tally.faultless()
    }

    /// Counts messages that met the clients they were for, where the row itself has checked that none is missing.
    pub(super) fn arrived(&self, count: u64) -> anyhow::Result<()> {
        let mut tally = Tally::default();
        tally.survived = count;
        self.count(&tally, 0)
    }

    /// Bytes of memory of a watched lobby before its clients came.
    pub(super) fn resident_before(&self, pid: u32) -> anyhow::Result<u64> {
        let counted = self.counted();
        let watch = counted.watches.iter().find(|watch| watch.pid == pid);
        Ok(watch.context("a lobby that is not watched")?.before.resident)
    }

    /// Notes how long a recovery took, which may not be longer than `limit` (in the short form, four times that).
    pub(super) fn recovered(&self, took: Duration, limit: Duration) -> anyhow::Result<()> {
        self.counted().times.push(took);
        let limit = limit * self.pick(SHORT_FORM_PATIENCE, 1);
        ensure!(took <= limit, Late(format!("recovered after {took:?}, limit {limit:?}")));
        Ok(())
    }

    /// Like [`Self::recovered`], judged at the end by [`Self::recovered_p99`].
    pub(super) fn timed(&self, took: Duration) {
        self.counted().times.push(took);
    }

    /// Fails when half of the recoveries took longer than `limit` (in the short form, four times that).
    pub(super) fn recovered_median(&self, limit: Duration) -> anyhow::Result<()> {
        let limit = limit * self.pick(SHORT_FORM_PATIENCE, 1);
        let p50 = self.figures().p50_ms.context("no recovery was timed")?;
        let late = || Late(format!("median of recovery {p50} ms, limit {limit:?}"));
        ensure!(p50 <= limit.as_secs_f64() * 1000.0, late());
        Ok(())
    }

    /// Fails when more than one in a hundred recoveries took longer than `limit` (in the short form, four times that).
    pub(super) fn recovered_p99(&self, limit: Duration) -> anyhow::Result<()> {
        let limit = limit * self.pick(SHORT_FORM_PATIENCE, 1);
        let p99 = self.figures().p99_ms.context("no recovery was timed")?;
        let late = || Late(format!("p99 of recovery {p99} ms, limit {limit:?}"));
        ensure!(p99 <= limit.as_secs_f64() * 1000.0, late());
        Ok(())
    }

    /// Waits until this lobby has no more descriptors open than before its clients came.
    pub(super) async fn at_rest(&self, lobby: &Lobby) -> anyhow::Result<()> {
        let watch = self.counted().watches.iter().find(|watch| watch.pid == lobby.pid()).cloned();
        let watch = watch.context("a lobby that is not watched")?;
        let now = watch.at_rest().await?;
        let mut counted = self.counted();
        counted.figures.descriptors = Some((watch.before.descriptors, now.descriptors));
        counted.figures.threads = Some((watch.before.threads, now.threads));
        Ok(())
    }

    /// [`Self::at_rest`], then stops the lobby, which leaves nothing in its queue.
    pub(super) async fn leaves_nothing(&self, lobby: Lobby) -> anyhow::Result<()> {
        self.at_rest(&lobby).await?;
        self.look_at_memory();
        self.stage.leaves_nothing(lobby).await
    }

    /// [`Self::at_rest`], then stops the lobby, whose queue is not looked at.
    pub(super) async fn stop(&self, lobby: Lobby) -> anyhow::Result<()> {
        self.at_rest(&lobby).await?;
        self.retire(lobby).await
    }

    /// Stops a lobby of which nothing more is to be known than that it ends well.
    pub(super) async fn retire(&self, mut lobby: Lobby) -> anyhow::Result<()> {
        self.look_at_memory();
        lobby.stop().await
    }

    /// Asks for the peak while the process is there to tell it.
    fn look_at_memory(&self) {
        let mut counted = self.counted();
        let peak = counted.watches.iter().map(|watch| watch.peak()).max();
        counted.figures.peak_bytes = counted.figures.peak_bytes.max(peak);
    }

    /// All figures so far.
    pub(super) fn figures(&self) -> Figures {
        self.look_at_memory();
        let counted = self.counted();
        let mut figures = Figures { facts: self.stage.facts(), ..counted.figures.clone() };
        figures.times(&counted.times);
        figures
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
