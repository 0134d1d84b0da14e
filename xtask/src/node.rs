//! A Node.js environment with the packages that `xtask/node/package-lock.json` pins, and TypeScript compiled in it.
//!
//! Its stamp says the lock file and the version of Node.js.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::apt;
use crate::environment::{Environment, Home, INSTALL_LIMIT, PROBE_LIMIT, run, said};

const PACKAGE: &str = include_str!("../node/package.json");
const LOCK: &str = include_str!("../node/package-lock.json");
const TSCONFIG: &str = include_str!("../node/tsconfig.json");
const CHECK_ASYNC_API: &str = include_str!("../node/check-asyncapi.mjs");
/// What is compiled; the first is what people copy.
const SOURCES: [&str; 3] =
    ["publishers/typescript/notify.ts", "xtask/node/drive.ts", "xtask/node/mistakes.ts"];
const PROBE: &str = "if (Number(process.versions.node.split('.')[0]) < 18) throw new Error('older than 18'); \
                     console.log(process.version)";
/// npm writes these when the registry does not answer, and only then.
const UNREACHABLE: [&str; 5] = ["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH"];

/// The directory with `node_modules` and, in `out`, the compiled programs; made by whoever asks first.
///
/// # Errors
/// No usable Node.js and none to be had, a package that does not install, or TypeScript that does not compile. In
/// continuous integration a registry that cannot be reached is an error too.
pub(crate) async fn environment() -> anyhow::Result<Environment> {
    static MADE: OnceCell<Result<Environment, String>> = OnceCell::const_new();
    let made = MADE.get_or_init(|| async { make().await.map_err(|error| format!("{error:#}")) }).await;
    made.clone().map_err(anyhow::Error::msg).context("make a Node.js environment")?.checked()
}

async fn make() -> anyhow::Result<Environment> {
    let version = node().await?;
    let opened = Home::open("node").await?;
    let home = opened.path();
    std::fs::write(home.join("check-asyncapi.mjs"), CHECK_ASYNC_API).context("write a check")?;
    let stamp = home.join("stamp");
    let wanted = format!("{version}\n{LOCK}");
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return compile(home).await;
    }
    eprintln!("making a Node.js environment; the next run reuses it");
    let begin = Instant::now();
    let _ = std::fs::remove_file(&stamp);
    std::fs::write(home.join("package.json"), PACKAGE).context("write package.json")?;
    std::fs::write(home.join("package-lock.json"), LOCK).context("write the lock file")?;
    let mut install = Command::new("npm");
    // The lock file is complete, and no package may run anything.
    install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(home);
    let installed = run(install, INSTALL_LIMIT).await?;
    if !installed.status.success() {
        let stderr = String::from_utf8_lossy(&installed.stderr);
        if UNREACHABLE.iter().any(|sign| stderr.contains(sign)) {
            let first = stderr.lines().next().unwrap_or_default();
            return Ok(Environment::Unreachable(format!("npm's registry cannot be reached: {first}")));
        }
        bail!("npm ci: {}", said(&installed));
    }
    std::fs::write(&stamp, wanted).context("write the environment's stamp")?;
    eprintln!("the Node.js environment is ready after {:.0} s", begin.elapsed().as_secs_f32());
    compile(home).await
}

/// The version of Node.js; on Debian as root, the distribution's, installed if need be.
async fn node() -> anyhow::Result<String> {
    let first = match probe().await {
        Ok(version) => return Ok(version),
        Err(error) => error,
    };
    let tried = || format!("no Node.js from 18 on with npm was found ({first:#})");
    apt::install(&["nodejs", "npm"], &mut |line| eprintln!("{line}")).await.with_context(tried)?;
    probe().await.with_context(tried)
}

async fn probe() -> anyhow::Result<String> {
    let (mut node, mut npm) = (Command::new("node"), Command::new("npm"));
    node.args(["-e", PROBE]);
    npm.arg("--version");
    let (node, npm) = (run(node, PROBE_LIMIT).await?, run(npm, PROBE_LIMIT).await?);
    ensure!(node.status.success(), "node: {}", said(&node));
    ensure!(npm.status.success(), "npm: {}", said(&npm));
    Ok(String::from_utf8_lossy(&node.stdout).trim().to_owned())
}

/// Compiles the sources as strictly as TypeScript can, unless they are compiled already. What does not compile, or
/// compiles though it must not, is an error.
async fn compile(home: &Path) -> anyhow::Result<Environment> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
    let (source, out, stamp) = (home.join("src"), home.join("out"), home.join("out/stamp"));
    let mut texts = vec![TSCONFIG.to_owned()];
    for path in SOURCES {
        texts.push(std::fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))?);
    }
    let wanted = texts.concat();
    // Another xtask may be running what was compiled: it is left alone while it fits.
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(Environment::Ready(PathBuf::from(home)));
    }
    for directory in [&source, &out] {
        if directory.exists() {
            std::fs::remove_dir_all(directory).context("remove what was compiled before")?;
        }
    }
    std::fs::create_dir_all(&source).context("make a directory for sources")?;
    std::fs::write(home.join("tsconfig.json"), TSCONFIG).context("write tsconfig.json")?;
    for (path, text) in SOURCES.into_iter().zip(&texts[1..]) {
        let name = Path::new(path).file_name().context("a source has a name")?;
        std::fs::write(source.join(name), text).with_context(|| format!("copy {path}"))?;
    }
    let mut compiler = Command::new("node");
    compiler.args(["node_modules/typescript/bin/tsc", "--project", "."]).current_dir(home);
    let compiled = run(compiler, INSTALL_LIMIT).await?;
    ensure!(compiled.status.success(), "tsc: {}", String::from_utf8_lossy(&compiled.stdout).trim());
    std::fs::write(&stamp, wanted).context("write the stamp of what was compiled")?;
    Ok(Environment::Ready(PathBuf::from(home)))
}
