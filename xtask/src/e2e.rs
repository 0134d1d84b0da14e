//! End-to-end tests: the built `lobby` binary, a real broker, real sockets.
//!
//! A scenario is a claim with a name. Each has a virtual host and lobbies of its own, so that several run side by
//! side; those that restart the broker run last, alone. What real clients received before a sentinel decides, never
//! how long something took: one that was only too late beside others is played once more at the end, alone, and the
//! report says so. A failing scenario shows what was expected, what came, and the lobby's last log lines.

mod addressing;
mod admittance;
pub(crate) mod broker_login;
mod catalog;
pub(crate) mod cluster;
mod console;
mod console_why;
mod conversation;
mod dead_letters;
pub(crate) mod drain;
pub(crate) mod duplicates;
mod examples;
mod exit_codes;
pub(crate) mod haproxy;
mod kit;
mod limits;
pub(crate) mod logins;
mod monitoring;
mod otel;
pub(crate) mod outage;
mod publish_command;
mod publishers;
pub(crate) mod queue_modes;
mod receipts;
mod recordings;
pub(crate) mod refusals;
mod reload;
mod report;
mod restart;
pub(crate) mod rolling;
mod self_check;
mod service_manager;
mod slow_reader;
pub(crate) mod start_up;
mod top;
mod topology;
mod trace;
pub(crate) mod vectors;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use catalog::{SCENARIOS, Scenario, Sharing};
use report::{Report, Verdict};
use stage::Stage;

use crate::broker::{Broker, BrokerOptions};
use crate::late::Late;
use crate::stage::{self, flood, notifier, proxy};

/// A scenario still running after this long is a failure of its own; each wait inside it has a shorter limit.
const SCENARIO_LIMIT: Duration = Duration::from_secs(240);

/// What to run and how to show it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Run only this scenario, or all whose name contains this text; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print one JSON object per result instead of the table.
    #[arg(long)]
    json: bool,
    /// Scenarios side by side.
    #[arg(long, default_value_t = DEFAULT_JOBS, value_name = "COUNT")]
    jobs: usize,
    /// Test this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    lobby: Option<PathBuf>,
    /// Print the scenarios' names and exit.
    #[arg(long)]
    list: bool,
}

const DEFAULT_JOBS: usize = 4;

impl Default for Options {
    /// All scenarios, as a table.
    fn default() -> Self {
        Self { only: Vec::new(), json: false, jobs: DEFAULT_JOBS, lobby: None, list: false }
    }
}

/// Builds the lobby, finds or makes a broker, and runs the scenarios.
///
/// # Errors
/// No lobby, no broker, a name that fits no scenario, or at least one scenario that failed (all others ran).
pub(crate) async fn e2e(options: &Options) -> anyhow::Result<()> {
    if options.list {
        for scenario in SCENARIOS {
            println!("{}", scenario.name);
        }
        return Ok(());
    }
    let mut chosen = choose(&options.only)?;
    let needs_otel = chosen.iter().any(|scenario| scenario.needs_otel());
    let given = options.lobby.as_deref().map(|path| Given::new(path, needs_otel)).transpose()?;
    if needs_otel {
        crate::build::lobby_with_otel().await?;
    }
    let lobby = match &given {
        Some(given) => given.path.clone(),
        None => crate::build::lobby().await?,
    };
    raise_file_limit()?;
    if chosen.iter().any(|scenario| scenario.needs_python()) {
        // Made while the broker starts and others play.
        tokio::spawn(crate::python::environment());
    }
    if chosen.iter().any(|scenario| scenario.needs_node()) {
        tokio::spawn(crate::node::environment());
    }
    if chosen.iter().any(|scenario| scenario.needs_java()) {
        tokio::spawn(crate::java::environment());
    }
    let mut told = |step: &str| eprintln!("{step}");
    let broker = Broker::start(&BrokerOptions::from_env(false)?, &mut told).await;
    let broker = broker.context("start RabbitMQ for the end-to-end tests")?;
    if !broker.is_ours() {
        for scenario in chosen.extract_if(.., |scenario| scenario.sharing == Sharing::StopsBroker) {
            eprintln!("not possible on a broker that is not ours: {}", scenario.name);
        }
    }
    perform(&chosen, &Arc::new(broker), &lobby, options).await
}

/// The lobby that `--lobby` names.
struct Given {
    path: PathBuf,
    /// Where its copy is, removed at the end.
    _aside: Option<tempfile::TempDir>,
}

impl Given {
    /// A copy where others are built, as cargo may write them over it.
    fn new(path: &Path, builds_follow: bool) -> anyhow::Result<Self> {
        let path = path.canonicalize().with_context(|| format!("lobby binary {}", path.display()))?;
        if !builds_follow {
            return Ok(Self { path, _aside: None });
        }
        let aside = tempfile::tempdir().context("make a directory for the lobby")?;
        let copy = aside.path().join("lobby");
        std::fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
        Ok(Self { path: copy, _aside: Some(aside) })
    }
}

/// The names of all scenarios.
pub(crate) fn scenario_names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name)
}

