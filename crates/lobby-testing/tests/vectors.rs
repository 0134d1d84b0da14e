//! Every vector through the lobby under test: the outcome, and the bytes that clients read on both transports.

#[path = "../../notify-protocol/tests/vectors/case.rs"]
mod case;

use case::{CASES, CONNECTED, Case, compact};
use lobby_testing::{Client, Outcome, TestLobby, Transport};
use notify_protocol::NOTIFY_ROUTING_KEY;

/// Somebody no vector is for.
const BYSTANDER: i64 = 7;

#[test]
fn every_vector_reaches_exactly_the_clients_it_is_for_on_both_transports() {
    let lobby = TestLobby::start().unwrap();
    let mut clients: Vec<(i64, Client)> = Vec::new();
    for transport in Transport::ALL {
        for &user in CONNECTED.iter().chain([&BYSTANDER]) {
            clients.push((user, lobby.connect(user, transport).unwrap()));
        }
    }
    let mut failures = Vec::new();
    for case in CASES.iter().filter(|case| case.routing_key == NOTIFY_ROUTING_KEY || case.is_copied()) {
        let outcome = lobby.deliver(case.headers(), &case.body).unwrap();
        if !allows(case, &outcome) {
            failures.push(format!("{}: {outcome:?}, expected {}", case.id, case.expect));
        }
        for (user, client) in &mut clients {
            let addressed = match outcome {
                Outcome::Broadcast => true,
                Outcome::Unicast => case.expect["target"] == *user,
                _ => false,
            };
            let received = client.read().unwrap();
            let wanted = case.line.as_ref().filter(|_| addressed);
            let exact: Vec<_> = wanted.into_iter().map(|(exact, _)| exact.clone()).collect();
            if received.messages != exact || received.ended {
                failures.push(format!(
                    "{}: user {user} ({:?}) got {received:?}",
                    case.id,
                    client.transport()
                ));
            }
            if let (Some((_, compacted)), [line]) = (wanted, received.messages.as_slice()) {
                assert_eq!(compact(line), *compacted, "{}", case.id);
            }
        }
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

fn allows(case: &Case, outcome: &Outcome) -> bool {
    let (name, reason) = match outcome {
        Outcome::Unicast => ("unicast", None),
        Outcome::Broadcast => ("broadcast", None),
        Outcome::NotConnected => ("dropped", Some("not_connected")),
        Outcome::ChannelReserved => ("dropped", Some("channel_reserved")),
        Outcome::Dropped(reason) => ("dropped", Some(reason.as_str())),
        _ => return false,
    };
    let sure = case.expect["strength"] != "info";
    let fits = |allowed: &serde_json::Value, reason_counts: bool| {
        allowed["outcome"] == name
            && (!reason_counts || reason.is_none_or(|reason| allowed["reason"] == reason))
    };
    fits(&case.expect, sure)
        || case.expect["also_ok"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|other| fits(other, !other["reason"].is_null()))
}
