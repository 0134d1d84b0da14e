//! A session on its shard: let in, welcomed, told why it ends, forgotten.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use socket2::SockRef;
use time::OffsetDateTime;
use tokio::{net::TcpStream, sync::oneshot, task::spawn_local};
use tracing::{debug, info, warn};

use super::Shard;
use crate::{
    Admission, CloseReason, Frame,
    farewell::farewell,
    outbox::Outbox,
    reader,
    registry::Admittance,
    reply,
    session::{Flushed, Session, State},
};

/// How long a client may take to close its side once all is written. The kernel goes on sending after that, but
/// what the client says then would cut it short.
const LINGER: Duration = Duration::from_millis(500);

impl Shard {
    pub(super) fn admit(self: &Rc<Self>, admission: Admission) {
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
            self.overflow(session, frame, Flushed::Blocked);
        }
        self.mark_dirty(session);
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
        self.closing.borrow_mut().push(Rc::clone(session));
        debug!(user_id = %session.user, peer = %session.peer, code = reason.code(), "session closing");
    }

    pub(super) fn after_last_words(&self, session: &Session) {
        if let State::Draining { reason, deadline } = session.state.get() {
            // Our side is shut and the client's bytes are still read: a socket closed with unread bytes would
            // be reset, and the last words lost.
            let _ = SockRef::from(&session.socket).shutdown(std::net::Shutdown::Write);
            let deadline = deadline.min(Instant::now() + LINGER);
            session.state.set(State::Lingering { reason, deadline });
        }
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
            State::Draining { reason, .. } => {
                self.cut_off.set(self.cut_off.get() + 1);
                Some(reason.code())
            }
            State::Lingering { reason, .. } => Some(reason.code()),
        };
        self.stats.queued_bytes.fetch_sub(session.outbox.borrow().bytes() as u64, Relaxed);
        self.sessions.borrow_mut().remove(session.key);
        session.stop_tasks();
        self.session_gone.notify_waiters();
        info!(user_id = %session.user, login = &*session.login, peer = %session.peer,
            transport = session.transport.as_str(), code, "session ended");
    }

    /// Ends every session, and says how many had not read to the end `within` the limit.
    pub(super) async fn drain(self: Rc<Self>, within: Duration, done: oneshot::Sender<usize>) {
        self.draining.set(true);
        let sessions: Vec<_> = self.sessions.borrow().iter().map(|(_, s)| Rc::clone(s)).collect();
        let deadline = Instant::now() + within;
        for session in &sessions {
            self.close(session, CloseReason::Restart);
            if let State::Draining { reason, .. } = session.state.get() {
                session.state.set(State::Draining { reason, deadline });
            }
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
        // The sweep of farewells ends the last ones; this is for a sweep that is late.
        let _ = tokio::time::timeout(within + LINGER, all_gone).await;
        let left = self.sessions.borrow().len() + self.cut_off.get();
        let _ = done.send(left);
    }
}
