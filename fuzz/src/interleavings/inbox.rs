//! The way to a shard under loom: whatever order senders and the shard run in, all items arrive, in each sender's order,
//! and nobody sleeps for ever. The real file runs here, on loom's lock, condition and bell.

use loom::{sync::Arc, thread};

use super::PREEMPTIONS;
use crate::{
    inbox::{Inbox, Room, Taken},
    sync::Bell,
};

/// Runs every interleaving of senders, each with some items of one byte one after the other, and a shard that takes what is there
/// and sleeps when there is nothing. Senders announce at the end, as a burst does.
///
/// # Panics
/// An item is lost or out of order, more wait than the room allows, or somebody sleeps for ever.
pub fn items_arrive(senders: u32, items: u32, room: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(move || {
        let (bell, rung) = Bell::new();
        let inbox = Arc::new(Inbox::new(Room { items: usize::MAX, bytes: room }, bell));
        let sending: Vec<_> = (0..senders)
            .map(|sender| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    for n in 0..items {
                        inbox.push((sender, n), 1);
                    }
                    inbox.announce();
                })
            })
            .collect();
        let mut next = vec![0; senders as usize];
        let mut batch = Vec::new();
        while next.iter().any(|next| *next < items) {
            match inbox.take(&mut batch) {
                Taken::Nothing => rung.wait(),
                taken => assert_eq!(taken, Taken::Items),
            }
            assert!(batch.len() <= room.max(1), "{} items wait", batch.len());
            for (sender, n) in batch.drain(..) {
                assert_eq!(n, next[sender as usize], "of sender {sender}");
                next[sender as usize] += 1;
            }
        }
        sending.into_iter().for_each(|sender| sender.join().expect("no panic"));
        assert_eq!(inbox.take(&mut batch), Taken::Nothing);
    });
}

/// Runs every interleaving of a sender that waits for room, somebody who rings, somebody who closes, and a shard that takes
/// until the end.
///
/// # Panics
/// The ring or the end is not noticed, or the sender waits for ever.
pub fn a_ring_and_the_end_are_noticed() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(|| {
        let (bell, rung) = Bell::new();
        let inbox = Arc::new(Inbox::new(Room { items: 1, bytes: 1 }, bell));
        let sender = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || (0..2).for_each(|n| inbox.push(n, 1))
        });
        let closer = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                inbox.ring();
                inbox.close();
            }
        });
        let mut batch = Vec::new();
        loop {
            match inbox.take(&mut batch) {
                Taken::Nothing => rung.wait(),
                Taken::Closed => break,
                Taken::Items | Taken::Ring => batch.clear(),
            }
        }
        sender.join().expect("no panic");
        closer.join().expect("no panic");
    });
}
