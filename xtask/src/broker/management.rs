//! The broker's management API.
//!
//! The client is written out, as HTTP/1.0 over one connection per request is forty lines: the answer ends with
//! the connection and is never chunked. It blocks, under time-outs, so that dropping a vhost can use it too;
//! the asynchronous methods move it to a blocking thread. No TLS.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A client of one broker's management API. Paths are given without `/api`: `/queues/%2f`.
#[derive(Debug, Clone)]
pub(crate) struct Management {
    host: String,
    port: u16,
    user: String,
    password: String,
}

impl Management {
    /// A client; nothing is sent yet.
    pub(crate) fn new(host: &str, port: u16, user: &str, password: &str) -> Self {
        Self { host: host.to_owned(), port, user: user.to_owned(), password: password.to_owned() }
    }

    /// The address for a browser.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.authority())
    }

    /// The address with user and password, for programs.
    pub(crate) fn url_with_login(&self) -> String {
        format!("http://{}:{}@{}/", self.user, self.password, self.authority())
    }

    /// The user who logs in.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Reads a resource.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.request("GET", path, None).await
    }

    /// Writes a resource.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.request("PUT", path, Some(body)).await
    }

    /// Deletes a resource.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.request("DELETE", path, None).await.map(drop)
    }

    /// Any request, from an asynchronous task.
    ///
    /// # Errors
    /// No answer, or one that is not 2xx: the text has method, address, status and body.
    pub(crate) async fn request(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let (client, path, body) = (self.clone(), path.to_owned(), body.cloned());
        let request =
            tokio::task::spawn_blocking(move || client.request_blocking(method, &path, body.as_ref()));
        request.await.context("the request's thread")?
    }

    /// Any request, from a blocking thread.
    pub(crate) fn request_blocking(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let what = || format!("{method} http://{}/api{path}", self.authority());
        let raw = self.exchange(method, path, body).with_context(what)?;
        let (status, body) = parse(&raw).with_context(what)?;
        if !(200..300).contains(&status) {
            bail!("{}: status {status}: {}", what(), String::from_utf8_lossy(body));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body).with_context(|| format!("{}: the answer is no JSON", what()))
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Vec<u8>> {
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs().context("resolve")?;
        let address = addresses.next().context("the host has no address")?;
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT).context("connect")?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} /api{path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Basic {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.authority(),
            BASE64.encode(format!("{}:{}", self.user, self.password)),
            body.len(),
        );
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body.as_bytes()))
            .context("write")?;
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).context("read")?;
        Ok(raw)
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn parse(raw: &[u8]) -> anyhow::Result<(u16, &[u8])> {
    let end = raw.windows(4).position(|part| part == b"\r\n\r\n").context("the answer has no head")?;
    let status = std::str::from_utf8(&raw[..end]).ok().and_then(|head| head.split(' ').nth(1)?.parse().ok());
    Ok((status.context("the answer has no status")?, &raw[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        assert_eq!(parse(b"HTTP/1.1 201 Created\r\nx: y\r\n\r\n").unwrap(), (201, &b""[..]));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n[]").unwrap(), (200, &b"[]"[..]));
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn an_ipv6_host_is_put_in_brackets() {
        assert_eq!(Management::new("::1", 15672, "u", "p").url(), "http://[::1]:15672/");
    }
}
