//! `lobby health`: whether a running lobby is ready, or lives, as an exit code for who starts and watches it.

use anyhow::anyhow;
use clap::Args;
use reqwest::Method;

use super::admin::{AdminAddress, AdminArgs, Unanswered};
use crate::{Failure, config::Config, print};

/// What to ask.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Only whether it lives, ready or not: what a restart could cure.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Prints the lobby's answer.
///
/// # Errors
/// [`Failure::UNAVAILABLE`]: it is not ready, with its reason, or nobody answers.
pub fn health(config: &Config, args: &HealthArgs) -> Result<(), Failure> {
    let admin = AdminAddress::of(config, &args.admin)?;
    super::run(async {
        match admin.ask(Method::GET, if args.live { "/live" } else { "/ready" }).await {
            Ok(answer) => print(&format!("{}\n", answer.trim_end())),
            Err(Unanswered::Away(error)) if error.downcast_ref::<reqwest::Error>().is_none() => {
                let error = anyhow!("the lobby at {admin} is not well: {error:#}");
                Err(Failure { code: Failure::UNAVAILABLE, error })
            }
            Err(why) => Err(admin.failure(why)),
        }
    })
}
