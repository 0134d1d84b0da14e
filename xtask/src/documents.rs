//! Documents that are made from the code: the table of settings, the examples that documents show, and `contract/`.
//!
//! `cargo xtask docs` writes them; `cargo xtask ci` fails when one is not what the code makes now.

pub(crate) mod links;
mod log_events;
mod proofs;
mod rows;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

/// Documents that show files of the repository.
const SHOWING: [&str; 3] = ["README.md", rows::DOCUMENT, "docs/receipts.md"];
const CONFIGURATION: &str = "docs/configuration.md";

/// Writes them, and fails when one names a test, or links to a place, that there is not.
pub(crate) async fn write() -> anyhow::Result<()> {
    for (path, wanted) in documents().await? {
        std::fs::write(path, wanted).with_context(|| format!("write {path}"))?;
    }
    rows::check()?;
    proofs::check()?;
    links::check()
}

/// Fails when one is not what the code makes, or names a test or links to a place that there is not.
pub(crate) async fn check() -> anyhow::Result<()> {
    for (path, wanted) in documents().await? {
        let present = std::fs::read_to_string(path).unwrap_or_default();
        ensure!(present == wanted, "{path} is not what the code makes: run `cargo xtask docs`");
    }
    rows::check()?;
    proofs::check()?;
    links::check()
}

async fn documents() -> anyhow::Result<Vec<(&'static str, String)>> {
    let lobby = crate::build::lobby().await?;
    let table = Command::new(lobby).arg("config-table").output().await.context("run `lobby config-table`")?;
    ensure!(table.status.success(), "lobby config-table: {}", String::from_utf8_lossy(&table.stderr));
    let configuration = format!("{CONFIGURATION_HEAD}{}", String::from_utf8(table.stdout)?);
    let mut documents = crate::contract::documents()?;
    documents.push((CONFIGURATION, configuration));
    documents.push((log_events::DOCUMENT, log_events::document()?));
    for document in SHOWING {
        let text = std::fs::read_to_string(document).with_context(|| format!("read {document}"))?;
        let text = with_examples(&text, |path| {
            std::fs::read_to_string(path).with_context(|| format!("read {path}, which {document} shows"))
        });
        documents.push((document, text.with_context(|| document)?));
    }
    Ok(documents)
}

/// Replaces each code block that follows a line `<!-- path -->` by the content of the file at that path.
fn with_examples(text: &str, read: impl Fn(&str) -> anyhow::Result<String>) -> anyhow::Result<String> {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let path = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
        let Some(path) = path.filter(|path| path.contains('/')) else { continue };
        let fence = lines.next().filter(|line| line.starts_with("```"));
        out.push_str(fence.with_context(|| format!("no code block follows `{line}`"))?);
        out.push('\n');
        out.push_str(&read(path)?);
        lines
            .by_ref()
            .find(|line| *line == "```")
            .with_context(|| format!("the block of {path} has no end"))?;
        out.push_str("```\n");
    }
    Ok(out)
}

const CONFIGURATION_HEAD: &str = "<!-- Made by `cargo xtask docs` from crates/lobby-bin/src/config/settings.rs. -->
# Configuration

Each layer overrides the one before: defaults, the TOML file (`--config FILE`, else `LOBBY_CONFIG`, else `./lobby.toml`,
else `/etc/lobby/lobby.toml`), FAF's own variables, the environment, and `--set section.key=value`. A key that nobody
knows stops the start and is named. `lobby check-config` (`--json`) prints what is in force and where each value came from, a file with its line;
`lobby default-config` prints a commented file.

FAF's own variables work too: `MQ_EXCHANGE_NAME`, `MQ_SERVER`, `MQ_PORT`, `MQ_USER`, `MQ_PASSWORD` and `MQ_VHOST` for
`broker.exchange`, `hosts`, `port`, `user`, `password` and `vhost`. A variable `LOBBY_…` without a double underscore is not ours and is passed over.

Texts in the file may hold `${NAME}` and `${NAME:-default}` for variables of the environment; `$$` is one dollar sign. Durations are written like `250ms`, `30s`, `10m`; sizes like `65536`, `64KiB`, `1MiB`.

Secrets can stand in files: each secret key has one with `_file` (`admin.token_file`, `auth.secret_file`, `broker.url_file`, …), whose
content counts without its last line break. Of key and file the stronger layer's counts; both in one layer are refused. A file
that everybody on the machine may read is warned about.

