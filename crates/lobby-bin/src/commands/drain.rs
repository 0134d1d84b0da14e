//! `lobby drain`: has a running lobby drain, and waits for its end where that is wanted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Args;
use reqwest::Method;
use serde_json::json;

use super::{
    admin::{AdminAddress, AdminArgs, Unanswered},
    progress::progress,
};
use crate::{Failure, admin::DrainState, config::Config, print};

/// Between two looks at a lobby that drains.
const LOOK: Duration = Duration::from_millis(250);
/// What a lobby may take beyond its own limit.
const SLACK: Duration = Duration::from_secs(10);

/// How to order it.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Waits until the lobby has ended, and shows how many sessions are left.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    admin: AdminArgs,
    /// The answer as one JSON object; with --wait a second one, at the end.
    #[arg(long)]
    json: bool,
}

/// Orders the drain.
pub fn drain(config: &Config, args: &DrainArgs) -> Result<(), Failure> {
    let admin = AdminAddress::of(config, &args.admin)?;
    super::run(async {
        let answer = admin.post("/drain").await?;
        let state = read(&admin, &answer)?;
        print(&if args.json { format!("{}\n", answer.trim_end()) } else { begun(&admin, state) })?;
        if !args.wait {
            return Ok(());
        }
        let took = ended(&admin, state).await?;
        let said = json!({"ended": true, "waited_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX)});
        print(&if args.json { format!("{said}\n") } else { format!("ended after {took:.1?}\n") })
    })
}

fn read(admin: &AdminAddress, answer: &str) -> anyhow::Result<DrainState> {
    serde_json::from_str(answer)
        .with_context(|| format!("the answer of {admin} is not a lobby's of this version"))
}

fn begun(admin: &AdminAddress, state: DrainState) -> String {
    let (window, limit) = (Duration::from_millis(state.window_ms), Duration::from_millis(state.limit_ms));
    format!(
        "the lobby at {admin} drains: {} sessions are told to go within {window:?}, and it ends within {limit:?}\n",
        state.sessions
    )
}

/// Waits until nobody answers, or another lobby does.
async fn ended(admin: &AdminAddress, first: DrainState) -> Result<Duration, Failure> {
    let (start, patience) = (Instant::now(), Duration::from_millis(first.limit_ms) + SLACK);
    let bar = progress("sessions told to go", Some(first.sessions));
    loop {
        tokio::time::sleep(LOOK).await;
        match admin.ask(Method::GET, "/drain").await {
            Ok(answer) => {
                let state = read(admin, &answer)?;
                if !state.draining {
                    break;
                }
                bar.set_position(first.sessions.saturating_sub(state.sessions));
            }
            Err(why) if why.nobody_listens() => break,
            // It may be busy, or ends while it answers.
            Err(Unanswered::Away(_)) => {}
            Err(denied @ Unanswered::Denied(_)) => return Err(admin.failure(denied)),
        }
        if start.elapsed() > patience {
            let error = anyhow!("the lobby at {admin} still drains after {patience:?}: look at its log");
            return Err(Failure { code: Failure::TRY_AGAIN, error });
        }
    }
    bar.finish_and_clear();
    Ok(start.elapsed())
}
