//! What a shard does first, and what it does together: deliveries, orders, and what clients say.

mod rig;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::sync_channel,
    },
    time::Duration,
};

use lobby_sessions::{Authenticator, Frame, Sessions, SessionsConfig, Transport, Verdict};
use notify_protocol::UserId;
use rig::{Client, Dropped, Lobby, PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, ErrorKind},
    net::TcpStream,
    runtime::Handle,
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
    lobby.fill(1).await;
    let within = Duration::from_millis(200);
    let both = async {
        tokio::join!(
            lobby.sessions.drain(Duration::ZERO, within),
            lobby.sessions.drain(Duration::ZERO, within)
        )
    };
    assert_eq!(timeout(PATIENCE, both).await.expect("ended in its time"), (1, 1));
    assert_eq!(lobby.sessions.stats().queued_bytes, 0, "the drain's limit is the session's too");
}

/// Deliveries for one shard without end: each hands over the next one when its ticket is dropped, before the shard looks
/// into its inbox again.
struct Endless {
    sessions: OnceLock<Weak<Sessions<Arc<Next>>>>,
    frame: Frame,
    goes_on: AtomicBool,
    ended: AtomicBool,
    /// What was written by the time of each delivery, each number once.
    written: Mutex<BTreeSet<u64>>,
}

/// The ticket of one of them.
struct Next(Arc<Endless>);

impl Drop for Next {
    fn drop(&mut self) {
        let endless = &self.0;
        let sessions =
            endless.sessions.get().and_then(Weak::upgrade).filter(|_| endless.goes_on.load(SeqCst));
        let Some(sessions) = sessions else { return endless.ended.store(true, SeqCst) };
        endless.written.lock().expect("not poisoned").insert(sessions.stats().messages_written);
        // Nobody of that name is logged in.
        sessions.unicast(UserId::new(-1), endless.frame.clone(), Arc::new(Next(Arc::clone(endless))));
    }
}

impl Endless {
    fn begin(sessions: &Arc<Sessions<Arc<Next>>>, frame: Frame) -> Arc<Self> {
        let endless = Arc::new(Self {
            sessions: OnceLock::new(),
            frame,
            goes_on: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            written: Mutex::default(),
        });
        let _ = endless.sessions.set(Arc::downgrade(sessions));
        drop(Next(Arc::clone(&endless)));
        endless
    }

    async fn end(&self) {
        self.goes_on.store(false, SeqCst);
        let ended = async {
            while !self.ended.load(SeqCst) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, ended).await.expect("the shard comes to the end of its deliveries");
    }
}

/// One shard whose tickets are links of an endless chain, and `clients` that are logged in as 1, 2, ….
async fn chained(clients: i64) -> (Lobby, Arc<Sessions<Arc<Next>>>, Vec<Client>) {
    // Its listener only.
    let lobby = Lobby::start(|_| {}).await;
    let config = SessionsConfig { shards: 1, command_rate: None, ..SessionsConfig::default() };
    let sessions = Sessions::start(config, Arc::new(rig::Trusting), &Handle::current()).expect("a thread");
    let sessions = Arc::new(sessions);
    let mut all = Vec::new();
    for user in 1..=clients {
        let (stream, admission) = lobby.admission(user, Transport::Tcp).await;
        sessions.admit(admission).await;
        let mut client = Client { stream: BufReader::new(stream) };
        assert!(client.line().await.contains("welcome"));
        all.push(client);
    }
    (lobby, sessions, all)
}

#[tokio::test]
async fn deliveries_without_end_leave_a_turn_to_what_clients_say_and_to_orders() {
    let (lobby, sessions, mut clients) = chained(1).await;
    let endless = Endless::begin(&sessions, lobby.frame("{}"));
    for _ in 0..10 {
        clients[0].say(PING).await;
        assert_eq!(clients[0].line().await, r#"{"command":"pong"}"#);
        timeout(PATIENCE, sessions.answer()).await.expect("an order is obeyed");
    }
    endless.end().await;
}

#[tokio::test]
async fn a_delivery_does_not_wait_until_all_clients_that_talk_have_been_answered() {
    const TALKERS: i64 = 200;
    const PINGS: usize = 800;
    let (lobby, sessions, mut talkers) = chained(TALKERS).await;
    let welcomed = TALKERS as u64;
    let welcomes = async {
        while sessions.stats().messages_written < welcomed {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, welcomes).await.expect("all are welcomed");
    // The shard waits for this lock, as each delivery does, until all have talked.
    let endless = Endless::begin(&sessions, lobby.frame("{}"));
    let stalled = endless.written.lock().expect("not poisoned");
    let pings = PING.repeat(PINGS);
    for talker in &talkers {
        let written = talker.stream.get_ref().try_write(pings.as_bytes());
        assert_eq!(written.ok(), Some(pings.len()), "the kernel takes it all");
    }
    drop(stalled);
    for talker in &mut talkers {
        for _ in 0..PINGS {
            assert_eq!(talker.line().await, r#"{"command":"pong"}"#);
        }
    }
    endless.end().await;
    let all = welcomed + welcomed * PINGS as u64;
    let written = endless.written.lock().expect("not poisoned");
    let between = written.iter().filter(|count| (welcomed + 1..all).contains(count)).count();
    assert!(between > 2, "deliveries had their turn after so many answers: {written:?}");
}

#[tokio::test]
async fn orders_that_wait_for_a_shard_are_bounded_and_the_next_waits_for_room() {
    const ROOM: i64 = 256;
    let lobby = Lobby::start(|c| c.shards = 1).await;
    // Another thread holds what the shard waits for: here is waited, too.
    let (ticket, stalling) = rig::ticket();
    let ((held, is_held), (release, is_released)) = (sync_channel(1), sync_channel::<()>(1));
    let holder = std::thread::spawn(move || {
        let _guard = stalling.0.lock().expect("not poisoned");
        held.send(()).expect("awaited");
        // Ends when the other side is dropped.
        let _ = is_released.recv();
    });
    is_held.recv().expect("held");
    lobby.sessions.unicast(UserId::new(99), lobby.frame("{}"), ticket);
    let mut clients = Vec::new();
    for user in 1..=ROOM {
        let (client, admission) = lobby.admission(user, Transport::Tcp).await;
        timeout(PATIENCE, lobby.sessions.admit(admission)).await.expect("there is room");
        clients.push(client);
    }
    let (client, admission) = lobby.admission(ROOM + 1, Transport::Tcp).await;
    let mut next = std::pin::pin!(lobby.sessions.admit(admission));
    // It is asked once, and has to wait.
    assert!(timeout(Duration::ZERO, next.as_mut()).await.is_err(), "more than {ROOM} orders wait");
    drop(release);
    timeout(PATIENCE, next).await.expect("room again");
    lobby.until("all are let in", |stats| stats.sessions == [ROOM as u64 + 1, 0]).await;
    holder.join().expect("it ends");
    drop((clients, client));
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
    lobby.fill(1).await;
    client.say(&PING.repeat(2000)).await;
    client.stream.get_mut().shutdown().await.expect("our side is shut");
    lobby.until("gone", |s| s.sessions == [0, 0] && s.queued_bytes == 0).await;
    // Its socket is still open here, or the loss of the connection would have ended the session.
    assert!(client.stream.read_u8().await.is_ok());
}
