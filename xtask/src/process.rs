//! Other processes by identity: a process id with its start time, so that a reused id is never signalled.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Does `work`, which blocks, from a `Drop` that may run among asynchronous tasks; they go on elsewhere meanwhile.
///
/// Without this, what is next in the same thread's queue waits too: a scenario that holds its clients' pings.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// One process. The start time, in clock ticks since boot, is 0 where `/proc` does not tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Identity {
    /// The process id.
    #[arg(long)]
    pub(crate) pid: u32,
    /// The start time as in `/proc/<pid>/stat`.
    #[arg(long)]
    pub(crate) started: u64,
}

impl Identity {
    /// The process that has this id now.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, started: start_time(pid).unwrap_or(0) }
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        let Some(pid) = self.raw() else { return false };
        match start_time(self.pid) {
            Some(started) => started == self.started,
            // No `/proc`: the process id alone must do. With `/proc`, no entry means no process.
            None => self.started == 0 && test_kill_process(pid).is_ok(),
        }
    }

    /// Sends `signal`; a process that is gone is no error.
    pub(crate) fn signal(self, signal: Signal) {
        if let Some(pid) = self.raw()
            && self.is_alive()
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Blocks until it is gone, at most `limit`; false if it is still there.
    pub(crate) fn wait_gone(self, limit: Duration) -> bool {
        let begin = Instant::now();
        while self.is_alive() {
            if begin.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// SIGTERM, then SIGKILL after `grace`; returns when it is gone.
    pub(crate) fn end(self, grace: Duration) {
        self.signal(Signal::TERM);
        if !self.wait_gone(grace) {
            self.signal(Signal::KILL);
            self.wait_gone(Duration::from_secs(5));
        }
    }

    fn raw(self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }
}

/// Field 22 of `/proc/<pid>/stat`, counted behind the command in brackets; `None` for a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time_and_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id());
        assert!(identity.is_alive());
        assert!(
            !Identity { started: identity.started + 1, ..identity }.is_alive(),
            "a reused id is another process"
        );
        identity.end(Duration::from_secs(5));
        assert!(!identity.is_alive(), "a zombie does not run");
        child.wait().unwrap();
    }

    /// One thread, and a task in the slot that no other thread may take from.
    #[test]
    fn what_blocks_holds_no_other_task() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let held = runtime.block_on(async {
            let blocked = tokio::spawn(async {
                let (sender, receiver) = std::sync::mpsc::sync_channel(1);
                tokio::spawn(async move { sender.send(()) });
                blocking(|| receiver.recv_timeout(Duration::from_secs(10)))
            });
            blocked.await.unwrap()
        });
        held.expect("the other task waited");
        assert_eq!(blocking(|| 7), 7, "without a runtime");
    }

    #[tokio::test]
    async fn what_blocks_may_do_so_in_a_runtime_of_one_thread() {
        assert_eq!(blocking(|| 7), 7);
    }
}
