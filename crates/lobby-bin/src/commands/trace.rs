//! `lobby trace`: asks a running lobby for its last decisions.

use anyhow::Context as _;
use clap::Args;

use super::{
    admin::{AdminAddress, AdminArgs},
    table::Table,
};
use crate::{
    Failure,
    config::Config,
    print,
    trace::{DEFAULT_LIMIT, Decision, MAX_LIMIT, Outcome, Page},
};

/// What to ask for.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Messages to this user, and broadcasts; without it, the messages that somebody may miss.
    #[arg(long, allow_negative_numbers = true, value_name = "ID")]
    user: Option<i64>,
    /// The latest so many.
    #[arg(long, default_value_t = DEFAULT_LIMIT, value_parser = limit, value_name = "COUNT")]
    limit: usize,
    #[command(flatten)]
    admin: AdminArgs,
    /// The answer as one JSON object.
    #[arg(long)]
    json: bool,
}

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| format!("expected a whole number from 1 to {MAX_LIMIT}"))
}

/// Prints the decisions, the newest last.
pub fn trace(config: &Config, args: &TraceArgs) -> Result<(), Failure> {
    let admin = AdminAddress::of(config, &args.admin)?;
    let mut path = format!("/trace?limit={}", args.limit);
    if let Some(user) = args.user {
        path.push_str(&format!("&user={user}"));
    }
    let answer = super::run(admin.get(&path))?;
    if args.json {
        return print(&format!("{}\n", answer.trim_end()));
    }
    let page: Page = serde_json::from_str(&answer)
        .with_context(|| format!("the answer of {admin} is not a lobby's of this version"))?;
    print(&shown(&page, args.user))
}

fn shown(page: &Page, user: Option<i64>) -> String {
    if page.entries == 0 {
        return "the lobby records no decisions: `trace.decisions` is 0\n".to_owned();
    }
    let Page { entries, recorded, .. } = page;
    let since = page.since.as_deref().unwrap_or("its start");
    if page.decisions.is_empty() {
        return match user {
            Some(user) => format!(
                "no message for user {user} and no broadcast since {since}: this lobby got none ({recorded} messages in \
                 all, the last {entries} are remembered)\n"
            ),
            None => format!("every message since {since} was written to every session it was for\n"),
        };
    }
    let mut table = Table::new(["TIME", "MESSAGE ID", "FOR", "OUTCOME", "WHY"]);
    for decision in &page.decisions {
        table.row([
            decision.at.clone(),
            decision.message_id.clone().unwrap_or_else(|| "-".to_owned()),
            addressed(decision),
            decision.outcome.as_str().to_owned(),
            why(decision),
        ]);
    }
    format!(
        "{table}{} of the last {} decisions, since {since}\n",
        page.decisions.len(),
        (*recorded).min(*entries as u64)
    )
}

fn addressed(decision: &Decision) -> String {
    match (decision.outcome, decision.user) {
        (_, Some(user)) => format!("user {user}"),
        (Outcome::Dropped, None) => "-".to_owned(),
        (Outcome::ChannelReserved, None) => "channel".to_owned(),
        (_, None) => "everyone".to_owned(),
    }
}

/// The outcome in words, with the figures, and what is unusual about the message.
fn why(decision: &Decision) -> String {
    let sessions = decision.sessions;
    let count = |n: u32| format!("{n} session{}", if n == 1 { "" } else { "s" });
    let of = |n: u32| sessions.map_or_else(|| count(n), |s| format!("{n} of {}", count(s.addressed)));
    let mut text = match decision.outcome {
        Outcome::Written => format!("written to {}", count(sessions.map_or(0, |s| s.written))),
        Outcome::Unfinished if decision.age_ms > 1000 => {
            format!("still held after {} ms: a client does not read", decision.age_ms)
        }
        Outcome::Unfinished => "on its way".to_owned(),
        Outcome::Overflowed => {
            format!(
                "{} had no room for it: the client did not read",
                of(sessions.map_or(0, |s| s.overflowed))
            )
        }
        Outcome::CutOff => format!("{} ended before it was written", of(sessions.map_or(0, |s| s.cut_off))),
        Outcome::NotConnected => "the user was not logged in here".to_owned(),
        Outcome::NobodyThere => "nobody was logged in here".to_owned(),
        Outcome::ChannelReserved => "channels are reserved: nobody gets it".to_owned(),
        Outcome::Dropped => decision.detail.clone().or_else(|| decision.reason.clone()).unwrap_or_default(),
    };
    if decision.redelivered {
        text.push_str("; redelivered");
    }
    if !decision.headers.is_empty() {
        text.push_str(&format!("; headers {}", decision.headers));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Sessions;

    fn decision(outcome: Outcome, sessions: Option<Sessions>) -> Decision {
        Decision {
            serial: 1,
            at: "2026-01-02T03:04:05.678Z".to_owned(),
            age_ms: 7,
            message_id: None,
            routing_key: "request.client.notify".to_owned(),
            user: Some(42),
            outcome,
            reason: None,
            detail: None,
            sessions,
            headers: String::new(),
            redelivered: false,
            body_bytes: 2,
        }
    }

    #[test]
    fn each_outcome_is_told_in_words() {
        let sessions = |addressed, written, overflowed, cut_off| {
            Some(Sessions { addressed, written, overflowed, cut_off })
        };
        for (outcome, sessions, words) in [
            (Outcome::Written, sessions(1, 1, 0, 0), "written to 1 session"),
            (Outcome::Written, sessions(3, 3, 0, 0), "written to 3 sessions"),
            (Outcome::Unfinished, None, "on its way"),
            (Outcome::Overflowed, sessions(2, 1, 1, 0), "1 of 2 sessions had no room"),
            (Outcome::CutOff, sessions(1, 0, 0, 1), "1 of 1 session ended before"),
            (Outcome::NotConnected, sessions(0, 0, 0, 0), "not logged in here"),
        ] {
            let text = why(&decision(outcome, sessions));
            assert!(text.contains(words), "{text}");
        }
        let mut odd = decision(Outcome::Unfinished, None);
        (odd.age_ms, odd.redelivered, odd.headers) = (2000, true, "User-Id: integer 7".to_owned());
        let text = why(&odd);
        for words in ["still held after 2000 ms", "redelivered", "User-Id: integer 7"] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn an_empty_answer_says_what_that_means() {
        let page = |entries| Page { entries, recorded: 3, since: None, decisions: Vec::new() };
        assert!(shown(&page(0), Some(42)).contains("trace.decisions"));
        assert!(shown(&page(4), Some(42)).contains("no message for user 42 and no broadcast"));
        assert!(shown(&page(4), None).contains("every message"));
        let some = Page { decisions: vec![decision(Outcome::Written, None)], ..page(4096) };
        assert!(shown(&some, Some(42)).ends_with("1 of the last 3 decisions, since its start\n"));
    }
}
