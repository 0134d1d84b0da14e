//! The limit on memory that a container, a service manager or a shell has set: what waits for clients is kept well
//! below it, so that slow clients are closed before the kernel ends the process.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytesize::ByteSize as Shown;
use rustix::process::{Resource, getrlimit};
use tracing::warn;

use crate::config::ByteSize;

/// Where control groups are, by convention (cgroups(7)).
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// A group without a limit says a number like this in the first version.
const NO_LIMIT: u64 = 1 << 60;

/// Lowers `outbox_total` to half of the memory that the process may use. The other half is for everything else, above
/// all for the messages of a second in which nobody counts as slow yet.
pub fn heed(outbox_total: &mut ByteSize) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = files(Path::new(CONTROL_GROUPS), &own).into_iter().filter_map(|file| group_limit(&file));
    let Some(limit) = groups.chain(getrlimit(Resource::Data).current).min() else { return };
    let fits = within(limit);
    if outbox_total.0 > fits {
        warn!(
            memory_limit = %Shown::b(limit),
            wanted = %Shown::b(outbox_total.0 as u64),
            outbox_total_bytes = %Shown::b(fits as u64),
            "the limit on memory allows less than `sessions.outbox_total_bytes`; raise it, or lower the setting"
        );
        outbox_total.0 = fits;
    }
}

fn within(limit: u64) -> usize {
    usize::try_from(limit / 2).unwrap_or(usize::MAX)
}

/// The files that may hold a limit: of the process's group and of each above it, in either version of control groups.
/// `own` is `/proc/self/cgroup`: lines of `number:controllers:path`, where version 2 names no controllers.
fn files(root: &Path, own: &str) -> Vec<PathBuf> {
    let groups = own.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (directory, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            list if list.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        Some((directory, path.trim_start_matches('/').to_owned(), file))
    });
    let above = |(directory, path, file): (PathBuf, String, &'static str)| {
        // In a container the path may be that of the host: its own group is then the root.
        let ancestors: Vec<_> = Path::new(&path).ancestors().map(Path::to_owned).collect();
        ancestors.into_iter().map(move |path| directory.join(path).join(file))
    };
    groups.flat_map(above).collect()
}

/// `max` and a file that is not there are no limit.
fn group_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_group_and_of_those_above_it_are_looked_for_in_both_versions() {
        let own = "9:cpu,cpuacct:/x\n4:memory:/a/b\n0::/c.slice\n";
        let found: Vec<_> =
            files(Path::new("/r"), own).iter().map(|file| file.display().to_string()).collect();
        let wanted = [
            "/r/memory/a/b/memory.limit_in_bytes",
            "/r/memory/a/memory.limit_in_bytes",
            "/r/memory/memory.limit_in_bytes",
            "/r/c.slice/memory.max",
            "/r/memory.max",
        ];
        assert_eq!(found, wanted);
        assert_eq!(files(Path::new("/r"), "0::/\n"), [PathBuf::from("/r/memory.max")]);
        assert!(files(Path::new("/r"), "nonsense\n").is_empty());
    }

    #[test]
    fn only_a_number_that_somebody_has_set_is_a_limit() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("memory.max");
        assert_eq!(group_limit(&file), None);
        for (text, limit) in
            [("268435456\n", Some(256 << 20)), ("max\n", None), ("9223372036854771712\n", None), ("", None)]
        {
            fs::write(&file, text).expect("written");
            assert_eq!(group_limit(&file), limit, "{text}");
        }
    }

    #[test]
    fn half_of_the_limit_may_wait_for_clients() {
        assert_eq!(within(256 << 20), 128 << 20);
    }
}
