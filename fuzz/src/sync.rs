//! Stands in for `notify-amqp`'s file of this name: what loom can hold up at every step.

use std::task::Waker;

pub(crate) use loom::sync::{Mutex, MutexGuard, atomic::AtomicBool};

/// loom's, with the interface of the one in `futures`.
pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

impl AtomicWaker {
    pub(crate) fn new() -> Self {
        Self(loom::future::AtomicWaker::new())
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.0.register_by_ref(waker);
    }

    pub(crate) fn wake(&self) {
        self.0.wake();
    }
}
