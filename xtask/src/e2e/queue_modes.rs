//! Whose queue it is, how long it stays, and what the lobby does about one that is there already.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::addressing::received;
use super::notifier::numbered;
use super::proxy::Swallow;
use super::refusals::exits;
use super::stage::Stage;
use crate::PATIENCE;
use crate::amqp_wire::Connection;
use crate::client::Transport;
use crate::lobby::Lobby;

const MESSAGES: u64 = 200;

fn shared_queue(stage: &Stage) -> String {
    format!("{}.lobby.client.notify", stage.exchange())
}

/// The queue that `/ready` names.
async fn queue_of(lobby: &Lobby) -> anyhow::Result<String> {
    let answer: Value = serde_json::from_str(&lobby.admin("/ready").await?.body)?;
    Ok(answer["queue"].as_str().context("no queue in /ready")?.to_owned())
}

/// Of two lobbies on one queue each notification goes to one; none is lost and none comes twice.
pub(super) async fn shared(stage: &Stage) -> anyhow::Result<()> {
    let setup = stage.setup().set("LOBBY_QUEUE__MODE", "shared").set("LOBBY_BROKER__PREFETCH", "1");
    let (mut first, mut second) = (stage.start(&setup).await?, stage.start(&setup).await?);
    ensure!(queue_of(&first).await? == shared_queue(stage), "the queue has another name");
    stage.queue_with_consumers(&shared_queue(stage), 2).await?;
    let mut notifier = stage.notifier().await?;
    for number in 0..MESSAGES {
        notifier.notify_all(&numbered(number)).await?;
    }
    let start = tokio::time::Instant::now();
    let counts = loop {
        let mut counts = Vec::new();
        for lobby in [&first, &second] {
            counts.push(lobby.metrics().await?.deliveries("broadcast"));
        }
        if counts.iter().sum::<u64>() >= MESSAGES {
            break counts;
        }
        ensure!(start.elapsed() < PATIENCE, "{counts:?} of {MESSAGES} arrived");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    ensure!(counts.iter().sum::<u64>() == MESSAGES, "{counts:?} of {MESSAGES}: some came twice");
    ensure!(counts.iter().all(|count| *count > 0), "one lobby got all: {counts:?}");
    stage.fact(format!("{} and {} of {MESSAGES} notifications", counts[0], counts[1]));
    first.stop().await?;
    second.stop().await?;
    let left = stage.queue_with_consumers(&shared_queue(stage), 0).await?;
    ensure!(left.messages == 0, "{} messages were left", left.messages);
    Ok(())
}

/// Of two singletons one consumes; the other serves, is unready and says why, and takes over.
pub(super) async fn singleton(stage: &Stage) -> anyhow::Result<()> {
    let setup = stage.setup().set("LOBBY_QUEUE__MODE", "singleton");
    let mut first = stage.start(&setup).await?;
    let other = setup.set("LOBBY_INSTANCE__NAME", "the-other");
    let mut second = stage.start_unready(&other).await?;
    second.unready_with("in use").await?;
    let mut waiting = stage.client(&second, Transport::Tcp, 42).await?;
    first.stop().await?;
    let took = second.ready().await.context("the second takes over")?;
    stage.fact(format!("took over {} ms after the first was gone", took.as_millis()));
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut waiting, &sentinel, &[&numbered(1)]).await?;
    second.stop().await
}

/// Lobbies with random names have queues of their own, which go with them.
pub(super) async fn random_names(stage: &Stage) -> anyhow::Result<()> {
    let random = stage.setup().set("LOBBY_INSTANCE__NAME", "random");
    let reason = ["instance.name", "queue.reliable", "after a restart"];
    exits(random.clone(), 78, &reason).await?;
    exits(random.clone().argument("check-config"), 78, &reason).await?;
    let setup = random.set("LOBBY_QUEUE__RELIABLE", "false");
    let (mut first, mut second) = (stage.start(&setup).await?, stage.start(&setup).await?);
    let (one, other) = (queue_of(&first).await?, queue_of(&second).await?);
    ensure!(one != other, "both have the queue {one}");
    let mut players = Vec::new();
    for lobby in [&first, &second] {
        players.push(stage.client(lobby, Transport::WebSocket, 42).await?);
    }
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    for player in &mut players {
        received(player, &sentinel, &[&numbered(1)]).await?;
    }
    first.stop().await?;
    second.stop().await?;
    for queue in [one, other] {
        let state = Connection::open(stage.url()).await?.queue_state(&queue).await;
        ensure!(state.is_err(), "{queue} is still there: {state:?}");
    }
    Ok(())
}

/// A queue with other arguments ends the start with the argument, both values and what to do; passively it is used.
pub(crate) async fn mismatch(stage: &Stage) -> anyhow::Result<()> {
    stage.lobby().await?.stop().await?;
    let longer = stage.setup().set("LOBBY_QUEUE__EXPIRES", "1h");
    let words = [
        &stage.queue(),
        "x-expires is 600000, asked for was 3600000",
        "LOBBY_QUEUE__EXPIRES",
        "rabbitmqctl delete_queue",
    ];
    exits(longer.clone(), 65, &words).await?;
    let lobby = stage.start(&longer.set("LOBBY_QUEUE__DECLARE", "passive")).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &[&numbered(1)]).await?;
    stage.leaves_nothing(lobby).await?;
    for declare in ["passive", "none"] {
        let elsewhere =
            stage.setup().set("LOBBY_QUEUE__NAME", "nowhere").set("LOBBY_QUEUE__DECLARE", declare);
        exits(elsewhere, 66, &["not found", "nowhere"]).await?;
    }
    Ok(())
}

/// Where it is wanted, a cancelled consumer drains the lobby and ends it; clients are told to come back. So it does where
/// the broker's word of it gets lost and the self-check finds the queue gone.
pub(super) async fn exit_on_cancel(stage: &Stage) -> anyhow::Result<()> {
    let (proxy, setup) = stage.proxied(true).await?;
    for told in [true, false] {
        let mut lobby = stage.start(&setup.clone().set("LOBBY_QUEUE__EXIT_ON_CANCEL", "true")).await?;
        let mut player = stage.client(&lobby, Transport::WebSocket, 42).await?;
        if !told {
            proxy.swallow(Swallow::Cancels);
        }
        let operator = Connection::open(stage.url()).await?;
        operator.delete_queue(&stage.queue()).await?;
        player.expect_close(1012).await?;
        let status = lobby.exited(PATIENCE).await?;
        ensure!(status.code() == Some(75), "exit code {:?}, told: {told}", status.code());
        // A queue that is looked for in vain closes the channel.
        let state = Connection::open(stage.url()).await?.queue_state(&stage.queue()).await;
        ensure!(state.is_err(), "the queue was declared again: {state:?}");
    }
    Ok(())
}
