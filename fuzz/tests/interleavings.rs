//! Concurrency that is written by hand, in every order of its steps.

use lobby_fuzz::interleavings::{Phase, completions_are_settled};

#[test]
fn every_interleaving_of_completions_with_a_consumer_that_falls_asleep_wakes_it() {
    for phase in [Phase::Open, Phase::Draining] {
        for batch in [1, 2] {
            completions_are_settled(phase, batch);
        }
    }
}
