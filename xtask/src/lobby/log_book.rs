//! Everything a process wrote, line by line, readable while it writes and after it ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::PATIENCE;

/// Lines kept; the oldest go first.
const KEPT: usize = 200_000;

/// The shared log of one process.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogBook {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// How many streams are still being read.
    reading: watch::Sender<usize>,
}

/// One line of a JSON log.
#[derive(Debug, Clone)]
pub(crate) struct Record(Value);

impl LogBook {
    /// Reads `from` to its end in the background.
    pub(crate) fn collect(&self, from: impl AsyncRead + Unpin + Send + 'static) {
        let (lines, reading) = (Arc::clone(&self.lines), self.reading.clone());
        reading.send_modify(|count| *count += 1);
        tokio::spawn(async move {
            let mut from = BufReader::new(from);
            let mut raw = Vec::new();
            while matches!(from.read_until(b'\n', &mut raw).await, Ok(1..)) {
                let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
                raw.clear();
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == KEPT {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
            reading.send_modify(|count| *count -= 1);
        });
    }

    /// Waits until all that was written is here: a process has ended a little before its last words are read.
    pub(crate) async fn complete(&self) {
        // What the process has started itself may keep its output open; then what is here has to do.
        let _ = timeout(PATIENCE, self.reading.subscribe().wait_for(|count| *count == 0)).await;
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The lines that are JSON objects.
    pub(crate) fn records(&self) -> Vec<Record> {
        let lines = self.lines();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(Value::is_object)
            .map(Record)
            .collect()
    }

    /// The last lines, for a report.
    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    /// Whether `text` was written anywhere.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(text))
    }
}

impl Record {
    /// A field as text, wherever the log format puts fields.
    pub(crate) fn field(&self, key: &str) -> Option<String> {
        match self.0["fields"].get(key).or_else(|| self.0.get(key))? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// `INFO`, `WARN` and so on.
    pub(crate) fn level(&self) -> Option<String> {
        self.field("level").map(|level| level.to_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_complete_log_holds_the_last_words_of_every_stream() {
        let log = LogBook::default();
        let (mut said, from) = tokio::io::duplex(64);
        log.collect(from);
        log.collect(&b"first\n"[..]);
        said.write_all(b"last words").await.unwrap();
        drop(said);
        log.complete().await;
        assert!(log.holds("first") && log.holds("last words"), "{:?}", log.lines());
    }

    #[test]
    fn fields_are_found_nested_and_flat() {
        for text in [
            r#"{"level":"INFO","fields":{"message":"listening","port":1}}"#,
            r#"{"level":"info","message":"listening","port":1}"#,
        ] {
            let record = Record(serde_json::from_str(text).unwrap());
            assert_eq!(record.field("message").as_deref(), Some("listening"));
            assert_eq!(record.field("port").as_deref(), Some("1"));
            assert_eq!(record.level().as_deref(), Some("INFO"));
            assert_eq!(record.field("user"), None);
        }
    }
}
