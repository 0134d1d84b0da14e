//! The HTTP request with which a WebSocket begins: read within a limit, decided, answered.
//!
//! Pure: bytes in, a decision out. Rejecting before the upgrade gives the client a plain HTTP
//! status (RFC 6455, 4.2).

use std::fmt::Write;

use tungstenite::handshake::derive_accept_key;

/// The subprotocol that is echoed when a client offers it.
pub const SUBPROTOCOL: &str = "lobby.v1.json";

const MAX_HEADERS: usize = 64;

/// Which pages may open a WebSocket here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPolicy {
    /// Requests without an Origin (not from a browser), or with the Host's own.
    SameHost,
    /// These origins, and requests without one.
    Listed(Vec<String>),
    /// Any.
    Any,
}

impl OriginPolicy {
    /// The policy that the configured list amounts to.
    pub fn new(origins: &[String]) -> Self {
        match origins {
            [] => Self::SameHost,
            list if list.iter().any(|o| o == "*") => Self::Any,
            list => Self::Listed(list.to_vec()),
        }
    }

    fn allows(&self, origin: Option<&str>, host: &str) -> bool {
        let Some(origin) = origin else { return true };
        match self {
            Self::Any => true,
            Self::Listed(list) => list.iter().any(|o| o.eq_ignore_ascii_case(origin)),
            Self::SameHost => {
                let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
                !host.is_empty() && authority.eq_ignore_ascii_case(host)
            }
        }
    }
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// The head is not complete.
    NeedMore,
    /// Send this response; the WebSocket begins after `head_len` bytes.
    Upgrade { response: String, head_len: usize },
    /// Send this response and close.
    Reject(Rejection),
}

/// A request that is not upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// The HTTP status.
    pub status: u16,
    phrase: &'static str,
    header: &'static str,
    retry_after_s: Option<u64>,
    body: &'static str,
}

impl Rejection {
    const fn new(status: u16, phrase: &'static str, body: &'static str) -> Self {
        Self { status, phrase, header: "", retry_after_s: None, body }
    }

    /// A limit on connections is reached, or the lobby restarts: try again after so many milliseconds, rounded up to
    /// the whole seconds that HTTP knows.
    pub const fn busy(retry_after_ms: u64) -> Self {
        Self {
            retry_after_s: Some(retry_after_ms.div_ceil(1000)),
            ..Self::new(503, "Service Unavailable", "no more connections for now, try later")
        }
    }

    /// The request took longer than the login may take.
    pub const TOO_SLOW: Self = Self::new(408, "Request Timeout", "the request took too long");

    /// The request head is larger than the limit.
    pub const HEAD_TOO_LARGE: Self =
        Self::new(431, "Request Header Fields Too Large", "the request head is too large");

    /// The response's bytes.
    pub fn response(&self) -> String {
        let Self { status, phrase, header, retry_after_s, body } = self;
        let len = body.len() + 1;
        let retry_after =
            retry_after_s.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
        format!(
            "HTTP/1.1 {status} {phrase}\r\n{header}{retry_after}Content-Type: text/plain\r\nContent-Length: {len}\r\n\
             Connection: close\r\n\r\n{body}\n"
        )
    }
}

/// Decides about the request in `bytes`.
pub fn decide(bytes: &[u8], max_head: usize, origins: &OriginPolicy, console_port: Option<u16>) -> Decision {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_len)) if head_len <= max_head => {
            match judge(&request, origins, console_port) {
                Ok(response) => Decision::Upgrade { response, head_len },
                Err(rejection) => Decision::Reject(rejection),
            }
        }
        Ok(httparse::Status::Partial) if bytes.len() <= max_head => Decision::NeedMore,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Decision::Reject(Rejection::HEAD_TOO_LARGE),
        Err(_) => Decision::Reject(Rejection::new(400, "Bad Request", "this is not an HTTP request")),
    }
}

/// The values of the header `name` of a request's head, in their order; none if `name` is empty.
pub fn values(head: &[u8], name: &str) -> Vec<String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if name.is_empty() || request.parse(head).is_err() {
        return Vec::new();
    }
    let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| String::from_utf8_lossy(header.value).into_owned()).collect()
}

