//! `lobby tail`: what arrives at the exchange, and what lobbies do with it.

use std::time::SystemTime;

use clap::Args;
use notify_amqp::RawMessage;
use serde_json::{Value, json};

use super::{explain::setting, listen::Listening, run, table::excerpt};
use crate::{
    Failure,
    config::Config,
    explain::{Explained, Outcome},
    print_while_read,
    recording::{field, shown_properties},
};

/// Characters of a body on a line.
const EXCERPT: usize = 100;

/// What to show.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Only messages to this user, and broadcasts.
    #[arg(long, allow_negative_numbers = true, value_name = "ID")]
    user: Option<i64>,
    /// Ends after so many.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// One JSON object a message, on a line of its own, with the whole body.
    #[arg(long)]
    json: bool,
}

/// Shows messages until the limit, or until Ctrl-C.
pub fn tail(config: &Config, args: &TailArgs) -> Result<(), Failure> {
    let setting = setting(config);
    run(async {
        let mut listening = Listening::start(config, "tail", None).await?;
        let mut shown = 0;
        while args.limit.is_none_or(|limit| shown < limit)
            && let Some(delivery) = listening.next().await
        {
            let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            let message = delivery.raw();
            let explained = Explained::new(&message, &setting);
            let wanted = match (args.user, explained.outcome()) {
                (Some(wanted), Outcome::Unicast(user)) => user == wanted,
                (Some(_), outcome) => outcome == Outcome::Broadcast,
                (None, _) => true,
            };
            if wanted {
                shown += 1;
                let line = if args.json {
                    as_json(&at, delivery.redelivered(), &message, &explained).to_string()
                } else {
                    as_text(&at, &message, &explained)
                };
                if !print_while_read(&format!("{line}\n"))? {
                    break;
                }
            }
        }
        listening.stop().await;
        Ok(())
    })
}

fn as_text(at: &str, message: &RawMessage, explained: &Explained<'_>) -> String {
    let id = message.properties.message_id.as_deref().unwrap_or("-");
    let outcome = match explained.outcome() {
        Outcome::Unicast(user) => format!("user {user}"),
        Outcome::Broadcast => "everyone".to_owned(),
        Outcome::ChannelReserved => "channel_reserved".to_owned(),
        Outcome::Dropped(reason) => format!("dropped {}", reason.as_str()),
        Outcome::Unrouted => format!("unrouted {}", message.routing_key),
    };
    format!("{at}  {outcome:<16}  {}  {}", excerpt(id.as_bytes(), 40), excerpt(&message.body, EXCERPT))
}

fn as_json(at: &str, redelivered: bool, message: &RawMessage, explained: &Explained<'_>) -> Value {
    let (reason, detail) = match explained.outcome() {
        Outcome::Dropped(reason) => (Some(reason.as_str()), Some(reason.to_string())),
        _ => (None, None),
    };
    let user = match explained.outcome() {
        Outcome::Unicast(user) => Some(user),
        _ => None,
    };
    json!({
        "at": at,
        "routing_key": message.routing_key,
        "redelivered": redelivered,
        "outcome": explained.outcome().as_str(),
        "user": user,
        "reason": reason,
        "detail": detail,
        "headers": message.properties.headers.as_ref().map(|table| field::shown_table(table)),
        "props": shown_properties(&message.properties),
        "body": field::shown_text(&message.body),
    })
}

#[cfg(test)]
mod tests {
    use lobby_sessions::FrameKind;
    use notify_amqp::{Field, RawProperties};
    use notify_protocol::{Limits, NOTIFY_ROUTING_KEY};

    use super::*;
    use crate::explain::Setting;

    #[test]
    fn f18_a_line_says_who_gets_a_message_and_how_it_begins() {
        let setting = Setting {
            limits: Limits::default(),
            frame: FrameKind::Text,
            routing_keys: vec![NOTIFY_ROUTING_KEY.to_owned()],
        };
        for (user, body, words) in [
            (Field::I32(42), &b"{\"a\":1}"[..], "user 42           m  {\"a\":1}"),
            (Field::Void, b"{\"a\":\n1}", "everyone          m  {\"a\":\\n1}"),
            (Field::Bool(true), b"{}", "dropped invalid_user_id  m  {}"),
            (Field::Void, b"\xff", "dropped non_json  m  \u{fffd}"),
        ] {
            let headers = Some(vec![(b"user-id".to_vec(), user)]);
            let properties =
                RawProperties { headers, message_id: Some("m".to_owned()), ..Default::default() };
            let message =
                RawMessage { routing_key: NOTIFY_ROUTING_KEY.to_owned(), properties, body: body.to_vec() };
            let explained = Explained::new(&message, &setting);
            assert_eq!(as_text("now", &message, &explained), format!("now  {words}"));
            let json = as_json("now", false, &message, &explained);
            assert_eq!(json["outcome"], explained.outcome().as_str());
        }
    }
}
