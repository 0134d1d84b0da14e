//! A private RabbitMQ node of the installed package: own ports, own directory, own epmd.
//!
//! It never touches the machine's own broker. Dropped, it is killed and leaves nothing: no epmd, no directory.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;

use super::certificates::Certificates;
use super::guard::{Guard, Ward};
use super::{ports, readiness};
use crate::apt::tail;
use crate::process::{Identity, blocking};

/// The server script itself; the wrapper on the `PATH` switches user.
pub(crate) const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Beside the server, for the same reason.
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// It starts a virtual machine of its own.
const CONTROL_LIMIT: Duration = Duration::from_secs(180);

const READY_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(60);
pub(super) const ATTEMPTS: u32 = 3;

/// A started node.
#[derive(Debug)]
pub(crate) struct NativeNode {
    directory: PathBuf,
    ports: Ports,
    /// The names of all nodes of its cluster; none where it stands alone.
    peers: Vec<String>,
    process: Mutex<Option<Process>>,
}

/// The node's process while it is started, also when it has ended by itself.
#[derive(Debug)]
struct Process {
    child: Child,
    guard: Guard,
}

/// The ports of one node. Nodes of a cluster share the epmd.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) amqps: u16,
    pub(super) management: u16,
    pub(super) distribution: u16,
    pub(super) epmd: u16,
}

impl Ports {
    /// The name of the node that has them.
    pub(super) fn node_name(self) -> String {
        format!("t{}@localhost", self.amqp)
    }
}

