//! What [`settlement`](crate::settlement) takes turns with. A file of its own, so that a model checker's types can stand in
//! its place (`fuzz/src/interleavings.rs`).

pub(crate) use std::sync::{Mutex, MutexGuard, atomic::AtomicBool};

pub(crate) use futures_util::task::AtomicWaker;
