//! One socket to the broker with one channel on it: handshake, heartbeats, calls with their replies.
//!
//! A task reads, a task writes (and sends the heartbeats). Confirms and returns go into the [`Ledger`] the moment
//! they are read, whoever waits for what. Whatever ends the connection or the channel ends both, with the reason.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::frame::{BASIC, BODY, Decoder, Encoder, HEADER, HEARTBEAT, METHOD, push_frame, read_frame};
use super::publisher::Ledger;
use super::url::AmqpUrl;
use super::written::{WrittenHeader, WrittenProperties, written};
use crate::PATIENCE;

/// Asked of the broker; half of it between two heartbeats of ours.
const HEARTBEAT_SECONDS: u16 = 10;
const CHANNEL: u16 = 1;
/// What the broker's management calls these connections, so that others can be told from them.
pub(crate) const CONNECTION_NAME: &str = "end-to-end tests";

/// What `queue.declare` answers. `messages` counts those that wait, not those delivered and unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueState {
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

/// One message taken with `basic.get`.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) redelivered: bool,
    pub(crate) properties: WrittenProperties,
    pub(crate) headers: Vec<WrittenHeader>,
    pub(crate) body: Vec<u8>,
}

/// An open connection with one open channel; dropping it cuts the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    writes: mpsc::Sender<Bytes>,
    replies: tokio::sync::Mutex<mpsc::Receiver<Reply>>,
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
    frame_max: usize,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    ledger: Mutex<Ledger>,
    /// Told whenever the ledger changed or the connection ended.
    pub(super) changed: Notify,
    ended: OnceLock<String>,
}

impl Shared {
    /// The ledger for one short look; a panic elsewhere does not make it unreadable.
    pub(super) fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self, reason: String) {
        let _ = self.ended.set(reason);
        self.changed.notify_one();
    }

    pub(super) fn ended(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }
}

#[derive(Debug)]
struct Reply {
    class: u16,
    method: u16,
    arguments: Vec<u8>,
    properties: Vec<u8>,
    body: Vec<u8>,
}

impl Connection {
    /// Connects, logs in with PLAIN, opens the virtual host and a channel.
    pub(crate) async fn open(url: &AmqpUrl) -> anyhow::Result<Self> {
        let address = url.address();
        let opening = timeout(PATIENCE, Self::handshake(url)).await;
        opening
            .with_context(|| format!("the broker at {address} did not answer in {PATIENCE:?}"))?
            .with_context(|| format!("open AMQP connection to {address}, virtual host `{}`", url.vhost))
    }

    async fn handshake(url: &AmqpUrl) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(url.address()).await.context("connect")?;
        stream.set_nodelay(true).context("no delay")?;
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::with_capacity(64 * 1024, read);
        write.write_all(b"AMQP\x00\x00\x09\x01").await?;
        expect(&mut read, 10, 10).await?;
        let mut start_ok = Encoder::method(10, 11);
        start_ok.long_bytes(&capabilities()?)?;
        start_ok.short_string("PLAIN")?;
        start_ok.long_bytes(format!("\0{}\0{}", url.user, url.password).as_bytes())?;
        start_ok.short_string("en_US")?;
        send(&mut write, 0, start_ok).await?;
        let tune = expect(&mut read, 10, 30).await?;
        let mut tune = Decoder(&tune[4..]);
        let (channels, frame_max) = (tune.u16()?, tune.u32()?);
        let mut tune_ok = Encoder::method(10, 31);
        tune_ok.0.extend(channels.to_be_bytes());
        tune_ok.0.extend(frame_max.to_be_bytes());
        tune_ok.0.extend(HEARTBEAT_SECONDS.to_be_bytes());
        send(&mut write, 0, tune_ok).await?;
        let mut open = Encoder::method(10, 40);
        open.short_string(&url.vhost)?;
        open.short_string("")?;
        open.0.push(0);
        send(&mut write, 0, open).await?;
        expect(&mut read, 10, 41).await?;
        let mut channel = Encoder::method(20, 10);
        channel.short_string("")?;
        send(&mut write, CHANNEL, channel).await?;
        expect(&mut read, 20, 11).await?;

