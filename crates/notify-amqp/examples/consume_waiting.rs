//! What publishing and consuming cost: fills a queue, with confirms, then consumes it with a trivial handler, and
//! prints rates and CPU times.
//!
//! `AMQP_URL=… cargo run --release -p notify-amqp --example consume_waiting [messages] [ack_batch] [window] [concurrency]`
//!
//! With a concurrency, an async handler consumes on this thread's runtime; without one, a dispatch on the consumer's own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use notify_amqp::{
    BrokerConfig, BrokerUrl, Consumer, ConsumerBuilder, ConsumerConfig, ConsumerHandle, ConsumerStatus,
    Delivery, Outcome, Publisher, PublisherConfig, Ticket, Topology, instance_queue,
};
use notify_protocol::Notification;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |n| std::env::args().nth(n).and_then(|text| text.parse::<u64>().ok());
    let messages = argument(1).unwrap_or(100_000);
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into());
    let broker = BrokerConfig::new(BrokerUrl::parse(&url)?, "consume_waiting");
    let exchange = format!("consume-waiting-{}", std::process::id());
    let mut topology = Topology::new(&exchange, instance_queue(&exchange, "bench")?);
    topology.options.expires = Some(Duration::from_secs(60));
    let mut config = ConsumerConfig::new(broker.clone(), topology);
    if let Some(batch) = argument(2) {
        config.ack_batch = u16::try_from(batch)?;
    }

    // The first consumer only declares.
    let declared = consuming(config.clone(), |_, _| {}).await?;
    declared.stop().await;
    let mut publishing = PublisherConfig::new(broker, &exchange);
    if let Some(window) = argument(3) {
        publishing.window = usize::try_from(window)?;
    }
    fill(publishing, messages).await?;

    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    let (before, start) = (CpuTime::now()?, Instant::now());
    let handle = match argument(4) {
        None => {
            let dispatch = move |delivery: Delivery, _ticket: Ticket| {
                counter.fetch_add(delivery.headers().count() as u64, Ordering::Relaxed);
            };
            consuming(config, dispatch).await?
        }
        Some(concurrency) => {
            let handler = move |delivery: Delivery| {
                counter.fetch_add(delivery.headers().count() as u64, Ordering::Relaxed);
                std::future::ready(Outcome::Ack)
            };
            ConsumerBuilder::from(config).concurrency(u16::try_from(concurrency)?).handle(handler)?
        }
    };
    let stats = handle.stats();
    while stats.acked.get() < messages {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (after, took) = (CpuTime::now()?, start.elapsed());
    let per_message = |seconds: f64| seconds * 1e6 / messages as f64;
    println!(
        "{messages} messages in {took:?} ({:.0}/s), {} ack frames, {} seen",
        messages as f64 / took.as_secs_f64(),
        stats.ack_frames.get(),
        seen.load(Ordering::Relaxed)
    );
    println!(
        "CPU per message: {:.2} µs (user {:.2}, system {:.2})",
        per_message(after.total() - before.total()),
        per_message(after.user - before.user),
        per_message(after.system - before.system)
    );
    println!("peak memory: {}", peak_memory()?);
    handle.stop().await;
    Ok(())
}

async fn consuming(
    config: ConsumerConfig,
    handler: impl FnMut(Delivery, Ticket) + Send + 'static,
) -> Result<ConsumerHandle, Box<dyn std::error::Error>> {
    let handle = Consumer::spawn(config, handler)?;
    handle.status().wait_for(ConsumerStatus::is_consuming).await?;
    Ok(handle)
}

/// Publishes messages of 200 bytes with one header each.
async fn fill(mut config: PublisherConfig, messages: u64) -> Result<(), Box<dyn std::error::Error>> {
    config.publish_timeout = Duration::from_secs(60);
    let publisher = Publisher::new(config)?;
    let body = format!(r#"{{"text":"{}"}}"#, "x".repeat(189));
    assert_eq!(body.len(), 200);
    let message = Arc::new(Notification::to_user(42).raw_json(body).build()?);
    publisher.publish(&message).await?; // connects
    let (before, start) = (CpuTime::now()?, Instant::now());
    let mut outcomes = publisher.publish_all((1..messages).map(move |_| message.clone()));
    while let Some(outcome) = outcomes.next().await {
        outcome?;
    }
    let (after, took) = (CpuTime::now()?, start.elapsed());
    println!(
        "published with confirms at {:.0}/s, {:.2} µs of CPU each",
        messages as f64 / took.as_secs_f64(),
        (after.total() - before.total()) * 1e6 / messages as f64
    );
    publisher.close().await;
    Ok(())
}

/// CPU time of this process in seconds.
struct CpuTime {
    user: f64,
    system: f64,
}

impl CpuTime {
    fn now() -> Result<Self, Box<dyn std::error::Error>> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let fields: Vec<&str> =
            stat.rsplit_once(") ").ok_or("unexpected /proc/self/stat")?.1.split(' ').collect();
        // Ticks of 10 ms on every Linux in use.
        let seconds =
            |n: usize| -> Result<f64, Box<dyn std::error::Error>> { Ok(fields[n].parse::<f64>()? / 100.0) };
        Ok(Self { user: seconds(11)?, system: seconds(12)? })
    }

    fn total(&self) -> f64 {
        self.user + self.system
    }
}

fn peak_memory() -> Result<String, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim_start_matches("VmHWM:").trim().to_owned())
}
