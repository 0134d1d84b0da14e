//! Whether a broker answers AMQP: an open port says nothing, only `Connection.Start` does.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// Class 10, method 10.
const CONNECTION_START: &[u8] = &[0, 10, 0, 10];
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// Sends the protocol header and returns the version in the broker's `Connection.Start`.
///
/// # Errors
/// Nobody listens, or what came within `limit` is not `Connection.Start`: not ready, try again.
pub(crate) async fn connection_start(host: &str, port: u16, limit: Duration) -> anyhow::Result<String> {
    timeout(limit, exchange(host, port))
        .await
        .with_context(|| format!("{host}:{port} did not answer AMQP within {limit:?}"))?
        .with_context(|| format!("{host}:{port} does not answer AMQP"))
}

async fn exchange(host: &str, port: u16) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((host, port)).await.context("connect")?;
    stream.write_all(PROTOCOL_HEADER).await.context("write")?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.context("read")?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    ensure!(head[..3] == [1, 0, 0] && size <= MAX_FRAME_BYTES, "the first bytes are no AMQP frame: {head:?}");
    let mut method = vec![0; size];
    stream.read_exact(&mut method).await.context("read")?;
    ensure!(method.starts_with(CONNECTION_START), "the first method is not Connection.Start");
    Ok(version(&method).unwrap_or_else(|| "of unknown version".to_owned()))
}

/// The long string behind the key `version` among the server's properties.
fn version(method: &[u8]) -> Option<String> {
    let key = b"\x07versionS";
    let at = method.windows(key.len()).position(|part| part == key)? + key.len();
    let len = u32::from_be_bytes(method.get(at..at + 4)?.try_into().ok()?) as usize;
    String::from_utf8(method.get(at + 4..at + 4 + len)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answer(bytes: &'static [u8]) -> anyhow::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            std::future::pending::<()>().await;
        });
        let outcome = connection_start("127.0.0.1", port, Duration::from_millis(300)).await;
        server.abort();
        outcome
    }

    #[tokio::test]
    async fn only_connection_start_is_readiness() {
        let start = b"\x01\0\0\0\0\0\x1b\0\x0a\0\x0a\0\x09\0\0\0\x11\x07versionS\0\0\0\x043.13";
        assert_eq!(answer(start).await.unwrap(), "3.13");
        assert!(answer(b"").await.is_err(), "an open port is not readiness");
        assert!(answer(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.is_err());
        assert!(answer(b"\x01\0\0\0\0\0\x04\0\x0a\0\x32").await.is_err(), "Connection.Close");
    }
}
