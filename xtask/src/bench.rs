//! `cargo xtask bench`: what a delivery costs, beside what the kernel alone costs, in one run.
//!
//! ```text
//! plan → subject (floor | lobby) + population → delivery | idle | slow → sample → table, document, plot
//!                                    driver reads and checks every message
//! ```

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

mod body;
mod codec;
mod delivery;
mod document;
mod driver;
pub(crate) mod floor;
mod histogram;
mod idle;
mod machine;
mod plan;
mod plot;
mod population;
mod process;
mod sample;
mod slow;
mod subject;
mod table;
mod targets;

use self::{machine::Machine, plan::Plan, subject::Workshop};
use crate::{
    broker::{Broker, BrokerOptions},
    build, progress,
};

/// Options of the command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// End in about a minute: one repetition, 1,000 clients, fewer deliveries; `docs/` is left as it is.
    #[arg(long)]
    quick: bool,
    /// Run only the scenarios whose name contains this text; `docs/` is left as it is.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Write every measurement to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Repetitions of everything [default: 3, with --quick 1].
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// Deliveries of a saturated run [default: 500000, with --quick 100000].
    #[arg(long, value_name = "N")]
    deliveries: Option<u64>,
    /// A release build of the lobby, instead of building one.
    #[arg(long, value_name = "FILE")]
    lobby: Option<PathBuf>,
}

/// Builds, measures, and writes the report.
///
/// # Errors
/// Whatever keeps it from measuring, and any delivery that was lost, out of order or changed.
pub(crate) async fn bench(options: &Options) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        return in_release().await;
    }
    let mut progress = progress::to_stderr();
    let lobby = match &options.lobby {
        Some(path) => path.canonicalize().with_context(|| format!("lobby binary {}", path.display()))?,
        None => {
            progress("building the lobby, release");
            build::release("lobby-bin", "lobby").await?
        }
    };
    let machine = Machine::prepared();
    progress(&machine.text());
    let mut plan = if options.quick { Plan::quick() } else { Plan::full() };
    plan.only.clone_from(&options.only);
    plan.runs = options.runs.unwrap_or(plan.runs).max(1);
    plan.deliveries = options.deliveries.unwrap_or(plan.deliveries).max(1);

    let broker = Broker::start(&BrokerOptions::from_env(false)?, &mut progress).await;
    let broker = broker.context("start RabbitMQ for the benchmark")?;
    let how = broker.how().to_owned();
    let vhost = broker.vhost("bench").await.context("make a virtual host")?;
    let directory = tempfile::Builder::new().prefix("lobby-bench-").tempdir().context("make a directory")?;
    let workshop = Workshop { lobby, amqp_url: vhost.amqp_url().to_owned(), directory };

    let mut lines = match &options.json {
        Some(path) => Some(File::create(path).with_context(|| format!("create {}", path.display()))?),
        None => None,
    };
    let mut record = |sample: &sample::Sample| match &mut lines {
        Some(file) => writeln!(file, "{}", sample.json()).context("write JSON"),
        None => Ok(()),
    };
    let results = plan.run(&workshop, &machine, &mut progress, &mut record).await;
    drop(vhost);
    drop(broker);
    let results = results?;

    for table in table::tables(&results) {
        println!("{}", table.for_terminal());
    }
    for verdict in targets::judge(&results, plan.deliveries) {
        println!("{:<8}{:<88}{:>12}", if verdict.met { "met" } else { "MISSED" }, verdict.text, verdict.got);
    }
    if options.quick || options.only.is_some() {
        return Ok(());
    }
    let command = format!("cargo xtask {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
    let document = document::markdown(&results, &plan, &machine, &how, &command);
    std::fs::write(root.join(document::DOCUMENT), document).context("write docs/BENCHMARKS.md")?;
    std::fs::write(root.join(document::PLOT), plot::svg(&results)).context("write docs/benchmarks.svg")
}

/// Runs the same command in a release build of this program: floor and driver must not be what is measured.
async fn in_release() -> anyhow::Result<()> {
    let program = build::release("xtask", "xtask").await?;
    let status = Command::new(program).args(std::env::args_os().skip(1)).kill_on_drop(true).status().await;
    let status = status.context("run the release build of xtask")?;
    ensure!(status.success(), "the benchmark in release failed: {status}");
    Ok(())
}
