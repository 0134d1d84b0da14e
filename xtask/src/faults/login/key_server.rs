//! An HTTP server for key sets that answers as it is told, and remembers when it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Duration, Instant, sleep};

use crate::PATIENCE;
use crate::late::Late;

/// Connections at once; more wait.
const CONNECTIONS: usize = 64;
const HUGE: usize = 100 << 20;
const POLL: Duration = Duration::from_millis(10);

/// What it does with a request.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Keys(String),
    /// 503.
    Failure,
    /// Nothing, until whoever asked gives up.
    Silence,
    /// 100 MB that begin as a key set does.
    Huge,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) at: Instant,
    /// How long until the connection ended, once it has.
    pub(super) lasted: Option<Duration>,
    /// Bytes of the answer's body that were taken, by whoever asked or by the kernel for him.
    pub(super) taken: usize,
}

/// A server on loopback; dropping it closes the port and all connections.
#[derive(Debug)]
pub(super) struct KeyServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    answer: Mutex<Answer>,
    asked: Mutex<Vec<Asked>>,
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyServer {
    pub(super) async fn start(answer: Answer) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for who asks for keys")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { answer: Mutex::new(answer), asked: Mutex::default() });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, serving })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }

    /// From now on it answers so.
    pub(super) fn answers(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// All requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.shared.asked().clone()
    }

    /// Waits for a request that comes from now on and for the end of its connection.
    pub(super) async fn next(&self) -> anyhow::Result<Asked> {
        let (before, start) = (self.shared.asked().len(), Instant::now());
        loop {
            if let Some(asked) = self.shared.asked().get(before).filter(|asked| asked.lasted.is_some()) {
                return Ok(*asked);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                Late(format!("nobody asked for keys in {PATIENCE:?}, or it did not end"))
            );
            sleep(POLL).await;
        }
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut serving = JoinSet::new();
    loop {
        while serving.len() >= CONNECTIONS {
            serving.join_next().await;
        }
        let Ok((socket, _)) = listener.accept().await else { continue };
        serving.spawn(talk(socket, Arc::clone(&shared)));
    }
}

async fn talk(mut socket: TcpStream, shared: Arc<Shared>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut part = [0; 1024];
        match socket.read(&mut part).await {
            Ok(count @ 1..) if request.len() < 64 * 1024 => request.extend_from_slice(&part[..count]),
            _ => break,
        }
    }
    let at = Instant::now();
    let index = {
        let mut asked = shared.asked();
        asked.push(Asked { at, lasted: None, taken: 0 });
        asked.len() - 1
    };
    let answer = shared.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let taken = respond(&mut socket, answer).await;
    if let Some(asked) = shared.asked().get_mut(index) {
        asked.taken = taken;
        asked.lasted = Some(at.elapsed());
    }
}

/// How many bytes of the body were taken.
async fn respond(socket: &mut TcpStream, answer: Answer) -> usize {
    let head = |status: &str, len: usize| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
        )
    };
    match answer {
        Answer::Keys(keys) => {
            let text = head("200 OK", keys.len()) + &keys;
            socket.write_all(text.as_bytes()).await.map_or(0, |()| keys.len())
        }
        Answer::Failure => {
            let _ = socket.write_all(head("503 Service Unavailable", 0).as_bytes()).await;
            0
        }
        Answer::Silence => {
            let _ = socket.read(&mut [0; 64]).await;
            0
        }
        Answer::Huge => {
            let mut taken = 0;
            let begin = head("200 OK", HUGE) + r#"{"keys":[],"fill":""#;
            if socket.write_all(begin.as_bytes()).await.is_err() {
                return taken;
            }
            let chunk = vec![b'x'; 64 * 1024];
            while taken < HUGE && socket.write_all(&chunk).await.is_ok() {
                taken += chunk.len();
            }
            taken
        }
    }
}
