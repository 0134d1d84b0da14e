//! What a scenario or a fault plays on: a virtual host, lobbies, clients, publishers, and everything they logged.

pub(crate) mod flood;
pub(crate) mod notifier;
pub(crate) mod order;
pub(crate) mod proxy;
pub(crate) mod tally;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use notify_protocol::DEFAULT_EXCHANGE;
use tokio::time::{Instant, sleep};

use self::notifier::{Notifier, unique};
use self::proxy::Proxy;
use crate::PATIENCE;
use crate::amqp_wire::{AmqpUrl, CONNECTION_NAME, Connection, QueueState, percent_encode};
use crate::broker::{Broker, Management, Vhost};
use crate::client::{Client, Transport};
use crate::late::Late;
use crate::lobby::{Lobby, LogBook, Setup};
use crate::token;

/// Signs the tokens of every scenario's clients.
pub(crate) const SECRET: &str = "only-the-end-to-end-tests-use-this-secret";
/// Lines of each lobby's log in a failure's report.
const LOG_LINES: usize = 25;
const POLL: Duration = Duration::from_millis(25);

/// How a broker goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Going {
    /// As an operator stops it.
    Stopped,
    /// With no time to write anything.
    Killed,
}

/// The world of one scenario. Dropping it drops the virtual host.
#[derive(Debug)]
pub(crate) struct Stage {
    instance: String,
    exchange: String,
    broker: Arc<Broker>,
    management: Option<Management>,
    vhost: Vhost,
    url: AmqpUrl,
    binary: PathBuf,
    directory: tempfile::TempDir,
    logs: Mutex<Vec<(String, LogBook)>>,
    pids: Mutex<Vec<u32>>,
    facts: Mutex<Vec<String>>,
    skipped: OnceLock<String>,
}

impl Stage {
    pub(crate) async fn set(name: &str, broker: &Arc<Broker>, binary: PathBuf) -> anyhow::Result<Self> {
        let vhost = broker.vhost(name).await.context("make a virtual host")?;
        let management = broker.management().cloned();
        let url = AmqpUrl::parse(vhost.amqp_url())?;
        let directory =
            tempfile::Builder::new().prefix("lobby-e2e-").tempdir().context("make a directory")?;
        // In a virtual host that others use too, only the names keep scenarios apart.
        let (instance, exchange) = if vhost.is_shared() {
            (unique(name), unique("exchange"))
        } else {
            (name.to_owned(), DEFAULT_EXCHANGE.to_owned())
        };
        Ok(Self {
            instance,
            exchange,
            broker: Arc::clone(broker),
            management,
            vhost,
            url,
            binary,
            directory,
            logs: Mutex::default(),
            pids: Mutex::default(),
            facts: Mutex::default(),
            skipped: OnceLock::new(),
        })
    }

    /// Takes the broker away from everyone who uses it and gives it back: same address, same data.
    pub(crate) async fn restart_broker(&self, going: Going) -> anyhow::Result<()> {
        match going {
            Going::Stopped => self.broker.shut_down().await.context("stop the broker")?,
            Going::Killed => self.broker.kill().await.context("kill the broker")?,
        }
        self.broker.start_again().await.context("start the broker again")
    }

    /// Makes the broker hang for as long as `meanwhile` takes: connections stay open, nothing answers.
    pub(crate) async fn while_broker_hangs<T>(
        &self,
        meanwhile: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.broker.pause().await.context("make the broker hang")?;
        let outcome = meanwhile.await;
        self.broker.resume().await.context("let the broker go on")?;
        outcome
    }

    /// Tells the broker something with `rabbitmqctl`.
    pub(crate) async fn control_broker(&self, arguments: &[&str]) -> anyhow::Result<()> {
        self.broker.control(arguments).await
    }

    /// The broker's TLS port and the directory of its certificates, where it has them.
    pub(crate) fn tls(&self) -> Option<(u16, PathBuf)> {
        self.broker.tls()
    }

