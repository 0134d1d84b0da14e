//! A Docker Engine: the machine's if it answers, or a private one for the time of a command.
//!
//! The private one comes from Debian's packages, has its own socket, and is stopped with its containerd.
//! testcontainers reads the engine's address from `DOCKER_HOST` once per process, so whoever uses a private
//! engine starts a child process with [`Engine::docker_host`] in its environment.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use testcontainers::bollard::query_parameters::RemoveContainerOptionsBuilder;
use testcontainers::bollard::{API_DEFAULT_VERSION, Docker};

use crate::apt;
use crate::broker::guard::{Guard, Ward};
use crate::process::{Identity, blocking};

/// A client of an engine.
pub(crate) type Client = Docker;

const PING_LIMIT: Duration = Duration::from_secs(2);
const REQUEST_LIMIT_SECONDS: u64 = 120;
const START_LIMIT: Duration = Duration::from_secs(60);
const BRIDGE: &str = "/sys/class/net/docker0";
const DATA: &str = "data";
/// Locked as long as a private engine runs.
const TURN: &str = "/run/lobby-xtask-docker.lock";
const TURN_LIMIT: Duration = Duration::from_secs(20 * 60);
/// A mark in the private engine's directory: the bridge was not there before.
const BRIDGE_IS_OURS: &str = "bridge-is-ours";
const STOP_GRACE: Duration = Duration::from_secs(30);

/// The engine's address: `DOCKER_HOST`, or the first socket that exists, in testcontainers' order.
pub(crate) fn docker_host() -> String {
    if let Ok(host) = std::env::var("DOCKER_HOST")
        && !host.is_empty()
    {
        return host;
    }
    let below =
        |variable: &str, path: &str| std::env::var_os(variable).map(|base| PathBuf::from(base).join(path));
    let sockets = [
        Some(PathBuf::from("/var/run/docker.sock")),
        below("XDG_RUNTIME_DIR", ".docker/run/docker.sock"),
        below("HOME", ".docker/run/docker.sock"),
        below("HOME", ".docker/desktop/docker.sock"),
    ];
    let found = sockets.into_iter().flatten().find(|socket| socket.exists());
    format!("unix://{}", found.unwrap_or_else(|| PathBuf::from("/var/run/docker.sock")).display())
}

/// A client of the engine, if it answers a ping within 2 s; a stale socket does not. Else the reason why not.
pub(crate) async fn connect() -> Result<Client, String> {
    connect_to(&docker_host()).await
}

async fn connect_to(host: &str) -> Result<Client, String> {
    let client = match host.split_once("://").map(|(scheme, _)| scheme) {
        Some("unix") => Docker::connect_with_unix(host, REQUEST_LIMIT_SECONDS, API_DEFAULT_VERSION),
        Some("tcp" | "http") => Docker::connect_with_http(host, REQUEST_LIMIT_SECONDS, API_DEFAULT_VERSION),
        _ => return Err(format!("DOCKER_HOST=`{host}` is neither unix://, tcp:// nor http://")),
    };
    let client = client.map_err(|error| format!("no engine at {host}: {error}"))?;
    match tokio::time::timeout(PING_LIMIT, client.ping()).await {
        Ok(Ok(_)) => Ok(client),
        Ok(Err(error)) => Err(format!("no engine answers at {host}: {error}")),
        Err(_) => Err(format!("the engine at {host} did not answer within {} s", PING_LIMIT.as_secs())),
    }
}

/// Removes a container with its volumes, running or not; one that is gone is no error.
pub(crate) async fn remove_container(docker_host: &str, name: &str) {
    if let Ok(client) = connect_to(docker_host).await {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let _ = client.remove_container(name, Some(options)).await;
    }
}

/// An engine that answers.
#[derive(Debug)]
pub(crate) struct Engine {
    docker_host: String,
    /// Dropping it stops it.
    _private: Option<PrivateEngine>,
}

impl Engine {
    /// The machine's engine, or a private one that lives as long as this value.
    ///
    /// Nothing is ever started as a service. Images of a private engine are kept under the target directory.
    ///
    /// # Errors
    /// No engine answers, and none can be started: not root, not Debian or Ubuntu, or the start failed.
    pub(crate) async fn ensure_running(progress: &mut (impl FnMut(&str) + Send)) -> anyhow::Result<Self> {
        let reason = match connect().await {
            Ok(_) => return Ok(Self { docker_host: docker_host(), _private: None }),
            Err(reason) => reason,
        };
        apt::usable().map_err(anyhow::Error::msg).with_context(|| {
            format!("{reason}; start Docker, as a private engine needs root on Debian or Ubuntu")
        })?;
        if dockerd().is_none() || !Path::new("/usr/sbin/iptables").exists() {
            apt::install(&["docker.io", "iptables", "docker-compose"], progress).await?;
        }
        progress("starting a private Docker Engine");
        let lock = wait_for_turn(progress).await?;
        let private = PrivateEngine::start(lock).await?;
        progress("the private Docker Engine is ready");
        Ok(Self { docker_host: private.docker_host(), _private: Some(private) })
    }

    /// The address, for `DOCKER_HOST` of a child process.
    pub(crate) fn docker_host(&self) -> &str {
        &self.docker_host
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        connect_to(&self.docker_host).await.map_err(anyhow::Error::msg)
    }

    /// Stops a private engine; dropping does the same.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        tokio::task::spawn_blocking(|| drop(self)).await.context("stop the private Docker Engine")
    }
}

