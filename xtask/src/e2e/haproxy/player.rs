//! A player's client: it follows what the lobby says, and keeps a diary.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::diary::{Diary, Visit};
use crate::PATIENCE;
use crate::client::{Client, Event, Transport};
use crate::e2e::SCENARIO_LIMIT;
use crate::late::Late;
use crate::stage::SECRET;
use crate::token;

/// Tells every player to go home.
pub(super) const THE_END: &str = r#"{"command":"the-end"}"#;
/// Before a connection that did not come about is tried again.
const AGAIN: Duration = Duration::from_millis(50);

pub(super) struct Player {
    diary: Diary,
    door: (Transport, SocketAddr),
    token: anyhow::Result<String>,
    /// Counts all players' logins.
    welcomed: Arc<watch::Sender<u64>>,
}

impl Player {
    pub(super) fn new(user: u32, door: (Transport, SocketAddr), welcomed: Arc<watch::Sender<u64>>) -> Self {
        let token = token::valid(SECRET, i64::from(user));
        Self { diary: Diary { user, ..Diary::default() }, door, token, welcomed }
    }

    /// Logs in, and again whenever it is told to, until the end.
    pub(super) async fn live(mut self) -> anyhow::Result<Diary> {
        let token = std::mem::replace(&mut self.token, Ok(String::new()))?;
        let mut due = None;
        loop {
            let mut client = self.welcome(&token).await?;
            let welcomed = Instant::now();
            self.diary.waits.extend(due.map(|due: Instant| due.elapsed()));
            self.welcomed.send_modify(|count| *count += 1);
            let (mut received, mut last) = (Vec::new(), None);
            let ended = loop {
                match client.next().await? {
                    Event::Line(line) if line.bytes() == THE_END.as_bytes() => break None,
                    Event::Line(line) => {
                        received.extend(line.seq().map(|seq| (seq, Instant::now())));
                        last = Some(line);
                    }
                    Event::Ended(ended) => break Some(ended),
                }
            };
            let told = Instant::now();
            self.diary.visits.push(Visit { welcomed, ended: told, received });
            let Some(ended) = ended else { return Ok(self.diary) };
            let closing = client.closing(last.into_iter().collect(), ended)?;
            ensure!(closing.code == 1012, "{} was told {}", client.name(), closing.code);
            let wait = closing.retry_after_ms.context("a farewell without retry_after_ms")?;
            let until = told + Duration::from_millis(wait);
            sleep_until(until).await;
            due = Some(until);
        }
    }

    /// Connects until it is welcomed: a lobby that is going refuses, and the proxy needs a moment to see it.
    async fn welcome(&mut self, token: &str) -> anyhow::Result<Client> {
        let begin = Instant::now();
        loop {
            let tried = async {
                let mut client = Client::connect(self.door.0, self.door.1).await?;
                client = client.named(format_args!("player {}", self.diary.user));
                client.login(token).await?;
                // Nothing may come for a long time, until all have logged in.
                client.patient(SCENARIO_LIMIT);
                anyhow::Ok(client)
            };
            match tried.await {
                Ok(client) => return Ok(client),
                Err(error) => ensure!(
                    begin.elapsed() < PATIENCE,
                    Late(format!("player {}: {error:#}", self.diary.user))
                ),
            }
            self.diary.refused += 1;
            sleep(AGAIN).await;
        }
    }
}
