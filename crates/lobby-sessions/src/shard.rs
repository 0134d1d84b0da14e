//! A thread that owns connections: it alone reads, writes, registers and closes them, so nothing here locks.
//!
//! One event loop: deliveries from the inbox first, written directly and without waiting; then what the event queue
//! says of sockets, then orders, then what time brings. Idle sessions have no task, no timer and no buffer.

mod broadcast;
mod conversation;
mod desk;
mod drain;
mod lifetime;
mod oversight;
mod sweep;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Registry as Sockets, Token, event::Event};
use notify_protocol::UserId;
use slab::Slab;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tracing::info;

use self::{
    broadcast::Broadcaster, conversation::Unread, desk::Desk, drain::Drain, lifetime::after_last_words,
    sweep::Sweeps,
};
use crate::{
    Admission, Authenticator, Frame, FrameMeter, Identity, Listing, Refused, SessionQuery, SessionsConfig,
    inbox::{Inbox, Taken},
    registry::Key,
    seat::{Flushed, Seat},
    stats::ShardStats,
};

/// How long deliveries may keep a shard from its other work, and what clients say from the deliveries.
const TURN: Duration = Duration::from_millis(1);
/// Events that one look at the event queue takes.
const EVENTS: usize = 1024;
/// The inbox's token in the event queue; sessions have theirs by key.
pub(crate) const BELL: Token = Token(usize::MAX);

/// Whom a delivery is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    User(UserId),
    Everyone,
}

/// One message for this shard; `ticket` is dropped once the message stands in every addressed outbox.
#[derive(Debug)]
pub(crate) struct Delivery<T> {
    pub(crate) target: Target,
    pub(crate) frame: Frame,
    pub(crate) ticket: T,
}

impl<T> Delivery<T> {
    fn is_broadcast(&self) -> bool {
        self.target == Target::Everyone
    }
}

/// What a shard is told besides deliveries.
#[derive(Debug)]
pub(crate) enum Order {
    Admit(Box<Admission>),
    /// A token that an open session sent has been verified.
    Verdict {
        key: Key,
        serial: u64,
        verdict: Result<Identity, Refused>,
    },
    /// Say who is logged in.
    List {
        query: SessionQuery,
        answer: oneshot::Sender<Listing>,
    },
    /// Close one session with 4502; says whether it was there.
    Kick {
        user: UserId,
        serial: u64,
        done: oneshot::Sender<bool>,
    },
    /// Say that the shard serves.
    Answer {
        done: oneshot::Sender<()>,
    },
    /// Close every session with 1012, paced over the window, and answer when the last is gone or the time is up.
    Drain {
        window: Duration,
        within: Duration,
        done: oneshot::Sender<usize>,
    },
}

/// What a shard shares with the rest of the process.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) config: Arc<SessionsConfig>,
    pub(crate) stats: Arc<ShardStats>,
    pub(crate) meter: Arc<FrameMeter>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// Where tokens of open sessions are verified.
    pub(crate) runtime: Handle,
    pub(crate) verdicts: mpsc::Sender<Order>,
    pub(crate) ring: Arc<dyn Fn() + Send + Sync>,
}

pub(crate) struct Shard {
    surroundings: Surroundings,
    sockets: Sockets,
    seats: Slab<Seat>,
    desk: Desk,
    broadcaster: Broadcaster,
    next_serial: u64,
    unread: Unread,
    sweeps: Sweeps,
    drain: Option<Drain>,
    /// Where every session's bytes are read into; none has a buffer of its own while idle.
    scratch: Box<[u8]>,
}

impl Shard {
    pub(crate) fn new(surroundings: Surroundings, poll: &Poll) -> io::Result<Self> {
        Ok(Self {
            sockets: poll.registry().try_clone()?,
            seats: Slab::new(),
            desk: Desk::new(&surroundings),
            broadcaster: Broadcaster::new(),
            next_serial: 0,
            unread: Unread::default(),
            sweeps: Sweeps::new(&surroundings.config, Instant::now()),
            drain: None,
            scratch: vec![0; 16 << 10].into(),
            surroundings,
        })
    }

