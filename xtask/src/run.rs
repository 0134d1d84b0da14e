//! `cargo xtask run`: the whole path from a RabbitMQ message to a client's socket, shown once.
//!
//! ```text
//! broker (found or made) → lobby (built, started) → demo (two clients, three messages, a transcript) → Ctrl-C
//! ```

mod demo;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use self::demo::Audience;
use crate::amqp_wire::AmqpUrl;
use crate::broker::{Broker, BrokerOptions};
use crate::client::Transport;
use crate::interruption::Interruption;
use crate::lobby::{Lobby, LogBook, Setup};
use crate::{build, progress, token};

/// The lobby's usual addresses, used where they are free.
const ADDRESSES: [(&str, u16); 3] =
    [("LOBBY_LISTEN__TCP", 8002), ("LOBBY_LISTEN__WEBSOCKET", 8003), ("LOBBY_LISTEN__ADMIN", 8011)];
/// The lobby's own limit for a drain, and a little more.
const DRAIN: Duration = Duration::from_secs(15);
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Log lines of the lobby that are shown when the demonstration fails.
const LOG_LINES: usize = 25;

/// Runs the demonstration; stays up until Ctrl-C unless `once`.
///
/// # Errors
/// No broker, no lobby, or a client that did not receive what it should have, or something else.
pub(crate) async fn run(once: bool, pull: bool) -> anyhow::Result<()> {
    let mut progress = progress::to_stderr();
    progress("looking for a broker");
    let broker = Broker::start(&BrokerOptions::from_env(pull)?, &mut progress).await?;
    let outcome = with_broker(&broker, once, &mut progress).await;
    progress("leaving the broker as it was found");
    let stopped = broker.stop().await;
    outcome.and(stopped)
}

async fn with_broker(broker: &Broker, once: bool, progress: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let log = LogBook::default();
    let mut interruption = Interruption::heed()?;
    let shown = tokio::select! {
        shown = start_and_show(broker, &log, progress) => shown,
        () = interruption.comes() => return Ok(()),
    };
    let (mut lobby, audience) = shown.inspect_err(|_| show_log(&log))?;
    if !once {
        println!(
            "\nThe lobby stays up, and both clients show what they get. The console: http://{}/",
            lobby.admin_address()?
        );
        println!("Ctrl-C ends it, and the broker if it was started here.");
        let url = AmqpUrl::parse(&broker.amqp_url())?;
        // On somebody else's broker nothing more is published than what was shown.
        let staying = audience.stay(&url, broker.is_ours());
        let staying = async {
            match staying.await {
                Ok(()) => {}
                Err(error) => eprintln!("the clients have left: {error:#}"),
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = interruption.comes() => {}
            () = staying => {}
            ended = lobby.exited(A_YEAR) => {
                show_log(&log);
                bail!("the lobby ended by itself: {}", ended?);
            }
        }
    }
    progress("draining the lobby");
    lobby.terminate()?;
    let status = lobby.exited(DRAIN).await?;
    ensure!(status.success(), "the lobby exited with {status}");
    Ok(())
}

async fn start_and_show(
    broker: &Broker,
    log: &LogBook,
    progress: &mut impl FnMut(&str),
) -> anyhow::Result<(Lobby, Audience)> {
    progress("building the lobby; the first time takes some minutes");
    let binary = build::lobby().await?;
    let secret: String = std::iter::repeat_with(fastrand::alphanumeric).take(43).collect();
    progress("starting the lobby");
    let mut lobby = setup(&binary, broker, &secret).start(log.clone()).await.context("start the lobby")?;
    lobby.ready().await?;
    show_addresses(broker, &lobby, &secret)?;
    let shown = demo::show(&lobby, &AmqpUrl::parse(&broker.amqp_url())?, &secret).await;
    Ok((lobby, shown.context("the demonstration failed")?))
}

fn show_log(log: &LogBook) {
    eprintln!("the lobby's last log lines:");
    log.tail(LOG_LINES).iter().for_each(|line| eprintln!("  {line}"));
}

fn setup(binary: &Path, broker: &Broker, secret: &str) -> Setup {
    let mut setup = Setup::new(binary.to_owned(), std::env::temp_dir())
        .set("LOBBY_BROKER__URL", broker.amqp_url())
        .set("LOBBY_AUTH__SECRET", secret)
        .set("LOBBY_LOG__FORMAT", "json");
    for (variable, port) in ADDRESSES {
        let address = free_or_any(SocketAddr::from(([127, 0, 0, 1], port)));
        setup = setup.set(variable, address.to_string());
    }
    setup
}

/// `usual` if nobody listens there, else a port that the system chooses.
fn free_or_any(usual: SocketAddr) -> SocketAddr {
    if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::new(usual.ip(), 0) }
}

fn show_addresses(broker: &Broker, lobby: &Lobby, secret: &str) -> anyhow::Result<()> {
    let tcp = lobby.address(Transport::Tcp)?;
    println!();
    println!("broker     {} ({})", broker.amqp_url(), broker.how());
    println!("TCP        {tcp}");
    println!("WebSocket  ws://{}/", lobby.address(Transport::WebSocket)?);
    println!("console    http://{}/  (and /live, /ready, /metrics, /trace)", lobby.admin_address()?);
    println!("token      {}", token::valid(secret, 1)?);
    println!("           logs in as user 1 for an hour: TOKEN=(the line above)");
    println!(
        "connect    (echo '{{\"command\":\"auth\",\"token\":\"'$TOKEN'\"}}'; cat) | nc {} {}",
        tcp.ip(),
        tcp.port()
    );
    println!("publish    AMQP_URL={} cargo run -q -p notify-amqp --example notify", broker.amqp_url());
    println!();
    Ok(())
}
