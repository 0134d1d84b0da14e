//! A RabbitMQ for one run, found or made without a person's help.
//!
//! In this order: the broker at `AMQP_URL`, which is used or fails; a container; a private node of the
//! installed package; the same after installing it with apt. `LOBBY_TEST_BROKER=native|docker|url` allows one
//! way only. A broker that merely listens on 5672 is left alone. What was started stops on drop, on errors and
//! panics too; a [`guard`] stops it when xtask is killed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

mod address;
mod certificates;
mod choice;
mod cluster;
mod container;
pub(crate) mod guard;
mod management;
mod native;
pub(crate) mod ports;
mod readiness;
#[cfg(all(test, feature = "broker-tests"))]
mod tests;
mod vhost;

pub(crate) use self::cluster::Cluster;
pub(crate) use self::management::Management;
pub(crate) use self::vhost::Vhost;

use self::address::Address;
use self::choice::{Facts, NoBroker, Tried, Way};
use self::container::ContainerNode;
use self::native::NativeNode;
use crate::apt;

const MANAGEMENT_PORT: u16 = 15672;
const URL_LIMIT: Duration = Duration::from_secs(5);
const MANAGEMENT_LIMIT: Duration = Duration::from_secs(20);

/// What may be used.
#[derive(Debug, Clone, Default)]
pub(crate) struct BrokerOptions {
    /// A broker of the caller's.
    amqp_url: Option<String>,
    /// The only way allowed.
    forced: Option<Way>,
    /// Whether Docker may pull RabbitMQ's official image.
    pull: bool,
}

impl BrokerOptions {
    /// Reads `AMQP_URL` and `LOBBY_TEST_BROKER`; an empty value counts as unset.
    pub(crate) fn from_env(pull: bool) -> anyhow::Result<Self> {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let forced = read("LOBBY_TEST_BROKER").map(|text| Way::forced(&text)).transpose();
        Ok(Self { amqp_url: read("AMQP_URL"), forced: forced.map_err(anyhow::Error::msg)?, pull })
    }

    /// Looks at the machine; nothing behind a usable `AMQP_URL` is looked at.
    async fn facts(&self) -> Facts {
        let unasked = || "not looked at".to_owned();
        let mut facts = Facts {
            amqp_url: self.amqp_url.clone(),
            docker: Err(unasked()),
            native: Err(unasked()),
            apt: Err(unasked()),
        };
        let wanted = |way| match self.forced {
            Some(forced) => forced == way,
            None => self.amqp_url.is_none(),
        };
        if wanted(Way::Docker) {
            facts.docker = container::image(self.pull).await;
        }
        if wanted(Way::Native) {
            let installed = Path::new(native::SERVER).exists();
            facts.native =
                if installed { Ok(()) } else { Err(format!("{} is not installed", native::SERVER)) };
            facts.apt = apt::usable();
        }
        facts
    }
}

/// A broker that runs as long as this value lives, or the caller's own.
#[derive(Debug)]
pub(crate) struct Broker {
    node: Node,
    how: String,
    address: Address,
    management: Option<Management>,
}

#[derive(Debug)]
enum Node {
    Foreign,
    Container(Box<ContainerNode>),
    Native(NativeNode),
}

impl Broker {
    /// Finds or makes a broker that answers AMQP. Each step is told to `progress` in constant text.
    ///
    /// # Errors
    /// [`NoBroker`]: every way failed; the text lists each with its reason, and what to do.
    pub(crate) async fn start(
        options: &BrokerOptions,
        progress: &mut (impl FnMut(&str) + Send),
    ) -> anyhow::Result<Self> {
        let facts = options.facts().await;
        let plan = choice::plan(options.forced, &facts);
        let mut tried = plan.closed;
        for way in plan.open {
            match Self::by(way, &facts, progress).await {
                Ok(broker) => {
                    progress(&format!("broker ready: {}", broker.how));
                    return Ok(broker);
                }
                Err(error) => {
                    progress("this way to a broker failed");
                    tried.push(Tried { way, reason: format!("{error:#}") });
                }
            }
        }
        Err(NoBroker { forced: options.forced, tried }.into())
    }

    async fn by(way: Way, facts: &Facts, progress: &mut (dyn FnMut(&str) + Send)) -> anyhow::Result<Self> {
        match way {
            Way::Url => {
                progress("using the broker at AMQP_URL");
                Self::at_url(facts.amqp_url.as_deref().unwrap_or_default()).await
            }
            Way::Docker => {
                let image = facts.docker.as_deref().unwrap_or_default();
                let (container, version) = ContainerNode::start(image, progress).await?;
                let how = format!("docker container of {image}, RabbitMQ {version}");
                let (host, port) = (container.host().to_owned(), container.amqp_port());
                let management_port = container.management_port();
                Self::started(Node::Container(Box::new(container)), how, &host, port, management_port).await
            }
            Way::Native => Self::native(progress).await,
            Way::Apt => {
                apt::install(&["rabbitmq-server"], progress).await?;
                Self::native(progress).await
            }
        }
    }

    async fn native(progress: &mut (dyn FnMut(&str) + Send)) -> anyhow::Result<Self> {
        Self::configured("", progress).await
    }

