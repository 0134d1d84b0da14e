//! `cargo xtask faults`: every fault that the lobby has to survive, produced on purpose and counted.
//!
//! ```text
//! table → row (short | long form) → scene (stage, watch, figures) → record → report, docs/RELIABILITY.md
//! ```
//!
//! Rows with a virtual host of their own run side by side on one broker. Meanwhile those that stop, hang or alarm a
//! broker run one after the other on a second. At last come those that need the machine to themselves, and in a quick run
//! those that failed beside others, once more. How a row is written: [`row`].

mod backlog;
mod bad_clients;
mod broker;
mod clients;
mod configuration;
mod deploy;
mod document;
mod figures;
mod ledger;
mod load;
mod login;
mod publishers;
mod raw;
mod record;
mod report;
mod resources;
mod restarts;
mod row;
mod scene;
mod table;
mod traffic;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use self::figures::Figures;
use self::record::Record;
use self::report::Report;
use self::row::{Form, Row, Sharing};
use self::scene::Scene;
use self::table::Length;
use crate::bench::machine::Machine;
use crate::broker::{Broker, BrokerOptions};

/// What to run and how to show it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Run only these rows: ids like B4 or groups like B, separated by commas.
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    only: Vec<String>,
    /// The short form of every row, in less than ten minutes; `docs/` is left as it is.
    #[arg(long, conflicts_with = "long")]
    quick: bool,
    /// The long form also of rows that take many minutes, or an hour.
    #[arg(long)]
    long: bool,
    /// Print one JSON object per row instead of the table.
    #[arg(long)]
    json: bool,
    /// Rows side by side.
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    jobs: usize,
    /// Test this lobby instead of building one: a release build, with --quick the one that other tests use.
    #[arg(long, value_name = "FILE")]
    lobby: Option<PathBuf>,
    /// Print the rows and exit.
    #[arg(long)]
    list: bool,
}

/// Builds the lobby, finds or makes the brokers, runs the rows, and writes the report.
///
/// # Errors
/// No lobby, no broker, a name that is no row's, or at least one row that failed (all others ran).
pub(crate) async fn faults(options: &Options) -> anyhow::Result<()> {
    let length = match (options.quick, options.long) {
        (true, _) => Length::Quick,
        (false, true) => Length::Long,
        (false, false) => Length::Usual,
    };
    let chosen = table::choose(&options.only, length)?;
    if options.list {
        for (row, form) in chosen {
            println!("{:<7} {:<5} {} → {}", row.id, form.name(), row.done, row.required);
        }
        return Ok(());
    }
    if !options.quick && cfg!(debug_assertions) {
        return crate::bench::in_release().await;
    }
    let (lobby, build) = match &options.lobby {
        Some(path) => (
            path.canonicalize().with_context(|| format!("lobby binary {}", path.display()))?,
            "a build that was given",
        ),
        None if options.quick => (crate::build::lobby().await?, "debug build"),
        None => (crate::build::release("lobby-bin", "lobby").await?, "release build"),
    };
    let machine = Machine::prepared();
    let company = Company::find(&chosen, lobby, build, machine.text()).await?;
    let mut report = Report::new(options.json);
    company.play(&chosen, options, &mut report).await?;
    report.finish()
}

/// All that runs need.
#[derive(Debug)]
struct Company {
    /// For rows side by side, and those that need the machine.
    shared: Option<Arc<Broker>>,
    /// For rows that stop it.
    stopped: Option<Arc<Broker>>,
    lobby: PathBuf,
    build: String,
    machine: String,
}

/// A row that has ended, and the last log lines of its lobbies.
type Ended = (Record, Vec<String>);