fn judge(
    request: &httparse::Request<'_, '_>,
    origins: &OriginPolicy,
    console_port: Option<u16>,
) -> Result<String, Rejection> {
    let header = |name: &str| {
        let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.and_then(|h| std::str::from_utf8(h.value).ok()).map(str::trim)
    };
    let times = |name: &str| request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).count();
    let has_token = |name: &str, token: &str| {
        let mut all = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
        all.any(|h| {
            std::str::from_utf8(h.value)
                .is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
        })
    };
    if request.version != Some(1) || times("Host") != 1 || times("Origin") > 1 {
        return Err(Rejection::new(
            400,
            "Bad Request",
            "expected HTTP/1.1 with one Host and at most one Origin",
        ));
    }
    if request.method != Some("GET") {
        return Err(Rejection {
            header: "Allow: GET\r\n",
            ..Rejection::new(405, "Method Not Allowed", "a WebSocket begins with GET")
        });
    }
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some("/") {
        return Err(Rejection::new(404, "Not Found", "the WebSocket is at /"));
    }
    if !has_token("Connection", "upgrade") || !has_token("Upgrade", "websocket") {
        return Err(Rejection {
            header: "Upgrade: websocket\r\n",
            ..Rejection::new(426, "Upgrade Required", "this address speaks WebSocket")
        });
    }
    if header("Sec-WebSocket-Version") != Some("13") {
        return Err(Rejection {
            header: "Sec-WebSocket-Version: 13\r\n",
            ..Rejection::new(426, "Upgrade Required", "WebSocket version 13 is spoken here")
        });
    }
    // 16 bytes in base64 (RFC 6455, 4.1).
    let is_base64 =
        |key: &str| key[..22].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    let key = header("Sec-WebSocket-Key")
        .filter(|key| key.is_ascii() && key.len() == 24 && key.ends_with("==") && is_base64(key));
    let Some(key) = key else {
        return Err(Rejection::new(400, "Bad Request", "Sec-WebSocket-Key is missing or not valid"));
    };
    // One that is not UTF-8 is still one.
    let origin = if times("Origin") > 0 { Some(header("Origin").unwrap_or("null")) } else { None };
    let host = header("Host").unwrap_or_default();
    // A host that is empty, or no text, is nobody's own: `a://` has an empty one too.
    let from_console =
        !host.is_empty() && origin.is_some_and(|origin| is_console(origin, host, console_port));
    if !from_console && !origins.allows(origin, host) {
        return Err(Rejection::new(403, "Forbidden", "this Origin may not connect; see `listen.origins`"));
    }
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n",
        derive_accept_key(key.as_bytes())
    );
    if has_token("Sec-WebSocket-Protocol", SUBPROTOCOL) {
        let _ = write!(response, "Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n");
    }
    response.push_str("\r\n");
    Ok(response)
}

