//! A lobby that is killed again and again, and the player who comes back to it each time.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;

use crate::PATIENCE;
use crate::amqp_wire::Outcome;
use crate::client::{Client, Event, Transport};
use crate::faults::scene::Scene;
use crate::lobby::Lobby;
use crate::stage::flood::{Source, is_for};
use crate::stage::proxy::Proxy;
use crate::stage::tally::{Marks, Outcomes, Tally};

const PREFETCH: u64 = 200;
/// One of the users to whom the stream is addressed.
const USER: i64 = 1;
/// What the player reads before the lobby is killed.
const FLOWING: usize = 300;
/// Batches in a second, of [`Source::at`].
const BATCHES: u64 = 50;

/// The player is logged in before the lobby hears its broker, so that everything that comes is for somebody who is
/// there. What may be lost then is what was acked and did not reach the socket, and lies at the moment of a kill.
pub(super) async fn killed(scene: &Scene) -> anyhow::Result<()> {
    let kills = scene.pick(4, 20);
    let mut lives = Vec::new();
    let (mut marks, mut source, mut redelivered) = (Marks::new(), None, 0);
    for _ in 0..kills {
        let (mut lobby, proxy, mut player) = born(scene).await?;
        if source.is_none() {
            let batch = 1_000 / BATCHES;
            source = Some(Source::at(scene.url().clone(), scene.exchange().to_owned(), 1, batch));
        }
        let mut numbers = read(&mut player, FLOWING).await?;
        let again = lobby.metrics().await?.count("lobby_redelivered_total", &[]);
        ensure!(again <= PREFETCH, "{again} messages came back, the prefetch is {PREFETCH}");
        redelivered += again;
        lobby.signal(Signal::KILL)?;
        lobby.exited(PATIENCE).await?;
        numbers.extend(rest(&mut player).await?);
        lives.push(numbers);
        merge(&mut marks, &proxy.marks());
        // The broker has noticed, and what was not acked waits again.
        scene.queue_with_consumers(&scene.queue(), 0).await?;
    }
    ensure!(redelivered > 0, "nothing was unacked whenever the lobby was killed");
    let (lobby, proxy, mut player) = born(scene).await?;
    let outcomes = source.context("no source")?.finish().await?;
    let sentinel = scene.notifier().await?.sentinel().await?;
    let lines = player.expect_until(&sentinel).await?;
    lives.push(lines.iter().filter_map(crate::client::Line::seq).collect());
    merge(&mut marks, &proxy.marks());

    let (outcomes, between) = without_lost_at_kills(outcomes, &lives)?;
    ensure!(
        between <= kills * PREFETCH,
        "{between} messages were acked and not written over {kills} kills, the prefetch is {PREFETCH}"
    );
    let mut tally = Tally::of(&outcomes);
    tally.add(player.name(), &lives.concat(), &outcomes, |seq| is_for(seq, USER));
    scene.fact(format!(
        "{kills} kills: {redelivered} messages came back, {} of them had reached the player; {between} were acked and had \
         not reached the socket",
        tally.duplicated
    ));
    ensure!(
        tally.duplicated <= kills * PREFETCH,
        "{} duplicates over {kills} kills, the prefetch is {PREFETCH}",
        tally.duplicated
    );
    scene.count(&tally, tally.unmarked(&marks))?;
    drop(player);
    scene.leaves_nothing(lobby).await
}

/// A lobby that consumes, with the player logged in first.
async fn born(scene: &Scene) -> anyhow::Result<(Lobby, Proxy, Client)> {
    let (proxy, setup) = scene.proxied(false).await?;
    let setup = setup
        .set("LOBBY_BROKER__PREFETCH", PREFETCH.to_string())
        // Something is unacked whenever it dies.
        .set("LOBBY_BROKER__ACK_DELAY", "50ms");
    let mut lobby = scene.start_unready(&setup).await?;
    let player = scene.client(&lobby, Transport::Tcp, USER).await?;
    proxy.open();
    lobby.ready().await?;
    scene.watch(&lobby).await?;
    Ok((lobby, proxy, player))
}

async fn read(player: &mut Client, count: usize) -> anyhow::Result<Vec<u64>> {
    let mut numbers = Vec::with_capacity(count);
    while numbers.len() < count {
        let line = player.line().await?;
        numbers.push(line.seq().with_context(|| format!("not a number: {line}"))?);
    }
    Ok(numbers)
}

/// What the kernel still had for the player of a lobby that is dead.
async fn rest(player: &mut Client) -> anyhow::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    loop {
        match player.next().await {
            Ok(Event::Line(line)) => numbers.extend(line.seq()),
            // The process may have died inside of a line.
            Ok(Event::Ended(_)) | Err(_) => return Ok(numbers),
        }
    }
}

fn merge(marks: &mut Marks, more: &Marks) {
    for (number, count) in more {
        *marks.entry(*number).or_default() += count;
    }
}

/// The ledger in which what a kill may have cost has an unknown outcome; how much that is. Pure.
///
/// # Errors
/// A number is missing that was not under way at the moment of a kill.
fn without_lost_at_kills(mut outcomes: Outcomes, lives: &[Vec<u64>]) -> anyhow::Result<(Outcomes, u64)> {
    let received: BTreeSet<u64> = lives.iter().flatten().copied().collect();
    let gaps: Vec<_> =
        lives.windows(2).filter_map(|pair| Some((*pair[0].iter().max()?, *pair[1].iter().min()?))).collect();
    let mut lost = 0;
    for (number, outcome) in &mut outcomes {
        if *outcome != Outcome::Confirmed || !is_for(*number, USER) || received.contains(number) {
            continue;
        }
        if !gaps.iter().any(|(last, next)| last < number && number < next) {
            bail!("number {number} is lost and was not under way when the lobby was killed");
        }
        *outcome = Outcome::Unknown;
        lost += 1;
    }
    Ok((outcomes, lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_two_lives_may_be_lost() {
        let mine: Vec<u64> = (0..).filter(|seq| is_for(*seq, USER)).take(6).collect();
        let outcomes = || -> Outcomes { mine.iter().map(|seq| (*seq, Outcome::Confirmed)).collect() };
        let judge = |lives: &[&[usize]]| {
            let lives: Vec<Vec<u64>> =
                lives.iter().map(|life| life.iter().map(|at| mine[*at]).collect()).collect();
            without_lost_at_kills(outcomes(), &lives).map(|(_, lost)| lost)
        };
        assert_eq!(judge(&[&[0, 1, 2], &[1, 2, 3, 4, 5]]).unwrap(), 0, "some came back");
        assert_eq!(judge(&[&[0, 1], &[3, 4, 5]]).unwrap(), 1, "acked, and not yet at the socket");
        assert!(judge(&[&[0, 2], &[3, 4, 5]]).is_err(), "lost in the middle of a life");
        assert!(judge(&[&[0, 1, 3], &[1, 3, 4, 5]]).is_err(), "lost and others came back");
        assert!(judge(&[&[0, 1, 2, 3], &[4]]).is_err(), "lost at the end");
    }
}
