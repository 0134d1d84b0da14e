//! One lobby process: started with an environment of its own, watched through its log and its admin address.
//!
//! ```text
//! Setup (environment, arguments) → start → Lobby (addresses from the log, /ready, /metrics, SIGTERM)
//!                                → run_to_exit → Finished (exit code, output)
//! ```
//!
//! Nothing is inherited from the caller's environment but `PATH` and `HOME`. Dropping a [`Lobby`] kills it.

mod log_book;
mod metrics;
mod running;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use log_book::{LogBook, Record};
pub(crate) use metrics::Metrics;
pub(crate) use running::Running;

use crate::client::Transport;
use crate::late::Late;
use crate::{PATIENCE, http};

/// Between two looks at something that cannot be waited for.
const POLL: Duration = Duration::from_millis(25);

/// How a lobby is to be started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    binary: PathBuf,
    directory: PathBuf,
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
    input: Option<Vec<u8>>,
    unheard: bool,
}

/// A process that ended by itself.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Setup {
    /// `binary`, run in `directory`, with nothing configured.
    pub(crate) fn new(binary: PathBuf, directory: PathBuf) -> Self {
        Self { binary, directory, ..Self::default() }
    }

    /// Another program than the stage's.
    #[must_use]
    pub(crate) fn program(mut self, binary: PathBuf) -> Self {
        self.binary = binary;
        self
    }

    #[must_use]
    pub(crate) fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.environment.insert(key.to_owned(), value.into());
        self
    }

    #[must_use]
    pub(crate) fn unset(mut self, key: &str) -> Self {
        self.environment.remove(key);
        self
    }

    #[must_use]
    pub(crate) fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub(crate) fn arguments<'a>(self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        arguments.into_iter().fold(self, |setup, argument| setup.argument(argument))
    }

    /// What the command reads from its standard input.
    #[must_use]
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Runs it through a shell, for what a shell does to a process before it begins. In `script` the lobby is
    /// `"$0"` and its arguments are `"$@"`.
    #[must_use]
    pub(crate) fn through_shell(mut self, script: &str) -> Self {
        let lobby = std::mem::replace(&mut self.binary, PathBuf::from("/bin/sh"));
        let before = ["-c".to_owned(), script.to_owned(), lobby.display().to_string()];
        self.arguments.splice(..0, before);
        self
    }

    /// Nobody reads its log: its listeners are where the settings say, which must name their ports.
    #[must_use]
    pub(crate) fn unheard(mut self) -> Self {
        self.unheard = true;
        self
    }

    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.environment.get(key).map(String::as_str)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).current_dir(&self.directory).env_clear();
        for name in ["PATH", "HOME", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(&self.environment).stdin(Stdio::null()).kill_on_drop(true);
        // Ctrl-C is for xtask, which tells the lobby in its own way.
        command.process_group(0);
        command
    }

    /// Runs a command of the lobby that ends by itself.
    pub(crate) async fn run_to_exit(&self) -> anyhow::Result<Finished> {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_some() {
            command.stdin(Stdio::piped());
        }
        let running = async {
            let mut child = command.spawn()?;
            if let (Some(input), Some(mut stdin)) = (&self.input, child.stdin.take()) {
                // A command that ends before it has read all says why in its own words.
                let _ = stdin.write_all(input).await;
            }
            child.wait_with_output().await
        };
        let output = timeout(PATIENCE, running).await;
        let output = output
            .with_context(|| format!("lobby {:?} did not exit in {PATIENCE:?}", self.arguments))?
            .with_context(|| format!("run {}", self.binary.display()))?;
        Ok(Finished {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts a command that runs until it is told to end, and waits until it says `ready` on standard error.
    pub(crate) async fn begin(&self, ready: &str) -> anyhow::Result<Running> {
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let (said, told) = (LogBook::default(), LogBook::default());
        said.collect(child.stdout.take().context("standard output")?);
        told.collect(child.stderr.take().context("standard error")?);
        let mut running = Running { child, said, told };
        let start = Instant::now();
        while !running.told.holds(ready) {
            if let Some(status) = running.child.try_wait().context("look at the command")? {
                bail!("lobby {:?} exited with {status}: {:?}", self.arguments, running.told.lines());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                Late(format!("lobby {:?} never said `{ready}`", self.arguments))
            );
            sleep(POLL).await;
        }
        Ok(running)
    }

    /// Starts the process and waits until its listeners are up, not until it is ready.
    pub(crate) async fn start(&self, log: LogBook) -> anyhow::Result<Lobby> {
        let mut command = self.command();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let stdout = child.stdout.take().context("the lobby's standard output")?;
        let stderr = child.stderr.take().context("the lobby's log")?;
        log.collect(stdout);
        log.collect(stderr);
        let pid = child.id().context("the lobby's process id")?;
        let mut lobby = Lobby { child, pid, log, tcp: None, websocket: None, admin: None };
        for (key, listener) in [
            ("LOBBY_LISTEN__TCP", "tcp"),
            ("LOBBY_LISTEN__WEBSOCKET", "websocket"),
            ("LOBBY_LISTEN__ADMIN", "admin"),
        ] {
            let told = self.value(key).unwrap_or_default();
            if told == "off" {
                continue;
            }
            let address = match self.unheard {
                true => lobby.answers_at(told).await?,
                false => lobby.listening(listener).await?,
            };
            match listener {
                "tcp" => lobby.tcp = Some(address),
                "websocket" => lobby.websocket = Some(address),
                _ => lobby.admin = Some(address),
            }
        }
        Ok(lobby)
    }
}

/// A running lobby.
#[derive(Debug)]
pub(crate) struct Lobby {
    child: Child,
    pid: u32,
    log: LogBook,
    tcp: Option<SocketAddr>,
    websocket: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Lobby {
    /// The admin listener's address.
    pub(crate) fn admin_address(&self) -> anyhow::Result<SocketAddr> {
        self.admin.context("the lobby's admin listener is off")
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn log(&self) -> &LogBook {
        &self.log
    }

    /// Where clients of `transport` connect to.
    pub(crate) fn address(&self, transport: Transport) -> anyhow::Result<SocketAddr> {
        let address = match transport {
            Transport::Tcp => self.tcp,
            Transport::WebSocket => self.websocket,
        };
        address.with_context(|| format!("the lobby's {transport} listener is off"))
    }

    /// `GET` on the admin address.
    pub(crate) async fn admin(&self, path: &str) -> anyhow::Result<http::Answer> {
        let address = self.admin.context("the lobby's admin listener is off")?;
        http::get(&address.to_string(), path).await
    }

    /// Waits for 200 on `/ready`; how long it took.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<Duration> {
        self.readiness(200, "").await.map(|(took, _)| took)
    }

    /// Waits for 503 on `/ready`; its body.
    pub(crate) async fn unready(&mut self) -> anyhow::Result<String> {
        self.unready_with("").await
    }

    /// Waits for 503 on `/ready` with `reason` in its body; the body.
    pub(crate) async fn unready_with(&mut self, reason: &str) -> anyhow::Result<String> {
        self.readiness(503, reason).await.map(|(_, body)| body)
    }

    async fn readiness(&mut self, wanted: u16, reason: &str) -> anyhow::Result<(Duration, String)> {
        let start = Instant::now();
        loop {
            let answer = self.admin("/ready").await?;
            if answer.status == wanted && answer.body.contains(reason) {
                return Ok((start.elapsed(), answer.body));
            }
            ensure!(
                start.elapsed() < PATIENCE,
                Late(format!("/ready never said {wanted} {reason}: {} {}", answer.status, answer.body))
            );
            self.still_running()?;
            sleep(POLL).await;
        }
    }

    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        let answer = self.admin("/metrics").await?;
        ensure!(answer.status == 200, "/metrics said {} {}", answer.status, answer.body);
        Metrics::parse(&answer.body)
    }

    /// Waits until the metrics satisfy `wanted`, which `what` describes.
    pub(crate) async fn metrics_until(
        &self,
        what: &str,
        wanted: impl Fn(&Metrics) -> bool,
    ) -> anyhow::Result<Metrics> {
        let start = Instant::now();
        loop {
            let metrics = self.metrics().await?;
            if wanted(&metrics) {
                return Ok(metrics);
            }
            ensure!(start.elapsed() < PATIENCE, Late(format!("metrics never showed {what}:\n{metrics}")));
            sleep(POLL).await;
        }
    }

    /// Bytes of memory the process holds.
    pub(crate) async fn resident_bytes(&self) -> anyhow::Result<u64> {
        let output = Command::new("ps").args(["-o", "rss=", "-p", &self.pid.to_string()]).output().await;
        let kib = match output {
            Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            Err(_) => resident_from_proc(self.pid).await?,
        };
        Ok(kib.parse::<u64>().with_context(|| format!("resident memory `{kib}`"))? * 1024)
    }

    /// Sends any signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid)?).context("process id 0")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("send {signal:?} to the lobby"))
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGHUP.
    pub(crate) fn hang_up(&self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid)?).context("process id 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).context("send SIGHUP to the lobby")
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub(crate) fn interrupt(&self) -> anyhow::Result<()> {
        self.signal(Signal::INT)
    }

    /// Waits for the process to end by itself, and for the end of its log.
    pub(crate) async fn exited(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let exit = timeout(within, self.child.wait()).await;
        let status = exit.with_context(|| format!("the lobby did not exit in {within:?}"))?;
        self.log.complete().await;
        status.context("wait for the lobby")
    }

    /// SIGTERM, then exit code 0.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.terminate()?;
        let status = self.exited(PATIENCE).await?;
        ensure!(status.success(), "the lobby exited with {status} after SIGTERM");
        Ok(())
    }

    fn still_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("look at the lobby")? {
            None => Ok(()),
            Some(status) => bail!("the lobby exited with {status}"),
        }
    }

    /// Waits until somebody listens at the address that the settings name.
    async fn answers_at(&mut self, told: &str) -> anyhow::Result<SocketAddr> {
        let address: SocketAddr = told.parse().with_context(|| format!("the address `{told}`"))?;
        let start = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            self.still_running().with_context(|| format!("before {address} was up"))?;
            ensure!(start.elapsed() < PATIENCE, Late(format!("nobody listens at {address}")));
            sleep(POLL).await;
        }
        Ok(address)
    }

    /// The address in the log line `listening` of this listener.
    async fn listening(&mut self, listener: &str) -> anyhow::Result<SocketAddr> {
        let start = Instant::now();
        loop {
            let found = self.log.records().iter().find_map(|record| {
                let said = |key: &str| record.field(key);
                (said("message")? == "listening" && said("listener")? == listener).then(|| said("address"))?
            });
            if let Some(address) = found {
                return address
                    .parse()
                    .with_context(|| format!("address `{address}` of listener {listener}"));
            }
            self.still_running().with_context(|| format!("before listener {listener} was up"))?;
            ensure!(
                start.elapsed() < PATIENCE,
                Late(format!("the log never said `listening` for {listener}"))
            );
            sleep(POLL).await;
        }
    }
}

async fn resident_from_proc(pid: u32) -> anyhow::Result<String> {
    let mut text = String::new();
    let path = format!("/proc/{pid}/status");
    tokio::fs::File::open(&path).await.with_context(|| path.clone())?.read_to_string(&mut text).await?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").to_owned())
}
