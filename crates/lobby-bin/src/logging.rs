//! Where log lines go: standard error, for a person or as JSON.

use tracing_subscriber::{EnvFilter, reload};

use crate::config::{Config, LogFormat};

/// Changes what is logged while the process runs.
pub struct LogControl(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl LogControl {
    /// Logs at `level`, as `log.level` has it.
    ///
    /// # Errors
    /// When the filter is not valid.
    pub fn set(&self, level: &str) -> anyhow::Result<()> {
        Ok((self.0)(filter(level)?)?)
    }
}

/// Starts logging. Call once.
///
/// # Errors
/// When the filter is not valid, or logging was started before.
pub fn start(config: &Config) -> anyhow::Result<LogControl> {
    let filter = filter(&config.log_level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A full disk behind standard error, or nobody reading it, must not end the process.
    let lines = lines.log_internal_errors(false);
    let (started, control) = match config.log_format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.try_init(), LogControl(Box::new(move |filter| handle.reload(filter))))
        }
        LogFormat::Human => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let lines = lines.with_ansi(colours).with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.try_init(), LogControl(Box::new(move |filter| handle.reload(filter))))
        }
    };
    started.map_err(|error| anyhow::anyhow!("logging could not be started: {error}"))?;
    Ok(control)
}

/// The AMQP library logs each failure once more, and whole bodies of messages: it is silent unless asked for.
fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    if level.contains("lapin") {
        EnvFilter::try_new(level)
    } else {
        EnvFilter::try_new(format!("lapin=off,{level}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_amqp_library_is_silent_unless_asked_for() {
        for (level, want) in [
            ("info", "lapin=off,info"),
            ("info,lapin=debug", "lapin=debug,info"),
            ("debug", "lapin=off,debug"),
        ] {
            assert_eq!(filter(level).map(|f| f.to_string()).ok(), Some(want.to_owned()), "{level}");
        }
    }
}