        let shared = Arc::new(Shared::default());
        let (writes, to_write) = mpsc::channel(256);
        let (to_reply, replies) = mpsc::channel(16);
        let writer = tokio::spawn(write_loop(write, to_write, Arc::clone(&shared)));
        let answers = writes.clone();
        let reader = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                if let Err(error) = read_loop(read, &shared, &answers, &to_reply).await {
                    shared.end(format!("{error:#}"));
                }
            }
        });
        Ok(Self {
            writes,
            replies: tokio::sync::Mutex::new(replies),
            shared,
            tasks: [writer.abort_handle(), reader.abort_handle()],
            frame_max: if frame_max == 0 { 128 * 1024 } else { usize::try_from(frame_max)? },
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn frame_max(&self) -> usize {
        self.frame_max
    }

    /// Queues raw frames behind all earlier ones.
    pub(super) async fn write(&self, frames: Bytes) -> anyhow::Result<()> {
        if let Some(reason) = self.shared.ended() {
            bail!("connection to the broker ended: {reason}");
        }
        self.writes.send(frames).await.map_err(|_| self.gone())
    }

    fn gone(&self) -> anyhow::Error {
        anyhow!("connection to the broker ended: {}", self.shared.ended().unwrap_or("writer stopped"))
    }

    /// Writes a method and waits for the reply `(class, one of methods)`.
    async fn call(&self, request: Encoder, class: u16, methods: &[u16]) -> anyhow::Result<Reply> {
        let mut replies = self.replies.lock().await;
        let mut frames = BytesMut::new();
        push_frame(&mut frames, METHOD, CHANNEL, &request.0)?;
        self.write(frames.freeze()).await?;
        let reply = timeout(PATIENCE, replies.recv()).await.context("the broker did not reply")?;
        let reply = reply.ok_or_else(|| self.gone())?;
        ensure!(
            reply.class == class && methods.contains(&reply.method),
            "the broker answered {}.{} instead of {class}.{methods:?}",
            reply.class,
            reply.method
        );
        Ok(reply)
    }

    /// Puts the channel into confirm mode.
    pub(super) async fn confirm_select(&self) -> anyhow::Result<()> {
        let mut request = Encoder::method(85, 10);
        request.0.push(0);
        self.call(request, 85, &[11]).await.map(drop).context("confirm.select")
    }

    /// Declares a durable topic exchange.
    pub(crate) async fn declare_exchange(&self, name: &str) -> anyhow::Result<()> {
        let mut request = Encoder::method(40, 10);
        request.0.extend([0, 0]);
        request.short_string(name)?;
        request.short_string("topic")?;
        request.0.push(0b0_0010);
        request.long_bytes(&[])?;
        self.call(request, 40, &[11]).await.map(drop).with_context(|| format!("declare exchange `{name}`"))
    }

    /// Declares a queue of this connection's own, bound to `exchange`, and returns its name.
    pub(crate) async fn eavesdrop(&self, exchange: &str, routing_key: &str) -> anyhow::Result<String> {
        const EXCLUSIVE: u8 = 0b0_0100;
        let mut request = Encoder::method(50, 10);
        request.0.extend([0, 0]);
        request.short_string("")?;
        request.0.push(EXCLUSIVE);
        request.long_bytes(&[])?;
        let reply = self.call(request, 50, &[11]).await.context("declare a queue of our own")?;
        let queue = Decoder(&reply.arguments).short_string()?;
        let mut request = Encoder::method(50, 20);
        request.0.extend([0, 0]);
        request.short_string(&queue)?;
        request.short_string(exchange)?;
        request.short_string(routing_key)?;
        request.0.push(0);
        request.long_bytes(&[])?;
        self.call(request, 50, &[21]).await.with_context(|| format!("bind a queue to `{exchange}`"))?;
        Ok(queue)
    }

    /// Asks for a queue that must exist (passive declare). A queue that does not closes the connection.
    pub(crate) async fn queue_state(&self, name: &str) -> anyhow::Result<QueueState> {
        let mut request = Encoder::method(50, 10);
        request.0.extend([0, 0]);
        request.short_string(name)?;
        request.0.push(1);
        request.long_bytes(&[])?;
        let reply = self.call(request, 50, &[11]).await.with_context(|| format!("look at queue `{name}`"))?;
        let mut arguments = Decoder(&reply.arguments);
        arguments.short_string()?;
        Ok(QueueState { messages: arguments.u32()?, consumers: arguments.u32()? })
    }

    /// Deletes a queue whatever is in it.
    pub(crate) async fn delete_queue(&self, name: &str) -> anyhow::Result<()> {
        let mut request = Encoder::method(50, 40);
        request.0.extend([0, 0]);
        request.short_string(name)?;
        request.0.push(0);
        self.call(request, 50, &[41]).await.map(drop).with_context(|| format!("delete queue `{name}`"))
    }

    /// Removes one binding of a queue.
    pub(crate) async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> anyhow::Result<()> {
        let mut request = Encoder::method(50, 50);
        request.0.extend([0, 0]);
        request.short_string(queue)?;
        request.short_string(exchange)?;
        request.short_string(routing_key)?;
        request.long_bytes(&[])?;
        self.call(request, 50, &[51]).await.map(drop).with_context(|| format!("unbind queue `{queue}`"))
    }

    /// Deletes an exchange with all its bindings.
    pub(crate) async fn delete_exchange(&self, name: &str) -> anyhow::Result<()> {
        let mut request = Encoder::method(40, 20);
        request.0.extend([0, 0]);
        request.short_string(name)?;
        request.0.push(0);
        self.call(request, 40, &[21]).await.map(drop).with_context(|| format!("delete exchange `{name}`"))
    }

    /// Removes what waits in a queue, not what is delivered and unacknowledged.
    pub(crate) async fn purge(&self, name: &str) -> anyhow::Result<()> {
        let mut request = Encoder::method(50, 30);
        request.0.extend([0, 0]);
        request.short_string(name)?;
        request.0.push(0);
        self.call(request, 50, &[31]).await.map(drop).with_context(|| format!("purge queue `{name}`"))
    }

    /// Takes one message without acknowledging it; `None` when the queue is empty.
    ///
    /// The message goes back, marked redelivered, when this connection ends.
    pub(crate) async fn get(&self, queue: &str) -> anyhow::Result<Option<Got>> {
        let mut request = Encoder::method(BASIC, 70);
        request.0.extend([0, 0]);
        request.short_string(queue)?;
        request.0.push(0);
        let reply =
            self.call(request, BASIC, &[71, 72]).await.with_context(|| format!("get from `{queue}`"))?;
        if reply.method == 72 {
            return Ok(None);
        }
        let mut arguments = Decoder(&reply.arguments);
        arguments.u64()?;
        let (properties, headers) = written(&reply.properties).context("the properties of a message")?;
        Ok(Some(Got { redelivered: arguments.u8()? & 1 == 1, properties, headers, body: reply.body }))
    }

    /// Says goodbye and waits for the broker's answer.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let mut request = Encoder::method(20, 40);
        request.0.extend(200u16.to_be_bytes());
        request.short_string("done")?;
        request.0.extend([0; 4]);
        self.call(request, 20, &[41]).await.map(drop).context("close the channel")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Client properties: a name, and the capabilities without which the broker sends neither `basic.nack` nor a reason.
fn capabilities() -> anyhow::Result<Vec<u8>> {
    let mut inner = Encoder::default();
    for name in ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "authentication_failure_close"]
    {
        inner.short_string(name)?;
        inner.0.extend(*b"t\x01");
    }
    let mut table = Encoder::default();
    table.short_string("capabilities")?;
    table.0.push(b'F');
    table.long_bytes(&inner.0)?;
    table.short_string("connection_name")?;
    table.0.push(b'S');
    table.long_bytes(CONNECTION_NAME.as_bytes())?;
    Ok(table.0)
}

async fn send(write: &mut OwnedWriteHalf, channel: u16, method: Encoder) -> anyhow::Result<()> {
    let mut frame = BytesMut::new();
    push_frame(&mut frame, METHOD, channel, &method.0)?;
    write.write_all(&frame).await.context("write to the broker")
}

/// The next method frame, which must be `class.method`; its whole payload.
async fn expect(read: &mut BufReader<OwnedReadHalf>, class: u16, method: u16) -> anyhow::Result<Vec<u8>> {
    loop {
        let frame = read_frame(read).await?;
        if frame.kind == HEARTBEAT {
            continue;
        }
        let mut head = Decoder(&frame.payload);
        match (head.u16()?, head.u16()?) {
            got if got == (class, method) => return Ok(frame.payload),
            (10, 50) | (20, 40) => bail!("the broker closed: {} {}", head.u16()?, head.short_string()?),
            got => bail!("the broker sent {got:?} instead of ({class}, {method})"),
        }
    }
}

async fn write_loop(mut write: OwnedWriteHalf, mut frames: mpsc::Receiver<Bytes>, shared: Arc<Shared>) {
    let mut beat = tokio::time::interval(Duration::from_secs(u64::from(HEARTBEAT_SECONDS) / 2));
    let mut batch = BytesMut::new();
    loop {
        batch.clear();
        tokio::select! {
            next = frames.recv() => {
                let Some(next) = next else { return };
                batch.extend_from_slice(&next);
                while batch.len() < 64 * 1024
                    && let Ok(more) = frames.try_recv()
                {
                    batch.extend_from_slice(&more);
                }
            }
            _ = beat.tick() => if push_frame(&mut batch, HEARTBEAT, 0, &[]).is_err() { return },
        }
        if let Err(error) = write.write_all(&batch).await {
            shared.end(format!("write to the broker: {error}"));
            return;
        }
    }
}

async fn read_loop(
    mut read: BufReader<OwnedReadHalf>,
    shared: &Shared,
    writes: &mpsc::Sender<Bytes>,
    replies: &mpsc::Sender<Reply>,
) -> anyhow::Result<()> {
    let limit = Duration::from_secs(2 * u64::from(HEARTBEAT_SECONDS));
    loop {
        let frame = timeout(limit, read_frame(&mut read)).await.context("no heartbeat from the broker")??;
        if frame.kind == HEARTBEAT {
            continue;
        }
        ensure!(frame.kind == METHOD, "frame of kind {} where a method was due", frame.kind);
        let mut arguments = Decoder(&frame.payload);
        let (class, method) = (arguments.u16()?, arguments.u16()?);
        match (class, method) {
            (10, 50) | (20, 40) => {
                let mut answer = BytesMut::new();
                push_frame(&mut answer, METHOD, frame.channel, &Encoder::method(class, method + 1).0)?;
                let _ = writes.try_send(answer.freeze());
                bail!("closed by the broker: {} {}", arguments.u16()?, arguments.short_string()?);
            }
            (10, 60 | 61) | (20, 20) => {}
            (BASIC, 80 | 120) => {
                let (tag, bits) = (arguments.u64()?, arguments.u8()?);
                shared.ledger().settle(tag, bits & 1 == 1, method == 80);
                shared.changed.notify_one();
            }
            (BASIC, 50) => {
                arguments.u16()?;
                arguments.short_string()?;
                arguments.short_string()?;
                let routing_key = arguments.short_string()?;
                let (_, body) = read_content(&mut read).await?;
                shared.ledger().returned(&routing_key, &body);
            }
            (BASIC, 71) => {
                let arguments = frame.payload[4..].to_vec();
                let (properties, body) = read_content(&mut read).await?;
                let reply = Reply { class, method, arguments, properties, body };
                replies.send(reply).await.context("nobody waits")?;
            }
            _ => {
                let arguments = frame.payload[4..].to_vec();
                let reply = Reply { class, method, arguments, properties: Vec::new(), body: Vec::new() };
                replies.send(reply).await.context("nobody waits")?;
            }
        }
    }
}

/// The properties, as written, and the body that follow a return or a get.
async fn read_content(read: &mut BufReader<OwnedReadHalf>) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let mut missing = None;
    let (mut properties, mut body) = (Vec::new(), Vec::new());
    while missing != Some(0) {
        let frame = read_frame(read).await?;
        match (frame.kind, missing) {
            (HEARTBEAT, _) => {}
            (HEADER, None) => {
                let mut header = Decoder(frame.payload.get(4..).unwrap_or_default());
                missing = Some(header.u64()?);
                properties = header.0.to_vec();
            }
            (BODY, Some(left)) => {
                missing =
                    Some(left.checked_sub(u64::try_from(frame.payload.len())?).context("a body too long")?);
                body.extend(frame.payload);
            }
            (kind, _) => bail!("frame of kind {kind} inside a message"),
        }
    }
    Ok((properties, body))
}