/// Runs them, and once more, alone, what was only too late beside others: see [`crate::late`].
async fn perform(
    chosen: &[&'static Scenario],
    broker: &Arc<Broker>,
    lobby: &Path,
    options: &Options,
) -> anyhow::Result<()> {
    let mut report = Report::new(options.json);
    let slots = Arc::new(Semaphore::new(options.jobs.max(1)));
    let mut running = JoinSet::new();
    for scenario in chosen.iter().copied().filter(|scenario| scenario.sharing == Sharing::SideBySide) {
        let (slots, broker, lobby) = (Arc::clone(&slots), Arc::clone(broker), lobby.to_owned());
        running.spawn(async move {
            if scenario.needs_python() {
                // Waited for here, it takes neither a slot nor the scenario's time. The scenario tells its failure.
                let _ = crate::python::environment().await;
            }
            if scenario.needs_node() {
                let _ = crate::node::environment().await;
            }
            if scenario.needs_java() {
                let _ = crate::java::environment().await;
            }
            let _slot = slots.acquire_owned().await;
            run_one(scenario, &broker, lobby).await
        });
    }
    let mut late = Vec::new();
    while let Some(verdict) = running.join_next().await {
        let verdict = verdict.context("a scenario's runner")?;
        if verdict.is_late() && chosen.len() > 1 && options.jobs > 1 {
            eprintln!("too late, once more at the end, alone: {verdict}");
            late.push(verdict);
        } else {
            report.add(verdict);
        }
    }
    for verdict in late {
        let scenario = chosen.iter().find(|scenario| scenario.name == verdict.name());
        let scenario = scenario.context("a scenario that was not chosen")?;
        report.add(verdict.again(run_one(scenario, broker, lobby.to_owned()).await));
    }
    for scenario in chosen.iter().copied().filter(|scenario| scenario.sharing != Sharing::SideBySide) {
        report.add(run_one(scenario, broker, lobby.to_owned()).await);
    }
    report.finish()
}

fn choose(only: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    let mut chosen: Vec<&'static Scenario> = Vec::new();
    for text in only {
        let exact = SCENARIOS.iter().filter(|scenario| scenario.name == text).count() > 0;
        let fits =
            |scenario: &&Scenario| scenario.name == text || (!exact && scenario.name.contains(text.as_str()));
        let before = chosen.len();
        chosen.extend(SCENARIOS.iter().filter(fits));
        if chosen.len() == before {
            let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario fits `{text}`; there are: {}", known.join(", "));
        }
    }
    if only.is_empty() {
        chosen.extend(SCENARIOS);
    }
    Ok(chosen)
}

async fn run_one(scenario: &'static Scenario, broker: &Arc<Broker>, lobby: PathBuf) -> Verdict {
    let start = Instant::now();
    let stage = match Stage::set(scenario.name, broker, lobby).await {
        Ok(stage) => Arc::new(stage),
        Err(error) => {
            let error = error.context("set the stage");
            return Verdict::failed(scenario.name, start.elapsed(), &error, Vec::new());
        }
    };
    // A task of its own: a panic in a scenario fails that scenario only.
    let acting = tokio::spawn({
        let stage = Arc::clone(&stage);
        async move { tokio::time::timeout(SCENARIO_LIMIT, (scenario.run)(&stage)).await }
    });
    let result = match acting.await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Late(format!("still running after {SCENARIO_LIMIT:?}")).into()),
        Err(panic) => Err(anyhow::anyhow!("panicked: {panic}")),
    };
    match result {
        Ok(()) => match stage.skipped() {
            Some(reason) => Verdict::skipped(scenario.name, start.elapsed(), reason),
            None => Verdict::passed(scenario.name, start.elapsed(), stage.facts()),
        },
        Err(error) => Verdict::failed(scenario.name, start.elapsed(), &error, stage.last_log_lines()),
    }
}

/// A thousand clients here and in the lobby need more descriptors than the usual soft limit; the child inherits it.
fn raise_file_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = 8192.min(limit.maximum.unwrap_or(8192));
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
        .context("raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lobby_that_is_given_stays_the_same_when_another_is_built_over_it() {
        let directory = tempfile::tempdir().unwrap();
        let built = directory.path().join("lobby");
        std::fs::write(&built, "given").unwrap();
        let given = Given::new(&built, true).unwrap();
        std::fs::write(&built, "built over it").unwrap();
        assert_eq!(std::fs::read_to_string(&given.path).unwrap(), "given");
        let copy = given.path.clone();
        drop(given);
        assert!(!copy.exists());
        let given = Given::new(&built, false).unwrap();
        assert_eq!(given.path, built.canonicalize().unwrap());
        drop(given);
        assert!(built.exists());
    }

    #[test]
    fn scenarios_have_names_of_their_own_in_kebab_case() {
        let mut seen = std::collections::BTreeSet::new();
        for name in SCENARIOS.iter().map(|scenario| scenario.name) {
            assert!(seen.insert(name), "{name} stands twice");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            );
        }
        assert!(choose(&["no-such-claim".to_owned()]).is_err());
        assert_eq!(choose(&[]).unwrap().len(), SCENARIOS.len());
        assert_eq!(choose(&["unicast".to_owned()]).unwrap().len(), 1);
    }
}
