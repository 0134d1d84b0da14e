//! What a shard does first, and what it does together: deliveries, orders, and what clients say.

mod rig;

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use lobby_sessions::{Authenticator, Transport, Verdict};
use notify_protocol::UserId;
use rig::{Client, Dropped, Lobby, PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, ErrorKind},
    net::TcpStream,
    time::timeout,
};

const PING: &str = "{\"command\":\"ping\"}\n";

/// Keeps the user's shard from its work once it has done what waits there now, until `release` is dropped.
fn stall<'a>(lobby: &Lobby, user: i64, release: &'a Dropped, ticket: rig::Ticket) -> MutexGuard<'a, bool> {
    let guard = release.0.lock().expect("not poisoned");
    lobby.sessions.unicast(UserId::new(user), lobby.frame("{}"), ticket);
    guard
}

#[tokio::test]
async fn broadcasts_with_unicasts_between_them_keep_their_order_and_share_a_write() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let (mut addressed, mut other) = (lobby.client(1).await, lobby.client(2).await);
    lobby.until("welcomes are counted", |s| s.messages_written == 2).await;
    let before = lobby.sessions.stats().writes;
    let (ticket, release) = rig::ticket();
    let stalled = stall(&lobby, 99, &release, ticket);
    let all: Vec<_> = (0..200).map(|n| format!("{{\"n\":{n}}}")).collect();
    for (n, json) in all.iter().enumerate() {
        if n % 2 == 0 {
            lobby.broadcast(json)
        } else {
            lobby.unicast(1, json)
        };
    }
    drop(stalled);
    for (n, json) in all.iter().enumerate() {
        assert_eq!(addressed.line().await, *json);
        if n % 2 == 0 {
            assert_eq!(other.line().await, *json);
        }
    }
    // Two batches at most: what the shard took with the ticket that stalled it, and what came after.
    lobby.until("all written", |s| s.messages_written == 2 + 300).await;
    assert!(lobby.sessions.stats().writes - before <= 4, "{:?}", lobby.sessions.stats());
}

#[tokio::test]
async fn a_batch_larger_than_an_outbox_costs_a_client_that_reads_nothing() {
    let lobby = Lobby::start(|c| {
        c.shards = 1;
        c.outbox_bytes = 1 << 10;
    })
    .await;
    let mut client = lobby.client(1).await;
    let (ticket, release) = rig::ticket();
    let stalled = stall(&lobby, 99, &release, ticket);
    let all: Vec<_> = (0..500).map(|n| format!("{{\"n\":{n}}}")).collect();
    all.iter().for_each(|json| drop(lobby.unicast(1, json)));
    drop(stalled);
    for json in &all {
        assert_eq!(client.line().await, *json);
    }
    assert_eq!(lobby.sessions.stats().overflows, 0);
}

#[tokio::test]
async fn messages_larger_than_what_a_socket_takes_arrive_once_and_in_order() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(1).await;
    let fill = "x".repeat(1 << 20);
    let all: Vec<_> = (0..6).map(|n| format!("{{\"n\":{n},\"fill\":\"{fill}\"}}")).collect();
    for pair in all.chunks(2) {
        // The first finds the outbox empty, the next one the rest of it.
        pair.iter().for_each(|json| drop(lobby.broadcast(json)));
        for json in pair {
            assert!(client.line().await == *json, "another message, or not the whole of it");
        }
    }
}

