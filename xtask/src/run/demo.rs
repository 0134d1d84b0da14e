//! Two clients, three messages, and who received what; then the clients stay and show what they get.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use notify_protocol::{DEFAULT_EXCHANGE, NOTIFY_ROUTING_KEY};
use serde_json::json;
use tokio::task::JoinSet;

use crate::amqp_wire::{AmqpUrl, Message, Outcome, Properties, Publisher};
use crate::client::{Client, Transport};
use crate::lobby::Lobby;
use crate::token;

/// One message of the demonstration.
struct Shown {
    to: &'static str,
    user: Option<i64>,
    body: String,
    /// Which of the two clients should receive it.
    expected: [bool; 2],
}

const ZEP: i64 = 42;
const ADA: i64 = 7;
const NOBODY: i64 = 43;
/// How the messages begin that keep the console's plots moving.
const TICK: &[u8] = br#"{"command":"demo_tick","count":"#;
const TICKING: Duration = Duration::from_millis(500);
/// How long a client waits for a line; the lobby's pings keep it.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

fn messages() -> Vec<Shown> {
    let notice = |text: &str| json!({"command": "notice", "style": "info", "text": text}).to_string();
    vec![
        Shown {
            to: "user 42",
            user: Some(ZEP),
            body: notice("Your friend came online"),
            expected: [true, false],
        },
        Shown {
            to: "everyone",
            user: None,
            body: notice("The server restarts in 5 minutes"),
            expected: [true, true],
        },
        Shown {
            to: "user 43",
            user: Some(NOBODY),
            body: notice("Nobody reads this"),
            expected: [false, false],
        },
    ]
}

/// Those who stay.
#[derive(Debug)]
pub(super) struct Audience {
    clients: [(&'static str, Client); 2],
}

impl Audience {
    /// Prints what the clients get, until one is closed. With `ticking`, a small message goes to one of them every half
    /// second, or now and then to user 43; these are not printed: the console then has something to show.
    ///
    /// # Errors
    /// The broker does not take the messages, or the lobby closed a client.
    pub(super) async fn stay(self, broker: &AmqpUrl, ticking: bool) -> anyhow::Result<()> {
        let mut staying: JoinSet<anyhow::Result<()>> = JoinSet::new();
        for (name, mut client) in self.clients {
            client.patient(A_DAY);
            staying.spawn(async move {
                loop {
                    let line = client.line().await.with_context(|| name)?;
                    if !line.bytes().starts_with(TICK) {
                        println!("{name} got {}", String::from_utf8_lossy(line.bytes()));
                    }
                }
            });
        }
        if ticking {
            let mut publisher = Publisher::open(broker).await?;
            staying.spawn(async move {
                let mut ticks = tokio::time::interval(TICKING);
                for count in 0_u64.. {
                    ticks.tick().await;
                    let body = format!("{}{count}}}", String::from_utf8_lossy(TICK));
                    // The player who is not here misses one in ten.
                    let to = if count % 10 == 9 { NOBODY } else { [ZEP, ADA][count as usize % 2] };
                    publish(&mut publisher, Some(to), &body).await?;
                }
                Ok(())
            });
        }
        while let Some(ended) = staying.join_next().await {
            ended.context("a client of the demonstration")??;
        }
        Ok(())
    }
}

/// Logs in two clients, publishes, prints the transcript.
///
/// # Errors
/// A client that missed a message, or got one that was not for it.
pub(super) async fn show(lobby: &Lobby, broker: &AmqpUrl, secret: &str) -> anyhow::Result<Audience> {
    let mut zep = client(lobby, secret, ZEP, Transport::Tcp).await?;
    let mut ada = client(lobby, secret, ADA, Transport::WebSocket).await?;
    let mut publisher = Publisher::open(broker).await?;
    let messages = messages();
    for shown in &messages {
        publish(&mut publisher, shown.user, &shown.body).await?;
    }
    // What stands before this in a client's stream is all that it will get of the three.
    let last = json!({"command": "demo_end", "id": fastrand::u64(..).to_string()}).to_string();
    publish(&mut publisher, None, &last).await?;
    publisher.close().await?;
    let received = [zep.expect_until(&last).await?, ada.expect_until(&last).await?];

    let width = messages.iter().map(|shown| shown.body.len()).max().unwrap_or_default() + 2;
    println!("\n{:<14}{:<width$}{:<15}Ada (user 7)", "published to", "body", "Zep (user 42)");
    let mut wrong = Vec::new();
    for shown in &messages {
        let got =
            received.each_ref().map(|lines| lines.iter().any(|line| line.bytes() == shown.body.as_bytes()));
        let cell = |got: bool| if got { "received" } else { "-" };
        println!("{:<14}{:<width$}{:<15}{}", shown.to, shown.body, cell(got[0]), cell(got[1]));
        if got != shown.expected {
            wrong.push(shown.to);
        }
    }
    let expected = messages.iter().fold([0, 0], |sum, m| [0, 1].map(|i| sum[i] + usize::from(m.expected[i])));
    ensure!(
        wrong.is_empty(),
        "the messages to {} did not reach whom they should, and nobody else",
        wrong.join(", ")
    );
    ensure!(received.each_ref().map(Vec::len) == expected, "a client received more than was published to it");
    let metrics =
        lobby.metrics_until("user 43 not connected", |m| m.deliveries("not_connected") == 1).await?;
    println!(
        "\nuser 43 is not connected here: logged, counted ({}), acked",
        metrics.deliveries("not_connected")
    );
    println!("every expected line was received, and nothing else");
    Ok(Audience { clients: [("Zep (user 42)", zep), ("Ada (user 7)", ada)] })
}

async fn client(lobby: &Lobby, secret: &str, user: i64, transport: Transport) -> anyhow::Result<Client> {
    let mut client = Client::connect(transport, lobby.address(transport)?).await?;
    client.login(&token::valid(secret, user)?).await?;
    println!("user {user:<2} logged in over {transport}");
    Ok(client)
}

async fn publish(publisher: &mut Publisher, user: Option<i64>, body: &str) -> anyhow::Result<()> {
    let message = Message {
        exchange: DEFAULT_EXCHANGE.to_owned(),
        routing_key: NOTIFY_ROUTING_KEY.to_owned(),
        properties: Properties::to_user(user)?,
        body: Bytes::copy_from_slice(body.as_bytes()),
    };
    let outcome = publisher.publish_one(&message).await?;
    ensure!(outcome == Outcome::Confirmed, "the broker did not route {body}: {outcome:?}");
    Ok(())
}
