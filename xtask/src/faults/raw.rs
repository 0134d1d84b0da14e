//! A connection to the lobby driven byte by byte, for what no library would say.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::PATIENCE;
use crate::client::Transport;

/// More than the lobby says to any of these clients before it closes.
const MOST_HEARD: usize = 1 << 20;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// One connection.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) stream: TcpStream,
    transport: Transport,
}

/// How the lobby ended a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    /// All that was heard, to the end.
    pub(super) heard: Vec<u8>,
    /// The code in the `closing` line, which is also that of the close frame.
    pub(super) code: Option<u16>,
    /// The status of an HTTP answer.
    pub(super) status: Option<u16>,
    /// The end was a reset.
    pub(super) reset: bool,
}

/// How a connection that asked to be let in fared.
#[derive(Debug)]
pub(super) enum Knock {
    In(Raw),
    /// Told to come back after this long.
    Later(Duration),
}

impl Raw {
    /// Connects, and says nothing.
    pub(super) async fn dial(transport: Transport, address: SocketAddr) -> anyhow::Result<Self> {
        Self::dial_with(transport, address, None).await
    }

    /// The same with a limit on what the kernel holds for a client that does not read.
    pub(super) async fn dial_with(
        transport: Transport,
        address: SocketAddr,
        receive_buffer: Option<u32>,
    ) -> anyhow::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = timeout(PATIENCE, socket.connect(address)).await;
        let stream = stream.with_context(|| format!("no connection in {PATIENCE:?}"))?.context("connect")?;
        Self::over(transport, stream)
    }

    /// Takes a socket that is connected.
    pub(super) fn over(transport: Transport, stream: TcpStream) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, transport })
    }

    /// Does what comes before the first message: nothing on TCP, the upgrade on WebSocket.
    pub(super) async fn begin(&mut self) -> anyhow::Result<()> {
        if self.transport == Transport::WebSocket {
            self.write(upgrade("").as_bytes()).await?;
            let head = self.hear(|heard| heard.ends_with(b"\r\n\r\n")).await?;
            ensure!(head.starts_with(b"HTTP/1.1 101 "), "not upgraded: {}", head.escape_ascii());
        }
        Ok(())
    }

    /// Begins and logs in.
    pub(super) async fn login(&mut self, token: &str) -> anyhow::Result<()> {
        self.begin().await?;
        self.write(&self.message(auth(token).as_bytes())).await?;
        let welcome = self.hear(|heard| heard.ends_with(b"\n")).await?;
        ensure!(holds(&welcome, br#""command":"welcome""#), "not welcome: {}", welcome.escape_ascii());
        Ok(())
    }

    /// Connects and logs in, or hears when to come back.
    pub(super) async fn knock(
        transport: Transport,
        address: SocketAddr,
        token: &str,
    ) -> anyhow::Result<Knock> {
        let mut raw = Self::dial(transport, address).await?;
        let words = match transport {
            Transport::Tcp => raw.message(auth(token).as_bytes()),
            Transport::WebSocket => upgrade("").into_bytes(),
        };
        // Who is turned away may find the door closed already; the answer says so.
        let _ = raw.write(&words).await;
        let end = if transport == Transport::Tcp { &b"\n"[..] } else { b"\r\n\r\n" };
        let answer = raw.hear(|heard| holds(heard, end)).await?;
        if transport == Transport::WebSocket && answer.starts_with(b"HTTP/1.1 101 ") {
            raw.write(&raw.message(auth(token).as_bytes())).await?;
            let welcome = raw.hear(|heard| heard.ends_with(b"\n")).await?;
            ensure!(holds(&welcome, b"welcome"), "not welcome: {}", welcome.escape_ascii());
            return Ok(Knock::In(raw));
        }
        if transport == Transport::Tcp && holds(&answer, br#""command":"welcome""#) {
            return Ok(Knock::In(raw));
        }
        if let Some(seconds) = number_after(&answer, b"Retry-After: ") {
            return Ok(Knock::Later(Duration::from_secs(seconds)));
        }
        match number_after(&answer, br#""retry_after_ms":"#) {
            Some(millis) => Ok(Knock::Later(Duration::from_millis(millis))),
            None => bail!("neither let in nor told when to come back: {}", answer.escape_ascii()),
        }
    }

    /// `text` as one message of this transport.
    pub(super) fn message(&self, text: &[u8]) -> Vec<u8> {
        match self.transport {
            Transport::Tcp => [text, b"\n"].concat(),
            Transport::WebSocket => frame(TEXT, text),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let written = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        written.with_context(|| format!("the lobby took nothing for {PATIENCE:?}"))?.context("write")
    }

    /// Reads until `enough` says so of all that was heard by this call.
    pub(super) async fn hear(&mut self, enough: impl Fn(&[u8]) -> bool) -> anyhow::Result<Vec<u8>> {
        let mut heard = Vec::new();
        let mut part = [0; 4096];
        while !enough(&heard) {
            let read = timeout(PATIENCE, self.stream.read(&mut part)).await;
            let count = read
                .with_context(|| format!("nothing came in {PATIENCE:?}, after {}", heard.escape_ascii()))?
                .with_context(|| format!("after {}", heard.escape_ascii()))?;
            ensure!(count > 0, "the lobby closed after {}", heard.escape_ascii());
            heard.extend_from_slice(&part[..count]);
        }
        Ok(heard)
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// The lobby does not close within `patience`, never stops talking, or says one code in its line and another in
    /// its close frame.
    pub(super) async fn ending(mut self, patience: Duration) -> anyhow::Result<Ending> {
        let mut heard = Vec::new();
        let mut part = vec![0; 16 * 1024];
        let reading = async {
            loop {
                match self.stream.read(&mut part).await {
                    Ok(0) => return Ok(false),
                    Err(_) => return Ok(true),
                    Ok(count) => heard.extend_from_slice(&part[..count]),
                }
                ensure!(heard.len() < MOST_HEARD, "more than {MOST_HEARD} bytes and no end");
            }
        };
        let reset = timeout(patience, reading)
            .await
            .with_context(|| format!("the lobby did not close in {patience:?}"))??;
        Ending::of(self.transport, heard, reset)
    }

    /// Ends it with a reset.
    pub(super) fn reset(self) -> anyhow::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).context("a reset")
    }
}

impl Ending {
    fn of(transport: Transport, heard: Vec<u8>, reset: bool) -> anyhow::Result<Self> {
        let number = |text: &[u8]| number_after(&heard, text).and_then(|number| u16::try_from(number).ok());
        let status = number(b"HTTP/1.1 ").filter(|status| *status != 101);
        let code = number(br#""command":"closing","code":"#);
        if let (Transport::WebSocket, Some(code)) = (transport, code) {
            let framed = closed_with(&heard);
            ensure!(framed == Some(code), "`closing` says {code}, the close frame {framed:?}");
        }
        Ok(Self { heard, code, status, reset })
    }
}

/// The request of an upgrade, with more headers, each with its line end.
pub(super) fn upgrade(headers: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: lobby.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// The login's message.
pub(super) fn auth(token: &str) -> String {
    format!(r#"{{"command":"auth","token":"{token}"}}"#)
}

/// A client's WebSocket frame: `first` holds its flags and opcode. The mask is zero, which leaves the payload as it is.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

/// Whether `part` stands anywhere in `bytes`.
pub(super) fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The first number that stands right behind `text`.
fn number_after(bytes: &[u8], text: &[u8]) -> Option<u64> {
    let at = bytes.windows(text.len()).position(|window| window == text)? + text.len();
    let digits: Vec<u8> = bytes[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    String::from_utf8(digits).ok()?.parse().ok()
}

/// The code of the close frame with which the bytes end.
fn closed_with(heard: &[u8]) -> Option<u16> {
    let begin = (0..heard.len().saturating_sub(3)).rev().find(|&at| {
        heard[at] == CLOSE && usize::from(heard[at + 1]) + 2 == heard.len() - at && heard[at + 1] >= 2
    })?;
    Some(u16::from_be_bytes([heard[begin + 2], heard[begin + 3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_tells_code_and_status() {
        let line = b"{\"command\":\"closing\",\"code\":1002,\"reason\":\"x\",\"reconnect\":false}\n";
        let tcp = Ending::of(Transport::Tcp, line.to_vec(), true).unwrap();
        assert_eq!((tcp.code, tcp.status, tcp.reset), (Some(1002), None, true));
        let frames = |code: u16| {
            let [high, low] = code.to_be_bytes();
            [&[0x81, line.len() as u8], &line[..], &[CLOSE, 3, high, low, b'x']].concat()
        };
        assert_eq!(Ending::of(Transport::WebSocket, frames(1002), false).unwrap().code, Some(1002));
        assert!(Ending::of(Transport::WebSocket, frames(1000), false).is_err());
        let refused = b"HTTP/1.1 431 Too Large\r\n\r\n".to_vec();
        assert_eq!(Ending::of(Transport::WebSocket, refused, false).unwrap().status, Some(431));
    }

    #[test]
    fn frames_have_the_shortest_length() {
        assert_eq!(frame(0x89, b"x"), [0x89, 0x81, 0, 0, 0, 0, b'x']);
        assert_eq!(frame(0x81, &[b'x'; 126])[..4], [0x81, 0xfe, 0, 126]);
        assert_eq!(frame(0x81, &vec![b'x'; 65_536])[..10], [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
