//! Inbound WebSocket frames (RFC 6455, section 5) and the control frames that the lobby sends.
//!
//! Headers are parsed by `tungstenite`; what stands here is what a server that never blocks needs around them:
//! limits checked before memory is taken, fragments joined, and every frame that the RFC forbids refused.

use std::io::Cursor;

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::{
    CloseReason,
    frame::push_header,
    inbound::{Buffer, Event},
};

const MAX_CONTROL: u64 = 125;
const CLOSE: u8 = 0x8;
const PONG: u8 = 0xA;

/// Joins a client's frames into messages.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The payload of a fragmented message so far.
    partial: Option<Vec<u8>>,
}

/// Fragments of so many bytes and more are bounded by the size of their message, and not told. RFC 6455 section 5.4 lets
/// anybody on the way cut a message into pieces.
const LARGE_FRAGMENT: usize = 128;

impl Frames {
    pub(crate) fn next(&mut self, buffer: &mut Buffer, max: usize) -> Option<Result<Event, CloseReason>> {
        loop {
            let (header, payload) = match take_frame(buffer, self.room(max))? {
                Ok(frame) => frame,
                Err(reason) => return Some(Err(reason)),
            };
            let size = payload.len();
            let event = match header.opcode {
                OpCode::Control(Control::Ping) => Ok(Event::Ping(payload)),
                OpCode::Control(Control::Close) => close_event(&payload),
                OpCode::Control(_) => Ok(Event::Nothing),
                OpCode::Data(data) => self.join(data, header.is_final, payload),
            };
            if event != Ok(Event::Nothing) || size < LARGE_FRAGMENT {
                return Some(event);
            }
        }
    }

    fn room(&self, max: usize) -> usize {
        max.saturating_sub(self.partial.as_ref().map_or(0, Vec::len))
    }

    fn join(&mut self, data: Data, is_final: bool, payload: Vec<u8>) -> Result<Event, CloseReason> {
        let mut message = match (self.partial.take(), data) {
            (None, Data::Continue) => {
                return Err(CloseReason::WebSocketProtocol("a continuation without a beginning"));
            }
            (Some(_), Data::Text | Data::Binary) => {
                return Err(CloseReason::WebSocketProtocol("a new message inside a fragmented one"));
            }
            (Some(mut partial), _) => {
                partial.extend_from_slice(&payload);
                partial
            }
            (None, _) => payload,
        };
        if !is_final {
            self.partial = Some(message);
            return Ok(Event::Nothing);
        }
        while matches!(message.last(), Some(b'\n' | b'\r')) {
            message.pop();
        }
        if std::str::from_utf8(&message).is_err() {
            return Err(CloseReason::NotUtf8);
        }
        Ok(Event::Message(message))
    }
}

/// Takes one whole frame off the front of `buffer` and unmasks its payload. A frame that is too long or that RFC
/// 6455 forbids is refused as soon as its header is there, before its payload is held.
fn take_frame(buffer: &mut Buffer, room: usize) -> Option<Result<(FrameHeader, Vec<u8>), CloseReason>> {
    let mut cursor = Cursor::new(buffer.rest());
    let (header, length) = match FrameHeader::parse(&mut cursor) {
        Ok(parsed) => parsed?,
        Err(_) => return Some(Err(CloseReason::WebSocketProtocol("a frame header that is not valid"))),
    };
    if let Err(reason) = check(&header, length, room) {
        return Some(Err(reason));
    }
    let start = usize::try_from(cursor.position()).ok()?;
    let end = start + usize::try_from(length).ok()?;
    let mut payload = buffer.rest().get(start..end)?.to_vec();
    buffer.consume(end);
    if let Some(mask) = header.mask {
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    Some(Ok((header, payload)))
}

fn check(header: &FrameHeader, length: u64, room: usize) -> Result<(), CloseReason> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(CloseReason::WebSocketProtocol("reserved bits are set"));
    }
    if header.mask.is_none() {
        return Err(CloseReason::WebSocketProtocol("a client's frame must be masked"));
    }
    match header.opcode {
        OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
            Err(CloseReason::WebSocketProtocol("a reserved opcode"))
        }
        OpCode::Control(_) if !header.is_final => {
            Err(CloseReason::WebSocketProtocol("a fragmented control frame"))
        }
        OpCode::Control(_) if length > MAX_CONTROL => {
            Err(CloseReason::WebSocketProtocol("a control frame over 125 bytes"))
        }
        OpCode::Data(_) if length > room as u64 => Err(CloseReason::TooBig),
        OpCode::Control(_) | OpCode::Data(_) => Ok(()),
    }
}

