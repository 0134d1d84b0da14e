//! What a shard keeps about its sessions beside the sessions themselves, and what it does to one of them: offer it a
//! message, say something, end it.

use std::{sync::Arc, time::Instant};

use time::OffsetDateTime;
use tracing::{debug, warn};

use super::Surroundings;
use crate::{
    CloseReason, Frame, LogGate, OverflowPolicy, SessionsConfig,
    farewell::farewell,
    registry::{Key, Registry},
    reply,
    seat::{Flushed, Seat},
    session::{Session, State},
    stats::ShardStats,
};

/// Log lines a second that a shard may write about one kind of event.
const LOG_LINES_PER_SECOND: u32 = 10;

pub(super) struct Desk {
    pub(super) config: Arc<SessionsConfig>,
    pub(super) stats: Arc<ShardStats>,
    pub(super) registry: Registry,
    pub(super) log_gate: LogGate,
    /// Sessions with something to write.
    pub(super) dirty: Vec<Key>,
    /// Sessions that have been told why they end.
    pub(super) closing: Vec<Key>,
}

impl Desk {
    pub(super) fn new(surroundings: &Surroundings) -> Self {
        Self {
            registry: Registry::new(surroundings.config.duplicate_login),
            config: Arc::clone(&surroundings.config),
            stats: Arc::clone(&surroundings.stats),
            log_gate: LogGate::new(LOG_LINES_PER_SECOND),
            dirty: Vec::new(),
            closing: Vec::new(),
        }
    }

    pub(super) fn mark_dirty(&mut self, session: &mut Session) {
        if !session.dirty && !session.blocked {
            session.dirty = true;
            self.dirty.push(session.key);
        }
    }

    /// Queues `frame` for an open session, or does what the overflow policy says.
    pub(super) fn offer(&mut self, seat: &mut Seat, frame: &Frame) {
        if !seat.session().is_open() {
            return;
        }
        frame.is_for(1);
        if seat.session_mut().queue(frame, &self.stats).is_err() {
            // The outbox may only be full because this batch has not been written yet.
            let flushed = seat.flush(&self.stats);
            let session = seat.session_mut();
            if session.queue(frame, &self.stats).is_err() {
                match flushed {
                    Flushed::Broken => frame.is_cut_off(),
                    Flushed::Empty | Flushed::Blocked => self.overflow(session, frame),
                }
            }
        }
        self.mark_dirty(seat.session_mut());
    }

    fn overflow(&mut self, session: &mut Session, frame: &Frame) {
        self.stats.overflows.add(1);
        match self.config.overflow {
            OverflowPolicy::Disconnect => {
                frame.overflows();
                self.close(session, CloseReason::TooSlow);
            }
            OverflowPolicy::DropOldest => {
                if !std::mem::replace(&mut session.overflow_logged, true) {
                    warn!(user_id = %session.user, peer = %session.peer, limit = self.config.outbox_bytes,
                        "messages for a slow session are dropped; said once a session");
                }
                session.make_room(frame, &self.stats);
                if session.queue(frame, &self.stats).is_err() {
                    self.stats.dropped_oldest.add(1);
                    frame.overflows();
                }
            }
        }
    }

    pub(super) fn welcome(&mut self, session: &mut Session) {
        let now = OffsetDateTime::now_utc();
        let welcome = reply::welcome(session.user, &session.login, now);
        self.say(session, &welcome);
    }

    /// Queues one of the lobby's own messages; a client that does not read its answers is too slow.
    pub(super) fn say(&mut self, session: &mut Session, json: &str) {
        self.say_frame(session, &Frame::control(json, self.config.frame));
    }

    pub(super) fn say_frame(&mut self, session: &mut Session, frame: &Frame) {
        if session.is_open() && session.queue(frame, &self.stats).is_err() {
            self.overflow(session, frame);
        }
        self.mark_dirty(session);
    }

    /// Queues the last words and takes the session out of the registry; the first reason wins.
    pub(super) fn close(&mut self, session: &mut Session, reason: CloseReason) {
        if !session.is_open() {
            return;
        }
        session.state = State::Draining { reason, deadline: Instant::now() + self.config.close_grace };
        self.registry.logout(session.user, session.key);
        self.stats.session_gone(session.transport);
        self.stats.closed(Some(reason));
        if reason == CloseReason::TooSlow {
            warn!(user_id = %session.user, peer = %session.peer, queued_bytes = session.outbox.bytes(),
                limit = self.config.outbox_bytes, "slow session closed");
            session.drop_unsent(&self.stats);
        }
        let retry = reason.retry_after_ms(self.config.retry_spread_ms, fastrand::u64(..));
        for frame in farewell(session.transport, self.config.frame, reason, retry) {
            session.queue_last_words(&frame, &self.stats);
        }
        self.mark_dirty(session);
        self.closing.push(session.key);
        debug!(user_id = %session.user, peer = %session.peer, code = reason.code(), "session closing");
    }
}
