//! `cargo xtask bench --instructions`: how many instructions a message takes, as valgrind counts them.
//!
//! Unlike times, these hardly depend on the machine or on what else it does, so that a check can fail when decoding
//! gets dearer. Each case is an example that repeats one piece of work; what starting it takes falls out of the
//! difference of two runs. The limits stand in a file and are written by `--update-limits`.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::build;

/// Where the counts stand that the next ones are compared with.
const LIMITS: &str = "xtask/instruction-limits.json";
/// A count may be so many times what stands there.
const MOST: f64 = 1.1;
/// Repetitions of the two runs.
const FEW: u64 = 1_000;
const MANY: u64 = 3_000;

/// What is counted: a name, and the package, the example and its argument that do it.
const CASES: [(&str, &str, &str, &str); 5] = [
    ("decode-small", "notify-protocol", "decode_many", "small"),
    ("decode-large", "notify-protocol", "decode_many", "large"),
    ("decode-dropped", "notify-protocol", "decode_many", "dropped"),
    ("encode-small", "lobby-sessions", "encode_many", "small"),
    ("encode-large", "lobby-sessions", "encode_many", "large"),
];

/// Counts, prints, and compares with the limits or writes them. Without valgrind it says so and that is all.
///
/// # Errors
/// A count above its limit, named; and whatever keeps it from counting.
pub(super) async fn run(update: bool, progress: &mut (dyn FnMut(&str) + Send)) -> anyhow::Result<()> {
    let probe = Command::new("valgrind").arg("--version").stdin(Stdio::null()).output().await;
    let version = match probe {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(output) => return skip(&format!("valgrind --version ended with {}", output.status)),
        Err(error) => return skip(&format!("valgrind cannot be started: {error}")),
    };
    progress(&format!("counting with {version}"));
    let mut counts = BTreeMap::new();
    for (name, package, example, argument) in CASES {
        let program = build::release_example(package, example).await?;
        let few = count(&program, argument, FEW).await.context(name)?;
        let many = count(&program, argument, MANY).await.context(name)?;
        counts.insert(name.to_owned(), many.saturating_sub(few) / (MANY - FEW));
        progress(&format!("    {name}: {} instructions", counts[name]));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?.join(LIMITS);
    if update {
        let text = serde_json::to_string_pretty(&counts)? + "\n";
        return std::fs::write(&file, text).with_context(|| format!("write {LIMITS}"));
    }
    let limits = std::fs::read_to_string(&file).with_context(|| format!("read {LIMITS}"))?;
    let limits: BTreeMap<String, u64> =
        serde_json::from_str(&limits).with_context(|| format!("understand {LIMITS}"))?;
    let verdicts = compare(&counts, &limits);
    println!("{:<20}{:>14}{:>14}{:>8}", "", "instructions", "reference", "ratio");
    for verdict in &verdicts {
        println!("{}", verdict.line());
    }
    let dearer: Vec<&str> =
        verdicts.iter().filter(|verdict| !verdict.met()).map(|v| v.name.as_str()).collect();
    ensure!(
        dearer.is_empty(),
        "more than {MOST} × the instructions in {LIMITS}, or not in it: {}; where that is meant, run \
         `cargo xtask bench --instructions --update-limits`",
        dearer.join(", ")
    );
    Ok(())
}

fn skip(reason: &str) -> anyhow::Result<()> {
    println!("no instructions counted: {reason}");
    Ok(())
}

/// Instructions of one run.
async fn count(program: &Path, argument: &str, times: u64) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([argument, &times.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} under valgrind: {said}", program.display());
    collected(&said).with_context(|| format!("valgrind said:\n{said}"))
}

/// The count in callgrind's last words.
fn collected(said: &str) -> Option<u64> {
    let (_, after) = said.rsplit_once("Collected :")?;
    after.split_whitespace().next()?.parse().ok()
}

/// One count and what it is compared with.
#[derive(Debug, PartialEq)]
struct Verdict {
    name: String,
    count: u64,
    limit: Option<u64>,
}

impl Verdict {
    fn ratio(&self) -> Option<f64> {
        self.limit.map(|limit| self.count as f64 / limit.max(1) as f64)
    }

    fn met(&self) -> bool {
        self.ratio().is_some_and(|ratio| ratio <= MOST)
    }

    fn line(&self) -> String {
        let limit = self.limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
        let ratio = self.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
        format!("{:<20}{:>14}{limit:>14}{ratio:>8}", self.name, self.count)
    }
}

fn compare(counts: &BTreeMap<String, u64>, limits: &BTreeMap<String, u64>) -> Vec<Verdict> {
    let verdict = |(name, count): (&String, &u64)| Verdict {
        name: name.clone(),
        count: *count,
        limit: limits.get(name).copied(),
    };
    counts.iter().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_the_one_in_callgrind_s_last_words() {
        let said = "==7== Callgrind\n==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n";
        assert_eq!(collected(said), Some(1_234_567));
        assert_eq!(collected("==7== Collected : \n"), None);
        assert_eq!(collected("valgrind: fatal"), None);
    }

    #[test]
    fn a_tenth_more_is_allowed_and_what_has_no_limit_is_not() {
        let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let verdicts =
            compare(&map(&[("a", 1_100), ("b", 1_101), ("c", 5)]), &map(&[("a", 1_000), ("b", 1_000)]));
        let met: Vec<bool> = verdicts.iter().map(Verdict::met).collect();
        assert_eq!(met, [true, false, false]);
        assert!(verdicts[1].line().ends_with("1.101") && verdicts[2].line().contains("none"));
    }
}
