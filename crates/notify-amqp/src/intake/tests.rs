use std::{
    io,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
};

use super::*;
use crate::stats::ConsumerStats;

const HEARTBEAT: &[u8] = &[8, 0, 0, 0, 0, 0, 0, 0xce];
const CHANNEL_CLOSE: &[u8] = b"\x01\0\x01\0\0\0\x0f\0\x14\0\x28\x01\x96\x04late\0\0\0\0\xce";

/// A socket from which each entry is one read: bytes, nothing yet, or an error; the end, when there is none.
#[derive(Debug, Default)]
struct Script(Reads);

type Reads = Arc<Mutex<VecDeque<Poll<io::Result<Vec<u8>>>>>>;

impl AsyncRead for Script {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let next = self.0.lock().unwrap().pop_front().unwrap_or(Poll::Ready(Ok(Vec::new())));
        next.map_ok(|bytes| {
            buf[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        })
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A delivery without properties and body.
fn delivery(tag: u64) -> Vec<u8> {
    let method = [b"\0\x3c\0\x3c\0", &tag.to_be_bytes()[..], b"\0\0\0"].concat();
    let mut bytes = vec![1, 0, 1, 0, 0, 0, method.len() as u8];
    bytes.extend(method);
    bytes.extend(b"\xce\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0\xce");
    bytes
}

struct Bench {
    wire: Arc<Wire<Script>>,
    script: Reads,
    lapin: Arc<Wakes>,
}

impl Bench {
    fn new() -> Self {
        let script = Script::default();
        let entries = script.0.clone();
        let wire = Arc::new(Wire::new(script, 4096, Arc::new(ConsumerStats::default())));
        Self { wire, script: entries, lapin: Arc::default() }
    }

    fn comes(&self, bytes: impl Into<Vec<u8>>) {
        self.script.lock().unwrap().push_back(Poll::Ready(Ok(bytes.into())));
    }

    fn comes_later(&self) {
        self.script.lock().unwrap().push_back(Poll::Pending);
    }

    fn breaks(&self) {
        self.script.lock().unwrap().push_back(Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())));
    }

    fn lapin_reads(&self) -> Poll<Result<Vec<u8>, io::ErrorKind>> {
        let waker = Waker::from(self.lapin.clone());
        let mut buf = [0; 100];
        let read = self.wire.poll_passed(&mut Context::from_waker(&waker), &mut buf);
        read.map_ok(|n| buf[..n].to_vec()).map_err(|error| error.kind())
    }

    fn lapin_was_woken(&self) -> bool {
        self.lapin.0.swap(0, Ordering::SeqCst) > 0
    }
}

fn poll(intake: &Intake<Script>) -> Poll<Vec<u64>> {
    let mut batch = VecDeque::new();
    let polled = intake.poll(&mut Context::from_waker(Waker::noop()), &mut batch);
    polled.map(|()| batch.iter().map(Delivery::tag).collect())
}

#[test]
fn deliveries_that_came_while_lapin_read_come_first_and_in_order() {
    let bench = Bench::new();
    bench.comes([delivery(1), HEARTBEAT.to_vec(), delivery(2)].concat());
    assert_eq!(bench.lapin_reads(), Poll::Ready(Ok(HEARTBEAT.to_vec())));
    bench.comes(&delivery(3)[..20]);
    bench.comes_later();
    assert_eq!(bench.lapin_reads(), Poll::Pending);
    let intake = Intake::begin(bench.wire.clone());
    assert_eq!(poll(&intake), Poll::Ready(vec![1, 2]));
    bench.comes(&delivery(3)[20..]);
    assert_eq!(poll(&intake), Poll::Ready(vec![3]));
    bench.comes_later();
    assert_eq!(poll(&intake), Poll::Pending);
}

