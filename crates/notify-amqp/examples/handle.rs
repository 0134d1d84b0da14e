//! Consumes with an async handler, as a service does: each message is acked, requeued, rejected, or the last.

use std::process::ExitCode;

use notify_amqp::{BrokerConfig, BrokerUrl, Consumer, Delivery, Outcome, Topology, instance_queue};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let url = BrokerUrl::parse(&std::env::var("AMQP_URL")?)?;
    let topology = Topology::new("faf-lobby", instance_queue("faf-lobby", "my-service")?);
    let consumer = Consumer::builder(BrokerConfig::new(url, "my-service"), topology)
        .prefetch(100)
        .concurrency(8) // begun in the queue's order, eight in work at a time
        .handle(handle)?;
    consumer.status().wait_for(|status| status.is_consuming()).await?;
    println!("consuming");
    let stopped = consumer.join().await; // until a handler says halt; `stop` ends it from outside
    Ok(ExitCode::from(stopped.exit_code()))
}

/// Sees the message and nothing of its channel: `Delivery::detached` is enough to test it.
async fn handle(delivery: Delivery) -> Outcome {
    match delivery.body() {
        b"\"stop\"" => Outcome::Halt { code: 0, requeue: false },
        body if !body.starts_with(b"{") => Outcome::Reject, // dropped, or dead-lettered
        body => match store(body).await {
            Ok(()) => Outcome::Ack,
            Err(_) => Outcome::Requeue, // comes again once; then it is rejected
        },
    }
}

async fn store(body: &[u8]) -> std::io::Result<()> {
    println!("{}", String::from_utf8_lossy(body));
    Ok(())
}
