//! Which scenarios run, at which size, and in which order.
//!
//! Every repetition goes through all steps, so that what else the machine does at the time hits all of them; every
//! step starts its subject afresh.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};

use super::{
    amqp,
    delivery::{Audience, Load},
    idle,
    machine::Machine,
    running::{Running, Workshop},
    sample::{Results, Sample},
    slow,
    subject::Subject,
};

/// How much is measured.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) runs: u32,
    /// Sizes of the populations that get messages.
    pub(super) sizes: Vec<u32>,
    /// Sizes of the populations that are silent.
    pub(super) idle_sizes: Vec<u32>,
    /// Lobbies of which some clients stop reading.
    pub(super) slow_readers: Vec<Subject>,
    /// Deliveries of a saturated run.
    pub(super) deliveries: u64,
    /// Messages that the AMQP library alone publishes and consumes.
    pub(super) amqp_messages: u64,
    /// How long a paced run takes.
    pub(super) paced: Duration,
    /// Part of the names of the scenarios to run.
    pub(super) only: Option<String>,
    /// Who takes part, in the order of the report.
    pub(super) subjects: Vec<Subject>,
}

/// One server's life, and all that is measured in it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Deliver { subject: Subject, clients: u32 },
    Idle { subject: Subject, sizes: Vec<u32> },
    SlowReaders(Subject),
    Amqp,
}

/// Where results go, and what people see of them meanwhile.
pub(super) struct Recorder<'a> {
    pub(super) results: Results,
    pub(super) progress: &'a mut (dyn FnMut(&str) + Send),
    /// Is told each sample as it comes.
    pub(super) seen: &'a mut (dyn FnMut(&Sample) -> anyhow::Result<()> + Send),
}

/// Users of the unicast scenarios.
const UNICAST_USERS: u32 = 1_000;
const SLOW_READERS: &str = "slow-readers";
const SLOW_READERS_CLIENTS: u32 = 1_000;
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
            slow_readers: Subject::LOBBIES.to_vec(),
            deliveries: 500_000,
            amqp_messages: 100_000,
            paced: Duration::from_secs(5),
            only: None,
            subjects: Vec::new(),
        }
    }

    /// Ends in about a minute: once, and less of everything.
    pub(super) fn quick() -> Self {
        Self {
            runs: 1,
            sizes: vec![1_000],
            idle_sizes: vec![1_000, 5_000],
            slow_readers: vec![Subject::LobbyTcp],
            deliveries: 100_000,
            amqp_messages: 20_000,
            paced: Duration::from_secs(1),
            ..Self::full()
        }
    }

    /// Whether the AMQP library alone is measured.
    pub(super) fn wants_amqp(&self) -> bool {
        self.wants(amqp::CONSUME) || self.wants(amqp::PUBLISH)
    }

    /// Runs it.
    pub(super) async fn run(
        &self,
        workshop: &Workshop,
        machine: &Machine,
        recorder: &mut Recorder<'_>,
    ) -> anyhow::Result<()> {
        let steps = self.steps(machine.most_clients());
        if steps.is_empty() {
            bail!("no scenario's name contains `{}`", self.only.as_deref().unwrap_or_default());
        }
        for size in self.idle_sizes.iter().filter(|size| **size > machine.most_clients()) {
            let (possible, limit) = (machine.most_clients(), machine.open_files);
            recorder.results.remark(format!(
                "{limit} open files a process are allowed, so {possible} connections were the most possible, \
                 instead of {size}"
            ));
        }
        let total = self.runs as usize * steps.len();
        for run in 1..=self.runs {
            for (index, step) in steps.iter().enumerate() {
                let done = (run as usize - 1) * steps.len() + index + 1;
                (recorder.progress)(&format!("step {done} of {total}: {step}, run {run} of {}", self.runs));
                let outcome = self.step(step, workshop, run, recorder).await;
                match (outcome, step.peer()) {
                    // What a peer cannot do is a result, too.
                    (Err(error), true) => {
                        let remark = format!("{step}, run {run}: {error:#}");
                        (recorder.progress)(&remark);
                        recorder.results.remark(remark);
                    }
                    (outcome, _) => outcome.with_context(|| format!("{step}, run {run}"))?,
                }
            }
        }
        Ok(())
    }

    fn steps(&self, most_clients: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        for &clients in &self.sizes {
            if !self.loads(clients).is_empty() {
                steps
                    .extend(self.subjects.iter().map(|subject| Step::Deliver { subject: *subject, clients }));
            }
        }
        let mut sizes: Vec<u32> = self.idle_sizes.iter().map(|size| (*size).min(most_clients)).collect();
        sizes.dedup();
        sizes.retain(|size| self.wants(&idle_name(*size)));
        for &subject in self.subjects.iter().filter(|subject| !Subject::FLOORS.contains(subject)) {
            if !sizes.is_empty() {
                steps.push(Step::Idle { subject, sizes: sizes.clone() });
            }
            if self.slow_readers.contains(&subject) && self.wants(SLOW_READERS) {
                steps.push(Step::SlowReaders(subject));
            }
        }
        if self.wants_amqp() {
            steps.push(Step::Amqp);
        }
        steps
    }

    async fn step(
        &self,
        step: &Step,
        workshop: &Workshop,
        run: u32,
        recorder: &mut Recorder<'_>,
    ) -> anyhow::Result<()> {
        match *step {
            Step::Deliver { subject, clients } => {
                let mut running = warm(subject, workshop, clients).await?;
                for (name, load) in self.loads(clients) {
                    let figures = load.measure(&mut running).await.with_context(|| name.clone())?;
                    recorder.add(name, subject, run, figures)?;
                    if running.driver.ended() > 0 {
                        // The next load is for all clients again.
                        drop(running);
                        running = warm(subject, workshop, clients).await?;
                    }
                }
            }
            Step::Idle { subject, ref sizes } => {
                for (size, figures) in idle::measure(subject, workshop, sizes).await? {
                    recorder.add(idle_name(size), subject, run, figures)?;
                }
            }
            Step::SlowReaders(subject) => {
                let paced = self.paced_broadcast(SLOW_READERS_CLIENTS);
                let figures = slow::measure(subject, workshop, SLOW_READERS_CLIENTS, paced).await?;
                recorder.add(SLOW_READERS.to_owned(), subject, run, figures)?;
            }
            Step::Amqp => {
                let program = workshop.amqp_example.as_deref().context("the example was not built")?;
                for (name, figures) in amqp::measure(program, &workshop.amqp_url, self.amqp_messages).await? {
                    recorder.add(name.to_owned(), Subject::Library, run, figures)?;
                }
            }
        }
        Ok(())
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
        loads.retain(|(name, _)| self.wants(name));
        loads
    }

    fn paced_broadcast(&self, clients: u32) -> Load {
        let messages = (self.paced.as_nanos() / BROADCAST_PACE.as_nanos()) as u64;
        Load { audience: Audience::Everyone { readers: clients }, messages, pace: Some(BROADCAST_PACE) }
    }
}

