//! The publishers that people copy: each mistake ends in an error before anything is sent, and each vector that a
//! publisher can express becomes what the contract says.
//!
//! The program beside a publisher evaluates one expression a line and answers with the message id or the error. A queue
//! of our own beside the lobby's sees everything that was really sent.

mod call;
mod language;
mod mistakes;
mod program;
mod receipts;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use self::call::{Call, Wanted};
use self::language::{JAVA, Language, PYTHON, TYPESCRIPT};
use self::program::Program;
use super::stage::Stage;
use super::vectors;
use crate::PATIENCE;
use crate::amqp_wire::{Connection, Got, WrittenProperties};
use crate::client::{Client, Line, Transport};
use crate::environment::Environment;
use crate::late::Late;
use crate::{java, node, python};

/// What the programs give their publishers, for connecting.
const PUBLISHER_LIMIT: Duration = Duration::from_secs(10);
/// A connection over loopback that is not there by now never will be.
const SWALLOWED: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(10);
/// Somebody nothing is addressed to.
const BYSTANDER: i64 = 7;
/// The types in which a user id may stand on the wire.
const INTEGERS: &str = "bBsuIilL";

/// `publishers/python/notify_pika.py`.
pub(super) async fn python_pika(stage: &Stage) -> anyhow::Result<()> {
    scene(stage, &PYTHON, python::environment().await?, "notify_pika").await
}

/// `publishers/python/notify_aio_pika.py`.
pub(super) async fn python_aio_pika(stage: &Stage) -> anyhow::Result<()> {
    scene(stage, &PYTHON, python::environment().await?, "notify_aio_pika").await
}

/// `publishers/typescript/notify.ts`.
pub(super) async fn typescript(stage: &Stage) -> anyhow::Result<()> {
    scene(stage, &TYPESCRIPT, node::environment().await?, "notify").await
}

/// `publishers/java/Notify.java`.
pub(super) async fn java(stage: &Stage) -> anyhow::Result<()> {
    let environment = java::environment().await?;
    if let Environment::Ready(classes) = &environment {
        connecting_has_a_limit(stage, &JAVA, classes).await?;
    }
    scene(stage, &JAVA, environment, "Notify").await
}

async fn scene(
    stage: &Stage,
    language: &'static Language,
    environment: Environment,
    publisher: &str,
) -> anyhow::Result<()> {
    let environment = match environment {
        Environment::Ready(environment) => environment,
        Environment::Unreachable(reason) => {
            stage.skip(reason);
            return Ok(());
        }
    };
    let broker = stage.setup();
    let broker = broker.value("LOBBY_BROKER__URL").context("the broker")?;
    let start = || Program::start(language, &environment, publisher, broker, stage.exchange());
    nobody_there(stage, language, start()?).await?;

    let setup = stage.setup().set("LOBBY_SESSIONS__DUPLICATE_LOGIN", "allow");
    let lobby = stage.start(&setup).await?;
    let calls = call::all(language, &vectors::cases()?)?;
    let mut audience = Vec::new();
    let mut users: Vec<_> = calls.iter().filter_map(|call| call.wanted.user()).chain([BYSTANDER]).collect();
    users.sort_unstable();
    users.dedup();
    for transport in Transport::BOTH {
        for &user in &users {
            audience.push((user, stage.client(&lobby, transport, user).await?));
        }
    }
    let ear = Connection::open(stage.url()).await?;
    let queue = ear.eavesdrop(stage.exchange(), NOTIFY_ROUTING_KEY).await?;

    let mut program = start()?;
    let mut sent = Vec::new();
    for call in &calls {
        let answer = program.publish(&call.expression).await.with_context(|| call.name.clone())?;
        if call.judge(&answer)? {
            let got = overheard(&ear, &queue).await.with_context(|| call.name.clone())?;
            check_written(call, &got).with_context(|| call.name.clone())?;
            sent.push((call, got));
        }
    }
    program.end().await?;
    ensure!(ear.get(&queue).await?.is_none(), "a refused notification was sent all the same");

    let sentinel = stage.notifier().await?.sentinel().await?;
    for (user, client) in &mut audience {
        received(*user, client, &sent, &sentinel).await?;
    }
    let mut program = start()?;
    receipts::told(stage, language, &mut program, &ear, &queue).await?;
    program.end().await?;
    let refused = |what: fn(&Call) -> bool| calls.iter().filter(|call| what(call)).count();
    let mistakes = refused(|call| call.is_mistake);
    let vectors = calls.len() - mistakes;
    let unsent = refused(|call| !call.is_mistake && matches!(call.wanted, Wanted::Refused(_)));
    stage.fact(format!(
        "{mistakes} mistakes refused; of {} vectors {vectors} can be said: {} published, {unsent} refused",
        vectors::COUNT,
        sent.len()
    ));
    stage.leaves_nothing(lobby).await
}

