//! The broker's address as operators write it, checked, and never printed with its password.
//!
//! Pure. The parser is ours because lapin's loses IPv6 hosts (they silently become `localhost`), puts
//! the whole URL, password included, into an error, and ignores keys it does not know.

use std::{fmt, time::Duration};

use crate::host::{Address, Host, HostError, split_port};

/// A broker's address or addresses, and credentials. `Debug` and `Display` show `***` for the password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    tls: bool,
    /// At least one.
    hosts: Vec<Host>,
    /// Of the hosts that have none of their own.
    port: Option<u16>,
    user: String,
    password: String,
    vhost: String,
    heartbeat: Option<Duration>,
    connect_timeout: Option<Duration>,
}

impl Default for BrokerUrl {
    /// A broker on this machine as RabbitMQ comes: `amqp://guest:guest@127.0.0.1:5672/%2f`.
    fn default() -> Self {
        let local = Host::new("127.0.0.1", None);
        Self {
            tls: false,
            hosts: local.into_iter().collect(),
            port: Some(5672),
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
            heartbeat: None,
            connect_timeout: None,
        }
    }
}

impl BrokerUrl {
    /// Parses `amqp://[user[:password]@]host[:port][/vhost][?heartbeat=s&connection_timeout=ms]`.
    ///
    /// `amqps` means TLS. User and password default to `guest`, the port to 5672 (5671 with TLS), a URL
    /// without a path to the virtual host `/`; in a path, `/` is written `%2f`, and a bare trailing slash
    /// is the virtual host with the empty name, as the AMQP URI specification has it.
    ///
    /// # Errors
    /// [`BrokerUrlError`] names the part that was wrong and never repeats the password.
    pub fn parse(url: &str) -> Result<Self, BrokerUrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(BrokerUrlError::NoScheme)?;
        let tls = match scheme {
            "amqp" => false,
            "amqps" => true,
            other => return Err(BrokerUrlError::Scheme { scheme: other.into() }),
        };
        if rest.contains('#') {
            return Err(BrokerUrlError::Fragment);
        }
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        if rest[authority_end..].contains('@') {
            return Err(BrokerUrlError::MisplacedAt);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, path)) => (authority, percent_decode(path, "virtual host")?),
            None => (rest, "/".into()),
        };
        if vhost.len() > 255 {
            return Err(BrokerUrlError::VhostTooLong { len: vhost.len() });
        }
        let (user, password, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => {
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, "guest"));
                (percent_decode(user, "user")?, percent_decode(password, "password")?, address)
            }
            None => ("guest".into(), "guest".into(), authority),
        };
        let (host, port) = split_port(address).map_err(|_| BrokerUrlError::Brackets)?;
        let port = port.map(|text| text.parse().map_err(|_| BrokerUrlError::Port)).transpose()?;
        let host = percent_decode(host, "host")?;
        let mut url = Self {
            tls,
            hosts: vec![Host::new(&host, None)?],
            port,
            user,
            password,
            vhost,
            heartbeat: None,
            connect_timeout: None,
        };
        url.read_query(query)?;
        Ok(url)
    }

    /// Builds an address from its fields; nothing is percent-decoded. No TLS.
    ///
    /// # Errors
    /// - [`BrokerUrlError::EmptyHost`]: there is no host.
    /// - [`BrokerUrlError::VhostTooLong`]: the virtual host exceeds 255 bytes.
    pub fn from_parts(
        host: &str,
        port: u16,
        user: &str,
        password: &str,
        vhost: &str,
    ) -> Result<Self, BrokerUrlError> {
        Self {
            tls: false,
            hosts: vec![Host::new(host, None)?],
            port: Some(port),
            user: user.into(),
            password: password.into(),
            heartbeat: None,
            connect_timeout: None,
            vhost: String::new(),
        }
        .with_vhost(vhost)
    }

    /// The same with these hosts; one without a port keeps the URL's.
    ///
    /// # Errors
    /// [`BrokerUrlError::EmptyHost`]: the list is empty.
    pub fn with_hosts(mut self, hosts: Vec<Host>) -> Result<Self, BrokerUrlError> {
        if hosts.is_empty() {
            return Err(BrokerUrlError::EmptyHost);
        }
        self.hosts = hosts;
        Ok(self)
    }

    /// The same with this port for every host that has none of its own.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The same with or without TLS. Where no port was given, the usual one changes too (5671 or 5672).
    #[must_use]
    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// The same with this virtual host, not percent-encoded.
    ///
    /// # Errors
    /// [`BrokerUrlError::VhostTooLong`]: the virtual host exceeds 255 bytes.
    pub fn with_vhost(mut self, vhost: &str) -> Result<Self, BrokerUrlError> {
        if vhost.len() > 255 {
            return Err(BrokerUrlError::VhostTooLong { len: vhost.len() });
        }
        self.vhost = vhost.into();
        Ok(self)
    }

    /// The same with this user.
    #[must_use]
    pub fn with_user(mut self, user: &str) -> Self {
        self.user = user.into();
        self
    }

    /// The same with this password.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = password.into();
        self
    }

    /// Whether the connection is encrypted (`amqps`).
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// The name or address of the first host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.hosts.first().map_or("", Host::name)
    }

    /// The TCP port of the first host.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.hosts.first().map_or(0, |host| self.port_of(host))
    }

    /// The broker's user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The virtual host, decoded.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// `heartbeat` of the query, if it was given.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat
    }

    /// `connection_timeout` of the query, if it was given.
    #[must_use]
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// Host and port of the first host, as they stand in messages: `broker.example:5672`, `[::1]:5672`.
    #[must_use]
    pub fn address(&self) -> String {
        self.addresses().next().map_or_else(String::new, |address| address.to_string())
    }

    /// The names of all hosts, without brackets, in the order given.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(Host::name)
    }

    /// Every host, in the order given.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.hosts.iter().map(|host| Address { host: host.name().into(), port: self.port_of(host) })
    }

    fn port_of(&self, host: &Host) -> u16 {
        host.port().or(self.port).unwrap_or(if self.tls { 5671 } else { 5672 })
    }

    /// The password: neither to be printed nor logged.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    fn read_query(&mut self, query: &str) -> Result<(), BrokerUrlError> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || {
                value
                    .parse::<u32>()
                    .map_err(|_| BrokerUrlError::QueryValue { key: key.into(), value: value.into() })
            };
            match key {
                "heartbeat" => self.heartbeat = Some(Duration::from_secs(number()?.into())),
                "connection_timeout" => {
                    self.connect_timeout = Some(Duration::from_millis(number()?.into()));
                }
                _ => return Err(BrokerUrlError::QueryKey { key: key.into() }),
            }
        }
        Ok(())
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "amqps" } else { "amqp" }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, vhost) = (percent_encode(&self.user), percent_encode(&self.vhost));
        let addresses: Vec<_> = self.addresses().map(|address| address.to_string()).collect();
        write!(f, "{}://{user}:***@{}/{vhost}", self.scheme(), addresses.join(","))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

