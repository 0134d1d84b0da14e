//! The floor: what the kernel alone costs. A process that reads messages from one connection and writes them to its
//! clients, without a broker, queues, framing or logins.
//!
//! The intake is a stream of records: a `u32` addressee in little-endian (0: everyone) and a line of fixed length.
//! The first four bytes say how many clients to accept. It ends when the intake does.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{
    body::BODY_LEN,
    ring::{Part, Ring},
};

/// Length of a line: the body and its newline.
const LINE: usize = BODY_LEN + 1;
/// Length of a record.
const RECORD: usize = 4 + LINE;
/// Messages taken in at a time: as many as the broker sends a lobby ahead of its acks, by default.
const MOST_WAITING: usize = 200;
/// Slices that one system call takes at most (`IOV_MAX`).
const MAX_SLICES: usize = 1024;

/// How the floor writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Writes {
    /// One system call for each delivery.
    Each,
    /// One system call for all that waits for a client.
    Coalesced,
    /// One system call for all that waits for all clients, through io_uring.
    Ring,
}

impl Writes {
    fn argument(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Coalesced => "coalesced",
            Self::Ring => "ring",
        }
    }
}

/// Options of the hidden command `bench-floor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    writes: Writes,
}

/// One record for the intake.
pub(super) fn record(addressee: u32, body: &[u8; BODY_LEN]) -> [u8; RECORD] {
    let mut out = [b'\n'; RECORD];
    out[..4].copy_from_slice(&addressee.to_le_bytes());
    out[4..4 + BODY_LEN].copy_from_slice(body);
    out
}

/// A running floor server, ended when this is dropped.
#[derive(Debug)]
pub(super) struct Floor {
    _child: tokio::process::Child,
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
}

impl Floor {
    /// Starts this program again as the floor server, which waits for `clients`; with it comes its intake.
    pub(super) async fn start(writes: Writes, clients: u32) -> anyhow::Result<(Self, tokio::net::TcpStream)> {
        let program = std::env::current_exe().context("this program's own path")?;
        let mut child = tokio::process::Command::new(program)
            .args(["bench-floor", "--writes", writes.argument()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the floor server")?;
        let pid = child.id().context("the floor server's process id")?;
        let mut lines = BufReader::new(child.stdout.take().context("the floor server's output")?).lines();
        let mut address = async || -> anyhow::Result<SocketAddr> {
            let line = lines.next_line().await?.context("the floor server named no address")?;
            line.parse().with_context(|| format!("address `{line}`"))
        };
        let (intake, address) = (address().await?, address().await?);
        let mut intake =
            tokio::net::TcpStream::connect(intake).await.context("connect to the floor's intake")?;
        intake.set_nodelay(true)?;
        intake.write_all(&clients.to_le_bytes()).await?;
        Ok((Self { _child: child, pid, address }, intake))
    }
}

/// Serves until the intake ends.
pub(crate) fn serve(options: &Options) -> anyhow::Result<()> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the floor");
    let (intake, door) = (bind()?, bind()?);
    println!("{}\n{}", intake.local_addr()?, door.local_addr()?);
    let (mut intake, _) = intake.accept().context("accept the intake")?;
    let mut count = [0; 4];
    intake.read_exact(&mut count).context("how many clients")?;
    let mut clients = Clients::new(options.writes, accept(&door, u32::from_le_bytes(count) as usize)?)?;
    let mut buffer = vec![0; RECORD * MOST_WAITING];
    let mut filled = 0;
    loop {
        let count = intake.read(&mut buffer[filled..]).context("read the intake")?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let whole = filled / RECORD * RECORD;
        clients.deliver(&buffer[..whole]).context("write to a client")?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

/// Clients by number, which count from 1.
fn accept(door: &TcpListener, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let (mut client, _) = door.accept().context("accept a client")?;
        let mut number = [0; 4];
        client.read_exact(&mut number).context("a client's number")?;
        ensure!(u32::from_le_bytes(number) as usize == clients.len() + 1, "clients came out of order");
        client.set_nodelay(true)?;
        client.write_all(b"{\"command\":\"welcome\"}\n")?;
        clients.push(client);
    }
    Ok(clients)
}

/// Everyone who gets messages, and how they are written.
struct Clients {
    streams: Vec<TcpStream>,
    writes: Writes,
    ring: Option<Ring>,
}

impl Clients {
    fn new(writes: Writes, streams: Vec<TcpStream>) -> anyhow::Result<Self> {
        let ring = (writes == Writes::Ring).then(|| Ring::new(&streams)).transpose();
        Ok(Self { ring: ring.context("set io_uring up")?, streams, writes })
    }

    fn deliver(&mut self, records: &[u8]) -> io::Result<()> {
        let records: Vec<(usize, &[u8])> = records.chunks_exact(RECORD).map(split).collect();
        if self.writes == Writes::Each {
            for (addressee, line) in records {
                for client in addressed(&mut self.streams, addressee) {
                    client.write_all(line)?;
                }
            }
            return Ok(());
        }
        // Messages for everyone and for single clients keep their order.
        for run in records.chunk_by(|(a, _), (b, _)| (*a == 0) == (*b == 0)) {
            let mut sorted = run.to_vec();
            sorted.sort_by_key(|(addressee, _)| *addressee);
            match &mut self.ring {
                Some(ring) => send(ring, &sorted, self.streams.len())?,
                None => write(&sorted, &mut self.streams)?,
            }
        }
        Ok(())
    }
}

/// All that waits for a client in one call.
fn write(sorted: &[(usize, &[u8])], clients: &mut [TcpStream]) -> io::Result<()> {
    for own in sorted.chunk_by(|(a, _), (b, _)| a == b) {
        let lines: Vec<&[u8]> = own.iter().map(|(_, line)| *line).collect();
        for client in addressed(clients, own[0].0) {
            write_all(client, &lines)?;
        }
    }
    Ok(())
}

/// All that waits for all clients in one call. The lines of a client must be in one piece, which costs one copy for
/// everyone together.
fn send(ring: &mut Ring, sorted: &[(usize, &[u8])], clients: usize) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(sorted.len() * LINE);
    let mut parts = Vec::new();
    for own in sorted.chunk_by(|(a, _), (b, _)| a == b) {
        let start = bytes.len();
        own.iter().for_each(|(_, line)| bytes.extend_from_slice(line));
        let sockets = match own[0].0 {
            0 => 0..clients,
            number => number - 1..number.min(clients),
        };
        parts.extend(sockets.map(|socket| Part { socket, range: start..bytes.len() }));
    }
    ring.send(&bytes, parts)
}

fn split(record: &[u8]) -> (usize, &[u8]) {
    let (addressee, line) = record.split_at(4);
    (addressee.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)), line)
}

