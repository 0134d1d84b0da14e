//! The limits of the sessions that the keys of `sessions` and a few others amount to.

use std::time::Duration;

use lobby_sessions::SessionsConfig;

use super::fields::Config;

/// A session that is being closed has this long to read its last words.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// What [`Sessions`](lobby_sessions::Sessions) keep.
pub fn sessions(config: &Config) -> SessionsConfig {
    let defaults = SessionsConfig::default();
    SessionsConfig {
        shards: if config.shards == 0 { defaults.shards } else { config.shards },
        outbox_bytes: config.outbox.0,
        outbox_total_bytes: config.outbox_total.0,
        overflow: config.overflow,
        write_timeout: config.write_timeout,
        ping_interval: config.ping_interval,
        max_inbound_bytes: config.max_inbound.0,
        command_rate: config.command_rate(),
        close_grace: CLOSE_GRACE,
        retry_spread_ms: u64::try_from(config.retry_spread.as_millis()).unwrap_or(u64::MAX),
        duplicate_login: config.duplicate_login(),
        close_on_expiry: config.close_on_expiry,
        frame: config.frame,
        inbox_capacity: usize::from(config.prefetch) + defaults.inbox_capacity,
        reach_entries: config.trace_decisions,
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use lobby_sessions::{DuplicateLogin, Rate};

    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn each_limit_of_a_session_reaches_the_sessions() {
        let flags = [
            "broker.prefetch=7",
            "sessions.outbox_bytes=11KiB",
            "sessions.outbox_total_bytes=13MiB",
            "sessions.write_timeout=17s",
            "sessions.ping_interval=19s",
            "sessions.max_inbound_bytes=23KiB",
            "sessions.max_commands_per_second=29",
            "sessions.command_burst=31",
            "sessions.duplicate_login=allow",
            "sessions.max_per_user=37",
            "trace.decisions=41",
        ];
        let flags = flags.map(str::to_owned).into();
        let config = load(&Sources { flags, ..Sources::default() }).expect("accepted").config;
        let limits = sessions(&config);
        assert_eq!((limits.outbox_bytes, limits.outbox_total_bytes), (11 << 10, 13 << 20));
        let second = Duration::from_secs(1);
        assert_eq!((limits.write_timeout, limits.ping_interval), (17 * second, 19 * second));
        assert_eq!(limits.max_inbound_bytes, 23 << 10);
        assert_eq!(limits.command_rate, Rate::new(29, 31));
        assert_eq!(limits.duplicate_login, DuplicateLogin::Allow { max: 37 });
        assert_eq!(limits.reach_entries, 41);
        // What the broker sends ahead fits, and no more than one burst beside it.
        assert_eq!(limits.inbox_capacity, 7 + SessionsConfig::default().inbox_capacity);
        assert_eq!((limits.close_grace, limits.max_unanswered_pings), (2 * second, 2));
    }
}
