//! The image `lobby-rabbitmq:local`: RabbitMQ as the system's own packages have it, for machines that reach a
//! package mirror but no registry.
//!
//! mmdebstrap makes the root file system, and the engine imports it: no `docker` program, no builder and no
//! base image take part. The image keeps the official one's habits that we use: entrypoint, user, ports,
//! configuration under `/etc/rabbitmq`, guest may log in from anywhere.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use futures_util::stream::{self, TryStreamExt as _};
use testcontainers::bollard;
use testcontainers::bollard::query_parameters::CreateImageOptionsBuilder;

use super::engine::Client;
use crate::apt;

/// The image's name.
pub(crate) const LOCAL_NAME: &str = "lobby-rabbitmq";
/// The image's tag.
pub(crate) const LOCAL_TAG: &str = "local";

const MMDEBSTRAP: &str = "/usr/bin/mmdebstrap";
const CHUNK_BYTES: usize = 1 << 20;

/// Path in the image and content.
const FILES: &[(&str, &str)] = &[
    ("/etc/rabbitmq/enabled_plugins", "[rabbitmq_management].\n"),
    (
        "/etc/rabbitmq/conf.d/10-defaults.conf",
        "loopback_users.guest = false\nlog.console = true\nlog.file = false\ncollect_statistics_interval = 1000\n",
    ),
    (
        ENTRYPOINT,
        "#!/bin/sh\n# As in the official image: `rabbitmq-server` starts the node, in this very process.\nset -e\n\
         if [ \"$1\" = rabbitmq-server ]; then shift; set -- /usr/lib/rabbitmq/bin/rabbitmq-server \"$@\"; fi\n\
         exec \"$@\"\n",
    ),
];
const ENTRYPOINT: &str = "/usr/local/bin/docker-entrypoint.sh";

/// What a Dockerfile would say below `FROM scratch` and `ADD rootfs.tar /`.
const INSTRUCTIONS: &[&str] = &[
    "USER rabbitmq",
    "ENV HOME=/var/lib/rabbitmq",
    "ENV LANG=C.UTF-8",
    "ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV RUNNING_UNDER_SYSTEMD=true",
    "ENV RABBITMQ_CONF_ENV_FILE=/dev/null",
    "EXPOSE 5672",
    "EXPOSE 15672",
    "ENTRYPOINT [\"docker-entrypoint.sh\"]",
    "CMD [\"rabbitmq-server\"]",
];

/// Whether the engine has `image`.
pub(crate) async fn has_image(client: &Client, image: &str) -> bool {
    client.inspect_image(image).await.is_ok()
}

/// Builds the image from the machine's own package sources. Takes about a minute.
///
/// # Errors
/// mmdebstrap is absent and cannot be installed, or failed: the text ends with its last lines. The engine
/// refused the import.
pub(crate) async fn build(client: &Client, progress: &mut (dyn FnMut(&str) + Send)) -> anyhow::Result<()> {
    if !Path::new(MMDEBSTRAP).exists() {
        apt::install(&["mmdebstrap"], progress).await?;
    }
    let directory =
        tempfile::Builder::new().prefix("lobby-image-").tempdir().context("directory of the image")?;
    let rootfs = directory.path().join("rootfs.tar");
    let mut command = mmdebstrap(directory.path(), &rootfs)?;
    let log = directory.path().join("log");
    let output = fs::File::create(&log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    progress("making a root file system with RabbitMQ, which takes about a minute");
    let mut child = command.spawn().context("start mmdebstrap")?;
    let status = tokio::task::spawn_blocking(move || child.wait()).await?.context("wait for mmdebstrap")?;
    let said = || apt::tail(&fs::read_to_string(&log).unwrap_or_default(), 15);
    ensure!(status.success(), "mmdebstrap failed ({status}); it said last:\n{}", said());
    progress("importing it into the Docker Engine");
    import(client, &rootfs).await
}

fn mmdebstrap(directory: &Path, rootfs: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(MMDEBSTRAP);
    command
        .env("LC_ALL", "C.UTF-8")
        .args(["--variant=minbase", "--format=tar", "--include=rabbitmq-server"])
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", "--skip=cleanup/reproducible"])
        .arg("--customize-hook=mkdir -p \"$1/etc/rabbitmq/conf.d\" \"$1/usr/local/bin\"");
    for (index, (path, content)) in FILES.iter().enumerate() {
        let file = directory.join(format!("file{index}"));
        fs::write(&file, content)?;
        command.arg(format!("--customize-hook=upload {} {path}", file.display()));
    }
    command.arg(format!("--customize-hook=chmod 0755 \"$1{ENTRYPOINT}\""));
    let options = directory.join("apt.conf");
    fs::write(&options, transport_options()?)?;
    command.arg(format!("--aptopt={}", options.display()));
    command.arg(codename()?).arg(rootfs).args(sources()?);
    Ok(command)
}

/// How this machine reaches its package mirror: proxy, certificates, time-outs.
fn transport_options() -> anyhow::Result<String> {
    let dump = Command::new("apt-config").arg("dump").output().context("run `apt-config dump`")?;
    let wanted = |line: &&str| {
        ["Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::ForceIPv"]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let lines =
        String::from_utf8_lossy(&dump.stdout).lines().filter(wanted).map(str::to_owned).collect::<Vec<_>>();
    Ok(lines.join("\n") + "\n")
}

fn codename() -> anyhow::Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// The machine's own package sources, in either format.
fn sources() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let list = PathBuf::from("/etc/apt/sources.list");
    let has_entries = |text: String| text.lines().any(|line| line.trim_start().starts_with("deb "));
    if fs::read_to_string(&list).is_ok_and(has_entries) {
        found.push(list);
    }
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "list" || extension == "sources") {
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "no package sources in /etc/apt");
    found.sort();
    Ok(found)
}

async fn import(client: &Client, rootfs: &Path) -> anyhow::Result<()> {
    let file = fs::File::open(rootfs).context("open the root file system")?;
    let chunks = stream::try_unfold(file, async |mut file| {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let count = std::io::Read::by_ref(&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        std::io::Result::Ok((count > 0).then_some((chunk.into(), file)))
    });
    let options = CreateImageOptionsBuilder::new()
        .from_src("-")
        .repo(LOCAL_NAME)
        .tag(LOCAL_TAG)
        .changes(INSTRUCTIONS.iter().map(|&line| line.to_owned()).collect())
        .build();
    let answers = client.create_image(Some(options), Some(bollard::body_try_stream(chunks)), None);
    answers.try_collect::<Vec<_>>().await.context("import the root file system")?;
    ensure!(
        has_image(client, &format!("{LOCAL_NAME}:{LOCAL_TAG}")).await,
        "the engine took the import but has no image"
    );
    Ok(())
}
