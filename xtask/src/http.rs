//! One HTTP/1.1 request at a time, for the lobby's admin address and the broker's management API.

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

/// Status and body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends one request on a connection of its own.
pub(crate) async fn request(
    method: &str,
    address: &str,
    path: &str,
    login: Option<(&str, &str)>,
) -> anyhow::Result<Answer> {
    let login =
        login.map(|(user, password)| format!("Basic {}", BASE64.encode(format!("{user}:{password}"))));
    let headers: Vec<_> = login.iter().map(|login| ("Authorization", login.as_str())).collect();
    request_with(method, address, path, &headers).await
}

/// [`request`], with headers.
pub(crate) async fn request_with(
    method: &str,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<Answer> {
    let exchange = timeout(PATIENCE, exchange(method, address, path, headers)).await;
    exchange
        .with_context(|| format!("{method} {address}{path}: no answer in {PATIENCE:?}"))?
        .with_context(|| format!("{method} {address}{path}"))
}

/// `GET` without a login.
pub(crate) async fn get(address: &str, path: &str) -> anyhow::Result<Answer> {
    request("GET", address, path, None).await
}

async fn exchange(
    method: &str,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(address).await.context("connect")?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.context("write")?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.context("read")?;
    parse(&raw)
}

fn parse(raw: &[u8]) -> anyhow::Result<Answer> {
    let end = raw.windows(4).position(|part| part == b"\r\n\r\n").context("an answer without a header")?;
    let head = std::str::from_utf8(&raw[..end]).context("header")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("status line")?;
    let body = &raw[end + 4..];
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Ok(Answer { status, body: String::from_utf8(body).context("body")? })
}

fn unchunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = rest.windows(2).position(|part| part == b"\r\n").context("chunk size")?;
        let size = std::str::from_utf8(&rest[..end])?.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).context("chunk size")?;
        if size == 0 {
            return Ok(out);
        }
        let start = end + 2;
        ensure!(rest.len() >= start + size + 2, "a chunk cut short");
        out.extend_from_slice(&rest[start..start + size]);
        rest = &rest[start + size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_answers_are_read() {
        let plain = parse(b"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nno broker").unwrap();
        assert_eq!(plain, Answer { status: 503, body: "no broker".to_owned() });
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, "abcde");
        assert!(parse(b"HTTP/1.1 200 OK").is_err());
    }
}
