//! One system call for the writes of a broadcast to many sockets, through io_uring.
//!
//! Only with the feature `io-uring`, and only where the kernel lets us: a shard without a ring writes to one socket
//! after the other. The only file of this crate with unsafe code: an operation holds addresses that the kernel reads.
//! Nothing outlives [`Ring::write`], which waits until the kernel is done.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, RawFd},
};

use io_uring::{IoUring, opcode, squeue::Entry, types::Fd};

/// Writes that one system call submits at most.
const ENTRIES: u32 = 1024;
/// That a socket does not block is not enough here: io_uring would wait for it to become writable by itself.
const WITHOUT_WAITING: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A ring of one thread.
pub(crate) struct Ring {
    ring: IoUring,
}

/// What goes to one socket.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    /// The caller's name for the socket.
    pub(crate) key: usize,
    socket: RawFd,
    slices: &'a [IoSlice<'a>],
}

impl<'a> Job<'a> {
    /// The socket must be non-blocking, stay open until [`Ring::write`] has returned, and stand in one job only:
    /// the jobs of one call have no order.
    pub(crate) fn new(key: usize, socket: &impl AsRawFd, slices: &'a [IoSlice<'a>]) -> Self {
        Self { key, socket: socket.as_raw_fd(), slices }
    }

    /// What `sendmsg` takes; holds the address of `slices`.
    #[expect(unsafe_code, reason = "some C libraries have fields here that cannot be named")]
    fn message(&self) -> libc::msghdr {
        // SAFETY: Integers and raw pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is `iovec` by its own guarantee; the kernel does not write there.
        message.msg_iov = self.slices.as_ptr().cast::<libc::iovec>().cast_mut();
        message.msg_iovlen = self.slices.len() as _;
        message
    }

    /// The operation, which holds the addresses of `slices` and of `message`. A single slice is cheaper as `send`.
    fn operation(&self, index: usize, message: &libc::msghdr) -> Entry {
        let socket = Fd(self.socket);
        let entry = match self.slices {
            [single] => {
                // A message is far below 4 GiB; a shorter write than asked for would be a partial one.
                let length = u32::try_from(single.len()).unwrap_or(u32::MAX);
                opcode::Send::new(socket, single.as_ptr(), length).flags(WITHOUT_WAITING).build()
            }
            _ => opcode::SendMsg::new(socket, message).flags(WITHOUT_WAITING as u32).build(),
        };
        entry.user_data(index as u64)
    }
}

impl Ring {
    /// A ring for the calling thread, which alone may use it.
    ///
    /// # Errors
    /// Where the kernel has no io_uring or refuses it, as in many containers.
    pub(crate) fn new() -> io::Result<Self> {
        // Kernels since 6.1: completions are worked off in our own system call and interrupt nothing.
        let built = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(ENTRIES);
        let ring = match built {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => IoUring::new(ENTRIES)?,
            other => other?,
        };
        Ok(Self { ring })
    }

    /// Writes every job once, without waiting for a socket, and tells `done` what each socket took.
    pub(crate) fn write(&mut self, jobs: &[Job<'_>], mut done: impl FnMut(usize, io::Result<usize>)) {
        for jobs in jobs.chunks(ENTRIES as usize) {
            if self.submit(jobs).is_err() {
                jobs.iter().for_each(|job| done(job.key, Err(io::ErrorKind::Interrupted.into())));
                continue;
            }
            for completion in self.ring.completion() {
                let key = jobs[usize::try_from(completion.user_data()).unwrap_or_default()].key;
                let result = completion.result();
                let taken = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
                done(key, taken);
            }
        }
    }

    /// Has all of `jobs` done, or none and returns an error.
    #[expect(unsafe_code, reason = "io_uring takes addresses; nothing safe writes to many sockets at once")]
    fn submit(&mut self, jobs: &[Job<'_>]) -> io::Result<()> {
        let messages: Vec<_> = jobs.iter().map(Job::message).collect();
        let each = jobs.iter().zip(&messages).enumerate();
        let operations: Vec<_> = each.map(|(index, (job, message))| job.operation(index, message)).collect();
        // SAFETY: The addresses are those of `messages`, of the jobs' slices and of what they point to, which live until
        // this function returns; the kernel only reads there. All operations are pushed or none, and `wait_for` does not return
        // before all that were pushed are complete.
        let pushed = unsafe { self.ring.submission().push_multiple(&operations) };
        pushed.map_err(io::Error::other)?;
        self.wait_for(operations.len());
        Ok(())
    }

    /// Submits what was pushed and waits for `count` completions. They come at once: no operation waits for its
    /// socket.
    fn wait_for(&mut self, count: usize) {
        while self.ring.completion().len() < count {
            match self.ring.submit_and_wait(count) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Returning would free bytes that the kernel may still read.
                    tracing::error!(%error, "io_uring_enter failed; the process ends");
                    std::process::abort();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        server.set_nonblocking(true).expect("non-blocking");
        (server, client)
    }

    #[test]
    fn each_socket_takes_its_slices_in_order_and_a_full_one_says_how_much() {
        let Ok(mut ring) = Ring::new() else {
            return eprintln!("this kernel refuses io_uring: nothing to test");
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut sockets: Vec<_> = (0..5).map(|_| pair(&listener)).collect();
        let (short, huge) = ([IoSlice::new(b"ab"), IoSlice::new(b"c\n")], vec![b'x'; 64 << 20]);
        let huge = [IoSlice::new(&huge)];
        let jobs: Vec<_> = sockets
            .iter()
            .enumerate()
            .map(|(key, (server, _))| {
                Job::new(key, server, if key == 3 { &huge } else { &short[..key.clamp(1, 2)] })
            })
            .collect();
        let mut taken = [None; 5];
        ring.write(&jobs, |key, result| taken[key] = result.ok());
        assert_eq!([taken[0], taken[1], taken[2], taken[4]], [Some(2), Some(2), Some(4), Some(4)]);
        assert!(taken[3].is_some_and(|bytes| bytes > 0 && bytes < 64 << 20), "{:?}", taken[3]);
        let again = [Job::new(3, &sockets[3].0, &huge)];
        let mut blocked = false;
        ring.write(&again, |_, result| {
            blocked = result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        });
        assert!(blocked, "a full socket is not waited for");
        let mut line = [0; 4];
        sockets[4].1.read_exact(&mut line).expect("read");
        assert_eq!(&line, b"abc\n");
    }

    #[test]
    fn more_jobs_than_the_ring_has_entries_are_all_done() {
        let Ok(mut ring) = Ring::new() else {
            return eprintln!("this kernel refuses io_uring: nothing to test");
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        // The same socket more than once is against the rule, and does no harm to a count.
        let (server, _client) = pair(&listener);
        let slices = [IoSlice::new(b"x")];
        let jobs: Vec<_> = (0..ENTRIES as usize * 2 + 7).map(|key| Job::new(key, &server, &slices)).collect();
        let mut done = vec![0; jobs.len()];
        ring.write(&jobs, |key, result| done[key] += result.unwrap_or_default());
        assert!(done.iter().all(|taken| *taken == 1));
    }
}
