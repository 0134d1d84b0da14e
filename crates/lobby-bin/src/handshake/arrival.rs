//! What comes before a client's own first byte: the PROXY header of a listed proxy, and TLS.

use std::{io, net::SocketAddr, sync::atomic::Ordering::Relaxed};

use lobby_sessions::{Bucket, Inbound, Place, Transport};
use tokio::{net::TcpStream, time::Instant};
use tracing::info;

use super::{Gate, Guest};
use crate::{
    doorkeeper::Limit,
    proxies::{Header, read_header},
    stream::{Early, Stream},
};

/// A connection that was accepted.
pub struct Arrival {
    pub socket: TcpStream,
    /// The other end of the socket, which may be a proxy.
    pub peer: SocketAddr,
    pub transport: Transport,
    /// None for one that is over a limit already.
    pub place: Option<Place>,
}

/// Why nobody can be spoken to.
enum Lost {
    Left,
    Header(String),
    Tls(io::Error),
}

impl From<io::Error> for Lost {
    fn from(_: io::Error) -> Self {
        Self::Left
    }
}

impl Gate {
    /// Finds out who came and in which language to speak. Nobody, when the connection ends before that is known.
    pub(super) async fn meet(&self, arrival: Arrival) -> Option<Guest> {
        let peer = arrival.peer;
        let lost = match self.try_meet(arrival).await {
            Ok(guest) => return Some(guest),
            Err(lost) => lost,
        };
        let (count, setting, why) = match lost {
            Lost::Left => {
                self.counts.left.fetch_add(1, Relaxed);
                return None;
            }
            Lost::Header(why) => (&self.counts.bad_proxy_headers, "listen.proxy_protocol", why),
            Lost::Tls(error) => (&self.counts.failed_tls, "listen.tls", error.to_string()),
        };
        count.fetch_add(1, Relaxed);
        if let Some(suppressed) = self.log_passes() {
            // Bytes of anybody may stand in it.
            let why: String = why.escape_debug().take(200).collect();
            info!(%peer, setting, why, suppressed, "connection ended before it could be spoken to");
        }
        None
    }

    async fn try_meet(&self, arrival: Arrival) -> Result<Guest, Lost> {
        let Arrival { socket, peer, transport, place } = arrival;
        let mut early = Early::new(socket);
        let client = match self.proxies.header_expected(peer.ip()) {
            true => introduction(&mut early).await?,
            false => None,
        };
        let mut guest = Guest {
            stream: match self.tls_for(transport) {
                None => Stream::Plain(early),
                Some(tls) => Stream::Tls(Box::new(tls.acceptor().accept(early).await.map_err(Lost::Tls)?)),
            },
            peer,
            place,
            over_limit: None,
            transport,
            inbound: Inbound::new(transport, self.max_login_bytes),
            frame: self.frame,
            upgraded: transport == Transport::Tcp,
            failed_logins: 0,
            met: Instant::now(),
            commands: Bucket::default(),
        };
        if let Some(client) = client {
            guest.peer = client;
            // A proxy behind a proxy is no client either: whom it speaks for, its HTTP header may tell.
            if !self.proxies.lists(client.ip()) {
                guest.over_limit = self.reveal(&mut guest.place, client).err();
            }
        }
        Ok(guest)
    }

    /// Holds a client that came through a proxy to the limits of its own address.
    pub(super) fn reveal(&self, place: &mut Option<Place>, client: SocketAddr) -> Result<(), Limit> {
        if let Some(hidden) = place.take() {
            *place = Some(self.doorkeeper.reveal(std::time::Instant::now(), hidden, client)?);
        }
        Ok(())
    }
}

/// Reads a PROXY header and nothing that follows it; the client's address, where it says one.
async fn introduction(early: &mut Early) -> Result<Option<SocketAddr>, Lost> {
    loop {
        if early.look().await? {
            return Err(Lost::Left);
        }
        match read_header(early.seen()) {
            Header::NeedMore => {}
            Header::Bad(why) => return Err(Lost::Header(why)),
            Header::Known { client, len } => {
                early.skip(len);
                return Ok(client);
            }
        }
    }
}
