//! Whom a limit for one address is about: an IPv4 address, or the /64 that one IPv6 customer gets at least.

use std::net::IpAddr;

/// Marks an IPv4 address. As the beginning of an IPv6 address it would mean multicast, from where nobody connects.
const V4: u64 = 0xff << 56;

/// Marks the connections of which only the proxy is known.
const HIDDEN: u64 = V4 | 1 << 48;

/// What counts as one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(u64);

impl Network {
    /// Whoever a proxy speaks for and has not named yet; limits for one address are not about it.
    pub const HIDDEN: Self = Self(HIDDEN);

    /// The network of a client's address. An IPv4-mapped IPv6 address is the IPv4 address that it stands for.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(V4 | u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }

    /// As a number that [`Self::from_bits`] takes back.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The network that [`Self::to_bits`] gave.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_counts_by_its_first_half_and_a_mapped_address_as_ipv4() {
        for (one, other, same) in [
            ("203.0.113.1", "203.0.113.1", true),
            ("203.0.113.1", "203.0.113.2", false),
            ("203.0.113.1", "::ffff:203.0.113.1", true),
            ("::ffff:203.0.113.1", "::ffff:203.0.113.2", false),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::1", "0.0.0.0", false),
            ("127.0.0.1", "0:0:7f00:1::", false),
        ] {
            let network = |text: &str| Network::of(text.parse().expect("an address"));
            assert_eq!(network(one) == network(other), same, "{one} and {other}");
            assert_eq!(Network::from_bits(network(one).to_bits()), network(one));
        }
    }
}
