//! Publishes one notification and asks every lobby what became of it.

use std::time::Duration;

use notify_amqp::{BrokerConfig, BrokerUrl, Publisher, PublisherConfig, ReceiptWait};
use notify_protocol::Notification;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = BrokerUrl::parse(&std::env::var("AMQP_URL")?)?;
    let publisher = Publisher::new(PublisherConfig::new(BrokerConfig::new(url, "my-service"), "faf-lobby"))?;
    let message = Notification::to_user(42).json(&json!({"command": "notice", "text": "hi"})).build()?;

    // `first` waits for one lobby that wrote it, `lobbies(n, …)` for n answers, `everyone` until the time is up.
    let wait = ReceiptWait::everyone(Duration::from_secs(1));
    let answered = publisher.publish_with_receipt(&message, wait).await?;
    for receipt in answered.receipts {
        println!("{}: {} after {} µs", receipt.instance, receipt.outcome, receipt.micros);
    }
    publisher.close().await;
    Ok(())
}
