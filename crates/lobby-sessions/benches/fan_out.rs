//! What it costs to encode a message and to bring it to every socket: `cargo bench -p lobby-sessions`.
//!
//! Real shards and real sockets on the loopback, without AMQP; the readers' time is in the figures of `fan_out`.

use std::{
    io,
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use divan::{Bencher, black_box, counter::ItemsCount};
use lobby_sessions::{
    Admission, Authenticator, Frame, FrameKind, Identity, Inbound, Refused, Sessions, SessionsConfig,
    Transport, Verdict,
};
use notify_protocol::{Body, Limits, UserId};
use tokio::{
    io::AsyncReadExt as _,
    runtime::{Builder, Runtime},
    sync::mpsc,
};

/// Messages handed over before the readers are waited for.
const BURST: usize = 32;

fn main() {
    divan::main();
}

/// A JSON object of exactly `len` bytes.
fn json(len: usize) -> String {
    format!("{{\"command\":\"bench\",\"pad\":\"{}\"}}", "x".repeat(len - 28))
}

#[divan::bench(args = [200, 2_000, 100_000])]
fn encode(bencher: Bencher<'_, '_>, len: usize) {
    let (json, limits, meter) = (json(len), Limits::default(), Arc::default());
    assert_eq!(json.len(), len);
    let body = Body::check(json.as_bytes(), &limits).expect("an object");
    let at = Instant::now();
    bencher.bench_local(|| Frame::notification(black_box(&body), FrameKind::Text, at, &meter, None));
}

/// A burst of broadcasts until every client has read all of it. An item is one delivery.
#[divan::bench(args = [1, 100, 1_000], sample_count = 30)]
fn broadcast(bencher: Bencher<'_, '_>, clients: usize) {
    let lobby = Lobby::start(clients);
    let frame = lobby.frame();
    bencher.counter(ItemsCount::new(clients * BURST)).bench_local(|| {
        lobby.until_read(clients * BURST * frame.line().len(), || {
            (0..BURST).for_each(|_| lobby.sessions.broadcast(&frame, &()));
        });
    });
}

/// A burst of messages for single users, each of them another.
#[divan::bench(args = [100, 1_000], sample_count = 30)]
fn unicast(bencher: Bencher<'_, '_>, clients: usize) {
    let lobby = Lobby::start(clients);
    let frame = lobby.frame();
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        lobby.until_read(BURST * frame.line().len(), || {
            (0..BURST).for_each(|user| lobby.sessions.unicast(user_id(user), frame.clone(), ()));
        });
    });
}

struct Nobody;

impl Authenticator for Nobody {
    fn authenticate<'a>(&'a self, _token: &'a str) -> Verdict<'a> {
        Box::pin(async { Err(Refused("no logins here".to_owned())) })
    }
}

/// Shards with clients that read everything and count it.
struct Lobby {
    sessions: Sessions<()>,
    read: Arc<AtomicUsize>,
}

fn user_id(index: usize) -> UserId {
    UserId::new(i64::try_from(index).expect("few users") + 1)
}

impl Lobby {
    fn start(clients: usize) -> Self {
        let admitting = runtime();
        let config = SessionsConfig::default();
        let sessions = Sessions::start(config, Arc::new(Nobody), admitting.handle()).expect("threads");
        let (read, welcomed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (newcomers, mut arrivals) = mpsc::channel::<TcpStream>(1);
        let counters = (Arc::clone(&read), Arc::clone(&welcomed));
        std::thread::spawn(move || {
            runtime().block_on(async {
                let mut clients = Vec::new();
                while let Some(client) = arrivals.recv().await {
                    clients.push(tokio::spawn(read_all(client, counters.clone())));
                }
                for client in clients {
                    let _ = client.await;
                }
            });
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        for index in 0..clients {
            let (client, admission) = connect(&listener, index).expect("a connection");
            admitting.block_on(sessions.admit(admission));
            newcomers.blocking_send(client).expect("the readers' thread");
        }
        while welcomed.load(Relaxed) < clients {
            std::thread::yield_now();
        }
        Self { sessions, read }
    }

    fn frame(&self) -> Frame {
        let (json, limits) = (json(200), Limits::default());
        let body = Body::check(json.as_bytes(), &limits).expect("an object");
        Frame::notification(&body, FrameKind::Text, Instant::now(), self.sessions.meter(), None)
    }

    /// Does `work` and waits until the clients have read so many bytes of it.
    fn until_read(&self, bytes: usize, work: impl FnOnce()) {
        let wanted = self.read.load(Relaxed) + bytes;
        work();
        while self.read.load(Relaxed) < wanted {
            std::thread::yield_now();
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().build().expect("a runtime")
}

/// Reads all that comes and counts it, but for the welcome, which comes alone: nothing is sent before everyone has it.
async fn read_all(client: TcpStream, (read, welcomed): (Arc<AtomicUsize>, Arc<AtomicUsize>)) {
    let mut client = tokio::net::TcpStream::from_std(client).expect("a socket");
    let mut buffer = vec![0; 16 << 10];
    if let Ok(1..) = client.read(&mut buffer).await {
        welcomed.fetch_add(1, Relaxed);
    }
    while let Ok(count @ 1..) = client.read(&mut buffer).await {
        read.fetch_add(count, Relaxed);
    }
}

impl Drop for Lobby {
    fn drop(&mut self) {
        self.sessions.shut_down();
    }
}

fn connect(listener: &TcpListener, index: usize) -> io::Result<(TcpStream, Admission)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (socket, peer) = listener.accept()?;
    client.set_nonblocking(true)?;
    socket.set_nonblocking(true)?;
    let user = user_id(index);
    let identity = Identity { user, login: format!("user-{user}"), expires_at: None };
    let transport = Transport::Tcp;
    let inbound = Inbound::new(transport, 1 << 14);
    Ok((client, Admission { identity, transport, socket, tls: None, peer, inbound, permit: None }))
}