/// Whether the console's page, which is served from another port of the same host, asks.
fn is_console(origin: &str, host: &str, console_port: Option<u16>) -> bool {
    let Some(port) = console_port else { return false };
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    };
    let authority = format!("{bare}:{port}");
    origin.split_once("://").is_some_and(|(_, of_origin)| of_origin.eq_ignore_ascii_case(&authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET / HTTP/1.1\r\nHost: lobby.example:8003\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn request(extra: &str) -> String {
        format!("{GOOD}{extra}\r\n")
    }

    fn status(request: &str, origins: &OriginPolicy) -> u16 {
        match decide(request.as_bytes(), 16 << 10, origins, Some(8011)) {
            Decision::NeedMore => 0,
            Decision::Upgrade { .. } => 101,
            Decision::Reject(rejection) => rejection.status,
        }
    }

    #[test]
    fn the_rfcs_own_example_is_answered_as_the_rfc_says() {
        let bytes = [request("").as_bytes(), b"\x81\x80"].concat();
        let Decision::Upgrade { response, head_len } =
            decide(&bytes, 16 << 10, &OriginPolicy::SameHost, None)
        else {
            panic!("not upgraded");
        };
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{response}");
        assert!(!response.contains("Sec-WebSocket-Protocol"));
        assert_eq!(bytes[head_len..], *b"\x81\x80");
    }

    #[test]
    fn the_subprotocol_is_echoed_only_when_offered() {
        let offered = request("Sec-WebSocket-Protocol: other, lobby.v1.json\r\n");
        let Decision::Upgrade { response, .. } =
            decide(offered.as_bytes(), 16 << 10, &OriginPolicy::SameHost, None)
        else {
            panic!("not upgraded");
        };
        assert!(response.contains("Sec-WebSocket-Protocol: lobby.v1.json\r\n"));
    }

    #[test]
    fn what_is_no_websocket_request_gets_a_status_that_says_why() {
        for (text, want) in [
            (request("").replace("GET", "POST"), 405),
            (request("").replace("GET / ", "GET /x "), 404),
            (request("").replace("GET / ", "GET /?v=1 "), 101),
            (request("").replace("Upgrade: websocket\r\n", ""), 426),
            (request("").replace("keep-alive, Upgrade", "close"), 426),
            (request("").replace("Version: 13", "Version: 8"), 426),
            (request("").replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400),
            (request("").replace("dGhlIHNhbXBsZSBub25jZQ==", "!!!!!!!!!!!!!!!!!!!!!!=="), 400),
            (request("").replace("HTTP/1.1", "HTTP/1.0"), 400),
            (request("").replace("Host:", "X-Host:"), 400),
            (request("Host: again\r\n"), 400),
            (request("Origin: http://lobby.example:8003\r\nOrigin: http://evil.example\r\n"), 400),
            ("\x16\x03\x01 this is TLS\r\n\r\n".to_owned(), 400),
            ("{\"command\":\"auth\"}\n".to_owned(), 400),
            (GOOD.to_owned(), 0),
        ] {
            assert_eq!(status(&text, &OriginPolicy::SameHost), want, "{text}");
        }
    }

    #[test]
    fn a_head_over_the_limit_is_refused_before_it_ends() {
        let long = format!("{GOOD}X: {}", "x".repeat(20_000));
        assert_eq!(status(&long, &OriginPolicy::SameHost), 431);
        let many: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
        assert_eq!(status(&request(&many), &OriginPolicy::SameHost), 431);
    }

    #[test]
    fn origins_are_let_in_by_policy() {
        let listed = OriginPolicy::new(&["https://a.example".to_owned()]);
        let any = OriginPolicy::new(&["*".to_owned()]);
        for (origin, same_host, by_list) in [
            ("", 101, 101),
            ("Origin: http://lobby.example:8003\r\n", 101, 403),
            ("Origin: https://a.example\r\n", 403, 101),
            ("Origin: null\r\n", 403, 403),
            // The console, from this host's admin port, and what looks like it.
            ("Origin: http://lobby.example:8011\r\n", 101, 101),
            ("Origin: http://lobby.example:8012\r\n", 403, 403),
            ("Origin: http://evil.example:8011\r\n", 403, 403),
            ("Origin: http://lobby.example:8003.evil.example\r\n", 403, 403),
        ] {
            let text = request(origin);
            assert_eq!(status(&text, &OriginPolicy::new(&[])), same_host, "{origin}");
            assert_eq!(status(&text, &listed), by_list, "{origin}");
            assert_eq!(status(&text, &any), 101, "{origin}");
        }
    }

    #[test]
    fn a_host_that_is_empty_is_the_own_host_of_no_page() {
        for origin in ["a://", "a://:8011", "lobby.example"] {
            let text = request(&format!("Origin: {origin}\r\n")).replace("lobby.example:8003", "");
            assert_eq!(status(&text, &OriginPolicy::SameHost), 403, "{origin}");
        }
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_cut_short() {
        for (millis, seconds) in [(1, 1), (1000, 1), (1001, 2), (10_100, 11)] {
            let response = Rejection::busy(millis).response();
            assert!(response.contains(&format!("\r\nRetry-After: {seconds}\r\n")), "{response}");
        }
        assert!(!Rejection::TOO_SLOW.response().contains("Retry-After"));
    }
}
