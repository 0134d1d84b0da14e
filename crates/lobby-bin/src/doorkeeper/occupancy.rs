//! How many connections there are, in all and from each address.
//!
//! Pure. Holds one entry for each address that has a connection and none for one that has not, so that it never
//! grows past the connections themselves.

use std::collections::HashMap;

use super::{limit::Limit, network::Network};

/// Connections that are open now.
#[derive(Debug)]
pub struct Occupancy {
    total: usize,
    per_address: usize,
    open: usize,
    /// Empty without a limit for each address. Hashed with a secret: clients choose their addresses.
    networks: HashMap<Network, u32>,
}

impl Occupancy {
    /// Nobody is there. `per_address` 0 means no limit.
    pub fn new(total: usize, per_address: usize) -> Self {
        Self { total, per_address, open: 0, networks: HashMap::new() }
    }

    /// Other limits for those who come from now on.
    pub fn set_limits(&mut self, total: usize, per_address: usize) {
        (self.total, self.per_address) = (total, per_address);
    }

    /// Under whom one that was let in is counted: nobody without a limit for each address.
    pub fn counted(&self, network: Network) -> Network {
        if self.per_address > 0 { network } else { Network::HIDDEN }
    }

    /// Counts one connection in.
    ///
    /// # Errors
    /// [`Limit::Total`], [`Limit::Address`]; nothing is counted then.
    pub fn enter(&mut self, network: Network) -> Result<(), Limit> {
        if self.open >= self.total {
            return Err(Limit::Total);
        }
        self.settle(network)?;
        self.open += 1;
        Ok(())
    }

    /// Counts one for its address that was counted in as hidden.
    ///
    /// # Errors
    /// [`Limit::Address`]; nothing is counted then.
    pub fn settle(&mut self, network: Network) -> Result<(), Limit> {
        if self.per_address > 0 && network != Network::HIDDEN {
            let open = self.networks.entry(network).or_default();
            if *open as usize >= self.per_address {
                return Err(Limit::Address);
            }
            *open += 1;
        }
        Ok(())
    }

    /// Counts one out that was counted in.
    pub fn leave(&mut self, network: Network) {
        self.open = self.open.saturating_sub(1);
        if let Some(open) = self.networks.get_mut(&network) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.networks.remove(&network);
            }
        }
    }

    /// Connections in all.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Addresses that have a connection, as far as they are counted.
    #[cfg(test)]
    pub fn networks(&self) -> usize {
        self.networks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Network = Network::from_bits(1);
    const B: Network = Network::from_bits(2);

    #[test]
    fn who_is_over_a_limit_is_told_which_and_a_place_that_comes_back_is_free_for_the_next() {
        for (total, per_address, arrivals) in [
            (2, 0, [(A, Ok(())), (A, Ok(())), (A, Err(Limit::Total)), (B, Err(Limit::Total))]),
            (9, 1, [(A, Ok(())), (A, Err(Limit::Address)), (B, Ok(())), (B, Err(Limit::Address))]),
            (3, 2, [(A, Ok(())), (A, Ok(())), (A, Err(Limit::Address)), (B, Ok(()))]),
            (2, 2, [(A, Ok(())), (A, Ok(())), (A, Err(Limit::Total)), (B, Err(Limit::Total))]),
        ] {
            let mut occupancy = Occupancy::new(total, per_address);
            for (network, want) in arrivals {
                assert_eq!(occupancy.enter(network), want, "{total} {per_address} {network:?}");
            }
            occupancy.leave(A);
            assert_eq!(occupancy.enter(A), Ok(()), "{total} {per_address}");
        }
    }

    #[test]
    fn who_is_hidden_behind_a_proxy_is_counted_in_all_and_once_known_for_the_address() {
        let mut occupancy = Occupancy::new(4, 1);
        for _ in 0..4 {
            assert_eq!(occupancy.enter(Network::HIDDEN), Ok(()));
        }
        assert_eq!(occupancy.enter(Network::HIDDEN), Err(Limit::Total));
        assert_eq!(
            (occupancy.settle(A), occupancy.settle(A), occupancy.settle(B)),
            (Ok(()), Err(Limit::Address), Ok(()))
        );
        [A, B, Network::HIDDEN, Network::HIDDEN].into_iter().for_each(|network| occupancy.leave(network));
        assert_eq!((occupancy.open(), occupancy.networks()), (0, 0));
    }

    #[test]
    fn an_address_that_is_gone_leaves_nothing() {
        let mut occupancy = Occupancy::new(10, 1);
        for bits in 0..100_000 {
            let network = Network::from_bits(bits);
            assert_eq!(occupancy.enter(network), Ok(()));
            assert_eq!(occupancy.enter(network), Err(Limit::Address));
            occupancy.leave(network);
        }
        assert_eq!((occupancy.open(), occupancy.networks()), (0, 0));
    }
}
