//! Where log lines go: standard error, for a person or as JSON.

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts logging. Call once.
///
/// # Errors
/// When the filter is not valid, or logging was started before.
pub fn start(config: &Config) -> anyhow::Result<()> {
    let filter = filter(&config.log_level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A full disk behind standard error, or nobody reading it, must not end the process.
    let lines = lines.log_internal_errors(false);
    let started = match config.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Human => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(colours).try_init()
        }
    };
    started.map_err(|error| anyhow::anyhow!("logging could not be started: {error}"))
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
