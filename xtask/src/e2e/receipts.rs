//! Delivery receipts: each lobby that has an opinion says what became of a message, and no other does.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use notify_protocol::{NOTIFY_ROUTING_KEY, RECEIPT_HEADER, Receipt, ReceiptOutcome};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::notifier::numbered;
use super::stage::Stage;
use crate::PATIENCE;
use crate::amqp_wire::{Connection, Message, Outcome, Properties, Publisher};
use crate::client::{Client, Line, Transport};
use crate::contract::check_receipt;
use crate::lobby::{Lobby, Metrics};

/// Unicasts of each kind.
const MESSAGES: u64 = 10_000;
const USER: i64 = 42;

/// A queue of our own, and the receipts that came.
struct Inbox {
    connection: Connection,
    queue: String,
}

impl Inbox {
    async fn open(stage: &Stage) -> anyhow::Result<Self> {
        let connection = Connection::open(stage.url()).await?;
        // Bound to nothing that is ever published.
        let queue = connection.eavesdrop(stage.exchange(), "receipts.are.not.routed").await?;
        Ok(Self { connection, queue })
    }

    /// The next `wanted` receipts, and that no other comes meanwhile or right after.
    async fn collect(&self, wanted: usize) -> anyhow::Result<Vec<Receipt>> {
        let mut last = Instant::now();
        let mut receipts = Vec::with_capacity(wanted);
        while receipts.len() < wanted {
            match self.connection.get(&self.queue).await? {
                Some(got) => {
                    check_receipt(&got.body)?;
                    receipts.push(Receipt::from_json(&got.body).context("a receipt")?);
                    last = Instant::now();
                }
                None => {
                    let came = receipts.len();
                    ensure!(
                        last.elapsed() < PATIENCE,
                        "{came} of {wanted} receipts, and no more in {PATIENCE:?}"
                    );
                    sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        }
        Ok(receipts)
    }

    async fn is_empty(&self) -> anyhow::Result<bool> {
        Ok(self.connection.get(&self.queue).await?.is_none())
    }

    fn message(&self, stage: &Stage, scope: &str, id: &str, body: &str) -> anyhow::Result<Message> {
        self.message_with(stage, &json!([["user-id", "l", USER], [RECEIPT_HEADER, "S", scope]]), id, body)
    }

    fn message_with(&self, stage: &Stage, headers: &Value, id: &str, body: &str) -> anyhow::Result<Message> {
        let properties = json!({
            "delivery_mode": 2, "reply_to": self.queue, "correlation_id": format!("c-{id}"), "message_id": id,
        });
        Ok(Message {
            exchange: stage.exchange().to_owned(),
            routing_key: NOTIFY_ROUTING_KEY.to_owned(),
            properties: Properties::encode(headers, &properties)?,
            body: Bytes::copy_from_slice(body.as_bytes()),
        })
    }
}

/// One user on one of two lobbies, 10,000 unicasts of each kind: the lobby with the user answers once for each, the
/// other one only when all are asked.
pub(super) async fn receipts(stage: &Stage) -> anyhow::Result<()> {
    let (here, there) = (stage.setup(), stage.setup().set("LOBBY_INSTANCE__NAME", "receipts-other"));
    let (here, there) = (stage.start(&here).await?, stage.start(&there).await?);
    let mut player = stage.client(&here, Transport::Tcp, USER).await?;
    let inbox = Inbox::open(stage).await?;
    for (scope, answers) in [("written-only", 1), ("all", 2)] {
        let start = Instant::now();
        // A player who did not read meanwhile would have the kernel wait, longer and longer, before it looked for room again.
        let receipts = player.meanwhile(async {
            let mut publisher = Publisher::open(stage.url()).await?;
            for n in 0..MESSAGES {
                let message = inbox.message(stage, scope, &format!("{scope}-{n}"), &numbered(n))?;
                publisher.publish(n, &message).await?;
            }
            publisher.settle().await?;
            ensure!(publisher.take_settled().iter().all(|(_, outcome)| *outcome == Outcome::Confirmed));
            inbox.collect(MESSAGES as usize * answers).await
        });
        let receipts = receipts.await?;
        let seconds = start.elapsed().as_secs_f64();
        for n in 0..MESSAGES {
            reads(&mut player, &numbered(n)).await?;
        }
        let micros = judge(stage, scope, answers, &receipts)?;
        let per_second = MESSAGES as f64 / seconds;
        stage.fact(format!(
            "{scope}: {} receipts for {MESSAGES} unicasts, {per_second:.0} unicasts/s; delivery to last write p50 \
             {} µs, p99 {} µs",
            receipts.len(),
            micros[micros.len() / 2],
            micros[micros.len() * 99 / 100],
        ));
    }
    ensure!(inbox.is_empty().await?, "a receipt too many came");
    sent(&here, 2 * MESSAGES).await?;
    sent(&there, MESSAGES).await?;
    drop(there);
    stage.leaves_nothing(here).await
}

/// Each message has exactly the answers that it should have; returns the times to the last write, sorted.
fn judge(stage: &Stage, scope: &str, answers: usize, receipts: &[Receipt]) -> anyhow::Result<Vec<u64>> {
    let mut by_message: BTreeMap<&str, Vec<&Receipt>> = BTreeMap::new();
    let mut micros = Vec::new();
    for receipt in receipts {
        let id = receipt.message_id.as_deref().context("a receipt without the message's id")?;
        by_message.entry(id).or_default().push(receipt);
        let counts = (receipt.sessions_matched, receipt.sessions_written, receipt.sessions_overflowed);
        let right = match receipt.outcome {
            ReceiptOutcome::Written => {
                micros.push(receipt.micros);
                receipt.instance == stage.instance() && counts == (1, 1, 0)
            }
            ReceiptOutcome::NotConnected => {
                scope == "all" && receipt.instance == "receipts-other" && counts == (0, 0, 0)
            }
            _ => false,
        };
        ensure!(right, "a wrong receipt: {receipt:?}");
    }
    ensure!(by_message.len() as u64 == MESSAGES, "receipts for {} messages", by_message.len());
    for n in 0..MESSAGES {
        let id = format!("{scope}-{n}");
        let got = by_message.get(id.as_str()).map_or(0, Vec::len);
        ensure!(got == answers, "{id}: {got} receipts instead of {answers}");
    }
    micros.sort_unstable();
    Ok(micros)
}

/// The lobby counted so many receipts as sent.
async fn sent(lobby: &Lobby, wanted: u64) -> anyhow::Result<()> {
    counted(lobby, "sent", wanted).await
}

async fn counted(lobby: &Lobby, outcome: &str, wanted: u64) -> anyhow::Result<()> {
    let count = |metrics: &Metrics| metrics.count("lobby_receipts_total", &[("outcome", outcome)]);
    let metrics = lobby.metrics_until(outcome, |metrics| count(metrics) >= wanted).await?;
    ensure!(count(&metrics) == wanted, "{} receipts {outcome} instead of {wanted}", count(&metrics));
    Ok(())
}

/// The next line of the client.
async fn reads(client: &mut Client, body: &str) -> anyhow::Result<()> {
    let line = client.line().await?;
    ensure!(line == Line::new(body.as_bytes().to_vec()), "wanted {body}, got {line}");
    Ok(())
}

/// What is dropped is said so; a broadcast says how many it reached; who asks wrongly is refused; a reply queue that is
/// gone, or somebody else's, changes nothing for the player.
pub(super) async fn receipts_of_all_kinds(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::WebSocket, USER).await?;
    let mut other = stage.client(&lobby, Transport::Tcp, 7).await?;
    let inbox = Inbox::open(stage).await?;
    let mut publisher = Publisher::open(stage.url()).await?;
    let ask = [RECEIPT_HEADER, "S", "written-only"];
    for (id, headers, body, outcome, reason, counts) in [
        ("broadcast", json!([ask]), numbered(1), ReceiptOutcome::Written, None, (2, 2)),
        (
            "bad-body",
            json!([["user-id", "l", USER], ask]),
            "[]".into(),
            ReceiptOutcome::Dropped,
            Some("not_object"),
            (0, 0),
        ),
        (
            "bad-user",
            json!([["user-id", "t", true], ask]),
            "{}".into(),
            ReceiptOutcome::Dropped,
            Some("invalid_user_id"),
            (0, 0),
        ),
        (
            "channel",
            json!([["channel", "S", "x"], ask]),
            "{}".into(),
            ReceiptOutcome::Dropped,
            Some("channel_reserved"),
            (0, 0),
        ),
    ] {
        publisher.publish_one(&inbox.message_with(stage, &headers, id, &body)?).await?;
        let receipts = inbox.collect(1).await?;
        let [receipt] = &receipts[..] else { anyhow::bail!("one receipt") };
        let got = (receipt.message_id.as_deref(), receipt.outcome, receipt.reason.as_deref());
        ensure!(got == (Some(id), outcome, reason), "{id}: {receipt:?}");
        ensure!((receipt.sessions_matched, receipt.sessions_written) == counts, "{id}: {receipt:?}");
    }
    reads(&mut player, &numbered(1)).await?;
    reads(&mut other, &numbered(1)).await?;

    // The lobby's own queue as the one for answers would make a broadcast of the receipt.
    let gone = format!("lobby-receipts.{}", stage.instance());
    for (reply_to, refused) in [(stage.queue(), 1), ("payments".into(), 2), (gone, 2)] {
        let headers = json!([["user-id", "l", USER], ask]);
        let properties = json!({"reply_to": reply_to, "correlation_id": "c"});
        let message = Message {
            exchange: stage.exchange().to_owned(),
            routing_key: NOTIFY_ROUTING_KEY.to_owned(),
            properties: Properties::encode(&headers, &properties)?,
            body: Bytes::from(numbered(2)),
        };
        publisher.publish_one(&message).await?;
        reads(&mut player, &numbered(2)).await?;
        counted(&lobby, "refused", refused).await.with_context(|| format!("reply-to `{reply_to}`"))?;
    }
    sent(&lobby, 5).await?;
    ensure!(inbox.is_empty().await?, "a receipt too many came");
    stage.leaves_nothing(lobby).await
}

/// Switched off, a message that asks is delivered and not answered.
pub(super) async fn receipts_off(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.start(&stage.setup().set("LOBBY_RECEIPTS__ENABLED", "false")).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, USER).await?;
    let inbox = Inbox::open(stage).await?;
    let mut publisher = Publisher::open(stage.url()).await?;
    publisher.publish_one(&inbox.message(stage, "all", "m", &numbered(1))?).await?;
    reads(&mut player, &numbered(1)).await?;
    stage.leaves_nothing(lobby).await?;
    ensure!(inbox.is_empty().await?, "a receipt came although they are off");
    Ok(())
}
