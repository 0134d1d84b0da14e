//! Server-sent events of the admin address, of which only the data matter.

use anyhow::{Context as _, bail, ensure};
use reqwest::Response;
use serde_json::Value;

/// The largest event: a quarter of an hour of samples takes less than a tenth of it.
const MAX_EVENT_BYTES: usize = 8 << 20;

/// An answer that goes on.
pub struct Events {
    response: Response,
    lines: Lines,
}

impl Events {
    pub fn new(response: Response) -> Self {
        Self { response, lines: Lines::default() }
    }

    /// The next event's data.
    ///
    /// # Errors
    /// When the lobby has gone, or says what no lobby says.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(data) = self.lines.event() {
                return serde_json::from_str(&data).context("not a lobby's of this version");
            }
            match self.response.chunk().await? {
                Some(chunk) => self.lines.push(&chunk)?,
                None => bail!("it has ended"),
            }
        }
    }
}

/// Puts events together from what arrives (HTML Living Standard, 9.2.6).
#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<u8>,
    /// Data of the event that is not complete yet.
    data: String,
}

impl Lines {
    fn push(&mut self, chunk: &[u8]) -> anyhow::Result<()> {
        let held = self.waiting.len() + self.data.len() + chunk.len();
        ensure!(held <= MAX_EVENT_BYTES, "an event of more than {MAX_EVENT_BYTES} bytes");
        self.waiting.extend_from_slice(chunk);
        Ok(())
    }

    fn event(&mut self) -> Option<String> {
        while let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.waiting.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if let Some(data) = line.strip_prefix("data:") {
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            } else if line.is_empty() && !self.data.is_empty() {
                return Some(std::mem::take(&mut self.data));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_wherever_they_are_cut() {
        let text =
            "event: hello\r\ndata: {\"a\":\"é\"}\r\n\r\n: keep-alive\n\nevent: tick\ndata:{}\n\ndata: {\"un";
        let bytes = text.as_bytes();
        for cut in 0..bytes.len() {
            let (mut lines, mut events) = (Lines::default(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                lines.push(part).expect("small");
                events.extend(std::iter::from_fn(|| lines.event()));
            }
            assert_eq!(events, ["{\"a\":\"é\"}", "{}"], "{cut}");
        }
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 1 << 20];
        assert!((0..9).any(|_| lines.push(&chunk).is_err()));
    }
}
