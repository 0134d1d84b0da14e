//! Decides which connections are let in, gives each its place, and says which limit was in the way.
//!
//! The decisions are made by [`Occupancy`] (how many are there) and [`Pace`] (how fast they come); here are only the
//! clock, the locks, the counters and the log.

mod limit;
mod network;
mod occupancy;
mod pace;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use lobby_sessions::{LogGate, Place, Places};
use tracing::warn;

pub use self::limit::{Limit, Limits};
use self::{network::Network, occupancy::Occupancy, pace::Pace};

/// Log lines a second about each limit.
const LOG_LINES_PER_SECOND: u32 = 1;

/// One for all listeners.
pub struct Doorkeeper {
    limits: Mutex<Limits>,
    start: Instant,
    /// The only lock that a connection's end takes, and never held for longer than one look-up.
    occupancy: Mutex<Occupancy>,
    /// Apart from the other, since its sweep takes longer: only accepting may have to wait for that.
    pace: Mutex<Pace>,
    refused: [AtomicU64; Limit::ALL.len()],
    log_gates: Mutex<[LogGate; Limit::ALL.len()]>,
}

impl Doorkeeper {
    /// One who has let nobody in yet.
    pub fn new(limits: Limits, start: Instant) -> Self {
        Self {
            occupancy: Mutex::new(Occupancy::new(limits.total, limits.per_address)),
            pace: Mutex::new(Pace::new(limits.rate, limits.address_rate)),
            limits: Mutex::new(limits),
            start,
            refused: Default::default(),
            log_gates: Mutex::new(std::array::from_fn(|_| LogGate::new(LOG_LINES_PER_SECOND))),
        }
    }

    /// Lets a connection in, or counts and logs why not. The place is given back when it is dropped.
    ///
    /// # Errors
    /// The first limit in the way, in the order of [`Limit::ALL`]; a refused connection takes nothing of any limit.
    pub fn admit(self: &Arc<Self>, now: Instant, peer: SocketAddr) -> Result<Place, Limit> {
        self.decide(now, Network::of(peer.ip())).inspect_err(|limit| self.report(*limit, now, peer))
    }

    /// As [`Self::admit`], for a client that a proxy speaks for: limits for one address are not about the proxy.
    ///
    /// # Errors
    /// [`Limit::Total`], [`Limit::Rate`].
    pub fn admit_hidden(self: &Arc<Self>, now: Instant, proxy: SocketAddr) -> Result<Place, Limit> {
        self.decide(now, Network::HIDDEN).inspect_err(|limit| self.report(*limit, now, proxy))
    }

    /// Applies the limits for one address to a client that came through a proxy, once its address is known.
    ///
    /// # Errors
    /// [`Limit::Address`], [`Limit::AddressRate`]; the place is given back then.
    pub fn reveal(&self, now: Instant, place: Place, client: SocketAddr) -> Result<Place, Limit> {
        let network = Network::of(client.ip());
        let settle = || {
            let counted = {
                let mut occupancy = locked(&self.occupancy);
                occupancy.settle(network)?;
                occupancy.counted(network)
            };
            let place = place.renamed(counted.to_bits());
            locked(&self.pace).settle(now.saturating_duration_since(self.start), network)?;
            Ok(place)
        };
        settle().inspect_err(|limit| self.report(*limit, now, client))
    }

    /// Other limits for those who come from now on; who is there stays. A first limit for each address counts those that
    /// come under it.
    pub fn set_limits(&self, limits: Limits) {
        *locked(&self.limits) = limits;
        locked(&self.occupancy).set_limits(limits.total, limits.per_address);
        locked(&self.pace).set_rates(limits.rate, limits.address_rate);
    }

    /// Connections that hold a place.
    pub fn open(&self) -> usize {
        locked(&self.occupancy).open()
    }

    /// Connections that may hold a place.
    pub fn most(&self) -> usize {
        locked(&self.limits).total
    }

    /// Connections refused so far, by the limit that was in the way.
    pub fn refused(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.into_iter().zip(self.refused.iter().map(|count| count.load(Relaxed)))
    }

    fn decide(self: &Arc<Self>, now: Instant, network: Network) -> Result<Place, Limit> {
        let counted = {
            let mut occupancy = locked(&self.occupancy);
            occupancy.enter(network)?;
            occupancy.counted(network)
        };
        // Dropped again if it comes too fast.
        let place = Place::new(Arc::clone(self) as Arc<dyn Places>, counted.to_bits());
        locked(&self.pace).pass(now.saturating_duration_since(self.start), network)?;
        Ok(place)
    }

    fn report(&self, limit: Limit, now: Instant, peer: SocketAddr) {
        self.refused[limit as usize].fetch_add(1, Relaxed);
        let passed = locked(&self.log_gates)[limit as usize].pass(now);
        if let Some(suppressed) = passed {
            warn!(%peer, setting = limit.setting(), value = locked(&self.limits).value(limit), suppressed,
                "connection refused: a limit is reached");
        }
    }
}

impl Places for Doorkeeper {
    fn give_back(&self, key: u64) {
        locked(&self.occupancy).leave(Network::from_bits(key));
    }
}

/// Nothing behind these locks can be left half done by a panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
