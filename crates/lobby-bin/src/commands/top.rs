//! `lobby top`: the console's figures in the terminal, a second at a time.

mod events;
mod view;

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use console::Term;

use self::{
    events::Events,
    view::{Seen, columns, head, object, screen},
};
use super::admin::{AdminAddress, AdminArgs, Unanswered};
use crate::{Failure, config::Config, print};

/// Between two attempts to reach a lobby that has gone, while somebody watches.
const RETRY: Duration = Duration::from_secs(2);
/// The lobby has something to say each second.
const SILENCE: Duration = Duration::from_secs(10);
/// Lines after which the heads of the columns are said again.
const HEADS_EVERY: usize = 20;
/// The width of a page that is not drawn on a terminal.
const WIDTH: usize = 80;

/// What to show, and how.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// The figures of this moment, and the end.
    #[arg(long)]
    once: bool,
    /// One JSON object a second.
    #[arg(long)]
    json: bool,
}

/// Shows the figures until Ctrl-C: on a terminal a page that is drawn again, else a line a second.
pub fn top(config: &Config, args: &TopArgs) -> Result<(), Failure> {
    let admin = AdminAddress::of(config, &args.admin)?;
    let term = Term::stdout();
    super::run(async {
        if args.once || args.json || !term.is_term() {
            return follow(&admin, args).await;
        }
        // What cannot be hidden stays visible.
        let _ = term.hide_cursor();
        let ended = tokio::select! {
            ended = watch(&admin, &term) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
        let _ = term.show_cursor();
        ended
    })
}

/// A line or an object a second, until the lobby has gone.
async fn follow(admin: &AdminAddress, args: &TopArgs) -> Result<(), Failure> {
    let mut events = open(admin).await.map_err(|why| admin.failure(why))?;
    let mut seen = Seen::default();
    let mut lines = 0;
    loop {
        let event = next(&mut events).await.map_err(|why| admin.failure(why))?;
        let is_first = seen.take(event);
        if is_first && !args.once {
            continue;
        }
        if args.json {
            print(&format!("{}\n", object(&seen)))?;
        } else if args.once {
            print(&format!("{}\n", screen(&seen, WIDTH).join("\n")))?;
        } else {
            let heads = if lines % HEADS_EVERY == 0 { head() } else { String::new() };
            print(&format!("{heads}{}\n", columns(&seen)))?;
            lines += 1;
        }
        if args.once {
            return Ok(());
        }
    }
}

/// Draws a page each second, and waits for a lobby that has gone.
async fn watch(admin: &AdminAddress, term: &Term) -> Result<(), Failure> {
    let mut seen = Seen::default();
    loop {
        let why = match open(admin).await {
            Ok(mut events) => loop {
                match next(&mut events).await {
                    Ok(event) => {
                        seen.take(event);
                        draw(term, &screen(&seen, usize::from(term.size().1)))?;
                    }
                    Err(why) => break why,
                }
            },
            Err(why) => why,
        };
        if matches!(why, Unanswered::Denied(_)) {
            return Err(admin.failure(why));
        }
        let gone = format!("no answer from {admin}; trying again (Ctrl-C ends)");
        draw(term, &[console::style(gone).red().to_string()])?;
        tokio::time::sleep(RETRY).await;
    }
}

/// Draws over what was there before, so that nothing flickers.
fn draw(term: &Term, lines: &[String]) -> anyhow::Result<()> {
    let (rows, columns) = term.size();
    let mut page = String::from("\x1b[H");
    for line in lines.iter().take(usize::from(rows).saturating_sub(1).max(1)) {
        page.push_str(&console::truncate_str(line, usize::from(columns), "…"));
        page.push_str("\x1b[K\n");
    }
    page.push_str("\x1b[J");
    Ok(term.write_str(&page)?)
}

async fn open(admin: &AdminAddress) -> Result<Events, Unanswered> {
    admin.open("/api/events").await.map(Events::new)
}

async fn next(events: &mut Events) -> Result<serde_json::Value, Unanswered> {
    let next = tokio::time::timeout(SILENCE, events.next()).await;
    let next = next.unwrap_or_else(|_| Err(anyhow!("it says nothing any more")));
    next.map_err(Unanswered::Away)
}
