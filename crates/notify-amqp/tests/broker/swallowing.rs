//! A proxy that understands frames, and keeps some of what the broker says to itself.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

/// What does not come through.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Swallow {
    Nothing,
    /// `basic.deliver`, with its content.
    Deliveries,
    /// `basic.cancel`: the consumer does not learn of its end.
    Cancels,
    /// `channel.open-ok`.
    OpenedChannels,
    /// `basic.qos-ok`.
    Prefetches,
    /// `connection.close-ok`.
    Closes,
    /// All that is said on other channels of a connection than its first.
    OtherChannels,
}

/// Forwards to the broker, except for what it swallows.
pub struct SwallowingProxy {
    address: SocketAddr,
    swallow: Arc<AtomicU8>,
}

impl SwallowingProxy {
    pub fn to(broker: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let swallow = Arc::new(AtomicU8::new(Swallow::Nothing as u8));
        let (broker, state) = (broker.to_owned(), swallow.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&broker) else { continue };
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                let state = state.clone();
                thread::spawn(move || forward(server, client, &state));
            }
        });
        Self { address, swallow }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn swallow(&self, what: Swallow) {
        self.swallow.store(what as u8, Ordering::SeqCst);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, swallow: &AtomicU8) {
    let mut in_delivery = false;
    let mut head = [0; 7];
    while from.read_exact(&mut head).is_ok() {
        let size = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
        let mut frame = head.to_vec();
        frame.resize(7 + size + 1, 0);
        if from.read_exact(&mut frame[7..]).is_err() {
            break;
        }
        let swallowed = swallow.load(Ordering::SeqCst);
        let method = (head[0] == 1).then(|| &frame[7..11]);
        if let Some(method) = method {
            in_delivery = method == [0, 60, 0, 60] && swallowed == Swallow::Deliveries as u8;
        }
        let answers: [(&[u8], Swallow); 4] = [
            (&[0, 60, 0, 30], Swallow::Cancels),
            (&[0, 20, 0, 11], Swallow::OpenedChannels),
            (&[0, 60, 0, 11], Swallow::Prefetches),
            (&[0, 10, 0, 51], Swallow::Closes),
        ];
        let kept = answers.iter().any(|(said, what)| method == Some(*said) && swallowed == *what as u8);
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let other = channel > 1 && swallowed == Swallow::OtherChannels as u8;
        if kept || other || (in_delivery && head[0] != 8) {
            continue;
        }
        if to.write_all(&frame).is_err() {
            break;
        }
    }
    // The broker closes after that answer, which would be an answer, too.
    if swallow.load(Ordering::SeqCst) != Swallow::Closes as u8 {
        let _ = to.shutdown(Shutdown::Both);
    }
}
