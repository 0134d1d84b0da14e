//! Tells the operator, once, how to get a broker when there is none.

use notify_amqp::{BrokerUrl, ConsumerStatus};
use tokio::sync::watch;
use tracing::warn;

/// Ends with the consumer, or once it has consumed or been explained.
pub async fn explain_missing_broker(mut status: watch::Receiver<ConsumerStatus>, url: BrokerUrl) {
    loop {
        match &*status.borrow_and_update() {
            ConsumerStatus::Consuming { .. } | ConsumerStatus::Stopped => return,
            ConsumerStatus::Waiting { error, hint, .. } => {
                warn!(
                    broker = %url, %error, hint,
                    "no broker yet: clients are served and connecting goes on. To get a broker, run \
                     `cargo xtask run` or `docker compose up -d rabbitmq`"
                );
                return;
            }
            _ => {}
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}
