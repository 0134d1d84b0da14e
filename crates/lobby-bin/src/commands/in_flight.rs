//! Lines of a file that are published with many of them under way, and told in their order.
//!
//! ```text
//! lines → read → messages → publish → outcomes ─┐
//!           └─ line numbers, and what is wrong ─┴→ tell, line by line
//! ```

use std::collections::VecDeque;

use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::invalid_message;
use crate::Failure;

/// Lines that are under way at most: read, and not yet told.
pub const LINES: usize = 256;
/// Bytes of lines that are under way at most; a longer line goes alone.
const BYTES: usize = 16 << 20;

/// A line that was read and is not yet told.
struct Line {
    number: u64,
    bytes: usize,
    /// Why nothing of it is published.
    wrong: Option<Failure>,
}

/// Publishes what `read` makes of each line, and tells the outcomes in the order of the lines: those of `publish`, whose
/// stream has one for each message in the messages' order, and between them the lines that are no message.
///
/// When `tell` says false, no further message is given to `publish`; those it has taken are told. A file that cannot be read
/// further ends it in the same way.
///
/// # Errors
/// Those of `tell`, at once.
pub async fn publish_lines<M, O, S>(
    mut lines: mpsc::Receiver<Result<(u64, Vec<u8>), Failure>>,
    read: impl Fn(&[u8]) -> anyhow::Result<M>,
    publish: impl FnOnce(BoxStream<'static, M>) -> S,
    mut tell: impl FnMut(u64, Result<O, Failure>) -> Result<bool, Failure>,
) -> Result<(), Failure>
where
    M: Send + 'static,
    S: Stream<Item = O>,
{
    // There is room for each line under way, so that sending never waits.
    let (sender, mut receiver) = mpsc::channel(LINES);
    let mut messages = Some(sender);
    let stopped = CancellationToken::new();
    let source = stream::poll_fn(move |context| receiver.poll_recv(context));
    let outcomes = publish(source.take_until(stopped.clone().cancelled_owned()).boxed());
    let mut outcomes = std::pin::pin!(outcomes);
    let (mut under_way, mut bytes, mut last) = (VecDeque::<Line>::new(), 0, 0);
    loop {
        while let Some(Line { number, wrong: Some(failure), .. }) =
            under_way.pop_front_if(|line| line.wrong.is_some())
        {
            if !tell(number, Err(failure))? {
                stopped.cancel();
            }
        }
        let has_room = under_way.len() < LINES && bytes < BYTES;
        tokio::select! {
            biased;
            outcome = outcomes.next(), if !under_way.is_empty() => {
                // Without an outcome they were never taken: it was stopped.
                let (Some(outcome), Some(line)) = (outcome, under_way.pop_front()) else { return Ok(()) };
                bytes -= line.bytes;
                if !tell(line.number, Ok(outcome))? {
                    stopped.cancel();
                }
            }
            line = lines.recv(), if has_room && messages.is_some() && !stopped.is_cancelled() => {
                let (number, length, message) = match line {
                    Some(Ok((number, line))) => (number, line.len(), read(&line).map_err(invalid_message)),
                    Some(Err(failure)) => (last + 1, 0, Err(failure)),
                    None => {
                        messages = None;
                        continue;
                    }
                };
                last = number;
                let line = match message {
                    Ok(message) => {
                        let Some(messages) = &messages else { return Ok(()) };
                        if messages.send(message).await.is_err() {
                            return Ok(()); // nobody takes messages any more
                        }
                        bytes += length;
                        Line { number, bytes: length, wrong: None }
                    }
                    Err(failure) => Line { number, bytes: 0, wrong: Some(failure) },
                };
                under_way.push_back(line);
            }
            else => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::ensure;
    use futures_util::FutureExt;

    use super::*;

    /// The next outcome of messages that are given out in blocks: none before `block` of them were taken, but at the end.
    fn in_blocks(messages: BoxStream<'static, Vec<u8>>, block: usize) -> impl Stream<Item = String> {
        let text = |message: Vec<u8>| String::from_utf8(message).unwrap_or_default();
        messages.map(text).chunks(block).flat_map(stream::iter)
    }

    fn read(line: &[u8]) -> anyhow::Result<Vec<u8>> {
        ensure!(!line.starts_with(b"bad"), "it is bad");
        Ok(line.to_vec())
    }

    /// What is told of `lines` when `stop` says false to be told more.
    async fn told(
        lines: Vec<Result<String, Failure>>,
        block: usize,
        stop: &'static str,
    ) -> Result<Vec<String>, Failure> {
        let (sender, receiver) = mpsc::channel(lines.len().max(1));
        for (number, line) in (1..).zip(lines) {
            let line = line.map(|line| (number, line.into_bytes()));
            assert!(sender.try_send(line).is_ok(), "there is room");
        }
        drop(sender);
        let mut told = Vec::new();
        let tell = |number, outcome: Result<String, Failure>| {
            let (text, code) = match outcome {
                Ok(text) => (text, 0),
                Err(failure) => (failure.error.to_string(), failure.code),
            };
            let more = text != stop;
            told.push(format!("{number} {text} {code}"));
            Ok(more)
        };
        let work = publish_lines(receiver, read, |messages| in_blocks(messages, block), tell);
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, work).await.expect("it waits for an outcome that cannot come")?;
        Ok(told)
    }

    fn text(lines: &[&str]) -> Vec<Result<String, Failure>> {
        lines.iter().map(|line| Ok((*line).to_owned())).collect()
    }

    #[tokio::test]
    async fn f19_a_window_of_lines_is_under_way_and_no_more() {
        let many = || (1..=1_000).map(|n| Ok(n.to_string())).collect();
        let wanted: Vec<_> = (1..=1_000).map(|n| format!("{n} {n} 0")).collect();
        assert_eq!(told(many(), LINES, "").await.ok(), Some(wanted));
        let (taken, told) = (Cell::new(0), Cell::new(0));
        let (sender, lines) = mpsc::channel(1_000);
        for number in 1..=1_000 {
            assert!(sender.try_send(Ok((number, b"x".to_vec()))).is_ok(), "there is room");
        }
        let counted = |messages: BoxStream<'static, Vec<u8>>| {
            messages.map(|_| taken.set(taken.get() + 1)).chunks(2 * LINES).flat_map(stream::iter)
        };
        let work = publish_lines(lines, read, counted, |_, _| {
            told.set(told.get() + 1);
            Ok(true)
        });
        // Not one outcome comes: all that is done is done in the first poll.
        assert!(tokio::task::unconstrained(work).now_or_never().is_none(), "it waits");
        drop(sender);
        assert_eq!((taken.get(), told.get()), (LINES, 0));
    }

    #[tokio::test]
    async fn f19_wrong_lines_are_told_in_their_place() {
        let lines = text(&["bad", "a", "bad", "bad", "b", "bad"]);
        let wanted =
            ["1 it is bad 64", "2 a 0", "3 it is bad 64", "4 it is bad 64", "5 b 0", "6 it is bad 64"];
        assert_eq!(told(lines, 2, "").await.ok(), Some(wanted.map(str::to_owned).to_vec()));
    }

    #[tokio::test]
    async fn f19_a_file_that_cannot_be_read_further_ends_it_after_what_is_under_way() {
        let mut lines = text(&["a", "b"]);
        lines.push(Err(Failure { code: Failure::FILE, error: anyhow::anyhow!("unreadable") }));
        let wanted = ["1 a 0", "2 b 0", "3 unreadable 73"];
        assert_eq!(told(lines, 9, "").await.ok(), Some(wanted.map(str::to_owned).to_vec()));
    }

    #[tokio::test]
    async fn f19_when_no_message_can_go_only_those_that_were_taken_are_told() {
        let many = (1..=1_000).map(|n| Ok(n.to_string())).collect();
        let wanted: Vec<_> = (1..=4).map(|n| format!("{n} {n} 0")).collect();
        assert_eq!(told(many, 4, "3").await.ok(), Some(wanted));
    }
}
