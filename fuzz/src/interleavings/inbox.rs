//! The way to a shard under loom: whatever order senders and the shard run in, all items arrive, in each sender's order,
//! and nobody sleeps for ever. The real file runs here, on loom's lock, condition and bell.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use super::PREEMPTIONS;
use crate::{
    inbox::{Inbox, Room, Taken},
    sync::Bell,
};

/// Runs every interleaving of senders, each with so many items of one byte, and a shard that takes what is there and
/// sleeps when there is nothing. Senders announce at the end, as a burst does. One item is there before all others, so that
/// several senders may wait.
///
/// # Panics
/// An item is lost or out of order, more wait than the room allows, or somebody sleeps for ever.
pub fn items_arrive(senders: &'static [u32], room: usize) {
    explore(move || {
        let (bell, rung) = Bell::new();
        let inbox = Arc::new(Inbox::new(Room { items: usize::MAX, bytes: room }, bell));
        inbox.push((senders.len(), 0), 1);
        let send = |(sender, items): (usize, &u32)| {
            let (inbox, items) = (Arc::clone(&inbox), *items);
            thread::spawn(move || {
                (0..items).for_each(|n| inbox.push((sender, n), 1));
                inbox.announce();
            })
        };
        let sending: Vec<_> = senders.iter().enumerate().map(send).collect();
        let mut arrived = vec![0; senders.len() + 1];
        let mut batch = Vec::new();
        while arrived[..senders.len()] != *senders {
            match inbox.take(&mut batch) {
                Taken::Nothing => rung.wait(),
                taken => assert_eq!(taken, Taken::Items),
            }
            assert!(batch.len() <= room.max(1), "{} items wait", batch.len());
            for (sender, n) in batch.drain(..) {
                assert_eq!(n, arrived[sender], "of sender {sender}");
                arrived[sender] += 1;
            }
        }
        sending.into_iter().for_each(|sender| sender.join().expect("no panic"));
        assert_eq!(inbox.take(&mut batch), Taken::Nothing);
    });
}

/// Runs every interleaving of somebody who has put something elsewhere and rings, a sender, and a shard that looks there
/// whenever it has taken something.
///
/// # Panics
/// The shard sleeps for ever though it was rung.
pub fn a_ring_is_noticed() {
    explore(|| {
        let (bell, rung) = Bell::new();
        let inbox = Arc::new(Inbox::new(Room { items: 1, bytes: 1 }, bell));
        let elsewhere = Arc::new(AtomicBool::new(false));
        let ringing = thread::spawn({
            let (inbox, elsewhere) = (Arc::clone(&inbox), Arc::clone(&elsewhere));
            move || {
                elsewhere.store(true, SeqCst);
                inbox.ring();
            }
        });
        let sending = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                inbox.push(0, 1);
                inbox.announce();
            }
        });
        let (mut items, mut noticed) = (0, false);
        let mut batch = Vec::new();
        while items < 1 || !noticed {
            match inbox.take(&mut batch) {
                Taken::Nothing => rung.wait(),
                _ => noticed = elsewhere.load(SeqCst),
            }
            items += batch.drain(..).count();
        }
        ringing.join().expect("no panic");
        sending.join().expect("no panic");
    });
}

/// Runs every interleaving of a sender that waits for room, somebody who closes, and a shard that takes until the end.
///
/// # Panics
/// The end is not noticed, or the sender waits for ever.
pub fn the_end_is_noticed() {
    explore(|| {
        let (bell, rung) = Bell::new();
        let inbox = Arc::new(Inbox::new(Room { items: 1, bytes: 1 }, bell));
        let sender = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || (0..2).for_each(|n| inbox.push(n, 1))
        });
        let closer = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || inbox.close()
        });
        let mut batch = Vec::new();
        loop {
            match inbox.take(&mut batch) {
                Taken::Nothing => rung.wait(),
                Taken::Closed => break,
                Taken::Items => batch.clear(),
                Taken::Ring => unreachable!("nobody rings"),
            }
        }
        sender.join().expect("no panic");
        closer.join().expect("no panic");
    });
}

fn explore(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(run);
}