#[tokio::test]
async fn a_drain_comes_after_what_was_handed_over_before_it() {
    for _ in 0..20 {
        let lobby = Lobby::start(|c| c.shards = 1).await;
        let mut client = lobby.client(1).await;
        let sessions = Arc::clone(&lobby.sessions);
        lobby.broadcast(r#"{"last":"words"}"#);
        let drain = tokio::spawn(async move { sessions.drain(Duration::ZERO, PATIENCE).await });
        assert_eq!(client.line().await, r#"{"last":"words"}"#);
        assert_eq!(client.closing_code().await, 1012);
        drop(client);
        assert_eq!(drain.await.expect("drained"), 0);
    }
}

#[tokio::test]
async fn whoever_orders_a_drain_again_learns_the_same_and_so_does_the_first() {
    let lobby = Lobby::start(|c| {
        c.shards = 1;
        c.close_grace = Duration::from_secs(3600);
    })
    .await;
    let _stuck = lobby.connect(1, Transport::Tcp).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    while lobby.sessions.stats().queued_bytes == 0 {
        lobby.broadcast(&json).wait().await;
    }
    let within = Duration::from_millis(200);
    let left = tokio::join!(
        lobby.sessions.drain(Duration::ZERO, within),
        lobby.sessions.drain(Duration::ZERO, within)
    );
    assert_eq!(left, (1, 1));
    assert_eq!(lobby.sessions.stats().queued_bytes, 0, "the drain's limit is the session's too");
}

#[tokio::test]
async fn a_delivery_does_not_wait_until_all_clients_that_talk_have_been_answered() {
    const TALKERS: u64 = 200;
    const PINGS: u64 = 800;
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let mut quiet = lobby.client(0).await;
    let mut talkers = Vec::new();
    for user in 1..=TALKERS {
        talkers.push(lobby.client(user as i64).await);
    }
    let (ticket, release) = rig::ticket();
    let stalled = stall(&lobby, 0, &release, ticket);
    let pings = PING.repeat(PINGS as usize);
    for talker in &talkers {
        let written = talker.stream.get_ref().try_write(pings.as_bytes());
        assert_eq!(written.ok(), Some(pings.len()), "the kernel takes it all");
    }
    drop(stalled);
    lobby.unicast(0, "{\"quick\":1}");
    assert_eq!(quiet.line().await, "{}");
    assert_eq!(quiet.line().await, "{\"quick\":1}");
    let answers = lobby.sessions.stats().messages_written - (TALKERS + 3);
    assert!(answers < TALKERS * PINGS / 2, "it came after {answers} answers");
    for talker in &mut talkers {
        for _ in 0..PINGS {
            assert_eq!(talker.line().await, r#"{"command":"pong"}"#);
        }
    }
}

/// Says `text` again and again until the lobby has taken no more for a while; returns how many bytes it took.
async fn say_until_stalled(stream: &TcpStream, text: &str) -> usize {
    socket2::SockRef::from(stream).set_send_buffer_size(64 << 10).expect("a smaller buffer");
    let text = text.repeat(1024).into_bytes();
    let mut taken = 0;
    // Should the wait end too early, then less is said than could be, and the claim is as true.
    while timeout(Duration::from_millis(300), stream.writable()).await.is_ok() {
        match stream.try_write(&text[taken % text.len()..]) {
            Ok(bytes) => taken += bytes,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(taken < 256 << 20, "the lobby never stops listening");
    }
    taken
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_listened_to_until_it_does() {
    let lobby = Lobby::start(|c| {
        c.outbox_bytes = 256 << 10;
        c.ping_interval = Duration::from_millis(50);
    })
    .await;
    let mut client = lobby.client(1).await;
    let said = say_until_stalled(client.stream.get_ref(), PING).await;
    for n in 0..said / PING.len() {
        assert_eq!(client.line().await, r#"{"command":"pong"}"#, "answer {n}");
    }
    let stats = lobby.sessions.stats();
    assert_eq!((stats.overflows, stats.sessions), (0, [1, 0]));
}

/// Never comes to a verdict.
struct Undecided;

impl Authenticator for Undecided {
    fn authenticate<'a>(&'a self, _: &'a str) -> Verdict<'a> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn what_a_client_says_while_a_token_is_verified_does_not_cut_its_last_words_short() {
    let lobby = Lobby::start_with(|c| c.shards = 1, Arc::new(Undecided)).await;
    let mut client = lobby.client(1).await;
    client.say("{\"command\":\"auth\",\"token\":\"x\"}\n").await;
    say_until_stalled(client.stream.get_ref(), PING).await;
    let sessions = Arc::clone(&lobby.sessions);
    let drain = tokio::spawn(async move { sessions.drain(Duration::ZERO, PATIENCE).await });
    assert_eq!(client.closing_code().await, 1012);
    // More than the kernel's buffers hold: it is read, not only sent.
    client.say(&PING.repeat(50_000)).await;
    assert_eq!(client.line().await, "");
    drop(client);
    assert_eq!(drain.await.expect("drained"), 0);
}

#[tokio::test]
async fn a_client_that_has_hung_up_is_gone_although_it_has_not_read_all() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = Client { stream: BufReader::new(lobby.connect(1, Transport::Tcp).await) };
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    while lobby.sessions.stats().queued_bytes == 0 {
        lobby.broadcast(&json).wait().await;
    }
    client.say(&PING.repeat(2000)).await;
    client.stream.get_mut().shutdown().await.expect("our side is shut");
    lobby.until("gone", |s| s.sessions == [0, 0] && s.queued_bytes == 0).await;
    // Its socket is still open here, or the loss of the connection would have ended the session.
    assert!(client.stream.read_u8().await.is_ok());
}
