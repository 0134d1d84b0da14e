//! The lobby: consumes notifications from RabbitMQ and pushes each to the right connected players.

mod admin;
mod app;
mod cli;
mod config;
mod dispatch;
mod handshake;
mod listener;
mod logging;
mod login;
mod metrics;
mod readiness;
mod upgrade;

use std::process::ExitCode;

use clap::Parser;
use notify_protocol::UserId;

use crate::{
    app::App,
    cli::{Cli, Command},
    config::{ConfigError, Loaded, Sources},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lobby: {:#}", failure.error);
            ExitCode::from(failure.code)
        }
    }
}

/// Why the process ends, and with which code (see `cli::EXIT_CODES`).
struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    const INTERNAL: u8 = 1;
    const LISTEN: u8 = 71;
    const CONFIG: u8 = 78;
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
    let load = || {
        config::load(&Sources {
            file: cli.sources.config.clone(),
            environment: std::env::vars().collect(),
            flags: cli.sources.set.clone(),
        })
    };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(load()?),
        Command::Token { user, login, ttl } => {
            let token = login::mint(&load()?.config, UserId::new(user), login.as_deref(), ttl);
            println!("{}", token.map_err(|error| Failure { code: Failure::CONFIG, error })?);
            Ok(())
        }
        Command::CheckConfig => {
            print!("{}", config::effective(&load()?));
            Ok(())
        }
        Command::DefaultConfig => {
            print!("{}", config::default_file());
            Ok(())
        }
        Command::ConfigTable => {
            print!("{}", config::markdown_table());
            Ok(())
        }
    }
}

fn serve(loaded: Loaded) -> Result<(), Failure> {
    logging::start(&loaded.config)?;
    // One crypto library for all; an error only says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lobby")
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let served = runtime.block_on(async { App::build(loaded.config).await?.run().await });
    runtime.shutdown_background();
    served
}
