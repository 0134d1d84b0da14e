//! Clients who come, log in, and go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::client::{Client, Transport};
use crate::lobby::Lobby;
use crate::stage::SECRET;
use crate::token;

/// Fifty a second.
const PERIOD: Duration = Duration::from_millis(20);
/// At once; on a machine that is slower than the pace fewer come.
const AT_ONCE: usize = 64;
/// None of the stream's players.
const FIRST_USER: i64 = 100_000;
const USERS: i64 = 5_000;
/// How long each stays and reads.
const STAY: Duration = Duration::from_millis(300);

/// Runs until it is finished, or dropped.
#[derive(Debug)]
pub(super) struct Churn {
    running: JoinHandle<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
    came: Arc<AtomicU64>,
}

impl Churn {
    pub(super) fn start(lobby: &Lobby) -> anyhow::Result<Self> {
        let addresses = [lobby.address(Transport::Tcp)?, lobby.address(Transport::WebSocket)?];
        let (stop, stopping) = watch::channel(false);
        let came = Arc::new(AtomicU64::new(0));
        let running = tokio::spawn(churn(addresses, stopping, Arc::clone(&came)));
        Ok(Self { running, stop, came })
    }

    /// How many have logged in so far.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.came)
    }

    /// An error if somebody could not log in, or was sent away.
    pub(super) async fn check(&mut self) -> anyhow::Result<()> {
        if self.running.is_finished() {
            (&mut self.running).await.context("clients who come and go")??;
            bail!("nobody comes any more");
        }
        Ok(())
    }

    /// Lets the last ones go; how many came, or why one could not.
    pub(super) async fn finish(mut self) -> anyhow::Result<u64> {
        self.stop.send_replace(true);
        (&mut self.running).await.context("clients who come and go")??;
        Ok(self.came.load(Relaxed))
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn churn(
    addresses: [SocketAddr; 2],
    stopping: watch::Receiver<bool>,
    came: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut tick = interval(PERIOD);
    // What it was late with it makes up for.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut visits, mut number) = (JoinSet::new(), 0_i64);
    while !*stopping.borrow() {
        tick.tick().await;
        while let Some(visit) = visits.try_join_next() {
            visit.context("a visit")??;
        }
        if visits.len() < AT_ONCE {
            number += 1;
            visits.spawn(visit(number, addresses, Arc::clone(&came)));
        }
    }
    while let Some(visit) = visits.join_next().await {
        visit.context("a visit")??;
    }
    Ok(())
}

async fn visit(number: i64, addresses: [SocketAddr; 2], came: Arc<AtomicU64>) -> anyhow::Result<()> {
    let which = usize::from(number % 2 == 1);
    let user = FIRST_USER + number % USERS;
    let mut client = Client::connect(Transport::BOTH[which], addresses[which])
        .await?
        .named(format_args!("visitor {user}"));
    client.login(&token::valid(SECRET, user)?).await?;
    came.fetch_add(1, Relaxed);
    let reading = async {
        loop {
            client.line().await?;
        }
    };
    match tokio::time::timeout(STAY, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(()),
    }
}
