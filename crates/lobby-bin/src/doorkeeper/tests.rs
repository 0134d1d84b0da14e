//! The doorkeeper beside a model that keeps every connection and every token.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use lobby_sessions::Rate;
use proptest::{collection::vec, prelude::*};

use super::*;

fn peer(last: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(203, 0, 113, last), 1234))
}

fn limits(total: usize, per_address: usize, rate: (usize, usize), address_rate: (usize, usize)) -> Limits {
    Limits {
        total,
        per_address,
        rate: Rate::new(rate.0, rate.1),
        address_rate: Rate::new(address_rate.0, address_rate.1),
    }
}

#[test]
fn a_refused_connection_is_counted_and_takes_no_place() {
    let start = Instant::now();
    for (limits, want) in [
        (limits(1, 0, (0, 0), (0, 0)), Limit::Total),
        (limits(9, 1, (0, 0), (0, 0)), Limit::Address),
        (limits(9, 9, (0, 0), (1, 1)), Limit::AddressRate),
        (limits(9, 9, (1, 1), (1, 2)), Limit::Rate),
    ] {
        let doorkeeper = Arc::new(Doorkeeper::new(limits, start));
        let _place = doorkeeper.admit(start, peer(1)).expect("the first is let in");
        for _ in 0..3 {
            assert_eq!(doorkeeper.admit(start, peer(1)).expect_err("refused"), want);
        }
        assert_eq!(doorkeeper.open(), 1, "{want:?}");
        for (limit, count) in doorkeeper.refused() {
            assert_eq!(count, if limit == want { 3 } else { 0 }, "{want:?}");
        }
        assert_eq!(limits.value(want), 1, "{}", want.setting());
    }
}

#[test]
fn other_limits_count_for_those_who_come_next_and_places_come_back_under_any() {
    let start = Instant::now();
    let doorkeeper = Arc::new(Doorkeeper::new(limits(2, 0, (0, 0), (0, 0)), start));
    let admit = |last| doorkeeper.admit(start, peer(last));
    let early = [admit(1).expect("the first"), admit(1).expect("the second")];
    assert_eq!(admit(1).expect_err("the third"), Limit::Total);
    doorkeeper.set_limits(limits(9, 1, (0, 0), (0, 0)));
    let counted = admit(1).expect("the first that is counted for its address");
    assert_eq!(admit(1).expect_err("the second"), Limit::Address);
    drop(early);
    assert_eq!(admit(1).expect_err("those who left were not counted"), Limit::Address);
    doorkeeper.set_limits(limits(9, 0, (1, 1), (0, 0)));
    let uncounted = admit(1).expect("no limit for an address, and a token");
    assert_eq!(admit(2).expect_err("no token"), Limit::Rate);
    drop((counted, uncounted));
    assert_eq!(doorkeeper.open(), 0);
    doorkeeper.set_limits(limits(1, 1, (0, 0), (0, 0)));
    drop(admit(1).expect("nothing of its address is left"));
}

#[test]
fn a_client_behind_a_proxy_is_held_to_the_limits_of_its_own_address() {
    let start = Instant::now();
    let doorkeeper = Arc::new(Doorkeeper::new(limits(4, 1, (0, 0), (0, 0)), start));
    let hidden = || doorkeeper.admit_hidden(start, peer(9)).expect("the proxy's address has no limit");
    let place = doorkeeper.reveal(start, hidden(), peer(1)).expect("the first of its address");
    assert_eq!(doorkeeper.reveal(start, hidden(), peer(1)).expect_err("the second"), Limit::Address);
    assert_eq!(doorkeeper.admit(start, peer(1)).expect_err("nor without a proxy"), Limit::Address);
    assert_eq!(doorkeeper.open(), 1, "who is refused takes no place");
    drop(place);
    assert_eq!(doorkeeper.open(), 0);
    let place = doorkeeper.reveal(start, hidden(), peer(1)).expect("free again");
    drop((place, hidden()));
    assert_eq!(doorkeeper.open(), 0);

    let paced = Arc::new(Doorkeeper::new(limits(9, 9, (0, 0), (1, 1)), start));
    let hidden = || paced.admit_hidden(start, peer(9)).expect("the proxy's address has no limit");
    let first = paced.reveal(start, hidden(), peer(1));
    assert_eq!(paced.reveal(start, hidden(), peer(1)).expect_err("too fast"), Limit::AddressRate);
    assert_eq!(paced.open(), 1);
    drop(first);
    assert_eq!(paced.open(), 0);
}

