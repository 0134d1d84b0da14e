//! A consumer with a handler, put together step by step.

use std::{io, time::Duration};

use tokio::runtime::Handle;

use crate::{
    backoff::BackoffPolicy,
    broker::BrokerConfig,
    consumer::{Consumer, ConsumerConfig, ConsumerHandle},
    handler::Handler,
    handling,
    stop::StopSignal,
    topology::Topology,
};

/// What a consumer with a handler is made from; [`Consumer::builder`] has the defaults. For everything that has no
/// method here: [`ConsumerBuilder::from`] a [`ConsumerConfig`].
#[derive(Debug, Clone)]
#[must_use = "nothing is consumed before a handler is given"]
pub struct ConsumerBuilder {
    config: ConsumerConfig,
    concurrency: u16,
    runtime: Option<Handle>,
}

impl From<ConsumerConfig> for ConsumerBuilder {
    fn from(config: ConsumerConfig) -> Self {
        Self { config, concurrency: 1, runtime: None }
    }
}

impl Consumer {
    /// Begins to put a consumer together; [`ConsumerBuilder::handle`] starts it.
    pub fn builder(broker: BrokerConfig, topology: Topology) -> ConsumerBuilder {
        ConsumerConfig::new(broker, topology).into()
    }
}

impl ConsumerBuilder {
    /// At most this many deliveries are unsettled at a time, in work or waiting for it (default 200, at least 1).
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.config = self.config.with_prefetch(prefetch);
        self
    }

    /// At most this many messages are in work at a time (default 1: each is finished before the next is begun; at most
    /// the prefetch).
    pub fn concurrency(mut self, concurrency: u16) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Where the handler runs (default: the runtime in which [`ConsumerBuilder::handle`] is called).
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The waits between attempts (default 100 ms, doubled up to 30 s).
    pub fn backoff(mut self, backoff: BackoffPolicy) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// How long a stop or halt waits for what is in work (default 5 s).
    pub fn stop_timeout(mut self, stop_timeout: Duration) -> Self {
        self.config.stop_timeout = stop_timeout;
        self
    }

    /// Whether the consumer ends when the broker cancels it (default false: it declares its queue again).
    pub fn stop_on_cancel(mut self, stop_on_cancel: bool) -> Self {
        self.config.stop_on_cancel = stop_on_cancel;
        self
    }

    /// Starts the consumer, with this handler. It connects in its own time: see [`ConsumerHandle::status`].
    ///
    /// # Errors
    /// - [`io::ErrorKind::InvalidInput`]: the prefetch is 0, the concurrency is not from 1 to the prefetch, or the
    ///   topology has a [`TopologyError`](crate::TopologyError); correct what the text names.
    /// - [`io::ErrorKind::NotConnected`]: there is no runtime here and none was given.
    /// - any other: the operating system gave no thread or no event queue.
    pub fn handle(self, handler: impl Handler) -> io::Result<ConsumerHandle> {
        let Self { config, concurrency, runtime } = self;
        if !(1..=config.prefetch).contains(&concurrency) {
            let problem =
                format!("concurrency is {concurrency}, expected 1 to the prefetch of {}", config.prefetch);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let runtime = match runtime {
            Some(runtime) => runtime,
            None => {
                Handle::try_current().map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?
            }
        };
        let (stop, listener) = StopSignal::new();
        let dispatch = handling::begin(handler, concurrency, &runtime, stop.clone());
        Consumer::spawn_stopped_by((stop, listener), config, dispatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BrokerUrl, Delivery, Outcome, StopReason, instance_queue};

    fn builder() -> ConsumerBuilder {
        // Nobody listens there.
        let broker = BrokerConfig::new(BrokerUrl::parse("amqp://127.0.0.1:1/%2f").unwrap(), "test");
        Consumer::builder(broker, Topology::new("e", instance_queue("e", "i").unwrap()))
    }

    #[tokio::test]
    async fn a_concurrency_beyond_the_prefetch_is_refused() {
        for (prefetch, concurrency) in [(10, 0), (10, 11), (0, 1)] {
            let builder = builder().prefetch(prefetch).concurrency(concurrency);
            let error = builder.handle(async |_: Delivery| Outcome::Ack).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        }
    }

    #[test]
    fn without_a_runtime_there_is_an_error_and_no_panic() {
        let error = builder().handle(async |_: Delivery| Outcome::Ack).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
    }

    #[test]
    fn a_consumer_ends_with_the_runtime_of_its_handler() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let handle = builder().runtime(runtime.handle().clone()).handle(async |_: Delivery| Outcome::Ack);
        runtime.shutdown_background();
        let waits = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let stopped = waits.block_on(handle.unwrap().join());
        assert_eq!((stopped.reason, stopped.exit_code()), (StopReason::RuntimeGone, 70));
    }
}
