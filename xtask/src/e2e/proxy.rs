//! A proxy between one lobby and the broker, so that the link can be cut and given back at will.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Forwards bytes while open; while cut it drops every link and closes each new one at once.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Listens on a free port in front of `target`.
    pub(super) async fn start(target: String, open: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind the proxy")?;
        let address = listener.local_addr()?;
        let (open, state) = watch::channel(open);
        let accepting = tokio::spawn(accept(listener, target, state)).abort_handle();
        Ok(Self { address, open: Arc::new(open), accepting })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(super) fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, target: String, open: watch::Receiver<bool>) {
    while let Ok((near, _)) = listener.accept().await {
        if !*open.borrow() {
            continue;
        }
        let (target, mut open) = (target.clone(), open.clone());
        tokio::spawn(async move {
            let mut near = near;
            let Ok(mut far) = TcpStream::connect(&target).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

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
        link.write_all(b"x").await.unwrap();
        link.read_exact(&mut byte).await.unwrap();
        proxy.cut();
        assert!(matches!(link.read(&mut byte).await, Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(matches!(refused.read(&mut byte).await, Ok(0) | Err(_)));
        proxy.open();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        again.write_all(b"y").await.unwrap();
        again.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"y");
    }
}
