//! Services written with other people's libraries publish to the lobby, and the right clients get the right bytes.
//!
//! Each library is given the same notifications. A queue of our own beside the lobby's keeps what it really wrote: the
//! clients must get those bytes, and the type of `user-id` on the wire is told. What Python makes easy to write by
//! accident (`None`, `True`, a float, text, `NaN`) is sent too. A sentinel on the same channel ends the stream.

mod case;
mod library;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use notify_protocol::{DEFAULT_EXCHANGE, NOTIFY_ROUTING_KEY};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use self::case::{Case, Expected};
use self::library::{IDS, Library};
use super::notifier::unique;
use super::stage::Stage;
use crate::PATIENCE;
use crate::amqp_wire::{Connection, Got};
use crate::client::{Client, Line, Transport};
use crate::environment::Environment;
use crate::lobby::Lobby;
use crate::python;

const RUN_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// Whoever these are, nothing is addressed to them.
const BYSTANDERS: [i64; 2] = [7, 8];

pub(super) async fn aio_pika(stage: &Stage) -> anyhow::Result<()> {
    scene(stage, DEFAULT_EXCHANGE, &[library::AIO_PIKA]).await
}

pub(super) async fn pika(stage: &Stage) -> anyhow::Result<()> {
    scene(stage, DEFAULT_EXCHANGE, &[library::PIKA]).await
}

pub(super) async fn kombu(stage: &Stage) -> anyhow::Result<()> {
    scene(stage, DEFAULT_EXCHANGE, &[library::KOMBU]).await
}

/// Its dispatcher publishes to `<service>.events` and nowhere else: the lobby's exchange has that name.
pub(super) async fn nameko(stage: &Stage) -> anyhow::Result<()> {
    scene(stage, "players.events", &[library::NAMEKO]).await
}

/// Its own call reaches everyone only; addressed messages go through its channel.
pub(super) async fn nuropb(stage: &Stage) -> anyhow::Result<()> {
    stage.fact("publish_event sets no header: broadcasts only, and the body is nuropb's envelope");
    scene(stage, DEFAULT_EXCHANGE, &[library::NUROPB_EVENT, library::NUROPB_CHANNEL]).await
}

pub(super) async fn fedora_messaging(stage: &Stage) -> anyhow::Result<()> {
    scene(stage, DEFAULT_EXCHANGE, &[library::FEDORA_MESSAGING]).await
}

/// Its own call cannot publish to a durable exchange; a channel of its connection can.
pub(super) async fn neon_mq_connector(stage: &Stage) -> anyhow::Result<()> {
    stage.fact("send_message declares the exchange anew, not durable: refused by the broker with 406");
    scene(stage, DEFAULT_EXCHANGE, &[library::NEON_SEND_MESSAGE, library::NEON_CHANNEL]).await
}

/// One lobby, clients on both transports, and each program in turn.
async fn scene(stage: &Stage, exchange: &str, libraries: &[Library]) -> anyhow::Result<()> {
    if stage.exchange() != DEFAULT_EXCHANGE {
        stage.skip("on a broker that is not ours, the programs' exchange is somebody else's");
        return Ok(());
    }
    let python = match python::environment().await? {
        Environment::Ready(python) => python,
        Environment::Unreachable(reason) => {
            stage.skip(reason);
            return Ok(());
        }
    };
    let mut lobby = stage.start(&stage.setup().set("LOBBY_BROKER__EXCHANGE", exchange)).await?;
    let mut audience = Audience::seated(stage, &lobby).await?;
    let mut expected = Vec::new();
    for library in libraries {
        let sentinel = unique("sentinel");
        let cases = library.cases(&sentinel);
        let ear = Connection::open(stage.url()).await?;
        let queue = ear.eavesdrop(exchange, NOTIFY_ROUTING_KEY).await?;
        let name = library.program;
        let answers = published(stage, &python, name, &cases).await.with_context(|| name)?;
        let sent = judged(&cases, &answers).with_context(|| name)?;
        let written = overheard(&ear, &queue, sent.len()).await.with_context(|| name)?;
        let letters = library.compared(&sent, &written).with_context(|| name)?;
        stage.fact(format!("{name}: {letters}"));
        audience.received(&sent, &written, &sentinel).await.with_context(|| name)?;
        expected.extend(sent.iter().map(|case| case.expected));
    }
    counted(&lobby, &expected).await?;
    lobby.stop().await?;
    stage.is_empty(&format!("{exchange}.lobby.client.notify.{}", stage.instance())).await
}

