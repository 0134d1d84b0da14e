//! `docs/BENCHMARKS.md`: the results with all that is needed to get them again.

use std::fmt::Write as _;

use super::{
    body::BODY_LEN,
    machine::Machine,
    plan::Plan,
    running,
    sample::Results,
    table::tables,
    targets::{Verdict, judge},
};

/// Names of the document and of the plot beside it, in the repository's `docs`.
pub(super) const DOCUMENT: &str = "docs/BENCHMARKS.md";
pub(super) const PLOT: &str = "docs/benchmarks.svg";

/// What the figures depend on besides the lobby.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) machine: Machine,
    pub(super) broker: String,
    /// What the peers that took part say of themselves.
    pub(super) peers: Vec<String>,
}

/// The whole document.
pub(super) fn markdown(results: &Results, plan: &Plan, place: &Place, command: &str) -> String {
    let mut out = String::new();
    let mut put = |text: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{text}");
    };
    put("# Benchmarks");
    put("Written by the benchmark itself; do not edit. The command that wrote it:\n");
    put(&format!("```sh\n{command}\n```\n"));
    put("| | |\n| --- | --- |");
    put(&format!("| machine | {} |", place.machine.text()));
    put(&format!("| broker | {} |", place.broker));
    if !place.peers.is_empty() {
        put(&format!("| peers | {} |", place.peers.join("; ")));
    }
    put(&format!("| message | {BODY_LEN} bytes of JSON and a newline; transient, confirms pipelined |"));
    put(&format!(
        "| repetitions | {}; shown are medians, in parentheses the least and the most |",
        results.runs()
    ));
    let settings: Vec<_> = running::settings()
        .iter()
        .filter(|(key, _)| !key.contains("SECRET"))
        .map(|(k, v)| format!("`{k}={v}`"))
        .collect();
    put(&format!("| lobby | release build, defaults but {} |\n", settings.join(", ")));
    put("![Server CPU per delivery](benchmarks.svg)\n");
    put("## Targets");
    put(&targets(&judge(results, plan.deliveries)));
    put("## Results");
    for table in tables(results) {
        put(&format!("### {}\n{}", table.scenario, table.for_document()));
    }
    let remarks = results.remarks();
    if !remarks.is_empty() {
        put("## Remarks");
        put(&remarks.iter().map(|remark| format!("- {remark}\n")).collect::<String>());
    }
    put(&method(plan));
    out
}

fn targets(verdicts: &[Verdict]) -> String {
    let rows = verdicts.iter().map(|verdict| {
        let met = if verdict.met { "met" } else { "**missed**" };
        format!("| {} | {} | {met} |\n", verdict.text, verdict.got)
    });
    format!("| target | measured | |\n| --- | --- | --- |\n{}", rows.collect::<String>())
}

fn method(plan: &Plan) -> String {
    format!(
        "## How it is measured\n\
         - *floor write* and *floor writev* are a process of the benchmark's own that takes the same messages from a \
         plain connection, without a broker, and writes them with blocking calls: one for each delivery, or one for all \
         that waits for a client, 200 messages at most (the lobby's prefetch). They run in the same repetition as the lobby, with the same clients.\n\
         - *floor io_uring* does what *floor writev* does, but hands the kernel the writes to all clients in one \
         system call, as a ring of `send` operations.\n\
         - *nats-server* and *mosquitto* get the same messages over one connection of their own protocol, and the same \
         clients: raw sockets, each with one subscription for everyone's messages and one for its own. Defaults, \
         but no pings (NATS), and `set_tcp_nodelay` and no persistence (mosquitto, quality of service 0). They promise \
         less: messages that never came and connections that they ended are counted, not forbidden; what was \
         received is in order and unchanged.\n\
         - *paced*: 20 broadcasts, or 1,000 unicasts, a second for {:?}. *saturated*: as fast as it goes, until {} \
         deliveries.\n\
         - Every delivery is checked for loss, order and content, byte by byte; the first that is wrong fails the \
         command, and so does a connection that ends. No client is closed as too slow (outbox of 1 MiB each).\n\
         - Server CPU is user and system time of the server's threads; the time from publish to receipt is taken on one \
         clock, as the driver reads. Messages, broker, lobby and clients share the machine.\n\
         - *slow-readers*: 1 % of 1,000 clients stop reading; bursts fill their sockets until the lobby must keep \
         their messages, then the paced broadcasts are measured, then bursts overflow their outboxes and the lobby \
         closes exactly those clients.\n\
         - An idle connection's memory is what its server's resident memory grew by, divided by the connections, two \
         seconds after the last login.\n\
         - *amqp*: `notify-amqp` alone, in the example `consume_waiting`: {} messages of 200 bytes are published by \
         one `Publisher` from 64 tasks, each confirmed, then consumed from the waiting queue with a handler that \
         does nothing, acks included. That CPU is the whole process's while it consumes.\n",
        plan.paced, plan.deliveries, plan.amqp_messages
    )
}
