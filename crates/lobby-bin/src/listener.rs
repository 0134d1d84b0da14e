//! Accepts connections, within limits, until it is told to stop.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use lobby_sessions::{Admission, Transport};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::handshake::{Arrival, Gate};

/// Connections that the kernel may hold for us; it lowers this to its own limit.
const BACKLOG: i32 = 4096;
/// How long accepting rests when the process has no descriptor left.
const REST: Duration = Duration::from_millis(100);

/// Opens a listening socket and logs its real address.
///
/// # Errors
/// Names the key and the address, as when another process holds the port.
pub fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    let listener = open().with_context(|| {
        format!("cannot listen on `listen.{key}` = {address}: choose another address, port 0, or \"off\"")
    })?;
    info!(listener = key, address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// Accepts clients of one transport.
pub struct Acceptor {
    pub transport: Transport,
    pub gate: Arc<Gate>,
    /// Where connections go that have logged in.
    pub admitted: mpsc::Sender<Admission>,
    pub handshakes: TaskTracker,
    pub stop: CancellationToken,
}

impl Acceptor {
    /// Accepts until `stop` is cancelled. An accept that fails, for want of descriptors or whatever else, is
    /// logged and tried again.
    pub async fn run(self, listener: TcpListener) {
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return self.clear_queue(&listener).await,
            };
            match accepted {
                Ok((socket, peer)) => {
                    failing = false;
                    self.welcome(socket, peer);
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        error!(%error, transport = self.transport.as_str(),
                            "accepting failed; trying again: raise the limit of open files (ulimit -n)");
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Connections that the kernel has accepted already are told to come back, not reset.
    async fn clear_queue(&self, listener: &TcpListener) {
        while let Ok(Ok((socket, peer))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
            self.welcome(socket, peer);
        }
    }

    fn welcome(&self, socket: TcpStream, peer: SocketAddr) {
        // Messages are small and must go out at once. A socket that refuses the option is broken anyway.
        let _ = socket.set_nodelay(true);
        let gate = Arc::clone(&self.gate);
        let now = Instant::now();
        let place = match gate.proxies.lists(peer.ip()) {
            true => gate.doorkeeper.admit_hidden(now, peer),
            false => gate.doorkeeper.admit(now, peer),
        };
        let arrival = |place| Arrival { socket, peer, transport: self.transport, place };
        match place {
            Err(_) => {
                if let Some(farewell) = gate.turn_away(arrival(None)) {
                    self.handshakes.spawn(farewell);
                }
            }
            Ok(place) => {
                let arrival = arrival(Some(place));
                let (admitted, stop) = (self.admitted.clone(), self.stop.clone());
                self.handshakes.spawn(async move {
                    if let Some(admission) = gate.receive(arrival, &stop).await {
                        let _ = admitted.send(admission).await;
                    }
                });
            }
        }
    }
}

/// Errors that say something about one connection and nothing about the listener (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests;
