//! The way from the consumer's thread to a shard: bounded, in order, taken whole.
//!
//! A shard takes all that waits in one lock, so that the busier it is, the more messages share a write. It is woken
//! only when it sleeps: a wake-up is a system call.

use std::sync::PoisonError;

use crate::sync::{Bell, Condvar, Mutex, MutexGuard};

/// A queue from many threads to one event loop.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    has_room: Condvar,
    bell: Bell,
    room: Room,
}

/// What an inbox holds at most. One item always fits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    /// Of all items together.
    bytes: usize,
    /// Somebody waits for room.
    awaited: bool,
    closed: bool,
    /// The taker found nothing and waits for its event queue, or is about to.
    sleeping: bool,
    /// Rung while the taker was awake.
    rung: bool,
}

/// What the taker found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Items, all that waited.
    Items,
    /// No items, but a ring since the last look.
    Ring,
    /// Nothing. The taker may sleep: the next item or ring wakes its event queue.
    Nothing,
    /// Closed and empty.
    Closed,
}

impl<T> Inbox<T> {
    /// An inbox with `room` whose taker is woken by `bell`.
    pub(crate) fn new(room: Room, bell: Bell) -> Self {
        let state = State {
            items: Vec::new(),
            bytes: 0,
            awaited: false,
            closed: false,
            sleeping: false,
            rung: false,
        };
        Self { state: Mutex::new(state), has_room: Condvar::new(), bell, room }
    }

