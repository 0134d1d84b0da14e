//! OpenTelemetry: one span for each message that asks for it with a sampled `traceparent`, from the broker's delivery to
//! the last socket write.
//!
//! ```text
//! delivery → OpenSpan → frame (last write) → Ended → queue (bounded) → Span → batch → collector
//! ```
//!
//! On the way of a delivery nothing waits: a span that finds the queue full is dropped and counted. The feature `otel` of
//! this crate builds it in; without it the same names are there, and nothing behind them.

mod counts;
pub use self::counts::SpanCounts;

#[cfg(not(feature = "otel"))]
mod absent;
#[cfg(not(feature = "otel"))]
pub use self::absent::{OpenSpan, SpanDesk, Spans};

#[cfg(feature = "otel")]
mod collector;
#[cfg(feature = "otel")]
mod context;
#[cfg(feature = "otel")]
mod desk;
#[cfg(feature = "otel")]
mod export;
#[cfg(feature = "otel")]
mod span;
#[cfg(all(test, feature = "otel"))]
mod tests;
#[cfg(feature = "otel")]
pub use self::{
    desk::{OpenSpan, SpanDesk},
    export::Spans,
};
