//! `cargo xtask dist`: the lobby as others get it, a Debian package and an archive, with their checksums.
//!
//! ```text
//! binary (static, stripped) → tree (files where they belong) → .deb, .tar.gz, SHA256SUMS → check (installed, started, removed)
//! ```

mod check;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use self::tree::Tree;
use crate::apt;
use crate::build::cargo;
use crate::environment::{run, said};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// For a compression, a strip, a package.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// What to pack and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pack this program instead of building one.
    #[arg(long, value_name = "FILE")]
    lobby: Option<PathBuf>,
    /// Where the packages go.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/dist")]
    to: PathBuf,
}

/// Builds, packs, and tests what it packed.
///
/// # Errors
/// A step that failed; a package that does not install, start, stop or remove as it should.
pub(crate) async fn dist(options: &Options) -> anyhow::Result<()> {
    let lobby = match &options.lobby {
        Some(path) => path.clone(),
        None => static_lobby().await?,
    };
    let packages = pack(&lobby, &options.to).await?;
    check::check(&packages).await?;
    for file in &packages.files {
        let size = std::fs::metadata(file)?.len();
        println!("{:>12}  {}", size, file.display());
    }
    Ok(())
}

/// The same with the program that tests use, for CI: what is packed differs, how it is packed does not.
pub(crate) async fn check_packing() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    check::check(&pack(&crate::build::lobby().await?, directory.path()).await?).await
}

/// What was made.
#[derive(Debug)]
struct Packages {
    deb: PathBuf,
    archive: PathBuf,
    files: Vec<PathBuf>,
}

async fn pack(lobby: &Path, to: &Path) -> anyhow::Result<Packages> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let architecture = step("dpkg", &["--print-architecture"]).await.context("Debian's tools are needed")?;
    let name = format!("lobby_{VERSION}_{}", architecture.trim());
    let date = step("git", &["log", "-1", "--format=%ct"]).await.unwrap_or_else(|_| "0".to_owned());
    let tree = Tree::plant(lobby).await?;
    let deb = to.join(format!("{name}.deb"));
    tree.debian(architecture.trim(), &deb, date.trim()).await?;
    let archive = to.join(format!("{name}.tar.gz"));
    tree.archive(&archive, &format!("lobby-{VERSION}"), date.trim()).await?;
    let mut sums = String::new();
    for file in [&deb, &archive] {
        let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        sums.push_str(&format!("{digest}  {name}\n"));
    }
    let checksums = to.join("SHA256SUMS");
    std::fs::write(&checksums, sums).with_context(|| format!("write {}", checksums.display()))?;
    Ok(Packages { files: vec![deb.clone(), archive.clone(), checksums], deb, archive })
}

/// A lobby that needs nothing of the system it runs on.
async fn static_lobby() -> anyhow::Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", &target]);
    let added = run(rustup, STEP_LIMIT).await?;
    ensure!(added.status.success(), "rustup target add {target}: {}", said(&added));
    apt::program("musl-gcc", "musl-tools").await.context("the C parts need it")?;
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", "lobby-bin", "--bin", "lobby"]);
    build.args(["--target", &target, "--message-format=json-render-diagnostics"]);
    crate::build::built(build).await
}

/// Runs a tool to its end; what it printed.
async fn step(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = run(command, STEP_LIMIT).await?;
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
