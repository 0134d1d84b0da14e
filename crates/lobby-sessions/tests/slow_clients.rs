//! Clients that do not read, or never stop talking, cost only themselves.

mod rig;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lobby_sessions::{OverflowPolicy, Transport};
use rig::{Client, Lobby, PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_delays_nobody() {
    let lobby = Lobby::start(|c| {
        c.shards = 1;
        c.outbox_bytes = 64 << 10;
        c.close_grace = Duration::from_millis(200);
    })
    .await;
    let slow = lobby.connect(1, Transport::Tcp).await;
    let mut quick = lobby.client(2).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    let mut sent = 0;
    while lobby.sessions.stats().overflows == 0 {
        lobby.broadcast(&json);
        sent += 1;
        assert_eq!(quick.line().await, json, "message {sent}");
        assert!(sent < 100_000, "the outbox has no limit");
        assert!(lobby.sessions.stats().queued_bytes <= (64 << 10) + json.len() as u64 + 512);
    }
    lobby.until("the slow session is gone", |s| s.sessions == [1, 0] && s.queued_bytes == 0).await;
    lobby.broadcast("{}");
    assert_eq!(quick.line().await, "{}");
    drop(slow);
}

#[tokio::test]
async fn when_all_outboxes_together_hold_too_much_the_slowest_goes_first() {
    let lobby = Lobby::start(|c| {
        c.shards = 1;
        c.outbox_total_bytes = 1 << 20;
        c.close_grace = Duration::from_millis(200);
    })
    .await;
    let _slowest = lobby.connect(1, Transport::Tcp).await;
    let mut slower = Client { stream: BufReader::new(lobby.connect(2, Transport::Tcp).await) };
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    // The kernel's own buffers fill first: then one of them falls behind by a little, the other by much.
    while lobby.sessions.stats().queued_bytes < 64 << 10 {
        lobby.broadcast(&json).wait().await;
    }
    let start = Instant::now();
    while lobby.sessions.stats().shed == 0 {
        assert!(start.elapsed() < PATIENCE, "nobody was closed: {:?}", lobby.sessions.stats());
        assert_eq!(lobby.sessions.stats().overflows, 0, "its own outbox was full first");
        // A little more than the limit stays there until the client has lagged long enough.
        if lobby.sessions.meter().live_bytes() < 9 << 17 {
            lobby.unicast(1, &json).wait().await;
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let within_limit = |_: &_| lobby.sessions.meter().live_bytes() <= 1 << 20;
    lobby.until("the slowest is gone", |s| s.sessions == [1, 0] && s.shed == 1 && within_limit(s)).await;
    lobby.unicast(2, "{\"still\":\"here\"}");
    while slower.line().await != "{\"still\":\"here\"}" {}
}

#[tokio::test]
async fn a_client_that_fell_behind_just_now_is_spared_up_to_a_quarter_over_the_limit() {
    const LIMIT: u64 = 1 << 20;
    let lobby = Lobby::start(|c| {
        c.shards = 1;
        c.outbox_total_bytes = 1 << 20;
    })
    .await;
    let _stopped = lobby.connect(1, Transport::Tcp).await;
    lobby.until("the session is counted", |s| s.sessions == [1, 0]).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(64 << 10));
    let (start, mut most) = (Instant::now(), 0);
    while lobby.sessions.stats().shed == 0 {
        assert!(start.elapsed() < PATIENCE, "nobody was closed: {:?}", lobby.sessions.stats());
        lobby.unicast(1, &json).wait().await;
        most = lobby.sessions.meter().live_bytes().max(most);
    }
    // Two messages: the one that went over it, and its encoding for the other transport.
    assert!(most <= LIMIT + LIMIT / 4 + 3 * json.len() as u64, "{most} bytes");
}

#[tokio::test]
async fn a_large_message_that_many_share_is_counted_once_and_costs_nobody_the_session() {
    let lobby = Lobby::start(|c| c.outbox_total_bytes = 20 << 20).await;
    let mut clients = Vec::new();
    for user in 0..8 {
        clients.push(lobby.client(user).await);
    }
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(4 << 20));
    lobby.broadcast(&json).wait().await;
    assert!(
        lobby.sessions.stats().queued_bytes > 6 << 20,
        "the kernel took it all: a larger message is needed"
    );
    for client in &mut clients {
        assert_eq!(client.line().await.len(), json.len());
    }
    assert_eq!((lobby.sessions.stats().shed, lobby.sessions.stats().sessions), (0, [8, 0]));
}

#[tokio::test]
async fn a_client_that_fell_behind_only_now_is_spared_when_memory_is_short() {
    let lobby = Lobby::start(|c| c.outbox_total_bytes = 1 << 20).await;
    let mut client = lobby.client(1).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 20));
    lobby.unicast(1, &json).wait().await;
    assert!(lobby.sessions.meter().live_bytes() > 1 << 20, "the kernel took it all");
    assert_eq!(client.line().await.len(), json.len());
    assert_eq!((lobby.sessions.stats().shed, lobby.sessions.stats().sessions), (0, [1, 0]));
}

