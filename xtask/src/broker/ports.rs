//! Ports on 127.0.0.1 for a broker.
//!
//! From below the range that the system gives to outgoing connections. A port from that range (as binding port
//! 0 finds them) may be taken by any connection before the broker listens, or while it restarts; a client that
//! tries the port of a stopped broker again and again may even connect to itself, and so keep the broker out.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::ops::Range;

const LOWEST: u16 = 10_000;
/// Where the system does not tell its own: Linux's default.
const OUTGOING_FROM: u16 = 32_768;
const TRIES: usize = 500;

/// `N` different ports that were free a moment ago.
pub(crate) fn free<const N: usize>() -> io::Result<[u16; N]> {
    let told = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let range = range(&told);
    let mut held = HashMap::new();
    for _ in 0..TRIES {
        let wanted = range.clone().map_or(0, fastrand::u16);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", wanted)) {
            held.insert(listener.local_addr()?.port(), listener);
        }
        if held.len() == N {
            break;
        }
    }
    let ports: Vec<u16> = held.into_keys().collect();
    ports
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::AddrInUse, "no free ports below the outgoing ones"))
}

/// What lies below the outgoing range; `None` where that is next to nothing.
fn range(told: &str) -> Option<Range<u16>> {
    let from = told.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(OUTGOING_FROM);
    (from >= LOWEST + 1_000).then_some(LOWEST..from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_lie_below_the_outgoing_range() {
        assert_eq!(range("32768\t60999\n"), Some(10_000..32_768));
        assert_eq!(range(""), Some(10_000..32_768));
        assert_eq!(range("1024 65535"), None, "then any port the system gives");
    }

    #[test]
    fn ports_differ_and_are_free() {
        let [one, two, three, four] = free().unwrap();
        let different: std::collections::HashSet<u16> = [one, two, three, four].into();
        assert_eq!(different.len(), 4);
        assert!(different.iter().all(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()));
    }
}
