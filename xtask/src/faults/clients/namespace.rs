//! A network namespace with one link to this machine, whose packets can be dropped without a word to either end.
//!
//! It goes with the process that holds it, and its link with it. Needs root and Linux's own tools.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::apt::{find, tail};

/// What it takes to make one.
const TOOLS: [&str; 4] = ["unshare", "nsenter", "ip", "iptables"];

/// Dropping it ends it.
#[derive(Debug)]
pub(super) struct Namespace {
    holder: Child,
    pid: u32,
    /// This machine's end of the link.
    pub(super) here: Ipv4Addr,
}

impl Namespace {
    /// Makes a namespace and a link to it.
    ///
    /// # Errors
    /// The machine does not allow it; the text says what.
    pub(super) async fn make() -> anyhow::Result<Self> {
        for tool in TOOLS {
            ensure!(find(tool).is_some(), "there is no `{tool}`");
        }
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "echo ready; exec sleep 3600"]).kill_on_drop(true);
        let mut holder = holder.stdout(Stdio::piped()).spawn().context("start `unshare`")?;
        let mut said = String::new();
        let out = holder.stdout.take().context("what `unshare` says")?;
        tokio::io::AsyncBufReadExt::read_line(&mut tokio::io::BufReader::new(out), &mut said).await?;
        ensure!(said.trim() == "ready", "a network namespace is not allowed");
        let pid = holder.id().context("the namespace's process")?;
        // From the block for benchmarks (RFC 2544), which no network here uses.
        let [third, fourth] = [fastrand::u8(..), fastrand::u8(..63) * 4];
        let ends = [1, 2].map(|end| Ipv4Addr::new(198, 18, third, fourth + end));
        let space = Self { holder, pid, here: ends[0] };
        let name = format!("lobby{pid}");
        run("ip", &["link", "add", &name, "type", "veth", "peer", "name", "far", "netns", &pid.to_string()])
            .await?;
        run("ip", &["addr", "add", &format!("{}/30", ends[0]), "dev", &name]).await?;
        run("ip", &["link", "set", &name, "up"]).await?;
        space.inside(&["ip", "addr", "add", &format!("{}/30", ends[1]), "dev", "far"]).await?;
        space.inside(&["ip", "link", "set", "far", "up"]).await?;
        Ok(space)
    }

    /// Connects from inside to `address`, which must be at [`Self::here`].
    pub(super) async fn connect(&self, address: SocketAddr) -> anyhow::Result<TcpStream> {
        let space = PathBuf::from(format!("/proc/{}/ns/net", self.pid));
        // A socket belongs to the namespace in which its thread was when it was made.
        let (answer, connected) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let connect = || {
                let space = std::fs::File::open(space).context("the namespace")?;
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("enter the namespace")?;
                std::net::TcpStream::connect(address).context("connect from the namespace")
            };
            let _ = answer.send(connect());
        });
        let stream = connected.await.context("the thread in the namespace")??;
        stream.set_nonblocking(true)?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// From now on no packet comes in or goes out.
    pub(super) async fn drop_packets(&self) -> anyhow::Result<()> {
        for chain in ["INPUT", "OUTPUT"] {
            self.inside(&["iptables", "-A", chain, "-j", "DROP"]).await?;
        }
        Ok(())
    }

    /// Ends it and waits until it is gone.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.holder.kill().await.context("end the namespace")
    }

    async fn inside(&self, command: &[&str]) -> anyhow::Result<()> {
        let pid = self.pid.to_string();
        run("nsenter", &[&["--net", "-t", &pid][..], command].concat()).await
    }
}

async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("run `{program}`"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "`{program} {}`: {}", arguments.join(" "), tail(&said, 3));
    Ok(())
}
