//! `lobby replay`: recorded messages once more, in thought or for real.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use notify_amqp::RawMessage;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    explain::setting,
    input::Lines,
    invalid_message,
    progress::progress,
    publish::{check, open},
    run,
    sent::Sent,
    table::{Table, excerpt},
};
use crate::{
    Failure,
    config::{Config, parse_duration},
    explain::{Explained, Outcome},
    print,
    recording::Recorded,
};

/// Characters of a message id in the table.
const ID: usize = 40;

/// What to replay, and how.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What `lobby record` wrote. It is checked whole before anything is published.
    #[arg(value_name = "FILE")]
    file: String,
    /// Only shows what lobbies would do with each message; so it is unless --publish is given.
    #[arg(long, conflicts_with = "publish")]
    dry_run: bool,
    /// Publishes them to `broker.exchange`, with their own routing keys, headers, types and properties; but for the property
    /// user-id, which the broker takes from its owner only.
    #[arg(long)]
    publish: bool,
    /// At most so many messages a second.
    #[arg(long, value_name = "COUNT", requires = "publish", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// How long one message may take, with connecting.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// One JSON object for each message, on a line of its own.
    #[arg(long)]
    json: bool,
}

/// Shows each decision, or publishes and ends with the exit code of the first message that failed.
pub fn replay(config: &Config, args: &ReplayArgs) -> Result<(), Failure> {
    let count = check(&args.file, |line| recorded(line).map(drop))?;
    if args.publish { publish(config, args, count) } else { decide(config, args) }
}

fn recorded(line: &[u8]) -> anyhow::Result<Recorded> {
    Recorded::read(str::from_utf8(line).context("not UTF-8")?)
}

fn decide(config: &Config, args: &ReplayArgs) -> Result<(), Failure> {
    let setting = setting(config);
    let mut lines = Lines::open(&args.file)?;
    let mut table = Table::new(["LINE", "MESSAGE ID", "OUTCOME", "WHY"]);
    while let Some((number, line)) = lines.next()? {
        let Recorded { message, .. } = recorded(&line).map_err(invalid_message)?;
        let explained = Explained::new(&message, &setting);
        if args.json {
            let mut decision = explained.to_json();
            decision["line"] = number.into();
            decision["message_id"] = message.properties.message_id.clone().into();
            print(&format!("{decision}\n"))?;
        } else {
            let id = message.properties.message_id.as_deref().unwrap_or("-");
            let outcome = match explained.outcome() {
                Outcome::Unicast(user) => format!("unicast {user}"),
                outcome => outcome.as_str().to_owned(),
            };
            table.row([number.to_string(), excerpt(id.as_bytes(), ID), outcome, explained.conclusion()]);
        }
    }
    if args.json { Ok(()) } else { print(&format!("{table}nothing was published: that needs --publish\n")) }
}

fn publish(config: &Config, args: &ReplayArgs, count: u64) -> Result<(), Failure> {
    let lines = Lines::open(&args.file)?;
    run(async {
        let publisher = open(config, args.timeout)?;
        let mut sent = Sent::new(args.json, false, progress("messages", Some(count)));
        let mut pace = args.rate.map(|rate| interval(Duration::from_secs(1) / rate));
        if let Some(pace) = &mut pace {
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut lines = lines.read_ahead();
        while let Some(line) = lines.recv().await {
            let (number, line) = line?;
            let message = match recorded(&line) {
                Ok(recorded) => to_publish(recorded.message),
                Err(error) => {
                    sent.wrong(number, invalid_message(error))?;
                    continue;
                }
            };
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            if !sent.note(number, &publisher.publish_raw(&message).await)? {
                break;
            }
        }
        publisher.close().await;
        sent.finish()
    })
}

/// The message without what the broker would close the channel for.
fn to_publish(mut message: RawMessage) -> RawMessage {
    message.properties.user_id = None;
    message
}

#[cfg(test)]
mod tests {
    use notify_amqp::RawProperties;

    use super::*;

    #[test]
    fn f21_everything_is_published_again_but_the_login_of_who_did_it_first() {
        let text = || Some("x".to_owned());
        let properties =
            RawProperties { user_id: text(), reply_to: text(), expiration: text(), ..Default::default() };
        let message = RawMessage { routing_key: "k".to_owned(), properties, body: b"b".to_vec() };
        let mut expected = message.clone();
        expected.properties.user_id = None;
        assert_eq!(to_publish(message), expected);
    }
}
