//! What a command is given to read: one body, or a file line by line. Bounded.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use anyhow::anyhow;
use tokio::sync::mpsc;

use super::invalid_message;
use crate::Failure;

/// The longest line of a file. A body of the largest default size and its headers take 6 MiB in base64.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// Lines that are read before they are worked on.
const READ_AHEAD: usize = 16;

/// Reads one body: JSON itself when it begins as an object does, `-` for standard input, else a file.
///
/// # Errors
/// [`Failure::FILE`] when it cannot be read, [`Failure::MESSAGE`] when there are more than `max` bytes.
pub fn body(given: &str, max: usize) -> Result<Vec<u8>, Failure> {
    if given.trim_start().starts_with('{') {
        return Ok(given.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let limit = max as u64 + 1;
    open(given)?.take(limit).read_to_end(&mut bytes).map_err(|error| unreadable(given, error))?;
    if bytes.len() > max {
        return Err(invalid_message(anyhow!("{} is larger than {max} bytes", name(given))));
    }
    Ok(bytes)
}

/// A file's lines with their numbers from 1; empty ones are passed over.
pub struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    number: u64,
}

impl Lines {
    /// Opens a file, or standard input for `-`.
    pub fn open(file: &str) -> Result<Self, Failure> {
        Ok(Self { name: name(file).to_owned(), reader: open(file)?, number: 0 })
    }

    /// Reads on another thread, at most [`READ_AHEAD`] lines ahead: a terminal makes whoever reads it wait. The thread
    /// ends with the process, or with the receiver at the next line.
    pub fn read_ahead(mut self) -> mpsc::Receiver<Result<(u64, Vec<u8>), Failure>> {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        std::thread::spawn(move || {
            while let Some(line) = self.next().transpose() {
                let failed = line.is_err();
                if sender.blocking_send(line).is_err() || failed {
                    break;
                }
            }
        });
        receiver
    }

    /// The next line without its end; `None` after the last.
    ///
    /// # Errors
    /// [`Failure::FILE`] when it cannot be read, [`Failure::MESSAGE`] when it is longer than [`MAX_LINE_BYTES`].
    pub fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        loop {
            let mut line = Vec::new();
            let limited = &mut self.reader.by_ref().take(MAX_LINE_BYTES as u64);
            let read = limited.read_until(b'\n', &mut line).map_err(|error| unreadable(&self.name, error))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if line.len() == MAX_LINE_BYTES && !line.ends_with(b"\n") {
                let Self { name, number, .. } = self;
                return Err(invalid_message(anyhow!(
                    "line {number} of {name} is longer than {MAX_LINE_BYTES} bytes"
                )));
            }
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Ok(Some((self.number, line.to_vec())));
            }
        }
    }
}

/// Whether it can be read twice; what does not exist counts as a file, whose error comes when it is opened.
pub fn is_file(given: &str) -> bool {
    given != "-" && std::fs::metadata(given).map_or(true, |metadata| metadata.is_file())
}

fn name(given: &str) -> &str {
    if given == "-" { "standard input" } else { given }
}

fn open(given: &str) -> Result<Box<dyn BufRead + Send>, Failure> {
    if given == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(given).map_err(|error| unreadable(given, error))?;
    Ok(Box::new(BufReader::new(file)))
}

fn unreadable(given: &str, error: io::Error) -> Failure {
    Failure { code: Failure::FILE, error: anyhow::Error::new(error).context(format!("read {}", name(given))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_or_a_body_without_end_is_refused_at_its_limit() {
        let reader = Box::new(BufReader::new(io::repeat(b'x').take(2 * MAX_LINE_BYTES as u64)));
        let mut lines = Lines { name: "endless".to_owned(), reader, number: 0 };
        let failure = lines.next().expect_err("too long");
        assert_eq!(failure.code, Failure::MESSAGE);
        assert!(
            failure.error.to_string().contains("line 1 of endless is longer than"),
            "{:#}",
            failure.error
        );
        let failure = body("/dev/zero", 1000).expect_err("too large");
        assert_eq!(failure.code, Failure::MESSAGE);
        assert!(failure.error.to_string().contains("larger than 1000 bytes"), "{:#}", failure.error);
    }
}