SIGHUP has the whole configuration read again, files too. At once count: the limits on connections (`listen.max_connections`,
`max_accepts_per_second`, `accept_burst`, and the same per address), `auth.…` with the key set, the certificate for clients,
`admin.token`, `shutdown.drain_timeout`, `drain_window`, and `log.level`. The log tells each key that changed with its old and new value, or
that it needs a restart. When anything is wrong, nothing changes, and the log says what. Sessions stay in any case.

The connection to the broker: `broker.url`, and fields that each replace a part of it, so that `LOBBY_BROKER__PASSWORD`
alone changes a file's password and nothing else. A URL from a stronger layer replaces weaker fields too: a URL in the
environment is not mixed with a file's password. Of `password`, `password_file` and `password_command` the strongest layer's
counts; two in one layer are refused. Files and command are read again at each attempt to connect, certificates too, so that
what was renewed is used without a restart; an OAuth token is a password to RabbitMQ. `broker.tls_ca_file` replaces the system's
authorities. Of several hosts each is tried once without a wait between them, beginning with the one after the host that
was used last; a wait follows when all have failed, and the error names them all.

The queue: by default each lobby has its own, since players of every lobby must hear every notification. It is durable and
expires `queue.expires` after its lobby is gone, so that nothing is lost over a restart and nothing stays for ever. A second
lobby of the same name is refused by the broker; it serves clients, is not ready, and takes over when the first is gone.
`queue.reliable = false` makes the queue go with the connection: for instances whose name is `random`, which could not find
it again. The mode `shared` gives each notification to one lobby only: for services where it does not matter which.
Of `singleton` lobbies one consumes; the others stand by like a second one of the same name. A queue or exchange that
exists with other properties ends a start with exit code 65 and says which; the lobby never deletes one.

The self-check: every `self_check.interval` the lobby publishes a canary through its exchange to its own queue, by the key
`lobby.canary.INSTANCE`, on a connection of its own; no client gets one, and no other lobby. When neither a canary nor a
notification came for `self_check.max_age`, the lobby is not ready, says so, and connects again; it is ready again when it
hears something. Bindings are made again at each interval, whether they are missing or not, as AMQP does not tell: what a
publisher sends meanwhile is returned to it if it asks for that (mandatory) and no other queue takes it, or else lost to this
lobby. A canary that comes back, an exchange or queue that is gone and a queue without a consumer are noticed and repaired
(`lobby_self_check_repairs_total`). Where the broker blocks publishers or takes no canary from this user, silence proves
nothing: the lobby stays ready, `/ready` says `unknown` with the reason, and the log once what to do. Nor does it while
`broker.prefetch` is full of messages in work: `/ready` says `busy`. The user needs the
permission to write to the exchange; with `queue.declare` other than `active` somebody else binds the canary's key. Where
lobbies share a queue there is no self-check: one would take the other's canary.

What the broker refuses for good before the lobby has consumed for the first time ends it with an exit code of the cause's
own (`lobby --help` lists them); so does a file that cannot be read. Later the same makes it unready, and it keeps trying.
A broker that does not answer is waited for, until `broker.startup_timeout` if that is set; clients are served meanwhile.

Limits on connections: whoever is over one is told to try later. The limits for each address are off, since the lobby
counts the address that it sees: behind a proxy, a load balancer or a container network that hides where clients come
from, that is one address for all. Where clients connect directly, turn them on: players behind one router share its
address, so `listen.max_connections_per_address = 50` and `listen.max_accepts_per_second_per_address = 5` are a good
start. The rate in all lets 20,000 clients come back at once after a restart and then cuts a flood that lasts; a larger
lobby needs a larger `listen.accept_burst`, or its clients return over some seconds more. `lobby_connections_refused_total`
counts by limit, and a log line names the setting.

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_block_after_a_path_shows_that_file_and_other_blocks_stay() {
        let text = "a\n<!-- x/y.rs -->\n```rust\nold\n```\nb\n```\nkept\n```\n";
        let read = |path: &str| Ok(format!("content of {path}\n"));
        let want = "a\n<!-- x/y.rs -->\n```rust\ncontent of x/y.rs\n```\nb\n```\nkept\n```\n";
        assert_eq!(with_examples(text, read).unwrap(), want);
        assert!(with_examples("<!-- x/y -->\nno block\n", read).is_err());
        assert!(with_examples("<!-- x/y -->\n```\nno end\n", read).is_err());
    }
}