#[test]
fn lapin_is_woken_for_what_is_not_a_delivery_and_for_nothing_else() {
    let bench = Bench::new();
    let intake = Intake::begin(bench.wire.clone());
    assert_eq!(bench.lapin_reads(), Poll::Pending);
    bench.comes(delivery(1));
    assert_eq!(poll(&intake), Poll::Ready(vec![1]));
    assert!(!bench.lapin_was_woken());
    bench.comes([delivery(2), HEARTBEAT.to_vec()].concat());
    assert_eq!(poll(&intake), Poll::Ready(vec![2]));
    assert!(bench.lapin_was_woken());
    assert_eq!(bench.lapin_reads(), Poll::Ready(Ok(HEARTBEAT.to_vec())));
    assert_eq!(bench.lapin_reads(), Poll::Pending, "the socket is the intake's");
}

#[test]
fn lapin_learns_of_the_end_after_all_that_came_before_it() {
    let bench = Bench::new();
    let intake = Intake::begin(bench.wire.clone());
    assert_eq!(bench.lapin_reads(), Poll::Pending);
    bench.comes(HEARTBEAT);
    bench.breaks();
    assert_eq!(poll(&intake), Poll::Pending);
    assert!(bench.lapin_was_woken());
    assert_eq!(bench.lapin_reads(), Poll::Ready(Ok(HEARTBEAT.to_vec())));
    assert_eq!(bench.lapin_reads(), Poll::Ready(Err(io::ErrorKind::ConnectionReset)));
    assert_eq!(poll(&intake), Poll::Pending);
}

#[test]
fn lapin_reads_the_end_of_an_orderly_closed_socket_itself() {
    let bench = Bench::new();
    let intake = Intake::begin(bench.wire.clone());
    assert_eq!(bench.lapin_reads(), Poll::Pending);
    assert_eq!(poll(&intake), Poll::Pending);
    assert!(bench.lapin_was_woken());
    assert_eq!(bench.lapin_reads(), Poll::Ready(Ok(Vec::new())));
}

#[test]
fn what_waits_keeps_its_order_and_is_dropped_when_the_channel_ends() {
    let bench = Bench::new();
    let intake = Intake::begin(bench.wire.clone());
    let (mut waiting, mut cx) = (VecDeque::new(), Context::from_waker(Waker::noop()));
    bench.comes(delivery(1));
    bench.comes([delivery(2), delivery(3)].concat());
    bench.comes(CHANNEL_CLOSE);
    bench.comes_later();
    assert!(intake.poll(&mut cx, &mut waiting).is_ready());
    assert!(intake.poll(&mut cx, &mut waiting).is_ready());
    assert_eq!(waiting.iter().map(Delivery::tag).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(intake.poll(&mut cx, &mut waiting).is_pending());
    assert!(waiting.is_empty());
    assert_eq!(bench.lapin_reads(), Poll::Ready(Ok(CHANNEL_CLOSE.to_vec())));
}

#[test]
fn after_the_intake_lapin_reads_again_and_deliveries_are_dropped() {
    let bench = Bench::new();
    let intake = Intake::begin(bench.wire.clone());
    assert_eq!(bench.lapin_reads(), Poll::Pending);
    drop(intake);
    assert!(bench.lapin_was_woken());
    bench.comes([delivery(1), HEARTBEAT.to_vec()].concat());
    assert_eq!(bench.lapin_reads(), Poll::Ready(Ok(HEARTBEAT.to_vec())));
    assert!(!bench.wire.lock().tap.has_deliveries());
}

#[test]
fn a_cut_connection_fails_for_lapin_whoever_reads() {
    let bench = Bench::new();
    let _intake = Intake::begin(bench.wire.clone());
    assert_eq!(bench.lapin_reads(), Poll::Pending);
    bench.wire.cut();
    assert!(bench.lapin_was_woken());
    assert_eq!(bench.lapin_reads(), Poll::Ready(Err(io::ErrorKind::ConnectionAborted)));
}

#[test]
fn a_delivery_that_breaks_off_ends_the_connection() {
    let bench = Bench::new();
    let intake = Intake::begin(bench.wire.clone());
    bench.comes([&delivery(1)[..24], &delivery(2)].concat());
    assert_eq!(poll(&intake), Poll::Pending);
    assert_eq!(bench.lapin_reads(), Poll::Ready(Err(io::ErrorKind::InvalidData)));
}
