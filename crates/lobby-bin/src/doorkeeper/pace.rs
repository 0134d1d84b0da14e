//! How fast connections may come, in all and from each address.
//!
//! Pure: the time is passed in. Remembers addresses only while their bucket is not full, and a fixed number at most.

use std::{collections::HashMap, time::Duration};

use lobby_sessions::{Bucket, Rate};

use super::{limit::Limit, network::Network};

/// Addresses that are remembered at most; about 1 MiB. Past it, newcomers pass without being remembered: whoever
/// commands so many addresses is held by the rate in all, and honest newcomers must not pay for that.
const MAX_REMEMBERED: usize = 50_000;
/// How often addresses whose bucket is full again are forgotten, at most.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The buckets of all that came lately.
#[derive(Debug)]
pub struct Pace {
    rate: Option<Rate>,
    address_rate: Option<Rate>,
    all: Bucket,
    /// Hashed with a secret: clients choose their addresses.
    networks: HashMap<Network, Bucket>,
    next_sweep: Duration,
}

impl Pace {
    /// Nobody has come yet. `None` means no limit.
    pub fn new(rate: Option<Rate>, address_rate: Option<Rate>) -> Self {
        let (all, networks) = (Bucket::default(), HashMap::new());
        Self { rate, address_rate, all, networks, next_sweep: SWEEP_INTERVAL }
    }

    /// Other rates from now on. Tokens that were taken stay taken.
    pub fn set_rates(&mut self, rate: Option<Rate>, address_rate: Option<Rate>) {
        (self.rate, self.address_rate) = (rate, address_rate);
    }

    /// Lets one connection pass at `now`, the time since the start.
    ///
    /// # Errors
    /// [`Limit::AddressRate`], [`Limit::Rate`]; no token is taken then.
    pub fn pass(&mut self, now: Duration, network: Network) -> Result<(), Limit> {
        self.sweep(now);
        let may_pass = self.bucket(network).is_none_or(|(rate, bucket)| bucket.has_token(rate, now));
        if !may_pass {
            return Err(Limit::AddressRate);
        }
        if self.rate.is_some_and(|rate| !self.all.has_token(rate, now)) {
            return Err(Limit::Rate);
        }
        if let Some(rate) = self.rate {
            self.all.take(rate, now);
        }
        self.settle(now, network)
    }

    /// Lets one pass for its address that has passed as hidden.
    ///
    /// # Errors
    /// [`Limit::AddressRate`]; no token is taken then.
    pub fn settle(&mut self, now: Duration, network: Network) -> Result<(), Limit> {
        if let Some((rate, mut bucket)) = self.bucket(network) {
            if !bucket.has_token(rate, now) {
                return Err(Limit::AddressRate);
            }
            bucket.take(rate, now);
            self.remember(network, bucket);
        }
        Ok(())
    }

    /// The rate and the bucket of an address that has them.
    fn bucket(&self, network: Network) -> Option<(Rate, Bucket)> {
        let rate = self.address_rate.filter(|_| network != Network::HIDDEN)?;
        Some((rate, self.networks.get(&network).copied().unwrap_or_default()))
    }

    fn remember(&mut self, network: Network, bucket: Bucket) {
        if let Some(known) = self.networks.get_mut(&network) {
            *known = bucket;
        } else if self.networks.len() < MAX_REMEMBERED {
            self.networks.insert(network, bucket);
        }
    }

    fn sweep(&mut self, now: Duration) {
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.networks.retain(|_, bucket| !bucket.is_full(now));
        }
    }

    /// Addresses that are remembered.
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

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_flood_from_one_address_takes_nothing_from_the_others() {
        let mut pace = Pace::new(Rate::new(1, 4), Rate::new(1, 2));
        let arrivals = [
            (0, A, Ok(())),
            (0, A, Ok(())),
            (0, A, Err(Limit::AddressRate)),
            (999, A, Err(Limit::AddressRate)),
            (999, B, Ok(())),
            (999, B, Ok(())),
            (999, B, Err(Limit::AddressRate)),
            (999, Network::from_bits(3), Err(Limit::Rate)),
            (1000, A, Ok(())),
            (1000, B, Err(Limit::AddressRate)),
            (2000, B, Ok(())),
            (2000, A, Err(Limit::Rate)),
            (3000, A, Ok(())),
        ];
        for (index, (millis, network, want)) in arrivals.into_iter().enumerate() {
            assert_eq!(pace.pass(at(millis), network), want, "arrival {index}");
        }
    }

    #[test]
    fn who_is_hidden_behind_a_proxy_pays_for_all_and_once_known_for_the_address() {
        let mut pace = Pace::new(Rate::new(1, 3), Rate::new(1, 1));
        for want in [Ok(()), Ok(()), Ok(()), Err(Limit::Rate)] {
            assert_eq!(pace.pass(at(0), Network::HIDDEN), want);
        }
        assert_eq!((pace.settle(at(0), A), pace.settle(at(0), A)), (Ok(()), Err(Limit::AddressRate)));
        assert_eq!(pace.settle(at(0), B), Ok(()));
        assert_eq!(pace.networks(), 2);
    }

    #[test]
    fn addresses_are_forgotten_once_their_bucket_is_full_again() {
        let mut pace = Pace::new(None, Rate::new(1, 10));
        for bits in 0..1000 {
            assert_eq!(pace.pass(at(0), Network::from_bits(bits)), Ok(()));
        }
        // The last of these is back at 4 seconds.
        (0..3).for_each(|_| assert_eq!(pace.pass(at(900), A), Ok(())));
        assert_eq!(pace.networks(), 1000);
        assert_eq!(pace.pass(at(3900), B), Ok(()));
        assert_eq!(pace.networks(), 2);
        assert_eq!(pace.pass(at(4950), B), Ok(()));
        assert_eq!(pace.networks(), 1);
    }

    #[test]
    fn more_addresses_than_can_be_remembered_pass_and_the_remembered_stay_bound() {
        let mut pace = Pace::new(None, Rate::new(1, 1));
        for bits in 0..MAX_REMEMBERED as u64 + 1000 {
            assert_eq!(pace.pass(at(0), Network::from_bits(bits)), Ok(()));
        }
        assert_eq!(pace.networks(), MAX_REMEMBERED);
        let beyond = Network::from_bits(MAX_REMEMBERED as u64 + 1);
        assert_eq!(pace.pass(at(1), beyond), Ok(()));
        assert_eq!(pace.pass(at(1), A), Err(Limit::AddressRate));
        // All are forgotten a second later, and newcomers are bound again.
        assert_eq!(pace.pass(at(1001), beyond), Ok(()));
        assert_eq!(pace.pass(at(1001), beyond), Err(Limit::AddressRate));
        assert_eq!(pace.networks(), 1);
    }

    #[test]
    fn without_a_rate_for_each_address_none_is_remembered() {
        let mut pace = Pace::new(Rate::new(1000, 1000), None);
        (0..1000).for_each(|bits| assert_eq!(pace.pass(at(0), Network::from_bits(bits)), Ok(())));
        assert_eq!(pace.pass(at(0), A), Err(Limit::Rate));
        assert_eq!(pace.networks(), 0);
    }
}
