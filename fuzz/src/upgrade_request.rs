//! The request with which a WebSocket begins: one decision however the bytes are split, an answer that no request can
//! shape, and no upgrade for a page of another host.

use crate::{
    split,
    upgrade::{Decision, OriginPolicy, SUBPROTOCOL, decide, values},
};

/// The largest head of this target's lobby, in bytes.
const MAX_HEAD: usize = 1024;

/// The bytes are what a connection begins with.
pub fn run(data: &[u8]) {
    let verdict = |bytes: &[u8]| decide(bytes, MAX_HEAD, &OriginPolicy::SameHost, None);
    let whole = verdict(data);
    match &whole {
        Decision::NeedMore => assert!(data.len() <= MAX_HEAD, "waits for more than a head may have"),
        Decision::Reject(rejection) => well_formed(&rejection.response(), rejection.status),
        Decision::Upgrade { response, head_len } => {
            assert!(*head_len <= MAX_HEAD && data[..*head_len].ends_with(b"\n"));
            well_formed(response, 101);
            let names =
                ["HTTP/1.1", "Upgrade:", "Connection:", "Sec-WebSocket-Accept:", "Sec-WebSocket-Protocol:"];
            let lines: Vec<_> = response.trim_end().lines().collect();
            assert!(lines.len() <= names.len());
            assert!(lines.iter().zip(names).all(|(line, name)| line.starts_with(name)), "{response}");
            if let Some(protocol) = lines.get(4) {
                assert!(protocol.ends_with(SUBPROTOCOL));
            }
            same_host(&data[..*head_len]);
            assert_eq!(verdict(&data[..*head_len]), whole, "what follows the head changes nothing");
        }
    }
    let mut end = 0;
    for piece in split::at_random(data, split::seed_of(data), 6) {
        end += piece.len();
        let sooner = verdict(&data[..end]);
        // Of a head that is too long, what comes behind the limit may be wrong as well: which of the two is told depends
        // on how much came at once.
        let refused_for_its_length =
            end > MAX_HEAD && matches!((&sooner, &whole), (Decision::Reject(_), Decision::Reject(_)));
        assert!(
            sooner == Decision::NeedMore || sooner == whole || refused_for_its_length,
            "{end} bytes: {sooner:?}, then {whole:?}"
        );
    }
}

/// One status line and headers of the lobby's own, and one end.
fn well_formed(response: &str, status: u16) {
    assert!(response.is_ascii() && response.starts_with(&format!("HTTP/1.1 {status} ")));
    assert_eq!(response.matches("\r\n\r\n").count(), 1);
    let (head, _) = response.split_once("\r\n\r\n").expect("an end");
    assert!(head.split("\r\n").skip(1).all(|line| line.contains(": ") && !line.contains(['\r', '\n'])));
}

/// No Origin, or the Host's own.
fn same_host(head: &[u8]) {
    let (hosts, origins) = (values(head, "Host"), values(head, "Origin"));
    assert_eq!(hosts.len(), 1);
    match &origins[..] {
        [] => {}
        [origin] => {
            let authority = origin.trim().split("://").nth(1).unwrap_or_default();
            let host = hosts[0].trim();
            assert!(authority.eq_ignore_ascii_case(host), "a page of {origin:?} on {host:?}");
        }
        more => panic!("upgraded with {} origins", more.len()),
    }
}
