//! Cleans up after an xtask that was killed.
//!
//! The guard is this program once more, in a process group of its own, holding the reading end of a pipe. One
//! byte on it means "already clean". Its end without a byte means that the parent died by SIGKILL, SIGTERM or
//! `process::exit`, and the guard stops what the parent had started. `PR_SET_PDEATHSIG` would not do: it is
//! tied to the thread that spawned, and a broker must also lose its epmd and its directory.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use super::native;
use crate::docker::engine;
use crate::process::Identity;

/// What to clean up. Cleaning twice is harmless.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Ward {
    /// A native RabbitMQ node.
    Node {
        #[command(flatten)]
        node: Identity,
        /// The port of its private epmd.
        #[arg(long)]
        epmd_port: u16,
        /// Its private directory.
        #[arg(long)]
        directory: PathBuf,
    },
    /// A container.
    Container {
        /// Its name.
        #[arg(long)]
        name: String,
        /// The engine's address.
        #[arg(long)]
        docker_host: String,
    },
    /// A private Docker Engine.
    Engine {
        #[command(flatten)]
        engine: Identity,
        /// Its private directory.
        #[arg(long)]
        directory: PathBuf,
    },
}

impl Ward {
    fn arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let process =
            |process: &Identity| [format!("--pid={}", process.pid), format!("--started={}", process.started)];
        match self {
            Self::Node { node, epmd_port, directory } => {
                let rest = [format!("--epmd-port={epmd_port}"), format!("--directory={}", path(directory))];
                [vec!["node".to_owned()], process(node).to_vec(), rest.to_vec()].concat()
            }
            Self::Container { name, docker_host } => {
                vec!["container".to_owned(), format!("--name={name}"), format!("--docker-host={docker_host}")]
            }
            Self::Engine { engine, directory } => {
                let rest = [format!("--directory={}", path(directory))];
                [vec!["engine".to_owned()], process(engine).to_vec(), rest.to_vec()].concat()
            }
        }
    }

    async fn clean(&self) {
        match self {
            Self::Node { node, epmd_port, directory } => native::sweep(*node, *epmd_port, directory),
            Self::Container { name, docker_host } => engine::remove_container(docker_host, name).await,
            Self::Engine { engine, directory } => engine::sweep(*engine, directory),
        }
    }
}

/// The parent's end. Dropped without [`Guard::disarm`], the guard cleans up.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Option<Child>,
}

impl Guard {
    /// Starts a guard for `ward`.
    ///
    /// In a test binary there is none, as it has no `guard` command: there only dropping cleans up.
    pub(crate) fn over(ward: &Ward) -> anyhow::Result<Self> {
        if cfg!(test) {
            return Ok(Self { child: None });
        }
        // The link leads to this program even when cargo has replaced its file meanwhile.
        let link = PathBuf::from("/proc/self/exe");
        let program = if link.exists() { link } else { std::env::current_exe().context("path of xtask")? };
        let child = Command::new(program)
            .arg("guard")
            .args(ward.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .context("start the guard that cleans up when xtask is killed")?;
        Ok(Self { child: Some(child) })
    }

    /// Ends the guard: what it guards is clean, or another guard has taken over.
    pub(crate) fn disarm(mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(mut pipe) = child.stdin.take() {
                let _ = pipe.write_all(b".");
            }
            let _ = child.wait();
        }
    }
}

/// Waits for the parent's end and cleans up if it did not.
pub(crate) async fn watch(ward: &Ward) -> anyhow::Result<()> {
    let read = tokio::task::spawn_blocking(|| File::open("/dev/stdin")?.read(&mut [0]));
    if read.await.context("wait for the parent")?.unwrap_or(0) == 0 {
        ward.clean().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(subcommand)]
        ward: Ward,
    }

    #[test]
    fn every_ward_survives_its_own_command_line() {
        let process = Identity { pid: 7, started: 8 };
        let directory = PathBuf::from("/tmp/with a space");
        let wards = [
            Ward::Node { node: process, epmd_port: 9, directory: directory.clone() },
            Ward::Container { name: "n".to_owned(), docker_host: "unix:///s".to_owned() },
            Ward::Engine { engine: process, directory },
        ];
        for ward in wards {
            let line = [vec!["guard".to_owned()], ward.arguments()].concat();
            assert_eq!(format!("{:?}", Arguments::parse_from(line).ward), format!("{ward:?}"));
        }
    }
}
