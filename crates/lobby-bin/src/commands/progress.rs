//! How far long work has come, on standard error, where that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts `what`; `total` when it is known.
pub fn progress(what: &'static str, total: Option<u64>) -> ProgressBar {
    // It draws nothing where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match total {
        Some(_) => format!("{{bar:40}} {{human_pos}}/{{human_len}} {what}, {{per_sec}}, {{eta}} left"),
        None => format!("{{spinner}} {{human_pos}} {what}, {{per_sec}}, {{elapsed}}"),
    };
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
