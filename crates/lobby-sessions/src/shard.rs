//! A thread that owns connections: it alone reads, writes, registers and closes them, so nothing here locks.
//!
//! A batch of deliveries is queued to all sessions it addresses, then every session that has something to write
//! is flushed once: direct, non-blocking, with all that waits in one system call.

mod lifetime;
mod sweep;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use notify_protocol::UserId;
use slab::Slab;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::{LocalSet, spawn_local, yield_now},
};
use tracing::info;

use crate::{
    Admission, Authenticator, CloseReason, Frame, FrameMeter, LogGate, OverflowPolicy, SessionsConfig,
    inbox::Inbox,
    registry::Registry,
    session::{Flushed, Session},
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
    meter: Arc<FrameMeter>,
    sessions: RefCell<Slab<Rc<Session>>>,
    registry: RefCell<Registry>,
    dirty: RefCell<Vec<Rc<Session>>>,
    closing: RefCell<Vec<Rc<Session>>>,
    draining: Cell<bool>,
    /// Sessions that ended before they had read their last words.
    cut_off: Cell<usize>,
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
        meter: Arc<FrameMeter>,
    ) -> Self {
        Self {
            registry: RefCell::new(Registry::new(config.duplicate_login)),
            config,
            stats,
            authenticator,
            meter,
            sessions: RefCell::default(),
            dirty: RefCell::default(),
            closing: RefCell::default(),
            draining: Cell::new(false),
            cut_off: Cell::new(0),
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
                spawn_local(Rc::clone(&self).end_farewells());
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
            frame.reaches_nobody();
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

    fn overflow(&self, session: &Rc<Session>, frame: &Frame, flushed: Flushed) {
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
}
