//! Fuzz targets: what no bytes may do to the lobby, each held against a model that is written differently; and
//! concurrency that is written by hand, in every order of its steps ([`interleavings`]).
//!
//! A target is a function of bytes that panics when a promise is broken. libFuzzer drives it (`cargo xtask fuzz`), and
//! plain `cargo test` replays `corpus/` and mutations of it, so that CI needs neither libFuzzer nor minutes.
//!
//! What stands between a socket and a decision is private in its crate, and one of the crates is a program. The files
//! are therefore included here as they are, and not through an interface that would exist for this alone.

// `cargo clippy --all-targets` compiles a library for its unit tests although there are none: the included files have some.
#![cfg(not(test))]

pub mod body;
pub mod codec;
pub mod delivery_stream;
pub mod headers;
pub mod interleavings;
pub mod json;
pub mod proxy_header;
pub mod split;
pub mod token;
pub mod upgrade_request;
pub mod wire_table;

/// Panics when the bytes break a promise.
pub type Target = fn(&[u8]);

/// All targets by name: the names of programs in `fuzz_targets/` and of directories in `corpus/`.
pub const TARGETS: [(&str, Target); 8] = [
    ("body", body::run),
    ("delivery", delivery_stream::run),
    ("headers", headers::run),
    ("line", codec::line),
    ("proxy_header", proxy_header::run),
    ("token", token::run),
    ("upgrade", upgrade_request::run),
    ("websocket", codec::websocket),
];

// The real files. Paths inside of them begin at this crate's root, so they stand here.
macro_rules! included {
    ($($name:ident = $path:literal,)*) => {$(
        #[allow(dead_code, unreachable_pub, missing_docs, rustdoc::all, reason = "a file of another crate, of which a part is used")]
        #[path = $path]
        mod $name;
    )*};
}

included! {
    delivery = "../../crates/notify-amqp/src/delivery.rs",
    delivery_tap = "../../crates/notify-amqp/src/delivery_tap.rs",
    broker_version = "../../crates/notify-amqp/src/broker_version.rs",
    frame_filter = "../../crates/notify-amqp/src/frame_filter.rs",
    repair = "../../crates/notify-amqp/src/repair.rs",
    outcome = "../../crates/notify-amqp/src/outcome.rs",
    queue_options = "../../crates/notify-amqp/src/queue_options.rs",
    settlement = "../../crates/notify-amqp/src/settlement.rs",
    stats = "../../crates/notify-amqp/src/stats.rs",
    window = "../../crates/notify-amqp/src/window.rs",
    inbox = "../../crates/lobby-sessions/src/inbox.rs",
    proxies = "../../crates/lobby-bin/src/proxies.rs",
    upgrade = "../../crates/lobby-bin/src/upgrade.rs",
}

mod config;
mod login;
mod status;
mod stop;
mod sync;
