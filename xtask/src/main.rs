//! The repository's chores: `cargo xtask <command>`.
//!
//! One module per command; [`broker`] gives every one of them a RabbitMQ without a person's help.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use interruption::unless_interrupted;

mod amqp_wire;
mod apt;
mod bench;
mod broker;
mod broker_command;
mod browser;
mod build;
mod ci;
mod client;
mod contract;
mod deny;
mod deployment;
mod dist;
mod docker;
mod documents;
mod e2e;
mod environment;
mod faults;
mod fuzz;
mod http;
mod interruption;
mod java;
mod late;
mod lobby;
mod node;
mod process;
mod progress;
mod python;
mod run;
mod stage;
mod token;

/// The limit of waiting for anything that should happen; it never decides an outcome.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Chores of the lobby's repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or make a broker, start the lobby, show a unicast, a broadcast and a message for nobody.
    Run {
        /// Stop after the demonstration, with exit code 0 or 1.
        #[arg(long)]
        once: bool,
        /// Allow Docker to pull RabbitMQ's official image.
        #[arg(long)]
        pull: bool,
    },
    /// Everything that CI checks, cheapest first.
    Ci,
    /// Write the documents that are made from the code.
    Docs,
    /// Check what stands in `deploy/` with the programs that will read it.
    Deployment,
    /// The lobby as others get it: Debian package, archive, checksums; installed, started and removed as a test.
    Dist(dist::Options),
    /// Unit tests, doc tests and broker tests.
    Test,
    /// End-to-end tests: the built `lobby` against a real broker and real sockets.
    E2e(e2e::Options),
    /// Every fault that the lobby has to survive, produced on purpose: a table, JSON, `docs/RELIABILITY.md`.
    Faults(faults::Options),
    /// What a delivery costs, beside what the kernel alone costs: tables, JSON, `docs/BENCHMARKS.md`.
    Bench(bench::Options),
    /// Hostile bytes against every decoder: the targets of `fuzz/`, driven by libFuzzer.
    Fuzz(fuzz::Options),
    /// The server that does nothing but write; started by the benchmark.
    #[command(hide = true)]
    BenchFloor(bench::floor::Options),
    /// Start a broker and keep it until Ctrl-C.
    Broker(broker_command::Options),
    /// Build the image `lobby-rabbitmq:local` where no registry can be reached.
    BrokerImage {
        /// Build it even if it is there.
        #[arg(long)]
        force: bool,
    },
    /// Run a command with a Docker Engine: the machine's, or a private one for the time of the command.
    WithDocker {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Cleans up after an xtask that was killed; started by xtask itself.
    #[command(hide = true)]
    Guard {
        #[command(subcommand)]
        ward: broker::guard::Ward,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { once, pull } => run::run(once, pull).await,
        Command::Ci => ci::ci().await,
        Command::Docs => documents::write().await,
        Command::Deployment => deployment::check().await,
        Command::Dist(options) => dist::dist(&options).await,
        Command::Test => ci::test().await,
        Command::E2e(options) => unless_interrupted(e2e::e2e(&options)).await,
        Command::Faults(options) => unless_interrupted(faults::faults(&options)).await,
        Command::Fuzz(options) => unless_interrupted(fuzz::fuzz(&options)).await,
        Command::Bench(options) => unless_interrupted(bench::bench(&options)).await,
        Command::BenchFloor(options) => bench::floor::serve(&options),
        Command::Broker(options) => broker_command::run(options).await,
        Command::BrokerImage { force } => docker::broker_image(force).await,
        Command::WithDocker { command } => docker::with_docker(&command).await,
        Command::Guard { ward } => broker::guard::watch(&ward).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
