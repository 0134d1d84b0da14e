//! The parts of an `amqp://` address.

use anyhow::{Context as _, bail};

/// `amqp://user:password@host:port/vhost`, with every part decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpUrl {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) vhost: String,
}

impl AmqpUrl {
    /// Reads `text`; what is left out gets the protocol's defaults (guest, guest, 5672, `/`).
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let Some(rest) = text.strip_prefix("amqp://") else {
            bail!("the raw client speaks plain amqp:// only, the broker's address has another scheme")
        };
        let rest = rest.split('?').next().unwrap_or_default();
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(a, p)| (a, Some(p)));
        let (login, address) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().with_context(|| format!("port `{port}`"))?),
            None => (address, 5672),
        };
        let vhost = match path {
            None | Some("") => "/".to_owned(),
            Some(path) => percent_decode(path)?,
        };
        Ok(Self {
            user: percent_decode(user)?,
            password: percent_decode(password)?,
            host: if host.is_empty() { "127.0.0.1".to_owned() } else { host.to_owned() },
            port,
            vhost,
        })
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The same login and virtual host at another address, as text.
    pub(crate) fn at(&self, address: std::net::SocketAddr) -> String {
        format!(
            "amqp://{}:{}@{address}/{}",
            percent_encode(&self.user),
            percent_encode(&self.password),
            percent_encode(&self.vhost)
        )
    }
}

/// Escapes everything but letters, digits and `-._~`.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn percent_decode(text: &str) -> anyhow::Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next().unwrap_or(b'?'), bytes.next().unwrap_or(b'?')];
        let digits = std::str::from_utf8(&digits).context("escape in the broker's address")?;
        out.push(u8::from_str_radix(digits, 16).with_context(|| format!("escape `%{digits}`"))?);
    }
    String::from_utf8(out).context("the broker's address is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_decoded_and_defaults_filled_in() {
        let full = AmqpUrl::parse("amqp://us%40er:p%2fw@broker:5673/a%20b?heartbeat=1").unwrap();
        assert_eq!((full.user.as_str(), full.password.as_str()), ("us@er", "p/w"));
        assert_eq!((full.address().as_str(), full.vhost.as_str()), ("broker:5673", "a b"));
        let bare = AmqpUrl::parse("amqp://localhost").unwrap();
        assert_eq!((bare.user.as_str(), bare.port, bare.vhost.as_str()), ("guest", 5672, "/"));
        assert_eq!(AmqpUrl::parse("amqp://h/%2f").unwrap().vhost, "/");
        assert!(AmqpUrl::parse("amqps://h").is_err());
    }

    #[test]
    fn another_address_keeps_login_and_vhost() {
        let url = AmqpUrl::parse("amqp://u:p%3A@h:1/%2Fx").unwrap();
        let moved = AmqpUrl::parse(&url.at("127.0.0.1:99".parse().unwrap())).unwrap();
        assert_eq!(moved, AmqpUrl { host: "127.0.0.1".to_owned(), port: 99, ..url });
    }
}
