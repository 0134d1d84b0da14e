//! The way from the consumer's thread to a shard: bounded, in order, taken whole.
//!
//! A shard takes all that waits in one lock, so that the busier it is, the more messages share a write.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A queue from many threads to one task.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    has_room: Condvar,
    has_items: Notify,
    capacity: usize,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    closed: bool,
}

impl<T> Inbox<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State { items: Vec::new(), closed: false }),
            has_room: Condvar::new(),
            has_items: Notify::new(),
            capacity,
        }
    }

    /// Adds an item; a full inbox makes the calling thread wait, which is what slows the broker down.
    /// An item for a closed inbox is dropped.
    pub(crate) fn push(&self, item: T) {
        let mut state = self.lock();
        while state.items.len() >= self.capacity && !state.closed {
            state = self.has_room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return;
        }
        state.items.push(item);
        let was_empty = state.items.len() == 1;
        drop(state);
        if was_empty {
            self.has_items.notify_one();
        }
    }

    /// Moves everything that waits into `batch`, which must be empty; waits for an item when there is none.
    /// Returns false when the inbox is closed and empty.
    pub(crate) async fn take(&self, batch: &mut Vec<T>) -> bool {
        loop {
            let closed = {
                let mut state = self.lock();
                std::mem::swap(&mut state.items, batch);
                state.closed
            };
            if !batch.is_empty() {
                self.has_room.notify_all();
                return true;
            }
            if closed {
                return false;
            }
            self.has_items.notified().await;
        }
    }

    /// Lets [`Inbox::take`] end once it has taken what waits, and [`Inbox::push`] return at once.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.has_room.notify_all();
        self.has_items.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn everything_that_waits_is_taken_at_once_and_in_order() {
        let inbox = Inbox::new(10);
        (0..5).for_each(|n| inbox.push(n));
        let mut batch = Vec::new();
        assert!(inbox.take(&mut batch).await);
        assert_eq!(batch, [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_full_inbox_makes_the_sender_wait_until_the_shard_has_taken() {
        let inbox = Arc::new(Inbox::new(2));
        let sender = std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || (0..100).for_each(|n| inbox.push(n))
        });
        let (mut all, mut batch) = (Vec::new(), Vec::new());
        while all.len() < 100 {
            assert!(inbox.take(&mut batch).await);
            assert!(batch.len() <= 2, "never more than the capacity waits");
            all.append(&mut batch);
        }
        sender.join().expect("the sender ends");
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn closing_ends_the_taker_after_the_last_item_and_releases_a_waiting_sender() {
        let inbox = Inbox::new(1);
        inbox.push(1);
        inbox.close();
        inbox.push(2);
        let mut batch = Vec::new();
        assert!(inbox.take(&mut batch).await);
        assert_eq!(std::mem::take(&mut batch), [1]);
        assert!(!inbox.take(&mut batch).await);
    }
}