impl Company {
    async fn find(
        chosen: &[(&Row, Form)],
        lobby: PathBuf,
        build: &str,
        machine: String,
    ) -> anyhow::Result<Self> {
        let needs = |wanted: fn(Sharing) -> bool| chosen.iter().any(|(row, _)| wanted(row.sharing));
        let start = async |needed: bool| -> anyhow::Result<Option<Arc<Broker>>> {
            if !needed {
                return Ok(None);
            }
            let mut told = |step: &str| eprintln!("{step}");
            let broker = Broker::start(&BrokerOptions::from_env(false)?, &mut told).await;
            Ok(Some(Arc::new(broker.context("start RabbitMQ for the faults")?)))
        };
        let (shared, stopped) = tokio::try_join!(
            start(needs(|sharing| matches!(sharing, Sharing::SideBySide | Sharing::Alone))),
            start(needs(|sharing| sharing == Sharing::StopsBroker)),
        )?;
        let build = format!("{}, {build}", version(&lobby).await?);
        Ok(Self { shared, stopped, lobby, build, machine })
    }

    /// Runs the rows and hands each to the report as it ends.
    async fn play(
        &self,
        chosen: &[(&'static Row, Form)],
        options: &Options,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let of = |wanted: fn(Sharing) -> bool| -> Vec<_> {
            chosen.iter().copied().filter(|(row, _)| wanted(row.sharing)).collect()
        };
        let (ended, mut ending) = mpsc::channel::<Ended>(16);
        let side_by_side = async {
            let slots = Arc::new(Semaphore::new(options.jobs.max(1)));
            let mut running = JoinSet::new();
            let mut rows = of(|sharing| matches!(sharing, Sharing::SideBySide | Sharing::OwnBroker(_)));
            // The longest first, so that it does not trail behind the others.
            rows.sort_by_key(|(row, form)| std::cmp::Reverse(row.limit(*form)));
            for (row, form) in rows {
                let task = self.task(row, form, self.shared.as_ref());
                let (slots, ended) = (Arc::clone(&slots), ended.clone());
                running.spawn(async move {
                    let _slot = slots.acquire_owned().await;
                    let _ = ended.send(task.run().await).await;
                });
            }
            while running.join_next().await.is_some() {}
        };
        let stopping = async {
            for (row, form) in of(|sharing| sharing == Sharing::StopsBroker) {
                let _ = ended.send(self.task(row, form, self.stopped.as_ref()).run().await).await;
            }
        };
        let all = async {
            tokio::join!(side_by_side, stopping);
            for (row, form) in of(|sharing| sharing == Sharing::Alone) {
                let _ = ended.send(self.task(row, form, self.shared.as_ref()).run().await).await;
            }
        };
        let mut all = std::pin::pin!(all);
        let mut late = Vec::new();
        let mut seen = |(record, log): Ended| {
            if options.quick && record.late {
                late.push(record);
                return Ok(());
            }
            show((record, log), options, report)
        };
        loop {
            tokio::select! {
                Some(row) = ending.recv() => seen(row)?,
                () = &mut all => break,
            }
        }
        while let Ok(row) = ending.try_recv() {
            seen(row)?;
        }
        for record in late {
            show(self.again(&record, chosen).await?, options, report)?;
        }
        Ok(())
    }

    /// Runs a row of a quick run once more, alone; its first failure is told with what comes of it.
    async fn again(&self, failed: &Record, chosen: &[(&'static Row, Form)]) -> anyhow::Result<Ended> {
        let why = format!("failed beside other rows: {}", failed.error.as_deref().unwrap_or_default());
        eprintln!("{} {why}; once more, alone", failed.row);
        let (row, form) =
            chosen.iter().find(|(row, _)| row.id == failed.row).context("a row that was not chosen")?;
        let broker = if row.sharing == Sharing::StopsBroker { &self.stopped } else { &self.shared };
        let (mut record, log) = self.task(row, *form, broker.as_ref()).run().await;
        record.figures.facts.insert(0, why);
        Ok((record, log))
    }

    fn task(&self, row: &'static Row, form: Form, broker: Option<&Arc<Broker>>) -> Task {
        Task {
            row,
            form,
            broker: broker.cloned(),
            lobby: self.lobby.clone(),
            build: self.build.clone(),
            machine: self.machine.clone(),
        }
    }
}

/// Shows a row that has ended. Its figures are kept at once: others may take an hour.
fn show((record, log): Ended, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    if !options.quick {
        document::update(std::slice::from_ref(&record))?;
    }
    report.add(record, &log)
}

/// One row to run.
#[derive(Debug)]
struct Task {
    row: &'static Row,
    form: Form,
    broker: Option<Arc<Broker>>,
    lobby: PathBuf,
    build: String,
    machine: String,
}

impl Task {
    async fn run(mut self) -> Ended {
        eprintln!("{} ({}): {}", self.row.id, self.form.name(), self.row.done);
        if let Sharing::OwnBroker(advanced) = self.row.sharing {
            match Broker::configured(advanced, &mut |_| {}).await {
                Ok(broker) => self.broker = Some(Arc::new(broker)),
                Err(error) => {
                    let outcome = Err(error.context("start a broker for this row"));
                    return (self.record(Instant::now(), Figures::default(), outcome, None), Vec::new());
                }
            }
        }
        let begin = Instant::now();
        let Some(broker) = &self.broker else {
            return (
                self.record(begin, Figures::default(), Err(anyhow::anyhow!("no broker")), None),
                Vec::new(),
            );
        };
        if self.row.sharing == Sharing::StopsBroker && !broker.is_ours() {
            let why = "it stops the broker, and the one at AMQP_URL is not ours".to_owned();
            return (self.record(begin, Figures::default(), Ok(()), Some(why)), Vec::new());
        }
        let scene = match Scene::set(self.row, self.form, broker, self.lobby.clone()).await {
            Ok(scene) => Arc::new(scene),
            Err(error) => {
                let outcome = Err(error.context("set the stage"));
                return (self.record(begin, Figures::default(), outcome, None), Vec::new());
            }
        };
        let limit = self.row.limit(self.form);
        // A task of its own: a panic in a row fails that row only.
        let acting = tokio::spawn({
            let (scene, run) = (Arc::clone(&scene), self.row.run);
            async move { tokio::time::timeout(limit, run(&scene)).await }
        });
        let outcome = match acting.await {
            Ok(Ok(outcome)) => outcome.and_then(|()| scene.no_panic()),
            Ok(Err(_)) => Err(crate::late::Late(format!("still running after {limit:?}")).into()),
            Err(panic) => Err(anyhow::anyhow!("panicked: {panic}")),
        };
        let log = scene.last_log_lines();
        (self.record(begin, scene.figures(), outcome, scene.skipped()), log)
    }

    fn record(
        &self,
        begin: Instant,
        figures: Figures,
        outcome: anyhow::Result<()>,
        skipped: Option<String>,
    ) -> Record {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let seconds = (begin.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        Record {
            row: self.row.id.to_owned(),
            form: self.form.name().to_owned(),
            passed: outcome.is_ok() && skipped.is_none(),
            late: outcome.as_ref().is_err_and(crate::late::is_late),
            skipped,
            error: outcome.err().map(|error| format!("{error:#}")),
            seconds,
            date: now.get(..16).unwrap_or_default().replace('T', " "),
            machine: self.machine.clone(),
            broker: self.broker.as_ref().map_or_else(String::new, |broker| broker.how().to_owned()),
            lobby: self.build.clone(),
            command: command_line(),
            figures,
        }
    }
}

/// The command as somebody would type it elsewhere.
fn command_line() -> String {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    format!("cargo xtask {}", without_paths(&arguments).join(" "))
}

fn without_paths(arguments: &[String]) -> Vec<&str> {
    let mut shown = Vec::new();
    let mut is_path = false;
    for argument in arguments {
        shown.push(match argument.as_str() {
            _ if is_path => "FILE",
            long if long.starts_with("--lobby=") => "--lobby=FILE",
            other => other,
        });
        is_path = argument == "--lobby";
    }
    shown
}

async fn version(lobby: &Path) -> anyhow::Result<String> {
    let output = tokio::process::Command::new(lobby).arg("--version").output().await;
    let output = output.with_context(|| format!("run {}", lobby.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_run_names_no_file_of_this_machine() {
        let arguments = ["faults", "--lobby", "/x/lobby", "--lobby=/y", "--only", "B1"].map(str::to_owned);
        assert_eq!(without_paths(&arguments), ["faults", "--lobby", "FILE", "--lobby=FILE", "--only", "B1"]);
    }
}