/// What is wrong with a broker URL. No text repeats user or password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerUrlError {
    /// `://` is missing.
    #[error("broker URL has no scheme: write `amqp://user:password@host:5672/%2f`")]
    NoScheme,
    /// The scheme is neither `amqp` nor `amqps`.
    #[error("broker URL has scheme {scheme:?}, expected `amqp` or `amqps`")]
    Scheme {
        /// The scheme found.
        scheme: String,
    },
    /// A `#` that is not encoded.
    #[error("broker URL contains `#`: write it `%23`")]
    Fragment,
    /// The host is missing.
    #[error("broker URL has no host")]
    EmptyHost,
    /// The port is not a number of 16 bits. Its text is not repeated: it may be half a password.
    #[error(
        "broker URL: the port is not a number from 0 to 65535 (in a password, `/`, `?` and `@` are written `%2f`, `%3f` and `%40`)"
    )]
    Port,
    /// An `@` behind the host: a password with `/` or `?` in it was cut in two.
    #[error(
        "broker URL: `@` after the host (in a password, `/`, `?` and `@` are written `%2f`, `%3f` and `%40`)"
    )]
    MisplacedAt,
    /// A `[` without its `]`, or text between `]` and the port.
    #[error("broker URL has an unclosed or misplaced bracket around its host")]
    Brackets,
    /// A `%` that two hexadecimal digits do not follow, or bytes that are not UTF-8.
    #[error("broker URL: the {part} is not percent-encoded UTF-8")]
    PercentEncoding {
        /// The part of the URL.
        part: &'static str,
    },
    /// The virtual host's name exceeds AMQP's limit.
    #[error("broker URL: the virtual host is {len} bytes, limit 255")]
    VhostTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A query key that means nothing here.
    #[error("broker URL: unknown query key {key:?} (known: `heartbeat`, `connection_timeout`)")]
    QueryKey {
        /// The key found.
        key: String,
    },
    /// A query value that is not a number.
    #[error("broker URL: query key {key:?} has value {value:?}, expected a number")]
    QueryValue {
        /// The key.
        key: String,
        /// The text found.
        value: String,
    },
}

impl From<HostError> for BrokerUrlError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Empty | HostError::NotAHost => Self::EmptyHost,
            HostError::Brackets => Self::Brackets,
            HostError::Port => Self::Port,
        }
    }
}

