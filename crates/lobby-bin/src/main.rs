//! The lobby: consumes notifications from RabbitMQ and pushes each to the right connected players.

mod admin;
mod app;
mod cli;
mod commands;
mod config;
mod dispatch;
mod doorkeeper;
mod explain;
mod file_limit;
mod handshake;
mod listen_tls;
mod listener;
mod logging;
mod login;
mod management;
mod memory_limit;
mod message_ids;
mod metrics;
mod otel;
mod proxies;
mod published;
mod readiness;
mod receipts;
mod recording;
mod reload;
mod service_manager;
mod startup;
mod stream;
mod topology;
mod trace;
mod upgrade;

use std::{io::Write, process::ExitCode};

use clap::Parser;
use notify_protocol::UserId;

use crate::{
    cli::{Cli, Command},
    config::{Config, ConfigError, Loaded, Sources},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "lobby: {:#}", failure.error);
            ExitCode::from(failure.code)
        }
    }
}

/// Why the process ends, and with which code (see `cli::EXIT_CODES`).
#[derive(Debug)]
struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    const INTERNAL: u8 = 1;
    const USAGE: u8 = 2;
    const MESSAGE: u8 = 64;
    const MISMATCH: u8 = 65;
    const NOT_FOUND: u8 = 66;
    const LOGIN: u8 = 67;
    const VHOST: u8 = 68;
    const UNAVAILABLE: u8 = 69;
    const REFUSED: u8 = 70;
    const LISTEN: u8 = 71;
    const UNROUTABLE: u8 = 72;
    const FILE: u8 = 73;
    const NACKED: u8 = 74;
    const TRY_AGAIN: u8 = 75;
    const TLS: u8 = 76;
    const PERMISSION: u8 = 77;
    const CONFIG: u8 = 78;
    const TOPOLOGY: u8 = 79;
    const GAP: u8 = 80;
    const NO_RECEIPT: u8 = 81;
    const NOT_WRITTEN: u8 = 82;
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { code: Self::CONFIG, error: error.into() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: Self::INTERNAL, error }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let sources = Sources {
        file: cli.sources.config.clone(),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags: cli.sources.set.clone(),
    };
    let load = || config::load(&sources);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(load()?, sources),
        Command::Token { user, login, ttl } => {
            let token = login::mint(&load()?.config, UserId::new(user), login.as_deref(), ttl);
            let token = token.map_err(|error| Failure { code: Failure::CONFIG, error })?;
            print(&format!("{token}\n"))
        }
        Command::Explain(args) => commands::explain(&load()?.config, args),
        Command::Publish(args) => commands::publish(&load()?.config, args),
        Command::Tail(args) => commands::tail(&load()?.config, &args),
        Command::Record(args) => commands::record(&load()?.config, &args),
        Command::Replay(args) => commands::replay(&load()?.config, &args),
        Command::Health(args) => commands::health(&load()?.config, &args),
        Command::Drain(args) => commands::drain(&load()?.config, &args),
        Command::Top(args) => commands::top(&load()?.config, &args),
        Command::Trace(args) => commands::trace(&load()?.config, &args),
        Command::Topology { command } => commands::topology(&load()?.config, &command),
        Command::DeadLetters { command } => commands::dead_letters(&load()?.config, command),
        Command::CheckConfig { json } => {
            let loaded = load()?;
            warn_if_unverified(&loaded.config);
            for warning in &loaded.warnings {
                let _ = writeln!(std::io::stderr(), "lobby: warning: {warning}");
            }
            print(&if json {
                format!("{}\n", config::effective_json(&loaded))
            } else {
                config::effective(&loaded)
            })
        }
        Command::Completions { shell } => print(&commands::completions(shell)?),
        Command::Man { directory } => commands::man(directory.as_deref()),
        Command::DefaultConfig => print(&config::default_file()),
        Command::ConfigTable => print(&config::markdown_table()),
    }
}

/// Says loudly that the broker's certificate is not verified, where that is so.
fn warn_if_unverified(config: &Config) {
    if config.broker_url.tls() && !config.broker.tls_verify {
        let _ = writeln!(std::io::stderr(), "lobby: warning: {}", notify_amqp::UNVERIFIED);
    }
}

/// Prints to standard output; a reader that has gone, as in `| head`, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    print_while_read(text).map(drop)
}

/// As [`print()`], for a command that ends only by hand: false when nobody reads its output any more.
fn print_while_read(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::from(anyhow::Error::from(error))),
    }
}

fn serve(loaded: Loaded, sources: Sources) -> Result<(), Failure> {
    let log = logging::start(&loaded.config)?;
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "the configuration has a weakness");
    }
    let mut loaded = loaded;
    file_limit::raise(&mut loaded.config.max_connections);
    memory_limit::heed(&mut loaded.config.outbox_total);
    // One crypto library for all; an error only says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lobby")
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let served = runtime.block_on(app::serve(loaded, sources, log));
    runtime.shutdown_background();
    served
}
