//! Logins while everyone is told something all the time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::sync::watch;
use tokio::time::{Duration, interval};

use crate::amqp_wire::{AmqpUrl, Message, Properties, Publisher};
use crate::client::{Client, Dialing, Transport};
use crate::faults::scene::Scene;
use crate::stage::SECRET;
use crate::stage::notifier::numbered;
use crate::token;

/// Logins at once.
const CROWD: usize = 32;
/// Numbers that each one reads after its welcome.
const READ: u64 = 3;
/// Published every two milliseconds; the more there are the closer is one to a welcome.
const BATCH: u64 = 2;
/// Addresses to come from: each has some 28,000 ports.
const SOURCES: i64 = 50;

/// The first that each gets is its welcome, and from its first number on it misses none.
pub(super) async fn raced(scene: &Scene) -> anyhow::Result<()> {
    // Many come and go: that is not what the limits are for here.
    let lobby = scene.start(&scene.setup().set("LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND", "0")).await?;
    let count = scene.pick(2_000, 100_000);
    let (stop, stopping) = watch::channel(false);
    let publishing = tokio::spawn(publish(scene.url().clone(), scene.exchange().to_owned(), stopping));
    let addresses = [lobby.address(Transport::Tcp)?, lobby.address(Transport::WebSocket)?];
    let (next, read) = (AtomicI64::new(0), AtomicU64::new(0));
    let crowd = (0..CROWD).map(|_| async {
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= count {
                return anyhow::Ok(());
            }
            come_and_go(number, addresses).await.with_context(|| format!("login {number}"))?;
            read.fetch_add(READ, Relaxed);
        }
    });
    let outcome = futures_util::future::try_join_all(crowd).await;
    stop.send_replace(true);
    let published = publishing.await.context("the publisher")??;
    outcome?;
    let metrics = lobby.metrics().await?;
    let overflows = metrics.count("lobby_outbox_overflow_total", &[]);
    scene.fact(format!(
        "{count} logins under {published} broadcasts: each began with its welcome, and of {} numbers that were read after it \
         none was missing; {overflows} overflows",
        read.load(Relaxed)
    ));
    scene.leaves_nothing(lobby).await
}

async fn come_and_go(number: i64, addresses: [SocketAddr; 2]) -> anyhow::Result<()> {
    let which = usize::from(number % 2 == 1);
    let last = u8::try_from(2 + number % SOURCES)?;
    let from = cfg!(target_os = "linux").then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    let how = Dialing { from, ..Dialing::default() };
    let mut client = Client::dial(Transport::BOTH[which], addresses[which], how).await?;
    // `login` fails when anything comes before the welcome.
    client.login(&token::valid(SECRET, number)?).await?;
    let mut due = None;
    for _ in 0..READ {
        let line = client.line().await?;
        let seq = line.seq().with_context(|| format!("not a number: {line}"))?;
        ensure!(due.is_none_or(|due| seq == due), "number {seq} where {due:?} was due");
        due = Some(seq + 1);
    }
    Ok(())
}

async fn publish(url: AmqpUrl, exchange: String, stopping: watch::Receiver<bool>) -> anyhow::Result<u64> {
    let mut publisher = Publisher::open(&url).await?;
    let mut tick = interval(Duration::from_millis(2));
    let properties = Properties::to_user(None)?;
    let mut seq = 0;
    while !*stopping.borrow() {
        tick.tick().await;
        for _ in 0..BATCH {
            let message = Message {
                exchange: exchange.clone(),
                routing_key: NOTIFY_ROUTING_KEY.to_owned(),
                properties: properties.clone(),
                body: Bytes::from(numbered(seq)),
            };
            publisher.publish(seq, &message).await?;
            seq += 1;
        }
        publisher.take_settled();
    }
    publisher.settle().await?;
    Ok(seq)
}