/// Without a lobby nobody hears: first there is no exchange, then nothing is bound to it.
async fn nobody_there(stage: &Stage, language: &Language, mut program: Program) -> anyhow::Result<()> {
    let call = language.broadcast(language.one_of("{}", "{}", "Map.of()"));
    let missing = program.publish(&call).await?;
    ensure!(missing.starts_with("Unroutable: ") && missing.contains("not exist"), "no exchange: {missing}");
    Connection::open(stage.url()).await?.declare_exchange(stage.exchange()).await?;
    let unbound = program.publish(&call).await?;
    ensure!(
        unbound.starts_with("Unroutable: ") && unbound.contains("no lobby is bound"),
        "no lobby: {unbound}"
    );
    program.end().await
}

/// A broker's host that swallows whatever is sent to it: the publisher gives up after its own time, not the kernel's two
/// minutes.
async fn connecting_has_a_limit(
    stage: &Stage,
    language: &'static Language,
    environment: &Path,
) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4().context("a socket")?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).context("an address")?;
    let full = socket.listen(1).context("listen")?;
    let address = full.local_addr()?;
    let mut filling = Vec::new();
    while let Ok(connected) = timeout(SWALLOWED, TcpStream::connect(address)).await {
        filling.push(connected.context("fill the backlog")?);
    }
    let broker = format!("amqp://{address}/%2f");
    let mut program = Program::start(language, environment, "Notify", &broker, stage.exchange())?;
    let begin = Instant::now();
    let answer = program.publish(&language.broadcast("Map.of()")).await?;
    ensure!(answer.starts_with("NotPublished: ") && answer.contains("no answer in time"), "{answer}");
    ensure!(begin.elapsed() < 2 * PUBLISHER_LIMIT, "it took {:?}", begin.elapsed());
    drop((full, filling));
    program.end().await
}

/// The one message that our own queue holds.
async fn overheard(ear: &Connection, queue: &str) -> anyhow::Result<Got> {
    let start = Instant::now();
    loop {
        if let Some(got) = ear.get(queue).await? {
            return Ok(got);
        }
        ensure!(start.elapsed() < PATIENCE, Late("the message never reached the exchange".to_owned()));
        sleep(POLL).await;
    }
}

fn check_written(call: &Call, got: &Got) -> anyhow::Result<()> {
    use WrittenProperties as Has;
    let wanted =
        [Has::CONTENT_TYPE, Has::CONTENT_ENCODING, Has::DELIVERY_MODE, Has::MESSAGE_ID, Has::TIMESTAMP];
    ensure!(
        wanted.into_iter().all(|property| got.properties.has(property)),
        "a property is missing: {got:?}"
    );
    ensure!(!got.properties.has(Has::USER_ID), "the property user-id is set");
    let headers: Vec<_> = got.headers.iter().map(|header| (header.name.as_str(), header.letter)).collect();
    let fits = match (&call.wanted, headers.as_slice()) {
        (Wanted::User(_), [("user-id", letter)]) => INTEGERS.contains(*letter),
        (Wanted::Channel, [("channel", letter)]) => *letter == 'S',
        (Wanted::Everyone, []) => true,
        _ => false,
    };
    ensure!(fits, "headers {headers:?}");
    Ok(())
}

/// The client got exactly what was for it, in order, byte for byte.
async fn received(
    user: i64,
    client: &mut Client,
    sent: &[(&Call, Got)],
    sentinel: &str,
) -> anyhow::Result<()> {
    let mine: Vec<_> = sent.iter().filter(|(call, _)| call.wanted.is_for(user)).collect();
    let got = client.expect_until(sentinel).await?;
    for ((call, _), line) in mine.iter().zip(&got) {
        let wanted = Line::new(call.line()?);
        ensure!(*line == wanted, "{}: {} got {line}, wanted {wanted}", call.name, client.name());
    }
    ensure!(got.len() == mine.len(), "{} got {} lines, wanted {}", client.name(), got.len(), mine.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_python_publishers_check_in_the_same_words() {
        let common = |text: &str| {
            let (_, rest) = text.split_once("# ---- What is said").expect("its beginning");
            rest.split_once("# ---- How it is sent").expect("its end").0.to_owned()
        };
        let pika = include_str!("../../../publishers/python/notify_pika.py");
        let aio_pika = include_str!("../../../publishers/python/notify_aio_pika.py");
        assert_eq!(common(pika), common(aio_pika));
    }

    #[test]
    fn publishers_name_what_the_contract_names() {
        use notify_protocol::{DEFAULT_EXCHANGE, limits};
        let limit = |digits: usize| {
            let digits = digits.to_string();
            let (head, tail) = digits.split_at(1);
            format!("{head}_{}_{}", &tail[..3], &tail[3..])
        };
        for text in [
            include_str!("../../../publishers/python/notify_pika.py"),
            include_str!("../../../publishers/python/notify_aio_pika.py"),
            include_str!("../../../publishers/typescript/notify.ts"),
            include_str!("../../../publishers/java/Notify.java"),
        ] {
            for name in [
                format!("EXCHANGE = \"{DEFAULT_EXCHANGE}\""),
                format!("ROUTING_KEY = \"{NOTIFY_ROUTING_KEY}\""),
                format!("MAX_BODY_BYTES = {}", limit(limits::DEFAULT_MAX_BODY_BYTES)),
                "253_402_300_799".to_owned(),
            ] {
                assert!(text.contains(&name), "{name}");
            }
        }
        assert_eq!(limits::MAX_TIMESTAMP_SECONDS, 253_402_300_799);
    }
}
