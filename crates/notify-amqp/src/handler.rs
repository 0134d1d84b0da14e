//! The handler: what a service does with a message, in the form in which its outcome settles it.

use std::future::Future;

use crate::{delivery::Delivery, outcome::Outcome};

/// What a service does with each message.
///
/// Closures that return a future are handlers: `|delivery| async move { … Outcome::Ack }`. A handler sees the message and
/// nothing of the channel it came by, so it can be tested without a broker ([`Delivery::detached`]); and it settles
/// each delivery exactly once, because its outcome does.
///
/// - Messages are begun in the queue's order. With the default `concurrency` of 1 each is finished before the next is
///   begun; with more, that many are in work at a time, and each is settled when it and all before it are done.
/// - All of them run in one task on the runtime that [`ConsumerBuilder`](crate::ConsumerBuilder) was given. A
///   handler that blocks delays its fellows and nothing else: acks and heartbeats have a thread of their own. Work for
///   the CPU belongs in `tokio::task::spawn_blocking`.
/// - A panic, in the call or in the future, is caught and counted; that message is rejected and the next one begun.
/// - A future that is dropped before it ends, because its runtime shuts down, leaves the message to the broker.
pub trait Handler: Send + Sync + 'static {
    /// Takes one message; the future's output is what becomes of it.
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Outcome> + Send;
}

impl<F, T> Handler for F
where
    F: Fn(Delivery) -> T + Send + Sync + 'static,
    T: Future<Output = Outcome> + Send,
{
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Outcome> + Send {
        self(delivery)
    }
}
