//! The lobby under systemd: what it tells the service manager, and the unit that we ship.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::time::timeout;

use super::stage::Stage;
use crate::PATIENCE;

const UNIT: &str = "deploy/systemd/lobby@.service";
const WATCHDOG: Duration = Duration::from_secs(2);

/// It says that it is ready, goes on saying that it lives, and says that it stops; systemd takes the unit as it is.
pub(super) async fn service_manager(stage: &Stage) -> anyhow::Result<()> {
    let path = stage.directory().join("notify");
    let socket = UnixDatagram::bind(&path).context("bind the service manager's socket")?;
    let setup = stage
        .setup()
        .set("NOTIFY_SOCKET", path.display().to_string())
        .set("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let mut lobby = stage.start_unready(&setup).await?;
    told(&socket, "READY=1").await?;
    for _ in 0..3 {
        told(&socket, "WATCHDOG=1").await?;
    }
    lobby.stop().await?;
    told(&socket, "STOPPING=1").await?;
    match verify(stage).await? {
        true => stage.fact("systemd-analyze accepts the unit"),
        false => stage.fact("no systemd-analyze here: the unit was not verified"),
    }
    Ok(())
}

async fn told(socket: &UnixDatagram, line: &str) -> anyhow::Result<()> {
    let waiting = async {
        let mut bytes = [0; 1024];
        loop {
            let count = socket.recv(&mut bytes).await?;
            if String::from_utf8_lossy(&bytes[..count]).lines().any(|said| said == line) {
                return Ok(());
            }
        }
    };
    timeout(PATIENCE, waiting).await.with_context(|| format!("the lobby never said {line}"))?
}

/// Has systemd read the unit, with a program in it that every machine has. False without systemd.
async fn verify(stage: &Stage) -> anyhow::Result<bool> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(UNIT);
    let text = std::fs::read_to_string(&unit).with_context(|| format!("read {}", unit.display()))?;
    ensure!(text.contains("/usr/bin/lobby "), "{UNIT} starts something else");
    let text = text.replace("/usr/bin/lobby ", "/bin/true ");
    let copy = stage.directory().join("lobby@test.service");
    std::fs::write(&copy, text)?;
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).arg(&copy).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await.context("systemd-analyze took too long")? {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        output => output?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("lobby@")).collect();
    ensure!(output.status.success() && ours.is_empty(), "systemd-analyze: {said}");
    Ok(true)
}
