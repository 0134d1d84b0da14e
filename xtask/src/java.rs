//! The Java publisher, compiled with Debian's packages and, where Maven's repository can be reached, with today's libraries.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};
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
/// Exceptions that nobody serialises need no version.
const FLAGS: [&str; 4] = ["-Xlint:all,-serial", "-Werror", "--release", "17"];
/// Classes of other sources are kept so long: another xtask may run them.
const CLASSES_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Maven writes these when its repository does not answer, and only then.
const UNREACHABLE: [&str; 4] =
    ["Unknown host", "Connection refused", "Connect timed out", "Network is unreachable"];

/// The directory with the compiled classes; made by whoever asks first.
///
/// # Errors
/// Java that does not compile; in CI, no JDK from 17 on or no libraries, and none to be had.
pub(crate) async fn environment() -> anyhow::Result<Environment> {
    static MADE: OnceCell<Result<Environment, String>> = OnceCell::const_new();
    let made = MADE.get_or_init(|| async { compiled().await.map_err(|error| format!("{error:#}")) }).await;
    let made = made.clone().map_err(anyhow::Error::msg).context("compile the Java publisher")?;
    made.checked()
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

/// What to do before anything can be compiled.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Compile,
    Install,
    /// Not possible here, for this reason.
    LeaveOut(String),
}

/// Whether there is a JDK and which libraries are missing; `apt`: whether packages can be installed here.
fn step(jdk: Result<(), String>, missing: &[&str], apt: Result<(), String>) -> Step {
    let lack = match jdk {
        Ok(()) if missing.is_empty() => return Step::Compile,
        Ok(()) => format!("{LIBRARIES} has no {}", missing.join(", ")),
        Err(error) => format!("no JDK from 17 on was found ({error})"),
    };
    match apt {
        Ok(()) => Step::Install,
        Err(why) => Step::LeaveOut(format!("{lack}, and apt cannot be used: {why}")),
    }
}

async fn compiled() -> anyhow::Result<Environment> {
    let jdk = jdk().await.map_err(|error| format!("{error:#}"));
    let missing: Vec<_> = JARS.into_iter().filter(|jar| !Path::new(LIBRARIES).join(jar).is_file()).collect();
    match step(jdk, &missing, apt::usable()) {
        Step::Compile => {}
        Step::LeaveOut(reason) => return Ok(Environment::Unreachable(reason)),
        Step::Install => {
            apt::install(&PACKAGES, &mut |line| eprintln!("{line}")).await?;
            self::jdk().await.context("what apt installed is no JDK from 17 on")?;
        }
    }
    let root = root()?;
    let sources = SOURCES.map(|path| std::fs::read(root.join(path)).with_context(|| format!("read {path}")));
    let sources = sources.into_iter().collect::<Result<Vec<_>, _>>()?;
    let home = Home::open("java").await?;
    let name = classes(&sources);
    let classes = home.path().join(&name);
    if classes.exists() {
        return Ok(Environment::Ready(classes));
    }
    sweep(home.path())?;
    let fresh = tempfile::tempdir_in(home.path()).context("a directory for classes")?;
    let mut compiler = Command::new("javac");
    compiler.args(FLAGS).arg("-cp").arg(class_path(fresh.path())).arg("-d").arg(fresh.path());
    compiler.args(SOURCES).current_dir(root);
    let output = run(compiler, INSTALL_LIMIT).await?;
    ensure!(output.status.success(), "javac: {}", String::from_utf8_lossy(&output.stderr).trim());
    // In one step: what has the name is whole.
    std::fs::rename(fresh.keep(), &classes).context("put the classes in their place")?;
    Ok(Environment::Ready(classes))
}

/// The directory for what these sources become. Other sources have another, as another xtask may be running those.
fn classes(sources: &[Vec<u8>]) -> String {
    let mut hash = Sha256::new();
    for part in FLAGS.iter().map(|flag| flag.as_bytes()).chain(sources.iter().map(Vec::as_slice)) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let digits = hash[..8].iter().map(|byte| format!("{byte:02x}"));
    format!("classes-{}", digits.collect::<String>())
}

/// Removes what was compiled long ago.
fn sweep(home: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(home).context("what was compiled before")? {
        let entry = entry?;
        let is_classes = entry.file_name().to_string_lossy().starts_with("classes");
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if is_classes && age > CLASSES_KEPT {
            std::fs::remove_dir_all(entry.path()).context("remove what was compiled before")?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_here_is_left_out_and_nothing_else() {
        let no = |text: &str| Err(text.to_owned());
        assert_eq!(step(Ok(()), &[], no("not root")), Step::Compile);
        assert_eq!(step(no("no javac"), &[], Ok(())), Step::Install);
        assert_eq!(step(Ok(()), &["amqp-client.jar"], Ok(())), Step::Install);
        for (jdk, missing, words) in
            [(no("no javac"), &[][..], "no javac"), (Ok(()), &["amqp-client.jar"], "amqp-client.jar")]
        {
            let Step::LeaveOut(reason) = step(jdk, missing, no("not root")) else {
                panic!("{words} is not left out")
            };
            assert!(reason.contains(words) && reason.contains("not root"), "{reason}");
        }
    }

    #[test]
    fn other_sources_have_another_place() {
        let name = |sources: [&str; 2]| classes(&sources.map(|text| text.as_bytes().to_vec()));
        assert_eq!(name(["a", "b"]), name(["a", "b"]));
        assert_ne!(name(["a", "b"]), name(["a", "c"]));
        assert_ne!(name(["ab", ""]), name(["a", "b"]));
    }

    #[test]
    fn only_classes_of_long_ago_are_swept_away() {
        let home = tempfile::tempdir().expect("a directory");
        let long_ago = std::time::SystemTime::now() - CLASSES_KEPT - Duration::from_secs(1);
        for (name, old) in [("classes-1", true), ("classes-2", false), ("lock", true)] {
            std::fs::create_dir(home.path().join(name)).expect("a directory");
            let directory = std::fs::File::open(home.path().join(name)).expect("it");
            if old {
                directory.set_modified(long_ago).expect("its time");
            }
        }
        sweep(home.path()).expect("swept");
        let left = |name| home.path().join(name).exists();
        assert!(!left("classes-1") && left("classes-2") && left("lock"));
    }
}
