//! What an open session says, and the answers.

use std::{io, rc::Rc, sync::atomic::Ordering::Relaxed, time::Instant};

use tokio::task::yield_now;
use tracing::info;

use crate::{
    CloseReason, Command, Frame,
    inbound::Event,
    reply,
    session::{Session, State},
    shard::Shard,
    websocket,
};

/// Tokens that may fail before the connection is closed.
const MAX_FAILED_LOGINS: u8 = 3;

/// Serves one session's inbound side until the connection ends.
pub(crate) async fn serve(shard: Rc<Shard>, session: Rc<Session>) {
    loop {
        while let Some(event) = next_event(&session) {
            match event {
                Ok(event) => answer(&shard, &session, event).await,
                Err(reason) => shard.close(&session, reason),
            }
        }
        shard.flush_dirty();
        if session.socket.readable().await.is_err() || !read(&shard, &session) {
            return shard.remove(&session);
        }
        // A client that always has bytes ready must not keep the shard from the others.
        yield_now().await;
    }
}

fn next_event(session: &Session) -> Option<Result<Event, CloseReason>> {
    if session.is_open() { session.inbound.borrow_mut().next() } else { None }
}

/// Takes what the socket holds; false when the connection has ended. A session that is being closed is read to
/// its end and not listened to.
fn read(shard: &Shard, session: &Session) -> bool {
    let mut scratch = shard.scratch.borrow_mut();
    match session.socket.try_read(&mut scratch) {
        Ok(0) => false,
        Ok(count) => {
            if session.is_open() {
                session.touch(Instant::now());
                session.inbound.borrow_mut().extend(&scratch[..count]);
            }
            session.state.get() != State::Closed
        }
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

async fn answer(shard: &Rc<Shard>, session: &Rc<Session>, event: Event) {
    match event {
        Event::Ping(payload) => {
            shard.say_frame(session, &Frame::websocket_only(websocket::pong_frame(&payload)));
        }
        Event::Close(_) => shard.close(session, CloseReason::Bye),
        Event::Message(message) => match Command::decode(&message) {
            Err(reason) => shard.close(session, reason),
            Ok(Command::Ping) => shard.say(session, reply::PONG),
            Ok(Command::Pong) => {}
            Ok(Command::AskSession) => shard.say(session, &reply::session(fastrand::u32(..))),
            Ok(Command::Auth { token }) => extend(shard, session, &token).await,
            Ok(Command::Unknown) => {
                shard.stats.invalid_commands.fetch_add(1, Relaxed);
                shard.say(session, &reply::invalid());
            }
        },
    }
}

/// A fresh token of the same user extends the session; any other counts as a failed login.
async fn extend(shard: &Rc<Shard>, session: &Rc<Session>, token: &str) {
    match shard.authenticator.authenticate(token).await {
        Ok(identity) if identity.user == session.user => {
            session.expires_at.set(identity.expires_at);
            shard.welcome(session);
        }
        verdict => {
            let why =
                verdict.map_or_else(|refused| refused.to_string(), |_| "another user's token".to_owned());
            info!(user_id = %session.user, peer = %session.peer, why, "session not extended");
            shard.say(session, &reply::authentication_failed());
            session.failed_logins.set(session.failed_logins.get() + 1);
            if session.failed_logins.get() >= MAX_FAILED_LOGINS {
                shard.close(session, CloseReason::AuthenticationFailed);
            }
        }
    }
}
