//! A thread that owns connections: it alone reads, writes, registers and closes them, so nothing here locks.
//!
//! A batch of deliveries is queued to all sessions it addresses, then every session that has something to write
//! is flushed once: direct, non-blocking, with all that waits in one system call.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use notify_protocol::UserId;
use slab::Slab;
use socket2::SockRef;
use time::OffsetDateTime;
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    task::{LocalSet, spawn_local, yield_now},
};
use tracing::{debug, info, warn};

use crate::{
    Admission, Authenticator, CloseReason, Frame, LogGate, OverflowPolicy, SessionsConfig,
    farewell::farewell,
    inbox::Inbox,
    outbox::Outbox,
    reader,
    registry::{Admittance, Registry},
    reply,
    session::{Flushed, Session, State},
    stats::ShardStats,
};

/// Log lines a second that a shard may write about one kind of event.
const LOG_LINES_PER_SECOND: u32 = 10;

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

/// What a shard is told besides deliveries.
#[derive(Debug)]
pub(crate) enum Control {
    Admit(Box<Admission>),
    /// Close every session with 1012, and answer when the last is gone or the time is up.
    Drain {
        within: Duration,
        done: oneshot::Sender<usize>,
    },
}

pub(crate) struct Shard {
    pub(crate) config: Arc<SessionsConfig>,
    pub(crate) stats: Arc<ShardStats>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    sessions: RefCell<Slab<Rc<Session>>>,
    registry: RefCell<Registry>,
    dirty: RefCell<Vec<Rc<Session>>>,
    draining: Cell<bool>,
    session_gone: Notify,
    log_gate: RefCell<LogGate>,
    /// Where every session's bytes are read into; none has a buffer of its own while idle.
    pub(crate) scratch: RefCell<Box<[u8]>>,
}

impl Shard {
    pub(crate) fn new(
        config: Arc<SessionsConfig>,
        stats: Arc<ShardStats>,
        authenticator: Arc<dyn Authenticator>,
    ) -> Self {
        Self {
            registry: RefCell::new(Registry::new(config.duplicate_login)),
            config,
            stats,
            authenticator,
            sessions: RefCell::default(),
            dirty: RefCell::default(),
            draining: Cell::new(false),
            session_gone: Notify::new(),
            log_gate: RefCell::new(LogGate::new(LOG_LINES_PER_SECOND)),
            scratch: RefCell::new(vec![0; 16 << 10].into()),
        }
    }