#[derive(Debug)]
struct PrivateEngine {
    directory: PathBuf,
    child: Child,
    identity: Identity,
    guard: Option<Guard>,
}

impl PrivateEngine {
    async fn start(lock: File) -> anyhow::Result<Self> {
        let program = dockerd().context("the package docker.io brought no dockerd")?;
        // The path of a socket is short by law, so it cannot lie under the target directory.
        let directory = tempfile::Builder::new().prefix("lobby-docker-").tempdir()?.keep();
        symlink(kept_images()?, directory.join(DATA)).context("link to the kept images")?;
        if !Path::new(BRIDGE).exists() {
            File::create(directory.join(BRIDGE_IS_OURS))?;
        }
        let log = File::create(directory.join("dockerd.log"))?;
        let mut command = Command::new(program);
        command
            .arg("--data-root")
            .arg(directory.join(DATA))
            .arg("--exec-root")
            .arg(directory.join("exec"))
            .arg("--pidfile")
            .arg(directory.join("dockerd.pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket(&directory).display()))
            .args(["--log-level", "warn", "--group", "root"])
            .env_remove("DOCKER_HOST")
            .env_remove("NOTIFY_SOCKET")
            // Nothing is read from it: it keeps the turn as long as dockerd lives, also when xtask is dead.
            .stdin(lock)
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().context("start dockerd")?;
        let identity = Identity::of(child.id());
        let mut engine = Self { directory, child, identity, guard: None };
        let ward = Ward::Engine { engine: identity, directory: engine.directory.clone() };
        engine.guard = Some(Guard::over(&ward)?);
        engine.ready().await?;
        Ok(engine)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("wait for dockerd")? {
                bail!("dockerd ended while starting ({status}); it said last:\n{}", self.said());
            }
            match connect_to(&self.docker_host()).await {
                Ok(_) => return Ok(()),
                Err(reason) if begin.elapsed() > START_LIMIT => {
                    bail!("{reason}; dockerd said last:\n{}", self.said())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn docker_host(&self) -> String {
        format!("unix://{}", socket(&self.directory).display())
    }

    fn said(&self) -> String {
        apt::tail(&fs::read_to_string(self.directory.join("dockerd.log")).unwrap_or_default(), 10)
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        blocking(|| {
            sweep(self.identity, &self.directory);
            let _ = self.child.wait();
            if let Some(guard) = self.guard.take() {
                guard.disarm();
            }
        });
    }
}

/// Stops a private engine, its containerd and their containers, and removes its directory. Blocks.
pub(crate) fn sweep(engine: Identity, directory: &Path) {
    // Stopped in order, dockerd ends its containers and its containerd itself.
    engine.end(STOP_GRACE);
    let containerd = fs::read_to_string(directory.join("exec/containerd/containerd.pid"));
    if let Some(pid) = containerd.ok().and_then(|pid| pid.trim().parse().ok()) {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == "containerd" {
            Identity::of(pid).end(Duration::from_secs(5));
        }
    }
    for mount in mounts_below(directory) {
        let _ = Command::new("umount").arg(mount).stderr(Stdio::null()).status();
    }
    // dockerd leaves its bridge behind. Its empty iptables chains stay: the next engine takes them over.
    if directory.join(BRIDGE_IS_OURS).exists() {
        let _ = Command::new("ip").args(["link", "delete", "docker0"]).stderr(Stdio::null()).status();
    }
    let _ = fs::remove_dir_all(directory);
}

/// What an engine may have left mounted, the innermost first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let data = fs::canonicalize(directory.join(DATA)).unwrap_or_else(|_| directory.join(DATA));
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    let points = points.map(|point| PathBuf::from(point.replace("\\040", " ")));
    let mut found: Vec<_> =
        points.filter(|point| point.starts_with(directory) || point.starts_with(&data)).collect();
    found.reverse();
    found
}

/// Private engines would meet in the bridge, the packet filter and the kept images: one at a time.
async fn wait_for_turn(progress: &mut (dyn FnMut(&str) + Send)) -> anyhow::Result<File> {
    let lock = File::create(TURN).with_context(|| format!("open {TURN}"))?;
    let begin = Instant::now();
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {TURN}")),
            Err(TryLockError::WouldBlock) if begin.elapsed() > TURN_LIMIT => {
                bail!(
                    "another run's private Docker Engine held {TURN} for {} minutes",
                    TURN_LIMIT.as_secs() / 60
                );
            }
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    progress("waiting for the private Docker Engine of another run to end");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("docker.sock")
}

fn dockerd() -> Option<PathBuf> {
    ["/usr/sbin/dockerd", "/usr/bin/dockerd"].map(PathBuf::from).into_iter().find(|path| path.exists())
}

/// The data root that outlives the engine, so that an image is built once.
fn kept_images() -> anyhow::Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let data = target.join("private-docker");
    fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
    fs::canonicalize(&data).context("path of the kept images")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_and_a_mute_engine_are_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let host = format!("unix://{}", socket(directory.path()).display());
        assert!(connect_to(&host).await.unwrap_err().contains("no engine"), "absent");
        let listener = UnixListener::bind(socket(directory.path())).unwrap();
        assert!(connect_to(&host).await.unwrap_err().contains("within 2 s"), "mute");
        drop(listener);
        assert!(connect_to(&host).await.unwrap_err().contains("no engine answers"), "stale");
    }

    #[tokio::test]
    async fn an_address_that_is_no_engine_is_named() {
        assert!(connect_to("ssh://somewhere").await.unwrap_err().contains("ssh://somewhere"));
    }
}
