//! The self-check that the keys of `self_check` amount to.
//!
//! Pure.

use std::time::Duration;

use notify_amqp::{QueueOptions, SelfCheckConfig, SelfCheckError};

use super::{fields::Config, load::ConfigError};

/// The keys as they were written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelfCheckFields {
    /// `None`: off.
    pub interval: Option<Duration>,
    pub max_age: Duration,
}

/// The self-check for a queue; `None` where it is off, or where lobbies share the queue and one would take the
/// canaries of another.
///
/// # Errors
/// Times that make no sense together.
pub fn self_check(config: &Config, queue: &QueueOptions) -> Result<Option<SelfCheckConfig>, ConfigError> {
    let SelfCheckFields { interval: Some(interval), max_age } = config.self_check else { return Ok(None) };
    let mut check = SelfCheckConfig::default();
    (check.interval, check.max_age) = (interval, max_age);
    match check.check(queue) {
        Ok(()) => Ok(Some(check)),
        Err(SelfCheckError::SharedQueue) => Ok(None),
        Err(error) => Err(ConfigError::Conflict(format!("`self_check.max_age`: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use notify_amqp::QueueMode;

    use super::*;
    use crate::config::{Sources, load};

    fn checked(flags: &[&str], mode: QueueMode) -> Result<Option<Duration>, String> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let config = load(&Sources { file: None, environment: BTreeMap::new(), flags })
            .map_err(|e| e.to_string())?
            .config;
        let check = self_check(&config, &QueueOptions::new(mode, true)).map_err(|e| e.to_string())?;
        Ok(check.map(|check| check.max_age))
    }

    #[test]
    fn what_looks_connected_and_is_deaf_is_seen_within_15_seconds_by_default() {
        let defaults =
            load(&Sources { file: None, environment: BTreeMap::new(), flags: Vec::new() }).expect("accepted");
        let SelfCheckFields { interval, max_age } = defaults.config.self_check;
        // What was heard a moment after one canary is noticed with the next.
        assert!(interval.expect("on") + max_age < Duration::from_secs(15));
    }

    #[test]
    fn k03_it_is_off_by_word_and_where_lobbies_share_a_queue() {
        let default = Ok(Some(Duration::from_secs(10)));
        assert_eq!(checked(&[], QueueMode::PerInstance), default);
        assert_eq!(checked(&[], QueueMode::Singleton), default);
        assert_eq!(checked(&[], QueueMode::Shared), Ok(None));
        assert_eq!(checked(&["self_check.interval=off"], QueueMode::PerInstance), Ok(None));
    }

    #[test]
    fn times_that_would_always_find_it_deaf_are_refused() {
        for (flags, says) in [
            (vec!["self_check.interval=6s"], "self_check.max_age"),
            (vec!["self_check.max_age=5s"], "at least twice"),
            (vec!["self_check.interval=0s"], "from 100ms"),
            (vec!["self_check.interval=never"], "off"),
        ] {
            let error = checked(&flags, QueueMode::PerInstance).expect_err(says);
            assert!(error.contains(says), "{flags:?}: {error}");
        }
    }
}