impl NativeNode {
    /// Starts a node and waits until it answers AMQP; returns it with its version. Tries new ports twice.
    pub(crate) async fn start(
        advanced: &str,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> anyhow::Result<(Self, String)> {
        let mut attempt = 1;
        loop {
            progress("starting a private native node");
            match Self::attempt(advanced).await {
                Ok(started) => return Ok(started),
                Err(error) if attempt < ATTEMPTS && is_port_clash(&format!("{error:#}")) => {
                    progress("the node lost a port to another process; trying new ports");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(advanced: &str) -> anyhow::Result<(Self, String)> {
        let [amqp, amqps, management, distribution, epmd] =
            ports::free().context("free ports on 127.0.0.1")?;
        let ports = Ports { amqp, amqps, management, distribution, epmd };
        let node = Self::prepare(ports, fastrand::u128(..), Vec::new())?;
        if !advanced.is_empty() {
            fs::write(node.directory.join("advanced.config"), advanced).context("write advanced.config")?;
        }
        let version = node.launch().await?;
        Ok((node, version))
    }

    /// Makes the files of a node, which is not started. Nodes of a cluster have one cookie, and know all its names.
    pub(super) fn prepare(ports: Ports, cookie: u128, peers: Vec<String>) -> anyhow::Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("lobby-broker-").tempdir().context("directory of the node")?;
        // From here on the node's own drop removes it, after the node is dead.
        let node = Self { directory: directory.keep(), ports, peers, process: Mutex::default() };
        let files = node.write_files(cookie);
        files.with_context(|| format!("files of the node in {}", node.directory.display()))?;
        Ok(node)
    }

    /// The port of AMQP on 127.0.0.1.
    pub(crate) fn amqp_port(&self) -> u16 {
        self.ports.amqp
    }

    /// The port of AMQP over TLS on localhost, and the directory with its [`Certificates`].
    pub(crate) fn tls(&self) -> (u16, PathBuf) {
        (self.ports.amqps, self.directory.join("tls"))
    }

    /// The port of the management API on 127.0.0.1.
    pub(crate) fn management_port(&self) -> u16 {
        self.ports.management
    }

    /// Starts the node, on the same ports and data as before, and waits until it answers AMQP.
    pub(crate) async fn launch(&self) -> anyhow::Result<String> {
        self.spawn()?;
        self.ready().await
    }

    /// Stops the node as an operator would, then kills it if it is not gone within 60 s.
    pub(crate) async fn shut_down(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)?;
        self.signal(Signal::TERM)?;
        let begin = Instant::now();
        while self.exit_status()?.is_none() && begin.elapsed() < STOP_LIMIT {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.kill();
        Ok(())
    }

    /// Kills the node; its data stay.
    pub(crate) fn kill(&self) {
        let Some(Process { mut child, guard }) = self.process().take() else { return };
        blocking(|| {
            end(&mut child);
            guard.disarm();
        });
    }

    /// Runs `rabbitmqctl` with these arguments.
    pub(crate) async fn control(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::from(self.bare(CONTROL));
        command.args(["--quiet", "--node", &self.ports.node_name()]).args(arguments);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ran = tokio::time::timeout(CONTROL_LIMIT, command.output()).await;
        let output =
            ran.with_context(|| format!("{CONTROL} {arguments:?} did not end in {CONTROL_LIMIT:?}"))?;
        let output = output.with_context(|| format!("run {CONTROL}"))?;
        let said = || {
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
        };
        ensure!(output.status.success(), "{CONTROL} {arguments:?}: {}: {}", output.status, said());
        Ok(())
    }

    /// Sends a signal to the node: SIGSTOP and SIGCONT make it hang and go on.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let process = self.process();
        let Some(Process { child, .. }) = process.as_ref() else { bail!("the node is not started") };
        Identity::of(child.id()).signal(signal);
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<()> {
        let mut process = self.process();
        ensure!(process.is_none(), "the node is started already");
        let mut child = self.command()?.spawn().with_context(|| format!("start {SERVER}"))?;
        let ward = Ward::Node {
            node: Identity::of(child.id()),
            epmd_port: self.ports.epmd,
            directory: self.directory.clone(),
        };
        match Guard::over(&ward) {
            Ok(guard) => *process = Some(Process { child, guard }),
            Err(error) => {
                end(&mut child);
                return Err(error);
            }
        }
        Ok(())
    }

    fn exit_status(&self) -> anyhow::Result<Option<ExitStatus>> {
        match self.process().as_mut() {
            Some(Process { child, .. }) => child.try_wait().context("wait for the node"),
            None => bail!("the node is not started"),
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must be gone after the node: its directory, and the port of its epmd.
    #[cfg(all(test, feature = "broker-tests"))]
    pub(super) fn traces(&self) -> (PathBuf, u16) {
        (self.directory.clone(), self.ports.epmd)
    }

    async fn ready(&self) -> anyhow::Result<String> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                bail!("the node ended while starting ({status}); it said last:\n{}", self.said());
            }
            match readiness::connection_start("127.0.0.1", self.ports.amqp, Duration::from_secs(2)).await {
                Ok(version) => return Ok(version),
                Err(error) if begin.elapsed() > READY_LIMIT => {
                    let limit = READY_LIMIT.as_secs();
                    return Err(error.context(format!(
                        "not ready within {limit} s; the node said last:\n{}",
                        self.said()
                    )));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn said(&self) -> String {
        tail(&fs::read_to_string(self.directory.join("console.log")).unwrap_or_default(), 15)
    }

    fn write_files(&self, cookie_text: u128) -> anyhow::Result<()> {
        let Ports { amqp, amqps, management, .. } = self.ports;
        for name in ["home", "mnesia", "log", "conf.d", "tls"] {
            fs::create_dir(self.directory.join(name))?;
        }
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        let cookie = self.directory.join("home/.erlang.cookie");
        let mut cookie = File::options().write(true).create_new(true).mode(0o400).open(cookie)?;
        write!(cookie, "{cookie_text:032x}")?;
        let plugins = "[rabbitmq_management,rabbitmq_auth_mechanism_ssl].\n";
        fs::write(self.directory.join("enabled_plugins"), plugins)?;
        let tls = self.directory.join("tls");
        Certificates::make()?.write(&tls)?;
        let tls = tls.display();
        // Listed connections and queues are at most a second old, which tests wait for.
        let mut config = format!(
            "listeners.tcp.local = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\n\
             listeners.ssl.local = 127.0.0.1:{amqps}\nssl_options.cacertfile = {tls}/ca.pem\n\
             ssl_options.certfile = {tls}/broker.pem\nssl_options.keyfile = {tls}/broker.key\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n\
             auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n\
             ssl_cert_login_from = common_name\n\
             management.tcp.port = {management}\ncollect_statistics_interval = 1000\n\
             management.sample_retention_policies.global.minute = 1\n\
             management.sample_retention_policies.basic.minute = 1\n\
             management.sample_retention_policies.detailed.minute = 1\n\
             log.console = true\nlog.file = false\n"
        );
        if !self.peers.is_empty() {
            config += "cluster_formation.peer_discovery_backend = classic_config\n\
                       cluster_partition_handling = pause_minority\n";
            for (number, name) in self.peers.iter().enumerate() {
                let _ = writeln!(config, "cluster_formation.classic_config.nodes.{} = {name}", number + 1);
            }
        }
        fs::write(self.directory.join("rabbitmq.conf"), config)?;
        Ok(())
    }

    fn erlang_arguments(&self) -> String {
        let local = "-kernel inet_dist_use_interface {127,0,0,1}";
        // Nodes of a cluster miss a silent one after five seconds instead of a minute.
        if self.peers.is_empty() { local.to_owned() } else { format!("{local} -kernel net_ticktime 5") }
    }

    /// A program of the package that belongs to this node and to no other of the machine's.
    fn bare(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("RABBITMQ_") || name.starts_with("ERL_")) {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.directory.join("home"))
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command
    }

    fn command(&self) -> anyhow::Result<Command> {
        let Ports { distribution, .. } = self.ports;
        let directory = |name: &str| self.directory.join(name);
        let console = File::options().append(true).create(true).open(directory("console.log"))?;
        let mut command = self.bare(SERVER);
        command
            .env("RABBITMQ_NODENAME", self.ports.node_name())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", directory("mnesia"))
            .env("RABBITMQ_LOG_BASE", directory("log"))
            .env("RABBITMQ_PID_FILE", directory("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory("enabled_plugins"))
            .env("RABBITMQ_CONFIG_FILE", directory("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", directory("conf.d"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", directory("advanced.config"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", self.erlang_arguments())
            .env("ERL_CRASH_DUMP_SECONDS", "0")
            // Makes the script exec the VM, so that the child is the node itself.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env_remove("NOTIFY_SOCKET")
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .process_group(0);
        Ok(command)
    }
}

impl Drop for NativeNode {
    fn drop(&mut self) {
        let mut process = self.process().take();
        blocking(|| {
            if let Some(Process { child, .. }) = &mut process {
                end(child);
            }
            kill_epmd(self.ports.epmd);
            let _ = fs::remove_dir_all(&self.directory);
            if let Some(Process { guard, .. }) = process {
                guard.disarm();
            }
        });
    }
}

/// SIGKILL, which a stopped process obeys too; returns when it is gone.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// What a guard does for a node whose xtask is dead.
pub(crate) fn sweep(node: Identity, epmd_port: u16, directory: &Path) {
    node.signal(Signal::KILL);
    node.wait_gone(Duration::from_secs(5));
    kill_epmd(epmd_port);
    let _ = fs::remove_dir_all(directory);
}

/// Ends the private epmd on `port`; it refuses until it has noticed that its node is gone.
fn kill_epmd(port: u16) {
    for _ in 0..100 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        // KILL_REQ: length 1, then `k`. The answer is OK or NO.
        let _ = stream.write_all(&[0, 1, b'k']);
        let _ = stream.read(&mut [0; 2]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn is_port_clash(text: &str) -> bool {
    ["already_used", "already in use", "eaddrinuse", "BOOT FAILED"].iter().any(|mark| text.contains(mark))
}
