//! RabbitMQ for the lobby: a consumer that survives whatever the broker does, and a pooled publisher.
//!
//! The only crate that names lapin. Two halves that share nothing but the configuration:
//!
//! - [`Consumer`] keeps one queue consumed from a thread of its own. What is done with a [`Delivery`] is a
//!   [`Handler`], an async function whose [`Outcome`] settles it, or a [`Dispatch`], which is handed a [`Ticket`] on the
//!   consumer's thread and settles when it likes: dropping the ticket acks. The handler is built on the dispatch.
//! - [`Publisher`] publishes [`notify_protocol`] messages and waits for the broker's confirm.
//!
//! ```no_run
//! use notify_amqp::{BrokerConfig, BrokerUrl, Consumer, Delivery, Outcome, Topology, instance_queue};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = BrokerConfig::new(BrokerUrl::parse("amqp://guest:guest@localhost/%2f")?, "my-service pod-7");
//! let topology = Topology::new("faf-lobby", instance_queue("faf-lobby", "pod-7")?);
//! let consumer = Consumer::builder(broker, topology).concurrency(4).handle(async |delivery: Delivery| {
//!     match delivery.body() {
//!         b"" => Outcome::Reject,
//!         body => {
//!             println!("{} bytes by {}", body.len(), delivery.routing_key());
//!             Outcome::Ack
//!         }
//!     }
//! })?;
//! consumer.status().wait_for(|status| status.is_consuming()).await?;
//! consumer.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! The same with a dispatch, as the lobby does it:
//!
//! ```no_run
//! # use notify_amqp::{Consumer, ConsumerConfig, Delivery, Outcome, Ticket};
//! # fn example(config: ConsumerConfig) -> std::io::Result<()> {
//! let consumer = Consumer::spawn(config, |delivery: Delivery, ticket: Ticket| {
//!     if delivery.body().is_empty() {
//!         return ticket.settle(Outcome::Reject);
//!     }
//!     println!("{} bytes", delivery.body().len());
//!     drop(ticket); // acks; or keep a clone until the work is done, on whatever thread
//! })?;
//! # drop(consumer);
//! # Ok(())
//! # }
//! ```
//!
//! # The way of a delivery
//!
//! `wire` (socket) → `frame_filter` → `delivery_tap` → `intake` → `pump` → the dispatch, all on one thread, and
//! back: last clone of the ticket → `settlement` → `window` → `pump` → lapin → one `basic.ack` or `basic.nack` for a run
//! of neighbours. In front of a handler stands `handling`, a dispatch that feeds the handler's task. What is not a
//! delivery goes from the tap to lapin (`stream`). Around it, `supervisor` makes `connection`, `channel` and
//! topology anew after every failure and waits in between (`backoff`).
//!
//! With a self-check ([`SelfCheckConfig`]) the `patrol` walks beside each connection: it publishes canaries (`canary`,
//! on a `canary_line` of their own), the pump takes them out before the dispatch, and `hearing` makes of both whether
//! the consumer hears.
//!
//! # What is promised
//!
//! - A delivery is settled once, only after its last ticket was dropped, and never on another channel than its own.
//! - What was requeued comes again once; the second time it is rejected, unless a quorum queue counts.
//! - What was not acked comes again, marked as redelivered: at most the prefetch per lost connection.
//! - No message stops the consumer: what lapin's parser cannot read is repaired or replaced before it.
//! - No call to the broker is without a time limit; a silent broker is given up after two heartbeats.
//! - At most `prefetch` deliveries are in memory.
//! - With a self-check: a consumer that looks connected and hears nothing says so, and connects again.
//!
//! # TLS and logs
//!
//! `amqps` URLs mean TLS, with the system's root certificates unless [`TlsOptions`] say otherwise; the filter sits
//! above TLS, so the promises hold there too.
//! Failures are logged here, once each, with what to do about them. lapin logs them too, in its own words, and
//! the bodies of returned messages: switch its target off (`lapin=off`).

mod backoff;
mod broker;
mod broker_url;
mod broker_version;
mod builder;
mod canary;
mod canary_line;
mod channel;
mod channel_pool;
mod connection;
mod consumer;
mod credentials;
mod dead_letter;
mod deadline;
mod delivery;
mod delivery_tap;
mod dial;
mod difference;
mod error;
mod field;
mod frame_filter;
mod guarded_dispatch;
mod handler;
mod handling;
mod hearing;
mod host;
mod intake;
mod observer;
mod outcome;
mod outgoing;
mod panic_log;
mod patrol;
mod pipeline;
mod properties;
mod publish_error;
mod publisher;
mod publisher_stats;
mod pump;
mod queue_name;
mod queue_options;
mod raw_message;
mod receipt_inbox;
mod receipted;
mod repair;
mod reply;
mod returns;
mod self_check;
mod settlement;
mod slot;
mod stats;
mod status;
mod stop;
mod stream;
mod supervisor;
mod sync;
mod tls;
mod tls_problem;
mod topology;
mod watched_stream;
mod window;
mod wire;

pub use backoff::{Backoff, BackoffPolicy};
pub use broker::{BrokerConfig, UNVERIFIED};
pub use broker_url::{BrokerUrl, BrokerUrlError};
pub use builder::ConsumerBuilder;
pub use canary::canary_key;
pub use consumer::{Consumer, ConsumerConfig, ConsumerHandle, Dispatch};
pub use credentials::{CredentialError, CredentialProblem, CredentialSource, Login};
pub use dead_letter::{
    DeadLetter, DeadLetterConfig, DeadLetterFigures, DeadLetterQueue, DeadLetterQueueError, DeadLetterStats,
    DeadLetterTopology, DeadLetters, DeadLettersHandle, HandedOver, Replayed,
};
pub use delivery::Delivery;
pub use difference::Difference;
pub use error::ConsumerError;
pub use field::{Field, NamedField};
pub use handler::Handler;
pub use hearing::{Hindrance, SelfCheckVerdict};
pub use host::{Host, HostError};
pub use observer::{PublishObserver, Publishing};
pub use outcome::Outcome;
pub use publish_error::{PublishError, PublishStage};
pub use publisher::{PublishAll, Published, Publisher, PublisherConfig};
pub use publisher_stats::PublisherStats;
pub use queue_name::{MAX_QUEUE_NAME_BYTES, QueueName, QueueNameError, instance_queue, shared_queue};
pub use queue_options::{
    Argument, Lifetime, Overflow, QueueMode, QueueOptions, QueueOptionsError, QueueType,
};
pub use raw_message::{RawMessage, RawProperties};
pub use receipted::{Asked, ReceiptWait, Receipted};
pub use reply::Reply;
pub use self_check::{SelfCheck, SelfCheckConfig, SelfCheckError, SelfCheckFault};
pub use settlement::Ticket;
pub use stats::{ConsumerStats, Count};
pub use status::{ConsumerFailure, ConsumerStatus, StopReason, Stopped};
pub use tls::{TlsOptions, TlsSetupError};
pub use tls_problem::TlsProblem;
pub use topology::{Binding, Declare, Topology, TopologyError};
