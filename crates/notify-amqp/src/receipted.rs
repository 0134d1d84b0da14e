//! Publishing a message and hearing what became of it on each lobby.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lapin::types::{AMQPValue, ShortString};
use notify_protocol::{Message, RECEIPT_HEADER, Receipt, ReceiptScope};
use tokio::time::{timeout, timeout_at};

use crate::{
    deadline,
    outgoing::Outgoing,
    properties::short,
    publish_error::{PublishError, PublishStage},
    publisher::{Published, Publisher},
    receipt_inbox::{ReceiptInbox, Waiting},
};

/// Which receipts to wait for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceiptWait {
    /// Which lobbies are asked.
    pub scope: ReceiptScope,
    /// So many receipts are enough; those that come later are not waited for.
    pub enough: usize,
    /// The longest wait, from the broker's confirm.
    pub within: Duration,
}

impl ReceiptWait {
    /// Until one lobby says that it wrote or dropped the message: right for a user who is connected once. Where the
    /// user is connected nowhere, the wait lasts for `within`.
    #[must_use]
    pub fn first(within: Duration) -> Self {
        Self { scope: ReceiptScope::WrittenOnly, enough: 1, within }
    }

    /// Until so many lobbies have answered, the user being there or not.
    #[must_use]
    pub fn lobbies(count: usize, within: Duration) -> Self {
        Self { scope: ReceiptScope::All, enough: count, within }
    }

    /// As long as it takes: nobody knows how many lobbies there are, and all that answer `within` the limit count.
    #[must_use]
    pub fn everyone(within: Duration) -> Self {
        Self { scope: ReceiptScope::All, enough: usize::MAX, within }
    }
}

/// A message that the broker confirmed, and what lobbies said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipted {
    /// What the broker said.
    pub published: Published,
    /// The lobbies' receipts, in the order in which they came. A missing one proves nothing: receipts are sent at
    /// most once, and a lobby that is too busy drops them.
    pub receipts: Vec<Receipt>,
    /// The reply queue was lost before the wait was over, with the connection: what lobbies answer does not come here
    /// any more.
    pub inbox_lost: bool,
}

/// A message that the broker confirmed, and whose receipts are still to be collected. Up to 1,024 of them wait here;
/// dropping it, or closing the publisher, ends that.
#[must_use = "receipts that nobody collects are dropped"]
pub struct Asked {
    /// What the broker said.
    pub published: Published,
    waiting: Waiting,
    confirmed_at: Instant,
}

