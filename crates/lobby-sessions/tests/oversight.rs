//! What an operator sees of the sessions, and does to one.

mod rig;

use lobby_sessions::{SessionQuery, Transport};
use notify_protocol::UserId;
use rig::Lobby;

fn query(text: &str, limit: usize) -> SessionQuery {
    SessionQuery { text: text.to_owned(), limit, ..SessionQuery::default() }
}

#[tokio::test]
async fn sessions_are_found_by_user_login_and_address_and_the_slowest_come_first() {
    let lobby = Lobby::start(|_| {}).await;
    let mut clients = Vec::new();
    for user in [1, 7, 12, 21] {
        clients.push(lobby.client(user).await);
    }
    let _slow = lobby.connect(33, Transport::WebSocket).await;
    lobby.unicast(33, &format!("{{\"fill\":\"{}\"}}", "x".repeat(1 << 20))).wait().await;

    let all = lobby.sessions.list(&query("", 100)).await;
    assert_eq!((all.matching, all.sessions.len()), (5, 5));
    let slowest = &all.sessions[0];
    assert_eq!(
        (slowest.user, slowest.transport, slowest.tls),
        (UserId::new(33), Transport::WebSocket, false)
    );
    assert!(slowest.queued_bytes > 100_000 && slowest.behind.is_some());
    assert!(all.sessions[1..].iter().all(|session| session.queued_bytes == 0 && session.behind.is_none()));

    let users = async |text: &str| {
        let listing = lobby.sessions.list(&query(text, 100)).await;
        let mut users: Vec<_> = listing.sessions.iter().map(|session| session.user.get()).collect();
        users.sort_unstable();
        users
    };
    assert_eq!(users("1").await, [1, 12, 21], "the id, or a part of the login");
    assert_eq!(users("USER-2").await, [21]);
    assert_eq!(users(&all.sessions[1].peer.to_string()).await, [all.sessions[1].user.get()]);
    assert_eq!(users("nobody").await, Vec::<i64>::new());
    let of = |user, text: &str| SessionQuery { user: Some(UserId::new(user)), ..query(text, 1) };
    for (query, matching) in [(of(1, ""), 1), (of(21, "user-2"), 1), (of(21, "user-7"), 0), (of(2, ""), 0)] {
        let listing = lobby.sessions.list(&query).await;
        assert_eq!((listing.matching, listing.sessions.len()), (matching, matching), "{query:?}");
        assert!(listing.sessions.iter().all(|session| Some(session.user) == query.user));
    }
    let some = lobby.sessions.list(&query("", 2)).await;
    assert_eq!((some.matching, some.sessions.len(), some.sessions[0].user), (5, 2, UserId::new(33)));
}

#[tokio::test]
async fn a_kicked_session_gets_what_waits_then_the_reason_and_no_other_is_touched() {
    let lobby = Lobby::start(|_| {}).await;
    let (mut first, mut other) = (lobby.client(1).await, lobby.client(2).await);
    let serial = lobby.sessions.list(&query("user-1", 1)).await.sessions[0].serial;
    lobby.unicast(1, "{\"last\":1}");
    assert!(lobby.sessions.kick(UserId::new(1), serial).await);
    assert_eq!(first.line().await, "{\"last\":1}");
    assert!(first.line().await.contains("\"style\":\"kick\""));
    assert_eq!(first.closing_code().await, 4502);
    lobby.broadcast("{\"still\":1}");
    assert_eq!(other.line().await, "{\"still\":1}");

    let mut again = lobby.client(1).await;
    assert!(!lobby.sessions.kick(UserId::new(1), serial).await, "it is another session now");
    assert!(!lobby.sessions.kick(UserId::new(5), serial).await);
    lobby.unicast(1, "{\"again\":1}");
    assert_eq!(again.line().await, "{\"again\":1}");
    lobby
        .until("counted", |s| {
            s.closes[lobby_sessions::CLOSE_CODES.iter().position(|c| *c == 4502).unwrap_or(0)] == 1
        })
        .await;
}
