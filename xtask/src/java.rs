//! The Java publisher, compiled with Debian's packages and, where Maven's repository can be reached, with today's libraries.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::apt;
use crate::environment::{Environment, Home, INSTALL_LIMIT, PROBE_LIMIT, run, said};

/// What people copy, what shows it, and the program for the end-to-end tests.
const SOURCES: [&str; 3] =
    ["publishers/java/Notify.java", "examples/java/Publish.java", "xtask/java/Drive.java"];
/// Those that Maven compiles: Debian has no Spring AMQP.
const MAVEN_SOURCES: [&str; 3] = [SOURCES[0], SOURCES[1], "examples/java/WithSpring.java"];
/// Where Debian keeps libraries.
const LIBRARIES: &str = "/usr/share/java";
const JARS: [&str; 6] = [
    "amqp-client.jar",
    "jackson-annotations.jar",
    "jackson-core.jar",
    "jackson-databind.jar",
    "slf4j-api.jar",
    "slf4j-nop.jar",
];
const PACKAGES: [&str; 4] =
    ["default-jdk-headless", "libjackson2-databind-java", "librabbitmq-client-java", "libslf4j-java"];
/// Maven writes these when its repository does not answer, and only then.
const UNREACHABLE: [&str; 4] =
    ["Unknown host", "Connection refused", "Connect timed out", "Network is unreachable"];

/// The directory with the compiled classes; made by whoever asks first.
///
/// # Errors
/// No JDK from 17 on or no libraries, and none to be had, or Java that does not compile.
pub(crate) async fn environment() -> anyhow::Result<Environment> {
    static MADE: OnceCell<Result<PathBuf, String>> = OnceCell::const_new();
    let made = MADE.get_or_init(|| async { compiled().await.map_err(|error| format!("{error:#}")) }).await;
    let made = made.clone().map_err(anyhow::Error::msg).context("compile the Java publisher")?;
    Ok(Environment::Ready(made))
}

/// What a program needs to run: the classes in `environment`, and the libraries.
pub(crate) fn class_path(environment: &Path) -> OsString {
    let mut path = OsString::from(environment);
    for jar in JARS {
        path.push(":");
        path.push(Path::new(LIBRARIES).join(jar));
    }
    path
}

/// Compiles again each time: it takes a second or two.
async fn compiled() -> anyhow::Result<PathBuf> {
    let jdk = jdk().await;
    let missing: Vec<_> = JARS.into_iter().filter(|jar| !Path::new(LIBRARIES).join(jar).is_file()).collect();
    if jdk.is_err() || !missing.is_empty() {
        let tried = || match jdk {
            Ok(()) => format!("{LIBRARIES} has no {}", missing.join(", ")),
            Err(error) => format!("no JDK from 17 on was found ({error:#})"),
        };
        apt::install(&PACKAGES, &mut |line| eprintln!("{line}")).await.with_context(tried)?;
    }
    let home = Home::open("java").await?;
    let fresh = tempfile::tempdir_in(home.path()).context("a directory for classes")?;
    let mut compiler = Command::new("javac");
    // Exceptions that nobody serialises need no version.
    compiler.args(["-Xlint:all,-serial", "-Werror", "--release", "17", "-cp"]);
    compiler.arg(class_path(fresh.path())).arg("-d").arg(fresh.path());
    compiler.args(SOURCES).current_dir(root()?);
    let output = run(compiler, INSTALL_LIMIT).await?;
    ensure!(output.status.success(), "javac: {}", String::from_utf8_lossy(&output.stderr).trim());
    // In one step: another xtask may be running what is there, and what it has open stays readable.
    let classes = home.path().join("classes");
    if classes.exists() {
        std::fs::remove_dir_all(&classes).context("remove what was compiled before")?;
    }
    std::fs::rename(fresh.keep(), &classes).context("put the classes in their place")?;
    Ok(classes)
}

async fn jdk() -> anyhow::Result<()> {
    for program in ["java", "javac"] {
        let mut probe = Command::new(program);
        probe.arg("--version");
        let output = run(probe, PROBE_LIMIT).await?;
        ensure!(output.status.success(), "{program}: {}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().nth(1).and_then(|version| version.split('.').next());
        let major: u32 = version.and_then(|major| major.parse().ok()).with_context(|| text.to_string())?;
        ensure!(major >= 17, "{program} is of version {major}");
    }
    Ok(())
}

/// Compiles with Maven; the text says why that is not possible here, if so.
///
/// # Errors
/// It does not compile.
pub(crate) async fn compile_with_maven() -> anyhow::Result<Option<String>> {
    let mut probe = Command::new("mvn");
    probe.arg("-version");
    if !run(probe, PROBE_LIMIT).await.is_ok_and(|output| output.status.success()) {
        return Ok(Some("there is no `mvn`".to_owned()));
    }
    let (root, home) = (root()?, Home::open("java-maven").await?);
    let sources = home.path().join("src");
    std::fs::create_dir_all(&sources).context("make a directory for sources")?;
    for path in MAVEN_SOURCES {
        let name = Path::new(path).file_name().context("a source has a name")?;
        std::fs::copy(root.join(path), sources.join(name)).with_context(|| format!("copy {path}"))?;
    }
    let mut maven = Command::new("mvn");
    maven
        .args(["--quiet", "--batch-mode", "--no-transfer-progress", "--file"])
        .arg(root.join("xtask/java/pom.xml"));
    maven.arg(format!("-Dlobby.sources={}", sources.display()));
    maven.arg(format!("-Dlobby.target={}", home.path().join("target").display())).arg("compile");
    let output = run(maven, INSTALL_LIMIT).await?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    match UNREACHABLE.iter().find(|sign| said.contains(*sign)) {
        Some(sign) => Ok(Some(format!("Maven's repository cannot be reached ({sign})"))),
        None => bail!("mvn compile: {said}"),
    }
}

fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")
}