    /// Serves until the inbox is closed and empty.
    ///
    /// # Errors
    /// When the event queue fails, which leaves nothing to serve with.
    pub(crate) fn run<T>(
        mut self,
        mut poll: Poll,
        inbox: &Inbox<Delivery<T>>,
        mut orders: mpsc::Receiver<Order>,
        batch: &mut Vec<Delivery<T>>,
    ) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut turn_began = Instant::now();
        loop {
            // Counted before the inbox is looked into: an order is obeyed after what was handed over before it.
            let waiting = orders.len();
            let taken = inbox.take(batch);
            if taken == Taken::Closed {
                return Ok(());
            }
            self.deliver(batch);
            let now = Instant::now();
            // A look at the event queue is much for a single unicast: while deliveries come, all else has its turn
            // every millisecond.
            if taken == Taken::Items && now.saturating_duration_since(turn_began) < TURN {
                continue;
            }
            let may_sleep = taken == Taken::Nothing && waiting == 0 && self.unread.is_empty();
            let patience = if may_sleep { self.next_deadline(now) } else { Duration::ZERO };
            match poll.poll(&mut events, Some(patience)) {
                // There are no events then, but what else waits must not wait longer.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                polled => polled?,
            }
            turn_began = Instant::now();
            events.iter().filter(|event| event.token() != BELL).for_each(|event| self.attend(event));
            self.read_on(turn_began);
            for _ in 0..waiting {
                let Ok(order) = orders.try_recv() else { break };
                self.obey(order, turn_began);
            }
            self.sweep(turn_began);
            self.flush_dirty(turn_began);
            self.drain_on(turn_began);
        }
    }

    fn attend(&mut self, event: &Event) {
        let Token(key) = event.token();
        let Some(seat) = self.seats.get_mut(key) else { return };
        let session = seat.session_mut();
        if event.is_writable() && session.blocked {
            session.blocked = false;
            self.desk.mark_dirty(session);
        }
        session.hung_up |= event.is_read_closed() || event.is_error();
        if event.is_readable() || session.hung_up {
            self.unread.add(session);
        }
    }

    fn obey(&mut self, order: Order, now: Instant) {
        match order {
            Order::Admit(admission) => self.admit(*admission, now),
            Order::Verdict { key, serial, verdict } => self.heed(key, serial, verdict),
            // Who no longer waits for an answer needs none.
            Order::List { query, answer } => drop(answer.send(self.list(&query, now))),
            Order::Kick { user, serial, done } => drop(done.send(self.kick(user, serial))),
            Order::Answer { done } => drop(done.send(())),
            Order::Drain { window, within, done } => self.begin_drain(window, within, done, now),
        }
    }

    fn deliver<T>(&mut self, batch: &mut Vec<Delivery<T>>) {
        if batch.is_empty() {
            return;
        }
        let broadcasts: Vec<_> = batch.iter().filter(|d| d.is_broadcast()).map(|d| &d.frame).collect();
        let mut before = 0;
        for delivery in &*batch {
            match delivery.target {
                Target::Everyone => before += 1,
                Target::User(user) => self.deliver_to_user(user, &delivery.frame, &broadcasts[..before]),
            }
        }
        if !broadcasts.is_empty() {
            self.deliver_to_everyone(&broadcasts);
        }
        let now = Instant::now();
        self.flush_dirty(now);
        self.shed(now);
        batch.drain(..).for_each(|delivery| drop(delivery.ticket));
    }

    /// Queues a message for a user's sessions, after the batch's broadcasts that came before it.
    fn deliver_to_user(&mut self, user: UserId, frame: &Frame, broadcasts: &[&Frame]) {
        let Self { seats, desk, .. } = self;
        let keys = desk.registry.sessions_of(user);
        if keys.is_empty() {
            desk.stats.not_connected.add(1);
            if let Some(suppressed) = desk.log_gate.pass(Instant::now()) {
                info!(user_id = %user, suppressed, "user is not connected here");
            }
            return;
        }
        desk.stats.unicast.add(1);
        for key in keys {
            if let Some(seat) = seats.get_mut(key) {
                let ahead = std::mem::replace(&mut seat.session_mut().ahead, broadcasts.len());
                broadcasts[ahead..].iter().for_each(|earlier| desk.offer(seat, earlier));
                if !seat.session().is_open() {
                    // What came before it was too much.
                    frame.is_for(1);
                    frame.overflows();
                }
                desk.offer(seat, frame);
            }
        }
    }

    /// Writes to every session that has something to say.
    fn flush_dirty(&mut self, now: Instant) {
        let mut dirty = std::mem::take(&mut self.desk.dirty);
        for key in dirty.drain(..) {
            let Some(seat) = self.seats.get_mut(key) else { continue };
            let session = seat.session_mut();
            session.dirty = false;
            let was_behind = session.backlog_since.is_some();
            match seat.flush(&self.desk.stats) {
                Flushed::Empty => {
                    after_last_words(seat, now);
                    // What it said meanwhile brings no new event.
                    if was_behind {
                        self.unread.add(seat.session_mut());
                    }
                }
                Flushed::Blocked => {}
                Flushed::Broken => self.remove(key),
            }
        }
        // Nothing was marked meanwhile: the list's memory serves the next batch.
        self.desk.dirty = dirty;
    }
}
