//! RabbitMQ in a container, through testcontainers.
//!
//! The ports on the host are chosen once, so that they stay the same across a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use testcontainers::bollard::models::PortBinding;
use testcontainers::core::IntoContainerPort as _;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};

use super::guard::{Guard, Ward};
use super::{ports, readiness};
use crate::apt::tail;
use crate::docker::engine::{self, Client};
use crate::docker::image::{LOCAL_NAME, LOCAL_TAG, has_image};

const OFFICIAL_IMAGE: &str = "rabbitmq:3-management";
const READY_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT_SECONDS: i32 = 60;
const ATTEMPTS: u32 = 3;

/// The image to run, if an engine answers and has it, or may pull it; else the reason why not.
pub(crate) async fn image(pull: bool) -> Result<String, String> {
    let client = engine::connect().await?;
    let local = format!("{LOCAL_NAME}:{LOCAL_TAG}");
    for image in [local.as_str(), OFFICIAL_IMAGE] {
        if has_image(&client, image).await {
            return Ok(image.to_owned());
        }
    }
    if pull {
        return Ok(OFFICIAL_IMAGE.to_owned());
    }
    Err(format!(
        "the engine answers, but has neither {local} nor {OFFICIAL_IMAGE}, and pulling was not allowed"
    ))
}

/// A started container.
#[derive(Debug)]
pub(crate) struct ContainerNode {
    client: Client,
    name: String,
    host: String,
    amqp_port: u16,
    management_port: u16,
    // Before the guard: the container is removed while the guard still watches.
    container: ContainerAsync<GenericImage>,
    guard: Guard,
}

impl ContainerNode {
    /// Runs `image`, pulling it if it is absent, and waits until it answers AMQP; returns it with the broker's version.
    pub(crate) async fn start(
        image: &str,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> anyhow::Result<(Self, String)> {
        let client = engine::connect().await.map_err(anyhow::Error::msg)?;
        let (name, tag) = image.split_once(':').with_context(|| format!("image `{image}` has no tag"))?;
        if !has_image(&client, image).await {
            progress("pulling the image, which may take minutes");
            let pulled = GenericImage::new(name, tag).pull_image().await;
            pulled.map(drop).with_context(|| format!("pull {image}"))?;
        }
        let mut attempt = 1;
        loop {
            progress("starting a container");
            match Self::attempt(&client, name, tag).await {
                Ok(started) => return Ok(started),
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("already") => {
                    progress("the container lost a port to another process; trying new ports");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(client: &Client, image: &str, tag: &str) -> anyhow::Result<(Self, String)> {
        let [amqp_port, management_port] = ports::free().context("free ports on 127.0.0.1")?;
        let name = format!("lobby-broker-{:08x}", fastrand::u32(..));
        let docker_host = engine::docker_host();
        let guard = Guard::over(&Ward::Container { name: name.clone(), docker_host: docker_host.clone() })?;
        // Guest may log in: not from other machines. Elsewhere than on this machine, 127.0.0.1 is not ours.
        let on_this_machine = docker_host.starts_with("unix:") && !Path::new("/.dockerenv").exists();
        let request = GenericImage::new(image, tag)
            .with_exposed_port(5672.tcp())
            .with_exposed_port(15672.tcp())
            .with_mapped_port(amqp_port, 5672.tcp())
            .with_mapped_port(management_port, 15672.tcp())
            .with_container_name(&name)
            .with_startup_timeout(READY_LIMIT)
            .with_host_config_modifier(move |config| {
                let bindings = config.port_bindings.iter_mut().flat_map(|ports| ports.values_mut()).flatten();
                for binding in bindings.flatten().filter(|_| on_this_machine) {
                    *binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), ..binding.clone() };
                }
            });
        let container = match request.start().await {
            Ok(container) => container,
            Err(error) => {
                // Created, but not started: testcontainers gives it up without removing it.
                engine::remove_container(&docker_host, &name).await;
                guard.disarm();
                return Err(anyhow::Error::new(error).context(format!("start a container of {image}:{tag}")));
            }
        };
        let (client, host) = (client.clone(), String::new());
        let mut node = Self { client, name, host, amqp_port, management_port, container, guard };
        let (host, version) = node.ready().await?;
        node.host = host;
        Ok((node, version))
    }

    /// The host where the ports are.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port of AMQP on the host.
    pub(crate) fn amqp_port(&self) -> u16 {
        self.amqp_port
    }

    /// The port of the management API on the host.
    pub(crate) fn management_port(&self) -> u16 {
        self.management_port
    }

    /// Stops the container; its data stay.
    pub(crate) async fn shut_down(&self) -> anyhow::Result<()> {
        let stopped = self.container.stop_with_timeout(Some(STOP_LIMIT_SECONDS)).await;
        stopped.with_context(|| format!("stop container {}", self.name))
    }

    /// Kills the container; its data stay.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let killed = self.client.kill_container(&self.name, None).await;
        killed.with_context(|| format!("kill container {}", self.name))
    }

    /// Starts the container again and waits until it answers AMQP.
    pub(crate) async fn start_again(&self) -> anyhow::Result<()> {
        self.container.start().await.with_context(|| format!("start container {}", self.name))?;
        self.ready().await.map(drop)
    }

    /// Freezes the container.
    pub(crate) async fn pause(&self) -> anyhow::Result<()> {
        self.container.pause().await.with_context(|| format!("pause container {}", self.name))
    }

    /// Ends [`ContainerNode::pause`].
    pub(crate) async fn resume(&self) -> anyhow::Result<()> {
        self.container.unpause().await.with_context(|| format!("resume container {}", self.name))
    }

    /// Removes the container with its data.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let name = self.name;
        self.container.rm().await.with_context(|| format!("remove container {name}"))?;
        self.guard.disarm();
        Ok(())
    }

    /// Waits for AMQP; returns the host where it is, and the broker's version.
    async fn ready(&self) -> anyhow::Result<(String, String)> {
        // Inside a container the engine may be a neighbour, and then its ports are on the gateway.
        let gateway = self.container.get_host().await.context("host of the container")?.to_string();
        let begin = Instant::now();
        loop {
            for host in ["127.0.0.1", gateway.as_str()] {
                let answer = readiness::connection_start(host, self.amqp_port, Duration::from_secs(2)).await;
                if let Ok(version) = answer {
                    return Ok((host.to_owned(), version));
                }
            }
            if !self.container.is_running().await.context("state of the container")? {
                bail!("the container ended while starting; it said last:\n{}", self.said().await);
            }
            if begin.elapsed() > READY_LIMIT {
                let limit = READY_LIMIT.as_secs();
                bail!("AMQP is not ready within {limit} s; the container said last:\n{}", self.said().await);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn said(&self) -> String {
        let out = self.container.stdout_to_vec().await.unwrap_or_default();
        let err = self.container.stderr_to_vec().await.unwrap_or_default();
        tail(&String::from_utf8_lossy(&[out, err].concat()), 15)
    }
}
