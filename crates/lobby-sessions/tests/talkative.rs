//! How much a session may say.

mod rig;

use std::time::Duration;

use lobby_sessions::{Rate, Transport};
use rig::{Lobby, PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PING: &str = "{\"command\":\"ping\"}\n";
/// At once; and then one a second.
const BURST: usize = 20;

async fn lobby() -> Lobby {
    Lobby::start(|c| c.command_rate = Rate::new(1, BURST)).await
}

#[tokio::test]
async fn a_session_that_sends_more_commands_than_it_may_is_closed_with_1008_and_others_are_not() {
    let lobby = lobby().await;
    let (mut talkative, mut quiet) = (lobby.client(1).await, lobby.client(2).await);
    talkative.say(&PING.repeat(BURST)).await;
    for _ in 0..BURST {
        assert_eq!(talkative.line().await, r#"{"command":"pong"}"#);
    }
    // What comes back in the meantime is little beside this, however slow the machine.
    talkative.say(&PING.repeat(1000)).await;
    assert_eq!(talkative.closing_code().await, 1008);
    assert_eq!(lobby.sessions.stats().closes_with(1008), 1);
    quiet.say(PING).await;
    assert_eq!(quiet.line().await, r#"{"command":"pong"}"#);
}

#[tokio::test]
async fn unknown_commands_and_websocket_pings_count_as_well() {
    let lobby = lobby().await;
    let mut guessing = lobby.client(1).await;
    guessing.say(&"{\"command\":\"dance\"}\n".repeat(1000)).await;
    assert_eq!(guessing.closing_code().await, 1008);
    let mut pinging = lobby.connect(2, Transport::WebSocket).await;
    // An empty ping with a mask of zeros.
    pinging.write_all(&b"\x89\x80\0\0\0\0".repeat(1000)).await.expect("written");
    assert!(is_told_1008(&mut pinging).await);
    assert_eq!(lobby.sessions.stats().closes_with(1008), 2);
}

#[tokio::test]
async fn what_asks_for_nothing_counts_as_well_empty_lines_pongs_and_fragments_without_a_byte() {
    let lobby = lobby().await;
    let mut breathing = lobby.client(1).await;
    breathing.say(&"\n\r\n".repeat(500)).await;
    assert_eq!(breathing.closing_code().await, 1008);
    // Empty, with a mask of zeros: a pong, and a continuation that is not the last one.
    for (user, first, again) in
        [(2, b"".as_slice(), b"\x8a\x80\0\0\0\0"), (3, b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0")]
    {
        let bytes = [first, &again.repeat(1000)].concat();
        let mut client = lobby.connect(user, Transport::WebSocket).await;
        client.write_all(&bytes).await.expect("written");
        assert!(is_told_1008(&mut client).await, "user {user}");
    }
    assert_eq!(lobby.sessions.stats().closes_with(1008), 3);
}

/// Whether a close frame comes with the code, 0x03f0.
async fn is_told_1008(client: &mut TcpStream) -> bool {
    let mut heard = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut heard)).await.expect("an end").expect("readable");
    heard.windows(4).any(|bytes| matches!(bytes, [0x88, _, 0x03, 0xf0]))
}

#[tokio::test]
async fn what_came_before_is_delivered_to_a_session_that_said_too_much() {
    let lobby = lobby().await;
    let mut client = lobby.client(1).await;
    lobby.unicast(1, "{\"n\":1}").wait().await;
    client.say(&PING.repeat(1000)).await;
    assert_eq!(client.line().await, "{\"n\":1}");
    assert_eq!(client.closing_code().await, 1008);
}

#[tokio::test]
async fn what_a_client_said_while_it_was_behind_is_not_too_much_because_it_is_heard_all_at_once() {
    const SAID: usize = 300;
    const BEHIND: Duration = Duration::from_millis(500);
    let lobby = Lobby::start(|c| c.command_rate = Rate::new(1000, 5)).await;
    let mut client = lobby.client(1).await;
    lobby.fill(1).await;
    client.say(&PING.repeat(SAID)).await;
    // The subject is the time that goes by.
    tokio::time::sleep(BEHIND).await;
    let mut pongs = 0;
    while pongs < SAID {
        let line = client.line().await;
        assert!(!line.is_empty() && !line.contains("1008"), "after {pongs} pongs: {line}");
        pongs += usize::from(line == r#"{"command":"pong"}"#);
    }
    // The credit is for that time only.
    client.say(&PING.repeat(50_000)).await;
    assert_eq!(client.closing_code().await, 1008);
}
