//! A game client as the lobby sees it, over TCP or WebSocket, that keeps every byte it got.
//!
//! It answers the lobby's pings by itself (unless told not to) and hands out everything else as [`Line`]s. Nothing
//! is decided by waiting: a scenario reads up to a sentinel, to an answer, or to the end of the connection, and
//! [`PATIENCE`] only bounds how long that may take.

mod line;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio::time::timeout;

pub(crate) use line::{Line, without_insignificant_space};
pub(crate) use wire::{Dialing, Transport};
use wire::{Incoming, Wire};

use crate::PATIENCE;
use crate::contract::ClientMessage;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Code and reason of the WebSocket close frame.
    pub(crate) frame: Option<(u16, String)>,
    /// The socket broke instead of being closed.
    pub(crate) broken: Option<String>,
}

/// What comes from the lobby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Line(Line),
    Ended(Ended),
}

/// The end of a connection as the protocol wants it: a `closing` line, then the close frame or the end.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) reconnect: bool,
    pub(crate) retry_after_ms: Option<u64>,
    /// Every line before the `closing`.
    pub(crate) before: Vec<Line>,
}

/// One connection to the lobby.
#[derive(Debug)]
pub(crate) struct Client {
    wire: Wire,
    name: String,
    answers_pings: bool,
    pings: u64,
    patience: Duration,
    /// What came while something else was awaited.
    kept: VecDeque<Event>,
}

impl Client {
    pub(crate) async fn connect(transport: Transport, address: SocketAddr) -> anyhow::Result<Self> {
        Self::dial(transport, address, Dialing::default()).await
    }

    /// Connects with something out of the ordinary.
    pub(crate) async fn dial(
        transport: Transport,
        address: SocketAddr,
        how: Dialing,
    ) -> anyhow::Result<Self> {
        let name = format!("{transport} client");
        let dialing = timeout(PATIENCE, Wire::connect(transport, address, how)).await;
        let wire = dialing
            .with_context(|| format!("{name}: no connection in {PATIENCE:?}"))?
            .with_context(|| format!("{name}: connect to {address}"))?;
        Ok(Self { wire, name, answers_pings: true, pings: 0, patience: PATIENCE, kept: VecDeque::new() })
    }

    /// The name in every error of this client.
    #[must_use]
    pub(crate) fn named(mut self, name: impl std::fmt::Display) -> Self {
        self.name = format!("{name} ({})", self.wire.transport());
        self
    }

    /// Waits this long for each message instead of [`PATIENCE`], for what has to happen in between.
    pub(crate) fn patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn transport(&self) -> Transport {
        self.wire.transport()
    }

    /// From now on the lobby's pings stay unanswered.
    pub(crate) fn ignore_pings(&mut self) {
        self.answers_pings = false;
    }

    /// Pings got so far, answered or not.
    pub(crate) fn pings(&self) -> u64 {
        self.pings
    }

    /// Sends one message as a client would: a line on TCP, a text frame on WebSocket.
    pub(crate) async fn send(&mut self, message: &str) -> anyhow::Result<()> {
        self.send_bytes(message.as_bytes()).await
    }

    /// The same with bytes that need not be UTF-8 (still a text frame on WebSocket).
    pub(crate) async fn send_bytes(&mut self, message: &[u8]) -> anyhow::Result<()> {
        let sending = timeout(PATIENCE, self.wire.send(message)).await;
        sending
            .with_context(|| format!("{}: the lobby took nothing for {PATIENCE:?}", self.name))?
            .with_context(|| format!("{}: send", self.name))
    }

    /// Sends a token; the caller reads the answer.
    pub(crate) async fn authenticate(&mut self, token: &str) -> anyhow::Result<()> {
        let auth = json!({"command": "auth", "token": token}).to_string();
        ClientMessage::Auth.check(auth.as_bytes())?;
        self.send(&auth).await
    }

    /// Logs in and checks that nothing comes before the `welcome`.
    pub(crate) async fn login(&mut self, token: &str) -> anyhow::Result<Line> {
        self.authenticate(token).await?;
        let line = self.line().await?;
        ensure!(line.command() == Some("welcome".to_owned()), "{}: wanted `welcome`, got {line}", self.name);
        ClientMessage::Welcome.check(line.bytes())?;
        Ok(line)
    }

