//! The door to all sessions: hands notifications and logins to the shard that owns them.

use std::{
    hash::BuildHasher,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use foldhash::fast::FixedState;
use mio::{Poll, Waker};
use notify_protocol::UserId;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tracing::error;

use crate::{
    Admission, Authenticator, Frame, FrameMeter, Listing, SessionQuery, SessionStats, SessionsConfig,
    inbox::{Inbox, Room},
    shard::{BELL, Delivery, Order, Shard, Surroundings, Target},
    stats::ShardStats,
};

/// Logins and orders that may wait for one shard before the sender waits.
const CONTROL_CAPACITY: usize = 256;

/// All sessions of this instance. `T` is the caller's proof that a delivery is in hand: it is dropped once the
/// message stands in the outbox of every addressed session.
///
/// Threads end after [`Sessions::shut_down`].
#[derive(Debug)]
pub struct Sessions<T> {
    shards: Vec<Door<T>>,
    config: Arc<SessionsConfig>,
    meter: Arc<FrameMeter>,
}

#[derive(Debug)]
struct Door<T> {
    inbox: Arc<Inbox<Delivery<T>>>,
    control: mpsc::Sender<Order>,
    stats: Arc<ShardStats>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Clone + Send + 'static> Sessions<T> {
    /// Starts the shards' threads. Tokens of open sessions are verified on `runtime`.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue; the lobby cannot run then.
    pub fn start(
        config: SessionsConfig,
        authenticator: Arc<dyn Authenticator>,
        runtime: &Handle,
    ) -> io::Result<Self> {
        let meter = Arc::new(FrameMeter::new(config.reach_entries));
        let config = Arc::new(config);
        let shards = (0..config.shards.max(1))
            .map(|index| Door::open(index, &config, &authenticator, &meter, runtime))
            .collect::<io::Result<_>>()?;
        Ok(Self { shards, config, meter })
    }

    /// Hands a message to every logged-in session. Waits only when a shard is `inbox_capacity` deliveries or
    /// `inbox_bytes` behind.
    /// Whoever has many to hand over at once uses a [`Burst`](crate::Burst).
    pub fn broadcast(&self, frame: &Frame, ticket: &T) {
        self.queue_broadcast(frame, ticket);
        (0..self.shards.len()).for_each(|shard| self.wake(shard));
    }

    /// Hands a message to the sessions of one user; the owning shard counts it as `not_connected` if there are
    /// none. Waits only when that shard is `inbox_capacity` deliveries or `inbox_bytes` behind.
    pub fn unicast(&self, user: UserId, frame: Frame, ticket: T) {
        let shard = self.queue_unicast(user, frame, ticket);
        self.wake(shard);
    }

    pub(crate) fn queue_broadcast(&self, frame: &Frame, ticket: &T) {
        let bytes = frame.line().len();
        for shard in &self.shards {
            let (frame, ticket) = (frame.clone(), ticket.clone());
            shard.inbox.push(Delivery { target: Target::Everyone, frame, ticket }, bytes);
        }
    }

    /// Returns the shard that the message waits for.
    pub(crate) fn queue_unicast(&self, user: UserId, frame: Frame, ticket: T) -> usize {
        let shard = self.shard_of(user);
        let bytes = frame.line().len();
        self.shards[shard].inbox.push(Delivery { target: Target::User(user), frame, ticket }, bytes);
        shard
    }

    /// Wakes a shard that sleeps although something waits for it.
    pub(crate) fn wake(&self, shard: usize) {
        self.shards[shard].inbox.announce();
    }

    /// How many threads own connections.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Hands over a connection that has logged in. The socket is closed if the shard is gone.
    pub async fn admit(&self, admission: Admission) {
        let door = &self.shards[self.shard_of(admission.identity.user)];
        door.order(Order::Admit(Box::new(admission))).await;
    }

    /// Closes every session with 1012 after what waits for it, and refuses new ones; returns how many had not
    /// read to the end `within` the limit.
    ///
    /// The sessions are told one batch after the other, evenly over `window` (at most `within`), but no fewer than ten a
    /// second; until its turn each goes on getting what is handed over. Called again while it drains, the pace stays and
    /// the later limit counts.
    pub async fn drain(&self, window: Duration, within: Duration) -> usize {
        let mut answers = Vec::new();
        for shard in &self.shards {
            let (done, answer) = oneshot::channel();
            if shard.order(Order::Drain { window, within, done }).await {
                answers.push(answer);
            }
        }
        let mut left = 0;
        for answer in answers {
            left += answer.await.unwrap_or(0);
        }
        left
    }

    /// Returns once every shard has had a turn; a shard that hangs lets this wait.
    pub async fn answer(&self) {
        for shard in &self.shards {
            let (done, answered) = oneshot::channel();
            shard.order(Order::Answer { done }).await;
            // A shard that has ended ended on purpose: a panic ends the process.
            let _ = answered.await;
        }
    }

    /// Who is logged in. Costs each shard a look at all its sessions, between two deliveries.
    pub async fn list(&self, query: &SessionQuery) -> Listing {
        let mut listing = Listing::default();
        for shard in &self.shards {
            let (answer, told) = oneshot::channel();
            shard.order(Order::List { query: query.clone(), answer }).await;
            // A shard that has ended has no sessions.
            listing.merge(told.await.unwrap_or_default(), query.limit);
        }
        listing
    }

    /// Closes one session of `user` with 4502, after what waits for it. False if it is not there any more.
    pub async fn kick(&self, user: UserId, serial: u64) -> bool {
        let (done, kicked) = oneshot::channel();
        self.shards[self.shard_of(user)].order(Order::Kick { user, serial, done }).await;
        kicked.await.unwrap_or(false)
    }

    /// Ends the shards' threads and waits for them. What was handed over before is delivered first.
    pub fn shut_down(&self) {
        self.shards.iter().for_each(|shard| shard.inbox.close());
        for shard in &self.shards {
            let thread = shard.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                // A shard that panicked has been reported by the panic hook.
                let _ = thread.join();
            }
        }
    }

    /// Figures of all shards together.
    pub fn stats(&self) -> SessionStats {
        let mut total = SessionStats::default();
        self.shards.iter().for_each(|shard| total.add(&shard.stats));
        total
    }

    /// What all notifications together hold, and how long they take to the last socket write.
    pub fn meter(&self) -> &Arc<FrameMeter> {
        &self.meter
    }

    /// The limits in force.
    pub fn config(&self) -> &SessionsConfig {
        &self.config
    }

    fn shard_of(&self, user: UserId) -> usize {
        let hash = FixedState::default().hash_one(user);
        (hash % self.shards.len() as u64) as usize
    }
}

