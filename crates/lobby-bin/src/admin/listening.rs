//! HTTP on the admin address within limits: so many connections, and so much time for the head of a request.
//!
//! What is over the limit waits in the kernel's backlog, so that a peak of probes and scrapes is served a moment later.
//! Without limits, whoever reaches the address could take the descriptors that are kept for the broker's connection.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// After the kernel has refused a connection, most likely for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// At once. Half of them are for those who watch, see [`super::feed`].
    pub(super) connections: usize,
    /// From the connection, or the answer before, to the end of a request's head.
    pub(super) head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, head: Duration::from_secs(30) }
    }
}

/// Serves until `stop`, and then until every answer that has begun is sent.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let closing = GracefulShutdown::new();
    loop {
        let (stream, place) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = next(&listener, &places) => next,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = closing.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // Who breaks off or is too slow has closed the connection; there is nobody to tell.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    closing.shutdown().await;
}

async fn next(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else { std::future::pending().await };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;

    /// A stuck machine, and nothing else, takes so long.
    const PATIENCE: Duration = Duration::from_secs(20);
    const WHOLE: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn serving(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(|| async { "here" }));
        (address, stop.clone(), tokio::spawn(serve(listener, router, limits, stop)))
    }

    /// Sends this and reads up to the end of the connection.
    async fn conversation(address: SocketAddr, sent: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(sent).await.expect("sent");
        let mut answer = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
        read.expect("closed in time").expect("an answer");
        answer
    }

    #[tokio::test]
    async fn who_does_not_end_the_head_of_a_request_is_sent_away() {
        let (address, _stop, _serving) =
            serving(Limits { head: Duration::from_millis(50), ..Limits::default() }).await;
        for sent in [&b""[..], b"GET / HTTP/1.1\r\nhost:"] {
            let answer = conversation(address, sent).await;
            assert!(!answer.contains("here"), "{answer}");
        }
        // An answered connection on which nothing more comes is closed as well.
        assert!(conversation(address, WHOLE).await.ends_with("here"));
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_until_another_ends() {
        let (address, _stop, _serving) = serving(Limits { connections: 2, ..Limits::default() }).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(WHOLE).await.expect("sent");
            stream.readable().await.expect("answered");
            held.push(stream);
        }
        let mut third = TcpStream::connect(address).await.expect("the kernel's backlog");
        third.write_all(WHOLE).await.expect("sent");
        let early = tokio::time::timeout(Duration::from_millis(200), third.readable()).await;
        assert!(early.is_err(), "served beside two others");
        held.pop();
        tokio::time::timeout(PATIENCE, third.readable()).await.expect("served in time").expect("answered");
    }

    #[tokio::test]
    async fn a_stop_closes_connections_that_ask_nothing() {
        let (address, stop, serving) = serving(Limits::default()).await;
        let mut idle = TcpStream::connect(address).await.expect("a connection");
        idle.write_all(WHOLE).await.expect("sent");
        idle.readable().await.expect("answered");
        stop.cancel();
        tokio::time::timeout(PATIENCE, serving).await.expect("ended in time").expect("no panic");
    }
}
