//! What a publisher counted, readable at any time.

use crate::{publish_error::PublishError, publisher::Published, stats::Count};

/// Counters of all clones of one publisher: each message in exactly one of the outcomes.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct PublisherStats {
    /// Messages that the broker confirmed.
    pub published: Count,
    /// Messages that no queue took.
    pub unroutable: Count,
    /// Messages that the broker did not take.
    pub nacked: Count,
    /// Messages whose time was up.
    pub timed_out: Count,
    /// Messages that failed in any other way.
    pub failed: Count,
    /// Times that a message was sent again, with the same id.
    pub resent: Count,
}

impl PublisherStats {
    pub(crate) fn count(&self, outcome: &Result<Published, PublishError>) {
        let counter = match outcome {
            Ok(_) => &self.published,
            Err(PublishError::Unroutable { .. }) => &self.unroutable,
            Err(PublishError::Nacked) => &self.nacked,
            Err(PublishError::TimedOut { .. }) => &self.timed_out,
            Err(
                PublishError::ExchangeMissing { .. }
                | PublishError::AccessRefused { .. }
                | PublishError::Refused { .. }
                | PublishError::Connection(_)
                | PublishError::NameTooLong { .. }
                | PublishError::NotFinite
                | PublishError::NameNotUtf8
                | PublishError::Closed
                | PublishError::NoRuntime,
            ) => &self.failed,
        };
        counter.add(1);
    }
}
