//! What the lobby needs on the broker: planned, compared with what is there, made.
//!
//! Pure: a configuration becomes a [`Plan`]; plan and [`Observed`] become [`Finding`]s, and steps to take. The
//! management API is in `management`, the commands in `commands/topology.rs`.

mod comparison;
mod observed;
mod permission;
mod plan;
mod step;

pub use self::{
    comparison::{Finding, Severity, compare},
    observed::Observed,
    plan::Plan,
    step::{Apply, segment, steps},
};
