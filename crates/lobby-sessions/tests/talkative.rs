//! How much a session may say.

mod rig;

use lobby_sessions::{Rate, Transport};
use rig::Lobby;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    let mut heard = Vec::new();
    pinging.read_to_end(&mut heard).await.expect("an end");
    // A close frame with the code, 0x03f0.
    assert!(heard.windows(4).any(|bytes| matches!(bytes, [0x88, _, 0x03, 0xf0])), "{heard:?}");
    assert_eq!(lobby.sessions.stats().closes_with(1008), 2);
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
