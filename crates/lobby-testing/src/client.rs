//! A connected player that keeps every byte it gets.

use std::{
    io::{ErrorKind, Read as _},
    net::{Shutdown, TcpStream},
    sync::Arc,
};

use lobby_sessions::Transport;
use notify_protocol::UserId;

use crate::{
    PATIENCE, Received, TestingError,
    lobby::Inside,
    recording::{Unit, first_unit},
};

const READ_BYTES: usize = 64 << 10;

/// A logged-in client, from [`TestLobby::connect`](crate::TestLobby::connect). Dropping it leaves at once; whether the
/// lobby has noticed is only sure after [`leave`](Self::leave).
#[derive(Debug)]
pub struct Client {
    lobby: Arc<Inside>,
    user: UserId,
    transport: Transport,
    stream: TcpStream,
    /// What was read from the socket and not taken yet.
    pending: Vec<u8>,
    welcome: Vec<u8>,
}

impl Client {
    /// Reads the `welcome`.
    pub(crate) fn seated(
        lobby: Arc<Inside>,
        user: UserId,
        transport: Transport,
        stream: TcpStream,
    ) -> Result<Self, TestingError> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(TestingError::io("limit a client's reads"))?;
        let (pending, welcome) = (Vec::new(), Vec::new());
        let mut client = Self { lobby, user, transport, stream, pending, welcome };
        let welcome = client.next_unit()?.and_then(|unit| unit.message).unwrap_or_default();
        if !welcome.starts_with(br#"{"command":"welcome""#) {
            return Err(TestingError::NotWelcome { got: String::from_utf8_lossy(&welcome).into_owned() });
        }
        client.welcome = welcome;
        Ok(client)
    }

    /// Everything that the client got since the `welcome` or the last call, up to what was published last. Waits for
    /// no time: a fence is sent to the client, and what precedes it is returned.
    ///
    /// # Errors
    /// The lobby hangs, or it wrote what no client can read.
    ///
    /// ```
    /// # use lobby_testing::{TestLobby, Transport};
    /// # use notify_protocol::Notification;
    /// let lobby = TestLobby::start()?;
    /// let mut player = lobby.connect(42, Transport::Tcp)?;
    /// lobby.publish(&Notification::to_user(42).raw_json("{}").build()?)?;
    /// assert_eq!(player.read()?.bytes, b"{}\n");
    /// assert_eq!(player.read()?.bytes, b"");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(&mut self) -> Result<Received, TestingError> {
        let fence = self.lobby.fence(self.user)?;
        let mut received = Received::default();
        while let Some(Unit { bytes, message }) = self.next_unit()? {
            match message {
                Some(message) if message == fence => return Ok(received),
                // Of another client of the same user, or of an earlier read.
                Some(message) if self.lobby.is_fence(&message) => {}
                message => {
                    received.bytes.extend(bytes);
                    received.messages.extend(message);
                }
            }
        }
        received.ended = true;
        Ok(received)
    }

    /// The `welcome` that came first, without its end.
    ///
    /// ```
    /// # use lobby_testing::{TestLobby, Transport};
    /// let player = TestLobby::start()?.connect(42, Transport::Tcp)?;
    /// assert!(player.welcome().starts_with(br#"{"command":"welcome","me":{"id":42"#));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn welcome(&self) -> &[u8] {
        &self.welcome
    }

    /// How the client is connected.
    ///
    /// ```
    /// # use lobby_testing::{TestLobby, Transport};
    /// let player = TestLobby::start()?.connect(42, Transport::WebSocket)?;
    /// assert_eq!(player.transport(), Transport::WebSocket);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Leaves, and returns what had come until the lobby noticed: what is published later does not find this client.
    ///
    /// # Errors
    /// The lobby hangs, or it wrote what no client can read.
    ///
    /// ```
    /// # use lobby_testing::{Outcome, TestLobby, Transport};
    /// # use notify_protocol::Notification;
    /// let lobby = TestLobby::start()?;
    /// lobby.connect(42, Transport::Tcp)?.leave()?;
    /// let message = Notification::to_user(42).raw_json("{}").build()?;
    /// assert_eq!(lobby.publish(&message)?, Outcome::NotConnected);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn leave(mut self) -> Result<Received, TestingError> {
        // One that the lobby has closed already cannot be shut down, and need not be.
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut received = Received { ended: true, ..Received::default() };
        while let Some(Unit { bytes, message }) = self.next_unit()? {
            if !message.as_deref().is_some_and(|message| self.lobby.is_fence(message)) {
                received.bytes.extend(bytes);
                received.messages.extend(message);
            }
        }
        Ok(received)
    }

    /// The next line or frame; none at the end of the connection.
    fn next_unit(&mut self) -> Result<Option<Unit>, TestingError> {
        loop {
            if let Some(unit) = first_unit(self.transport, &self.pending)? {
                self.pending.drain(..unit.bytes.len());
                return Ok(Some(unit));
            }
            let start = self.pending.len();
            self.pending.resize(start + READ_BYTES, 0);
            let count = match self.stream.read(&mut self.pending[start..]) {
                Ok(count) => count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(TestingError::TooLong { what: "what a client waits for", limit: PATIENCE });
                }
                Err(source) => return Err(TestingError::Io { what: "read as a client", source }),
            };
            self.pending.truncate(start + count);
            if count == 0 {
                return Ok(None);
            }
        }
    }
}
