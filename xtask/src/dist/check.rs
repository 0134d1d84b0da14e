//! A package does what it should: it installs, its program starts, answers and stops, and it removes without a trace.

use std::path::Path;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::{Packages, STEP_LIMIT};
use crate::PATIENCE;
use crate::environment::{run, said};
use crate::lobby::{LogBook, Setup};

/// What must be there once it is installed.
const INSTALLED: [&str; 5] = [
    "usr/bin/lobby",
    "usr/lib/systemd/system/lobby@.service",
    "usr/share/doc/lobby/copyright",
    "usr/share/doc/lobby/examples/lobby.toml",
    "usr/share/doc/lobby/docs/operations.md",
];

pub(super) async fn check(packages: &Packages) -> anyhow::Result<()> {
    let root = tempfile::Builder::new().prefix("lobby-root-").tempdir()?;
    debian(&packages.deb, root.path()).await.context("the Debian package")?;
    let unpacked = tempfile::Builder::new().prefix("lobby-archive-").tempdir()?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(&packages.archive).arg("--directory").arg(unpacked.path());
    let output = run(tar, STEP_LIMIT).await?;
    ensure!(output.status.success(), "tar: {}", said(&output));
    let inside = std::fs::read_dir(unpacked.path())?.next().context("an empty archive")??.path();
    present(&inside)?;
    starts(&inside.join("usr/bin/lobby")).await.context("the archive's program")
}

/// Installs it into a system of its own under `root`, and removes it again.
async fn debian(package: &Path, root: &Path) -> anyhow::Result<()> {
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    std::fs::write(root.join("var/lib/dpkg/status"), "")?;
    dpkg(root, "--install", &package.display().to_string()).await?;
    present(root)?;
    let verified = dpkg(root, "--verify", "lobby").await?;
    ensure!(verified.is_empty(), "what was installed is not what was packed: {verified}");
    starts(&root.join("usr/bin/lobby")).await.context("its program")?;
    dpkg(root, "--purge", "lobby").await?;
    for file in INSTALLED {
        ensure!(!root.join(file).exists(), "{file} stayed after it was removed");
    }
    ensure!(!root.join("etc/lobby").exists(), "/etc/lobby stayed, though it is empty");
    Ok(())
}

async fn dpkg(root: &Path, action: &str, what: &str) -> anyhow::Result<String> {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root.display()));
    // The scripts are told where the system is (DPKG_ROOT) and need no shell in it; who packs need not be root.
    command.args(["--force-script-chrootless", "--force-not-root", "--force-bad-path"]).args([action, what]);
    let output = run(command, STEP_LIMIT).await?;
    ensure!(output.status.success(), "dpkg {action}: {}", said(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn present(root: &Path) -> anyhow::Result<()> {
    let missing: Vec<_> = INSTALLED.into_iter().filter(|file| !root.join(file).is_file()).collect();
    ensure!(missing.is_empty(), "missing: {}", missing.join(", "));
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/lobby@.service"))?;
    ensure!(unit.contains("ExecStart=/usr/bin/lobby "), "the unit starts something else");
    Ok(())
}

/// Starts it without a broker: it lives, is not ready, and ends in good order.
async fn starts(program: &Path) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let mut setup = Setup::new(program.to_path_buf(), directory.path().to_path_buf())
        .set("LOBBY_BROKER__URL", "amqp://127.0.0.1:1")
        .set("LOBBY_AUTH__SECRET", "only-for-this-check-of-a-package-0123456789")
        .set("LOBBY_LOG__FORMAT", "json");
    for listener in ["TCP", "WEBSOCKET", "ADMIN"] {
        setup = setup.set(&format!("LOBBY_LISTEN__{listener}"), "127.0.0.1:0");
    }
    let mut lobby = setup.start(LogBook::default()).await?;
    let live = lobby.admin("/live").await?;
    ensure!(live.status == 200, "/live says {} {}", live.status, live.body);
    lobby.terminate()?;
    let status = lobby.exited(PATIENCE).await?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}
