//! RabbitMQ's management API, as far as the topology tools need it.

mod client;
mod error;
mod observe;

pub use self::{client::Management, error::ManagementError, observe::observe};
