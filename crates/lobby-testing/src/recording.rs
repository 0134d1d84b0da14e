//! What a client got, taken apart without losing a byte.

use lobby_sessions::Transport;

use crate::TestingError;

const CLOSE: u8 = 0x8;
const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;

/// What a client got since it was last read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// Every byte, as on the socket: lines on TCP; on WebSocket the frames after the upgrade.
    pub bytes: Vec<u8>,
    /// The messages without their ends: a line without its `\n`, the payload of a frame without its `\n`.
    pub messages: Vec<Vec<u8>>,
    /// Whether the lobby has closed the connection. Nothing follows then.
    pub ended: bool,
}

impl Received {
    /// The messages as text, for assertions; a lobby sends UTF-8 only.
    ///
    /// ```
    /// use lobby_testing::{TestLobby, Transport};
    /// use notify_protocol::Notification;
    ///
    /// let lobby = TestLobby::start()?;
    /// let mut player = lobby.connect(42, Transport::Tcp)?;
    /// lobby.publish(&Notification::broadcast().raw_json(r#"{"n":1}"#).build()?)?;
    /// assert_eq!(player.read()?.texts(), [r#"{"n":1}"#]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.messages.iter().map(|message| String::from_utf8_lossy(message).into_owned()).collect()
    }
}

/// One line or one frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) bytes: Vec<u8>,
    /// What it says; none for a control frame.
    pub(crate) message: Option<Vec<u8>>,
}

/// The first unit of `bytes`, if it is there whole.
///
/// # Errors
/// [`TestingError::BrokenFrame`]: a server must not write this frame (RFC 6455, 5.1 and 5.2).
pub(crate) fn first_unit(transport: Transport, bytes: &[u8]) -> Result<Option<Unit>, TestingError> {
    match transport {
        Transport::Tcp => Ok(bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|end| Unit { bytes: bytes[..=end].to_vec(), message: Some(bytes[..end].to_vec()) })),
        Transport::WebSocket => first_frame(bytes),
    }
}

fn first_frame(bytes: &[u8]) -> Result<Option<Unit>, TestingError> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let broken = |problem| Err(TestingError::BrokenFrame { problem });
    if second & 0x80 != 0 {
        return broken("it is masked, which a server must not do");
    }
    let (extended, len) = match second {
        126 => (2, rest.first_chunk().map(|len| u64::from(u16::from_be_bytes(*len)))),
        127 => (8, rest.first_chunk().map(|len| u64::from_be_bytes(*len))),
        short => (0, Some(u64::from(short))),
    };
    let Some(len) = len else { return Ok(None) };
    let Ok(len) = usize::try_from(len) else { return broken("its length is beyond this machine") };
    let Some(payload) = rest[extended..].get(..len) else { return Ok(None) };
    let bytes = bytes[..2 + extended + len].to_vec();
    match first {
        byte if byte & FIN == 0 => broken("it is a fragment, which the lobby never writes"),
        byte if byte & OPCODE >= CLOSE => Ok(Some(Unit { bytes, message: None })),
        _ => match payload.strip_suffix(b"\n") {
            Some(message) => Ok(Some(Unit { bytes, message: Some(message.to_vec()) })),
            None => broken("its payload has no line end"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(bytes: &[u8], message: &[u8]) -> Option<Unit> {
        Some(Unit { bytes: bytes.to_vec(), message: Some(message.to_vec()) })
    }

    #[test]
    fn a_line_ends_at_its_newline_and_half_a_line_is_none() {
        assert_eq!(first_unit(Transport::Tcp, b"{}\n{").unwrap(), unit(b"{}\n", b"{}"));
        assert_eq!(first_unit(Transport::Tcp, b"{}").unwrap(), None);
    }

    #[test]
    fn frames_of_every_length_are_read_when_they_are_whole() {
        let frame = |header: &[u8], len: usize| [header, &vec![b'x'; len - 1], b"\n"].concat();
        for (header, len) in
            [(&[0x81, 3][..], 3), (&[0x81, 126, 0, 200], 200), (&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65_536)]
        {
            let bytes = frame(header, len);
            assert_eq!(first_unit(Transport::WebSocket, &bytes).unwrap(), unit(&bytes, &vec![b'x'; len - 1]));
            for cut in [0, 1, header.len() - 1, header.len(), bytes.len() - 1] {
                assert_eq!(first_unit(Transport::WebSocket, &bytes[..cut]).unwrap(), None, "{cut}");
            }
        }
        let close = [0x88, 2, 0x0f, 0xa0];
        let wanted = Some(Unit { bytes: close.to_vec(), message: None });
        assert_eq!(first_unit(Transport::WebSocket, &close).unwrap(), wanted);
    }

    #[test]
    fn a_frame_that_a_server_must_not_write_is_an_error() {
        for bytes in [&b"\x81\x83abc"[..], b"\x01\x01\n", b"\x81\x02{}"] {
            assert!(first_unit(Transport::WebSocket, bytes).is_err(), "{bytes:?}");
        }
    }
}
