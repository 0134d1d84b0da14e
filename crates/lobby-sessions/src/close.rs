//! Why the lobby ends a connection, and what the client should do about it (`CLIENT_PROTOCOL`, close codes).

/// The reason for which the lobby closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed first, in good order.
    Bye,
    /// The lobby restarts.
    Restart,
    /// A limit on connections is reached.
    TryLater,
    /// The outbox is full: the client does not keep up.
    TooSlow,
    /// Two pings stayed unanswered.
    PingTimeout,
    /// The token expired, and the configuration says to close then.
    TokenExpired,
    /// The login took longer than `login_timeout`.
    LoginTimeout,
    /// Three tokens that did not verify.
    AuthenticationFailed,
    /// The same user logged in elsewhere.
    Replaced,
    /// The same user is logged in already, and `duplicate_login = "reject"`.
    AlreadyLoggedIn,
    /// An operator ended the session.
    Kicked,
    /// Not JSON, not an object, no `command`, or a command before login.
    Protocol(&'static str),
    /// A WebSocket frame that RFC 6455 does not allow.
    WebSocketProtocol(&'static str),
    /// More commands than a client may send.
    TooTalkative,
    /// An inbound message over the limit.
    TooBig,
    /// An inbound message that is not UTF-8.
    NotUtf8,
}

impl CloseReason {
    /// The code in the `closing` line and in the WebSocket close frame.
    pub const fn code(self) -> u16 {
        match self {
            Self::Bye => 1000,
            Self::WebSocketProtocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooTalkative => 1008,
            Self::TooBig => 1009,
            Self::Restart => 1012,
            Self::TryLater => 1013,
            Self::TooSlow => 4000,
            Self::PingTimeout => 4001,
            Self::TokenExpired => 4002,
            Self::LoginTimeout => 4004,
            Self::AuthenticationFailed => 4500,
            Self::Replaced | Self::AlreadyLoggedIn => 4501,
            Self::Kicked => 4502,
            Self::Protocol(_) => 4503,
        }
    }

    /// The text for a person; fits a close frame's 123 bytes.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::Restart => "the lobby restarts",
            Self::TryLater => "a limit is reached, try later",
            Self::TooSlow => "too slow: the outbox is full",
            Self::PingTimeout => "no answer to pings",
            Self::TokenExpired => "the token expired",
            Self::LoginTimeout => "login took too long",
            Self::AuthenticationFailed => "authentication failed",
            Self::Replaced => "the same user logged in elsewhere",
            Self::AlreadyLoggedIn => "the same user is logged in already",
            Self::Kicked => "kicked by an operator",
            Self::Protocol(text) | Self::WebSocketProtocol(text) => text,
            Self::TooTalkative => "too many commands",
            Self::TooBig => "the message is too big",
            Self::NotUtf8 => "the message is not UTF-8",
        }
    }

    /// Whether the client should come back by itself.
    pub const fn reconnect(self) -> bool {
        matches!(self.code(), 1001 | 1012 | 1013 | 4000..=4499)
    }

    /// How many milliseconds the client should wait before it comes back; spread so that many clients that were
    /// closed together do not return together. `None` where it should not come back.
    pub fn retry_after_ms(self, spread_ms: u64, random: u64) -> Option<u64> {
        self.reconnect().then(|| 100 + random % spread_ms.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_says_whether_to_reconnect_as_the_client_protocol_does() {
        use CloseReason::*;
        let again = [Restart, TryLater, TooSlow, PingTimeout, TokenExpired, LoginTimeout];
        let stay_away = [
            Bye,
            AuthenticationFailed,
            Replaced,
            AlreadyLoggedIn,
            Kicked,
            Protocol("x"),
            WebSocketProtocol("x"),
            TooTalkative,
            TooBig,
            NotUtf8,
        ];
        assert!(again.into_iter().all(CloseReason::reconnect));
        assert!(!stay_away.into_iter().any(CloseReason::reconnect));
    }

    #[test]
    fn the_wait_before_a_return_is_spread_and_never_zero() {
        let waits: Vec<_> = (0..50).map(|r| CloseReason::Restart.retry_after_ms(1000, r * 37)).collect();
        assert!(waits.iter().all(|w| (100..1100).contains(&w.expect("a restart asks clients to return"))));
        assert!(waits.iter().collect::<std::collections::HashSet<_>>().len() > 20);
        assert_eq!(CloseReason::Replaced.retry_after_ms(1000, 1), None);
    }
}
