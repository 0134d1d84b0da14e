//! One system call for the writes to many sockets: a ring of `send` operations through io_uring.
//!
//! The only file of this crate with unsafe code: an operation holds the address of bytes that the kernel reads
//! later. Nothing but the benchmark's floor uses it; the lobby's own ring is another, for sockets that do not block.

use std::{io, net::TcpStream, ops::Range};

/// A part of the bytes, for one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The socket's place among those the ring was made for.
    pub(super) socket: usize,
    pub(super) range: Range<usize>,
}

#[cfg(target_os = "linux")]
pub(super) use self::linux::Ring;
#[cfg(not(target_os = "linux"))]
pub(super) use self::other::Ring;

/// Why a ring cannot be had here; `None` where it can.
pub(super) fn refused() -> Option<String> {
    Ring::new(&[]).err().map(|error| format!("the kernel refuses io_uring_setup: {error}"))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsRawFd as _, RawFd};

    use io_uring::{IoUring, opcode, types::Fixed};

    use super::{Part, TcpStream, io};

    /// Operations that one system call submits at most.
    const MOST_ENTRIES: usize = 8192;

    /// A ring with its sockets.
    pub(crate) struct Ring {
        ring: IoUring,
        entries: usize,
    }

    impl Ring {
        /// A ring with an entry for each of `sockets`, which must be blocking: then an operation waits in the kernel
        /// until its socket takes bytes, without holding up the others.
        pub(crate) fn new(sockets: &[TcpStream]) -> io::Result<Self> {
            let entries = sockets.len().next_power_of_two().clamp(8, MOST_ENTRIES);
            let size = u32::try_from(entries).map_err(io::Error::other)?;
            // Kernels since 6.1: completions are worked off in our own system call and interrupt nothing.
            let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(size);
            let ring = match ring {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => IoUring::new(size)?,
                other => other?,
            };
            if !sockets.is_empty() {
                let files: Vec<RawFd> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
                ring.submitter().register_files(&files)?;
            }
            Ok(Self { ring, entries })
        }

        /// Sends each part of `bytes` to its socket, and returns when the kernel has taken all. No socket may be
        /// named twice, since operations of one submission have no order.
        pub(crate) fn send(&mut self, bytes: &[u8], mut parts: Vec<Part>) -> io::Result<()> {
            while !parts.is_empty() {
                let mut unfinished = Vec::new();
                let mut failure = None;
                for chunk in parts.chunks(self.entries) {
                    self.submit(bytes, chunk)?;
                    for done in self.ring.completion() {
                        let mut part = chunk[usize::try_from(done.user_data()).unwrap_or_default()].clone();
                        match usize::try_from(done.result()) {
                            Ok(0) => failure = Some(io::ErrorKind::WriteZero.into()),
                            Ok(sent) => part.range.start += sent,
                            Err(_) => {
                                let error = io::Error::from_raw_os_error(-done.result());
                                if error.kind() != io::ErrorKind::Interrupted {
                                    failure = Some(error);
                                }
                            }
                        }
                        if !part.range.is_empty() {
                            unfinished.push(part);
                        }
                    }
                    if let Some(error) = failure {
                        return Err(error);
                    }
                }
                parts = unfinished;
            }
            Ok(())
        }

        /// Submits the operations and waits until all are complete.
        #[expect(
            unsafe_code,
            reason = "io_uring takes addresses, and its floor cannot be measured otherwise"
        )]
        fn submit(&mut self, bytes: &[u8], parts: &[Part]) -> io::Result<()> {
            let operation = |(index, part): (usize, &Part)| {
                let slice = &bytes[part.range.clone()];
                let socket = u32::try_from(part.socket).map_err(io::Error::other)?;
                let len = u32::try_from(slice.len()).map_err(io::Error::other)?;
                Ok(opcode::Send::new(Fixed(socket), slice.as_ptr(), len).build().user_data(index as u64))
            };
            let operations = parts.iter().enumerate().map(operation).collect::<io::Result<Vec<_>>>()?;
            // SAFETY: The addresses are those of `bytes`, which is borrowed until this function returns, and the kernel
            // only reads there. It pushes all operations or none, and `wait_for` does not return before all that were
            // pushed are complete.
            let pushed = unsafe { self.ring.submission().push_multiple(&operations) };
            pushed.map_err(io::Error::other)?;
            self.wait_for(operations.len());
            Ok(())
        }

        /// Submits what was pushed and waits for `count` completions.
        fn wait_for(&mut self, count: usize) {
            while self.ring.completion().len() < count {
                match self.ring.submit_and_wait(count) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        // Returning would free bytes that the kernel may still read.
                        eprintln!("io_uring_enter: {error}");
                        std::process::abort();
                    }
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::{Part, TcpStream, io};

    /// Only Linux has one.
    pub(crate) enum Ring {}

    impl Ring {
        pub(crate) fn new(_sockets: &[TcpStream]) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn send(&mut self, _bytes: &[u8], _parts: Vec<Part>) -> io::Result<()> {
            match *self {}
        }
    }
}
