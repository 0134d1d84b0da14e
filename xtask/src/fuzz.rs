//! `cargo xtask fuzz`: the targets of `fuzz/` driven by libFuzzer, one after another on one core.
//!
//! The compiler that is installed will do: coverage is a pass of LLVM's that stable Rust can be asked for, and nothing
//! here needs a sanitizer, as `unsafe` is forbidden. What libFuzzer learns stays in the build directory; `fuzz/corpus/`
//! is the small part of it that is kept, and which `cargo test` replays.

mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

use self::report::Row;
use crate::build::cargo;

/// How libFuzzer sees which way an input took: counters at every edge, and the operands of comparisons.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// The longest input, in bytes. Longer ones find nothing more in decoders whose limits the targets set lower.
const MAX_INPUT: usize = 4096;
/// An input that takes longer counts as a finding, in seconds.
const HANG: u32 = 10;
/// Memory of one target, in MiB; more is a finding.
const MEMORY_MIB: u32 = 1024;
/// How much longer than asked a target may take to begin and to end.
const GRACE: Duration = Duration::from_secs(120);

/// What is fuzzed, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these targets, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "TARGET")]
    only: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// End a target after this many inputs, if that is sooner.
    #[arg(long)]
    runs: Option<u64>,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
    /// List the targets and end.
    #[arg(long)]
    list: bool,
}

/// Runs the targets and prints a table; fails when one of them found something.
pub(crate) async fn fuzz(options: &Options) -> anyhow::Result<()> {
    let all = targets()?;
    if options.list {
        all.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    let chosen = chosen(&all, &options.only)?;
    let programs = build().await?;
    let mut rows = Vec::new();
    for (n, name) in chosen.iter().enumerate() {
        eprintln!("{name} ({} of {}): {} s", n + 1, chosen.len(), options.seconds);
        let program = programs.get(*name).with_context(|| format!("cargo built no program {name}"))?;
        rows.push(run(name, program, options).await?);
    }
    println!("{}", if options.json { report::json(&rows)? } else { report::table(&rows) });
    let findings: Vec<_> = rows.iter().filter_map(Row::advice).collect();
    ensure!(findings.is_empty(), "{}", findings.join("\n"));
    Ok(())
}

/// The names of all targets: the programs in `fuzz/fuzz_targets`.
fn targets() -> anyhow::Result<Vec<String>> {
    let place = "fuzz/fuzz_targets";
    let mut names = Vec::new();
    for entry in
        std::fs::read_dir(place).with_context(|| format!("read {place}; run from the repository's root"))?
    {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn chosen<'a>(all: &'a [String], only: &[String]) -> anyhow::Result<Vec<&'a str>> {
    if let Some(unknown) = only.iter().find(|name| !all.contains(name)) {
        bail!("there is no target `{unknown}`; there are: {}", all.join(", "));
    }
    Ok(all.iter().filter(|name| only.is_empty() || only.contains(name)).map(String::as_str).collect())
}

/// Builds all targets; where each program is.
async fn build() -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let host = host().await?;
    let mut command = cargo();
    command.args([
        "build",
        "--package",
        "lobby-fuzz",
        "--features",
        "libfuzzer",
        "--bins",
        "--profile",
        "fuzz",
    ]);
    // With a target named, build scripts are spared the coverage, which they could not be linked with.
    command.args(["--locked", "--message-format=json-render-diagnostics", "--target", &host]);
    command.env("RUSTFLAGS", COVERAGE).env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await.context("run cargo build")?;
    ensure!(output.status.success(), "cargo build of the fuzz targets failed: {}", output.status);
    let messages = String::from_utf8(output.stdout).context("cargo's messages")?;
    Ok(messages.lines().filter_map(executable).collect())
}

/// The program that a line of cargo's messages names.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
}

async fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().await.context("run rustc -vV")?;
    let text = String::from_utf8(output.stdout).context("rustc's version")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

async fn run(name: &str, program: &Path, options: &Options) -> anyhow::Result<Row> {
    let place = program.parent().context("the program's directory")?.join("fuzz-data").join(name);
    let (learned, findings) = (place.join("corpus"), place.join("findings"));
    for directory in [&learned, &findings] {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let log = place.join("log.txt");
    let mut command = Command::new(program);
    // New inputs go to the first directory.
    command.arg(&learned).arg(format!("fuzz/corpus/{name}"));
    command.arg(format!("-max_total_time={}", options.seconds)).arg(format!("-max_len={MAX_INPUT}"));
    command.arg(format!("-timeout={HANG}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    command.arg("-print_final_stats=1").arg(format!("-artifact_prefix={}/", findings.display()));
    if let Some(runs) = options.runs {
        command.arg(format!("-runs={runs}"));
    }
    let output = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).kill_on_drop(true);
    let limit = Duration::from_secs(options.seconds.into()) + GRACE;
    let begun = std::time::Instant::now();
    let status = tokio::time::timeout(limit, command.status()).await;
    let status =
        status.with_context(|| format!("{name} did not end in {limit:?}"))?.context("run the target")?;
    let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    Row::read(name, &text, begun.elapsed(), status.success(), program, &log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_there_is_not_is_refused_by_name() {
        let all = ["body".to_owned(), "line".to_owned()];
        assert_eq!(chosen(&all, &[]).unwrap(), ["body", "line"]);
        assert_eq!(chosen(&all, &["line".to_owned()]).unwrap(), ["line"]);
        let error = chosen(&all, &["lime".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "there is no target `lime`; there are: body, line");
    }

    #[test]
    fn cargos_messages_name_the_programs() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"line"},"executable":"/t/line"}"#;
        assert_eq!(executable(line), Some(("line".to_owned(), PathBuf::from("/t/line"))));
        assert_eq!(executable(r#"{"target":{"name":"lib"},"executable":null}"#), None);
        assert_eq!(executable("warning"), None);
    }
}
