//! A proxy on the way to the broker or to the lobby, that does to a link what networks do: it cuts, resets, delays,
//! goes silent in one direction or both, keeps one end of a link that the other has lost, and splits what is said into
//! single bytes.
//!
//! In front of a broker it knows AMQP's frames: it can keep some of them from the lobby, break a link in the middle of
//! a delivery, and counts which numbered notifications the broker delivered with the redelivered flag.

mod frames;
mod link;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::tally::Marks;

/// What of the broker's frames does not come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Swallow {
    #[default]
    Nothing,
    /// `basic.deliver`, with its content.
    Deliveries,
    /// `basic.cancel`, with which the broker ends a consumer.
    Cancels,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From whoever connects to what the proxy stands in front of.
    Out,
    /// Back.
    Back,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Out, Self::Back];
}

/// What a proxy does to all its links.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    open: bool,
    /// Nothing gets through this way; it waits, and goes on when the silence ends.
    silent: [bool; 2],
    delay: [Duration; 2],
    /// Each byte is written by itself.
    single_bytes: bool,
    swallow: Swallow,
    /// Links of an earlier age have lost the end that connected.
    age: u64,
}

/// Breaks one link, once, with a reset of the end that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fuse {
    way: Way,
    /// Counts from the beginning of the next delivery.
    in_delivery: bool,
    /// Bytes that still get through.
    after: u64,
}

/// What the links of one proxy share.
#[derive(Debug)]
struct Shared {
    weather: watch::Receiver<Weather>,
    fuse: Mutex<Option<Fuse>>,
    marks: Mutex<Marks>,
    amqp: bool,
}

impl Shared {
    fn fuse(&self) -> MutexGuard<'_, Option<Fuse>> {
        self.fuse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forwards bytes while open; while cut it drops every link and closes each new one at once. Dropped, it drops all links.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Listens on a free port in front of the broker at `target`.
    pub(crate) async fn start(target: String, open: bool) -> anyhow::Result<Self> {
        Self::listen(target, open, true).await
    }

    /// Listens in front of anything else.
    pub(crate) async fn in_front_of(target: SocketAddr) -> anyhow::Result<Self> {
        Self::listen(target.to_string(), true, false).await
    }

