//! Environments for other languages' programs, made once beside the build's other products and then reused.
//!
//! Each carries a stamp of what it was made from: another stamp, another environment. A half-made one has no stamp and is
//! made anew. A lock file makes a second xtask wait.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::apt;

/// Some hundred packages through a slow line.
pub(crate) const INSTALL_LIMIT: Duration = Duration::from_secs(600);
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Where the environment is, or why there is none.
#[derive(Debug, Clone)]
pub(crate) enum Environment {
    /// What runs programs: the interpreter, or the directory with what it needs.
    Ready(PathBuf),
    /// Where packages come from cannot be reached; the text says how that showed.
    Unreachable(String),
}

impl Environment {
    /// # Errors
    /// In continuous integration what cannot be reached is an error, so that nothing is passed over in silence.
    pub(crate) fn checked(self) -> anyhow::Result<Self> {
        if let Self::Unreachable(reason) = &self {
            ensure!(!is_ci(std::env::var("CI").ok().as_deref()), "{reason}; in CI this is a failure");
        }
        Ok(self)
    }
}

/// Whether the variable `CI` says so; every CI service sets it, and so does `cargo xtask ci`.
fn is_ci(value: Option<&str>) -> bool {
    !matches!(value, None | Some("" | "0" | "false"))
}

/// A directory that one xtask at a time works on.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    _lock: File,
}

impl Home {
    /// Opens `<target directory>/<name>`; waits for another xtask that has it.
    pub(crate) async fn open(name: &str) -> anyhow::Result<Self> {
        let path = directory(name)?;
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        let lock = File::create(path.join("lock")).context("the environment's lock")?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
        let lock = lock.await?.context("wait for another xtask that makes the environment")?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// `<target directory>/<name>`: this program is `<target directory>/<profile>/xtask`.
fn directory(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("where xtask is")?;
    let target = program.ancestors().nth(2).filter(|path| *path != Path::new(""));
    Ok(target.context("xtask is not in a target directory")?.join(name))
}

/// Runs a command to its end, within a limit.
pub(crate) async fn run(mut command: Command, limit: Duration) -> anyhow::Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let what = format!("{:?}", command.as_std().get_program());
    let output =
        timeout(limit, command.output()).await.with_context(|| format!("{what} did not end in {limit:?}"))?;
    output.with_context(|| format!("run {what}"))
}

/// The last words on standard error, or on standard output where there are none.
pub(crate) fn said(output: &Output) -> String {
    let words = if output.stderr.trim_ascii().is_empty() { &output.stdout } else { &output.stderr };
    apt::tail(&String::from_utf8_lossy(words), 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_what_ci_services_set() {
        assert!(is_ci(Some("true")) && is_ci(Some("1")));
        assert!(!is_ci(None) && !is_ci(Some("")) && !is_ci(Some("false")));
    }
}