    /// Whether connections can be closed from the broker's side.
    pub(crate) fn has_management(&self) -> bool {
        self.management.is_some()
    }

    /// The broker's management API, where it is in reach.
    pub(crate) fn management(&self) -> Option<&Management> {
        self.management.as_ref()
    }

    /// Closes the lobby's connections, but for its self-check's, through the broker's management: when, as it takes a
    /// moment until the broker lists a connection.
    pub(crate) async fn close_lobby_connections(&self) -> anyhow::Result<Instant> {
        let management = self.management.as_ref().context("the broker's management API is out of reach")?;
        let start = Instant::now();
        loop {
            let path = format!("/vhosts/{}/connections", percent_encode(self.vhost.name()));
            let listed = match management.get(&path).await {
                Ok(listed) => listed,
                // A broker that has just come back answers here a moment later.
                Err(_) if start.elapsed() < PATIENCE => {
                    sleep(POLL).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let listed = listed.as_array().context("the list of connections is no array")?;
            let others = listed.iter().filter(|connection| {
                let name = connection["user_provided_name"].as_str().unwrap_or_default();
                name != CONNECTION_NAME && !name.ends_with("self-check")
            });
            let (mut closed, begin) = (false, Instant::now());
            for name in others.filter_map(|connection| connection["name"].as_str()) {
                // One that is gone already is listed a moment longer.
                closed |= management.delete(&format!("/connections/{}", percent_encode(name))).await.is_ok();
            }
            if closed {
                return Ok(begin);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                Late("management never listed a connection of the lobby".to_owned())
            );
            sleep(POLL).await;
        }
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn exchange(&self) -> &str {
        &self.exchange
    }

    pub(crate) fn url(&self) -> &AmqpUrl {
        &self.url
    }

    /// A directory that goes with the stage.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Notes a measured fact for the table.
    pub(crate) fn fact(&self, text: impl Into<String>) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    pub(crate) fn facts(&self) -> Vec<String> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the claim could not be tested here; the report says so instead of `passed`.
    pub(crate) fn skip(&self, reason: impl Into<String>) {
        let _ = self.skipped.set(reason.into());
    }

    pub(crate) fn skipped(&self) -> Option<String> {
        self.skipped.get().cloned()
    }

    /// An error with the first line in which a lobby tells of a panic.
    pub(crate) fn no_panic(&self) -> anyhow::Result<()> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let panic =
            logs.iter().find_map(|(_, log)| log.lines().into_iter().find(|line| line.contains("panicked")));
        ensure!(panic.is_none(), "a lobby panicked: {}", panic.unwrap_or_default());
        Ok(())
    }

    /// The processes of all lobbies that were started, whether they live or not.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn last_log_lines(&self) -> Vec<String> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let tails = logs.iter().map(|(name, log)| (name, log.tail(LOG_LINES)));
        tails.flat_map(|(name, tail)| tail.into_iter().map(move |line| format!("{name}: {line}"))).collect()
    }

    /// The usual lobby, not started: every port free to choose, a login secret, a JSON log.
    pub(crate) fn setup(&self) -> Setup {
        self.bare_setup().set("LOBBY_BROKER__URL", self.vhost.amqp_url()).set("LOBBY_AUTH__SECRET", SECRET)
    }

    /// A lobby that knows neither a broker nor a login.
    pub(crate) fn bare_setup(&self) -> Setup {
        Setup::new(self.binary.clone(), self.directory.path().to_owned())
            .set("LOBBY_INSTANCE__NAME", &self.instance)
            .set("LOBBY_BROKER__EXCHANGE", &self.exchange)
            .set("LOBBY_LISTEN__TCP", "127.0.0.1:0")
            .set("LOBBY_LISTEN__WEBSOCKET", "127.0.0.1:0")
            .set("LOBBY_LISTEN__ADMIN", "127.0.0.1:0")
            .set("LOBBY_LOG__FORMAT", "json")
    }

    /// The usual lobby, ready.
    pub(crate) async fn lobby(&self) -> anyhow::Result<Lobby> {
        self.start(&self.setup()).await
    }

    /// Starts `setup` and waits until it is ready.
    pub(crate) async fn start(&self, setup: &Setup) -> anyhow::Result<Lobby> {
        let mut lobby = self.start_unready(setup).await?;
        lobby.ready().await?;
        Ok(lobby)
    }

    /// Starts `setup` and waits only until it listens.
    pub(crate) async fn start_unready(&self, setup: &Setup) -> anyhow::Result<Lobby> {
        let log = LogBook::default();
        let name = setup.value("LOBBY_INSTANCE__NAME").unwrap_or("lobby").to_owned();
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push((name, log.clone()));
        let lobby = setup.start(log).await.context("start a lobby")?;
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).push(lobby.pid());
        Ok(lobby)
    }

