//! Messages that are handed over one after the other and announced together: waking a shard is a system call.

use std::sync::Arc;

use notify_protocol::UserId;

use crate::{Frame, Sessions};

/// Hands messages to the sessions without waking anyone before [`Burst::end`], or the drop.
///
/// A shard that is awake takes them at once all the same; a full one is woken.
#[derive(Debug)]
pub struct Burst<T: Clone + Send + 'static> {
    sessions: Arc<Sessions<T>>,
    /// By shard: whether something was handed to it since the last end.
    touched: Box<[bool]>,
}

impl<T: Clone + Send + 'static> Burst<T> {
    /// A burst without messages yet.
    pub fn new(sessions: Arc<Sessions<T>>) -> Self {
        let touched = vec![false; sessions.shards()].into();
        Self { sessions, touched }
    }

    /// As [`Sessions::broadcast`].
    pub fn broadcast(&mut self, frame: &Frame, ticket: &T) {
        self.touched.fill(true);
        self.sessions.queue_broadcast(frame, ticket);
    }

    /// As [`Sessions::unicast`].
    pub fn unicast(&mut self, user: UserId, frame: Frame, ticket: T) {
        let shard = self.sessions.queue_unicast(user, frame, ticket);
        self.touched[shard] = true;
    }

    /// Wakes the shards that sleep although something waits for them.
    pub fn end(&mut self) {
        for (shard, touched) in self.touched.iter_mut().enumerate() {
            if std::mem::take(touched) {
                self.sessions.wake(shard);
            }
        }
    }

    /// The sessions that this hands messages to.
    pub fn sessions(&self) -> &Arc<Sessions<T>> {
        &self.sessions
    }
}

impl<T: Clone + Send + 'static> Drop for Burst<T> {
    fn drop(&mut self) {
        self.end();
    }
}