/// Runs the program with all cases and returns its answers, a line for each.
async fn published(
    stage: &Stage,
    python: &Path,
    program: &str,
    cases: &[Case],
) -> anyhow::Result<Vec<String>> {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/publishers");
    let mut command = Command::new(python);
    command.arg("-B").arg(programs.join(program)).current_dir(stage.directory());
    let url = stage.setup();
    command.env("AMQP_URL", url.value("LOBBY_BROKER__URL").context("the lobby's broker")?);
    command.env("HOME", stage.directory()).env("XDG_CONFIG_HOME", stage.directory());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("start the program")?;
    let mut input = child.stdin.take().context("the program's input")?;
    let lines: String = cases.iter().map(Case::line).collect();
    // Few enough for the pipe's buffer: nobody has to read meanwhile.
    input.write_all(lines.as_bytes()).await.context("hand the cases over")?;
    drop(input);
    let output = timeout(RUN_LIMIT, child.wait_with_output()).await.context("the program did not end")??;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "the program failed ({}): {stdout}{stderr}", output.status);
    let answers: Vec<_> = stdout.lines().map(str::to_owned).collect();
    ensure!(
        answers.len() == cases.len(),
        "{} cases, {} answers: {stdout}{stderr}",
        cases.len(),
        answers.len()
    );
    Ok(answers)
}

/// The cases that the library took; it must have refused the others, and in the expected way.
fn judged<'a>(cases: &'a [Case], answers: &[String]) -> anyhow::Result<Vec<&'a Case>> {
    let mut sent = Vec::new();
    for (case, answer) in cases.iter().zip(answers) {
        match case.expected {
            Expected::Refused(error) => {
                ensure!(answer.starts_with(error), "{}: wanted {error}, got {answer}", case.name);
            }
            _ => {
                ensure!(answer == "sent", "{}: {answer}", case.name);
                sent.push(case);
            }
        }
    }
    Ok(sent)
}

/// The next `count` messages of our own queue, and that no other follows.
async fn overheard(ear: &Connection, queue: &str, count: usize) -> anyhow::Result<Vec<Got>> {
    let start = Instant::now();
    let mut written = Vec::new();
    while written.len() < count {
        match ear.get(queue).await? {
            Some(got) => written.push(got),
            None => sleep(POLL).await,
        }
        ensure!(start.elapsed() < PATIENCE, "{} of {count} messages reached the exchange", written.len());
    }
    ensure!(ear.get(queue).await?.is_none(), "more than {count} messages reached the exchange");
    Ok(written)
}

/// The lobby counted every message once, under its outcome.
async fn counted(lobby: &Lobby, expected: &[Expected]) -> anyhow::Result<()> {
    for outcome in [Expected::To(0), Expected::Everyone, Expected::Dropped("")].map(Expected::outcome) {
        let wanted = expected.iter().filter(|expected| expected.outcome() == outcome).count();
        super::addressing::counted(lobby, outcome, u64::try_from(wanted)?).await?;
    }
    let metrics = lobby.metrics().await?;
    for reason in ["invalid_user_id", "non_json", "not_object"] {
        let wanted = expected.iter().filter(|expected| **expected == Expected::Dropped(reason)).count();
        let count = metrics.count("lobby_deliveries_total", &[("outcome", "dropped"), ("reason", reason)]);
        ensure!(count == u64::try_from(wanted)?, "dropped as `{reason}`: wanted {wanted}, counted {count}");
    }
    Ok(())
}

/// Clients with the ids that are addressed, and some with others, on both transports in turn.
struct Audience(Vec<(i64, Client)>);

impl Audience {
    async fn seated(stage: &Stage, lobby: &Lobby) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for (user, transport) in BYSTANDERS.into_iter().chain(IDS).zip(Transport::BOTH.into_iter().cycle()) {
            clients.push((user, stage.client(lobby, transport, user).await?));
        }
        Ok(Self(clients))
    }

    /// Each client got exactly the bytes of the messages that were for it, in order, and then the sentinel.
    async fn received(&mut self, sent: &[&Case], written: &[Got], sentinel: &str) -> anyhow::Result<()> {
        let Some((_, before)) = sent.split_last() else { return Ok(()) };
        for (user, client) in &mut self.0 {
            let mine = before.iter().zip(written).filter(|(case, _)| case.expected.is_for(*user));
            let wanted: Vec<_> = mine.map(|(_, got)| Line::new(got.body.clone())).collect();
            let got = client.expect_until(sentinel).await?;
            ensure!(got == wanted, "{}: wanted {wanted:?}, got {got:?}", client.name());
        }
        Ok(())
    }
}
