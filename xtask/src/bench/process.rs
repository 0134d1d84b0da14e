//! What a process has used so far, as the kernel counts it, with its threads seen apart.
//!
//! A thread's time comes from `schedstat` (nanoseconds); where the kernel has none, from `stat` (ticks). How much of
//! the whole was spent in the kernel comes from `stat`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;

/// Totals since the process began.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// Nanoseconds of CPU by thread name, numbers cut off: `shard-0` and `shard-1` are one `shard`.
    pub(super) threads: BTreeMap<String, u64>,
    /// User and system time in ticks.
    user_ticks: u64,
    system_ticks: u64,
    /// Times that any thread gave up its CPU, by itself or not.
    pub(super) switches: u64,
    pub(super) resident_bytes: u64,
    /// Calls of `write` and its kin.
    pub(super) write_calls: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let process = format!("/proc/{pid}");
        let (user_ticks, system_ticks) = ticks(Path::new(&process))?;
        let mut usage = Self { user_ticks, system_ticks, ..Self::default() };
        for thread in fs::read_dir(format!("{process}/task")).context("threads of the process")? {
            let path = thread.context("a thread of the process")?.path();
            // A thread that ends while it is looked at has nothing to say.
            let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
            let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
            *usage.threads.entry(name).or_default() += thread_nanos(&path)?;
            usage.switches += switches(&path).unwrap_or(0);
        }
        usage.resident_bytes = resident(&process)?;
        let io = fs::read_to_string(format!("{process}/io")).unwrap_or_default();
        usage.write_calls = field(&io, "syscw:").unwrap_or(0);
        Ok(usage)
    }

    /// Nanoseconds of CPU of all threads.
    pub(crate) fn cpu(&self) -> u64 {
        self.threads.values().sum()
    }

    /// The threads that used most, with their milliseconds.
    pub(crate) fn busiest(&self) -> String {
        let mut threads: Vec<_> = self.threads.iter().collect();
        threads.sort_unstable_by_key(|(_, nanos)| std::cmp::Reverse(**nanos));
        let shown = threads.iter().take(3).map(|(name, nanos)| format!("{name} {} ms", *nanos / 1_000_000));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Nanoseconds of CPU of the thread `name`, 0 without one.
    pub(super) fn thread(&self, name: &str) -> u64 {
        self.threads.get(name).copied().unwrap_or(0)
    }

    /// What was used since `before`; memory as it is now.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let threads =
            self.threads.iter().map(|(name, cpu)| (name.clone(), cpu.saturating_sub(before.thread(name))));
        Self {
            threads: threads.collect(),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
            switches: self.switches.saturating_sub(before.switches),
            resident_bytes: self.resident_bytes,
            write_calls: self.write_calls.saturating_sub(before.write_calls),
        }
    }

    /// Which part of the time was spent in the kernel, from 0 to 1.
    pub(super) fn kernel_share(&self) -> f64 {
        self.system_ticks as f64 / (self.user_ticks + self.system_ticks).max(1) as f64
    }
}

fn resident(process: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("{process}/status")).context("status of the process")?;
    let kib = field(&status, "VmRSS:").context("VmRSS in the status")?;
    Ok(kib * 1024)
}

fn switches(thread: &Path) -> Option<u64> {
    let status = fs::read_to_string(thread.join("status")).ok()?;
    Some(field(&status, "voluntary_ctxt_switches:")? + field(&status, "nonvoluntary_ctxt_switches:")?)
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn thread_nanos(thread: &Path) -> anyhow::Result<u64> {
    if let Ok(text) = fs::read_to_string(thread.join("schedstat")) {
        return text.split(' ').next().and_then(|nanos| nanos.parse().ok()).context("time in schedstat");
    }
    let (user, system) = ticks(thread).unwrap_or_default();
    Ok((user + system) * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

fn ticks(task: &Path) -> anyhow::Result<(u64, u64)> {
    let path = task.join("stat");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    parse_ticks(&text).with_context(|| format!("times in {}", path.display()))
}

/// Fields 14 and 15; the name in field 2 may hold blanks and parentheses.
fn parse_ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 123 45 0 0 20 0 1 0 99";
        assert_eq!(parse_ticks(stat), Some((123, 45)));
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let before = Usage::of(std::process::id()).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let sum = (0..20_000_000u64).fold(0u64, |sum, _| sum ^ random.u64(..));
        assert_ne!(sum, 1);
        let used = Usage::of(std::process::id()).unwrap().since(&before);
        assert!(used.cpu() > 1_000_000 && used.resident_bytes > 0, "{used:?}");
    }
}