    async fn listen(target: String, open: bool, amqp: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind the proxy")?;
        let address = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather { open, ..Weather::default() });
        let shared =
            Arc::new(Shared { weather: seen, fuse: Mutex::default(), marks: Mutex::default(), amqp });
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, weather, shared, accepting })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops every link, and each new one at once.
    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| weather.open = false);
    }

    /// Ends [`Self::cut`].
    pub(crate) fn open(&self) {
        self.weather.send_modify(|weather| weather.open = true);
    }

    /// From now on the broker's frames of this kind do not come through.
    pub(crate) fn swallow(&self, what: Swallow) {
        self.weather.send_modify(|weather| weather.swallow = what);
    }

    /// A black hole that way: links stand, and nothing comes through. What waits goes on when it ends, as TCP would
    /// send it again.
    pub(crate) fn silence(&self, way: Way, silent: bool) {
        self.weather.send_modify(|weather| weather.silent[way as usize] = silent);
    }

    /// What goes that way arrives so much later.
    pub(crate) fn delay(&self, way: Way, by: Duration) {
        self.weather.send_modify(|weather| weather.delay[way as usize] = by);
    }

    /// Writes each byte by itself, both ways.
    pub(crate) fn split(&self, single_bytes: bool) {
        self.weather.send_modify(|weather| weather.single_bytes = single_bytes);
    }

    /// Resets the end that connected of the link on which `after` more bytes have gone that way; once.
    #[cfg_attr(not(test), expect(dead_code, reason = "for rows about clients"))]
    pub(crate) fn reset_after(&self, way: Way, after: u64) {
        *self.shared.fuse() = Some(Fuse { way, in_delivery: false, after });
    }

    /// Resets the lobby's end when `after` bytes of the next delivery have gone through; once.
    pub(crate) fn reset_in_delivery(&self, after: u64) {
        *self.shared.fuse() = Some(Fuse { way: Way::Back, in_delivery: true, after });
    }

    /// Whether the last reset that was asked for has happened.
    pub(crate) fn has_reset(&self) -> bool {
        self.shared.fuse().is_none()
    }

    /// Half-open links: the end that connected is reset, the other stands and hears nothing any more until the proxy
    /// goes. New links are as usual.
    pub(crate) fn orphan(&self) {
        self.weather.send_modify(|weather| weather.age += 1);
    }

    /// Which numbers were delivered with the redelivered flag so far.
    pub(crate) fn marks(&self) -> Marks {
        self.shared.marks().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: String, shared: Arc<Shared>) {
    // Dropped with this task, and the links with it.
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { return };
                if !shared.weather.borrow().open {
                    continue;
                }
                let (target, shared) = (target.clone(), Arc::clone(&shared));
                links.spawn(async move {
                    if let Ok(far) = TcpStream::connect(&target).await {
                        link::carry(near, far, &shared).await;
                    }
                });
            }
            Some(_) = links.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::PATIENCE;

    /// A heartbeat.
    const FRAME: &[u8; 8] = b"\x08\0\0\0\0\0\0\xce";

    async fn echo() -> SocketAddr {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn says(link: &mut TcpStream, text: &[u8]) -> Vec<u8> {
        link.write_all(text).await.unwrap();
        let mut echoed = vec![0; text.len()];
        tokio::time::timeout(PATIENCE, link.read_exact(&mut echoed)).await.unwrap().unwrap();
        echoed
    }

    async fn is_over(link: &mut TcpStream) -> bool {
        let read = tokio::time::timeout(PATIENCE, link.read(&mut [0])).await.unwrap();
        matches!(read, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn a_cut_proxy_drops_links_and_takes_none() {
        let proxy = Proxy::start(echo().await.to_string(), true).await.unwrap();
        let mut link = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut link, FRAME).await, FRAME);
        proxy.cut();
        assert!(is_over(&mut link).await);
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(is_over(&mut refused).await);
        proxy.open();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut again, FRAME).await, FRAME);
    }

    #[tokio::test]
    async fn what_meets_a_black_hole_arrives_when_it_ends() {
        let proxy = Proxy::in_front_of(echo().await).await.unwrap();
        for way in Way::BOTH {
            let mut link = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(says(&mut link, b"before").await, b"before");
            proxy.silence(way, true);
            link.write_all(b"into").await.unwrap();
            let silent = tokio::time::timeout(Duration::from_millis(100), link.read(&mut [0; 4])).await;
            assert!(silent.is_err(), "{way:?}: {silent:?}");
            proxy.silence(way, false);
            let mut late = [0; 4];
            link.read_exact(&mut late).await.unwrap();
            assert_eq!(&late, b"into");
        }
    }

    #[tokio::test]
    async fn a_reset_comes_after_the_byte_that_was_named_and_once() {
        let proxy = Proxy::in_front_of(echo().await).await.unwrap();
        let mut link = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut link, b"ab").await, b"ab");
        proxy.reset_after(Way::Back, 3);
        link.write_all(b"cdefg").await.unwrap();
        let mut got = Vec::new();
        let end = link.read_to_end(&mut got).await.unwrap_err();
        assert_eq!((got.as_slice(), end.kind()), (&b"cde"[..], std::io::ErrorKind::ConnectionReset));
        assert!(proxy.has_reset());
        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut next, b"abcdefg").await, b"abcdefg");
    }

    #[tokio::test]
    async fn delayed_and_split_bytes_all_arrive_in_order() {
        let proxy = Proxy::in_front_of(echo().await).await.unwrap();
        let mut link = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.split(true);
        proxy.delay(Way::Out, Duration::from_millis(50));
        let begin = std::time::Instant::now();
        assert_eq!(says(&mut link, b"one by one").await, b"one by one");
        assert!(begin.elapsed() >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn of_a_half_open_link_the_far_end_stands() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::in_front_of(target.local_addr().unwrap()).await.unwrap();
        let mut near = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut far, _) = target.accept().await.unwrap();
        near.write_all(b"x").await.unwrap();
        far.read_exact(&mut [0]).await.unwrap();
        proxy.orphan();
        assert!(is_over(&mut near).await);
        let silent = tokio::time::timeout(Duration::from_millis(100), far.read(&mut [0])).await;
        assert!(silent.is_err(), "{silent:?}");
        drop(proxy);
        assert!(is_over(&mut far).await);
    }
}
