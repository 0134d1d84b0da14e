//! The address of a broker: from an AMQP URL, and back to one for any vhost.

use anyhow::{Context as _, ensure};
use url::Url;

/// Where a broker listens and who logs in; a vhost is added per URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    url: Url,
}

impl Address {
    /// Guest's address of a broker that was started here.
    pub(crate) fn guest(host: &str, port: u16) -> anyhow::Result<Self> {
        Self::parse(&format!("amqp://guest:guest@{host}:{port}/%2f"))
    }

    /// Reads an AMQP URL.
    ///
    /// # Errors
    /// It is no URL, not `amqp` or `amqps`, or names no host.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let url =
            Url::parse(text).context("not a URL; an example is amqp://guest:guest@127.0.0.1:5672/%2f")?;
        let scheme = url.scheme();
        ensure!(matches!(scheme, "amqp" | "amqps"), "scheme `{scheme}` is neither amqp nor amqps");
        ensure!(url.host_str().is_some_and(|host| !host.is_empty()), "it names no host");
        Ok(Self { url })
    }

    /// The URL as given.
    pub(crate) fn url(&self) -> String {
        self.url.to_string()
    }

    /// The same broker and login with another vhost.
    pub(crate) fn with_vhost(&self, vhost: &str) -> String {
        let mut url = self.url.clone();
        url.set_path(&format!("/{}", segment(vhost)));
        url.to_string()
    }

    /// The host, an IPv6 address without brackets.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// The port; 5672, or 5671 with TLS, if the URL has none.
    pub(crate) fn port(&self) -> u16 {
        self.url.port().unwrap_or(if self.is_tls() { 5671 } else { 5672 })
    }

    /// Whether the connection is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.url.scheme() == "amqps"
    }

    /// The user, decoded; `guest` if the URL has none.
    pub(crate) fn user(&self) -> String {
        let user = self.url.username();
        if user.is_empty() { "guest".to_owned() } else { decode(user) }
    }

    /// The password, decoded; `guest` if the URL has none.
    pub(crate) fn password(&self) -> String {
        self.url.password().map_or_else(|| "guest".to_owned(), decode)
    }

    /// The vhost, decoded; `/` if the URL has none.
    pub(crate) fn vhost(&self) -> String {
        match self.url.path().trim_start_matches('/') {
            "" => "/".to_owned(),
            vhost => decode(vhost),
        }
    }
}

/// Encodes one part of a path, so that `/` in a vhost or a queue stays inside it.
pub(crate) fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_everything_but_the_vhost() {
        let address = Address::parse("amqp://us%40er:p%2Fw@rabbit.example:5673/%2f?heartbeat=10").unwrap();
        assert_eq!((address.host(), address.port()), ("rabbit.example", 5673));
        assert_eq!(
            (address.user(), address.password(), address.vhost()),
            ("us@er".into(), "p/w".into(), "/".into())
        );
        assert_eq!(
            address.with_vhost("a/b c"),
            "amqp://us%40er:p%2Fw@rabbit.example:5673/a%2fb%20c?heartbeat=10"
        );
    }

    #[test]
    fn what_a_url_leaves_out_has_the_usual_values() {
        let address = Address::parse("amqp://[::1]").unwrap();
        assert_eq!((address.host(), address.port(), address.is_tls()), ("::1", 5672, false));
        assert_eq!(
            (address.user(), address.password(), address.vhost()),
            ("guest".into(), "guest".into(), "/".into())
        );
        assert_eq!(Address::parse("amqps://h/v").unwrap().port(), 5671);
    }

    #[test]
    fn what_is_no_amqp_url_is_refused() {
        for text in ["", "localhost:5672", "http://localhost", "amqp://"] {
            assert!(Address::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn guest_logs_in_to_the_default_vhost() {
        assert_eq!(Address::guest("127.0.0.1", 1).unwrap().url(), "amqp://guest:guest@127.0.0.1:1/%2f");
    }
}
