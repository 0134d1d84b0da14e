//! Clients that read late, hardly or never.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::closes;
use crate::amqp_wire::{Message, Outcome, Properties, Publisher};
use crate::bench::crowd::{Crowd, Latency, Place};
use crate::client::{Client, Dialing, Line, Transport};
use crate::faults::raw::Raw;
use crate::faults::scene::Scene;
use crate::late::Late;
use crate::lobby::Lobby;
use crate::stage::SECRET;
use crate::stage::tally::{Outcomes, Tally};
use crate::token;

/// What the kernel holds on the side of a client that does not read.
const SMALL_BUFFER: u32 = 64 * 1024;
/// Users of the slow clients; those of the crowd are lower.
const SLOW_FROM: i64 = 1_000_000;
const LARGE: usize = 64 * 1024;
const OUTBOX: u64 = 1 << 20;

/// Clients that read for a while and then stop. Meanwhile a crowd is timed, before and after, under the same load.
///
/// The slow ones get large messages of their own: what the kernel buffers for a stopped client, several MiB, is filled
/// without sending as much to the whole crowd.
pub(super) async fn some_never_read(scene: &Scene) -> anyhow::Result<()> {
    let (healthy, slow) = scene.pick((1_000, 10), (10_000, 100));
    let setup = scene
        .setup()
        .set("LOBBY_SESSIONS__OUTBOX_BYTES", OUTBOX.to_string())
        .set("LOBBY_SESSIONS__PING_INTERVAL", "1h")
        .set("LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND", "0");
    let lobby = scene.start(&setup).await?;
    for transport in Transport::BOTH {
        let address = lobby.address(transport)?;
        let place = Place {
            transport,
            address,
            secret: SECRET,
            broker: scene.url().clone(),
            exchange: scene.exchange().to_owned(),
        };
        let mut crowd = Crowd::gather(&place, 1..healthy + 1).await?;
        let mut sluggards = Sluggards::gather(scene, &lobby, transport, slow).await?;
        let pace = Duration::from_millis(u64::from(healthy) / 50);
        // Warm, then measured.
        crowd.broadcasts(20, pace).await?;
        let undisturbed = sluggards.beside(&mut crowd, 100, pace).await?;
        let memory = lobby.resident_bytes().await?;
        let closed = closes(&lobby, "4000").await?;
        ensure!(closed == 0 || transport == Transport::WebSocket, "clients that read were closed: {closed}");
        sluggards.stop_reading();
        let mut worst = Latency { p50_ms: 0.0, p99_ms: 0.0 };
        let stopped = Instant::now();
        while closes(&lobby, "4000").await? < closed + u64::from(slow) {
            ensure!(stopped.elapsed() < Duration::from_secs(120), "clients that do not read were kept");
            let now = sluggards.beside(&mut crowd, 25, pace).await?;
            worst = Latency { p50_ms: worst.p50_ms.max(now.p50_ms), p99_ms: worst.p99_ms.max(now.p99_ms) };
        }
        let took = stopped.elapsed();
        let grown = lobby.resident_bytes().await?.saturating_sub(memory);
        scene.fact(format!(
            "{transport}: {slow} closed with 4000 in {:.1} s; p50/p99 of {healthy} others {:.1}/{:.1} ms before, {:.1}/{:.1} ms in \
             the worst 25 broadcasts after; memory grew by {} MiB",
            took.as_secs_f64(),
            undisturbed.p50_ms,
            undisturbed.p99_ms,
            worst.p50_ms,
            worst.p99_ms,
            grown >> 20
        ));
        unchanged(scene, undisturbed, worst)?;
        let limit = u64::from(slow) * OUTBOX + (32 << 20);
        ensure!(grown <= limit, "memory grew by {grown} bytes, limit {limit}");
        // What the crowd got is checked message by message as it is read.
        let mut counted = Tally::default();
        counted.survived = crowd.received();
        scene.count(&counted, 0)?;
        drop((crowd, sluggards));
        super::sessions(scene, &lobby, 0).await?;
    }
    scene.leaves_nothing(lobby).await
}

