//! All clients on one thread with one epoll: reads what comes and checks every message.
//!
//! Each client must get every broadcast and every message of its own, once, in order, unchanged. The first thing that
//! is not so ends the run. Nothing is answered: a lobby that pings or closes is an error here. Of a peer, messages that
//! never come and connections that it ends are counted instead.

use std::{
    io::{ErrorKind, Read as _},
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use mio::{Events, Interest, Poll, Token, Waker};

use super::{
    body::{Stamp, To},
    codec::Codec,
    histogram::Histogram,
    population::Client,
};

/// The driver's thread, by which its CPU is told from the publisher's.
pub(crate) const THREAD: &str = "bench-driver";
const WAKER: Token = Token(usize::MAX);
const SCRATCH: usize = 256 << 10;

/// Nanoseconds on a clock that publisher and driver share.
pub(crate) fn now() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What becomes of a run when messages are lost or the server ends connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Losses {
    Fail,
    Count,
}

/// A population that is being read. Dropping it closes all connections.
#[derive(Debug)]
pub(crate) struct Driver {
    orders: SyncSender<Order>,
    waker: Waker,
    losses: Losses,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    received: AtomicU64,
    last_at: AtomicU64,
    ended: AtomicU64,
    failure: OnceLock<String>,
}

#[derive(Debug)]
enum Order {
    Adopt(Vec<Client>),
    StopReading(Vec<u32>),
    TakeLatency(SyncSender<Histogram>),
    Quit,
}

impl Driver {
    pub(crate) fn start(codec: Codec, losses: Losses) -> anyhow::Result<Self> {
        let poll = Poll::new().context("make an event queue")?;
        let waker = Waker::new(poll.registry(), WAKER).context("make a waker")?;
        let (orders, inbox) = sync_channel(4);
        let shared = Arc::new(Shared::default());
        let population = Population {
            codec,
            losses,
            poll,
            clients: Vec::new(),
            shared: Arc::clone(&shared),
            latency: Histogram::default(),
            scratch: vec![0; SCRATCH].into(),
        };
        let thread = std::thread::Builder::new().name(THREAD.to_owned());
        let thread = thread.spawn(move || population.serve(&inbox)).context("start the driver's thread")?;
        Ok(Self { orders, waker, losses, shared, thread: Some(thread) })
    }

    /// Reads these clients too from now on.
    pub(crate) fn adopt(&self, clients: Vec<Client>) -> anyhow::Result<()> {
        self.order(Order::Adopt(clients))
    }

    /// Reads nothing more of these clients, whose connections stay open.
    pub(crate) fn stop_reading(&self, users: Vec<u32>) -> anyhow::Result<()> {
        self.order(Order::StopReading(users))?;
        // Orders are obeyed one after the other: the answer to this one says that the first is done.
        self.take_latency().map(drop)
    }

    /// The times from publish to receipt since the last call.
    pub(crate) fn take_latency(&self) -> anyhow::Result<Histogram> {
        let (answer, histogram) = sync_channel(1);
        self.order(Order::TakeLatency(answer))?;
        histogram.recv_timeout(Duration::from_secs(30)).context("the driver does not answer")
    }

    /// Messages received and found right since the start.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    /// When the last of them was read, on the clock of [`now`].
    pub(crate) fn last_at(&self) -> u64 {
        self.shared.last_at.load(Relaxed)
    }

    /// Connections that the server ended, where that is counted.
    pub(crate) fn ended(&self) -> u64 {
        self.shared.ended.load(Relaxed)
    }

    /// Fails if a message was lost, repeated, out of order or changed, or a connection ended.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.shared.failure.get().map_or(Ok(()), |failure| Err(anyhow!("{failure}")))
    }

    /// Waits until `total` messages were received since the start, or nothing came for `patience`. What is missing
    /// then is lost, and its number returned.
    ///
    /// # Errors
    /// What [`Driver::check`] says, and a loss where losses are not counted.
    pub(crate) async fn wait_for(&self, total: u64, patience: Duration) -> anyhow::Result<u64> {
        let (mut seen, mut since) = (self.received(), Instant::now());
        loop {
            self.check()?;
            let received = self.received();
            ensure!(received <= total, "{} messages more than were published", received - total);
            if received == total {
                return Ok(0);
            }
            if received != seen {
                (seen, since) = (received, Instant::now());
            }
            let missing = total - received;
            if since.elapsed() >= patience {
                match self.losses {
                    Losses::Count => return Ok(missing),
                    Losses::Fail => bail!("{missing} of {total} messages did not come in {patience:?}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).map_err(|_| anyhow!("the driver's thread has ended"))?;
        self.waker.wake().context("wake the driver")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.order(Order::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Population {
    codec: Codec,
    losses: Losses,
    poll: Poll,
    clients: Vec<Client>,
    shared: Arc<Shared>,
    latency: Histogram,
    scratch: Box<[u8]>,
}

impl Population {
    fn serve(mut self, orders: &Receiver<Order>) {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.turn(&mut events, orders) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // The first failure is the one to read; the rest of the sockets is read on.
                    let _ = self.shared.failure.set(format!("{error:#}"));
                }
            }
        }
    }

    /// Waits for events and serves them; false when told to quit.
    fn turn(&mut self, events: &mut Events, orders: &Receiver<Order>) -> anyhow::Result<bool> {
        match self.poll.poll(events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => bail!("wait for events: {error}"),
            _ => {}
        }
        let mut outcome = Ok(true);
        for event in events.iter() {
            if event.token() == WAKER {
                while let Ok(order) = orders.try_recv() {
                    if !self.obey(order)? {
                        return Ok(false);
                    }
                }
            } else if let Err(error) = self.read(event.token().0, event.is_read_closed()) {
                outcome = Err(error);
            }
        }
        outcome
    }

    fn obey(&mut self, order: Order) -> anyhow::Result<bool> {
        match order {
            Order::Quit => return Ok(false),
            Order::TakeLatency(answer) => {
                let _ = answer.send(std::mem::take(&mut self.latency));
            }
            Order::Adopt(clients) => {
                for mut client in clients {
                    let token = Token(self.clients.len());
                    let registry = self.poll.registry();
                    registry
                        .register(&mut client.stream, token, Interest::READABLE)
                        .context("watch a socket")?;
                    self.clients.push(client);
                }
            }
            Order::StopReading(users) => {
                for client in self.clients.iter_mut().filter(|client| users.contains(&client.user)) {
                    client.stopped = true;
                    self.poll.registry().deregister(&mut client.stream).context("leave a socket alone")?;
                }
            }
        }
        Ok(true)
    }

    /// Reads what a client's socket holds and checks it; to its end when the server `closed` it.
    fn read(&mut self, index: usize, closed: bool) -> anyhow::Result<()> {
        let Some(client) = self.clients.get_mut(index).filter(|client| !client.stopped) else {
            return Ok(());
        };
        loop {
            let kept = client.partial.len();
            self.scratch[..kept].copy_from_slice(&client.partial);
            let count = match client.stream.read(&mut self.scratch[kept..]) {
                Ok(count) if count > 0 => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) if self.losses == Losses::Count => {
                    client.stopped = true;
                    self.poll.registry().deregister(&mut client.stream).context("leave a socket alone")?;
                    self.shared.ended.fetch_add(1, Relaxed);
                    return Ok(());
                }
                Ok(_) => bail!("client {}: the server closed the connection", client.user),
                Err(error) => bail!("client {}: {error}", client.user),
            };
            let at = now();
            let mut rest = &self.scratch[..kept + count];
            let mut received = 0;
            while let Some(message) =
                self.codec.take(&mut rest).with_context(|| format!("client {}", client.user))?
            {
                let stamp = expected(client, message, self.losses)?;
                self.latency.record(at.saturating_sub(stamp.at));
                received += 1;
            }
            client.partial.clear();
            client.partial.extend_from_slice(rest);
            self.shared.last_at.store(at, Relaxed);
            self.shared.received.fetch_add(received, Relaxed);
            // Less than asked for: the socket is empty, and the next byte is a new event; but a close may have come in
            // the same event.
            if kept + count < self.scratch.len() && !closed {
                return Ok(());
            }
        }
    }
}

/// Checks that `message` is the next one of its kind for `client`; a later one, where losses are counted.
fn expected(client: &mut Client, message: &[u8], losses: Losses) -> anyhow::Result<Stamp> {
    let user = client.user;
    let Some(stamp) = Stamp::decode(message) else {
        let text = String::from_utf8_lossy(&message[..message.len().min(300)]);
        bail!("client {user} got what was not published: {text}");
    };
    let next = match stamp.to {
        To::Everyone => &mut client.next_broadcast,
        To::User(addressee) => {
            ensure!(addressee == user, "client {user} got a message for user {addressee}");
            &mut client.next_unicast
        }
    };
    let due = stamp.seq == *next || (losses == Losses::Count && stamp.seq > *next);
    ensure!(due, "client {user} got message {} where {} was due: {stamp:?}", stamp.seq, *next);
    *next = stamp.seq + 1;
    Ok(stamp)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A driver with one client, user 1, and the server's end of its connection.
    fn one_client(losses: Losses) -> (Driver, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let driver = Driver::start(Codec::Line, losses).unwrap();
        let client = Client {
            user: 1,
            stream: mio::net::TcpStream::from_std(stream),
            partial: Vec::new(),
            next_broadcast: 0,
            next_unicast: 0,
            stopped: false,
        };
        driver.adopt(vec![client]).unwrap();
        (driver, listener.accept().unwrap().0)
    }

    /// Sends broadcasts with these numbers and ends the connection; what the driver says to it.
    async fn outcome(losses: Losses, numbers: &[u64], total: u64) -> anyhow::Result<(u64, u64)> {
        let (driver, mut server) = one_client(losses);
        for seq in numbers {
            server.write_all(&Stamp { to: To::Everyone, seq: *seq, at: 0 }.encode()).unwrap();
            server.write_all(b"\n").unwrap();
        }
        drop(server);
        let lost = driver.wait_for(total, Duration::from_millis(300)).await?;
        Ok((lost, driver.ended()))
    }

    #[tokio::test]
    async fn losses_and_ended_connections_fail_a_run_or_are_counted() {
        assert_eq!(outcome(Losses::Count, &[0, 1, 4], 5).await.unwrap(), (2, 1));
        for (numbers, total) in [(&[0, 1, 4][..], 3), (&[0, 1], 3)] {
            assert!(outcome(Losses::Fail, numbers, total).await.is_err(), "{numbers:?}");
        }
    }

    #[tokio::test]
    async fn what_comes_twice_or_out_of_order_fails_a_run_even_where_losses_are_counted() {
        for numbers in [[0, 1, 1], [0, 2, 1]] {
            let error = outcome(Losses::Count, &numbers, 3).await.unwrap_err().to_string();
            assert!(error.contains("was due"), "{error}");
        }
    }
}
