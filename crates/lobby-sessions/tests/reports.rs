//! Who asks what became of a message is told once, when nothing holds the message any more, and is told the truth.

#![expect(clippy::expect_used, reason = "a test fails by panicking, in its helpers too")]

mod rig;

use std::{
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use lobby_sessions::{DuplicateLogin, OverflowPolicy, Reach, Transport};
use notify_protocol::UserId;
use rig::{Lobby, PATIENCE, ticket};

enum To {
    User(i64),
    Everyone,
}

/// Hands over a message and returns where its one report will come.
fn ask(lobby: &Lobby, to: To, json: &str) -> Receiver<Reach> {
    let (told, report) = sync_channel(2);
    let frame = lobby.frame(json).reporting(move |reach, took| {
        assert!(took < PATIENCE);
        told.send(reach).expect("the test waits");
    });
    let (ticket, _) = ticket();
    match to {
        To::User(user) => lobby.sessions.unicast(UserId::new(user), frame, ticket),
        To::Everyone => lobby.sessions.broadcast(&frame, &ticket),
    }
    report
}

/// Sessions, written, overflowed; and that nothing more is told.
async fn told(report: Receiver<Reach>) -> (u32, u32, u32) {
    let reach = tokio::task::spawn_blocking(move || {
        let reach = report.recv_timeout(PATIENCE).expect("a report");
        assert!(report.recv().is_err(), "told twice");
        reach
    });
    let reach = reach.await.expect("told");
    (reach.sessions, reach.written(), reach.overflowed)
}

#[tokio::test]
async fn written_counts_sessions_over_either_transport_and_nobody_is_nobody() {
    let lobby = Lobby::start(|c| c.duplicate_login = DuplicateLogin::Allow { max: 4 }).await;
    assert_eq!(told(ask(&lobby, To::Everyone, "{}")).await, (0, 0, 0));
    let mut first = lobby.client(1).await;
    let _second = lobby.client(1).await;
    let _browser = lobby.connect(2, Transport::WebSocket).await;
    lobby.until("all are in", |s| s.sessions == [2, 1]).await;
    assert_eq!(told(ask(&lobby, To::User(1), r#"{"n":1}"#)).await, (2, 2, 0));
    assert_eq!(told(ask(&lobby, To::User(2), r#"{"n":2}"#)).await, (1, 1, 0));
    assert_eq!(told(ask(&lobby, To::User(3), r#"{"n":3}"#)).await, (0, 0, 0));
    assert_eq!(told(ask(&lobby, To::Everyone, r#"{"n":4}"#)).await, (3, 3, 0));
    assert_eq!(first.line().await, r#"{"n":1}"#);
    assert_eq!(first.line().await, r#"{"n":4}"#);
}

#[tokio::test]
async fn what_waits_for_a_slow_session_is_not_called_written_before_it_is() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let mut slow = lobby.client(1).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(64 << 10));
    let mut handed_over = 0;
    while lobby.sessions.stats().queued_bytes < 1 << 20 {
        lobby.unicast(1, &json).wait().await;
        handed_over += 1;
    }
    for to in [To::User(1), To::Everyone] {
        let report = ask(&lobby, to, r#"{"last":true}"#);
        lobby.broadcast("{}").wait().await;
        assert!(report.try_recv().is_err(), "told while the message waits");
        tokio::spawn(async move {
            assert_eq!(told(report).await, (1, 1, 0));
        });
    }
    for _ in 0..handed_over {
        assert_eq!(slow.line().await.len(), json.len());
    }
    for line in [r#"{"last":true}"#, "{}", r#"{"last":true}"#, "{}"] {
        assert_eq!(slow.line().await, line);
    }
    let report = ask(&lobby, To::User(1), r#"{"after":true}"#);
    assert_eq!(told(report).await, (1, 1, 0));
}

#[tokio::test]
async fn what_a_full_outbox_did_not_take_and_what_went_with_it_are_called_overflowed() {
    for overflow in [OverflowPolicy::Disconnect, OverflowPolicy::DropOldest] {
        let lobby = Lobby::start(|c| {
            c.shards = 1;
            c.overflow = overflow;
            c.outbox_bytes = 256 << 10;
            c.close_grace = Duration::from_millis(100);
        })
        .await;
        let _slow = lobby.connect(1, Transport::Tcp).await;
        let mut quick = lobby.client(2).await;
        lobby.until("both are in", |s| s.sessions == [2, 0]).await;
        let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(32 << 10));
        let mut reports = Vec::new();
        while lobby.sessions.stats().overflows == 0 {
            reports.push(ask(&lobby, To::Everyone, &json));
            assert_eq!(quick.line().await, json);
        }
        // The slow socket is closed, or given up with the lobby: what was in progress ends there.
        lobby.sessions.drain(Duration::ZERO, Duration::from_millis(200)).await;
        lobby.sessions.shut_down();
        let mut overflowed = 0;
        for report in reports {
            let (matched, written, lost) = told(report).await;
            assert_eq!(matched, 2);
            assert!(written + lost <= 2 && written >= 1, "{written} written, {lost} overflowed");
            overflowed += lost;
        }
        assert!(overflowed >= 1, "{overflow:?}");
    }
}

#[tokio::test]
async fn a_session_that_left_before_its_message_was_written_is_matched_and_no_more() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let slow = lobby.client(1).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(64 << 10));
    while lobby.sessions.stats().queued_bytes < 1 << 20 {
        lobby.unicast(1, &json).wait().await;
    }
    let report = ask(&lobby, To::User(1), r#"{"last":true}"#);
    lobby.broadcast("{}").wait().await;
    drop(slow);
    assert_eq!(told(report).await, (1, 0, 0));
}
