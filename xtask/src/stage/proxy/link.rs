//! One link through a proxy: two directions, each a reader and a writer with a short line between them.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::frames::{self, Sieve};
use super::{Fuse, Shared, Way};

/// Pieces between a reader and its writer; each is a frame or at most this many bytes.
const LINE: usize = 256;
const PIECE: usize = 16 * 1024;

/// How a link ends.
enum End {
    /// Both sockets are closed.
    Closed,
    /// The near one is reset, the far one closed.
    Reset,
    /// The near one is reset, the far one stands.
    Orphaned,
}

/// A piece on its way.
struct Piece {
    bytes: Vec<u8>,
    due: Instant,
    begins_delivery: bool,
}

/// Forwards until one side, the fuse or the weather ends it.
pub(super) async fn carry(mut near: TcpStream, mut far: TcpStream, shared: &Shared) {
    for stream in [&near, &far] {
        // Split bytes are to travel as they are written.
        let _ = stream.set_nodelay(true);
    }
    let end = {
        let (from_near, to_near) = near.split();
        let (from_far, to_far) = far.split();
        let (out, taken_out) = mpsc::channel(LINE);
        let (back, taken_back) = mpsc::channel(LINE);
        let mut weather = shared.weather.clone();
        let age = weather.borrow().age;
        let taking_back = async {
            if shared.amqp {
                take_frames(from_far, shared, back).await
            } else {
                take_bytes(from_far, Way::Back, shared, back).await
            }
        };
        tokio::select! {
            end = direction(take_bytes(from_near, Way::Out, shared, out), give(to_far, Way::Out, shared, taken_out)) => end,
            end = direction(taking_back, give(to_near, Way::Back, shared, taken_back)) => end,
            changed = weather.wait_for(|now| !now.open || now.age != age) => match changed {
                Ok(now) if now.open => End::Orphaned,
                _ => End::Closed,
            },
        }
    };
    if !matches!(end, End::Closed) {
        // Closing it now sends a reset.
        let _ = SockRef::from(&near).set_linger(Some(Duration::ZERO));
    }
    drop(near);
    if matches!(end, End::Orphaned) {
        std::future::pending::<()>().await;
    }
}

/// What was taken before the end is still given.
async fn direction(taking: impl Future<Output = Option<()>>, giving: impl Future<Output = End>) -> End {
    tokio::select! {
        end = giving => end,
        never = async { taking.await; std::future::pending().await } => never,
    }
}

async fn take_bytes(
    mut from: impl AsyncRead + Unpin,
    way: Way,
    shared: &Shared,
    line: mpsc::Sender<Piece>,
) -> Option<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let count = from.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        let due = Instant::now() + shared.weather.borrow().delay[way as usize];
        line.send(Piece { bytes: buffer[..count].to_vec(), due, begins_delivery: false }).await.ok()?;
    }
}

/// What a broker says, frame by frame, without those that do not come through.
async fn take_frames(from: impl AsyncRead + Unpin, shared: &Shared, line: mpsc::Sender<Piece>) -> Option<()> {
    let mut from = BufReader::with_capacity(64 * 1024, from);
    let mut sieve = Sieve::default();
    loop {
        let bytes = frames::read(&mut from).await.ok()?;
        let weather = *shared.weather.borrow();
        let judged = sieve.judge(&bytes, weather.swallow);
        if let Some(seq) = judged.marked {
            *shared.marks().entry(seq).or_default() += 1;
        }
        if judged.passes {
            let due = Instant::now() + weather.delay[Way::Back as usize];
            line.send(Piece { bytes, due, begins_delivery: judged.begins_delivery }).await.ok()?;
        }
    }
}

async fn give(
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    shared: &Shared,
    mut line: mpsc::Receiver<Piece>,
) -> End {
    let mut weather = shared.weather.clone();
    while let Some(piece) = line.recv().await {
        sleep_until(piece.due).await;
        if weather.wait_for(|now| !now.silent[way as usize]).await.is_err() {
            return End::Closed;
        }
        let reset = burn(&mut shared.fuse(), way, &piece);
        let bytes = &piece.bytes[..reset.unwrap_or(piece.bytes.len())];
        let step = if weather.borrow().single_bytes { 1 } else { bytes.len().max(1) };
        for part in bytes.chunks(step) {
            if to.write_all(part).await.is_err() {
                return End::Closed;
            }
        }
        if reset.is_some() {
            return End::Reset;
        }
    }
    End::Closed
}

/// How much of this piece still gets through, if the fuse blows within it.
fn burn(fuse: &mut Option<Fuse>, way: Way, piece: &Piece) -> Option<usize> {
    let lit = fuse.as_mut().filter(|lit| lit.way == way)?;
    if lit.in_delivery && !piece.begins_delivery {
        return None;
    }
    lit.in_delivery = false;
    let length = piece.bytes.len() as u64;
    if lit.after >= length {
        lit.after -= length;
        return None;
    }
    let through = usize::try_from(lit.after).unwrap_or(piece.bytes.len());
    *fuse = None;
    Some(through)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(length: usize, begins_delivery: bool) -> Piece {
        Piece { bytes: vec![0; length], due: Instant::now(), begins_delivery }
    }

    #[test]
    fn a_fuse_counts_from_the_next_delivery_over_its_frames() {
        let mut fuse = Some(Fuse { way: Way::Back, in_delivery: true, after: 14 });
        assert_eq!(burn(&mut fuse, Way::Back, &piece(100, false)), None, "before a delivery");
        assert_eq!(burn(&mut fuse, Way::Out, &piece(100, false)), None, "the other way");
        assert_eq!(burn(&mut fuse, Way::Back, &piece(10, true)), None);
        assert_eq!(burn(&mut fuse, Way::Back, &piece(10, false)), Some(4));
        assert_eq!(fuse, None);
        assert_eq!(burn(&mut fuse, Way::Back, &piece(10, true)), None, "once");
    }
}
