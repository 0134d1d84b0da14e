//! What [`inbox`](crate::inbox) takes turns with. A file of its own, so that a model checker's types can stand in its
//! place (`fuzz/src/interleavings/inbox.rs`).

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

pub(crate) use mio::Waker as Bell;
