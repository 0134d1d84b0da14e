//! The two ways to a client.

use crate::Frame;

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Newline-delimited JSON.
    Tcp,
    /// One object per WebSocket message.
    WebSocket,
}

impl Transport {
    /// Both, in the order in which metrics list them.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::WebSocket];

    /// The label in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WebSocket => "websocket",
        }
    }

    /// The bytes of `frame` that a client on this transport gets.
    pub fn bytes(self, frame: &Frame) -> &[u8] {
        match self {
            Self::Tcp => frame.line(),
            Self::WebSocket => frame.websocket(),
        }
    }
}
