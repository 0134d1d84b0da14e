//! A TCP proxy between consumer and broker that can break.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Forwards to the broker until told otherwise.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Bytes that the broker may still send before its connection breaks; negative: any number.
    budget: AtomicI64,
    open: Mutex<Vec<TcpStream>>,
    /// Bytes are read and thrown away in both directions.
    black_hole: AtomicBool,
    accepted: AtomicUsize,
    /// What the broker said while it was held back; `None`: nothing is held back.
    held: Mutex<Option<Vec<u8>>>,
    /// What a client may say once without the broker hearing it.
    unheard: Mutex<Vec<u8>>,
    /// The sockets on the clients' side.
    clients: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn to(broker: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            budget: AtomicI64::new(-1),
            open: Mutex::default(),
            black_hole: AtomicBool::default(),
            accepted: AtomicUsize::default(),
            held: Mutex::default(),
            unheard: Mutex::default(),
            clients: Mutex::default(),
        });
        let (broker, state) = (broker.to_owned(), shared.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&broker) else { continue };
                state.accepted.fetch_add(1, Ordering::SeqCst);
                state.clients.lock().unwrap().push(client.try_clone().unwrap());
                for (from, to, limited) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    state.open.lock().unwrap().push(from.try_clone().unwrap());
                    let state = state.clone();
                    thread::spawn(move || forward(from, to, &state, limited));
                }
            }
        });
        Self { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections were made through it.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Says something to the clients in the broker's name; the broker must be silent meanwhile.
    pub fn say(&self, bytes: &[u8]) {
        for mut client in self.shared.clients.lock().unwrap().iter() {
            let _ = client.write_all(bytes);
        }
    }

    /// Says it only to the client that connected last.
    pub fn say_to_last(&self, bytes: &[u8]) {
        self.shared.clients.lock().unwrap().last_mut().unwrap().write_all(bytes).unwrap();
    }

    /// When a client says this next, the broker does not hear it.
    pub fn keep_from_broker(&self, bytes: &[u8]) {
        *self.shared.unheard.lock().unwrap() = bytes.to_vec();
    }

    /// Holds back what the broker says.
    pub fn hold(&self) {
        *self.shared.held.lock().unwrap() = Some(Vec::new());
    }

    /// Lets the clients have at one stroke what was held back, and then these bytes.
    pub fn release_with(&self, bytes: &[u8]) {
        let mut held = self.shared.held.lock().unwrap().take().unwrap();
        held.extend_from_slice(bytes);
        self.say(&held);
    }

    /// Throws away what was held back.
    pub fn forget(&self) {
        self.shared.held.lock().unwrap().take().unwrap();
    }

    /// Breaks the connection on which the broker sends more than `bytes` from now on, once.
    pub fn break_after(&self, bytes: usize) {
        self.shared.budget.store(bytes as i64, Ordering::SeqCst);
    }

    /// Resets all connections.
    pub fn break_connections(&self) {
        self.shared.clients.lock().unwrap().clear();
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on nothing gets through, without any error.
    pub fn set_black_hole(&self, on: bool) {
        self.shared.black_hole.store(on, Ordering::SeqCst);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, shared: &Shared, limited: bool) {
    let mut buffer = [0; 65536];
    let _ = from.set_read_timeout(Some(Duration::from_secs(120)));
    while let Ok(mut n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        if limited && let Some(held) = shared.held.lock().unwrap().as_mut() {
            held.extend_from_slice(&buffer[..n]);
            continue;
        }
        if !limited {
            let mut unheard = shared.unheard.lock().unwrap();
            if !unheard.is_empty() && buffer[..n].starts_with(&unheard) {
                buffer.copy_within(unheard.len()..n, 0);
                n -= std::mem::take(&mut *unheard).len();
            }
        }
        let budget = shared.budget.load(Ordering::SeqCst);
        if limited && budget >= 0 {
            let allowed = n.min(budget as usize);
            shared.budget.store(budget - allowed as i64, Ordering::SeqCst);
            if allowed < n {
                shared.budget.store(-1, Ordering::SeqCst);
                let _ = to.write_all(&buffer[..allowed]);
                let _ = from.shutdown(Shutdown::Both);
                break;
            }
        }
        if !shared.black_hole.load(Ordering::SeqCst) && to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