    /// A private node of the installed package with this `advanced.config`, if it is not empty.
    pub(crate) async fn configured(
        advanced: &str,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> anyhow::Result<Self> {
        let (node, version) = NativeNode::start(advanced, progress).await?;
        let how = format!("private native node, RabbitMQ {version}");
        let (port, management_port) = (node.amqp_port(), node.management_port());
        Self::started(Node::Native(node), how, "127.0.0.1", port, management_port).await
    }

    async fn started(
        node: Node,
        how: String,
        host: &str,
        port: u16,
        management_port: u16,
    ) -> anyhow::Result<Self> {
        let management = Management::new(host, management_port, "guest", "guest");
        let broker = Self { node, how, address: Address::guest(host, port)?, management: Some(management) };
        broker.management_ready().await?;
        Ok(broker)
    }

    async fn at_url(url: &str) -> anyhow::Result<Self> {
        let address = Address::parse(url).with_context(|| format!("AMQP_URL=`{url}`"))?;
        let (host, port) = (address.host(), address.port());
        let how = if address.is_tls() {
            // No TLS here: whether it is a broker shows when the lobby connects.
            let connect = tokio::net::TcpStream::connect((host, port));
            let connected = tokio::time::timeout(URL_LIMIT, connect).await;
            connected
                .context("no answer within 5 s")?
                .with_context(|| format!("connect to {host}:{port}"))?;
            "AMQP_URL".to_owned()
        } else {
            format!("AMQP_URL, RabbitMQ {}", readiness::connection_start(host, port, URL_LIMIT).await?)
        };
        let management = Management::new(host, MANAGEMENT_PORT, &address.user(), &address.password());
        let reached = !address.is_tls() && management.get("/whoami").await.is_ok();
        Ok(Self { node: Node::Foreign, how, address, management: reached.then_some(management) })
    }

    /// Which way it came, for people: "private native node, RabbitMQ 3.10.8".
    pub(crate) fn how(&self) -> &str {
        &self.how
    }

    /// The URL with vhost `/` (or what `AMQP_URL` says).
    pub(crate) fn amqp_url(&self) -> String {
        self.address.url()
    }

    /// The management API. `None` where `AMQP_URL`'s host does not offer it to this user on port 15672.
    pub(crate) fn management(&self) -> Option<&Management> {
        self.management.as_ref()
    }

    /// The port of AMQP over TLS on localhost, and the directory of the certificates for it (see
    /// [`certificates`]). Only a native node has one.
    pub(crate) fn tls(&self) -> Option<(u16, std::path::PathBuf)> {
        match &self.node {
            Node::Native(node) => Some(node.tls()),
            Node::Container(_) | Node::Foreign => None,
        }
    }

    /// Whether it was started here and may be stopped, paused and killed.
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self.node, Node::Foreign)
    }

    /// A fresh vhost; its name begins with `hint`.
    ///
    /// Where `AMQP_URL`'s user may not make one (no management API on port 15672, or no right to), this is
    /// the vhost of the URL, [shared](Vhost::is_shared) with everyone: choose unique names of exchanges and instances.
    pub(crate) async fn vhost(&self, hint: &str) -> anyhow::Result<Vhost> {
        let Some(management) = &self.management else { return Ok(Vhost::shared(&self.address)) };
        match Vhost::fresh(&self.address, management, hint).await {
            Err(_) if !self.is_ours() => Ok(Vhost::shared(&self.address)),
            outcome => outcome,
        }
    }

    /// Stops the node as an operator would.
    pub(crate) async fn shut_down(&self) -> anyhow::Result<()> {
        match &self.node {
            Node::Native(node) => node.shut_down().await,
            Node::Container(container) => container.shut_down().await,
            Node::Foreign => not_ours("stop"),
        }
    }

    /// Kills the node; its data stay.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        match &self.node {
            Node::Native(node) => {
                node.kill();
                Ok(())
            }
            Node::Container(container) => container.kill().await,
            Node::Foreign => not_ours("kill"),
        }
    }

    /// Starts a node that was shut down or killed, on the same ports and data, and waits until it is ready.
    pub(crate) async fn start_again(&self) -> anyhow::Result<()> {
        match &self.node {
            Node::Native(node) => drop(node.launch().await?),
            Node::Container(container) => container.start_again().await?,
            Node::Foreign => not_ours("start")?,
        }
        self.management_ready().await
    }

    /// Makes the node hang: connections stay open, nothing answers.
    pub(crate) async fn pause(&self) -> anyhow::Result<()> {
        match &self.node {
            Node::Native(node) => node.signal(Signal::STOP),
            Node::Container(container) => container.pause().await,
            Node::Foreign => not_ours("pause"),
        }
    }

    /// Runs `rabbitmqctl` for the node; only a native node has one.
    pub(crate) async fn control(&self, arguments: &[&str]) -> anyhow::Result<()> {
        match &self.node {
            Node::Native(node) => node.control(arguments).await,
            Node::Container(_) => {
                bail!("rabbitmqctl runs for native nodes only; LOBBY_TEST_BROKER=native makes one")
            }
            Node::Foreign => not_ours("control"),
        }
    }

    /// Ends [`Broker::pause`].
    pub(crate) async fn resume(&self) -> anyhow::Result<()> {
        match &self.node {
            Node::Native(node) => node.signal(Signal::CONT),
            Node::Container(container) => container.resume().await,
            Node::Foreign => not_ours("resume"),
        }
    }

    /// Ends what was started, with its data, and says if that failed; dropping does the same in silence.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self.node {
            Node::Container(container) => container.remove().await,
            Node::Native(_) | Node::Foreign => Ok(()),
        }
    }

    async fn management_ready(&self) -> anyhow::Result<()> {
        let Some(management) = &self.management else { return Ok(()) };
        let begin = Instant::now();
        loop {
            match management.get("/overview").await {
                Ok(_) => return Ok(()),
                Err(error) if begin.elapsed() > MANAGEMENT_LIMIT => {
                    return Err(error.context("AMQP answers, the management API does not"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

fn not_ours(what: &str) -> anyhow::Result<()> {
    bail!("the broker at AMQP_URL is not ours to {what}; unset AMQP_URL to have one made for this run")
}
