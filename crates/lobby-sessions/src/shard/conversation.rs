//! What an open session says, and the answers.

use std::{collections::VecDeque, io, sync::Arc, time::Instant};

use tracing::info;

use super::{Order, Shard, Surroundings, TURN, desk::Desk};
use crate::{
    CloseReason, Command, Frame, Identity, Refused, inbound::Event, registry::Key, reply, seat::Seat,
    session::Session, websocket,
};

/// Tokens that may fail before the connection is closed.
const MAX_FAILED_LOGINS: u8 = 3;

/// Sessions that may have something to read, each once.
#[derive(Debug, Default)]
pub(super) struct Unread(VecDeque<Key>);

impl Unread {
    pub(super) fn add(&mut self, session: &mut Session) {
        if !std::mem::replace(&mut session.unread, true) {
            self.0.push_back(session.key);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Shard {
    /// Reads once from each session that may have something, but no longer than a turn: the others are read after
    /// the next deliveries.
    pub(super) fn read_on(&mut self, turn_began: Instant) {
        for _ in 0..self.unread.0.len() {
            let Some(key) = self.unread.0.pop_front() else { break };
            self.read(key, turn_began);
            if turn_began.elapsed() >= TURN {
                break;
            }
        }
    }

    /// Takes what the socket holds, once: a client that always has bytes ready must not keep the shard from the
    /// others. A session that is being closed is read to its end and not listened to.
    fn read(&mut self, key: Key, now: Instant) {
        let Some(seat) = self.seats.get_mut(key) else { return };
        seat.session_mut().unread = false;
        if seat.session().is_held() {
            seat.session_mut().unheard_since.get_or_insert(now);
            return;
        }
        self.desk.credit(seat.session_mut(), now);
        match seat.read(&mut self.scratch) {
            Ok((0, _)) => return self.remove(key),
            Ok((count, more)) => {
                let session = seat.session_mut();
                if more || session.hung_up {
                    self.unread.add(session);
                }
                if session.is_open() {
                    session.touch(now);
                    session.inbound.extend(&self.scratch[..count]);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.unread.add(seat.session_mut()),
            Err(_) => return self.remove(key),
        }
        self.hear_out(key);
    }

    /// Answers whatever whole messages have come.
    pub(super) fn hear_out(&mut self, key: Key) {
        let Self { seats, desk, surroundings, .. } = self;
        let Some(session) = seats.get_mut(key).map(Seat::session_mut) else { return };
        while session.is_open() && !session.verifying {
            match session.inbound.next() {
                None => return,
                Some(Err(reason)) => desk.close(session, reason),
                Some(Ok(event)) => desk.answer(session, event, surroundings),
            }
        }
    }

    /// Hears the verdict on a token of an open session, and what the session has said since.
    pub(super) fn heed(&mut self, key: Key, serial: u64, verdict: Result<Identity, Refused>) {
        let session = self.seats.get_mut(key).map(Seat::session_mut);
        let Some(session) = session.filter(|session| session.serial == serial) else { return };
        session.verifying = false;
        self.desk.extend(session, verdict);
        self.unread.add(session);
        self.hear_out(key);
    }
}

impl Desk {
    fn answer(&mut self, session: &mut Session, event: Event, surroundings: &Surroundings) {
        if !self.may_say_more(session) {
            return self.close(session, CloseReason::TooTalkative);
        }
        let message = match event {
            Event::Ping(payload) => {
                return self.say_frame(session, &Frame::websocket_only(websocket::pong_frame(&payload)));
            }
            Event::Close(_) => return self.close(session, CloseReason::Bye),
            Event::Message(message) => message,
            Event::Nothing => return,
        };
        match Command::decode(&message) {
            Err(reason) => self.close(session, reason),
            Ok(Command::Ping) => self.say(session, reply::PONG),
            Ok(Command::Pong) => {}
            Ok(Command::AskSession) => self.say(session, &reply::session(fastrand::u32(..))),
            Ok(Command::Auth { token }) => verify(session, token, surroundings),
            Ok(Command::Unknown) => {
                self.stats.invalid_commands.add(1);
                self.say(session, &reply::invalid());
            }
        }
    }

    /// Takes one of the commands that a session may send, if one is left. What asks for nothing counts: it is read, too.
    fn may_say_more(&self, session: &mut Session) -> bool {
        let Some(rate) = self.config.command_rate else { return true };
        let now = session.opened.elapsed();
        if session.commands.has_token(rate, now) {
            session.commands.take(rate, now);
            return true;
        }
        let credited = session.credit > 0;
        session.credit = session.credit.saturating_sub(1);
        credited
    }

    /// What waited while the session was not heard comes all at once, and was not said so.
    fn credit(&self, session: &mut Session, now: Instant) {
        let (Some(since), Some(rate)) = (session.unheard_since.take(), self.config.command_rate) else {
            return;
        };
        // One that reads little by little is heard little by little, and what it has not used of its credit stays.
        let more = rate.within(now.saturating_duration_since(since));
        session.credit = session.credit.saturating_add(more).min(rate.within(self.config.write_timeout));
    }

    /// A fresh token of the same user extends the session; any other counts as a failed login.
    fn extend(&mut self, session: &mut Session, verdict: Result<Identity, Refused>) {
        if !session.is_open() {
            return;
        }
        let why = match verdict {
            Ok(identity) if identity.user == session.user => {
                session.expires_at = identity.expires_at;
                return self.welcome(session);
            }
            Ok(_) => "another user's token".to_owned(),
            Err(refused) => refused.to_string(),
        };
        info!(user_id = %session.user, peer = %session.peer, why, "session not extended");
        self.say(session, &reply::authentication_failed());
        session.failed_logins += 1;
        if session.failed_logins >= MAX_FAILED_LOGINS {
            self.close(session, CloseReason::AuthenticationFailed);
        }
    }
}

/// Has a token verified elsewhere: it may need keys that have to be fetched.
fn verify(session: &mut Session, token: String, surroundings: &Surroundings) {
    session.verifying = true;
    let (key, serial) = (session.key, session.serial);
    let Surroundings { authenticator, verdicts, ring, .. } = surroundings;
    let (authenticator, verdicts, ring) = (Arc::clone(authenticator), verdicts.clone(), Arc::clone(ring));
    surroundings.runtime.spawn(async move {
        let verdict = authenticator.authenticate(&token).await;
        // A shard that is gone has no use for it.
        let _ = verdicts.send(Order::Verdict { key, serial, verdict }).await;
        ring();
    });
}
