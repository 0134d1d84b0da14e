//! Two clients, three messages, and who received what.

use anyhow::ensure;
use bytes::Bytes;
use notify_protocol::{DEFAULT_EXCHANGE, NOTIFY_ROUTING_KEY};
use serde_json::json;

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

/// Logs in two clients, publishes, prints the transcript.
///
/// # Errors
/// A client that missed a message, or got one that was not for it.
pub(super) async fn show(lobby: &Lobby, broker: &AmqpUrl, secret: &str) -> anyhow::Result<()> {
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
    Ok(())
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
