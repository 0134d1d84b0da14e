//! Concurrency that is written by hand, in every order of its steps.

use lobby_fuzz::interleavings::{Phase, completions_are_settled, inbox};

#[test]
fn every_interleaving_of_completions_with_a_consumer_that_falls_asleep_wakes_it() {
    for phase in [Phase::Open, Phase::Draining] {
        for batch in [1, 2] {
            completions_are_settled(phase, batch);
        }
    }
}

#[test]
fn every_interleaving_of_senders_with_a_shard_that_falls_asleep_brings_all_items_in_order() {
    for (senders, room) in [(&[2][..], 0), (&[2], 1), (&[2], 2), (&[1, 1], 1)] {
        inbox::items_arrive(senders, room);
    }
}

#[test]
fn every_interleaving_of_a_ring_and_the_end_with_a_shard_that_falls_asleep_wakes_it() {
    inbox::a_ring_is_noticed();
    inbox::the_end_is_noticed();
}
