//! `cargo xtask broker`: a broker until Ctrl-C.

use serde_json::json;

use crate::broker::{Broker, BrokerOptions};
use crate::interruption::Interruption;
use crate::progress;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Allow Docker to pull RabbitMQ's official image.
    #[arg(long)]
    pull: bool,
}

/// Starts a broker, says where it is, and stops it on Ctrl-C or SIGTERM.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut interruption = Interruption::heed()?;
    let mut progress = progress::to_stderr();
    let wanted = BrokerOptions::from_env(options.pull)?;
    let started = tokio::select! {
        started = Broker::start(&wanted, &mut progress) => started?,
        // Dropping the start stops what it has begun.
        () = interruption.comes() => return Ok(()),
    };
    println!("{}", describe(&started, options.json));
    interruption.comes().await;
    started.stop().await
}

fn describe(broker: &Broker, as_json: bool) -> String {
    let management = broker.management().map(|management| management.url());
    if as_json {
        let pid = std::process::id();
        let tls = broker.tls().map(|(port, directory)| json!({ "port": port, "certificates": directory }));
        let facts = json!({
            "how": broker.how(),
            "amqp_url": broker.amqp_url(),
            "management_url": management,
            "tls": tls,
            "pid": pid,
        });
        return facts.to_string();
    }
    let login = if broker.is_ours() { " (user guest, password guest)" } else { "" };
    let management = management.map_or_else(|| "not reached".to_owned(), |url| format!("{url}{login}"));
    let end = if broker.is_ours() {
        "Ctrl-C stops the broker and removes its data"
    } else {
        "Ctrl-C ends this command"
    };
    format!(
        "broker      {}\nAMQP        {}\nmanagement  {management}\n{end}; with the lobby:\n  LOBBY_BROKER__URL={} cargo run",
        broker.how(),
        broker.amqp_url(),
        broker.amqp_url(),
    )
}
