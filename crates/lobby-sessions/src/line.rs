//! Newline-delimited messages: `\n` ends one, `\r\n` is accepted, empty lines are ignored.

use crate::{
    CloseReason,
    inbound::{Buffer, Event},
};

/// Splits a byte stream into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// How much of the buffer is known to hold no line end, so that a slow sender costs no repeated scan.
    scanned: usize,
}

impl Lines {
    pub(crate) fn next(&mut self, buffer: &mut Buffer, max: usize) -> Option<Result<Event, CloseReason>> {
        let Some(at) = buffer.rest()[self.scanned..].iter().position(|&b| b == b'\n') else {
            self.scanned = buffer.rest().len();
            // One more than `max` may still be the `\r` of a line end.
            return (self.scanned > max + 1).then_some(Err(CloseReason::TooBig));
        };
        let end = self.scanned + at;
        self.scanned = 0;
        let line = &buffer.rest()[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > max {
            return Some(Err(CloseReason::TooBig));
        }
        let event = if line.is_empty() { Event::Nothing } else { Event::Message(line.to_vec()) };
        buffer.consume(end + 1);
        Some(Ok(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8], max: usize) -> Vec<Result<Event, CloseReason>> {
        let (mut lines, mut buffer) = (Lines::default(), Buffer::from(bytes));
        let mut events = Vec::new();
        while let Some(event) = lines.next(&mut buffer, max) {
            let failed = event.is_err();
            events.push(event);
            if failed {
                break;
            }
        }
        events
    }

    fn message(text: &str) -> Result<Event, CloseReason> {
        Ok(Event::Message(text.into()))
    }

    #[test]
    fn both_line_ends_are_taken_and_empty_lines_ignored() {
        let nothing = || Ok(Event::Nothing);
        let wanted = [message("a"), message("b"), nothing(), nothing(), message("c")];
        assert_eq!(decode(b"a\nb\r\n\n\r\nc\n", 10), wanted);
    }

    #[test]
    fn a_line_over_the_limit_closes_with_1009_whether_ended_or_not() {
        assert_eq!(decode(b"12345\n", 5), [message("12345")]);
        assert_eq!(decode(b"12345\r\n", 5), [message("12345")]);
        assert_eq!(decode(b"123456\n", 5), [Err(CloseReason::TooBig)]);
        assert_eq!(decode(b"1234567", 5).first(), Some(&Err(CloseReason::TooBig)));
        assert_eq!(decode(b"123456", 5), []);
    }
}
