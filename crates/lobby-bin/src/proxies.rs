//! Whose word about a client's address is taken: proxies that are listed, and nobody else.
//!
//! Pure: addresses and bytes in, a decision out.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_protocol_rs::{Command, ParseError, parse};

/// The largest PROXY header that is read. One without extensions has 107 bytes at most (v1) or 52 (v2).
const MAX_HEADER: usize = 4096;

/// What a listed proxy may tell, and how.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// Who is listed.
    pub networks: Vec<IpNet>,
    /// Listed proxies begin each connection with a PROXY header, of version 1 or 2.
    pub protocol: bool,
    /// The HTTP header in which listed proxies name the client's address; empty means none.
    pub header: String,
}

/// What the first bytes of a listed proxy's connection amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// The header is not complete.
    NeedMore,
    /// The client's address, or `None` when the proxy speaks for itself, as in a health check; the client's own bytes
    /// begin after `len`.
    Known { client: Option<SocketAddr>, len: usize },
    /// Not a header that can be used.
    Bad(String),
}

impl Proxies {
    /// Whether this address is a listed proxy's.
    pub fn lists(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether a connection from this address begins with a PROXY header.
    pub fn header_expected(&self, address: IpAddr) -> bool {
        self.protocol && self.lists(address)
    }

    /// The client's address by the values of [`Self::header`], in the order in which they stand, for a request that
    /// came from `peer`. Each proxy appends whom it saw, so the client is the last that is not itself a listed proxy:
    /// what stands before may be the client's invention.
    pub fn real_ip<'a>(
        &self,
        peer: IpAddr,
        values: impl DoubleEndedIterator<Item = &'a str>,
    ) -> Option<IpAddr> {
        if self.header.is_empty() || !self.lists(peer) {
            return None;
        }
        let mut nearest = None;
        for text in values.rev().flat_map(|value| value.rsplit(',')) {
            let Some(address) = address(text) else { break };
            nearest = Some(address);
            if !self.lists(address) {
                break;
            }
        }
        nearest
    }
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = || text.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare().or_else(with_port).or_else(bracketed)
}

/// Reads the PROXY header at the beginning of `bytes`.
pub fn read_header(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Ok((info, len)) => {
            let client = (info.command == Command::Proxy).then(|| info.source_inet()).flatten();
            Header::Known { client, len }
        }
        Err(ParseError::Incomplete) if bytes.len() < MAX_HEADER => Header::NeedMore,
        Err(ParseError::Incomplete) => Header::Bad(format!("more than {MAX_HEADER} bytes")),
        Err(error) => Header::Bad(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(header: &str) -> Proxies {
        let networks = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"];
        let networks = networks.map(|text| text.parse().expect("a network")).into();
        Proxies { networks, protocol: true, header: header.to_owned() }
    }

    #[test]
    fn only_listed_addresses_are_proxies() {
        for (address, listed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:5::1", true),
            ("2001:db9::1", false),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(proxies("").lists(address), listed, "{address}");
            assert_eq!(proxies("").header_expected(address), listed, "{address}");
            assert!(!Proxies::default().lists(address));
            assert!(!Proxies { protocol: false, ..proxies("") }.header_expected(address));
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_listed_proxy() {
        for (peer, values, client) in [
            ("10.0.0.1", &["203.0.113.9"][..], Some("203.0.113.9")),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9"], Some("203.0.113.9")),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9, 10.0.0.2"], Some("203.0.113.9")),
            ("10.0.0.1", &["203.0.113.9:1234"], Some("203.0.113.9")),
            ("10.0.0.1", &["[2001:db9::1]:1234"], Some("2001:db9::1")),
            ("10.0.0.1", &["[2001:db9::1]"], Some("2001:db9::1")),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            ("10.0.0.1", &["203.0.113.9, unknown"], None),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"], Some("10.0.0.2")),
            ("10.0.0.1", &[""], None),
            ("10.0.0.1", &[], None),
            ("203.0.113.1", &["203.0.113.9"], None),
        ] {
            let peer = peer.parse().expect("an address");
            let client = client.map(|text| text.parse().expect("an address"));
            let got = proxies("X-Forwarded-For").real_ip(peer, values.iter().copied());
            assert_eq!(got, client, "{values:?}");
            assert_eq!(proxies("").real_ip(peer, values.iter().copied()), None, "no header is named");
        }
    }

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x09\x7f\0\0\x01\x10\0\x20\0";

    #[test]
    fn both_versions_say_who_the_client_is() {
        let client = |text: &str| Some(text.parse().expect("an address"));
        for (bytes, client, len) in [
            (
                &b"PROXY TCP4 203.0.113.9 10.0.0.1 4000 8002\r\n{\"command\""[..],
                client("203.0.113.9:4000"),
                43,
            ),
            (b"PROXY TCP6 2001:db9::1 2001:db8::1 4000 8002\r\n", client("[2001:db9::1]:4000"), 46),
            (b"PROXY UNKNOWN\r\nrest", None, 15),
            (V2, client("127.0.0.9:4096"), 28),
            (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0rest", None, 16),
        ] {
            assert_eq!(read_header(bytes), Header::Known { client, len }, "{}", bytes.escape_ascii());
            for cut in 0..len {
                assert_eq!(read_header(&bytes[..cut]), Header::NeedMore, "{cut} of {}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn anything_else_is_refused_and_nothing_is_waited_for_longer_than_a_header_may_be() {
        let mut endless = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
        endless.resize(MAX_HEADER, 0);
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"{\"command\":\"auth\"}\n",
            b"PROXY TCP4 300.0.0.1 10.0.0.1 1 2\r\n",
            b"PROXY TCP9 1.1.1.1 10.0.0.1 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            &endless,
            &[b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
        ] {
            assert!(matches!(read_header(bytes), Header::Bad(_)), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_reach_beyond_the_end(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            start in prop_oneof![Just(&b""[..]), Just(&b"PROXY TCP4 "[..]), Just(V2), Just(&V2[..13])],
        ) {
            bytes.splice(0..0, start.iter().copied());
            if let Header::Known { len, .. } = read_header(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