fn addressed(clients: &mut [TcpStream], addressee: usize) -> &mut [TcpStream] {
    match addressee {
        0 => clients,
        number => clients.get_mut(number - 1..number).unwrap_or_default(),
    }
}

fn write_all(client: &mut TcpStream, lines: &[&[u8]]) -> io::Result<()> {
    for lines in lines.chunks(MAX_SLICES) {
        let mut slices: Vec<IoSlice<'_>> = lines.iter().map(|line| IoSlice::new(line)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match client.write_vectored(rest)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => IoSlice::advance_slices(&mut rest, written),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        body::{Stamp, To},
        ring::refused,
    };

    #[test]
    fn all_ways_of_writing_write_the_same_bytes() {
        let sent = [
            (0, To::Everyone, 0),
            (2, To::User(2), 0),
            (1, To::User(1), 0),
            (2, To::User(2), 1),
            (0, To::Everyone, 1),
        ];
        let bodies = sent.map(|(addressee, to, seq)| (addressee, Stamp { to, seq, at: 5 }.encode()));
        let records: Vec<u8> = bodies.iter().flat_map(|(addressee, body)| record(*addressee, body)).collect();
        let mut all_ways = vec![Writes::Each, Writes::Coalesced];
        match refused() {
            None => all_ways.push(Writes::Ring),
            Some(reason) => eprintln!("without io_uring: {reason}"),
        }
        for writes in all_ways {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let pairs: Vec<_> = (0..2)
                .map(|_| {
                    (
                        TcpStream::connect(listener.local_addr().unwrap()).unwrap(),
                        listener.accept().unwrap().0,
                    )
                })
                .collect();
            let (mut far, near): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let mut clients = Clients::new(writes, near).unwrap();
            clients.deliver(&records).unwrap();
            drop(clients);
            for (index, client) in far.iter_mut().enumerate() {
                let mut got = Vec::new();
                client.read_to_end(&mut got).unwrap();
                let own = bodies
                    .iter()
                    .filter(|(addressee, _)| *addressee == 0 || *addressee as usize == index + 1);
                let want: Vec<u8> = own.flat_map(|(_, body)| [&body[..], b"\n"].concat()).collect();
                assert_eq!(got, want, "{writes:?}, client {index}");
            }
        }
    }
}
