//! Publishes one notification and waits for the broker's confirm.

use std::time::Duration;

use notify_amqp::{BrokerConfig, BrokerUrl, Publisher, PublisherConfig};
use notify_protocol::Notification;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = BrokerUrl::parse(&std::env::var("AMQP_URL")?)?;
    let broker = BrokerConfig::new(url, "my-service");
    let publisher = Publisher::new(PublisherConfig::new(broker, "faf-lobby"))?;

    let message =
        Notification::to_user(42) // or to_channel("…"), or broadcast()
            .json(&json!({"command": "notice", "style": "info", "text": "Your friend came online"}))
            .expires_in(Duration::from_secs(60))
            .build()?; // checks every limit of the contract

    // An error says what happened: unroutable (no lobby is bound), nacked, timed out …
    let published = publisher.publish(&message).await?;
    println!("confirmed {}", published.message_id);
    publisher.close().await;
    Ok(())
}
