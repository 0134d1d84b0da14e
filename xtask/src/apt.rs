//! Installs Debian packages for a machine that has none of what is needed, without starting their services.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// Gets the packages' names as arguments.
///
/// `policy-rc.d` is how Debian's packages are told not to start services. One that already forbids it is kept;
/// another is put aside and put back. The lock keeps a second run from taking the policy away too early. All
/// of it is one shell process with a trap, so that it also ends well when xtask is killed meanwhile.
const SCRIPT: &str = r#"
set -eu
exec 9>/run/lobby-xtask-apt.lock
flock 9
policy=/usr/sbin/policy-rc.d
saved=$policy.before-lobby
denies() { code=0; "$policy" lobby-probe start >/dev/null 2>&1 || code=$?; [ "$code" -eq 101 ]; }
restore() { if [ -e "$saved" ]; then mv -f "$saved" "$policy"; else rm -f "$policy"; fi; }
if ! [ -x "$policy" ] || ! denies; then
    if [ -e "$policy" ]; then mv -f "$policy" "$saved"; fi
    trap restore EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
fi
get() {
    apt-get -q -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 -o Acquire::http::Timeout=30 \
        -o Acquire::https::Timeout=30 -o Dpkg::Options::=--force-confold "$@" 9>&-
}
install() { get install --no-install-recommends "$@"; }
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || get update
if ! install "$@"; then
    get update
    install "$@"
fi
"#;

/// Whether [`install`] can work here, and if not, why.
pub(crate) fn usable() -> Result<(), String> {
    if !Path::new("/etc/debian_version").exists() || !Path::new("/usr/bin/apt-get").exists() {
        return Err("not a Debian or Ubuntu system".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("user id {} is not root", rustix::process::geteuid().as_raw()));
    }
    Ok(())
}

/// Installs `packages` with apt: no recommended packages, no questions, no service started.
///
/// # Errors
/// apt is not usable here, or failed: the text ends with apt's last lines.
pub(crate) async fn install(
    packages: &[&str],
    progress: &mut (dyn FnMut(&str) + Send),
) -> anyhow::Result<()> {
    let list = packages.join(" ");
    usable().map_err(anyhow::Error::msg).with_context(|| format!("install {list} with apt"))?;
    progress(&format!("installing {list} with apt"));
    let log = tempfile::NamedTempFile::new().context("log of apt")?;
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "sh"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(log.reopen()?)
        .stderr(log.reopen()?)
        .process_group(0);
    let mut child = command.spawn().context("start apt")?;
    let status = tokio::task::spawn_blocking(move || child.wait()).await?.context("wait for apt")?;
    let said = || tail(&std::fs::read_to_string(log.path()).unwrap_or_default(), 12);
    ensure!(status.success(), "apt could not install {list} ({status}); it said last:\n{}", said());
    Ok(())
}

/// Where `program` is; installs its Debian `package` where that is possible and needed.
///
/// # Errors
/// It is not here and cannot be installed, with the reason.
pub(crate) async fn program(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    if let Some(found) = find(program) {
        return Ok(found);
    }
    install(&[package], &mut |line| eprintln!("{line}"))
        .await
        .with_context(|| format!("there is no `{program}`"))?;
    find(program).with_context(|| format!("the package {package} brought no program `{program}`"))
}

/// A program by its name; servers often stand where a user's `PATH` does not look.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/bin".into()]);
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(tail("", 2), "");
    }
}