impl Step {
    fn peer(&self) -> bool {
        matches!(
            self,
            Self::Deliver { subject: Subject::Peer(_), .. } | Self::Idle { subject: Subject::Peer(_), .. }
        )
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Deliver { subject, clients } => write!(f, "{}, {clients} clients", subject.name()),
            Self::Idle { subject, .. } => write!(f, "{}, idle connections", subject.name()),
            Self::SlowReaders(subject) => write!(f, "{}, slow readers", subject.name()),
            Self::Amqp => write!(f, "{} alone", Subject::Library.name()),
        }
    }
}

impl Recorder<'_> {
    fn add(
        &mut self,
        scenario: String,
        subject: Subject,
        run: u32,
        figures: BTreeMap<&'static str, f64>,
    ) -> anyhow::Result<()> {
        let sample = Sample { scenario, subject, run, figures };
        (self.progress)(&format!("    {}", sample.text()));
        (self.seen)(&sample)?;
        self.results.add(sample);
        Ok(())
    }
}

fn idle_name(size: u32) -> String {
    format!("idle-{size}")
}

/// Starts a server with its clients. The first messages pay for memory and caches and are not measured.
async fn warm(subject: Subject, workshop: &Workshop, clients: u32) -> anyhow::Result<Running> {
    let mut running = Running::start(subject, workshop, clients).await?;
    let load = Load { audience: Audience::Everyone { readers: clients }, messages: 20, pace: None };
    load.deliver(&mut running).await.context("warm up")?;
    Ok(running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::peer::Peer;

    fn plan(only: Option<&str>) -> Plan {
        let subjects = vec![Subject::FloorWrite, Subject::LobbyTcp, Subject::Peer(Peer::Nats)];
        Plan { subjects, only: only.map(str::to_owned), ..Plan::full() }
    }

    #[test]
    fn everyone_delivers_servers_idle_and_only_the_lobby_has_slow_readers() {
        let steps: Vec<String> = plan(None).steps(20_000).iter().map(Step::to_string).collect();
        let wanted = "floor write, 1000 clients; lobby TCP, 1000 clients; nats-server, 1000 clients; \
                      floor write, 5000 clients; lobby TCP, 5000 clients; nats-server, 5000 clients; \
                      lobby TCP, idle connections; lobby TCP, slow readers; nats-server, idle connections; \
                      notify-amqp alone";
        assert_eq!(steps.join("; "), wanted);
    }

    #[test]
    fn a_part_of_a_name_chooses_the_steps() {
        let subject = Subject::LobbyTcp;
        let idle = |sizes: &[u32], subject| Step::Idle { subject, sizes: sizes.to_vec() };
        assert_eq!(plan(Some("slow")).steps(20_000), [Step::SlowReaders(subject)]);
        assert_eq!(plan(Some("amqp-pub")).steps(20_000), [Step::Amqp]);
        assert_eq!(plan(Some("unicast")).steps(20_000).len(), 3, "at 1,000 clients only");
        let peer = Subject::Peer(Peer::Nats);
        assert_eq!(
            plan(Some("idle-1000")).steps(20_000),
            [idle(&[1_000, 10_000], subject), idle(&[1_000, 10_000], peer)]
        );
        assert!(plan(Some("nothing")).steps(20_000).is_empty());
    }

    #[test]
    fn silent_populations_are_as_large_as_the_file_limit_allows() {
        let steps = plan(Some("idle")).steps(12_000);
        assert_eq!(steps[0], Step::Idle { subject: Subject::LobbyTcp, sizes: vec![1_000, 10_000, 12_000] });
    }
}