fn percent_decode(text: &str, part: &'static str) -> Result<String, BrokerUrlError> {
    let error = || BrokerUrlError::PercentEncoding { part };
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| (digit as char).to_digit(16));
        let (high, low) = (digit().ok_or_else(error)?, digit().ok_or_else(error)?);
        decoded.push((high * 16 + low) as u8);
    }
    String::from_utf8(decoded).map_err(|_| error())
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte as char);
            }
            _ => encoded.push_str(&format!("%{byte:02x}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read_and_decoded() {
        let url = BrokerUrl::parse("amqps://us%65r:p%40ss%2f@mq.example:7000/a%2fb?heartbeat=7").unwrap();
        assert!(url.tls());
        assert_eq!((url.host(), url.port(), url.user()), ("mq.example", 7000, "user"));
        assert_eq!((url.password(), url.vhost()), ("p@ss/", "a/b"));
        assert_eq!(url.heartbeat(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn what_is_left_out_has_rabbitmqs_defaults() {
        let url = BrokerUrl::parse("amqp://localhost").unwrap();
        assert_eq!((url.port(), url.user(), url.password(), url.vhost()), (5672, "guest", "guest", "/"));
        assert_eq!(BrokerUrl::parse("amqps://h").unwrap().port(), 5671);
        assert_eq!(BrokerUrl::parse("amqp://h/").unwrap().vhost(), "");
        assert_eq!(BrokerUrl::parse("amqp://h/%2f").unwrap(), BrokerUrl::parse("amqp://h/%2F").unwrap());
    }

    #[test]
    fn ipv6_hosts_keep_their_address() {
        let url = BrokerUrl::parse("amqp://[::1]:5673/%2f").unwrap();
        assert_eq!((url.host(), url.port()), ("::1", 5673));
        assert_eq!(url.address(), "[::1]:5673");
        assert_eq!(BrokerUrl::from_parts("::1", 5673, "guest", "guest", "/").unwrap(), url);
    }

    #[test]
    fn errors_name_the_part_and_never_the_password() {
        use BrokerUrlError as E;
        let cases: &[(&str, E)] = &[
            ("localhost:5672", E::NoScheme),
            ("http://h", E::Scheme { scheme: "http".into() }),
            ("amqp://guest:hunter2@/%2f", E::EmptyHost),
            ("amqp://guest:hunter2@h:99999", E::Port),
            ("amqp://guest:hunter2/x@h", E::MisplacedAt),
            ("amqp://guest:hunter2?x@h", E::MisplacedAt),
            ("amqp://guest:hunter2", E::Port),
            ("amqp://guest:hunter2%zz@h", E::PercentEncoding { part: "password" }),
            ("amqp://guest:hunter2%ff@h", E::PercentEncoding { part: "password" }),
            ("amqp://h/%2", E::PercentEncoding { part: "virtual host" }),
            ("amqp://[::1", E::Brackets),
            ("amqp://h?hartbeat=1", E::QueryKey { key: "hartbeat".into() }),
            ("amqp://h?heartbeat=x", E::QueryValue { key: "heartbeat".into(), value: "x".into() }),
            ("amqp://guest:hunter2#@h", E::Fragment),
        ];
        for (url, expected) in cases {
            let error = BrokerUrl::parse(url).unwrap_err();
            assert_eq!(error, *expected, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn n01_each_part_can_be_replaced() {
        let url = BrokerUrl::parse("amqp://u:p@a:7000/v").unwrap();
        let hosts = ["b".parse().unwrap(), "c:7001".parse().unwrap()];
        let several = url.clone().with_hosts(hosts.into()).unwrap();
        assert_eq!(several.to_string(), "amqp://u:***@b:7000,c:7001/v");
        assert_eq!(several.with_port(1).to_string(), "amqp://u:***@b:1,c:7001/v");
        assert_eq!(url.clone().with_hosts(vec![]), Err(BrokerUrlError::EmptyHost));
        assert_eq!(BrokerUrl::parse("amqp://h").unwrap().with_tls(true).port(), 5671, "the port follows TLS");
        assert_eq!(url.clone().with_tls(true).port(), 7000, "unless it was given");
        let other = url.with_user("w").with_password("q").with_vhost("/").unwrap();
        assert_eq!((other.to_string().as_str(), other.password()), ("amqp://w:***@a:7000/%2f", "q"));
    }

    #[test]
    fn printing_hides_the_password() {
        let url = BrokerUrl::parse("amqp://bob:hunter2@h/%2f").unwrap();
        assert_eq!(url.to_string(), "amqp://bob:***@h:5672/%2f");
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}
