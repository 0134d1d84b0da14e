//! A RabbitMQ for one run.
pub(crate) mod guard;
