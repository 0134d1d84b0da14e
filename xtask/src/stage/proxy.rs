//! A proxy between one lobby and the broker, so that the link can be cut and given back at will, and some of what the
//! broker says kept from the lobby.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

const METHOD: u8 = 1;
const HEARTBEAT: u8 = 8;

/// What of the broker's frames does not come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swallow {
    Nothing,
    /// `basic.deliver`, with its content.
    Deliveries,
    /// `basic.cancel`, with which the broker ends a consumer.
    Cancels,
}

/// Forwards bytes while open; while cut it drops every link and closes each new one at once.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    swallow: Arc<watch::Sender<Swallow>>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Listens on a free port in front of `target`.
    pub(crate) async fn start(target: String, open: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind the proxy")?;
        let address = listener.local_addr()?;
        let (open, state) = watch::channel(open);
        let (swallow, swallowed) = watch::channel(Swallow::Nothing);
        let accepting = tokio::spawn(accept(listener, target, state, swallowed)).abort_handle();
        Ok(Self { address, open: Arc::new(open), swallow: Arc::new(swallow), accepting })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    /// From now on the broker's frames of this kind do not come through.
    pub(crate) fn swallow(&self, what: Swallow) {
        self.swallow.send_replace(what);
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    open: watch::Receiver<bool>,
    swallow: watch::Receiver<Swallow>,
) {
    while let Ok((near, _)) = listener.accept().await {
        if !*open.borrow() {
            continue;
        }
        let (target, mut open, swallow) = (target.clone(), open.clone(), swallow.clone());
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(&target).await else { return };
            let (mut from_near, to_near) = near.into_split();
            let (from_far, mut to_far) = far.into_split();
            tokio::select! {
                _ = tokio::io::copy(&mut from_near, &mut to_far) => {}
                _ = forward(from_far, to_near, &swallow) => {}
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }
}

/// Forwards what the broker says, frame by frame.
async fn forward(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    swallow: &watch::Receiver<Swallow>,
) -> std::io::Result<()> {
    let mut from = BufReader::with_capacity(64 * 1024, from);
    let mut sieve = Sieve::default();
    loop {
        let mut frame = vec![0; 7];
        from.read_exact(&mut frame).await?;
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
        frame.resize(7 + size + 1, 0);
        from.read_exact(&mut frame[7..]).await?;
        if sieve.passes(frame[0], &frame[7..], *swallow.borrow()) {
            to.write_all(&frame).await?;
        }
    }
}

/// Which frames of one connection come through.
#[derive(Debug, Default)]
struct Sieve {
    in_swallowed_delivery: bool,
}

impl Sieve {
    fn passes(&mut self, kind: u8, payload: &[u8], swallow: Swallow) -> bool {
        if kind == METHOD {
            self.in_swallowed_delivery =
                swallow == Swallow::Deliveries && payload.starts_with(&[0, 60, 0, 60]);
            let cancel = payload.starts_with(&[0, 60, 0, 30]);
            return !(self.in_swallowed_delivery || cancel && swallow == Swallow::Cancels);
        }
        kind == HEARTBEAT || !self.in_swallowed_delivery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heartbeat.
    const FRAME: &[u8; 8] = b"\x08\0\0\0\0\0\0\xce";

    #[tokio::test]
    async fn a_cut_proxy_drops_links_and_takes_none() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = echo.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let proxy = Proxy::start(target, true).await.unwrap();
        let mut link = TcpStream::connect(proxy.address()).await.unwrap();
        let mut byte = [0];
        link.write_all(FRAME).await.unwrap();
        link.read_exact(&mut [0; FRAME.len()]).await.unwrap();
        proxy.cut();
        assert!(matches!(link.read(&mut byte).await, Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(matches!(refused.read(&mut byte).await, Ok(0) | Err(_)));
        proxy.open();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        again.write_all(FRAME).await.unwrap();
        let mut echoed = [0; FRAME.len()];
        again.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, FRAME);
    }

    #[test]
    fn deliveries_are_swallowed_whole_and_heartbeats_between_their_frames_are_not() {
        const DELIVER: (u8, &[u8]) = (METHOD, &[0, 60, 0, 60, 1]);
        const CANCEL: (u8, &[u8]) = (METHOD, &[0, 60, 0, 30, 1]);
        const CONTENT: (u8, &[u8]) = (2, &[0, 60]);
        const BODY: (u8, &[u8]) = (3, b"x");
        const BEAT: (u8, &[u8]) = (HEARTBEAT, &[]);
        const ACK: (u8, &[u8]) = (METHOD, &[0, 60, 0, 80]);
        let frames = [DELIVER, CONTENT, BEAT, BODY, ACK, CANCEL];
        for (swallow, expected) in [
            (Swallow::Nothing, [true; 6]),
            (Swallow::Deliveries, [false, false, true, false, true, true]),
            (Swallow::Cancels, [true, true, true, true, true, false]),
        ] {
            let mut sieve = Sieve::default();
            assert_eq!(frames.map(|(kind, payload)| sieve.passes(kind, payload, swallow)), expected);
        }
    }
}
