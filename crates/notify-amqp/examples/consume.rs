//! Consumes the queue of one instance until Enter is pressed, as the lobby does.

use notify_amqp::{
    BrokerConfig, BrokerUrl, Consumer, ConsumerConfig, Delivery, Ticket, Topology, instance_queue,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = BrokerUrl::parse(&std::env::var("AMQP_URL")?)?;
    let broker = BrokerConfig::new(url, "my-service");
    let topology = Topology::new("faf-lobby", instance_queue("faf-lobby", "my-host")?);

    // Called in the queue's order. Reconnecting and declaring again are not your concern.
    let consumer = Consumer::spawn(
        ConsumerConfig::new(broker, topology).with_prefetch(100),
        |delivery: Delivery, ticket: Ticket| {
            println!("{} bytes by {}", delivery.body().len(), delivery.routing_key());
            drop(ticket); // acks; keep it, or a clone, until the work is done, on whatever thread
        },
    )?;
    consumer.status().wait_for(|status| status.is_consuming()).await?;
    println!("consuming");
    std::io::stdin().read_line(&mut String::new())?; // the consumer has a thread of its own
    consumer.stop().await; // waits for what is open, acks it, gives the rest back
    Ok(())
}
