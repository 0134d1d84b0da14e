//! What clients send: the same messages however the bytes are split, never more memory than a message may take, and
//! over WebSocket the same messages that another implementation of RFC 6455 reads.

use std::io::{Cursor, Read, Write};

use lobby_sessions::{CloseReason, Command, Event, Inbound, Transport};
use tungstenite::{
    Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use crate::split;

/// More than any input has: the other implementation takes memory for a frame by its header alone.
const MOST: usize = 1 << 20;

type Events = Vec<Result<Event, CloseReason>>;

/// Newline-delimited messages. The first byte is the limit on a message.
pub fn line(data: &[u8]) {
    let Some((max, bytes)) = limit(data) else { return };
    let events = however_split(Transport::Tcp, bytes, max);
    // Line by line, as one would write it without a thought for buffers.
    let mut expected = Events::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else {
            // The end of the line may still bring a CR, which does not count.
            if line.len() > max + 1 {
                expected.push(Err(CloseReason::TooBig));
            }
            break;
        };
        let message = whole.strip_suffix(b"\r").unwrap_or(whole);
        if message.len() > max {
            expected.push(Err(CloseReason::TooBig));
            break;
        }
        expected.push(Ok(match message {
            b"" => Event::Nothing,
            message => Event::Message(message.to_vec()),
        }));
    }
    assert_eq!(events, expected);
}

/// WebSocket frames. The first byte is the limit on a message.
pub fn websocket(data: &[u8]) {
    let Some((max, bytes)) = limit(data) else { return };
    let mut events = however_split(Transport::WebSocket, bytes, max);
    // They tell whole messages, and no pongs.
    events.retain(|event| *event != Ok(Event::Nothing));
    let (theirs, looks_ahead) = other_implementation(bytes);
    let ours: Vec<_> = events.iter().map_while(|event| event.as_ref().ok()).collect();
    for (n, event) in ours.iter().enumerate() {
        match theirs.get(n) {
            // Registered since RFC 6455 (bad gateway); they answer it as an error.
            Some(Event::Close(Some(1002))) if *event == &Event::Close(Some(1014)) => {}
            Some(other) => assert_eq!(*event, other, "event {n}"),
            None => assert!(looks_ahead, "event {n}: they do not read {event:?}"),
        }
    }
    let closed = matches!(ours.last(), Some(Event::Close(_)));
    if ours.len() == events.len() && !closed && !looks_ahead {
        assert_eq!(ours.len(), theirs.len(), "they read more: {theirs:?}");
    }
}

fn limit(data: &[u8]) -> Option<(usize, &[u8])> {
    data.split_first().map(|(max, bytes)| (usize::from(*max), bytes))
}

/// The events of `bytes`, which must be the same whole, byte by byte and at random.
fn however_split(transport: Transport, bytes: &[u8], max: usize) -> Events {
    let whole = events(transport, &[bytes], max);
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(events(transport, &single, max), whole, "byte by byte");
    let random = split::at_random(bytes, split::seed_of(bytes), 5);
    assert_eq!(events(transport, &random, max), whole, "at random");
    for message in whole.iter().flatten() {
        if let Event::Message(message) = message {
            assert!(message.len() <= max);
            // Answers or refuses; it must not panic.
            let _ = Command::decode(message);
        }
    }
    whole
}

fn events(transport: Transport, pieces: &[&[u8]], max: usize) -> Events {
    let mut inbound = Inbound::new(transport, max);
    let mut events = Events::new();
    for piece in pieces {
        inbound.extend(piece);
        while let Some(event) = inbound.next() {
            let last = !matches!(event, Ok(Event::Message(_) | Event::Ping(_) | Event::Nothing));
            events.push(event);
            if last {
                return events;
            }
        }
        // A frame header has 14 bytes at most; a control frame 125 bytes, whatever the limit.
        assert!(inbound.buffered() <= max.max(125) + 14, "{} bytes are held", inbound.buffered());
    }
    events
}

/// What `tungstenite` reads, up to the first error, in the lobby's terms; and whether that error is a text whose
/// beginning is not UTF-8: the lobby looks once the text is whole, and answers a ping that comes before.
fn other_implementation(bytes: &[u8]) -> (Vec<Event>, bool) {
    let config = WebSocketConfig::default().max_message_size(Some(MOST)).max_frame_size(Some(MOST));
    let mut socket = WebSocket::from_raw_socket(Deaf(Cursor::new(bytes)), Role::Server, Some(config));
    let mut events = Vec::new();
    loop {
        let message = match socket.read() {
            Ok(message) => message,
            Err(error) => return (events, matches!(error, tungstenite::Error::Utf8(_))),
        };
        events.push(match message {
            Message::Text(text) => Event::Message(without_line_end(text.as_bytes())),
            Message::Binary(bytes) => Event::Message(without_line_end(&bytes)),
            Message::Ping(payload) => Event::Ping(payload.to_vec()),
            Message::Close(frame) => Event::Close(frame.map(|frame| frame.code.into())),
            Message::Pong(_) | Message::Frame(_) => continue,
        });
    }
}

fn without_line_end(message: &[u8]) -> Vec<u8> {
    let end = message.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    message[..end].to_vec()
}

/// A socket that swallows what is written to it.
struct Deaf<'a>(Cursor<&'a [u8]>);

impl Read for Deaf<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Deaf<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
