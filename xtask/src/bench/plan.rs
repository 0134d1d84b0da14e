//! Which scenarios run, at which size, and in which order.
//!
//! Every repetition goes through all subjects, so that what else the machine does at the time hits all of them; every
//! subject starts afresh for it.

use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{
    delivery::{Audience, Load},
    idle,
    machine::Machine,
    sample::{Results, Sample},
    slow,
    subject::{Running, Subject, Workshop},
};

/// How much is measured.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) runs: u32,
    /// Sizes of the populations that get messages.
    pub(super) sizes: Vec<u32>,
    /// Sizes of the populations that are silent.
    pub(super) idle_sizes: Vec<u32>,
    /// Deliveries of a saturated run.
    pub(super) deliveries: u64,
    /// How long a paced run takes.
    pub(super) paced: Duration,
    /// Part of the names of the scenarios to run.
    pub(super) only: Option<String>,
}

/// Users of the unicast scenarios.
const UNICAST_USERS: u32 = 1_000;
/// Broadcasts are paced at 20 a second.
const BROADCAST_PACE: Duration = Duration::from_millis(50);
/// Unicasts are paced at 1,000 a second.
const UNICAST_PACE: Duration = Duration::from_millis(1);

impl Plan {
    pub(super) fn full() -> Self {
        Self {
            runs: 3,
            sizes: vec![1_000, 5_000],
            idle_sizes: vec![1_000, 10_000, 18_000],
            deliveries: 500_000,
            paced: Duration::from_secs(5),
            only: None,
        }
    }

    /// Ends in about a minute: once, and less of everything.
    pub(super) fn quick() -> Self {
        Self {
            runs: 1,
            sizes: vec![1_000],
            idle_sizes: vec![1_000, 5_000],
            deliveries: 100_000,
            paced: Duration::from_secs(2),
            only: None,
        }
    }

    /// Runs it; each sample is told to `seen` as it comes.
    pub(super) async fn run(
        &self,
        workshop: &Workshop,
        machine: &Machine,
        progress: &mut (impl FnMut(&str) + Send),
        seen: &mut (impl FnMut(&Sample) -> anyhow::Result<()> + Send),
    ) -> anyhow::Result<Results> {
        let mut results = Results::default();
        let mut add = |scenario: String, subject, run, figures| {
            let sample = Sample { scenario, subject, run, figures };
            seen(&sample)?;
            results.add(sample);
            anyhow::Ok(())
        };
        for run in 1..=self.runs {
            for (clients, subject) in
                self.sizes.iter().flat_map(|size| Subject::ALL.map(|subject| (*size, subject)))
            {
                let loads: Vec<_> =
                    self.loads(clients).into_iter().filter(|(name, _)| self.wants(name)).collect();
                if loads.is_empty() {
                    continue;
                }
                progress(&format!("run {run} of {}: {}, {clients} clients", self.runs, subject.name()));
                let mut running = Running::start(subject, workshop, clients).await.context(subject.name())?;
                warm_up(clients)
                    .deliver(&mut running)
                    .await
                    .with_context(|| format!("{}: warm up", subject.name()))?;
                for (name, load) in loads {
                    let figures = load.measure(&mut running).await;
                    let figures =
                        figures.with_context(|| format!("{name}, {}, run {run}", subject.name()))?;
                    add(name, subject, run, figures)?;
                }
            }
            for subject in Subject::LOBBIES {
                if self.wants("idle") {
                    progress(&format!("run {run} of {}: {}, idle connections", self.runs, subject.name()));
                    let most = machine.most_clients();
                    let sizes: Vec<u32> =
                        self.idle_sizes.iter().copied().filter(|size| *size <= most).collect();
                    let measured = idle::measure(subject, workshop, &sizes).await;
                    for (size, figures) in measured.with_context(|| format!("idle, {}", subject.name()))? {
                        add(format!("idle-{size}"), subject, run, figures)?;
                    }
                }
                if self.wants("slow-readers") {
                    progress(&format!("run {run} of {}: {}, slow readers", self.runs, subject.name()));
                    let measured = slow::measure(subject, workshop, 1_000, self.paced_broadcast(1_000)).await;
                    let figures = measured.with_context(|| format!("slow-readers, {}", subject.name()))?;
                    add("slow-readers".to_owned(), subject, run, figures)?;
                }
            }
        }
        if results.runs() == 0 {
            bail!("no scenario's name contains `{}`", self.only.as_deref().unwrap_or_default());
        }
        Ok(results)
    }

    fn wants(&self, scenario: &str) -> bool {
        self.only.as_ref().is_none_or(|part| scenario.contains(part.as_str()))
    }

    fn loads(&self, clients: u32) -> Vec<(String, Load)> {
        let everyone = Audience::Everyone { readers: clients };
        let mut loads = vec![
            (format!("broadcast-paced-{clients}"), self.paced_broadcast(clients)),
            (
                format!("broadcast-saturated-{clients}"),
                Load { audience: everyone, messages: self.deliveries / u64::from(clients), pace: None },
            ),
        ];
        if clients == UNICAST_USERS {
            let audience = Audience::EachUser { users: clients };
            let paced = self.paced.as_nanos() / UNICAST_PACE.as_nanos();
            loads.push((
                format!("unicast-paced-{clients}"),
                Load { audience, messages: paced as u64, pace: Some(UNICAST_PACE) },
            ));
            loads.push((
                format!("unicast-saturated-{clients}"),
                Load { audience, messages: self.deliveries, pace: None },
            ));
        }
        loads
    }

    fn paced_broadcast(&self, clients: u32) -> Load {
        let messages = (self.paced.as_nanos() / BROADCAST_PACE.as_nanos()) as u64;
        Load { audience: Audience::Everyone { readers: clients }, messages, pace: Some(BROADCAST_PACE) }
    }
}

/// Not measured: the first messages pay for memory and caches.
fn warm_up(clients: u32) -> Load {
    Load { audience: Audience::Everyone { readers: clients }, messages: 20, pace: None }
}
