//! What the shards count. Each shard writes its own; a reader adds them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{CloseReason, Transport};

/// The close codes that are counted, in the order of `CLIENT_PROTOCOL`.
pub const CLOSE_CODES: [u16; 16] =
    [1000, 1002, 1007, 1008, 1009, 1012, 1013, 4000, 4001, 4002, 4004, 4500, 4501, 4502, 4503, 0];

/// A figure that one thread writes and others read: it costs no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Figure(AtomicU64);

impl Figure {
    pub(crate) fn add(&self, amount: usize) {
        self.change(0, amount);
    }

    /// Follows a value that changed from `before` to `after` in the sum that this figure is.
    pub(crate) fn change(&self, before: usize, after: usize) {
        let sum = self.get().wrapping_add(after as u64).wrapping_sub(before as u64);
        self.0.store(sum, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one shard.
#[derive(Debug, Default)]
pub(crate) struct ShardStats {
    pub(crate) sessions: [Figure; 2],
    pub(crate) unicast: Figure,
    pub(crate) not_connected: Figure,
    pub(crate) messages_written: Figure,
    pub(crate) bytes_written: Figure,
    pub(crate) writes: Figure,
    pub(crate) queued_bytes: Figure,
    pub(crate) overflows: Figure,
    pub(crate) shed: Figure,
    pub(crate) dropped_oldest: Figure,
    pub(crate) invalid_commands: Figure,
    closes: [Figure; CLOSE_CODES.len()],
}

impl ShardStats {
    /// `writes` system calls wrote `bytes`, and with them finished `frames`.
    pub(crate) fn wrote(&self, writes: usize, frames: usize, bytes: usize) {
        self.writes.add(writes);
        self.messages_written.add(frames);
        self.bytes_written.add(bytes);
    }

    pub(crate) fn session_opened(&self, transport: Transport) {
        self.sessions[transport as usize].add(1);
    }

    pub(crate) fn session_gone(&self, transport: Transport) {
        self.sessions[transport as usize].change(1, 0);
    }

    /// Logged-in sessions that have not been told to go.
    pub(crate) fn open_sessions(&self) -> usize {
        usize::try_from(self.sessions.iter().map(Figure::get).sum::<u64>()).unwrap_or(usize::MAX)
    }

    pub(crate) fn closed(&self, reason: Option<CloseReason>) {
        let code = reason.map_or(0, CloseReason::code);
        let last = CLOSE_CODES.len() - 1;
        let slot = CLOSE_CODES.iter().position(|c| *c == code).unwrap_or(last);
        self.closes[slot].add(1);
    }
}

/// The sum over all shards at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Logged-in sessions by transport, in the order of [`Transport::ALL`].
    pub sessions: [u64; 2],
    /// Unicasts that had at least one session here.
    pub unicast: u64,
    /// Unicasts whose user was not connected here.
    pub not_connected: u64,
    /// Messages that the kernel took whole.
    pub messages_written: u64,
    /// Bytes that the kernel took.
    pub bytes_written: u64,
    /// System calls that wrote.
    pub writes: u64,
    /// Bytes that wait in outboxes now.
    pub queued_bytes: u64,
    /// Times that a message did not fit into an outbox.
    pub overflows: u64,
    /// Sessions closed because all outboxes together held too much.
    pub shed: u64,
    /// Messages dropped by the policy `drop_oldest`.
    pub dropped_oldest: u64,
    /// Unknown commands from open sessions.
    pub invalid_commands: u64,
    /// Closed sessions by code, in the order of [`CLOSE_CODES`]; 0 counts those that left without a word.
    pub closes: [u64; CLOSE_CODES.len()],
}

impl SessionStats {
    /// Sessions closed with `code`; 0 for a code that is not in [`CLOSE_CODES`].
    pub fn closes_with(&self, code: u16) -> u64 {
        CLOSE_CODES.iter().zip(self.closes).find(|(known, _)| **known == code).map_or(0, |(_, count)| count)
    }

    pub(crate) fn add(&mut self, shard: &ShardStats) {
        let sum = |total: &mut u64, counter: &Figure| *total += counter.get();
        for (total, counter) in self.sessions.iter_mut().zip(&shard.sessions) {
            sum(total, counter);
        }
        for (total, counter) in self.closes.iter_mut().zip(&shard.closes) {
            sum(total, counter);
        }
        for (total, counter) in [
            (&mut self.unicast, &shard.unicast),
            (&mut self.not_connected, &shard.not_connected),
            (&mut self.messages_written, &shard.messages_written),
            (&mut self.bytes_written, &shard.bytes_written),
            (&mut self.writes, &shard.writes),
            (&mut self.queued_bytes, &shard.queued_bytes),
            (&mut self.overflows, &shard.overflows),
            (&mut self.shed, &shard.shed),
            (&mut self.dropped_oldest, &shard.dropped_oldest),
            (&mut self.invalid_commands, &shard.invalid_commands),
        ] {
            sum(total, counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_all_shards_add_up() {
        let shards = [ShardStats::default(), ShardStats::default()];
        shards[0].session_opened(Transport::Tcp);
        shards[1].session_opened(Transport::Tcp);
        shards[1].session_opened(Transport::WebSocket);
        shards[1].session_gone(Transport::WebSocket);
        shards[0].closed(Some(CloseReason::TooSlow));
        shards[1].closed(None);
        let mut stats = SessionStats::default();
        shards.iter().for_each(|s| stats.add(s));
        assert_eq!(stats.sessions, [2, 0]);
        let by_code: Vec<_> = CLOSE_CODES.iter().zip(stats.closes).filter(|(_, n)| *n > 0).collect();
        assert_eq!(by_code, [(&4000, 1), (&0, 1)]);
    }
}
