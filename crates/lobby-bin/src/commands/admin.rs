//! The admin address of a running lobby, asked by commands.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use reqwest::{Method, Response, StatusCode};

use crate::{
    Failure,
    config::{Address, Config, Secret},
};

/// How long the lobby may take to connect, and to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read: the longest there is takes less than a tenth of it.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Which lobby.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The lobby's admin address, IP:PORT; else `listen.admin`.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// Where a lobby is asked, and what opens it.
#[derive(Debug)]
pub struct AdminAddress {
    address: SocketAddr,
    token: Secret,
}

/// Why there is no answer.
pub enum Unanswered {
    /// Nobody is there, or what is there does not speak as a lobby does.
    Away(anyhow::Error),
    /// The lobby does not let this in.
    Denied(anyhow::Error),
}

impl Unanswered {
    /// Whether the address itself refuses connections: no lobby is there.
    pub fn nobody_listens(&self) -> bool {
        let Self::Away(error) = self else { return false };
        error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl AdminAddress {
    /// The one that is named, else the configured one.
    ///
    /// # Errors
    /// When there is neither.
    pub fn of(config: &Config, args: &AdminArgs) -> Result<Self, Failure> {
        let address = match (args.admin, config.admin) {
            (Some(address), _) | (None, Address::At(address)) => reachable(address),
            (None, Address::Off) => {
                let error = anyhow!("`listen.admin` is off: give the lobby's admin address with --admin");
                return Err(Failure { code: Failure::CONFIG, error });
            }
        };
        Ok(Self { address, token: config.admin_token.clone() })
    }

    /// The answer to GET.
    pub async fn get(&self, path: &str) -> Result<String, Failure> {
        self.ask(Method::GET, path).await.map_err(|why| self.failure(why))
    }

    /// The answer to POST, which acts.
    pub async fn post(&self, path: &str) -> Result<String, Failure> {
        self.ask(Method::POST, path).await.map_err(|why| self.failure(why))
    }

    /// The beginning of an answer that goes on.
    pub async fn open(&self, path: &str) -> Result<Response, Unanswered> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.request(Method::GET, path)).await;
        let response = asked
            .unwrap_or_else(|_| Err(anyhow!("nothing within {ANSWER_TIMEOUT:?}")))
            .map_err(Unanswered::Away)?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(Unanswered::Denied(anyhow!("it says {status}")))
            }
            status => Err(Unanswered::Away(anyhow!("it says {status}"))),
        }
    }

    /// What a request that succeeds is answered.
    pub async fn ask(&self, method: Method, path: &str) -> Result<String, Unanswered> {
        match self.answer(method, path).await? {
            (status, text) if status.is_success() => Ok(text),
            (status, text) => Err(Unanswered::Away(refusal(status, &text))),
        }
    }

    /// The answer to a request, whole, also one that says no, but for one that does not let this in.
    pub async fn answer(&self, method: Method, path: &str) -> Result<(StatusCode, String), Unanswered> {
        let asked = async {
            let mut response = self.request(method, path).await?;
            let status = response.status();
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                ensure!(bytes.len() + chunk.len() <= MAX_ANSWER_BYTES, "more than {MAX_ANSWER_BYTES} bytes");
                bytes.extend_from_slice(&chunk);
            }
            anyhow::Ok((status, String::from_utf8(bytes).context("not text")?))
        };
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
        let (status, text) = asked
            .unwrap_or_else(|_| Err(anyhow!("nothing within {ANSWER_TIMEOUT:?}")))
            .map_err(Unanswered::Away)?;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Unanswered::Denied(refusal(status, &text)))
            }
            status => Ok((status, text)),
        }
    }

    /// The beginning of an answer, which may go on for ever.
    async fn request(&self, method: Method, path: &str) -> anyhow::Result<Response> {
        let client = reqwest::Client::builder().connect_timeout(ANSWER_TIMEOUT).no_proxy().build()?;
        let mut request = client.request(method, format!("http://{}{path}", self.address));
        if self.token.is_set() {
            request = request.bearer_auth(self.token.expose());
        }
        Ok(request.send().await.map_err(reqwest::Error::without_url)?)
    }

    /// What ends a command that got no answer.
    pub fn failure(&self, why: Unanswered) -> Failure {
        let address = self.address;
        match why {
            Unanswered::Away(error) => {
                let error = anyhow!(
                    "no answer from the admin address {address}: {error:#}; is the lobby running, and is this its \
                     `listen.admin`? Give another with --admin"
                );
                Failure { code: Failure::UNAVAILABLE, error }
            }
            Unanswered::Denied(error) => {
                let error = anyhow!(
                    "the lobby at {address} does not let this in: {error:#}; is `admin.token` here the lobby's own?"
                );
                Failure { code: Failure::PERMISSION, error }
            }
        }
    }
}

/// What an answer other than a success says.
pub fn refusal(status: StatusCode, text: &str) -> anyhow::Error {
    anyhow!("it says {status}: {}", text.trim())
}

/// Where a lobby that listens on every address of this machine is reached from here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// What comes of a question to one who does this with the connection.
    async fn asked(answer: impl AsyncFnOnce(TcpStream)) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let lobby = AdminAddress { address, token: Secret::new("") };
        let answering = async {
            let (mut socket, _) = listener.accept().await.expect("asked");
            assert!(socket.read(&mut [0; 4096]).await.expect("a request") > 0);
            answer(socket).await;
        };
        let asking = tokio::time::timeout(Duration::from_secs(30), lobby.ask(Method::GET, "/"));
        let (asked, ()) = tokio::join!(asking, answering);
        match asked.expect("it is given up") {
            Err(Unanswered::Away(error)) => format!("{error:#}"),
            Err(Unanswered::Denied(error)) => panic!("{error:#}"),
            Ok(text) => panic!("{} bytes were taken", text.len()),
        }
    }

    /// Takes a real time-out, and waits for its end and not for a time.
    #[tokio::test]
    async fn an_address_that_never_answers_is_given_up() {
        let silent =
            asked(async |mut socket: TcpStream| drop(socket.read_to_end(&mut Vec::new()).await)).await;
        assert!(silent.contains("nothing within 5s"), "{silent}");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_read_no_further_than_its_limit() {
        let endless = asked(async |mut socket: TcpStream| {
            socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.expect("written");
            let mut sent = 0;
            while socket.write_all(&[b'x'; 1 << 16]).await.is_ok() {
                sent += 1 << 16;
                assert!(sent < 4 * MAX_ANSWER_BYTES, "it is read for ever");
            }
        });
        let endless = endless.await;
        assert!(endless.contains("more than 16777216 bytes"), "{endless}");
    }

    #[test]
    fn a_lobby_that_listens_everywhere_is_asked_on_loopback() {
        for (listens, asked) in
            [("0.0.0.0:8011", "127.0.0.1:8011"), ("[::]:1", "[::1]:1"), ("10.0.0.1:8011", "10.0.0.1:8011")]
        {
            let listens: SocketAddr = listens.parse().expect("an address");
            assert_eq!(reachable(listens).to_string(), asked);
        }
    }
}
