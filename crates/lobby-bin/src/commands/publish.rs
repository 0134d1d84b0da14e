//! `lobby publish`: one notification, or one for each line, checked before it is sent and confirmed by the broker.

use std::{borrow::Cow, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::{ArgGroup, Args};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use notify_amqp::{PublishError, Publisher, PublisherConfig, Receipted};
use notify_protocol::{Address, BuildError, Message, Notification, UserId, limits::DEFAULT_MAX_BODY_BYTES};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    in_flight::{self, publish_lines},
    input::{self, Lines},
    invalid_message,
    progress::progress,
    receipts::{ReceiptArgs, Wanted},
    run,
    sent::Sent,
};
use crate::{
    Failure,
    config::{Config, connection, parse_duration},
    warn_if_unverified,
};

/// Lines that are wrong and shown before a file is refused.
const SHOWN: usize = 10;

/// What to publish, and to whom.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("address").required(true).multiple(false).args(["user", "channel", "broadcast", "envelopes"]))]
pub struct PublishArgs {
    /// To this user.
    #[arg(long, allow_negative_numbers = true, value_name = "ID")]
    user: Option<i64>,
    /// To this channel. Channels are reserved: today's lobbies send it to nobody.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// To every player who is logged in.
    #[arg(long)]
    broadcast: bool,
    /// To whom each line says: {"user-id":42,"body":{…}}, with "channel":"…" or "broadcast":true in the place of the user
    /// id; also "message-id", "correlation-id", "traceparent", "expires" ("60s") and "priority". Implies --lines.
    #[arg(long)]
    envelopes: bool,
    /// The body: JSON, a file, or - for standard input.
    #[arg(value_name = "JSON|FILE|-", default_value = "-")]
    message: String,
    /// One message for each line of the file. A file is checked whole before anything is sent; lines of standard input
    /// are sent as they come.
    #[arg(long)]
    lines: bool,
    /// How long it may wait in a queue, as in 60s; for ever unless given.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires: Option<Duration>,
    /// Names the message in logs and in `lobby trace`; a UUID unless given.
    #[arg(long, value_name = "ID", conflicts_with_all = ["lines", "envelopes"])]
    message_id: Option<String>,
    /// Ties the message to what caused it.
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// The W3C trace context that the message belongs to: 00-TRACE-PARENT-01.
    #[arg(long, value_name = "TRACEPARENT")]
    traceparent: Option<String>,
    /// The AMQP priority.
    #[arg(long, value_name = "0-255")]
    priority: Option<u8>,
    /// How long one message may take, with connecting.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    receipts: ReceiptArgs,
    /// One JSON object for each message and each receipt, on a line of its own.
    #[arg(long)]
    json: bool,
}

/// Publishes, and ends with the exit code of the first message that failed.
pub fn publish(config: &Config, args: PublishArgs) -> Result<(), Failure> {
    if !args.lines && !args.envelopes {
        let body = input::body(&args.message, 2 * DEFAULT_MAX_BODY_BYTES)?;
        let message = args.bare(&body).map_err(|error| invalid_message(error.into()))?;
        return run(async {
            let publisher = open(config, args.timeout)?;
            let mut sent = Sent::new(args.json, true, progress("messages", Some(1)));
            if let Some(wanted) = args.receipts.wanted() {
                let outcome = with_receipts(&publisher, &message, wanted).await;
                let outcome = match outcome {
                    Ok(receipts) => Ok(receipts.await),
                    Err(error) => Err(error),
                };
                sent.note_receipts(1, &outcome, &wanted)?;
            } else {
                sent.note(1, &publisher.publish(&message).await)?;
            }
            publisher.close().await;
            sent.finish()
        });
    }
    let total = match args.message.as_str() {
        // What can be read once only is checked as it goes, line by line.
        file if !input::is_file(file) => None,
        file => Some(check(file, |line| args.line(line).map(drop))?),
    };
    let lines = Lines::open(&args.message)?;
    run(async {
        let publisher = open(config, args.timeout)?;
        let mut sent = Sent::new(args.json, false, progress("messages", total));
        let (lines, read) = (lines.read_ahead(), |line: &[u8]| args.line(line));
        if let Some(wanted) = args.receipts.wanted() {
            let outcomes = |messages| answered(publisher.clone(), messages, wanted);
            publish_lines(lines, read, outcomes, |number, outcome| match outcome {
                Ok(outcome) => sent.note_receipts(number, &outcome, &wanted),
                Err(failure) => sent.wrong(number, failure).map(|()| true),
            })
            .await?;
        } else {
            let outcomes = |messages| publisher.publish_stream(messages).into_stream();
            publish_lines(lines, read, outcomes, |number, outcome| match outcome {
                Ok(outcome) => sent.note(number, &outcome),
                Err(failure) => sent.wrong(number, failure).map(|()| true),
            })
            .await?;
        }
        publisher.close().await;
        sent.finish()
    })
}

/// Publishes one; the second future collects what was wanted of it.
async fn with_receipts(
    publisher: &Publisher,
    message: &Message,
    wanted: Wanted,
) -> Result<impl Future<Output = Receipted> + use<>, PublishError> {
    let to_one = matches!(message.address(), Address::User(_));
    let asked = publisher.publish_asking(message, wanted.scope).await?;
    Ok(asked.receipts(wanted.enough(to_one), wanted.within))
}

