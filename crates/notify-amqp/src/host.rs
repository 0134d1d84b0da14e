//! One of the broker's hosts, and the order in which several are tried.
//!
//! Pure. An attempt is one round over all hosts; it begins with the one after the host that was tried last, so
//! that a lost connection leads to another host at once and a host that hangs is not the first twice.

use std::{fmt, str::FromStr};

/// A host's name or address, and its port where that differs from the others'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

impl Host {
    /// A host; an IPv6 address may stand in brackets. Without a port it has the URL's.
    ///
    /// # Errors
    /// [`HostError::Empty`]: there is no name.
    pub fn new(name: &str, port: Option<u16>) -> Result<Self, HostError> {
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        Ok(Self { name: name.into(), port })
    }

    /// The name or address, without brackets.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own port, if it has one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl FromStr for Host {
    type Err = HostError;

    /// Reads `name`, `name:port`, `[::1]`, `[::1]:port`.
    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.contains(['/', '@', '?', '#']) || text.contains(char::is_whitespace) {
            return Err(HostError::NotAHost);
        }
        let (name, port) = split_port(text)?;
        let port = port.map(|port| port.parse().ok().filter(|port| *port > 0).ok_or(HostError::Port));
        Self::new(name, port.transpose()?)
    }
}

/// What is wrong with the text of a host. The text is not repeated: part of it may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// There is no name.
    #[error("a host has no name")]
    Empty,
    /// More than a host: a URL, a login, a path or white space.
    #[error("expected hosts alone, as in mq-1.example, mq-2.example:5673 or [::1]:5672")]
    NotAHost,
    /// A `[` without its `]`, or text between `]` and the port.
    #[error("an IPv6 address has an unclosed or misplaced bracket")]
    Brackets,
    /// The port is not a number of 16 bits, or several colons stand without brackets.
    #[error("a host's port is not a number from 1 to 65535 (an IPv6 address stands in brackets)")]
    Port,
}

pub(crate) fn split_port(address: &str) -> Result<(&str, Option<&str>), HostError> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(HostError::Brackets)?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(HostError::Brackets),
        };
    }
    Ok(match address.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    })
}

/// Where to connect to: shown as `broker.example:5672`, `[::1]:5672`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The hosts in the order of this process, and whose turn it is.
#[derive(Debug, Clone)]
pub(crate) struct HostOrder {
    order: Vec<Address>,
    next: usize,
}

impl HostOrder {
    /// `random` gives any number and is asked only to shuffle: once, so that a fleet spreads over the hosts and
    /// each of its members still tries every host in a round.
    pub(crate) fn new(mut hosts: Vec<Address>, shuffle: bool, mut random: impl FnMut() -> u64) -> Self {
        if shuffle {
            for last in (1..hosts.len()).rev() {
                let chosen = (random() % (last as u64 + 1)) as usize;
                hosts.swap(last, chosen);
            }
        }
        Self { order: hosts, next: 0 }
    }

    /// How many hosts a round has.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The host to try now. The turn passes on before the outcome is known: an attempt that is given up half-way
    /// does not begin with the same host again.
    pub(crate) fn turn(&mut self) -> Address {
        let address = self.order[self.next].clone();
        self.next = (self.next + 1) % self.order.len();
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Address> {
        ["a", "b", "c"].map(|host| Address { host: host.into(), port: 1 }).into()
    }

    fn round(order: &mut HostOrder) -> String {
        (0..order.len()).map(|_| order.turn().host).collect()
    }

    #[test]
    fn n01_hosts_are_read_with_and_without_a_port() {
        let host = |name: &str, port| Ok(Host { name: name.into(), port });
        let cases: &[(&str, Result<Host, HostError>)] = &[
            ("mq-1.example", host("mq-1.example", None)),
            ("mq:5673", host("mq", Some(5673))),
            ("[::1]", host("::1", None)),
            ("[fe80::1]:5673", host("fe80::1", Some(5673))),
            ("", Err(HostError::Empty)),
            (":5672", Err(HostError::Empty)),
            ("[::1", Err(HostError::Brackets)),
            ("[::1]5672", Err(HostError::Brackets)),
            ("::1", Err(HostError::Port)),
            ("mq:0", Err(HostError::Port)),
            ("mq:65536", Err(HostError::Port)),
            ("amqp://u:hunter2@mq", Err(HostError::NotAHost)),
            ("mq 2", Err(HostError::NotAHost)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Host>(), *expected, "{text}");
        }
        let error = "amqp://u:hunter2@mq".parse::<Host>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn n01_a_round_tries_every_host_once_in_order() {
        let mut order = HostOrder::new(three(), false, || unreachable!("not shuffled"));
        assert_eq!((round(&mut order), round(&mut order)), ("abc".into(), "abc".into()));
    }

    #[test]
    fn n01_the_next_round_begins_after_the_host_that_was_used_last() {
        let mut order = HostOrder::new(three(), false, || 0);
        assert_eq!(order.turn().host, "a");
        assert_eq!(round(&mut order), "bca");
    }

    #[test]
    fn n01_shuffled_hosts_are_the_same_hosts_and_any_may_be_first() {
        let mut first = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut order = HostOrder::new(three(), true, || random.u64(..));
            let names = round(&mut order);
            assert_eq!(round(&mut order), names, "one order for the life of the process");
            let mut sorted: Vec<_> = names.chars().collect();
            sorted.sort_unstable();
            assert_eq!(sorted, ['a', 'b', 'c']);
            first.insert(names.chars().next());
        }
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn n01_addresses_show_ipv6_in_brackets() {
        assert_eq!(Address { host: "::1".into(), port: 5672 }.to_string(), "[::1]:5672");
        assert_eq!(Address { host: "mq".into(), port: 5672 }.to_string(), "mq:5672");
    }
}
