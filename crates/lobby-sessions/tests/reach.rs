//! Whom a message reached is known once every session has let go of it, and counts who did so too early.

#![expect(clippy::expect_used, reason = "a test fails by panicking, in its helpers too")]

mod rig;

use std::time::{Duration, Instant};

use lobby_sessions::{OverflowPolicy, Reach, Transport};
use notify_protocol::UserId;
use rig::{Lobby, PATIENCE};

/// Waits until the reach of message `serial` is known.
async fn reach(lobby: &Lobby, serial: u64) -> Reach {
    let start = Instant::now();
    loop {
        if let Some(reach) = lobby.sessions.meter().reach().get(serial) {
            return reach;
        }
        assert!(start.elapsed() < PATIENCE, "message {serial} is still held");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// So many sessions, and each took it.
fn all(sessions: u32) -> Reach {
    Reach { sessions, ..Reach::default() }
}

fn filling() -> String {
    format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10))
}

#[tokio::test]
async fn each_session_that_a_message_is_for_is_counted_once() {
    let lobby = Lobby::start(|c| c.reach_entries = 64).await;
    let mut clients = Vec::new();
    for user in 1..=5 {
        clients.push(lobby.client(user).await);
    }
    let burst = || (rig::ticket().0, rig::ticket().0, rig::ticket().0);
    for round in 0..8 {
        let (everyone, one, nobody) = burst();
        lobby.sessions.broadcast(&lobby.numbered("{\"to\":\"all\"}", Some(3 * round)), &everyone);
        lobby.sessions.unicast(UserId::new(1), lobby.numbered("{\"to\":1}", Some(3 * round + 1)), one);
        lobby.sessions.unicast(UserId::new(99), lobby.numbered("{\"to\":99}", Some(3 * round + 2)), nobody);
    }
    for round in 0..8 {
        assert_eq!(reach(&lobby, 3 * round).await, all(5));
        assert_eq!(reach(&lobby, 3 * round + 1).await, all(1));
        assert_eq!(reach(&lobby, 3 * round + 2).await, all(0));
    }
}

#[tokio::test]
async fn what_a_client_did_not_read_is_lost_with_its_session_and_only_there() {
    let lobby = Lobby::start(|c| {
        c.reach_entries = 4096;
        c.outbox_bytes = 64 << 10;
    })
    .await;
    let mut quick = lobby.client(1).await;
    let slow = lobby.connect(2, Transport::Tcp).await;
    lobby.until("both are in", |s| s.sessions == [2, 0]).await;
    let json = filling();
    let mut serial = 0;
    while lobby.sessions.stats().overflows == 0 {
        let (ticket, dropped) = rig::ticket();
        lobby.sessions.broadcast(&lobby.numbered(&json, Some(serial)), &ticket);
        drop(ticket);
        dropped.wait().await;
        assert_eq!(quick.line().await, json);
        serial += 1;
    }
    drop(slow);
    lobby.until("the slow one is gone", |s| s.sessions == [1, 0]).await;
    assert_eq!(reach(&lobby, 0).await, all(2));
    // The one that did not fit, and those that waited before it.
    assert_eq!(reach(&lobby, serial - 1).await, Reach { overflowed: 1, ..all(2) });
    assert_eq!(reach(&lobby, serial - 4).await, Reach { overflowed: 1, ..all(2) });
}

#[tokio::test]
async fn the_oldest_that_makes_room_is_the_one_that_is_lost() {
    let lobby = Lobby::start(|c| {
        c.reach_entries = 4096;
        c.outbox_bytes = 64 << 10;
        c.overflow = OverflowPolicy::DropOldest;
    })
    .await;
    let slow = lobby.connect(1, Transport::Tcp).await;
    lobby.until("it is in", |s| s.sessions == [1, 0]).await;
    let json = filling();
    let mut serial = 0;
    while lobby.sessions.stats().dropped_oldest == 0 {
        let (ticket, dropped) = rig::ticket();
        lobby.sessions.unicast(UserId::new(1), lobby.numbered(&json, Some(serial)), ticket);
        dropped.wait().await;
        serial += 1;
    }
    let lost = (0..serial).filter_map(|serial| lobby.sessions.meter().reach().get(serial));
    assert_eq!(lost.filter(|reach| reach.overflowed > 0).count(), 1, "one made room");
    assert_eq!(lobby.sessions.meter().reach().get(serial - 1), None, "the last one waits");
    drop(slow);
    assert_eq!(reach(&lobby, serial - 1).await, Reach { cut_off: 1, ..all(1) });
}
