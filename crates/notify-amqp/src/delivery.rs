//! One message as the broker delivered it. Its tag and its channel stay hidden: only a
//! [`Ticket`](crate::Ticket) settles it, and only once.

use std::{fmt, time::Instant};

/// One delivery: body, headers and the properties the lobby may want to log.
pub struct Delivery {
    inner: lapin::message::Delivery,
    received_at: Instant,
}

impl Delivery {
    pub(crate) fn new(inner: lapin::message::Delivery, received_at: Instant) -> Self {
        Self { inner, received_at }
    }

    /// A delivery for tests of a dispatch without a broker: no headers, no properties.
    #[must_use]
    pub fn detached(routing_key: &str, body: Vec<u8>) -> Self {
        let key = lapin::types::ShortString::try_new(routing_key).unwrap_or_default();
        let inner = lapin::message::Delivery::mock(1, "".into(), key, false, body);
        Self { inner, received_at: Instant::now() }
    }

    /// The publisher's bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.inner.data
    }

    /// The publisher's bytes, owned, without a copy.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.inner.data
    }

    /// Whether the broker delivered the message before: to this lobby or to an earlier one.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.inner.redelivered
    }

    /// When this process took the message from its connection.
    #[must_use]
    pub fn received_at(&self) -> Instant {
        self.received_at
    }

    /// The exchange that it was published to.
    #[must_use]
    pub fn exchange(&self) -> &str {
        self.inner.exchange.as_str()
    }

    /// The routing key that it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        self.inner.routing_key.as_str()
    }

    /// The property `message_id`.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.inner.properties.message_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// The property `correlation_id`.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.inner.properties.correlation_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// The property `app_id`.
    #[must_use]
    pub fn app_id(&self) -> Option<&str> {
        self.inner.properties.app_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// The property `timestamp`, in seconds since 1970 if the publisher keeps to the specification; any
    /// 64-bit number arrives.
    #[must_use]
    pub fn timestamp(&self) -> Option<u64> {
        *self.inner.properties.timestamp()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("redelivered", &self.redelivered())
            .field("bytes", &self.body().len())
            .finish_non_exhaustive()
    }
}
