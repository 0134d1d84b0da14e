//! The types of single settings, each with a text form and an error that says what would be right.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use ipnet::IpNet;
use notify_amqp::{CredentialSource, Host, HostError};

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Address {
    /// Not listened on.
    #[default]
    Off,
    /// Listened on; port 0 lets the system choose.
    At(SocketAddr),
}

impl Address {
    /// Whether connections from other machines would be accepted.
    pub fn is_beyond_loopback(self) -> bool {
        matches!(self, Self::At(address) if !address.ip().is_loopback())
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let text = text.replacen("localhost:", "127.0.0.1:", 1);
        text.parse()
            .map(Self::At)
            .map_err(|_| "expected IP:PORT, as in 127.0.0.1:8002, or \"off\"".to_owned())
    }
}

/// A name that becomes part of a queue's or exchange's name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Name(String);

impl Name {
    /// The name of this host.
    pub fn host() -> Self {
        let name = gethostname::gethostname().to_string_lossy().into_owned();
        Self(if name.is_empty() { "localhost".to_owned() } else { name })
    }

    /// A name that nobody has: 60 random bits.
    pub fn random() -> Self {
        let suffix: String = std::iter::repeat_with(|| fastrand::char('a'..='z')).take(13).collect();
        Self(format!("random-{suffix}"))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits =
            (1..=200).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected 1 to 200 bytes without white space".to_owned())
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByteSize(pub usize);

impl ByteSize {
    /// Parses `65536`, `64KiB`, `1MiB` …; at least `min`.
    pub fn at_least(text: &str, min: usize) -> Result<Self, String> {
        let bytes = text.parse::<bytesize::ByteSize>().ok().and_then(|b| usize::try_from(b.as_u64()).ok());
        match bytes {
            Some(bytes) if bytes >= min => Ok(Self(bytes)),
            Some(_) => Err(format!("expected at least {min} bytes")),
            None => Err("expected a number of bytes, as in 65536, 64KiB or 1MiB".to_owned()),
        }
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret; empty means none.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "***" } else { "(none)" })
    }
}

/// The address of a management API, or none. It may hold a password: nothing shows it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ManagementUrl(pub Option<reqwest::Url>);

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "***" } else { "(none)" })
    }
}

impl FromStr for ManagementUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        // The parser's own words may repeat the text.
        let url = text.parse::<reqwest::Url>().ok();
        let fits = |url: &reqwest::Url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
        };
        url.filter(fits)
            .map(|url| Self(Some(url)))
            .ok_or_else(|| "expected http[s]://[USER:PASSWORD@]HOST:PORT".to_owned())
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For a person.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// A URL, or a file's path, without the user and password that may stand in a URL.
pub fn without_login(location: &str) -> String {
    let Some((scheme, rest)) = location.split_once("://") else { return location.to_owned() };
    let authority = rest.find('/').unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => location.to_owned(),
    }
}

/// What may be a URL that is written wrongly, without all that may be a user and a password: for an error.
pub fn without_any_login(text: &str) -> String {
    text.rfind('@').map_or_else(|| text.to_owned(), |at| format!("***{}", &text[at..]))
}

/// Parses hosts separated by commas.
pub fn parse_hosts(text: &str) -> Result<Vec<Host>, String> {
    let hosts = text.split(',').map(str::trim).filter(|host| !host.is_empty());
    hosts.map(|host| host.parse().map_err(|error: HostError| error.to_string())).collect()
}

/// Parses addresses and networks separated by commas.
pub fn parse_networks(text: &str) -> Result<Vec<IpNet>, String> {
    let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
    texts
        .map(|text| {
            let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
            text.parse::<IpNet>()
                .or_else(|_| address())
                .map_err(|_| format!("{text:?} is neither an address nor a network like 10.0.0.0/8"))
        })
        .collect()
}

/// Checks the name of an HTTP header (RFC 9110, 5.6.2); empty means none.
pub fn parse_header_name(text: &str) -> Result<String, String> {
    let is_token = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    is_token
        .then(|| text.to_owned())
        .ok_or_else(|| "expected the name of an HTTP header, as in X-Real-IP".to_owned())
}

/// Parses a command: words as a shell would split them, without running one. The error repeats nothing.
pub fn parse_command(text: &str) -> Result<Option<CredentialSource>, String> {
    match shlex::split(text) {
        None => Err("a quote is not closed".to_owned()),
        Some(words) => Ok((!words.is_empty()).then_some(CredentialSource::Command(words))),
    }
}

/// Parses texts separated by commas.
pub fn parse_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// Parses `name=value` pairs separated by commas.
pub fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                Ok((name.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(format!("{pair:?} is not NAME=VALUE")),
        })
        .collect()
}

/// Parses `250ms`, `30s`, `10m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().ok().map(|s| Duration::from_secs(s.into()));
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| "expected a duration, as in 250ms, 30s, 10m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        for (text, bytes) in [("65536", 65536), ("64KiB", 65536), ("1MiB", 1 << 20), ("1 MiB", 1 << 20)] {
            assert_eq!(ByteSize::at_least(text, 1), Ok(ByteSize(bytes)), "{text}");
        }
        for (text, millis) in [("250ms", 250), ("30s", 30_000), ("30", 30_000), ("1h", 3_600_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert!(parse_duration("-1s").is_err() && ByteSize::at_least("-1", 1).is_err());
    }

    #[test]
    fn only_loopback_addresses_are_local() {
        for (text, beyond) in [
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("off", false),
            ("0.0.0.0:1", true),
            ("10.0.0.1:1", true),
        ] {
            assert_eq!(text.parse::<Address>().map(Address::is_beyond_loopback), Ok(beyond), "{text}");
        }
    }

    #[test]
    fn a_login_in_a_url_does_not_show() {
        for (location, shown) in [
            ("https://u:hunter2@id.example/jwks?x=@", "https://***@id.example/jwks?x=@"),
            ("https://id.example/a@b", "https://id.example/a@b"),
            ("/etc/lobby/jwks.json", "/etc/lobby/jwks.json"),
        ] {
            assert_eq!(without_login(location), shown);
        }
    }

    #[test]
    fn a_login_does_not_show_where_a_url_is_written_wrongly() {
        for (text, shown) in [
            ("u:hunter2@h:1", "***@h:1"),
            ("http://u:hunter2@h:1", "***@h:1"),
            ("http://u:hunter2/x@h:1", "***@h:1"),
            ("h:1", "h:1"),
        ] {
            assert_eq!(without_any_login(text), shown);
        }
    }

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?}", Secret::new("s3cret")), "***");
    }
}