    /// Adds an item of so many bytes, without waking the taker: see [`Inbox::announce`]. A full inbox wakes the taker and
    /// makes the calling thread wait, which is what slows the broker down. An item for a closed inbox is dropped.
    pub(crate) fn push(&self, item: T, bytes: usize) {
        let mut state = self.lock();
        while !state.takes(self.room, bytes) {
            self.wake(state);
            state = self.lock();
            if !state.takes(self.room, bytes) {
                state.awaited = true;
                state = self.has_room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if !state.closed {
            state.items.push(item);
            state.bytes += bytes;
        }
    }

    /// Wakes the taker if it sleeps although something was pushed.
    pub(crate) fn announce(&self) {
        let state = self.lock();
        if !state.items.is_empty() {
            self.wake(state);
        }
    }

    /// Makes the taker look up from its sleep, or not fall asleep: there is something elsewhere.
    pub(crate) fn ring(&self) {
        let mut state = self.lock();
        state.rung = true;
        self.wake(state);
    }

    /// Moves everything that waits into `batch`, which must be empty.
    pub(crate) fn take(&self, batch: &mut Vec<T>) -> Taken {
        debug_assert!(batch.is_empty(), "what was taken before is done with");
        let mut state = self.lock();
        std::mem::swap(&mut state.items, batch);
        let rung = std::mem::take(&mut state.rung);
        let taken = match (batch.is_empty(), state.closed, rung) {
            (false, ..) => Taken::Items,
            (true, true, _) => Taken::Closed,
            (true, false, true) => Taken::Ring,
            (true, false, false) => Taken::Nothing,
        };
        state.sleeping = taken == Taken::Nothing;
        state.bytes = 0;
        let awaited = std::mem::take(&mut state.awaited);
        drop(state);
        if awaited {
            self.has_room.notify_all();
        }
        taken
    }

    /// Lets the taker find [`Taken::Closed`] once it has taken what waits, and [`Inbox::push`] return at once.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.has_room.notify_all();
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        if std::mem::take(&mut state.sleeping) {
            drop(state);
            // It cannot fail while the event queue is there; if it did, the next sweep would look in.
            let _ = self.bell.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// Whether an item of so many bytes need not wait. A closed inbox takes all, and drops it.
    fn takes(&self, room: Room, bytes: usize) -> bool {
        let fits = self.items.len() < room.items && self.bytes.saturating_add(bytes) <= room.bytes;
        fits || self.items.is_empty() || self.closed
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use mio::{Events, Poll, Token, Waker};

    use super::*;

    const BELL: Token = Token(7);

    fn inbox(capacity: usize) -> (Inbox<u32>, Poll) {
        let poll = Poll::new().expect("an event queue");
        let bell = Waker::new(poll.registry(), BELL).expect("a waker");
        (Inbox::new(Room { items: capacity, bytes: 1000 }, bell), poll)
    }

    fn rings(poll: &mut Poll, within: Duration) -> usize {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(within)).expect("polled");
        events.iter().filter(|event| event.token() == BELL).count()
    }

    #[test]
    fn everything_that_waits_is_taken_at_once_and_in_order() {
        let (inbox, _poll) = inbox(10);
        (0..5).for_each(|n| inbox.push(n, 0));
        let mut batch = Vec::new();
        assert_eq!(inbox.take(&mut batch), Taken::Items);
        assert_eq!(batch, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_taken_makes_room() {
        let (inbox, _poll) = inbox(10);
        let mut batch = Vec::new();
        for n in 0..3 {
            inbox.push(n, 1000);
            assert!(!inbox.lock().takes(inbox.room, 1));
            inbox.take(&mut batch);
            batch.clear();
            assert_eq!(inbox.lock().bytes, 0);
        }
    }

    #[test]
    fn only_a_taker_that_found_nothing_is_woken_and_only_once() {
        let (inbox, mut poll) = inbox(10);
        let mut batch = Vec::new();
        inbox.push(1, 0);
        inbox.announce();
        assert_eq!(rings(&mut poll, Duration::ZERO), 0, "nobody slept");
        assert_eq!(inbox.take(&mut batch), Taken::Items);
        batch.clear();
        assert_eq!(inbox.take(&mut batch), Taken::Nothing);
        inbox.announce();
        assert_eq!(rings(&mut poll, Duration::ZERO), 0, "nothing to announce");
        inbox.push(2, 0);
        assert_eq!(rings(&mut poll, Duration::ZERO), 0, "not announced");
        inbox.push(3, 0);
        inbox.announce();
        assert_eq!(rings(&mut poll, Duration::from_secs(20)), 1);
        inbox.announce();
        assert_eq!(rings(&mut poll, Duration::ZERO), 0, "woken already");
    }

    #[test]
    fn a_ring_is_seen_whether_the_taker_sleeps_or_not() {
        let (inbox, mut poll) = inbox(10);
        let mut batch = Vec::new();
        inbox.ring();
        assert_eq!((inbox.take(&mut batch), inbox.take(&mut batch)), (Taken::Ring, Taken::Nothing));
        inbox.ring();
        assert_eq!(rings(&mut poll, Duration::from_secs(20)), 1);
        assert_eq!((inbox.take(&mut batch), inbox.take(&mut batch)), (Taken::Ring, Taken::Nothing));
    }

    #[test]
    fn a_full_inbox_makes_the_sender_wait_until_the_shard_has_taken() {
        let (inbox, mut poll) = inbox(2);
        let inbox = Arc::new(inbox);
        let sender = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                // A full inbox is announced by whoever waits for room in it.
                (0..100).for_each(|n| inbox.push(n, 0));
                inbox.announce();
            }
        });
        let (mut all, mut batch) = (Vec::new(), Vec::new());
        while all.len() < 100 {
            match inbox.take(&mut batch) {
                Taken::Nothing => assert!(rings(&mut poll, Duration::from_secs(20)) > 0, "an item wakes"),
                _ => assert!(batch.len() <= 2, "never more than the capacity waits"),
            }
            all.append(&mut batch);
        }
        sender.join().expect("the sender ends");
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_sender_waits_for_room_for_its_bytes_and_an_empty_inbox_takes_any_item() {
        let (inbox, mut poll) = inbox(100);
        let inbox = Arc::new(inbox);
        let sizes = [400, 600, 1, 5000, 900, 100, 1];
        let sender = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                sizes.into_iter().for_each(|size| inbox.push(size, size as usize));
                inbox.announce();
            }
        });
        let (mut all, mut batch) = (Vec::new(), Vec::new());
        while all.len() < sizes.len() {
            match inbox.take(&mut batch) {
                Taken::Nothing => assert!(rings(&mut poll, Duration::from_secs(20)) > 0, "an item wakes"),
                _ => assert!(batch.len() == 1 || batch.iter().sum::<u32>() <= 1000, "{batch:?}"),
            }
            all.append(&mut batch);
        }
        sender.join().expect("the sender ends");
        assert_eq!(all, sizes);
    }

    #[test]
    fn closing_ends_the_taker_after_the_last_item_and_releases_a_waiting_sender() {
        let (inbox, _poll) = inbox(1);
        let inbox = Arc::new(inbox);
        inbox.push(1, 0);
        let sender = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || inbox.push(2, 0)
        });
        inbox.close();
        sender.join().expect("the sender ends");
        let mut batch = Vec::new();
        assert_eq!(inbox.take(&mut batch), Taken::Items);
        assert_eq!(std::mem::take(&mut batch), [1]);
        assert_eq!(inbox.take(&mut batch), Taken::Closed);
    }
}
