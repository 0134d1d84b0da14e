//! RabbitMQ for the lobby: a consumer that survives whatever the broker does, and a pooled publisher.
//!
//! The only crate that names lapin. Two halves that share nothing but the configuration:
//!
//! - [`Consumer`] keeps one queue consumed from a thread of its own. Each [`Delivery`] goes to a
//!   [`Dispatch`] together with a [`Ticket`]; dropping the ticket acks the delivery, in batches.
//! - [`Publisher`] publishes [`notify_protocol`] messages and waits for the broker's confirm.

mod backoff;
mod broker;
mod broker_url;
mod channel;
mod channel_pool;
mod connection;
mod consumer;
mod delivery;
mod error;
mod frame_filter;
mod properties;
mod publish_error;
mod publisher;
mod pump;
mod queue_name;
mod repair;
mod settlement;
mod stats;
mod status;
mod stream;
mod supervisor;
mod topology;
mod watched_stream;
mod window;

pub use backoff::{Backoff, BackoffPolicy};
pub use broker::BrokerConfig;
pub use broker_url::{BrokerUrl, BrokerUrlError};
pub use consumer::{Consumer, ConsumerConfig, ConsumerHandle, Dispatch};
pub use delivery::Delivery;
pub use error::ConsumerError;
pub use publish_error::{PublishError, PublishStage};
pub use publisher::{Published, Publisher, PublisherConfig};
pub use queue_name::{MAX_QUEUE_NAME_BYTES, QueueName, QueueNameError, instance_queue};
pub use settlement::Ticket;
pub use stats::{ConsumerStats, Count};
pub use status::{ConsumerStatus, Stopped};
pub use topology::Topology;