impl<T: Send + 'static> Door<T> {
    fn open(
        index: usize,
        config: &Arc<SessionsConfig>,
        authenticator: &Arc<dyn Authenticator>,
        meter: &Arc<FrameMeter>,
        runtime: &Handle,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let bell = Waker::new(poll.registry(), BELL)?;
        let inbox =
            Arc::new(Inbox::new(Room { items: config.inbox_capacity, bytes: config.inbox_bytes }, bell));
        let (control, orders) = mpsc::channel(CONTROL_CAPACITY);
        let stats = Arc::new(ShardStats::default());
        let surroundings = Surroundings {
            config: Arc::clone(config),
            stats: Arc::clone(&stats),
            meter: Arc::clone(meter),
            authenticator: Arc::clone(authenticator),
            runtime: runtime.clone(),
            verdicts: control.clone(),
            ring: Arc::new({
                let inbox = Arc::clone(&inbox);
                move || inbox.ring()
            }),
        };
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                // It outlives a panic: what unwinding dropped would be acked undelivered.
                let mut batch = Vec::new();
                let serve = || Shard::new(surroundings, &poll)?.run(poll, &inbox, orders, &mut batch);
                let error = match catch_unwind(AssertUnwindSafe(serve)) {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "panic".to_owned(),
                };
                // Its sessions are gone. A new process gets every unacked message again.
                error!(index, error, "a shard failed; the process ends");
                std::process::abort();
            }
        })?;
        Ok(Self { inbox, control, stats, thread: Mutex::new(Some(thread)) })
    }

    async fn order(&self, order: Order) -> bool {
        let sent = self.control.send(order).await.is_ok();
        self.inbox.ring();
        sent
    }
}

impl<T> Drop for Sessions<T> {
    fn drop(&mut self) {
        self.shards.iter().for_each(|shard| shard.inbox.close());
    }
}