#[test]
fn a_place_that_another_thread_drops_is_free_again() {
    let start = Instant::now();
    let doorkeeper = Arc::new(Doorkeeper::new(limits(1, 1, (0, 0), (0, 0)), start));
    let place = doorkeeper.admit(start, peer(1)).expect("let in");
    std::thread::spawn(move || drop(place)).join().expect("no panic");
    assert_eq!(doorkeeper.open(), 0);
    assert!(doorkeeper.admit(start, peer(1)).is_ok());
}

/// A bucket in billionths of a token.
#[derive(Clone, Copy)]
struct Level {
    per_second: u64,
    burst: u64,
    level: u64,
    at: u64,
}

const TOKEN: u64 = 1_000_000_000;

impl Level {
    fn full((per_second, burst): (usize, usize)) -> Self {
        Self { per_second: per_second as u64, burst: burst as u64, level: burst as u64 * TOKEN, at: 0 }
    }

    fn has_token(&mut self, now: u64) -> bool {
        self.level = (self.level + (now - self.at) * self.per_second).min(self.burst * TOKEN);
        self.at = now;
        self.per_second == 0 || self.level >= TOKEN
    }

    fn take(&mut self) {
        self.level = self.level.saturating_sub(TOKEN);
    }
}

#[derive(Debug, Clone)]
enum Event {
    Arrival { last: u8, after: Duration },
    Departure(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    let after = prop_oneof![Just(0), 0..50u64, 900..1100u64].prop_map(Duration::from_millis);
    prop_oneof![
        3 => (0..4u8, after).prop_map(|(last, after)| Event::Arrival { last, after }),
        2 => any::<prop::sample::Index>().prop_map(Event::Departure),
    ]
}

/// Rates that divide a second into whole nanoseconds: only then do both count alike.
fn rate() -> impl Strategy<Value = (usize, usize)> {
    (prop::sample::select(vec![0, 1, 2, 10, 100]), 1..5usize)
}

proptest! {
    #[test]
    fn who_is_let_in_is_whom_the_model_lets_in(
        (total, per_address, rate, address_rate) in (1..6usize, 0..4usize, rate(), rate()),
        events in vec(event(), 0..200),
    ) {
        let start = Instant::now();
        let doorkeeper =
            Arc::new(Doorkeeper::new(limits(total, per_address, rate, address_rate), start));
        let mut open: Vec<(u8, Place)> = Vec::new();
        let mut all = Level::full(rate);
        let mut levels: BTreeMap<u8, Level> = BTreeMap::new();
        let mut now = start;
        for event in events {
            match event {
                Event::Arrival { last, after } => {
                    now += after;
                    let since = u64::try_from((now - start).as_nanos()).expect("a short test");
                    let own = levels.entry(last).or_insert(Level::full(address_rate));
                    let there = open.iter().filter(|(other, _)| *other == last).count();
                    let want = if open.len() >= total {
                        Err(Limit::Total)
                    } else if per_address > 0 && there >= per_address {
                        Err(Limit::Address)
                    } else if !own.has_token(since) {
                        Err(Limit::AddressRate)
                    } else if !all.has_token(since) {
                        Err(Limit::Rate)
                    } else {
                        own.take();
                        all.take();
                        Ok(())
                    };
                    let got = doorkeeper.admit(now, peer(last));
                    prop_assert_eq!(got.as_ref().map(drop).map_err(|limit| *limit), want);
                    open.extend(got.ok().map(|place| (last, place)));
                }
                Event::Departure(index) if !open.is_empty() => {
                    open.swap_remove(index.index(open.len()));
                }
                Event::Departure(_) => {}
            }
            prop_assert_eq!(doorkeeper.open(), open.len());
            let mut there: Vec<_> = open.iter().map(|(last, _)| last).collect();
            there.sort();
            there.dedup();
            let counted = if per_address > 0 { there.len() } else { 0 };
            prop_assert_eq!(locked(&doorkeeper.occupancy).networks(), counted);
            prop_assert!(locked(&doorkeeper.pace).networks() <= levels.len());
        }
    }
}
