//! Stands in for the consumer's status, of which a settlement names this.

/// Why a consumer stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// A handler said so.
    Halted {
        /// The exit code.
        code: u8,
    },
}
