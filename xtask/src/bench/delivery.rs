//! Broadcasts and unicasts, paced or as fast as it goes: what they cost the server and how long they take.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use tokio::time::MissedTickBehavior;

use super::{
    body::To,
    driver::{self, now},
    process::Usage,
    running::Running,
    subject::Subject,
};

/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same of a peer, which may shed load: nothing comes any more is an answer there.
const PATIENCE_WITH_PEERS: Duration = Duration::from_secs(5);
/// After the last receipt: acks and other work that follows a delivery belong to it.
const AFTERMATH: Duration = Duration::from_millis(60);
/// Messages published between two looks at the clients.
const BETWEEN_CHECKS: u64 = 256;

/// What is published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) audience: Audience,
    pub(super) messages: u64,
    /// Between two messages; none: as fast as it goes.
    pub(super) pace: Option<Duration>,
}

/// Whom the messages are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Each is for everyone; so many read.
    Everyone { readers: u32 },
    /// Each is for one of the users 1 to `users`, in turn.
    EachUser { users: u32 },
}

impl Load {
    fn addressee(&self, message: u64) -> To {
        match self.audience {
            Audience::Everyone { .. } => To::Everyone,
            Audience::EachUser { users } => To::User((message % u64::from(users)) as u32 + 1),
        }
    }

    pub(super) fn deliveries(&self) -> u64 {
        match self.audience {
            Audience::Everyone { readers } => self.messages * u64::from(readers),
            Audience::EachUser { .. } => self.messages,
        }
    }

    /// Publishes, and waits until all is received and found right. Returns how much of it a peer lost.
    pub(super) async fn deliver(&self, running: &mut Running) -> anyhow::Result<u64> {
        let total = running.driver.received() + self.deliveries();
        let mut ticks = self.pace.map(tokio::time::interval);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        }
        for message in 0..self.messages {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            running.publish(self.addressee(message)).await?;
            if message % BETWEEN_CHECKS == 0 {
                running.driver.check()?;
            }
        }
        running.settle().await?;
        let patience = if running.is_peer() { PATIENCE_WITH_PEERS } else { PATIENCE };
        running.driver.wait_for(total, patience).await
    }

    /// Delivers, and reports what it took.
    pub(super) async fn measure(&self, running: &mut Running) -> anyhow::Result<BTreeMap<&'static str, f64>> {
        let own_pid = std::process::id();
        running.driver.take_latency()?;
        let written_before = running.written().await?;
        let (server_before, own_before) = (Usage::of(running.pid())?, Usage::of(own_pid)?);
        let begin = now();
        let lost = self.deliver(running).await?;
        let seconds = running.driver.last_at().saturating_sub(begin) as f64 / 1e9;
        tokio::time::sleep(AFTERMATH).await;
        let server = Usage::of(running.pid())?.since(&server_before);
        let own = Usage::of(own_pid)?.since(&own_before);
        let written = running.written().await?;
        let latency = running.driver.take_latency()?;

        ensure!(lost < self.deliveries(), "none of {lost} messages came");
        let deliveries = (self.deliveries() - lost) as f64;
        let micros = |nanos: u64| nanos as f64 / 1e3 / deliveries;
        let millis = |per_mille| latency.quantile(per_mille) as f64 / 1e6;
        let (intake, shards) =
            (server.thread("lapin-io-loop") + server.thread("amqp-consumer"), server.thread("shard"));
        let driver = own.thread(driver::THREAD);
        let mut figures = BTreeMap::from([
            ("deliveries", deliveries),
            ("seconds", seconds),
            ("deliveries_per_s", deliveries / seconds),
            ("cpu_us", micros(server.cpu())),
            ("kernel_share", server.kernel_share()),
            ("switches", server.switches as f64 / deliveries),
            ("switches_per_message", server.switches as f64 / self.messages as f64),
            ("p50_ms", millis(500)),
            ("p99_ms", millis(990)),
            ("p999_ms", millis(999)),
            ("driver_cpu_us", micros(driver)),
            ("publisher_cpu_us_per_message", (own.cpu() - driver) as f64 / 1e3 / self.messages as f64),
            ("resident_mib", server.resident_bytes as f64 / f64::from(1 << 20)),
        ]);
        if running.is_peer() {
            figures.extend([("lost", lost as f64), ("ended", running.driver.ended() as f64)]);
        }
        // The other floor calls `send`, once for each, which the kernel does not count.
        if running.subject == Subject::FloorWritev {
            figures.insert("messages_per_write", deliveries / server.write_calls.max(1) as f64);
        }
        if running.lobby().is_some() {
            let calls = written.system_calls - written_before.system_calls;
            let messages = written.messages - written_before.messages;
            figures.extend([
                ("cpu_io_loop_us", micros(server.thread("lapin-io-loop"))),
                ("cpu_consumer_us", micros(server.thread("amqp-consumer"))),
                ("cpu_shards_us", micros(shards)),
                ("cpu_other_us", micros(server.cpu().saturating_sub(intake + shards))),
                ("messages_per_write", messages as f64 / calls.max(1) as f64),
            ]);
        }
        Ok(figures)
    }
}
