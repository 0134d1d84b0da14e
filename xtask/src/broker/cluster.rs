//! Three private RabbitMQ nodes that form a cluster, each of which can be killed and started again.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::management::Management;
use super::native::{self, NativeNode, Ports};
use super::ports;

const FORMED_LIMIT: Duration = Duration::from_secs(60);

/// A started cluster. Dropped, all its nodes are killed and leave nothing.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<NativeNode>,
    names: Vec<String>,
}

impl Cluster {
    /// Why there can be none on this machine.
    pub(crate) fn impossible() -> Option<String> {
        let missing = !Path::new(native::SERVER).exists();
        missing.then(|| format!("a cluster needs native nodes, and {} is not installed", native::SERVER))
    }

    /// Starts three nodes and waits until each runs and knows the others. Tries new ports twice.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::attempt().await {
                Err(error) if attempt < native::ATTEMPTS && native::is_port_clash(&format!("{error:#}")) => {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt() -> anyhow::Result<Self> {
        let free: [u16; 13] = ports::free().context("free ports on 127.0.0.1")?;
        let (of_nodes, [epmd]) = free.as_chunks::<4>() else { anyhow::bail!("thirteen ports") };
        let ports: Vec<Ports> = of_nodes
            .iter()
            .map(|&[amqp, amqps, management, distribution]| Ports {
                amqp,
                amqps,
                management,
                distribution,
                epmd: *epmd,
            })
            .collect();
        let names: Vec<String> = ports.iter().map(|ports| ports.node_name()).collect();
        let cookie = fastrand::u128(..);
        let nodes: anyhow::Result<_> =
            ports.into_iter().map(|ports| NativeNode::prepare(ports, cookie, names.clone())).collect();
        let cluster = Self { nodes: nodes?, names };
        let [first, second, third] = cluster.nodes.as_slice() else { anyhow::bail!("three nodes") };
        tokio::try_join!(first.launch(), second.launch(), third.launch())?;
        cluster.formed().await?;
        Ok(cluster)
    }

    /// Waits until every node is running in the eyes of every other.
    pub(crate) async fn formed(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        for number in 0..self.nodes.len() {
            loop {
                let seen = self.running(number).await;
                match seen {
                    Ok(running) if running == self.nodes.len() => break,
                    other => anyhow::ensure!(
                        start.elapsed() < FORMED_LIMIT,
                        "node {number} does not see {} running nodes: {other:?}",
                        self.nodes.len()
                    ),
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    async fn running(&self, number: usize) -> anyhow::Result<usize> {
        let listed = self.management(number).get("/nodes").await?;
        let listed = listed.as_array().context("the list of nodes is no array")?;
        Ok(listed.iter().filter(|node| node["running"] == true).count())
    }

    /// Parts a node from the others, both ways, until it is started anew: it has another cookie for each of them. It runs
    /// on, and acts as `handling` says (`cluster_partition_handling`, RabbitMQ's clustering guide). When it was told to.
    pub(crate) async fn part(&self, number: usize, handling: &str) -> anyhow::Result<Instant> {
        for node in &self.nodes {
            let set = format!("application:set_env(rabbit, cluster_partition_handling, {handling}).");
            node.control(&["eval", &set]).await?;
        }
        let cut = "[begin erlang:set_cookie(N, parted), erlang:disconnect_node(N) end || N <- nodes()].";
        let told = Instant::now();
        self.nodes[number].control(&["eval", cut]).await?;
        Ok(told)
    }

    /// One of the three.
    pub(crate) fn node(&self, number: usize) -> &NativeNode {
        &self.nodes[number]
    }

    /// Its name in the cluster.
    pub(crate) fn name(&self, number: usize) -> &str {
        &self.names[number]
    }

    /// Its host and port.
    pub(crate) fn address(&self, number: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[number].amqp_port())
    }

    /// Its management API.
    pub(crate) fn management(&self, number: usize) -> Management {
        Management::new("127.0.0.1", self.nodes[number].management_port(), "guest", "guest")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All before the first is swept: their epmd does not end while it knows a node.
        self.nodes.iter().for_each(NativeNode::kill);
    }
}