    /// Serves until the inbox is closed.
    pub(crate) async fn run<T: 'static>(
        self: Rc<Self>,
        inbox: Arc<Inbox<Delivery<T>>>,
        control: mpsc::Receiver<Control>,
    ) {
        LocalSet::new()
            .run_until(async move {
                spawn_local(Rc::clone(&self).obey(control));
                spawn_local(Rc::clone(&self).sweep_for_ever());
                let mut batch = Vec::new();
                while inbox.take(&mut batch).await {
                    self.deliver(&mut batch);
                    // Readers, blocked writers and logins get their turn between two batches.
                    yield_now().await;
                }
            })
            .await;
    }

    async fn obey(self: Rc<Self>, mut control: mpsc::Receiver<Control>) {
        while let Some(control) = control.recv().await {
            match control {
                Control::Admit(admission) => self.admit(*admission),
                Control::Drain { within, done } => {
                    spawn_local(Rc::clone(&self).drain(within, done));
                }
            }
        }
    }

    fn deliver<T>(self: &Rc<Self>, batch: &mut Vec<Delivery<T>>) {
        for Delivery { target, frame, .. } in batch.iter() {
            match *target {
                Target::Everyone => {
                    let sessions = self.sessions.borrow();
                    sessions.iter().for_each(|(_, session)| self.offer(session, frame));
                }
                Target::User(user) => self.deliver_to_user(user, frame),
            }
        }
        self.flush_dirty();
        self.shed();
        batch.drain(..).for_each(|delivery| drop(delivery.ticket));
    }

    fn deliver_to_user(self: &Rc<Self>, user: UserId, frame: &Frame) {
        let keys = self.registry.borrow().sessions_of(user);
        if keys.is_empty() {
            self.stats.not_connected.fetch_add(1, Relaxed);
            if let Some(suppressed) = self.log_gate.borrow_mut().pass(Instant::now()) {
                info!(user_id = %user, suppressed, "user is not connected here");
            }
            return;
        }
        self.stats.unicast.fetch_add(1, Relaxed);
        let sessions = self.sessions.borrow();
        keys.iter().filter_map(|key| sessions.get(*key)).for_each(|session| self.offer(session, frame));
    }

    /// Queues `frame` for an open session, or does what the overflow policy says.
    fn offer(self: &Rc<Self>, session: &Rc<Session>, frame: &Frame) {
        if !session.is_open() {
            return;
        }
        if session.queue(frame, &self.stats).is_err() {
            // The outbox may only be full because this batch has not been written yet.
            let flushed = session.flush(&self.stats);
            if session.queue(frame, &self.stats).is_err() {
                self.overflow(session, frame, flushed);
            }
        }
        self.mark_dirty(session);
    }

    fn overflow(self: &Rc<Self>, session: &Rc<Session>, frame: &Frame, flushed: Flushed) {
        if flushed == Flushed::Broken {
            return;
        }
        self.stats.overflows.fetch_add(1, Relaxed);
        match self.config.overflow {
            OverflowPolicy::Disconnect => self.close(session, CloseReason::TooSlow),
            OverflowPolicy::DropOldest => {
                session.make_room(frame, &self.stats);
                if session.queue(frame, &self.stats).is_err() {
                    self.stats.dropped_oldest.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Keeps this shard to its share of what may wait for all clients: whoever has most waiting goes first.
    fn shed(self: &Rc<Self>) {
        let share = (self.config.outbox_total_bytes / self.config.shards.max(1)) as u64;
        let mut queued = self.stats.queued_bytes.load(Relaxed);
        if queued <= share {
            return;
        }
        let waiting = |session: &Session| session.outbox.borrow().bytes();
        let mut slow: Vec<_> = {
            let sessions = self.sessions.borrow();
            sessions.iter().map(|(_, s)| Rc::clone(s)).filter(|s| s.is_open() && waiting(s) > 0).collect()
        };
        slow.sort_unstable_by_key(|session| std::cmp::Reverse(waiting(session)));
        for session in slow {
            if queued <= share {
                break;
            }
            self.stats.shed.fetch_add(1, Relaxed);
            self.close(&session, CloseReason::TooSlow);
            queued = self.stats.queued_bytes.load(Relaxed);
        }
        self.flush_dirty();
    }

    pub(crate) fn mark_dirty(&self, session: &Rc<Session>) {
        if !session.dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(session));
        }
    }

    /// Writes to every session that has something to say.
    pub(crate) fn flush_dirty(self: &Rc<Self>) {
        let mut dirty = self.dirty.take();
        for session in dirty.drain(..) {
            session.dirty.set(false);
            self.flush(&session);
        }
        // Nothing was marked meanwhile: the list's memory serves the next batch.
        self.dirty.replace(dirty);
    }

    fn flush(self: &Rc<Self>, session: &Rc<Session>) {
        match session.flush(&self.stats) {
            Flushed::Empty => self.after_last_words(session),
            Flushed::Blocked => self.wait_for_socket(session),
            Flushed::Broken => self.remove(session),
        }
    }

    /// Starts a task that writes when the socket takes bytes again; idle and quick sessions have none.
    fn wait_for_socket(self: &Rc<Self>, session: &Rc<Session>) {
        let writer = session.writer.take();
        if writer.as_ref().is_some_and(|w| !w.is_finished()) {
            session.writer.set(writer);
            return;
        }
        let (shard, client) = (Rc::clone(self), Rc::clone(session));
        let task = spawn_local(async move {
            while client.socket.writable().await.is_ok() {
                match client.flush(&shard.stats) {
                    Flushed::Blocked => {}
                    Flushed::Empty => return shard.after_last_words(&client),
                    Flushed::Broken => break,
                }
            }
            shard.remove(&client);
        });
        session.writer.set(Some(task.abort_handle()));
    }

    fn after_last_words(&self, session: &Session) {
        if let State::Draining { reason, deadline } = session.state.get() {
            // Our side is shut and the client's bytes are still read: a socket closed with unread bytes would
            // be reset, and the last words lost.
            let _ = SockRef::from(&session.socket).shutdown(std::net::Shutdown::Write);
            session.state.set(State::Lingering { reason, deadline });
        }
    }

    /// Queues the last words and takes the session out of the registry; the first reason wins.
    pub(crate) fn close(&self, session: &Rc<Session>, reason: CloseReason) {
        if !session.is_open() {
            return;
        }
        let deadline = Instant::now() + self.config.close_grace;
        session.state.set(State::Draining { reason, deadline });
        self.registry.borrow_mut().logout(session.user, session.key);
        self.stats.session_gone(session.transport);
        self.stats.closed(Some(reason));
        if reason == CloseReason::TooSlow {
            warn!(user_id = %session.user, peer = %session.peer, queued_bytes = session.outbox.borrow().bytes(),
                limit = self.config.outbox_bytes, "slow session closed");
            session.drop_unsent(&self.stats);
        }
        let retry = reason.retry_after_ms(self.config.retry_spread_ms, fastrand::u64(..));
        for frame in farewell(session.transport, self.config.frame, reason, retry) {
            session.queue_last_words(&frame, &self.stats);
        }
        self.mark_dirty(session);
        debug!(user_id = %session.user, peer = %session.peer, code = reason.code(), "session closing");
    }

    /// Forgets a session whose connection is lost or done with.
    pub(crate) fn remove(&self, session: &Rc<Session>) {
        let code = match session.state.replace(State::Closed) {
            State::Closed => return,
            State::Open => {
                self.registry.borrow_mut().logout(session.user, session.key);
                self.stats.session_gone(session.transport);
                self.stats.closed(None);
                None
            }
            State::Draining { reason, .. } | State::Lingering { reason, .. } => Some(reason.code()),
        };
        self.stats.queued_bytes.fetch_sub(session.outbox.borrow().bytes() as u64, Relaxed);
        self.sessions.borrow_mut().remove(session.key);
        session.stop_tasks();
        self.session_gone.notify_waiters();
        info!(user_id = %session.user, login = &*session.login, peer = %session.peer,
            transport = session.transport.as_str(), code, "session ended");
    }

    fn admit(self: &Rc<Self>, admission: Admission) {
        let Admission { identity, transport, socket, peer, mut inbound, permit } = admission;
        let socket = match TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return warn!(%peer, %error, "a new session's socket could not be registered"),
        };
        inbound.set_max_message(self.config.max_inbound_bytes);
        let mut sessions = self.sessions.borrow_mut();
        let entry = sessions.vacant_entry();
        let session = Rc::new(Session {
            key: entry.key(),
            user: identity.user,
            login: identity.login.into(),
            transport,
            peer,
            socket,
            state: Cell::new(State::Open),
            inbound: RefCell::new(inbound),
            outbox: RefCell::new(Outbox::new(transport, self.config.outbox_bytes)),
            dirty: Cell::new(false),
            last_inbound: Cell::new(Instant::now()),
            unanswered_pings: Cell::new(0),
            failed_logins: Cell::new(0),
            expires_at: Cell::new(identity.expires_at),
            backlog_since: Cell::new(None),
            reader: Cell::new(None),
            writer: Cell::new(None),
            _permit: permit,
        });
        entry.insert(Rc::clone(&session));
        drop(sessions);
        self.stats.session_opened(transport);
        self.enter(&session);
        let reader = spawn_local(reader::serve(Rc::clone(self), Rc::clone(&session)));
        session.reader.set(Some(reader.abort_handle()));
        self.flush_dirty();
    }

    /// Registers the session and welcomes it, in this order and without a wait between: what is broadcast next
    /// follows the welcome.
    fn enter(self: &Rc<Self>, session: &Rc<Session>) {
        if self.draining.get() {
            return self.close(session, CloseReason::Restart);
        }
        let admittance = self.registry.borrow_mut().login(session.user, session.key);
        let Admittance::Granted { replaced } = admittance else {
            return self.close(session, CloseReason::AlreadyLoggedIn);
        };
        let replaced: Vec<_> = {
            let sessions = self.sessions.borrow();
            replaced.iter().filter_map(|key| sessions.get(*key).cloned()).collect()
        };
        replaced.iter().for_each(|old| self.close(old, CloseReason::Replaced));
        self.welcome(session);
        info!(user_id = %session.user, login = &*session.login, peer = %session.peer,
            transport = session.transport.as_str(), replaced = replaced.len(), "session opened");
    }

    pub(crate) fn welcome(&self, session: &Rc<Session>) {
        let now = OffsetDateTime::now_utc();
        self.say(session, &reply::welcome(session.user, &session.login, now));
    }

    /// Queues one of the lobby's own messages; a client that does not read its answers is too slow.
    pub(crate) fn say(&self, session: &Rc<Session>, json: &str) {
        self.say_frame(session, &Frame::control(json, self.config.frame));
    }

    pub(crate) fn say_frame(&self, session: &Rc<Session>, frame: &Frame) {
        if session.is_open() && session.queue(frame, &self.stats).is_err() {
            self.stats.overflows.fetch_add(1, Relaxed);
            self.close(session, CloseReason::TooSlow);
        }
        self.mark_dirty(session);
    }

    /// Looks after all that time brings: pings, silence, expiry, clients that do not read, farewells that last
    /// too long. One sweep for all sessions costs less than a timer each.
    async fn sweep_for_ever(self: Rc<Self>) {
        let period = (self.config.ping_interval / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let sessions: Vec<_> = self.sessions.borrow().iter().map(|(_, s)| Rc::clone(s)).collect();
            let now = Instant::now();
            sessions.iter().for_each(|session| self.look_after(session, now, unix));
            self.flush_dirty();
        }
    }

    fn look_after(&self, session: &Rc<Session>, now: Instant, unix: u64) {
        match session.state.get() {
            State::Closed => {}
            State::Draining { deadline, .. } | State::Lingering { deadline, .. } => {
                if now >= deadline {
                    self.remove(session);
                }
            }
            State::Open => {
                let waits = |since: Instant| now.saturating_duration_since(since);
                let expired = session.expires_at.get().is_some_and(|at| unix >= at);
                let silence = waits(session.last_inbound.get());
                let pings = session.unanswered_pings.get();
                if session.backlog_since.get().is_some_and(|s| waits(s) >= self.config.write_timeout) {
                    self.close(session, CloseReason::TooSlow);
                } else if self.config.close_on_expiry && expired {
                    self.close(session, CloseReason::TokenExpired);
                } else if silence >= self.config.ping_interval * (u32::from(pings) + 1) {
                    if pings >= self.config.max_unanswered_pings {
                        self.close(session, CloseReason::PingTimeout);
                    } else {
                        session.unanswered_pings.set(pings + 1);
                        self.say(session, reply::PING);
                    }
                }
            }
        }
    }

    async fn drain(self: Rc<Self>, within: Duration, done: oneshot::Sender<usize>) {
        self.draining.set(true);
        let sessions: Vec<_> = self.sessions.borrow().iter().map(|(_, s)| Rc::clone(s)).collect();
        for session in &sessions {
            self.close(session, CloseReason::Restart);
        }
        drop(sessions);
        self.flush_dirty();
        let all_gone = async {
            loop {
                let gone = self.session_gone.notified();
                if self.sessions.borrow().is_empty() {
                    return;
                }
                gone.await;
            }
        };
        let _ = tokio::time::timeout(within, all_gone).await;
        let left = self.sessions.borrow().len();
        let _ = done.send(left);
    }
}
