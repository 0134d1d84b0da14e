//! What notify-amqp promises, against a real RabbitMQ.
//!
//! Environment: `AMQP_URL`, and `LOBBY_TEST_MANAGEMENT_URL` (`http://user:password@host:port`) for the tests
//! that act as the broker's operator; `LOBBY_TEST_TLS_PORT` and `LOBBY_TEST_TLS_DIR` for those in `tls`, which
//! `cargo xtask test` leaves out where the broker has no such listener. Every test has its own exchange and queue, deleted at its end.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "broker/connecting.rs"]
mod connecting;
#[path = "broker/consuming.rs"]
mod consuming;
#[path = "broker/dead_letters.rs"]
mod dead_letters;
#[path = "broker/handling.rs"]
mod handling;
#[path = "broker/management.rs"]
mod management;
#[path = "broker/modes.rs"]
mod modes;
#[path = "broker/poison.rs"]
mod poison;
#[path = "broker/proxy.rs"]
mod proxy;
#[path = "broker/publishing.rs"]
mod publishing;
#[path = "broker/publishing_in_trouble.rs"]
mod publishing_in_trouble;
#[path = "broker/raw.rs"]
mod raw;
#[path = "broker/receipts.rs"]
mod receipts;
#[path = "broker/recovery.rs"]
mod recovery;
#[path = "broker/refusals.rs"]
mod refusals;
#[path = "broker/rig.rs"]
mod rig;
#[path = "broker/rolling.rs"]
mod rolling;
#[path = "broker/self_check.rs"]
mod self_check;
#[path = "broker/stopping.rs"]
mod stopping;
#[path = "broker/swallowing.rs"]
mod swallowing;
#[path = "broker/tls.rs"]
mod tls;
