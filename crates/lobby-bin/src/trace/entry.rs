//! One slot of the ring: what was decided about one delivery, in a fixed size.

use std::{fmt::Write as _, time::Instant};

use notify_amqp::Delivery;
use notify_protocol::{DropReason, HeaderValue, USER_ID_HEADER, UserId};

use super::short_text::ShortText;

/// What dispatch decided.
#[derive(Debug, Clone, Copy)]
pub enum Decided<'a> {
    User(UserId),
    Everyone,
    Channel,
    Dropped(&'a DropReason),
}

/// Whom a recorded delivery was for, or why it was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    User(UserId),
    Everyone,
    Channel,
    /// With the reason's label.
    Dropped(&'static str),
}

/// One slot, written in place.
#[derive(Debug, Clone)]
pub struct Entry {
    pub serial: u64,
    pub received_at: Instant,
    pub verdict: Verdict,
    pub redelivered: bool,
    pub body_bytes: usize,
    pub message_id: ShortText<40>,
    pub routing_key: ShortText<32>,
    /// All but a `user-id` that is an integer: the verdict has that.
    pub headers: ShortText<112>,
    /// Why it was dropped, in words.
    pub detail: ShortText<112>,
}

impl Entry {
    pub fn empty(now: Instant) -> Self {
        Self {
            serial: 0,
            received_at: now,
            verdict: Verdict::Everyone,
            redelivered: false,
            body_bytes: 0,
            message_id: ShortText::default(),
            routing_key: ShortText::default(),
            headers: ShortText::default(),
            detail: ShortText::default(),
        }
    }

    /// Overwrites the slot without an allocation.
    pub fn write(&mut self, serial: u64, delivery: &Delivery, decided: Decided<'_>) {
        self.serial = serial;
        self.received_at = delivery.received_at();
        self.redelivered = delivery.redelivered();
        self.body_bytes = delivery.body().len();
        self.message_id.set(delivery.message_id().unwrap_or_default().as_bytes());
        self.routing_key.set(delivery.routing_key().as_bytes());
        self.headers.clear();
        for (name, value) in delivery.headers() {
            if name == USER_ID_HEADER.as_bytes() && matches!(value, HeaderValue::Int(_)) {
                continue;
            }
            if !self.headers.is_empty() {
                self.headers.append(b", ");
            }
            self.headers.append(name);
            // Writing into a place of fixed size cannot fail.
            let _ = write!(self.headers, ": {value}");
        }
        self.detail.clear();
        self.verdict = match decided {
            Decided::User(user) => Verdict::User(user),
            Decided::Everyone => Verdict::Everyone,
            Decided::Channel => Verdict::Channel,
            Decided::Dropped(reason) => {
                let _ = write!(self.detail, "{reason}");
                Verdict::Dropped(reason.as_str())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_takes_no_more_than_the_documentation_says() {
        assert!(size_of::<Entry>() <= 384, "{} bytes", size_of::<Entry>());
    }
}
