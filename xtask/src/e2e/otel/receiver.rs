//! A small OpenTelemetry collector: takes spans over HTTP as protobuf and keeps them, or says nothing at all.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Duration, Instant, sleep};

use crate::PATIENCE;

/// Connections at once; more wait.
const CONNECTIONS: usize = 16;
/// The largest request, head and body.
const MAX_BYTES: usize = 8 << 20;
const POLL: Duration = Duration::from_millis(25);

/// A collector on loopback; dropping it closes the port and all connections.
#[derive(Debug)]
pub(super) struct Receiver {
    address: SocketAddr,
    kept: Kept,
    serving: AbortHandle,
}

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<Received>>>);

/// One span and who sent it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) service: String,
    pub(super) span: Span,
}

impl Received {
    /// The text or number of an attribute.
    pub(super) fn attribute(&self, key: &str) -> Option<String> {
        value(&self.span.attributes, key)
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Vec<Received>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receiver {
    /// One that answers, or one that takes requests and never answers.
    pub(super) async fn start(answers: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for spans")?;
        let address = listener.local_addr()?;
        let kept = Kept::default();
        let serving = tokio::spawn(serve(listener, kept.clone(), answers)).abort_handle();
        Ok(Self { address, kept, serving })
    }

    /// What `otel.endpoint` is set to.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far, in the order in which they came.
    pub(super) fn spans(&self) -> Vec<Received> {
        self.kept.lock().clone()
    }

    /// Waits until there are `count`.
    pub(super) async fn until(&self, count: usize) -> anyhow::Result<Vec<Received>> {
        let start = Instant::now();
        loop {
            let spans = self.spans();
            if spans.len() >= count {
                return Ok(spans);
            }
            ensure!(start.elapsed() < PATIENCE, "{} spans of {count} came: {spans:?}", spans.len());
            sleep(POLL).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, kept: Kept, answers: bool) {
    let mut serving = JoinSet::new();
    loop {
        while serving.len() >= CONNECTIONS {
            serving.join_next().await;
        }
        let Ok((socket, _)) = listener.accept().await else { continue };
        let kept = kept.clone();
        serving.spawn(async move {
            if let Err(error) = talk(socket, &kept, answers).await {
                eprintln!("the receiver of spans: {error:#}");
            }
        });
    }
}

async fn talk(mut socket: TcpStream, kept: &Kept, answers: bool) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    while let Some((head, body)) = request(&mut socket, &mut bytes).await? {
        if !head.starts_with("post /v1/traces ") || !head.contains("content-type: application/x-protobuf") {
            bail!("not a request for spans: {head}");
        }
        keep(&body, kept)?;
        if !answers {
            std::future::pending::<()>().await;
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        socket.write_all(answer).await?;
    }
    Ok(())
}

/// The next request's head in small letters and its body; nothing when the connection ends.
async fn request(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.context("a request without a length")?.trim().parse()?;
            ensure!(length <= MAX_BYTES, "a request of {length} bytes");
            let end = at + 4 + length;
            if bytes.len() >= end {
                let body = bytes[at + 4..end].to_vec();
                bytes.drain(..end);
                return Ok(Some((head, body)));
            }
        }
        ensure!(bytes.len() <= MAX_BYTES, "a head without an end");
        if socket.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn keep(body: &[u8], kept: &Kept) -> anyhow::Result<()> {
    for resource in ExportTraceServiceRequest::decode(body).context("read spans")?.resource_spans {
        let service = resource.resource.and_then(|resource| value(&resource.attributes, "service.name"));
        let service = service.context("spans without service.name")?;
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        kept.lock().extend(spans.map(|span| Received { service: service.clone(), span }));
    }
    Ok(())
}

fn value(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(flag) => Some(flag.to_string()),
        _ => None,
    }
}
