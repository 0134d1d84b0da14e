//! `cargo xtask broker` ends with nothing left, however it ends: Ctrl-C, SIGTERM or SIGKILL.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// Starts the command with `directory` for temporary files; returns it with the port of AMQP.
fn start(directory: &Path) -> (Child, u16) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["broker", "--json"]).env("TMPDIR", directory).env_remove("AMQP_URL").stdout(Stdio::piped());
    let mut child = command.spawn().expect("start xtask");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let facts: Value = serde_json::from_str(&line).expect("facts in JSON");
    let url = facts["amqp_url"].as_str().expect("a URL");
    let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()).expect("a port");
    (child, port.parse().expect("a number"))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Node, epmd and guard inherit `TMPDIR`, so each of them would be found by it.
fn has_process(directory: &Path) -> bool {
    let needle = directory.as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut environments = processes.filter_map(|process| fs::read(process.path().join("environ")).ok());
    environments.any(|environment| environment.windows(needle.len()).any(|part| part == needle))
}

fn ends_clean(signal: Signal) {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut child, port) = start(directory.path());
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    assert!(has_process(directory.path()), "this test sees no process at all");
    kill_process(pid, signal).expect("signal xtask");
    let status = child.wait().expect("the end of xtask");
    assert_eq!(status.success(), signal != Signal::KILL, "{status}");
    eventually("the port is free", || TcpStream::connect(("127.0.0.1", port)).is_err());
    eventually("no process is left", || !has_process(directory.path()));
    let is_empty = || fs::read_dir(directory.path()).is_ok_and(|mut entries| entries.next().is_none());
    eventually("the directory is empty", is_empty);
}

#[test]
fn a_killed_command_leaves_nothing() {
    ends_clean(Signal::KILL);
}

#[test]
fn ctrl_c_and_sigterm_leave_nothing() {
    ends_clean(Signal::INT);
    ends_clean(Signal::TERM);
}
