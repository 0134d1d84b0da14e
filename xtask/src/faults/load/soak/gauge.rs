//! What the lobby's process holds, second by second, and how that grows.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context as _;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, interval};

use crate::faults::watch::Census;
use crate::lobby::Lobby;
use crate::stage::flood::Counter;

/// One object for each minute of the last long soak.
pub(super) const FIGURES: &str = "docs/reliability-soak.jsonl";
const SAMPLE: Duration = Duration::from_secs(1);
const MINUTE: u64 = 60;
/// This part of the time is the warm-up.
const WARM_UP: f64 = 0.25;

/// Looks at the process until it is finished, or dropped.
#[derive(Debug)]
pub(super) struct Gauge {
    looking: JoinHandle<anyhow::Result<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    samples: Mutex<Samples>,
    notes: Mutex<Vec<String>>,
}

/// In order of time.
#[derive(Debug, Default, Clone)]
pub(super) struct Samples(Vec<Sample>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Seconds since the start.
    at: f64,
    resident: u64,
    descriptors: u64,
}

/// What samples amount to.
#[derive(Debug, PartialEq)]
pub(super) struct Trend {
    pub(super) warm_up: Duration,
    /// Bytes, by the line through the samples, at its ends.
    pub(super) first: f64,
    pub(super) last: f64,
    /// Bytes an hour.
    pub(super) slope: f64,
    /// Means of the first and the second half.
    pub(super) descriptors: [f64; 2],
}

impl Gauge {
    /// `kept`: whether each minute's figures are appended to the file beside the reports, which begins anew.
    pub(super) fn start(
        lobby: &Lobby,
        kept: bool,
        confirmed: Counter,
        came: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        if kept {
            std::fs::write(FIGURES, "").with_context(|| format!("begin {FIGURES}"))?;
        }
        let shared = Arc::new(Shared::default());
        let looking = tokio::spawn(look(lobby.pid(), Arc::clone(&shared), kept, confirmed, came));
        Ok(Self { looking, shared })
    }

    /// Something happens in this minute.
    pub(super) fn note(&self, what: String) {
        self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// All that was seen.
    pub(super) fn finish(self) -> anyhow::Result<Samples> {
        anyhow::ensure!(
            !self.looking.is_finished(),
            "the lobby's process could not be looked at, or {FIGURES} not written"
        );
        Ok(self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look(
    pid: u32,
    shared: Arc<Shared>,
    kept: bool,
    confirmed: Counter,
    came: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let (start, mut tick, mut minute) = (Instant::now(), interval(SAMPLE), 0);
    loop {
        tick.tick().await;
        let census = Census::of(pid)?;
        let sample = Sample {
            at: start.elapsed().as_secs_f64(),
            resident: census.resident,
            descriptors: census.descriptors,
        };
        shared.samples.lock().unwrap_or_else(PoisonError::into_inner).0.push(sample);
        let now = start.elapsed().as_secs() / MINUTE;
        if !kept || now == minute {
            continue;
        }
        minute = now;
        let happened = std::mem::take(&mut *shared.notes.lock().unwrap_or_else(PoisonError::into_inner));
        let line = json!({
            "minute": minute,
            "date": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            "resident_kib": census.resident / 1024,
            "peak_kib": census.peak / 1024,
            "descriptors": census.descriptors,
            "threads": census.threads,
            "confirmed": confirmed.confirmed(),
            "clients_come_and_gone": came.load(Relaxed),
            "happened": happened,
        });
        let mut file = OpenOptions::new().append(true).create(true).open(FIGURES).context(FIGURES)?;
        writeln!(file, "{line}").context(FIGURES)?;
    }
}

impl Samples {
    /// The trend after the first quarter; `None` of fewer than ten samples.
    pub(super) fn after_warm_up(&self) -> Option<Trend> {
        let end = self.0.last()?.at;
        let warm: Vec<_> = self.0.iter().filter(|sample| sample.at >= end * WARM_UP).collect();
        if warm.len() < 10 {
            return None;
        }
        let count = warm.len() as f64;
        let mean_at = warm.iter().map(|sample| sample.at).sum::<f64>() / count;
        let mean = warm.iter().map(|sample| sample.resident as f64).sum::<f64>() / count;
        let spread: f64 = warm.iter().map(|sample| (sample.at - mean_at).powi(2)).sum();
        let together: f64 =
            warm.iter().map(|sample| (sample.at - mean_at) * (sample.resident as f64 - mean)).sum();
        let slope = together / spread;
        let at = |seconds: f64| mean + slope * (seconds - mean_at);
        let half = |part: &[&Sample]| {
            part.iter().map(|sample| sample.descriptors as f64).sum::<f64>() / part.len() as f64
        };
        let (early, late) = warm.split_at(warm.len() / 2);
        Some(Trend {
            warm_up: Duration::from_secs_f64(end * WARM_UP),
            first: at(warm.first()?.at),
            last: at(end),
            slope: slope * 3600.0,
            descriptors: [half(early), half(late)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(count: u32, resident: impl Fn(f64) -> f64) -> Samples {
        let sample = |number: u32| {
            let at = f64::from(number);
            let descriptors = 30 + u64::from(number * 2 > count);
            Sample { at, resident: resident(at) as u64, descriptors }
        };
        Samples((0..count).map(sample).collect())
    }

    #[test]
    fn the_slope_is_that_of_the_line_after_the_warm_up() {
        // A steep start, then 1 KiB a second with a wave on it.
        let grows = |at: f64| if at < 900.0 { at * 1e6 } else { 9e8 + 1024.0 * at + 5e3 * (at / 7.0).sin() };
        let trend = samples(3_601, grows).after_warm_up().unwrap();
        let wanted = 1024.0 * 3600.0;
        assert!((trend.slope / wanted - 1.0).abs() < 0.01, "{trend:?}");
        assert!((trend.last - trend.first - wanted * 0.75).abs() < wanted * 0.02, "{trend:?}");
        assert_eq!(trend.warm_up, Duration::from_secs(900));
        assert!(trend.descriptors[0] < trend.descriptors[1]);
        let flat = samples(600, |_| 3e7).after_warm_up().unwrap();
        assert!(flat.slope.abs() < 1e-6);
        assert_eq!(samples(9, |_| 1.0).after_warm_up(), None);
    }
}
