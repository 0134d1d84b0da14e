//! The limit of open files: raised as far as allowed, and the limit of connections kept below it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors that are not clients: broker, admin address, event queues, logs, connections being turned away.
const RESERVED: u64 = 128;

/// Raises the soft limit to the hard one, and lowers `max_connections` to what then fits.
pub fn raise(max_connections: &mut usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused at worst: the soft limit then stays.
    let _ = setrlimit(Resource::Nofile, raised);
    let Some(files) = getrlimit(Resource::Nofile).current else { return };
    let fits = clients_within(files);
    if *max_connections > fits {
        warn!(
            open_files = files,
            wanted = *max_connections,
            max_connections = fits,
            "the limit of open files allows fewer connections than `listen.max_connections`; raise it (ulimit -n, LimitNOFILE=)"
        );
        *max_connections = fits;
    }
}

fn clients_within(files: u64) -> usize {
    // Below twice the reserve, half must do.
    let clients = files.saturating_sub(RESERVED).max(files / 2);
    usize::try_from(clients).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_for_what_is_not_a_client() {
        for (files, clients) in [(1_048_576, 1_048_448), (1024, 896), (256, 128), (96, 48), (0, 0)] {
            assert_eq!(clients_within(files), clients, "{files}");
        }
    }
}
