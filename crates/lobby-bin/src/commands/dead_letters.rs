//! `lobby dead-letters`: what lobbies dropped, listed, shown, published again, deleted.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
};

use anyhow::anyhow;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use notify_amqp::{
    ConsumerError, DeadLetter, DeadLetterQueue, DeadLetterQueueError, DeadLetterTopology, Replayed,
};
use serde_json::{Value, json};

use super::{
    run,
    table::{Table, excerpt},
};
use crate::{
    Failure,
    cli::DeadLettersCommand,
    config::{Config, connection, dead_letter_topology},
    print,
    startup::{exit_code, told},
    warn_if_unverified,
};

/// Characters of a body in a list.
const EXCERPT: usize = 60;

/// Does what `command` says with the configured queue.
pub fn dead_letters(config: &Config, command: DeadLettersCommand) -> Result<(), Failure> {
    let Some(topology) = dead_letter_topology(config)? else {
        return Err(Failure {
            code: Failure::CONFIG,
            error: anyhow!("dead letters are off: set `dead_letter.exchange` (LOBBY_DEAD_LETTER__EXCHANGE)"),
        });
    };
    if let DeadLettersCommand::Purge { yes: false, .. } = &command
        && !std::io::stdin().is_terminal()
    {
        let error = anyhow!("purge deletes all dead letters: say `--yes`, as there is nobody to ask here");
        return Err(Failure { code: Failure::USAGE, error });
    }
    warn_if_unverified(config);
    run(async {
        let mut broker = connection(config);
        broker.connection_name.push_str(" dead-letters command");
        let queue = DeadLetterQueue::open(&broker, &topology.queue).await;
        let queue = queue.map_err(|error| failure(error, &topology))?;
        let done = perform(&queue, &topology, command).await;
        queue.close().await;
        done
    })
}

async fn perform(
    queue: &DeadLetterQueue,
    topology: &DeadLetterTopology,
    command: DeadLettersCommand,
) -> Result<(), Failure> {
    let failed = |error| failure(error, topology);
    match command {
        DeadLettersCommand::List { limit, json } => {
            let waiting = queue.len().await.map_err(failed)?;
            let (mut lines, mut table) = (String::new(), Table::new(HEADS));
            let each = |position, letter: &DeadLetter| {
                if json {
                    let _ = writeln!(lines, "{}", summary(position, letter));
                } else {
                    table.row(row(position, letter));
                }
            };
            queue.list(limit, each).await.map_err(failed)?;
            if json {
                return print(&lines);
            }
            let more = if waiting > limit { format!(", the oldest {limit} shown") } else { String::new() };
            let queue = topology.queue.as_str();
            print(&format!("{waiting} dead letters in queue {queue}{more}\n"))?;
            if waiting > 0 { print(&table.to_string()) } else { Ok(()) }
        }
        DeadLettersCommand::Show { position, json } => {
            let letter = queue.show(position).await.map_err(failed)?.ok_or_else(|| nothing_at(position))?;
            print(&if json { format!("{:#}\n", whole(position, &letter)) } else { page(position, &letter) })
        }
        DeadLettersCommand::Replay { position, json, .. } => replay(queue, topology, position, json).await,
        DeadLettersCommand::Purge { yes, json } => {
            let name = topology.queue.as_str();
            if !yes && !confirmed(queue.len().await.map_err(failed)?, name)? {
                return print("nothing deleted\n");
            }
            let deleted = queue.purge().await.map_err(failed)?;
            print(&if json {
                format!("{}\n", json!({"queue": name, "deleted": deleted}))
            } else {
                format!("deleted {deleted} dead letters of queue {name}\n")
            })
        }
    }
}

async fn replay(
    queue: &DeadLetterQueue,
    topology: &DeadLetterTopology,
    position: Option<u32>,
    json: bool,
) -> Result<(), Failure> {
    let (mut published, mut left) = (0_u64, 0_u64);
    let mut told_all = Ok(());
    let each = |at, letter: &DeadLetter, replayed: &Replayed| {
        if *replayed == Replayed::Published {
            published += 1;
        } else {
            left += 1;
        }
        let line = if json {
            let mut line = summary(at, letter);
            line["outcome"] = json!(outcome(replayed));
            format!("{line}\n")
        } else {
            let where_to = letter.exchange().unwrap_or("?");
            format!(
                "{at}  {}  to exchange {where_to}: {}\n",
                letter.reason().unwrap_or("?"),
                sentence(replayed)
            )
        };
        if told_all.is_ok() {
            told_all = print(&line);
        }
    };
    queue.replay(position, each).await.map_err(|error| failure(error, topology))?;
    told_all?;
    if let (Some(position), 0, 0) = (position, published, left) {
        return Err(nothing_at(position));
    }
    if !json {
        print(&format!("published {published}, left {left} in queue {}\n", topology.queue.as_str()))?;
    }
    if left > 0 {
        let error = anyhow!("{left} dead letters could not be published and stay in the queue");
        return Err(Failure { code: Failure::TRY_AGAIN, error });
    }
    Ok(())
}

fn confirmed(count: u32, name: &str) -> Result<bool, Failure> {
    print(&format!("Delete all {count} dead letters of queue {name}? Type yes: "))?;
    std::io::stdout().flush().map_err(anyhow::Error::from)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(anyhow::Error::from)?;
    Ok(answer.trim() == "yes")
}

