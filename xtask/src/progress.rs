//! Progress lines on standard error: constant text, with the seconds since the command began.

use std::time::Instant;

/// A reporter of progress lines, to be handed down as `&mut progress`.
pub(crate) fn to_stderr() -> impl FnMut(&str) + Send {
    let begin = Instant::now();
    move |line| eprintln!("[{:6.1} s] {line}", begin.elapsed().as_secs_f32())
}