/// Half as much again, and some milliseconds in which a scheduler may do something else; four times that in the short
/// form, on a busy machine.
fn unchanged(scene: &Scene, before: Latency, after: Latency) -> anyhow::Result<()> {
    let limit = (before.p99_ms * 1.5 + 5.0) * scene.pick(4.0, 1.0);
    ensure!(
        after.p99_ms <= limit,
        Late(format!(
            "p99 of the others rose from {:.1} to {:.1} ms, limit {limit:.1}",
            before.p99_ms, after.p99_ms
        ))
    );
    Ok(())
}

/// Clients that read until they are told to stop, and a publisher of large messages for them.
struct Sluggards {
    publisher: Publisher,
    letters: Vec<Message>,
    reading: watch::Sender<bool>,
    /// Dropped with this, and the sockets with them.
    _readers: JoinSet<()>,
}

impl Sluggards {
    async fn gather(scene: &Scene, lobby: &Lobby, transport: Transport, count: u32) -> anyhow::Result<Self> {
        let (reading, told) = watch::channel(true);
        let (mut readers, mut letters) = (JoinSet::new(), Vec::new());
        let body = Bytes::from(format!(r#"{{"command":"large","padding":"{}"}}"#, "x".repeat(LARGE)));
        for user in (SLOW_FROM..).take(count as usize) {
            let mut raw = Raw::dial_with(transport, lobby.address(transport)?, Some(SMALL_BUFFER)).await?;
            raw.login(&token::valid(SECRET, user)?).await?;
            readers.spawn(read_while(raw, told.clone()));
            letters.push(Message {
                exchange: scene.exchange().to_owned(),
                routing_key: NOTIFY_ROUTING_KEY.to_owned(),
                properties: Properties::to_user(Some(user))?,
                body: body.clone(),
            });
        }
        Ok(Self { publisher: Publisher::open(scene.url()).await?, letters, reading, _readers: readers })
    }

    fn stop_reading(&self) {
        self.reading.send_replace(false);
    }

    /// Publishes large messages for all of them, two rounds for each ten broadcasts to the crowd, which are timed.
    async fn beside(&mut self, crowd: &mut Crowd, times: u64, pace: Duration) -> anyhow::Result<Latency> {
        let mut rounds = tokio::time::interval(pace * 5);
        let Self { publisher, letters, .. } = self;
        let posting = async {
            loop {
                rounds.tick().await;
                for letter in letters.iter() {
                    publisher.publish(0, letter).await?;
                }
                publisher.settle().await?;
                publisher.take_settled();
            }
        };
        tokio::select! {
            latency = crowd.broadcasts(times, pace) => latency,
            failed = posting => failed,
        }
    }
}

/// Reads until it may not, and then holds the socket.
async fn read_while(mut raw: Raw, mut reading: watch::Receiver<bool>) {
    let mut part = vec![0; LARGE];
    loop {
        tokio::select! {
            biased;
            _ = reading.wait_for(|reading| !reading) => break,
            read = raw.stream.read(&mut part) => if !matches!(read, Ok(1..)) { break },
        }
    }
    std::future::pending::<()>().await;
}

/// On both transports at once, beside a client that reads.
pub(super) async fn one_byte_a_second(scene: &Scene) -> anyhow::Result<()> {
    let deadline = Duration::from_secs(scene.pick(3, 60));
    let setup = scene.setup().set("LOBBY_SESSIONS__WRITE_TIMEOUT", format!("{}s", deadline.as_secs()));
    let lobby = scene.start(&setup).await?;
    let mut player = scene.client(&lobby, Transport::Tcp, 1).await?;
    let mut notifier = scene.notifier().await?;
    let mut dribblers = JoinSet::new();
    for (user, transport) in (10..).zip(Transport::BOTH) {
        let mut raw = Raw::dial_with(transport, lobby.address(transport)?, Some(SMALL_BUFFER)).await?;
        raw.login(&token::valid(SECRET, user)?).await?;
        dribblers.spawn(async move {
            let (mut byte, mut read) = ([0], 0_u64);
            while let Ok(1..) = raw.stream.read(&mut byte).await {
                read += 1;
                sleep(Duration::from_secs(1)).await;
            }
            read
        });
        // Until the kernel takes no more of it and the lobby keeps the rest: more than is on its way at a moment, or than the
        // kernel may take after all.
        let body = format!(r#"{{"command":"large","padding":"{}"}}"#, "x".repeat(LARGE));
        let before = lobby.metrics().await?.count("lobby_outbox_bytes", &[]);
        while lobby.metrics().await?.count("lobby_outbox_bytes", &[]) < before + 8 * LARGE as u64 {
            notifier.notify_user(user, &body).await?;
        }
    }
    let waits = Instant::now();
    let within = deadline + Duration::from_secs(5) * scene.pick(4, 1);
    while closes(&lobby, "4000").await? < 2 {
        ensure!(
            waits.elapsed() < within,
            Late(format!("a reader of a byte a second was still there after {within:?}"))
        );
        sleep(Duration::from_millis(50)).await;
    }
    scene.timed(waits.elapsed());
    super::sessions(scene, &lobby, 1).await?;
    let sentinel = notifier.sentinel().await?;
    let lines = player.expect_until(&sentinel).await?;
    ensure!(lines.is_empty(), "somebody else's: {lines:?}");
    dribblers.shutdown().await;
    drop(player);
    scene.fact(format!(
        "deadline {deadline:?}; closed with 4000 after {:.1} s",
        waits.elapsed().as_secs_f64()
    ));
    scene.leaves_nothing(lobby).await
}

/// Two stop, one on each transport; a third reads on. What waits for the stopped ones passes the kernel's buffers and
/// stands in their outboxes.
pub(super) async fn stopped_for_a_while(scene: &Scene) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_secs(5);
    /// Less than an outbox holds.
    const WAITING: u64 = 2 << 20;
    let lobby = scene.lobby().await?;
    let how = Dialing { receive_buffer: Some(SMALL_BUFFER), ..Dialing::default() };
    let mut clients = Vec::new();
    for (user, transport) in (1..).zip([Transport::Tcp, Transport::WebSocket, Transport::Tcp]) {
        let client = Client::dial(transport, lobby.address(transport)?, how).await?;
        let mut client = client.named(format_args!("user {user}"));
        client.login(&token::valid(SECRET, user)?).await?;
        clients.push(client);
    }
    let mut notifier = scene.notifier().await?;
    let (mut outcomes, mut received) = (Outcomes::default(), vec![Vec::new(); clients.len()]);
    let mut seq = 0_u64;
    for _ in 0..scene.pick(1, 6) {
        let stopped = Instant::now();
        let mut most = 0;
        while most < WAITING {
            ensure!(seq < 100_000, "the kernel took everything: {most} bytes waited in the lobby");
            let body = format!(r#"{{"command":"numbered","seq":{seq},"padding":"{}"}}"#, "x".repeat(8192));
            let headers = serde_json::Value::Null;
            let properties = serde_json::json!({ "delivery_mode": 2 });
            let outcome = notifier.publish(&headers, &properties, body.as_bytes()).await?;
            outcomes.insert(seq, outcome);
            ensure!(outcome == Outcome::Confirmed, "number {seq} was not routed: {outcome:?}");
            let last = clients.len() - 1;
            received[last].extend(clients[last].line().await?.seq());
            seq += 1;
            if seq.is_multiple_of(20) {
                most = lobby.metrics().await?.count("lobby_outbox_bytes", &[]);
            }
        }
        sleep_until(stopped + PAUSE).await;
        let waited = stopped.elapsed();
        let sentinel = notifier.sentinel().await?;
        for (client, received) in clients.iter_mut().zip(&mut received) {
            let lines = client.expect_until(&sentinel).await?;
            received.extend(lines.iter().filter_map(Line::seq));
        }
        scene.fact(format!("stopped for {:.1} s with {most} bytes in outboxes", waited.as_secs_f64()));
    }
    let mut tally = Tally::of(&outcomes);
    for (client, received) in clients.iter().zip(&received) {
        tally.add(client.name(), received, &outcomes, |_| true);
    }
    scene.count(&tally, tally.unmarked_of(0))?;
    drop(clients);
    scene.leaves_nothing(lobby).await
}
