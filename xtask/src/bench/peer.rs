//! Other servers that push messages to many connections, with a minimal client for each, written by hand.
//!
//! A peer is found or installed, started with a directory of its own, and gets the same clients and messages as the
//! lobby. Everything that depends on its protocol is in its own file.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

mod mosquitto;
mod nats;

use super::body::{BODY_LEN, To};
use crate::{PATIENCE, apt, broker::ports};

/// Times that a peer is started, since its port may be taken before it listens.
const ATTEMPTS: u32 = 3;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Nats,
    Mosquitto,
}

impl Peer {
    /// The Debian package, which is also the program's name.
    pub(super) const fn package(self) -> &'static str {
        match self {
            Self::Nats => nats::PACKAGE,
            Self::Mosquitto => mosquitto::PACKAGE,
        }
    }

    /// Where the program is; installs its package where that is possible and needed.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) async fn find(self, progress: &mut (dyn FnMut(&str) + Send)) -> Result<PathBuf, String> {
        let package = self.package();
        if let Some(found) = apt::find(package) {
            return Ok(found);
        }
        apt::install(&[package], progress).await.map_err(|error| format!("{error:#}"))?;
        apt::find(package).ok_or_else(|| format!("the package {package} brought no program {package}"))
    }

    /// What the program says its version is.
    pub(super) async fn version(self, program: &Path) -> String {
        let arguments: &[&str] = match self {
            Self::Nats => &["--version"],
            // There is no option for it alone.
            Self::Mosquitto => &["-h"],
        };
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
        let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&said).lines().next().unwrap_or(self.package()).to_owned()
    }

    /// The file with which it serves at `port` of the loopback.
    fn configuration(self, port: u16) -> String {
        match self {
            Self::Nats => nats::configuration(port),
            Self::Mosquitto => mosquitto::configuration(port),
        }
    }

    /// What a subscriber sends first: everything at once, without waiting for answers.
    pub(super) fn subscribe(self, user: u32) -> Vec<u8> {
        match self {
            Self::Nats => nats::subscribe(user),
            Self::Mosquitto => mosquitto::subscribe(user),
        }
    }

    /// Whether `answer` is all that the server says to [`Peer::subscribe`].
    pub(super) fn subscribed(self, answer: &[u8]) -> anyhow::Result<bool> {
        match self {
            Self::Nats => nats::subscribed(answer),
            Self::Mosquitto => mosquitto::subscribed(answer),
        }
    }

    /// What a publisher sends first.
    pub(super) fn introduction(self) -> Vec<u8> {
        match self {
            Self::Nats => nats::introduction(),
            Self::Mosquitto => mosquitto::introduction(),
        }
    }

    /// One message.
    pub(super) fn publish(self, to: To, body: &[u8; BODY_LEN]) -> Vec<u8> {
        match self {
            Self::Nats => nats::publish(to, body),
            Self::Mosquitto => mosquitto::publish(to, body),
        }
    }

    /// Takes the first message off `bytes`; passes over what the server says besides. `None` while it is not whole.
    pub(super) fn take<'a>(self, bytes: &mut &'a [u8]) -> anyhow::Result<Option<&'a [u8]>> {
        match self {
            Self::Nats => nats::take(bytes),
            Self::Mosquitto => mosquitto::take(bytes),
        }
    }
}

/// A running peer, killed when this is dropped.
#[derive(Debug)]
pub(super) struct PeerProcess {
    _child: Child,
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
    /// Holds the configuration.
    _directory: tempfile::TempDir,
}

impl PeerProcess {
    /// Starts `program` and waits until it accepts connections.
    pub(super) async fn start(peer: Peer, program: &Path) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::attempt(peer, program).await {
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn attempt(peer: Peer, program: &Path) -> anyhow::Result<Self> {
        let [port] = ports::free().context("a free port on 127.0.0.1")?;
        let directory =
            tempfile::Builder::new().prefix("lobby-peer-").tempdir().context("make a directory")?;
        let file = directory.path().join("peer.conf");
        std::fs::write(&file, peer.configuration(port)).context("write the peer's configuration")?;
        let mut child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for xtask, which kills it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let pid = child.id().context("the peer's process id")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let begin = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait().context("look at the peer")? {
                bail!("{} exited with {status}", peer.package());
            }
            ensure!(begin.elapsed() < PATIENCE, "{} does not listen after {PATIENCE:?}", peer.package());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { _child: child, pid, address, _directory: directory })
    }
}
