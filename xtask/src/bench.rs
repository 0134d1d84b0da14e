//! `cargo xtask bench`: what a delivery costs, beside what the kernel alone costs, in one run.
//!
//! ```text
//! plan → running (floor | lobby | peer) + population → delivery | idle | slow → sample → table, document, plot
//!      → amqp                        driver reads and checks every message
//! ```

use std::{
    fs::File,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

mod amqp;
pub(crate) mod body;
pub(crate) mod codec;
pub(crate) mod crowd;
mod delivery;
mod document;
pub(crate) mod driver;
pub(crate) mod floor;
pub(crate) mod histogram;
mod idle;
mod instructions;
pub(crate) mod machine;
pub(crate) mod peer;
mod plan;
mod plot;
pub(crate) mod population;
pub(crate) mod process;
mod ring;
mod running;
mod sample;
mod slow;
mod subject;
mod table;
mod targets;

use self::{
    document::Place,
    machine::Machine,
    plan::{Plan, Recorder},
    running::Workshop,
    sample::{Absence, Results},
    subject::Subject,
};
use crate::{
    broker::{Broker, BrokerOptions},
    build, progress,
};

/// Options of the command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// End in about a minute (without --peers): one repetition, 1,000 clients, slow readers over TCP only, fewer
    /// deliveries; `docs/` is left as it is.
    #[arg(long)]
    quick: bool,
    /// Also measure nats-server and mosquitto, installed with apt where that is possible and needed.
    #[arg(long)]
    peers: bool,
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
    /// Only count the instructions of decoding and encoding one message, with valgrind, and compare them with
    /// `xtask/instruction-limits.json`; without valgrind say so and end well.
    #[arg(long, conflicts_with_all = ["quick", "peers", "only", "json", "runs", "deliveries", "lobby"])]
    instructions: bool,
    /// Write the counted instructions to `xtask/instruction-limits.json` instead.
    #[arg(long, requires = "instructions")]
    update_limits: bool,
    /// A release build of the lobby, instead of building one.
    #[arg(long, value_name = "FILE")]
    lobby: Option<PathBuf>,
}

/// Builds, measures, and writes the report.
///
/// # Errors
/// Whatever keeps it from measuring, and any delivery that was lost, out of order or changed.
pub(crate) async fn bench(options: &Options) -> anyhow::Result<()> {
    let mut progress = progress::to_stderr();
    if options.instructions {
        return instructions::run(options.update_limits, &mut progress).await;
    }
    if cfg!(debug_assertions) {
        return in_release().await;
    }
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
    let cast = Cast::find(options.peers, &mut progress).await;
    plan.subjects.clone_from(&cast.subjects);
    let amqp_example = if plan.wants_amqp() { Some(amqp::build().await?) } else { None };

    let broker = Broker::start(&BrokerOptions::from_env(false)?, &mut progress).await;
    let broker = broker.context("start RabbitMQ for the benchmark")?;
    let place = Place { machine, broker: broker.how().to_owned(), peers: cast.versions };
    let vhost = broker.vhost("bench").await.context("make a virtual host")?;
    let directory = tempfile::Builder::new().prefix("lobby-bench-").tempdir().context("make a directory")?;
    let amqp_url = vhost.amqp_url().to_owned();
    let workshop = Workshop { lobby, peers: cast.peers, amqp_example, amqp_url, directory };

    let mut lines = match &options.json {
        Some(path) => Some(File::create(path).with_context(|| format!("create {}", path.display()))?),
        None => None,
    };
    let mut write = |line: serde_json::Value| match &mut lines {
        Some(file) => writeln!(file, "{line}").context("write JSON"),
        None => Ok(()),
    };
    for absence in &cast.absent {
        write(absence.json())?;
    }
    let mut results = Results::default();
    results.absent = cast.absent;
    let mut seen = |sample: &sample::Sample| write(sample.json());
    let mut recorder = Recorder { results, progress: &mut progress, seen: &mut seen };
    let outcome = plan.run(&workshop, &place.machine, &mut recorder).await;
    let results = recorder.results;
    drop(vhost);
    drop(broker);
    outcome?;

    for table in table::tables(&results) {
        println!("{}", table.for_terminal());
    }
    for remark in results.remarks() {
        println!("{remark}");
    }
    for verdict in targets::judge(&results, plan.deliveries) {
        println!("{:<8}{:<88}{:>12}", if verdict.met { "met" } else { "MISSED" }, verdict.text, verdict.got);
    }
    if options.quick || options.only.is_some() {
        return Ok(());
    }
    let command = format!("cargo xtask {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
    let document = document::markdown(&results, &plan, &place, &command);
    std::fs::write(root.join(document::DOCUMENT), document).context("write docs/BENCHMARKS.md")?;
    std::fs::write(root.join(document::PLOT), plot::svg(&results)).context("write docs/benchmarks.svg")
}

/// Who takes part, and why others do not.
#[derive(Debug, Default)]
struct Cast {
    subjects: Vec<Subject>,
    absent: Vec<Absence>,
    peers: Vec<(peer::Peer, PathBuf)>,
    versions: Vec<String>,
}

impl Cast {
    async fn find(peers: bool, progress: &mut (dyn FnMut(&str) + Send)) -> Self {
        let mut cast = Self::default();
        for subject in Subject::ALL {
            let reason = match subject {
                Subject::Library => continue,
                Subject::Peer(_) if !peers => continue,
                Subject::Peer(peer) => match peer.find(progress).await {
                    Ok(program) => {
                        cast.versions.push(peer.version(&program).await);
                        cast.peers.push((peer, program));
                        None
                    }
                    Err(reason) => Some(reason),
                },
                Subject::FloorUring => ring::refused(),
                _ => None,
            };
            match reason {
                None => cast.subjects.push(subject),
                Some(reason) => {
                    progress(&format!("{} is not measured: {reason}", subject.name()));
                    cast.absent.push(Absence { subject, reason });
                }
            }
        }
        cast
    }
}

/// Becomes a release build of this program that does the same: what drives must not be what is measured. A signal to this
/// process is one to that, which ends what it has started.
pub(crate) async fn in_release() -> anyhow::Result<()> {
    let program = build::release("xtask", "xtask").await?;
    Err(Command::new(program).args(std::env::args_os().skip(1)).exec())
        .context("run the release build of xtask")
}
