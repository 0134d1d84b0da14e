//! From what a socket gave to whole messages.
//!
//! Pure. Nothing is copied but the part of a message whose rest has not come yet.

use anyhow::{bail, ensure};

use super::{body::BODY_LEN, peer::Peer};

/// How a population's server frames its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// A message ends with a newline.
    Line,
    /// An unmasked WebSocket frame around a line.
    WebSocket,
    /// The protocol of that peer.
    Peer(Peer),
}

impl Codec {
    /// Takes the first message off `bytes`, without its line end; `None` while it is not whole.
    ///
    /// # Errors
    /// Bytes that no server of this kind sends.
    pub(super) fn take<'a>(self, bytes: &mut &'a [u8]) -> anyhow::Result<Option<&'a [u8]>> {
        match self {
            Self::Line => Ok(take_line(bytes)),
            Self::WebSocket => take_frame(bytes),
            Self::Peer(peer) => peer.take(bytes),
        }
    }
}

fn take_line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    // Nearly every line is one of the bench's own; a newline there ends nothing sooner, since JSON holds none.
    let end = match bytes.get(BODY_LEN) {
        Some(b'\n') if bytes[BODY_LEN - 1] == b'}' => BODY_LEN,
        _ => bytes.iter().position(|byte| *byte == b'\n')?,
    };
    let line = &bytes[..end];
    *bytes = &bytes[end + 1..];
    Some(line)
}

fn take_frame<'a>(bytes: &mut &'a [u8]) -> anyhow::Result<Option<&'a [u8]>> {
    let &[first, second, ..] = *bytes else { return Ok(None) };
    ensure!(matches!(first, 0x81 | 0x82), "a frame that begins with {first:#04x}");
    let (header, len) = match second {
        0..=125 => (2, usize::from(second)),
        126 => match bytes.get(2..4) {
            Some(&[high, low]) => (4, usize::from(u16::from_be_bytes([high, low]))),
            _ => return Ok(None),
        },
        other => bail!("a frame with the length byte {other}"),
    };
    let Some(payload) = bytes.get(header..header + len) else { return Ok(None) };
    *bytes = &bytes[header + len..];
    Ok(Some(payload.strip_suffix(b"\n").unwrap_or(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::body::{Stamp, To};

    fn all(codec: Codec, mut bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
        let mut messages = Vec::new();
        while let Some(message) = codec.take(&mut bytes).unwrap() {
            messages.push(message.to_vec());
        }
        (messages, bytes.len())
    }

    #[test]
    fn lines_of_any_length_come_out_whole() {
        let body = Stamp { to: To::Everyone, seq: 1, at: 2 }.encode();
        let stream = [b"{}\n".as_slice(), &body, b"\n{\"a\":1}\n", &body[..9]].concat();
        let (messages, left) = all(Codec::Line, &stream);
        assert_eq!(messages, [b"{}".to_vec(), body.to_vec(), b"{\"a\":1}".to_vec()]);
        assert_eq!(left, 9);
    }

    #[test]
    fn frames_come_out_whole_and_a_close_frame_is_an_error() {
        let body = Stamp { to: To::User(3), seq: 1, at: 2 }.encode();
        let stream = [b"\x81\x03{}\n\x81\x7e\x00\xc9".as_slice(), &body, b"\n\x81\x7e\x00"].concat();
        let (messages, left) = all(Codec::WebSocket, &stream);
        assert_eq!(messages, [b"{}".to_vec(), body.to_vec()]);
        assert_eq!(left, 3);
        assert!(Codec::WebSocket.take(&mut b"\x88\x02\x0f\xa0".as_slice()).is_err());
    }
}
