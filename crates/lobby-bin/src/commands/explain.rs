//! `lobby explain`: what a lobby would do with a message, offline.

use anyhow::Context as _;
use clap::Args;
use notify_amqp::{NamedField, RawMessage, RawProperties};
use notify_protocol::{Limits, NOTIFY_ROUTING_KEY};

use super::{
    input::{self, Lines},
    invalid_message,
};
use crate::{
    Failure,
    config::Config,
    explain::{Explained, Setting},
    print,
    recording::{Recorded, field},
};

/// The message to explain.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("message").required(true).multiple(false))]
pub struct ExplainArgs {
    /// A header with its AMQP type, as in user-id=I:42 or x-note=S:text; may be repeated. Types: b B s u I i l L, t, S,
    /// f d, D, x (base64), T, V, A F (JSON).
    #[arg(long = "header", value_name = "NAME=TYPE:VALUE", value_parser = header, conflicts_with = "recorded")]
    headers: Vec<NamedField>,
    /// The body: JSON, a file, or - for standard input.
    #[arg(long, value_name = "JSON|FILE|-", group = "message")]
    body: Option<String>,
    /// The routing key.
    #[arg(long, default_value = NOTIFY_ROUTING_KEY, value_name = "KEY", conflicts_with = "recorded")]
    routing_key: String,
    /// Messages that `lobby record` wrote: all of the file, or its line N.
    #[arg(long, value_name = "FILE[:N]", group = "message")]
    recorded: Option<String>,
    /// One JSON object a message, on a line of its own.
    #[arg(long)]
    json: bool,
}

fn header(text: &str) -> Result<NamedField, String> {
    field::from_argument(text).map_err(|error| format!("{error:#}"))
}

/// Prints each step.
pub fn explain(config: &Config, args: ExplainArgs) -> Result<(), Failure> {
    let setting = setting(config);
    let shown = |message: &RawMessage| {
        let explained = Explained::new(message, &setting);
        if args.json { format!("{}\n", explained.to_json()) } else { explained.to_text() }
    };
    if let Some(recorded) = &args.recorded {
        let (file, only) = file_and_line(recorded);
        let mut lines = Lines::open(file)?;
        let mut first = true;
        while let Some((number, line)) = lines.next()? {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            let read = str::from_utf8(&line).context("not UTF-8").and_then(Recorded::read);
            let recorded =
                read.with_context(|| format!("line {number} of {file}")).map_err(invalid_message)?;
            let blank = if first || args.json { "" } else { "\n" };
            print(&format!("{blank}{}", shown(&recorded.message)))?;
            first = false;
        }
        return match (first, only) {
            (true, Some(only)) => Err(invalid_message(anyhow::anyhow!("{file} has no line {only}"))),
            _ => Ok(()),
        };
    }
    // One byte more than a lobby takes shows what becomes of it.
    let body =
        input::body(args.body.as_deref().unwrap_or("-"), setting.limits.max_body_bytes.saturating_mul(2))?;
    let headers = (!args.headers.is_empty()).then_some(args.headers);
    let properties = RawProperties { headers, ..RawProperties::default() };
    print(&shown(&RawMessage { routing_key: args.routing_key, properties, body }))
}

/// What the configuration says about a lobby's decisions.
pub fn setting(config: &Config) -> Setting {
    let queue = &config.queue;
    let routing_keys = queue.routing_keys.iter().chain(queue.bindings.iter().map(|(_, key)| key));
    Setting {
        limits: Limits { max_body_bytes: config.max_body.0 },
        frame: config.frame,
        routing_keys: routing_keys.cloned().collect(),
    }
}

/// A file that is called so, else a file and a line of it.
fn file_and_line(text: &str) -> (&str, Option<u64>) {
    match text.rsplit_once(':') {
        Some((file, line)) if !std::path::Path::new(text).exists() => match line.parse() {
            Ok(line) => (file, Some(line)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_named_behind_a_colon() {
        assert_eq!(file_and_line("rec.jsonl"), ("rec.jsonl", None));
        assert_eq!(file_and_line("rec.jsonl:7"), ("rec.jsonl", Some(7)));
        assert_eq!(file_and_line("rec:x"), ("rec:x", None));
    }
}
