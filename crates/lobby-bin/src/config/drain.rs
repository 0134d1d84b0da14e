//! The times of a drain that the keys of `shutdown` amount to.

use std::time::Duration;

use super::{fields::Config, load::ConfigError};

/// What a drain keeps for the steps after the last session, out of its limit; half of a limit that is shorter than
/// two.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// How long a drain may take, and over how much of it clients are told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainTimes {
    /// `shutdown.drain_timeout`.
    pub limit: Duration,
    /// `shutdown.drain_window`, else half of the limit.
    pub window: Duration,
}

impl DrainTimes {
    /// How long sessions may be there.
    pub fn reading(self) -> Duration {
        self.limit - LAST_STEPS.min(self.limit / 2)
    }
}

/// The times of a drain.
///
/// # Errors
/// A window that the limit leaves no room for.
pub fn drain_times(config: &Config) -> Result<DrainTimes, ConfigError> {
    let limit = config.drain_timeout;
    let times = DrainTimes { limit, window: config.drain_window.unwrap_or(limit / 2) };
    if times.window > times.reading() {
        let show = humantime::format_duration;
        return Err(ConfigError::Conflict(format!(
            "`shutdown.drain_window` = {} does not fit into `shutdown.drain_timeout` = {}, which keeps {} for the last \
             messages: take a window of at most {}, or a longer time-out",
            show(times.window),
            show(limit),
            show(limit - times.reading()),
            show(times.reading())
        )));
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn a_window_leaves_time_for_the_last_clients_and_is_half_of_the_limit_unless_set() {
        for (limit, window, want) in [
            ("10s", "", Some(5000)),
            ("100ms", "", Some(50)),
            ("10s", "0s", Some(0)),
            ("10s", "9s", Some(9000)),
            ("10s", "9001ms", None),
            ("1s", "500ms", Some(500)),
            ("1s", "600ms", None),
        ] {
            let flags =
                vec![format!("shutdown.drain_timeout={limit}"), format!("shutdown.drain_window={window}")];
            let times = load(&Sources { flags, ..Sources::default() }).and_then(|l| drain_times(&l.config));
            match (times, want) {
                (Ok(times), Some(want)) => assert_eq!(times.window.as_millis(), want, "{window} of {limit}"),
                (Err(error), None) => {
                    let error = error.to_string();
                    let names = ["drain_window", "drain_timeout", limit, "at most"];
                    assert!(names.iter().all(|name| error.contains(name)), "{error}");
                }
                (times, _) => panic!("{window} of {limit}: {times:?}"),
            }
        }
    }
}