fn close_event(payload: &[u8]) -> Result<Event, CloseReason> {
    let code = match payload {
        [] => return Ok(Event::Close(None)),
        [high, low, reason @ ..] if std::str::from_utf8(reason).is_ok() => u16::from_be_bytes([*high, *low]),
        [_] => return Err(CloseReason::WebSocketProtocol("a close code of one byte")),
        _ => return Err(CloseReason::NotUtf8),
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(Event::Close(Some(code))),
        _ => Err(CloseReason::WebSocketProtocol("a close code that may not be sent")),
    }
}

/// The pong frame that answers a ping.
pub fn pong_frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + payload.len());
    push_header(&mut bytes, PONG, payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

/// The close frame with which the lobby ends a connection.
pub(crate) fn close_frame(code: u16, text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + text.len());
    push_header(&mut bytes, CLOSE, 2 + text.len());
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame, masked with a fixed mask.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_header(&mut bytes, first & 0x0f, payload.len());
        bytes[0] = first;
        bytes[1] |= 0x80;
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(b, m)| b ^ m));
        bytes
    }

    fn decode(bytes: &[u8], max: usize) -> Vec<Result<Event, u16>> {
        let (mut frames, mut buffer) = (Frames::default(), Buffer::from(bytes));
        let mut events = Vec::new();
        while let Some(event) = frames.next(&mut buffer, max) {
            let failed = event.is_err();
            events.push(event.map_err(CloseReason::code));
            if failed {
                break;
            }
        }
        events
    }

    #[test]
    fn text_and_binary_are_messages_and_a_trailing_newline_is_accepted() {
        let bytes = [masked(0x81, b"{}\n"), masked(0x82, b"{}")].concat();
        assert_eq!(decode(&bytes, 10), [Ok(Event::Message(b"{}".into())), Ok(Event::Message(b"{}".into()))]);
    }

    #[test]
    fn fragments_are_joined_and_a_ping_may_stand_between_them() {
        let bytes = [masked(0x01, b"{"), masked(0x89, b"hi"), masked(0x80, b"}")].concat();
        let wanted = [Event::Nothing, Event::Ping(b"hi".into()), Event::Message(b"{}".into())];
        assert_eq!(decode(&bytes, 10), wanted.map(Ok));
    }

    #[test]
    fn pongs_and_fragments_without_a_byte_are_told_one_by_one() {
        let fragments =
            [masked(0x01, b""), masked(0x00, b""), masked(0x8a, b"x"), masked(0x80, b"")].concat();
        let wanted = [Event::Nothing, Event::Nothing, Event::Nothing, Event::Message(Vec::new())];
        assert_eq!(decode(&fragments, 10), wanted.map(Ok));
    }

    #[test]
    fn a_large_fragment_is_not_told() {
        let large = [b'x'; LARGE_FRAGMENT];
        let bytes = [masked(0x01, &large), masked(0x00, &large[1..]), masked(0x80, b"")].concat();
        let message = [&large[..], &large[1..]].concat();
        assert_eq!(decode(&bytes, 300), [Ok(Event::Nothing), Ok(Event::Message(message))]);
    }

    #[test]
    fn what_rfc_6455_forbids_is_refused() {
        let unmasked = [0x81, 0x02, b'{', b'}'].to_vec();
        for (what, bytes, code) in [
            ("unmasked", unmasked, 1002),
            ("reserved bit", masked(0xC1, b"{}"), 1002),
            ("reserved opcode", masked(0x83, b"{}"), 1002),
            ("fragmented control", masked(0x09, b""), 1002),
            ("long control", masked(0x89, &[b'x'; 126]), 1002),
            ("orphan continuation", masked(0x80, b"x"), 1002),
            ("interleaved", [masked(0x01, b"{"), masked(0x81, b"}")].concat(), 1002),
            ("short close", masked(0x88, b"x"), 1002),
            ("close code 1005", masked(0x88, &1005u16.to_be_bytes()), 1002),
            ("not UTF-8", masked(0x81, b"\xff"), 1007),
            ("too big", masked(0x81, &[b'x'; 11]), 1009),
            ("too big in fragments", [masked(0x01, b"123456"), masked(0x80, b"12345")].concat(), 1009),
        ] {
            // Before it stands at most the fragment that it follows.
            assert_eq!(decode(&bytes, 10).last(), Some(&Err(code)), "{what}");
        }
    }

    #[test]
    fn a_length_of_two_to_the_63_is_refused_by_its_header_alone() {
        let mut bytes = vec![0x81, 0xff];
        bytes.extend_from_slice(&(1u64 << 63).to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        assert!(matches!(decode(&bytes, 1 << 20)[..], [Err(1002 | 1009)]));
    }

    #[test]
    fn a_close_frame_carries_its_code() {
        assert_eq!(decode(&masked(0x88, &1000u16.to_be_bytes()), 10), [Ok(Event::Close(Some(1000)))]);
        assert_eq!(close_frame(4000, "slow"), b"\x88\x06\x0f\xa0slow");
        assert_eq!(pong_frame(b"hi"), b"\x8a\x02hi");
    }
}
