//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    commands::{
        DrainArgs, ExplainArgs, HealthArgs, PublishArgs, RecordArgs, ReplayArgs, TailArgs, TopArgs, TraceArgs,
    },
    config::parse_duration,
};

/// Pushes RabbitMQ notifications to connected players.
#[derive(Debug, Parser)]
#[command(name = "lobby", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub sources: SourceArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done or drained, 1 internal error, 2 wrong use, \
    71 an address could not be listened on, 75 the broker cancelled the consumer and queue.exit_on_cancel is set, 78 the configuration is not accepted, or a file or command that it names. \
    Before the broker was consumed from for the first time: 65 queue or exchange exists with other properties, \
    66 queue or exchange not found, 67 login refused, 68 virtual host missing, \
    69 not consuming within broker.startup_timeout, 76 TLS certificate not accepted, by either side, \
    77 user lacks a permission. The same codes, where a command talks to the broker; there also 64 a message is not \
    valid, 70 the broker refused the message itself, 72 unroutable: no lobby is there, 73 a file cannot be read or \
    written, 74 the broker did not take the message (nack), 75 not confirmed in time, some dead letters could not be \
    replayed, or the broker takes no messages now, 77 too where a running lobby does not let a command in, 79 `topology check` found \
    something wrong, 80 the recording has a gap, 81 confirmed but no receipt came in time, 82 receipts came and \
    none says written. Of several messages the first that \
    failed decides.";

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// The configuration file; else ./lobby.toml or /etc/lobby/lobby.toml, where there is one.
    #[arg(long, global = true, value_name = "FILE", env = "LOBBY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Sets one key, stronger than file and environment.
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the lobby (what `lobby` alone does).
    Serve,
    /// Prints a development token, signed with the configured secret.
    Token {
        /// The user id that the token speaks for.
        #[arg(long, allow_negative_numbers = true)]
        user: i64,
        /// The login name; `user-ID` unless given.
        #[arg(long)]
        login: Option<String>,
        /// How long the token is valid, as in 30s, 10m or 1h.
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
    },
    /// Publishes a notification, or one for each line of a file, and waits for the broker's confirm.
    Publish(PublishArgs),
    /// Shows offline what a lobby does with a message, step by step, and the bytes that clients get.
    Explain(ExplainArgs),
    /// Shows what arrives at the exchange, with what lobbies do with it; takes nothing from a lobby's queue.
    Tail(TailArgs),
    /// Writes what arrives at the exchange to a file, byte for byte; takes nothing from a lobby's queue.
    Record(RecordArgs),
    /// Shows what lobbies do with recorded messages, or publishes them again as they were.
    Replay(ReplayArgs),
    /// Asks a running lobby why a user did not get a message: prints its last decisions.
    Trace(TraceArgs),
    /// Shows a running lobby's figures live: sessions, messages, times, what waits.
    Top(TopArgs),
    /// Has a running lobby drain: its clients are told to come back, one after the other, and it ends.
    Drain(DrainArgs),
    /// Asks a running lobby whether it is ready, as an exit code: 0, or 69 with the reason.
    Health(HealthArgs),
    /// Checks the configuration and prints each value in force with where it came from; secrets are hidden.
    CheckConfig {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Looks after the messages that lobbies dropped (`dead_letter.exchange`).
    DeadLetters {
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// What the lobby needs on the broker: virtual host, exchange, queues, bindings, policies, permissions.
    Topology {
        #[command(subcommand)]
        command: TopologyCommand,
    },
    /// Prints what a shell needs to complete this command line.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes one for each command.
    Man {
        /// The directory to write them to, as /usr/local/share/man/man1; it is made if it is missing.
        directory: Option<PathBuf>,
    },
    /// Prints a commented configuration file with all defaults.
    DefaultConfig,
    /// Prints the table of all settings for the documentation.
    #[command(hide = true)]
    ConfigTable,
}

/// What to do with dead letters. Positions count from 1, the oldest.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// Lists them, the oldest first; all stay.
    List {
        /// How many at most.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Shows one whole; it stays.
    Show {
        /// Its position in the list.
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        position: u32,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Publishes one or all again, as they were and to where they came from; what the broker has confirmed goes from the queue.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Replay {
        /// Its position in the list.
        #[arg(group = "which", value_parser = clap::value_parser!(u32).range(1..))]
        position: Option<u32>,
        /// All that wait now.
        #[arg(long, group = "which")]
        all: bool,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Deletes all that wait.
    Purge {
        /// Does not ask.
        #[arg(long)]
        yes: bool,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// What to do about the topology. The broker is asked through its management API (`broker.management_url`).
#[derive(Debug, Subcommand)]
pub enum TopologyCommand {
    /// Prints what is declared or expected; asks nobody.
    Show {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Compares it with what is there, and changes nothing: what is missing, different, bound by nobody's plan, not permitted, or left behind.
    Check {
        /// The instance's own queue may be missing: its lobby has not started yet.
        #[arg(long)]
        without_queue: bool,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Makes what is missing; a second time there is nothing to do. What exists with other properties stops it before anything is made.
    Apply {
        /// The instance's own queue too, for a lobby with `queue.declare` = "passive" or "none".
        #[arg(long)]
        queue: bool,
        /// The user's permissions too; those it has stay.
        #[arg(long)]
        grant: bool,
        /// Only says what would be made.
        #[arg(long)]
        dry_run: bool,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}
