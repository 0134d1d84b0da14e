//! The place that a connection takes in limits which this crate does not know.

use std::{fmt, sync::Arc};

/// Whoever hands out [`Place`]s.
pub trait Places: Send + Sync {
    /// Takes back one place. Called once for each, on whatever thread the connection ends, so it must not wait long.
    fn give_back(&self, key: u64);
}

/// A place, given back when this is dropped. A connection holds it for its whole life.
///
/// 24 bytes and nothing on the heap: every idle connection pays for it.
pub struct Place {
    places: Arc<dyn Places>,
    key: u64,
}

impl Place {
    /// The place that `places` knows as `key`, which it has counted already.
    pub fn new(places: Arc<dyn Places>, key: u64) -> Self {
        Self { places, key }
    }

    /// The same place under another key, for which it has been counted instead.
    #[must_use]
    pub fn renamed(mut self, key: u64) -> Self {
        self.key = key;
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.give_back(self.key);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_costs_a_connection_three_words() {
        assert_eq!(size_of::<Option<Place>>(), 24);
    }
}