impl Asked {
    /// Collects receipts until there are `enough`, or `within` is over since the broker's confirm. What has come by then
    /// is returned, however late this is called.
    pub async fn receipts(mut self, enough: usize, within: Duration) -> Receipted {
        let deadline = deadline::after(self.confirmed_at, within).into();
        let (mut receipts, mut inbox_lost) = (Vec::new(), false);
        while receipts.len() < enough {
            match timeout_at(deadline, self.waiting.receipts.recv()).await {
                Ok(Some(receipt)) => receipts.push(receipt),
                Ok(None) => {
                    inbox_lost = true;
                    break;
                }
                Err(_) => break,
            }
        }
        Receipted { published: self.published, receipts, inbox_lost }
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("published", &self.published).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Publishes `message` as [`Publisher::publish`] does, and collects the lobbies' receipts until there are enough
    /// or the time is up.
    ///
    /// The message's `reply-to` and its header `x-lobby-receipt` are set here, and its correlation id, unless it has
    /// one. Where it was delivered to a lobby twice, a lobby may answer twice. Where the connection is lost, the message is
    /// sent again, but the reply queue is gone: [`Receipted::inbox_lost`].
    ///
    /// ```no_run
    /// # async fn example(publisher: &notify_amqp::Publisher) -> Result<(), Box<dyn std::error::Error>> {
    /// use notify_amqp::ReceiptWait;
    /// use notify_protocol::{Notification, ReceiptOutcome};
    /// let message = Notification::to_user(42).raw_json(r#"{"command":"notice"}"#).build()?;
    /// let wait = ReceiptWait::first(std::time::Duration::from_secs(2));
    /// let answered = publisher.publish_with_receipt(&message, wait).await?;
    /// let written = answered.receipts.iter().any(|receipt| receipt.outcome == ReceiptOutcome::Written);
    /// # let _ = written;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Publisher::publish`]; and [`PublishError::Connection`] where the reply queue cannot be declared, with
    /// nothing published. Missing receipts are no error.
    pub async fn publish_with_receipt(
        &self,
        message: &Message,
        wait: ReceiptWait,
    ) -> Result<Receipted, PublishError> {
        Ok(self.publish_asking(message, wait.scope).await?.receipts(wait.enough, wait.within).await)
    }

    /// Publishes `message` as [`Publisher::publish_with_receipt`] does, and leaves the receipts for later: who publishes
    /// several in a row need not wait for the receipts of one before the next.
    ///
    /// The reply queue, which the first message that asks opens, and the message have `publish_timeout` together.
    ///
    /// ```no_run
    /// # async fn example(publisher: &notify_amqp::Publisher) -> Result<(), Box<dyn std::error::Error>> {
    /// use notify_protocol::{Notification, ReceiptScope};
    /// let first = Notification::to_user(42).raw_json(r#"{"n":1}"#).build()?;
    /// let second = Notification::to_user(42).raw_json(r#"{"n":2}"#).build()?;
    /// let first = publisher.publish_asking(&first, ReceiptScope::All).await?;
    /// let second = publisher.publish_asking(&second, ReceiptScope::All).await?;
    /// for asked in [first, second] {
    ///     println!("{:?}", asked.receipts(2, std::time::Duration::from_secs(1)).await.receipts);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Publisher::publish_with_receipt`].
    pub async fn publish_asking(
        &self,
        message: &Message,
        scope: ReceiptScope,
    ) -> Result<Asked, PublishError> {
        let (begin, after) = (Instant::now(), self.config().publish_timeout);
        let Ok(inbox) = timeout(after, self.receipt_inbox()).await else {
            let blocked = self.pool().is_blocked();
            let stage = if blocked { PublishStage::Blocked } else { PublishStage::Connecting };
            return Err(PublishError::TimedOut { after, stage });
        };
        let inbox = inbox?;
        let outgoing = self.outgoing(message)?.asking(inbox.queue(), scope)?;
        let waiting = inbox.wait_for(outgoing.id.clone());
        let published = self.send_one_within(Ok(outgoing), after.saturating_sub(begin.elapsed())).await?;
        Ok(Asked { published, waiting, confirmed_at: Instant::now() })
    }

    /// The open inbox, or a new one.
    async fn receipt_inbox(&self) -> Result<Arc<ReceiptInbox>, PublishError> {
        let mut slot = self.inbox_slot().lock().await;
        if let Some(inbox) = slot.as_ref().filter(|inbox| inbox.is_open()) {
            return Ok(inbox.clone());
        }
        *slot = None;
        let limit = self.config().broker.call_timeout;
        let channel = self.pool().plain_channel().await?;
        let inbox = Arc::new(ReceiptInbox::open(channel, limit).await?);
        *slot = Some(inbox.clone());
        Ok(inbox)
    }
}

impl Outgoing {
    /// The same, asking for receipts to `queue`.
    fn asking(mut self, queue: &ShortString, scope: ReceiptScope) -> Result<Self, PublishError> {
        let mut headers = self.properties.headers().clone().unwrap_or_default();
        headers.insert(RECEIPT_HEADER.into(), AMQPValue::LongString(scope.as_str().into()));
        let correlation_id = match self.properties.correlation_id() {
            Some(id) => id.clone(),
            None => short("message id", &self.id)?,
        };
        self.properties = std::mem::take(&mut self.properties)
            .with_headers(headers)
            .with_reply_to(queue.clone())
            .with_correlation_id(correlation_id);
        Ok(self)
    }
}
