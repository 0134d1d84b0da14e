//! A lobby's process seen from outside while a row runs: memory, descriptors, threads.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::PATIENCE;
use crate::lobby::Lobby;

const SAMPLE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(50);

/// At the first attempt to connect that fails, a library of the AMQP library's makes a runtime for itself, once for each
/// process: a thread of this name, and so many descriptors.
const FALLBACK_RUNTIME: (&str, u64) = ("async-compat", 4);

/// What a process has open and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) descriptors: u64,
    pub(super) threads: u64,
    /// Bytes of memory now.
    pub(super) resident: u64,
    /// The most bytes so far.
    pub(super) peak: u64,
}

impl Census {
    /// Counts; fails when there is no such process.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let descriptors =
            fs::read_dir(format!("/proc/{pid}/fd")).context("descriptors of the lobby")?.count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("status of the lobby")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            value.with_context(|| format!("{name} in the lobby's status"))
        };
        Ok(Self {
            descriptors: descriptors as u64,
            threads: field("Threads:")?,
            resident: field("VmRSS:")? * 1024,
            peak: field("VmHWM:")? * 1024,
        })
    }
}

/// One lobby that is watched until this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) pid: u32,
    /// Before any client came.
    pub(super) before: Census,
    peak: Arc<AtomicU64>,
    sampling: AbortHandle,
}

impl Watch {
    /// Begins with a lobby that nobody uses yet.
    pub(super) async fn begin(lobby: &Lobby) -> anyhow::Result<Self> {
        let pid = lobby.pid();
        settled(lobby).await?;
        let before = Census::of(pid)?;
        let peak = Arc::new(AtomicU64::new(before.peak));
        let seen = Arc::clone(&peak);
        let sampling = tokio::spawn(async move {
            // A lobby that is killed leaves what was seen last.
            while let Ok(census) = Census::of(pid) {
                seen.fetch_max(census.peak, Relaxed);
                sleep(SAMPLE).await;
            }
        });
        Ok(Self { pid, before, peak, sampling: sampling.abort_handle() })
    }

    /// The most bytes of memory so far.
    pub(super) fn peak(&self) -> u64 {
        if let Ok(census) = Census::of(self.pid) {
            self.peak.fetch_max(census.peak, Relaxed);
        }
        self.peak.load(Relaxed)
    }

    /// Waits until no more descriptors are open than before.
    ///
    /// # Errors
    /// Some stay open: their number, and what they are.
    pub(super) async fn at_rest(&self) -> anyhow::Result<Census> {
        let start = Instant::now();
        loop {
            let now = Census::of(self.pid)?;
            if now.descriptors <= self.before.descriptors + fallback_descriptors(self.pid) {
                return Ok(now);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{} descriptors were open before, {} stay: {}",
                self.before.descriptors,
                now.descriptors,
                open_files(self.pid)
            );
            sleep(POLL).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.sampling.abort();
    }
}

/// A ready lobby's self-check opens its own connection a moment later.
async fn settled(lobby: &Lobby) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let ready = lobby.admin("/ready").await?;
        let metrics = lobby.metrics().await?;
        let canaries = |outcome| metrics.count("lobby_canaries_total", &[("outcome", outcome)]);
        let none_will_come = ready.status != 200 || ready.body.contains(r#""self_check":"off""#);
        if none_will_come || canaries("received") + canaries("refused") > 0 || start.elapsed() > PATIENCE {
            return Ok(());
        }
        sleep(POLL).await;
    }
}

fn fallback_descriptors(pid: u32) -> u64 {
    let (name, descriptors) = FALLBACK_RUNTIME;
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let names = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    if names.into_iter().any(|thread| thread.starts_with(name)) { descriptors } else { 0 }
}

fn open_files(pid: u32) -> String {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return "unknown".to_owned() };
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let names: Vec<_> = targets.map(|target| target.display().to_string()).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_and_memory_are_counted() {
        let before = Census::of(std::process::id()).unwrap();
        let files: Vec<_> = (0..64).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = Census::of(std::process::id()).unwrap();
        assert!(after.descriptors > before.descriptors, "{before:?} {after:?}");
        assert!(after.peak >= after.resident && after.resident > 0 && after.threads > 0);
        drop(files);
    }
}
