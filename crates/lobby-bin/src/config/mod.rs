//! Configuration: defaults < TOML file < environment < flags. A key that nobody knows stops the start.

mod broker;
mod changes;
mod consumer;
mod dead_letter;
mod drain;
mod expand;
mod fields;
mod file;
mod load;
mod otel;
mod print;
mod queue;
mod secret_file;
mod self_check;
mod sessions;
mod settings;
mod text;
mod value;

pub use broker::connection;
pub use changes::{Change, changes};
pub use consumer::consumer;
pub use dead_letter::{dead_letter_topology, dead_letters};
pub use drain::{DrainTimes, drain_times};
pub use fields::Config;
pub use load::{ConfigError, Loaded, Sources, load};
#[cfg(feature = "otel")]
pub use otel::{OtelFields, otel_headers};
pub use print::{default_file, effective, effective_json, markdown_table};
pub use queue::topology;
pub use self_check::self_check;
pub use sessions::sessions;

pub use value::{Address, ByteSize, LogFormat, Secret, parse_duration, without_login};
