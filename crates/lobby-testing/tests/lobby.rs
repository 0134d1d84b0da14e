//! What a test may rely on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use lobby_testing::{Outcome, TestLobby, Transport};
use notify_protocol::{Message, Notification};

fn to_42(json: &str) -> Message {
    Notification::to_user(42).raw_json(json).build().unwrap()
}

#[test]
fn messages_arrive_in_order_and_each_client_reads_its_own() {
    let lobby = TestLobby::start().unwrap();
    let mut players: Vec<_> =
        (40..44).map(|user| (user, lobby.connect(user, Transport::Tcp).unwrap())).collect();
    let mut wanted = vec![Vec::new(); players.len()];
    for number in 0..300 {
        let json = format!(r#"{{"number":{number}}}"#);
        if number % 3 == 0 {
            let everyone = Notification::broadcast().raw_json(json.as_str()).build().unwrap();
            assert_eq!(lobby.publish(&everyone).unwrap(), Outcome::Broadcast);
            wanted.iter_mut().for_each(|texts| texts.push(json.clone()));
        } else {
            let index = number % players.len();
            let (user, _) = players[index];
            let message = Notification::to_user(user).raw_json(json.as_str()).build().unwrap();
            assert_eq!(lobby.publish(&message).unwrap(), Outcome::Unicast);
            wanted[index].push(json);
        }
    }
    for ((user, player), wanted) in players.iter_mut().zip(wanted) {
        assert_eq!(player.read().unwrap().texts(), wanted, "user {user}");
    }
}

#[test]
fn a_reader_sees_no_fence_of_its_own_or_of_another_session_of_its_user() {
    let lobby = TestLobby::start().unwrap();
    let mut first = lobby.connect(42, Transport::Tcp).unwrap();
    let mut second = lobby.connect(42, Transport::WebSocket).unwrap();
    lobby.publish(&to_42(r#"{"command":"pong"}"#)).unwrap();
    assert!(
        first.read().unwrap().texts() == [r#"{"command":"pong"}"#] && first.read().unwrap().bytes.is_empty()
    );
    assert_eq!(second.read().unwrap().bytes, b"\x81\x13{\"command\":\"pong\"}\n");
    assert_eq!(first.leave().unwrap().bytes, b"");
}

#[test]
fn a_message_longer_than_every_buffer_arrives_whole_on_both_transports() {
    let lobby = TestLobby::start().unwrap();
    let mut tcp = lobby.connect(42, Transport::Tcp).unwrap();
    let mut browser = lobby.connect(42, Transport::WebSocket).unwrap();
    let json = format!(r#"{{"text":"{}"}}"#, "é".repeat(1_000_000));
    assert_eq!(lobby.publish(&to_42(&json)).unwrap(), Outcome::Unicast);
    let line = format!("{json}\n").into_bytes();
    assert!(tcp.read().unwrap().bytes == line);
    let (header, payload) = (line.len() as u64, line);
    let frame = [&[0x81, 127][..], &header.to_be_bytes(), &payload].concat();
    assert!(browser.read().unwrap().bytes == frame);
}

#[test]
fn who_has_left_is_not_connected_and_what_had_come_is_not_lost() {
    let lobby = TestLobby::start().unwrap();
    for transport in Transport::ALL {
        let player = lobby.connect(42, transport).unwrap();
        lobby.publish(&to_42(r#"{"n":1}"#)).unwrap();
        assert_eq!(player.leave().unwrap().texts(), [r#"{"n":1}"#]);
        assert_eq!(lobby.publish(&to_42(r#"{"n":2}"#)).unwrap(), Outcome::NotConnected);
    }
}

#[test]
fn a_client_that_outlives_its_lobby_reads_the_end() {
    let lobby = TestLobby::start().unwrap();
    let mut player = lobby.connect(42, Transport::Tcp).unwrap();
    lobby.publish(&to_42("{}")).unwrap();
    drop(lobby);
    let received = player.read();
    assert!(
        received.as_ref().is_ok_and(|received| received.ended && received.bytes == b"{}\n"),
        "{received:?}"
    );
}

#[test]
fn threads_may_connect_to_one_lobby_at_once() {
    let lobby = TestLobby::start().unwrap();
    std::thread::scope(|scope| {
        for user in 0..8 {
            let lobby = &lobby;
            scope.spawn(move || {
                for _ in 0..20 {
                    lobby.connect(user, Transport::Tcp).unwrap().leave().unwrap();
                }
            });
        }
    });
}

#[test]
fn several_lobbies_and_threads_do_not_disturb_one_another() {
    std::thread::scope(|scope| {
        for user in 1..5 {
            scope.spawn(move || {
                let lobby = TestLobby::start().unwrap();
                let mut player = lobby.connect(user, Transport::Tcp).unwrap();
                let json = format!(r#"{{"for":{user}}}"#);
                lobby.publish(&Notification::broadcast().raw_json(json.as_str()).build().unwrap()).unwrap();
                assert_eq!(player.read().unwrap().texts(), [json]);
            });
        }
    });
}

#[tokio::test]
async fn it_works_inside_an_asynchronous_test() {
    let lobby = TestLobby::start().unwrap();
    let mut player = lobby.connect(42, Transport::WebSocket).unwrap();
    assert_eq!(lobby.publish(&to_42("{}")).unwrap(), Outcome::Unicast);
    assert_eq!(player.read().unwrap().texts(), ["{}"]);
}
