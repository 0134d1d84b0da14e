//! A session on its shard: let in, welcomed, forgotten.

use std::time::Instant;

use mio::{Interest, Token, net::TcpStream};
use tracing::{info, warn};

use super::{Shard, drain::LINGER};
use crate::{
    Admission, Bucket, CloseReason,
    outbox::Outbox,
    registry::{Admittance, Key},
    seat::Seat,
    session::{Session, State},
};

impl Shard {
    pub(super) fn admit(&mut self, admission: Admission, now: Instant) {
        let Admission { identity, transport, socket, tls, peer, mut inbound, permit } = admission;
        let mut socket = TcpStream::from_std(socket);
        let entry = self.seats.vacant_entry();
        let key = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.sockets.register(&mut socket, Token(key), interest) {
            return warn!(%peer, %error, "a new session's socket could not be registered");
        }
        inbound.set_max_message(self.desk.config.max_inbound_bytes);
        self.next_serial += 1;
        let session = Session {
            key,
            serial: self.next_serial,
            user: identity.user,
            login: identity.login.into(),
            transport,
            peer,
            state: State::Open,
            inbound,
            tls,
            outbox: Outbox::new(transport, self.desk.config.outbox_bytes),
            dirty: false,
            unread: false,
            ahead: 0,
            blocked: false,
            hung_up: false,
            verifying: false,
            overflow_logged: false,
            unanswered_pings: 0,
            failed_logins: 0,
            commands: Bucket::default(),
            unheard_since: None,
            credit: 0,
            opened: now,
            last_inbound: now,
            expires_at: identity.expires_at,
            backlog_since: None,
            _permit: permit,
        };
        entry.insert(Seat::new(socket, session));
        self.desk.stats.session_opened(transport);
        // TLS may hold what came with the login already: no event tells of that.
        self.unread.add(self.seats[key].session_mut());
        self.enter(key);
        self.hear_out(key);
        self.flush_dirty(now);
    }

    /// Registers the session and welcomes it, in this order and without a wait between: what is broadcast next
    /// follows the welcome.
    fn enter(&mut self, key: Key) {
        let Self { seats, desk, .. } = self;
        let user = seats[key].session().user;
        if self.drain.is_some() {
            return desk.close(seats[key].session_mut(), CloseReason::Restart);
        }
        let Admittance::Granted { replaced } = desk.registry.login(user, key) else {
            return desk.close(seats[key].session_mut(), CloseReason::AlreadyLoggedIn);
        };
        for old in &replaced {
            desk.close(seats[*old].session_mut(), CloseReason::Replaced);
        }
        let session = seats[key].session_mut();
        desk.welcome(session);
        info!(user_id = %user, login = &*session.login, peer = %session.peer,
            transport = session.transport.as_str(), replaced = replaced.len(), "session opened");
    }

    /// Forgets a session whose connection is lost or done with.
    pub(super) fn remove(&mut self, key: Key) {
        let Some(seat) = self.seats.try_remove(key) else { return };
        let session = seat.leave();
        let code = match session.state {
            State::Open => {
                self.desk.registry.logout(session.user, key);
                self.desk.stats.session_gone(session.transport);
                self.desk.stats.closed(None);
                None
            }
            State::Draining { reason, .. } => {
                if let Some(drain) = &mut self.drain {
                    drain.cuts_off();
                }
                Some(reason.code())
            }
            State::Lingering { reason, .. } => Some(reason.code()),
        };
        self.desk.stats.queued_bytes.change(session.outbox.bytes(), 0);
        info!(user_id = %session.user, login = &*session.login, peer = %session.peer,
            transport = session.transport.as_str(), code, "session ended");
    }
}

/// Shuts our side once the last words are written. The client's bytes are still read: a socket closed with unread
/// bytes would be reset, and the last words lost.
pub(super) fn after_last_words(seat: &mut Seat, now: Instant) {
    if let State::Draining { reason, deadline } = seat.session().state {
        seat.shut_down_writing();
        seat.session_mut().state = State::Lingering { reason, deadline: deadline.min(now + LINGER) };
    }
}