    /// The next line or the end; pings are answered and not shown.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            if let Some(event) = self.step().await? {
                return Ok(event);
            }
        }
    }

    /// Reads until this many pings came; anything else is an error.
    pub(crate) async fn pinged(&mut self, times: u64) -> anyhow::Result<()> {
        while self.pings < times {
            if let Some(event) = self.step().await? {
                bail!("{}: wanted a ping, got {event:?}", self.name);
            }
        }
        Ok(())
    }

    /// Does `work`. Meanwhile the lobby's pings are answered, and all else that comes is kept for the next read.
    ///
    /// A client that nobody reads is silent, and the lobby closes it.
    pub(crate) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut work = pin!(work);
        while !matches!(self.kept.back(), Some(Event::Ended(_))) {
            let incoming = tokio::select! {
                done = &mut work => return done,
                incoming = self.wire.read() => incoming.with_context(|| format!("{}: read", self.name))?,
            };
            let event = self.event(incoming).await;
            self.kept.extend(event);
        }
        work.await
    }

    /// One message; `None` when it was a ping.
    async fn step(&mut self) -> anyhow::Result<Option<Event>> {
        if let Some(event) = self.kept.pop_front() {
            return Ok(Some(event));
        }
        let reading = timeout(self.patience, self.wire.read()).await;
        let incoming = reading
            .with_context(|| format!("{}: nothing came in {:?}", self.name, self.patience))?
            .with_context(|| format!("{}: read", self.name))?;
        Ok(self.event(incoming).await)
    }

    async fn event(&mut self, incoming: Incoming) -> Option<Event> {
        match incoming {
            Incoming::Ended(ended) => Some(Event::Ended(ended)),
            Incoming::Line(line) if line.is_ping() => {
                self.pings += 1;
                if self.answers_pings {
                    // The end that makes this fail is read next.
                    let _ = self.wire.send(br#"{"command":"pong"}"#).await;
                }
                None
            }
            Incoming::Line(line) => Some(Event::Line(line)),
        }
    }

    /// The next line; the end is an error.
    pub(crate) async fn line(&mut self) -> anyhow::Result<Line> {
        match self.next().await? {
            Event::Line(line) => Ok(line),
            Event::Ended(ended) => {
                bail!("{}: the connection ended where a line was due: {ended:?}", self.name)
            }
        }
    }

    /// The next line, which must have this `command`.
    pub(crate) async fn command(&mut self, command: &str) -> anyhow::Result<Line> {
        let line = self.line().await?;
        ensure!(line.command().as_deref() == Some(command), "{}: wanted `{command}`, got {line}", self.name);
        if let Some(message) = ClientMessage::of_command(command) {
            message.check(line.bytes())?;
        }
        Ok(line)
    }

    /// Everything before the line that holds `sentinel`.
    pub(crate) async fn expect_until(&mut self, sentinel: &str) -> anyhow::Result<Vec<Line>> {
        let mut lines = Vec::new();
        loop {
            match self
                .next()
                .await
                .with_context(|| format!("after {} lines, before `{sentinel}`", lines.len()))?
            {
                Event::Line(line) if line.holds(sentinel) => return Ok(lines),
                Event::Line(line) => lines.push(line),
                Event::Ended(ended) => bail!(
                    "{}: the connection ended before `{sentinel}`: {ended:?}; last lines: {}",
                    self.name,
                    line::last(&lines)
                ),
            }
        }
    }

    /// Everything up to the end of the connection, and how it ended.
    pub(crate) async fn until_end(&mut self) -> anyhow::Result<(Vec<Line>, Ended)> {
        let mut lines = Vec::new();
        loop {
            match self.next().await? {
                Event::Line(line) => lines.push(line),
                Event::Ended(ended) => return Ok((lines, ended)),
            }
        }
    }

    /// Reads to the end, which must be a `closing` line and, on WebSocket, a close frame of the same code and reason.
    pub(crate) async fn expect_closing(&mut self) -> anyhow::Result<Closing> {
        let (before, ended) = self.until_end().await?;
        self.closing(before, ended)
    }

    /// Like [`Self::expect_closing`], with the code and whether the client may come back.
    pub(crate) async fn expect_close(&mut self, code: u16) -> anyhow::Result<Closing> {
        let closing = self.expect_closing().await?;
        let name = &self.name;
        ensure!(
            closing.code == code,
            "{name}: wanted close {code}, got {} ({})",
            closing.code,
            closing.reason
        );
        let reconnect = matches!(code, 1001 | 1012 | 1013 | 4000..=4499);
        ensure!(
            closing.reconnect == reconnect,
            "{name}: `closing` {code} says reconnect {}",
            closing.reconnect
        );
        Ok(closing)
    }

    /// Judges what [`Self::until_end`] returned.
    pub(crate) fn closing(&self, mut before: Vec<Line>, ended: Ended) -> anyhow::Result<Closing> {
        let name = &self.name;
        let Some(last) = before.pop() else { bail!("{name}: ended without a line: {ended:?}") };
        ensure!(last.command().as_deref() == Some("closing"), "{name}: the last line is {last}; {ended:?}");
        ClientMessage::Closing.check(last.bytes())?;
        let json = last.json()?;
        let code = json["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        let code = code.with_context(|| format!("{name}: code in {last}"))?;
        let reason = json["reason"].as_str().with_context(|| format!("{name}: reason in {last}"))?.to_owned();
        if self.transport() == Transport::WebSocket {
            let wanted = Some((code, reason.clone()));
            ensure!(ended.frame == wanted, "{name}: `closing` says {wanted:?}, the close frame {ended:?}");
        }
        let reconnect =
            json["reconnect"].as_bool().with_context(|| format!("{name}: reconnect in {last}"))?;
        let retry_after_ms = json["retry_after_ms"].as_u64();
        Ok(Closing { code, reason, reconnect, retry_after_ms, before })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A fake lobby that says `speech` to one TCP client, closes, and returns what the client said.
    async fn fake(speech: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let said = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(speech).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            said
        });
        (address, said)
    }

    #[tokio::test]
    async fn a_client_answers_pings_and_reads_up_to_the_sentinel() {
        let (address, said) = fake(b"{\"a\": 1}\n{\"command\":\"ping\"}\n{\"id\":\"s-1\"}\n").await;
        let mut client = Client::connect(Transport::Tcp, address).await.unwrap();
        let lines = client.expect_until("s-1").await.unwrap();
        assert_eq!(lines, [Line::new(b"{\"a\": 1}".to_vec())]);
        assert_eq!(client.pings(), 1);
        assert!(client.expect_until("s-2").await.is_err());
        drop(client);
        assert_eq!(said.await.unwrap(), "{\"command\":\"pong\"}\n");
    }

    #[tokio::test]
    async fn a_client_answers_pings_while_something_else_is_done_and_keeps_what_came() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = Client::connect(Transport::Tcp, address).await.unwrap();
        let (mut lobby, _) = listener.accept().await.unwrap();
        let pong = "{\"command\":\"pong\"}\n";
        let work = async {
            lobby.write_all(b"{\"a\":1}\n{\"command\":\"ping\"}\n{\"b\"").await?;
            let mut answer = vec![0; pong.len()];
            lobby.read_exact(&mut answer).await?;
            Ok(String::from_utf8(answer)?)
        };
        assert_eq!(client.meanwhile(work).await.unwrap(), pong);
        lobby.write_all(b":2}\n").await.unwrap();
        drop(lobby);
        let (lines, ended) = client.until_end().await.unwrap();
        assert_eq!(lines, [Line::new(&b"{\"a\":1}"[..]), Line::new(&b"{\"b\":2}"[..])]);
        assert_eq!((ended.broken, client.pings()), (None, 1));
    }

    #[tokio::test]
    async fn a_connection_that_ends_without_closing_is_not_a_close() {
        let (address, _said) = fake(b"{\"a\":1}\n").await;
        let mut client = Client::connect(Transport::Tcp, address).await.unwrap();
        assert!(client.expect_closing().await.is_err());
        let (address, _said) =
            fake(b"{\"command\":\"closing\",\"code\":4501,\"reason\":\"replaced\",\"reconnect\":false}\n")
                .await;
        let mut client = Client::connect(Transport::Tcp, address).await.unwrap();
        assert_eq!(client.expect_close(4501).await.unwrap().reason, "replaced");
    }

    #[tokio::test]
    async fn a_line_without_its_newline_is_an_error() {
        let (address, _said) = fake(b"{\"a\":1}").await;
        let mut client = Client::connect(Transport::Tcp, address).await.unwrap();
        assert!(client.next().await.is_err());
    }
}
