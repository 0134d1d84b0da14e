//! Builds the three kinds of messages and prints what would go to the broker; needs none.
//!
//! `cargo run -p notify-protocol --example publish`

use std::{collections::BTreeMap, time::Duration};

use notify_protocol::{BuildError, DEFAULT_EXCHANGE, Message, Notification, UserId};

fn main() -> Result<(), BuildError> {
    let notice = BTreeMap::from([("command", "notice"), ("text", "Your avatar has changed")]);
    let to_user = Notification::to_user(UserId::new(42))
        .json(&notice)
        .expires_in(Duration::from_secs(30))
        .message_id("avatar-4711")
        .app_id("faf-user-service")
        .traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .build()?;
    print("one user", &to_user);

    // Reserved: today's lobbies acknowledge it and send it to nobody.
    let to_channel =
        Notification::to_channel("matchmaker").raw_json(r#"{"command":"queue","size":8}"#).build()?;
    print("one channel", &to_channel);

    let broadcast = Notification::broadcast()
        .raw_json(r#"{"command":"notice","style":"info","text":"Restart in 5 minutes"}"#)
        .priority(9)
        .correlation_id("maintenance-12")
        .timestamp(1_700_000_000)
        .header("x-operator", "ops")
        .build()?;
    print("everyone", &broadcast);

    // What cannot be delivered cannot be built, and the error says what to change.
    if let Err(error) = Notification::broadcast().raw_json("[1, 2]").build() {
        println!("refused: {error}");
    }
    Ok(())
}

fn print(kind: &str, message: &Message) {
    println!("# {kind} ({})", message.address());
    println!("exchange     {DEFAULT_EXCHANGE}");
    println!("routing key  {}", message.routing_key());
    for (name, value) in message.headers() {
        println!("header       {name}: {value:?}");
    }
    println!("properties   {:?}", message.properties());
    println!("body         {}\n", String::from_utf8_lossy(message.body()));
}