#[tokio::test]
async fn a_client_that_never_stops_talking_does_not_keep_its_shard_from_the_others() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let talker = lobby.connect(1, Transport::Tcp).await;
    let (mut reads, mut writes) = talker.into_split();
    let reading = tokio::spawn(async move {
        let mut scratch = vec![0; 1 << 16];
        while reads.read(&mut scratch).await.is_ok_and(|count| count > 0) {}
    });
    let talking = tokio::spawn(async move {
        let pings = "{\"command\":\"ping\"}\n".repeat(4096);
        while writes.write_all(pings.as_bytes()).await.is_ok() {}
    });
    let mut quiet = lobby.client(2).await;
    for n in 0..200 {
        let json = format!("{{\"n\":{n}}}");
        lobby.unicast(2, &json);
        assert_eq!(quiet.line().await, json);
    }
    talking.abort();
    reading.abort();
}

#[tokio::test]
async fn a_client_that_takes_a_little_now_and_then_is_closed_at_the_write_deadline() {
    let lobby = Lobby::start(|c| {
        c.write_timeout = Duration::from_millis(300);
        c.ping_interval = Duration::from_secs(3600);
    })
    .await;
    let mut trickle = lobby.connect(1, Transport::Tcp).await;
    lobby.until("the session is counted", |s| s.sessions == [1, 0]).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    let fills = |lobby: &Lobby| {
        let stats = lobby.sessions.stats();
        // More than the kernel's buffers can grow by. A machine that is slow enough reaches the deadline first.
        stats.queued_bytes < 4 << 20 && stats.sessions == [1, 0]
    };
    while fills(&lobby) {
        lobby.broadcast(&json).wait().await;
    }
    let mut byte = [0; 1];
    let start = Instant::now();
    while lobby.sessions.stats().sessions != [0, 0] {
        assert!(start.elapsed() < PATIENCE, "never closed: {:?}", lobby.sessions.stats());
        let _ = timeout(Duration::from_millis(10), trickle.read(&mut byte)).await;
    }
    assert_eq!(lobby.sessions.stats().overflows, 0, "it was the deadline");
}

#[tokio::test]
async fn a_slow_client_that_reads_at_last_finds_whole_lines_and_the_reason() {
    let lobby = Lobby::start(|c| c.outbox_bytes = 32 << 10).await;
    let mut slow = Client { stream: BufReader::new(lobby.connect(1, Transport::Tcp).await) };
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    while lobby.sessions.stats().overflows == 0 {
        lobby.broadcast(&json).wait().await;
    }
    assert!(slow.line().await.contains("welcome"));
    let mut line = slow.line().await;
    while line == json {
        line = slow.line().await;
    }
    assert!(line.contains("\"code\":4000") && line.contains("retry_after_ms"), "{line}");
    assert_eq!(slow.line().await, "");
}

#[tokio::test]
async fn dropping_the_oldest_keeps_the_client_and_the_newest_and_is_logged_once() {
    let log = Log::start();
    let lobby = Lobby::start(|c| {
        c.outbox_bytes = 32 << 10;
        c.overflow = OverflowPolicy::DropOldest;
    })
    .await;
    let mut slow = lobby.client(1).await;
    let mut last = String::new();
    let mut n = 0;
    while lobby.sessions.stats().dropped_oldest < 10 {
        last = format!("{{\"n\":{n},\"fill\":\"{}\"}}", "x".repeat(8 << 10));
        lobby.broadcast(&last).wait().await;
        n += 1;
    }
    let mut seen = -1;
    loop {
        let line = slow.line().await;
        let value: serde_json::Value = serde_json::from_str(&line).expect("whole lines only");
        let number = value["n"].as_i64().expect("a number");
        assert!(number > seen, "order is kept");
        seen = number;
        if line == last {
            break;
        }
    }
    assert_eq!(lobby.sessions.stats().sessions, [1, 0]);
    assert_eq!(log.lines_with("messages for a slow session are dropped"), 1);
}

/// What all tests of this program log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// For one test only: a program has one log.
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        log
    }

    fn lines_with(&self, text: &str) -> usize {
        let log = self.0.lock().expect("the log");
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
