//! Where the figures come from.

use std::fs;

/// The machine and the system in one line each.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) open_files: u64,
}

impl Machine {
    /// This machine. Raises the limit of open files as far as it may be raised, since each client needs one here and
    /// one in the server.
    pub(crate) fn prepared() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: f64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| "unknown processor".to_owned()),
            memory_gib: kib / f64::from(1 << 20),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            open_files: raise_file_limit(),
        }
    }

    /// The most clients that one process can hold.
    pub(crate) fn most_clients(&self) -> u32 {
        /// Files that lobby and driver need besides.
        const OTHERS: u64 = 200;
        u32::try_from(self.open_files.saturating_sub(OTHERS)).unwrap_or(u32::MAX)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!(
            "{} × {}, {:.0} GiB, {}, {} open files a process",
            self.cores, self.processor, self.memory_gib, self.kernel, self.open_files
        )
    }
}

fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 40_000;
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    // Whether more than the hard limit may be had is for the system to say.
    for (current, maximum) in [(WANTED, maximum.max(WANTED)), (WANTED.min(maximum), maximum)] {
        let wanted = Rlimit { current: Some(current), maximum: Some(maximum) };
        if setrlimit(Resource::Nofile, wanted).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
