//! Commands that do one thing and end, each in a file of its own.

mod admin;
mod dead_letters;
mod drain;
mod explain;
mod health;
mod in_flight;
mod input;
mod listen;
mod manual;
mod progress;
mod publish;
mod receipts;
mod record;
mod replay;
mod sent;
mod table;
mod tail;
mod top;
mod topology;
mod trace;

use anyhow::Context;

pub use self::{
    dead_letters::dead_letters,
    drain::{DrainArgs, drain},
    explain::{ExplainArgs, explain},
    health::{HealthArgs, health},
    manual::{completions, man},
    publish::{PublishArgs, publish},
    record::{RecordArgs, record},
    replay::{ReplayArgs, replay},
    tail::{TailArgs, tail},
    top::{TopArgs, top},
    topology::topology,
    trace::{TraceArgs, trace},
};
use crate::Failure;

/// Runs `work` on this thread.
fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // One crypto library for all; an error only says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start an event loop")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// What was given as a message is none.
fn invalid_message(error: anyhow::Error) -> Failure {
    Failure { code: Failure::MESSAGE, error }
}