/// Publishes one after the other, each when the former is confirmed; the receipts of many are waited for at a time.
fn answered(
    publisher: Publisher,
    messages: BoxStream<'static, Message>,
    wanted: Wanted,
) -> impl Stream<Item = Result<Receipted, PublishError>> {
    let asked = messages.then(move |message| {
        let publisher = publisher.clone();
        async move { with_receipts(&publisher, &message, wanted).await }
    });
    let receipts = |asked: Result<_, PublishError>| async { Ok(asked?.await) };
    asked.map(receipts).buffered(in_flight::LINES)
}

/// A publisher to the configured exchange.
pub fn open(config: &Config, timeout: Duration) -> Result<Publisher, Failure> {
    warn_if_unverified(config);
    let mut broker = connection(config);
    broker.connection_name.push_str(" publish command");
    let mut publisher = PublisherConfig::new(broker, config.exchange.as_str());
    publisher.publish_timeout = timeout;
    Ok(Publisher::new(publisher).context("prepare publishing")?)
}

/// Reads a file to its end and refuses it when a line is wrong; how many lines there are.
///
/// # Errors
/// [`Failure::FILE`] for what is no file, like a pipe: afterwards nothing would be left of it to publish.
pub fn check(file: &str, line_is_right: impl Fn(&[u8]) -> anyhow::Result<()>) -> Result<u64, Failure> {
    if !input::is_file(file) {
        let error = anyhow::anyhow!("{file} is not a file, and is read twice: write it to one first");
        return Err(Failure { code: Failure::FILE, error });
    }
    let (mut lines, mut count, mut wrong) = (Lines::open(file)?, 0, Vec::new());
    while let Some((number, line)) = lines.next()? {
        count += 1;
        if let Err(error) = line_is_right(&line) {
            wrong.push(format!("line {number}: {error:#}"));
            if wrong.len() == SHOWN {
                break;
            }
        }
    }
    if wrong.is_empty() {
        return Ok(count);
    }
    let error = anyhow::anyhow!("{file} is not published, nothing was sent: {}", wrong.join("; "));
    Err(invalid_message(error))
}

/// One line that says to whom it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(default, deserialize_with = "set")]
    user_id: Option<i64>,
    #[serde(default, deserialize_with = "set")]
    channel: Option<String>,
    #[serde(default, deserialize_with = "set")]
    broadcast: Option<bool>,
    #[serde(borrow)]
    body: &'a RawValue,
    #[serde(default, deserialize_with = "set")]
    message_id: Option<String>,
    #[serde(default, deserialize_with = "set")]
    correlation_id: Option<String>,
    #[serde(default, deserialize_with = "set")]
    traceparent: Option<String>,
    #[serde(default, deserialize_with = "set")]
    expires: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "set")]
    priority: Option<u8>,
}

/// Null is refused: a user id that is null must not become a broadcast.
fn set<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl PublishArgs {
    /// A message whose address the flags give.
    fn bare(&self, body: &[u8]) -> Result<Message, BuildError> {
        let builder = match (self.user, &self.channel) {
            (Some(user), _) => Notification::to_user(UserId::new(user)),
            (None, Some(channel)) => Notification::to_channel(channel.as_str()),
            (None, None) => Notification::broadcast(),
        };
        let mut builder = builder.raw_json(body);
        if let Some(id) = &self.message_id {
            builder = builder.message_id(id.as_str());
        }
        if let Some(id) = &self.correlation_id {
            builder = builder.correlation_id(id.as_str());
        }
        if let Some(traceparent) = &self.traceparent {
            builder = builder.traceparent(traceparent.as_str());
        }
        if let Some(expires) = self.expires {
            builder = builder.expires_in(expires);
        }
        if let Some(priority) = self.priority {
            builder = builder.priority(priority);
        }
        builder.build()
    }

    /// The message of one line.
    fn line(&self, line: &[u8]) -> anyhow::Result<Message> {
        if !self.envelopes {
            return Ok(self.bare(line)?);
        }
        let envelope: Envelope<'_> = serde_json::from_slice(line).context("not an envelope")?;
        let builder = match (envelope.user_id, envelope.channel, envelope.broadcast) {
            (Some(user), None, None) => Notification::to_user(UserId::new(user)),
            (None, Some(channel), None) => Notification::to_channel(channel),
            (None, None, Some(broadcast)) => {
                ensure!(
                    broadcast,
                    "\"broadcast\" is false; leave it out and name a \"user-id\" or a \"channel\""
                );
                Notification::broadcast()
            }
            (None, None, None) => {
                bail!("nobody is addressed; give \"user-id\", \"channel\" or \"broadcast\":true")
            }
            _ => bail!("give only one of \"user-id\", \"channel\" and \"broadcast\""),
        };
        let mut builder = builder.raw_json(envelope.body.get());
        if let Some(id) = envelope.message_id {
            builder = builder.message_id(id);
        }
        if let Some(id) = envelope.correlation_id.or_else(|| self.correlation_id.clone()) {
            builder = builder.correlation_id(id);
        }
        if let Some(traceparent) = envelope.traceparent.or_else(|| self.traceparent.clone()) {
            builder = builder.traceparent(traceparent);
        }
        let expires =
            envelope.expires.map(|text| parse_duration(&text).map_err(anyhow::Error::msg)).transpose();
        if let Some(expires) = expires.context("\"expires\"")?.or(self.expires) {
            builder = builder.expires_in(expires);
        }
        if let Some(priority) = envelope.priority.or(self.priority) {
            builder = builder.priority(priority);
        }
        Ok(builder.build()?)
    }
}

#[cfg(test)]
mod tests;
