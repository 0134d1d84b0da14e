//! An HTTP client of one broker's management API. Paths are given without `/api`.

use std::time::Duration;

use notify_amqp::BrokerConfig;
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ManagementError;
use crate::config::{Config, connection};

/// The largest answer that is read: some ten thousand queues.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Characters of an error's body that are shown.
const MAX_REASON: usize = 300;

/// A client that was answered once.
#[derive(Debug)]
pub struct Management {
    base: Url,
    user: String,
    password: String,
    http: reqwest::Client,
}

impl Management {
    /// The first host that answers: the one of `broker.management_url`, or else of the broker's hosts in their order.
    /// It is verified as the broker is, with the same authority and client certificate.
    ///
    /// # Errors
    /// [`ManagementError`]; of several hosts the last one's.
    pub async fn open(config: &Config) -> Result<Self, ManagementError> {
        let broker = connection(config);
        let login = broker.user_and_password().await.map_err(ManagementError::Credentials)?;
        let http = client(config, &broker)?;
        let mut failure = ManagementError::NoPassword;
        for mut base in addresses(config) {
            let given = (base.username() != "").then(|| {
                let decode = |text: &str| percent_decode(text);
                (decode(base.username()), decode(base.password().unwrap_or_default()))
            });
            // Neither goes wrong for http and https.
            let _ = base.set_username("");
            let _ = base.set_password(None);
            let Some((user, password)) = given.or_else(|| login.clone()) else { continue };
            let management = Self { base, user, password, http: http.clone() };
            match management.get::<Value>("/whoami").await {
                Ok(Some(_)) => return Ok(management),
                // Another web server, perhaps.
                Ok(None) => {
                    let problem =
                        format!("{} has no such page; is this the broker's management API?", management.base);
                    failure = ManagementError::Unreadable { method: "GET", path: "/whoami".into(), problem };
                }
                Err(ManagementError::Forbidden { user, reason, .. }) => {
                    let url = management.base.to_string();
                    return Err(ManagementError::LoginRefused { url, user, reason });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Reads a resource; `None` where it is not there.
    ///
    /// # Errors
    /// [`ManagementError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ManagementError> {
        match self.request("GET", path, None).await? {
            None => Ok(None),
            Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                let problem = format!("the answer is not what RabbitMQ 3.10 to 4 say: {error}");
                ManagementError::Unreadable { method: "GET", path: path.to_owned(), problem }
            }),
        }
    }

    /// Makes or changes a resource.
    ///
    /// # Errors
    /// [`ManagementError`].
    pub async fn send(&self, method: &'static str, path: &str, body: &Value) -> Result<(), ManagementError> {
        match self.request(method, path, Some(body)).await? {
            Some(_) => Ok(()),
            None => Err(ManagementError::Refused {
                method,
                path: path.to_owned(),
                status: 404,
                reason: "not found".into(),
            }),
        }
    }

    /// `None` for 404.
    async fn request(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<Vec<u8>>, ManagementError> {
        let url = || self.base.to_string();
        let unreachable = |error: reqwest::Error| failed(url(), error);
        let address = format!("{}/api{path}", self.base.as_str().trim_end_matches('/'));
        let verb = Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET);
        let mut request = self.http.request(verb, address).basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                let problem = format!("the answer is larger than {MAX_ANSWER_BYTES} bytes");
                return Err(ManagementError::Unreadable { method, path: path.to_owned(), problem });
            }
            bytes.extend_from_slice(&chunk);
        }
        match status {
            _ if status.is_success() => Ok(Some(bytes)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ManagementError::Forbidden {
                user: self.user.clone(),
                method,
                path: path.to_owned(),
                reason: reason(&bytes),
            }),
            _ => Err(ManagementError::Refused {
                method,
                path: path.to_owned(),
                status: status.as_u16(),
                reason: reason(&bytes),
            }),
        }
    }
}

/// RabbitMQ answers errors as `{"error":…,"reason":…}`.
fn reason(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let said = value.get("reason").or_else(|| value.get("error")).and_then(Value::as_str);
    let text = said.map_or_else(|| String::from_utf8_lossy(bytes).into_owned(), str::to_owned);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}

fn failed(url: String, error: reqwest::Error) -> ManagementError {
    // The last word is the operating system's, or the TLS library's.
    let error = error.without_url();
    let mut last: &dyn std::error::Error = &error;
    while let Some(source) = last.source() {
        last = source;
    }
    let reason = if error.is_timeout() { "no answer in time".to_owned() } else { last.to_string() };
    if reason.contains("certificate") {
        ManagementError::Tls { url, reason }
    } else {
        ManagementError::Unreachable { url, reason }
    }
}

fn client(config: &Config, broker: &BrokerConfig) -> Result<reqwest::Client, ManagementError> {
    let mut builder = reqwest::Client::builder()
        .timeout(config.call_timeout.max(Duration::from_secs(1)))
        .connect_timeout(config.connect_timeout)
        .redirect(reqwest::redirect::Policy::none());
    // The same authorities as the broker's where it has TLS; else the system's, as for any other page.
    if broker.url.tls() {
        let tls = broker.tls.client_config().map_err(ManagementError::TlsSetup)?;
        builder = builder.tls_backend_preconfigured(tls);
    }
    builder.build().map_err(|error| ManagementError::Client(error.to_string()))
}

/// The configured address, or the usual one of each host.
fn addresses(config: &Config) -> Vec<Url> {
    if let Some(url) = &config.management_url.0 {
        return vec![url.clone()];
    }
    let (scheme, port) = if config.broker_url.tls() { ("https", 15671) } else { ("http", 15672) };
    let hosts = config.broker_url.host_names().map(|host| {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("{scheme}://{host}:{port}/").parse()
    });
    hosts.filter_map(Result::ok).collect()
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn urls(flags: &[&str]) -> Vec<String> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let loaded = load(&Sources { flags, ..Sources::default() }).expect("accepted");
        addresses(&loaded.config).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn n14_the_usual_address_follows_from_the_brokers() {
        assert_eq!(urls(&[]), ["http://127.0.0.1:15672/"]);
        assert_eq!(urls(&["broker.hosts=a:1,[::1]"]), ["http://a:15672/", "http://[::1]:15672/"]);
        assert_eq!(urls(&["broker.tls=on"]), ["https://127.0.0.1:15671/"]);
        let own = "broker.management_url=https://u:p%40@mq.example/rabbit";
        assert_eq!(urls(&[own]), ["https://u:p%40@mq.example/rabbit"]);
        assert_eq!(percent_decode("p%40%zz%"), "p@%zz%");
    }

    #[test]
    fn what_rabbitmq_says_is_told_on_one_short_line() {
        assert_eq!(reason(br#"{"error":"not_authorised","reason":"Login\nfailed"}"#), "Login failed");
        assert_eq!(reason(&[b'x'; 5000]).len(), MAX_REASON);
    }
}