fn nothing_at(position: u32) -> Failure {
    let error = anyhow!(
        "there is no dead letter at position {position}; `lobby dead-letters list` shows what there is"
    );
    Failure { code: Failure::NOT_FOUND, error }
}

fn failure(error: DeadLetterQueueError, topology: &DeadLetterTopology) -> Failure {
    match error {
        DeadLetterQueueError::Broker(ConsumerError::NotFound { text, .. }) => Failure {
            code: Failure::NOT_FOUND,
            error: anyhow!(
                "queue {:?} is not there: {text}: a lobby that has `dead_letter.exchange` set declares it at its start",
                topology.queue.as_str()
            ),
        },
        DeadLetterQueueError::Broker(error) => {
            Failure { code: exit_code(&error), error: told(&error, error.hint().as_deref()) }
        }
        other => {
            Failure { code: Failure::TRY_AGAIN, error: anyhow!("{other}; nothing is lost, try again later") }
        }
    }
}

const HEADS: [&str; 7] = ["#", "time", "reason", "instance", "headers", "bytes", "body"];

fn row(position: u32, letter: &DeadLetter) -> [String; 7] {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let headers: Vec<_> = letter.headers().map(|(name, value)| format!("{name}={value}")).collect();
    [
        position.to_string(),
        time(letter).unwrap_or_else(|| "-".into()),
        or_dash(letter.reason()),
        or_dash(letter.instance()),
        excerpt(headers.join(" ").as_bytes(), EXCERPT),
        letter.body().len().to_string(),
        excerpt(letter.body(), EXCERPT),
    ]
}

fn time(letter: &DeadLetter) -> Option<String> {
    // The formatter gives up after the year 9999.
    let last = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_799);
    letter.time().filter(|time| *time <= last).map(|t| humantime::format_rfc3339_seconds(t).to_string())
}

/// What a list says of one, as JSON.
fn summary(position: u32, letter: &DeadLetter) -> Value {
    let headers: serde_json::Map<_, _> =
        letter.headers().map(|(name, value)| (name.to_owned(), json!(value.to_string()))).collect();
    json!({
        "position": position,
        "time": time(letter),
        "reason": letter.reason(),
        "detail": letter.detail(),
        "instance": letter.instance(),
        "exchange": letter.exchange(),
        "routing_key": letter.routing_key(),
        "headers": headers,
        "headers_left_out": letter.headers_left_out(),
        "bytes": letter.body().len(),
        "excerpt": excerpt(letter.body(), EXCERPT),
    })
}

/// All of one, as JSON: the body as `body` where it is text, and always as `body_base64`.
fn whole(position: u32, letter: &DeadLetter) -> Value {
    let mut value = summary(position, letter);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("excerpt");
        let properties: serde_json::Map<_, _> =
            letter.properties().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        fields.insert("properties".into(), Value::Object(properties));
        fields.insert("body".into(), json!(std::str::from_utf8(letter.body()).ok()));
        fields.insert("body_base64".into(), json!(BASE64.encode(letter.body())));
    }
    value
}

/// All of one, for people. A body that is no text is shown with escapes.
fn page(position: u32, letter: &DeadLetter) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:12} {}", excerpt(value.as_bytes(), 4096));
    };
    line("position", &position.to_string());
    for (name, value) in [
        ("time", time(letter).as_deref()),
        ("reason", letter.reason()),
        ("detail", letter.detail()),
        ("instance", letter.instance()),
        ("exchange", letter.exchange()),
        ("routing key", letter.routing_key()),
    ] {
        line(name, value.unwrap_or("not said: another program put it here"));
    }
    for (name, value) in letter.headers() {
        line("header", &format!("{name} = {value}"));
    }
    if letter.headers_left_out() > 0 {
        line("header", &format!("{} left out: they fill a frame on their own", letter.headers_left_out()));
    }
    for (name, value) in letter.properties() {
        line("property", &format!("{name} = {value}"));
    }
    line("body", &format!("{} bytes", letter.body().len()));
    match std::str::from_utf8(letter.body()) {
        Ok(text) if !text.contains(|c: char| c.is_control() && !"\n\r\t".contains(c)) => {
            let _ = writeln!(out, "{text}");
        }
        _ => {
            let _ = writeln!(out, "{}", letter.body().escape_ascii());
        }
    }
    out
}

/// One word for scripts.
fn outcome(replayed: &Replayed) -> &'static str {
    match replayed {
        Replayed::Published => "published",
        Replayed::Unroutable => "unroutable",
        Replayed::NotOurs => "not_ours",
        _ => "refused",
    }
}

fn sentence(replayed: &Replayed) -> String {
    match replayed {
        Replayed::Published => "published".into(),
        Replayed::Unroutable => "stays, no lobby is bound to it".into(),
        Replayed::NotOurs => "stays, it does not say where it came from".into(),
        Replayed::Refused { text } => format!("stays, the broker refused it: {text}"),
        _ => "stays".into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    #[test]
    fn f21_replay_wants_one_position_or_all_of_them() {
        let parses = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(parses("lobby dead-letters replay 3") && parses("lobby dead-letters replay --all --json"));
        assert!(!parses("lobby dead-letters replay") && !parses("lobby dead-letters replay 3 --all"));
        assert!(!parses("lobby dead-letters replay 0") && !parses("lobby dead-letters list --limit 0"));
    }
}
