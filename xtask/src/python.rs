//! A Python environment with the pinned libraries of `xtask/python/requirements.txt`, made once and then reused.
//!
//! Its stamp says the requirements and the interpreter.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::apt;
use crate::environment::{Environment, Home, INSTALL_LIMIT, PROBE_LIMIT, run, said};

const REQUIREMENTS: &str = include_str!("../python/requirements.txt");
/// What `python -m venv` needs, and a version that all pins install on.
const PROBE: &str = "import sys, ensurepip, venv; assert sys.version_info >= (3, 11); print(sys.version)";
/// pip writes these when the package index does not answer, and only then.
const UNREACHABLE: [&str; 3] =
    ["Retrying (Retry(", "Temporary failure in name resolution", "NewConnectionError"];

/// The environment, made by whoever asks first; everyone else waits for it.
///
/// # Errors
/// No usable Python and none to be had, or a package that does not install. In continuous integration an index that
/// cannot be reached is an error too, so that nothing is passed over in silence.
pub(crate) async fn environment() -> anyhow::Result<Environment> {
    static MADE: OnceCell<Result<Environment, String>> = OnceCell::const_new();
    let made = MADE.get_or_init(|| async { make().await.map_err(|error| format!("{error:#}")) }).await;
    made.clone().map_err(anyhow::Error::msg).context("make a Python environment")?.checked()
}

async fn make() -> anyhow::Result<Environment> {
    let begin = Instant::now();
    let interpreter = interpreter().await?;
    let opened = Home::open("python").await?;
    let home = opened.path();
    let (environment, stamp) = (home.join("environment"), home.join("environment/stamp"));
    let python = environment.join("bin/python");
    let wanted = format!("{}\n{}\n{REQUIREMENTS}", interpreter.path.display(), interpreter.version);
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(Environment::Ready(python));
    }
    let packages = REQUIREMENTS.lines().filter(|line| line.contains("==")).count();
    eprintln!("making a Python environment with {packages} packages; the next run reuses it");
    if environment.exists() {
        std::fs::remove_dir_all(&environment).context("remove the old environment")?;
    }
    let mut make = Command::new(&interpreter.path);
    make.args(["-m", "venv"]).arg(&environment);
    let made = run(make, INSTALL_LIMIT).await?;
    ensure!(made.status.success(), "python -m venv: {}", said(&made));
    let file = home.join("requirements.txt");
    std::fs::write(&file, REQUIREMENTS).context("write the requirements")?;
    let mut install = Command::new(&python);
    // The pins are complete: nothing is looked up, nothing is chosen.
    install
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"])
        .arg(&file);
    let installed = run(install, INSTALL_LIMIT).await?;
    if !installed.status.success() {
        let stderr = String::from_utf8_lossy(&installed.stderr);
        if is_unreachable(&stderr) {
            let last = apt::tail(&stderr, 1);
            return Ok(Environment::Unreachable(format!(
                "the Python package index cannot be reached: {last}"
            )));
        }
        bail!("pip install: {}", said(&installed));
    }
    std::fs::write(&stamp, wanted).context("write the environment's stamp")?;
    eprintln!("the Python environment is ready after {:.0} s", begin.elapsed().as_secs_f32());
    Ok(Environment::Ready(python))
}

#[derive(Debug)]
struct Interpreter {
    path: PathBuf,
    version: String,
}

/// The first Python that can make an environment; on Debian as root, the distribution's, installed if need be.
async fn interpreter() -> anyhow::Result<Interpreter> {
    let mut tried = Vec::new();
    for path in ["python3", "/usr/bin/python3"] {
        match probe(path).await {
            Ok(found) => return Ok(found),
            Err(error) => tried.push(format!("{path}: {error:#}")),
        }
    }
    let tried = || format!("no Python from 3.11 on with venv was found ({})", tried.join("; "));
    apt::install(&["python3", "python3-venv"], &mut |line| eprintln!("{line}")).await.with_context(tried)?;
    probe("/usr/bin/python3").await.with_context(tried)
}

async fn probe(path: &str) -> anyhow::Result<Interpreter> {
    let mut command = Command::new(path);
    command.args(["-c", PROBE]);
    let output = run(command, PROBE_LIMIT).await?;
    ensure!(output.status.success(), "{}", said(&output));
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(Interpreter { path: path.into(), version })
}

fn is_unreachable(stderr: &str) -> bool {
    UNREACHABLE.iter().any(|sign| stderr.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_index_that_does_not_answer_is_out_of_reach() {
        let retried = "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken\n\
                       ERROR: No matching distribution found for aio-pika==10.2.1";
        assert!(is_unreachable(retried));
        assert!(!is_unreachable("ERROR: No matching distribution found for aio-pika==99"));
    }

    #[test]
    fn every_requirement_is_pinned_and_stands_once() {
        let lines = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
        let mut seen = std::collections::BTreeSet::new();
        for line in lines {
            let (name, version) = line.split_once("==").unwrap_or_else(|| panic!("`{line}` has no version"));
            assert!(!version.is_empty() && seen.insert(name.to_lowercase().replace('_', "-")), "{line}");
        }
        for name in ["aio-pika", "pika", "kombu", "nameko", "nuropb", "fedora-messaging", "neon-mq-connector"]
        {
            assert!(seen.contains(name), "{name}");
        }
    }
}
