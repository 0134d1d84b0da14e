//! Stands in for the files of this name in `notify-amqp` and `lobby-sessions`: what loom can hold up at every step.

use std::{io, task::Waker};

use loom::sync::{Arc, Notify};
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicBool};

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

/// Wakes a shard's event queue. As there, a ring that nobody waits for is kept for the next who does.
pub(crate) struct Bell(Arc<Notify>);

impl Bell {
    /// A bell and what hears it.
    pub(crate) fn new() -> (Self, Arc<Notify>) {
        let notify = Arc::new(Notify::new());
        (Self(Arc::clone(&notify)), notify)
    }

    #[allow(clippy::unnecessary_wraps, reason = "the interface of the real one")]
    pub(crate) fn wake(&self) -> io::Result<()> {
        self.0.notify();
        Ok(())
    }
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bell")
    }
}
