//! The sessions as their users meet them.

mod rig;

use std::{
    any::Any,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use lobby_sessions::{
    Authenticator, DuplicateLogin, Frame, FrameKind, Place, Places, Sessions, SessionsConfig, Transport,
    Verdict,
};
use notify_protocol::UserId;
use rig::{Client, Lobby, PATIENCE, identity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    runtime::Handle,
    sync::{Notify, Semaphore},
    time::timeout,
};

#[tokio::test]
async fn a_unicast_reaches_its_user_alone_and_a_broadcast_everyone() {
    let lobby = Lobby::start(|_| {}).await;
    let (mut first, mut second) = (lobby.client(1).await, lobby.client(2).await);
    lobby.unicast(1, r#"{"to":1}"#);
    lobby.unicast(3, r#"{"to":3}"#);
    lobby.broadcast(r#"{"to":"all"}"#);
    assert_eq!(first.line().await, r#"{"to":1}"#);
    assert_eq!(first.line().await, r#"{"to":"all"}"#);
    assert_eq!(second.line().await, r#"{"to":"all"}"#);
    let stats = lobby.sessions.stats();
    assert_eq!((stats.unicast, stats.not_connected, stats.sessions), (1, 1, [2, 0]));
}

#[tokio::test]
async fn the_ticket_is_dropped_once_every_shard_has_queued_the_message() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(1).await;
    lobby.broadcast("{}").wait().await;
    lobby.unicast(1, "{}").wait().await;
    lobby.unicast(99, "{}").wait().await;
    assert_eq!([client.line().await, client.line().await], ["{}", "{}"]);
}

#[tokio::test]
async fn messages_arrive_in_the_order_in_which_they_were_handed_over() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(7).await;
    for n in 0..2000 {
        let json = format!("{{\"n\":{n}}}");
        if n % 3 == 0 {
            lobby.broadcast(&json)
        } else {
            lobby.unicast(7, &json)
        };
    }
    for n in 0..2000 {
        assert_eq!(client.line().await, format!("{{\"n\":{n}}}"));
    }
}

#[tokio::test]
async fn a_connection_holds_its_place_until_it_has_ended() {
    let lobby = Lobby::start(|_| {}).await;
    let given_back = Arc::new(GivenBack(Semaphore::new(0)));
    let place = Place::new(Arc::clone(&given_back) as Arc<dyn Places>, 7);
    let client = lobby.connect_with(1, Transport::Tcp, Some(place)).await;
    lobby.until("logged in", |s| s.sessions == [1, 0]).await;
    assert_eq!(given_back.0.available_permits(), 0);
    drop(client);
    let _seven = timeout(PATIENCE, given_back.0.acquire_many(7)).await.expect("the place is given back");
}

/// Counts up by the key of each place that comes back.
struct GivenBack(Semaphore);

impl Places for GivenBack {
    fn give_back(&self, key: u64) {
        self.0.add_permits(key as usize);
    }
}

/// A ticket that keeps the thread that drops it until the lock is free.
struct Plug {
    lock: Arc<Mutex<()>>,
    dropping: Arc<AtomicBool>,
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.dropping.store(true, SeqCst);
        drop(self.lock.lock().expect("not poisoned"));
    }
}

#[tokio::test]
async fn a_ticket_is_held_until_the_shard_has_queued_the_message() {
    let (lock, dropping) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
    let config = SessionsConfig { shards: 1, ..SessionsConfig::default() };
    let sessions: Sessions<Arc<dyn Any + Send + Sync>> =
        Sessions::start(config, Arc::new(rig::Trusting), &Handle::current()).expect("threads");
    let frame = Frame::control("{}", FrameKind::Text);
    let held = lock.lock().expect("not poisoned");
    let plug = Plug { lock: Arc::clone(&lock), dropping: Arc::clone(&dropping) };
    sessions.unicast(UserId::new(1), frame.clone(), Arc::new(plug));
    let start = Instant::now();
    while !dropping.load(SeqCst) {
        assert!(start.elapsed() < PATIENCE, "the first ticket was never dropped");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (tickets, dropped): (Vec<_>, Vec<_>) = (0..3).map(|_| rig::ticket()).unzip();
    for (user, ticket) in tickets.into_iter().enumerate() {
        match user {
            0 => sessions.broadcast(&frame, &(ticket as _)),
            _ => sessions.unicast(UserId::new(user as i64), frame.clone(), ticket),
        }
    }
    assert!(
        dropped.iter().all(|ticket| !*ticket.0.lock().expect("not poisoned")),
        "settled before it was queued"
    );
    drop(held);
    for ticket in &dropped {
        ticket.wait().await;
    }
}

/// Verifies a token when it is told to.
struct Deliberate(Arc<Notify>);

impl Authenticator for Deliberate {
    fn authenticate<'a>(&'a self, _: &'a str) -> Verdict<'a> {
        Box::pin(async {
            self.0.notified().await;
            Ok(identity(UserId::new(1)))
        })
    }
}

#[tokio::test]
async fn while_a_token_is_verified_messages_arrive_and_what_the_client_says_next_waits_its_turn() {
    let verified = Arc::new(Notify::new());
    let authenticator = Arc::new(Deliberate(Arc::clone(&verified)));
    let lobby = Lobby::start_with(|c| c.shards = 1, authenticator).await;
    let mut client = lobby.client(1).await;
    client.say("{\"command\":\"auth\",\"token\":\"x\"}\n{\"command\":\"ping\"}\n").await;
    lobby.unicast(1, "{\"n\":1}");
    assert_eq!(client.line().await, "{\"n\":1}");
    client.say("{\"command\":\"ask_session\"}\n").await;
    lobby.unicast(1, "{\"n\":2}");
    assert_eq!(client.line().await, "{\"n\":2}");
    verified.notify_one();
    for command in ["welcome", "pong", "session"] {
        let line = client.line().await;
        assert!(line.starts_with(&format!("{{\"command\":\"{command}\"")), "{command}: {line}");
    }
}

#[tokio::test]
async fn a_verdict_that_comes_late_does_not_touch_the_next_session() {
    let verified = Arc::new(Notify::new());
    let authenticator = Arc::new(Deliberate(Arc::clone(&verified)));
    let lobby = Lobby::start_with(|c| c.shards = 1, authenticator).await;
    let mut gone = lobby.client(1).await;
    gone.say("{\"command\":\"auth\",\"token\":\"x\"}\n").await;
    lobby.unicast(1, "{}");
    assert_eq!(gone.line().await, "{}");
    gone.stream.get_ref().set_zero_linger().expect("it ends with a reset");
    drop(gone);
    // The verdict is still awaited, so only what is written shows that the connection is lost.
    lobby.unicast(1, "{}").wait().await;
    lobby.until("gone", |s| s.sessions == [0, 0]).await;
    let mut next = lobby.client(2).await;
    verified.notify_one();
    for _ in 0..3 {
        next.say("{\"command\":\"ping\"}\n").await;
        assert_eq!(next.line().await, r#"{"command":"pong"}"#);
    }
}

#[tokio::test]
async fn what_follows_the_login_in_the_same_packet_is_answered_after_the_welcome() {
    let lobby = Lobby::start(|_| {}).await;
    let (client, mut admission) = lobby.admission(1, Transport::Tcp).await;
    admission.inbound.extend(b"{\"command\":\"ping\"}\n");
    lobby.sessions.admit(admission).await;
    let mut client = Client { stream: BufReader::new(client) };
    assert!(client.line().await.starts_with(r#"{"command":"welcome""#));
    assert_eq!(client.line().await, r#"{"command":"pong"}"#);
}

#[tokio::test]
async fn the_second_login_of_a_user_does_what_the_policy_says() {
    let lobby = Lobby::start(|_| {}).await;
    let (mut old, mut new) = (lobby.client(1).await, lobby.client(1).await);
    assert!(old.line().await.contains("You have been signed out because you signed in elsewhere."));
    assert_eq!(old.closing_code().await, 4501);
    lobby.unicast(1, "{}");
    assert_eq!(new.line().await, "{}");

    let lobby = Lobby::start(|c| c.duplicate_login = DuplicateLogin::Reject).await;
    let mut old = lobby.client(1).await;
    let mut new = Client { stream: BufReader::new(lobby.connect(1, Transport::Tcp).await) };
    assert_eq!(new.closing_code().await, 4501);
    lobby.unicast(1, "{}");
    assert_eq!(old.line().await, "{}");

    let lobby = Lobby::start(|c| c.duplicate_login = DuplicateLogin::Allow { max: 2 }).await;
    let (mut first, mut second) = (lobby.client(1).await, lobby.client(1).await);
    lobby.unicast(1, "{}");
    assert_eq!((first.line().await, second.line().await), ("{}".to_owned(), "{}".to_owned()));
}

#[tokio::test]
async fn exactly_one_of_a_hundred_simultaneous_logins_stays() {
    let lobby = Lobby::start(|_| {}).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client { stream: BufReader::new(lobby.connect(5, Transport::Tcp).await) });
    }
    lobby.until("one session", |s| s.sessions == [1, 0] && s.closes.iter().sum::<u64>() == 99).await;
    lobby.unicast(5, r#"{"only":"one"}"#);
    let mut winners = 0;
    for mut client in clients {
        let mut last = client.line().await;
        while !last.is_empty() && !last.contains("closing") && !last.contains("only") {
            last = client.line().await;
        }
        winners += usize::from(last.contains("only"));
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_closed_with_4001_and_one_that_answers_stays() {
    let lobby = Lobby::start(|c| c.ping_interval = Duration::from_millis(50)).await;
    let mut answers = lobby.client(1).await;
    let mut silent = lobby.client(2).await;
    let answering = tokio::spawn(async move {
        let mut pings = 0;
        while pings < 8 {
            if answers.line().await == r#"{"command":"ping"}"# {
                answers.say("{\"command\":\"pong\"}\n").await;
                pings += 1;
            }
        }
        answers
    });
    assert_eq!(silent.line().await, r#"{"command":"ping"}"#);
    assert_eq!(silent.line().await, r#"{"command":"ping"}"#);
    assert_eq!(silent.closing_code().await, 4001);
    let mut answers = answering.await.expect("still there after eight pings");
    answers.say("{\"command\":\"ping\"}\n").await;
    while answers.line().await != r#"{"command":"pong"}"# {}
}

#[tokio::test]
async fn open_sessions_are_answered_as_the_client_protocol_says() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(1).await;
    for (said, heard) in [
        ("{\"command\":\"ping\"}\r\n\n", r#"{"command":"pong"}"#),
        ("{\"command\":\"ask_session\"}\n", r#"{"command":"session","session":"#),
        ("{\"command\":\"dance\"}\n", r#"{"command":"invalid""#),
        ("{\"command\":\"auth\",\"token\":\"user-1\"}\n", r#"{"command":"welcome""#),
        ("{\"command\":\"auth\",\"token\":\"user-2\"}\n", r#"{"command":"authentication_failed""#),
        ("{\"command\":\"auth\"}\n", r#"{"command":"authentication_failed""#),
    ] {
        client.say(said).await;
        let line = client.line().await;
        assert!(line.starts_with(heard), "{said:?} was answered with {line}");
    }
    client.say("{\"command\":\"auth\",\"token\":\"\"}\n").await;
    assert_eq!(client.closing_code().await, 4500);
    for (said, code) in [("nonsense\n", 4503), ("[]\n", 4503), ("{\"a\":\"\u{fffd}\"}\n", 4503)] {
        let mut client = lobby.client(1).await;
        client.say(said).await;
        assert_eq!(client.closing_code().await, code, "{said:?}");
    }
    let mut client = lobby.client(1).await;
    client.stream.write_all(b"{\"command\":\"\xff\"}\n").await.expect("written");
    assert_eq!(client.closing_code().await, 1007);
    let mut client = lobby.client(1).await;
    client.say(&"x".repeat((64 << 10) + 2)).await;
    assert_eq!(client.closing_code().await, 1009);
}

#[tokio::test]
async fn a_drain_delivers_what_waits_then_says_1012_and_lets_nobody_in() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(1).await;
    lobby.broadcast(r#"{"last":"words"}"#).wait().await;
    let sessions = Arc::clone(&lobby.sessions);
    let drain = tokio::spawn(async move { sessions.drain(Duration::ZERO, PATIENCE).await });
    assert_eq!(client.line().await, r#"{"last":"words"}"#);
    assert_eq!(client.closing_code().await, 1012);
    assert_eq!(client.line().await, "");
    drop(client);
    assert_eq!(drain.await.expect("drained"), 0);
    let mut late = Client { stream: BufReader::new(lobby.connect(2, Transport::Tcp).await) };
    assert_eq!(late.closing_code().await, 1012);
    let sessions = Arc::clone(&lobby.sessions);
    tokio::task::spawn_blocking(move || sessions.shut_down()).await.expect("threads end");
}

#[tokio::test]
async fn a_drain_ends_in_time_with_a_client_that_never_reads_nor_closes() {
    let lobby = Lobby::start(|c| c.close_grace = Duration::from_millis(100)).await;
    let _stuck = lobby.client(1).await;
    let left = timeout(PATIENCE, lobby.sessions.drain(Duration::ZERO, PATIENCE)).await.expect("ended");
    assert_eq!(left, 0, "the farewell's own limit is the shorter one");
}

#[tokio::test]
async fn a_paced_drain_tells_one_after_the_other_and_whoever_is_left_still_gets_messages() {
    const CLIENTS: i64 = 40;
    let window = Duration::from_secs(2);
    let lobby = Lobby::start(|c| c.shards = 2).await;
    let mut clients = Vec::new();
    for user in 0..CLIENTS {
        clients.push(lobby.client(user).await);
    }
    let (sessions, start) = (Arc::clone(&lobby.sessions), Instant::now());
    let drain = tokio::spawn(async move { sessions.drain(window, PATIENCE).await });
    let reading = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut numbers = Vec::new();
            loop {
                let line: serde_json::Value = serde_json::from_str(&client.line().await).expect("JSON");
                match line["n"].as_u64() {
                    Some(n) => numbers.push(n),
                    None => {
                        assert_eq!(
                            (line["command"].as_str(), line["code"].as_u64()),
                            (Some("closing"), Some(1012))
                        );
                        let wait = line["retry_after_ms"].as_u64().expect("when to return");
                        return (start.elapsed(), numbers, wait);
                    }
                }
            }
        })
    });
    let reading: Vec<_> = reading.collect();
    let mut handed_over = 0;
    while !drain.is_finished() {
        lobby.broadcast(&format!("{{\"n\":{handed_over}}}")).wait().await;
        handed_over += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(drain.await.expect("drained"), 0);
    let (mut told, mut got, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for client in reading {
        let (at, numbers, wait) = client.await.expect("read");
        let count = numbers.len() as u64;
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "a message was lost while it was connected");
        told.push(at);
        got.push(count);
        waits.push(wait);
    }
    told.sort_unstable();
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > CLIENTS as usize / 2, "each has a wait of its own: {waits:?}");
    // A machine that is busy makes the lobby late, never early.
    let early = |share: usize| told[CLIENTS as usize * share / 4 - 1];
    assert!(early(2) < early(4) && early(4) >= window * 3 / 4, "{told:?}");
    assert!(
        told[CLIENTS as usize / 2] >= window / 4,
        "more than half were told in the first quarter: {told:?}"
    );
    assert!(got.iter().min() < got.iter().max(), "nobody got a message after others were told: {got:?}");
}

#[tokio::test]
async fn a_drain_ends_in_time_however_long_its_window() {
    let lobby = Lobby::start(|_| {}).await;
    let mut clients = Vec::new();
    for user in 0..20 {
        clients.push(lobby.client(user).await);
    }
    let drain = lobby.sessions.drain(Duration::from_secs(3600), Duration::from_millis(200));
    timeout(PATIENCE, drain).await.expect("ended");
    for client in &mut clients {
        assert_eq!(client.closing_code().await, 1012);
    }
}

#[tokio::test]
async fn tokens_of_others_do_not_extend_a_session() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(1).await;
    client.say("{\"command\":\"auth\",\"token\":\"user-1\"}\n").await;
    assert!(client.line().await.starts_with(r#"{"command":"welcome""#));
    for _ in 0..3 {
        client.say("{\"command\":\"auth\",\"token\":\"user-2\"}\n").await;
        assert!(client.line().await.starts_with(r#"{"command":"authentication_failed""#));
    }
    assert_eq!(client.closing_code().await, 4500);
}

#[tokio::test]
async fn a_session_ends_with_its_token_only_when_configured() {
    for (close_on_expiry, stays) in [(false, true), (true, false)] {
        let lobby = Lobby::start(|c| {
            c.close_on_expiry = close_on_expiry;
            c.ping_interval = Duration::from_millis(40);
            c.max_unanswered_pings = 3;
        })
        .await;
        let (client, mut admission) = lobby.admission(1, Transport::Tcp).await;
        admission.identity.expires_at = Some(1);
        lobby.sessions.admit(admission).await;
        let mut client = Client { stream: BufReader::new(client) };
        // Three pings without an answer are several sweeps: an expired session has been looked at by then.
        let code = client.closing_code().await;
        assert_eq!(code, if stays { 4001 } else { 4002 });
    }
}

async fn read_to(stream: &mut TcpStream, end: &[u8]) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let byte = timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("readable");
        bytes.push(byte);
    }
}

#[tokio::test]
async fn websocket_clients_get_frames_and_a_close_frame() {
    let lobby = Lobby::start(|_| {}).await;
    let mut stream = lobby.connect(1, Transport::WebSocket).await;
    lobby.until("logged in", |s| s.sessions == [0, 1]).await;
    lobby.unicast(1, "{\"a\":\n1}");
    read_to(&mut stream, b"\x81\x09{\"a\": 1}\n").await;
    // A masked ping with the payload "hi", then a masked close with code 1000.
    stream.write_all(b"\x89\x82\0\0\0\0hi").await.expect("written");
    read_to(&mut stream, b"\x8a\x02hi").await;
    stream.write_all(b"\x88\x82\0\0\0\0\x03\xe8").await.expect("written");
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time").expect("readable");
    assert_eq!(rest[..4], [0x88, 2 + 3, 0x03, 0xe8]);
}

#[tokio::test]
async fn the_time_to_the_last_write_is_measured_once_a_message() {
    let lobby = Lobby::start(|_| {}).await;
    let mut clients = [lobby.client(1).await, lobby.client(2).await, lobby.client(3).await];
    let dropped = lobby.broadcast("{}");
    lobby.unicast(99, "{}").wait().await;
    for client in &mut clients {
        assert_eq!(client.line().await, "{}");
    }
    dropped.wait().await;
    let start = Instant::now();
    while lobby.sessions.meter().delivery_time().snapshot().count == 0 {
        assert!(start.elapsed() < PATIENCE, "never measured");
        tokio::task::yield_now().await;
    }
    assert_eq!(lobby.sessions.meter().delivery_time().snapshot().count, 1);
}
