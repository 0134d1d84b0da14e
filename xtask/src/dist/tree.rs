//! The files of a package, each where it belongs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::{STEP_LIMIT, VERSION, step};
use crate::environment::{PROBE_LIMIT, run, said};

/// Files of the repository and where they go.
const FILES: [(&str, &str); 8] = [
    ("deploy/systemd/lobby@.service", "usr/lib/systemd/system/lobby@.service"),
    ("deploy/debian/copyright", "usr/share/doc/lobby/copyright"),
    ("README.md", "usr/share/doc/lobby/README.md"),
    ("CHANGELOG.md", "usr/share/doc/lobby/CHANGELOG.md"),
    ("deploy/prometheus/lobby.rules.yml", "usr/share/doc/lobby/examples/lobby.rules.yml"),
    ("deploy/grafana/lobby.json", "usr/share/doc/lobby/examples/grafana.json"),
    ("deploy/haproxy/haproxy.cfg", "usr/share/doc/lobby/examples/haproxy.cfg"),
    ("contract/asyncapi.json", "usr/share/doc/lobby/asyncapi.json"),
];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
/// Where shells look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/lobby"),
    ("zsh", "usr/share/zsh/vendor-completions/_lobby"),
    ("fish", "usr/share/fish/vendor_completions.d/lobby.fish"),
];

/// A directory with everything.
#[derive(Debug)]
pub(super) struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    pub(super) async fn plant(lobby: &Path) -> anyhow::Result<Self> {
        let tree = Self { directory: tempfile::Builder::new().prefix("lobby-dist-").tempdir()? };
        let program = tree.make("usr/bin/lobby")?;
        let (from, to) = (lobby.display().to_string(), program.display().to_string());
        step("strip", &["-o", &to, &from]).await?;
        mode(&program, 0o755)?;
        for (from, to) in FILES {
            let to = tree.make(to)?;
            std::fs::copy(from, &to).with_context(|| format!("copy {from}"))?;
            mode(&to, 0o644)?;
        }
        for entry in std::fs::read_dir("docs")? {
            let path = entry?.path();
            if path.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let to = tree.make(&format!("usr/share/doc/lobby/docs/{name}"))?;
                std::fs::copy(&path, &to)?;
                mode(&to, 0o644)?;
            }
        }
        std::fs::create_dir_all(tree.path().join("etc/lobby"))?;
        tree.write(
            "usr/share/doc/lobby/examples/lobby.toml",
            &said_by(&program, &["default-config"]).await?,
        )?;
        tree.manuals(&program).await?;
        Ok(tree)
    }

    /// Manual pages, and what shells need to complete the command line.
    async fn manuals(&self, program: &Path) -> anyhow::Result<()> {
        for (shell, to) in COMPLETIONS {
            self.write(to, &said_by(program, &["completions", shell]).await?)?;
        }
        let manuals = self.path().join("usr/share/man/man1");
        std::fs::create_dir_all(&manuals)?;
        said_by(program, &["man", &manuals.display().to_string()]).await?;
        for entry in std::fs::read_dir(&manuals)? {
            step("gzip", &["-9n", &entry?.path().display().to_string()]).await?;
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes the Debian package; `date` is that of everything in it, so that the same source makes the same package.
    pub(super) async fn debian(&self, architecture: &str, to: &Path, date: &str) -> anyhow::Result<()> {
        let mut files = Vec::new();
        list(self.path(), &mut files)?;
        let mut sums = String::new();
        let mut bytes = 0;
        for file in &files {
            let name = file.strip_prefix(self.path())?.display().to_string();
            let sum = step("md5sum", &[&file.display().to_string()]).await?;
            let sum = sum.split(' ').next().context("md5sum printed nothing")?;
            sums.push_str(&format!("{sum}  {name}\n"));
            bytes += std::fs::metadata(file)?.len();
        }
        let control = std::fs::read_to_string("deploy/debian/control").context("deploy/debian/control")?;
        let control = control
            .replace("@VERSION@", VERSION)
            .replace("@ARCHITECTURE@", architecture)
            .replace("@SIZE@", &bytes.div_ceil(1024).to_string());
        self.write("DEBIAN/control", &control)?;
        self.write("DEBIAN/md5sums", &sums)?;
        for script in SCRIPTS {
            let to = self.make(&format!("DEBIAN/{script}"))?;
            std::fs::copy(format!("deploy/debian/{script}"), &to).with_context(|| script.to_owned())?;
            mode(&to, 0o755)?;
        }
        let mut command = Command::new("dpkg-deb");
        command.args(["--root-owner-group", "-Zgzip", "--build"]).arg(self.path()).arg(to);
        command.env("SOURCE_DATE_EPOCH", date);
        let output = run(command, STEP_LIMIT).await?;
        ensure!(output.status.success(), "dpkg-deb: {}", said(&output));
        std::fs::remove_dir_all(self.path().join("DEBIAN"))?;
        Ok(())
    }

    /// Makes the archive, all of it in a directory `name`.
    pub(super) async fn archive(&self, to: &Path, name: &str, date: &str) -> anyhow::Result<()> {
        let (to, from) = (to.display().to_string(), self.path().display().to_string());
        let (mtime, transform) = (format!("--mtime=@{date}"), format!("--transform=s,^\\.,{name},"));
        let fixed = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+w"];
        let mut arguments = vec!["--create", "--use-compress-program=gzip -9n", "--file", &to];
        arguments.extend(fixed);
        arguments.extend([mtime.as_str(), transform.as_str(), "--directory", &from, "."]);
        step("tar", &arguments).await.map(drop)
    }

    fn make(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join(name);
        let folder = path.parent().context("a file without a directory")?;
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(path)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.make(name)?;
        std::fs::write(&path, text).with_context(|| format!("write {name}"))?;
        mode(&path, 0o644)
    }
}

fn mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("mode of {}", path.display()))
}

async fn said_by(program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    let output = run(command, PROBE_LIMIT).await?;
    ensure!(output.status.success(), "lobby {}: {}", arguments.join(" "), said(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() { list(&path, found)? } else { found.push(path) }
    }
    Ok(())
}
