//! The settlement of deliveries under loom, which runs threads in every order that memory allows: what is completed on any
//! thread, while the consumer's task falls asleep, is settled. A wake-up that is lost shows as a deadlock.
//!
//! The real file runs here, on loom's lock, flag and waker. The count of a ticket's clones is the standard library's and is
//! not explored.

pub mod inbox;

use std::{future::poll_fn, sync::Arc, task::Poll};

use loom::{future::block_on, thread};

use crate::{
    outcome::Verdict,
    settlement::{Settlement, Ticket},
    stop::StopSignal,
};

/// Deliveries, each completed by a thread of its own.
const DELIVERIES: u64 = 2;

/// How often a thread may be interrupted where it could have gone on. Without a bound this takes minutes; the faults that
/// take more than two to show are rare.
const PREEMPTIONS: usize = 2;

/// How the consumer waits for the deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It goes on consuming: the first completion after a settlement wakes it, to arm the delay.
    Open,
    /// It stops: the last completion wakes it.
    Draining,
}

/// Runs every interleaving of two completions with a consumer that settles what it finds and falls asleep.
///
/// # Panics
/// A completion is lost, settled twice or out of order, or the consumer sleeps for ever.
pub fn completions_are_settled(phase: Phase, batch: u16) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(move || {
        let (stop, ()) = StopSignal::new();
        let settlement = Arc::new(Settlement::new(4, batch, Arc::default(), stop));
        let tickets: Vec<Ticket> =
            (1..=DELIVERIES).map(|tag| settlement.deliver(tag, true).expect("in order").0).collect();
        if phase == Phase::Draining {
            settlement.drain();
        }
        let complete = |ticket: Ticket| thread::spawn(move || drop(ticket));
        let workers: Vec<_> = tickets.into_iter().map(complete).collect();
        let mut settled = 0;
        block_on(poll_fn(|cx| {
            settlement.unpark();
            loop {
                while let Some(run) = settlement.take_run() {
                    assert_eq!((run.tag, run.verdict), (settled + run.messages, Verdict::Ack));
                    settled = run.tag;
                }
                if settled == DELIVERIES {
                    return Poll::Ready(());
                }
                // While consuming the delay that a completion arms has always passed here. While draining only the
                // last completion counts.
                let due = settlement.park(cx);
                let asleep = match phase {
                    Phase::Open => due.ready == 0,
                    Phase::Draining => due.open > 0,
                };
                if asleep {
                    return Poll::Pending;
                }
                settlement.unpark();
            }
        }));
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        assert_eq!((settlement.open(), settlement.unsettled()), (0, 0));
    });
}