    /// A proxy in front of the broker, and the setup of a lobby behind it.
    pub(crate) async fn proxied(&self, open: bool) -> anyhow::Result<(Proxy, Setup)> {
        let proxy = Proxy::start(self.url.address(), open).await?;
        let setup = self.setup().set("LOBBY_BROKER__URL", self.url.at(proxy.address()));
        Ok((proxy, setup))
    }

    pub(crate) async fn notifier(&self) -> anyhow::Result<Notifier> {
        Notifier::open(&self.url, &self.exchange).await
    }

    /// A logged-in client.
    pub(crate) async fn client(
        &self,
        lobby: &Lobby,
        transport: Transport,
        user: i64,
    ) -> anyhow::Result<Client> {
        let mut client = self.stranger(lobby, transport).await?.named(format_args!("user {user}"));
        client.login(&token::valid(SECRET, user)?).await?;
        Ok(client)
    }

    /// A connection that has not logged in.
    pub(crate) async fn stranger(&self, lobby: &Lobby, transport: Transport) -> anyhow::Result<Client> {
        Client::connect(transport, lobby.address(transport)?).await
    }

    /// The name of this stage's lobby's queue.
    pub(crate) fn queue(&self) -> String {
        format!("{}.lobby.client.notify.{}", self.exchange, self.instance)
    }

    /// Waits until the queue exists and has `consumers`; its state then.
    ///
    /// Without consumers nothing is unacknowledged: the broker puts the messages back when it removes the consumer.
    pub(crate) async fn queue_with_consumers(
        &self,
        queue: &str,
        consumers: u32,
    ) -> anyhow::Result<QueueState> {
        let start = Instant::now();
        loop {
            // Asking for a queue that is not there ends the connection: each look has its own.
            let seen = match Connection::open(&self.url).await {
                Ok(connection) => connection.queue_state(queue).await,
                Err(error) => Err(error),
            };
            match seen {
                Ok(state) if state.consumers == consumers => return Ok(state),
                other => ensure!(
                    start.elapsed() < PATIENCE,
                    "queue `{queue}` never had {consumers} consumers: {other:?}"
                ),
            }
            sleep(POLL).await;
        }
    }

    /// Stops the lobby and checks that it left nothing in its queue, waiting or unacknowledged.
    pub(crate) async fn leaves_nothing(&self, mut lobby: Lobby) -> anyhow::Result<()> {
        lobby.stop().await?;
        self.is_empty(&self.queue()).await
    }

    /// Checks that nothing is in a queue that nobody consumes any more, waiting or unacknowledged.
    pub(crate) async fn is_empty(&self, queue: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let state = self.queue_with_consumers(queue, 0).await?;
            match state.messages {
                0 => return Ok(()),
                // It may be a canary that came too late for the lobby; that expires.
                1 if start.elapsed() < PATIENCE => sleep(POLL).await,
                left => bail!("{left} messages were left unacknowledged or waiting"),
            }
        }
    }
}
