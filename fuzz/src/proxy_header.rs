//! PROXY headers and real-IP headers: read once, the same however they are split, and no client invents an address.

use std::net::IpAddr;

use crate::{
    proxies::{Header, Proxies, read_header},
    split,
};

/// Whose word is taken in this target.
const LISTED: &str = "10.0.0.0/8";

/// The bytes are a connection's first; and, as text, a line of addresses each.
pub fn run(data: &[u8]) {
    header(data);
    if let Ok(text) = std::str::from_utf8(data) {
        real_ip(text);
    }
}

fn header(bytes: &[u8]) {
    let whole = read_header(bytes);
    match &whole {
        Header::NeedMore => assert!(bytes.len() < 4096, "waits for more than a header may have"),
        Header::Bad(why) => assert!(!why.is_empty() && why.len() < 512),
        Header::Known { client, len } => {
            assert!(*len <= bytes.len());
            // What the client says behind it changes nothing.
            assert_eq!(read_header(&bytes[..*len]), Header::Known { client: *client, len: *len });
        }
    }
    let mut end = 0;
    for piece in split::at_random(bytes, split::seed_of(bytes), 6) {
        end += piece.len();
        match read_header(&bytes[..end]) {
            Header::NeedMore => {}
            known @ Header::Known { .. } => assert_eq!(known, whole, "{end} bytes"),
            Header::Bad(_) => assert!(matches!(whole, Header::Bad(_)), "{end} bytes, then {whole:?}"),
        }
    }
}

fn real_ip(text: &str) {
    let listed: ipnet::IpNet = LISTED.parse().expect("a network");
    let proxies = Proxies { networks: vec![listed], protocol: true, header: "X-Real-IP".to_owned() };
    let values: Vec<_> = text.lines().collect();
    let [proxy, stranger]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [203, 0, 113, 1].into()];
    assert_eq!(proxies.real_ip(stranger, values.iter().copied()), None, "a stranger's word is taken");
    let Some(client) = proxies.real_ip(proxy, values.iter().copied()) else { return };
    // From the end: everything behind the client must be a proxy of ours.
    let addresses: Vec<_> = values.iter().flat_map(|value| value.split(',')).collect();
    let own = |text: &str| text.trim().trim_start_matches('[').starts_with("10.");
    let last_stranger =
        addresses.iter().rposition(|text| !own(text) && text.trim().parse::<IpAddr>().is_ok());
    if let Some(last) = last_stranger
        && addresses[last + 1..]
            .iter()
            .all(|text| text.trim().parse::<IpAddr>().is_ok_and(|ip| proxies.lists(ip)))
        && let Ok(named) = addresses[last].trim().parse::<IpAddr>()
        && !proxies.lists(named)
    {
        assert_eq!(client, named);
    }
}
