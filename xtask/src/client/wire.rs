//! The two transports: newline-framed JSON on TCP, a text frame with a trailing newline on WebSocket.
//!
//! Framing is checked on the way in: a stray newline, a missing one or a binary frame is an error, for it would
//! break a client that splits on newlines.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::{Error as WebSocketError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::Ended;
use super::line::Line;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    Tcp,
    WebSocket,
}

impl Transport {
    pub(crate) const BOTH: [Self; 2] = [Self::Tcp, Self::WebSocket];
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::WebSocket => "WebSocket",
        })
    }
}

/// What is out of the ordinary about a connection.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Dialing {
    /// Bytes the kernel may hold for a client that does not read.
    pub(crate) receive_buffer: Option<u32>,
    /// The address to come from; only Linux has more than one on the loopback interface.
    pub(crate) from: Option<IpAddr>,
    /// WebSocket: offers this subprotocol and insists that it is echoed.
    pub(crate) subprotocol: Option<&'static str>,
}

#[derive(Debug)]
pub(super) enum Incoming {
    Line(Line),
    Ended(Ended),
}

#[derive(Debug)]
pub(super) enum Wire {
    Tcp { read: BufReader<OwnedReadHalf>, part: Vec<u8>, write: OwnedWriteHalf },
    WebSocket { stream: Box<WebSocketStream<TcpStream>>, close: Option<(u16, String)> },
}

impl Wire {
    pub(super) async fn connect(
        transport: Transport,
        address: SocketAddr,
        how: Dialing,
    ) -> anyhow::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(bytes) = how.receive_buffer {
            socket.set_recv_buffer_size(bytes).context("limit the receive buffer")?;
        }
        if let Some(from) = how.from {
            socket.bind(SocketAddr::new(from, 0)).context("choose an address")?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        if transport == Transport::Tcp {
            let (read, write) = stream.into_split();
            return Ok(Self::Tcp { read: BufReader::new(read), part: Vec::new(), write });
        }
        let mut request = format!("ws://{address}/").into_client_request()?;
        if let Some(name) = how.subprotocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", name.parse()?);
        }
        let (stream, response) =
            tokio_tungstenite::client_async(request, stream).await.context("WebSocket handshake")?;
        let echoed = response.headers().get("Sec-WebSocket-Protocol").and_then(|value| value.to_str().ok());
        ensure!(echoed == how.subprotocol, "offered subprotocol {:?}, got {echoed:?}", how.subprotocol);
        Ok(Self::WebSocket { stream: Box::new(stream), close: None })
    }

    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Tcp { .. } => Transport::Tcp,
            Self::WebSocket { .. } => Transport::WebSocket,
        }
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Tcp { write, .. } => {
                let mut line = message.to_vec();
                line.push(b'\n');
                write.write_all(&line).await.context("write")
            }
            Self::WebSocket { stream, .. } => {
                let data = Bytes::copy_from_slice(message);
                let frame = Frame::message(data, OpCode::Data(Data::Text), true);
                stream.send(Message::Frame(frame)).await.context("write")
            }
        }
    }

    /// The next message. Dropped before it is ready, it loses nothing: the next call goes on.
    pub(super) async fn read(&mut self) -> anyhow::Result<Incoming> {
        match self {
            Self::Tcp { read, part, .. } => read_line(read, part).await,
            Self::WebSocket { stream, close } => read_frame(stream, close).await,
        }
    }
}

async fn read_line(read: &mut BufReader<OwnedReadHalf>, part: &mut Vec<u8>) -> anyhow::Result<Incoming> {
    match read.read_until(b'\n', part).await {
        Ok(0) if part.is_empty() => return Ok(Incoming::Ended(Ended { frame: None, broken: None })),
        Ok(_) => {}
        Err(error) => {
            return Ok(Incoming::Ended(Ended { frame: None, broken: Some(error.to_string()) }));
        }
    }
    let mut line = std::mem::take(part);
    ensure!(line.pop() == Some(b'\n'), "the stream ended inside a line: {}", Line::new(line));
    ensure!(!line.contains(&b'\r'), "a carriage return inside a line: {}", Line::new(line));
    Ok(Incoming::Line(Line::new(line)))
}

async fn read_frame(
    stream: &mut WebSocketStream<TcpStream>,
    close: &mut Option<(u16, String)>,
) -> anyhow::Result<Incoming> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => {
                let mut bytes = Bytes::from(text);
                ensure!(bytes.ends_with(b"\n"), "a frame without its newline: {}", Line::new(bytes));
                bytes.truncate(bytes.len() - 1);
                let line = Line::new(bytes);
                ensure!(!line.bytes().contains(&b'\n'), "a newline inside a frame: {line}");
                ensure!(!line.bytes().contains(&b'\r'), "a carriage return inside a frame: {line}");
                return Ok(Incoming::Line(line));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Binary(bytes))) => bail!("a binary frame: {}", Line::new(bytes)),
            // Reading on sends the answer to the close and ends the stream.
            Some(Ok(Message::Close(frame))) => {
                *close = frame.map(|close| (u16::from(close.code), close.reason.as_str().to_owned()));
            }
            None | Some(Err(WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed)) => {
                return Ok(Incoming::Ended(Ended { frame: close.take(), broken: None }));
            }
            Some(Err(
                WebSocketError::Io(_) | WebSocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake),
            )) if close.is_some() => {
                return Ok(Incoming::Ended(Ended { frame: close.take(), broken: None }));
            }
            Some(Err(
                error @ (WebSocketError::Io(_)
                | WebSocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake)),
            )) => return Ok(Incoming::Ended(Ended { frame: close.take(), broken: Some(error.to_string()) })),
            Some(Err(error)) => return Err(error).context("WebSocket"),
        }
    }
}
