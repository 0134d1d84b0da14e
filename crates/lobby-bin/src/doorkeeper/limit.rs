//! The limits on connections, their names and their values.

use lobby_sessions::Rate;

/// What a connection was refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Connections in all.
    Total,
    /// Connections of one address.
    Address,
    /// New connections a second from one address.
    AddressRate,
    /// New connections a second in all.
    Rate,
}

impl Limit {
    /// All of them, in the order in which they are looked at: an address that floods is named before it can be
    /// taken for a crowd, and takes nothing of what the crowd may have.
    pub const ALL: [Self; 4] = [Self::Total, Self::Address, Self::AddressRate, Self::Rate];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Address => "address",
            Self::AddressRate => "address_rate",
            Self::Rate => "rate",
        }
    }

    /// The setting to change.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Total => "listen.max_connections",
            Self::Address => "listen.max_connections_per_address",
            Self::AddressRate => "listen.max_accepts_per_second_per_address",
            Self::Rate => "listen.max_accepts_per_second",
        }
    }
}

/// How many connections there may be, and how fast they may come.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all.
    pub total: usize,
    /// Connections of one address; 0 means no limit.
    pub per_address: usize,
    /// New connections in all.
    pub rate: Option<Rate>,
    /// New connections of one address.
    pub address_rate: Option<Rate>,
}

impl Limits {
    /// The value of [`Limit::setting`].
    pub fn value(&self, limit: Limit) -> usize {
        match limit {
            Limit::Total => self.total,
            Limit::Address => self.per_address,
            Limit::AddressRate => self.address_rate.map_or(0, Rate::per_second),
            Limit::Rate => self.rate.map_or(0, Rate::per_second),
        }
    }
}
