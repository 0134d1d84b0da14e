//! Between the consumer's thread and a handler: deliveries wait here, are begun in order, and settled when done.
//!
//! The dispatch puts a burst of deliveries into the backlog at a time, under one lock and with one wake-up. One task
//! takes them out and runs the handler's futures, `concurrency` of them at a time. What waits is bounded by the
//! prefetch: the backlog is emptied when its channel ends.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{runtime::Handle, sync::Notify, task::coop::consume_budget};

use crate::{
    consumer::Dispatch, delivery::Delivery, handler::Handler, outcome::Outcome, panic_log::PanicLog,
    settlement::Ticket, status::StopReason, stop::StopSignal,
};

/// Begins the task that runs the handler, and returns what feeds it. When `runtime` is shut down, `stop` is given.
pub(crate) fn begin(
    handler: impl Handler,
    concurrency: u16,
    runtime: &Handle,
    stop: StopSignal,
) -> HandlerDispatch {
    let backlog = Arc::new(Backlog::default());
    let end = TaskEnd { stop, backlog: backlog.clone() };
    runtime.spawn(run(handler, concurrency.into(), end));
    HandlerDispatch { burst: Vec::new(), backlog }
}

/// A message to work on. Dropped without an outcome, it is left to the broker.
struct Work {
    delivery: Delivery,
    ticket: Unsettled,
}

struct Unsettled(Option<Ticket>);

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.leave();
        }
    }
}

/// The handler's form of a dispatch.
pub(crate) struct HandlerDispatch {
    burst: Vec<Work>,
    backlog: Arc<Backlog>,
}

impl Dispatch for HandlerDispatch {
    fn dispatch(&mut self, delivery: Delivery, ticket: Ticket) {
        self.burst.push(Work { delivery, ticket: Unsettled(Some(ticket)) });
    }

    fn burst_ends(&mut self) {
        self.backlog.lock().waiting.extend(self.burst.drain(..));
        self.backlog.wake.notify_one();
    }

    fn channel_ends(&mut self) {
        self.backlog.empty();
    }
}

impl Drop for HandlerDispatch {
    fn drop(&mut self) {
        self.backlog.lock().closed = true;
        self.backlog.empty();
        self.backlog.wake.notify_one();
    }
}

/// What came and was not begun.
#[derive(Default)]
struct Backlog {
    state: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    waiting: VecDeque<Work>,
    closed: bool,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Work> {
        self.lock().waiting.pop_front()
    }

    /// Leaves all of it to the broker.
    fn empty(&self) {
        let left = std::mem::take(&mut self.lock().waiting);
        drop(left); // without the lock: tickets have their own
    }
}

/// Says that the task is gone, if the consumer does not know.
struct TaskEnd {
    stop: StopSignal,
    backlog: Arc<Backlog>,
}

impl Drop for TaskEnd {
    fn drop(&mut self) {
        self.stop.give(StopReason::RuntimeGone);
    }
}

async fn run(handler: impl Handler, concurrency: usize, end: TaskEnd) {
    let backlog = &*end.backlog;
    let panics = Mutex::default();
    let mut in_work = FuturesUnordered::new();
    let mut halted = false;
    loop {
        while !halted && in_work.len() < concurrency {
            let Some(work) = backlog.next() else { break };
            in_work.push(attend(&handler, work, &panics));
        }
        if in_work.is_empty() && backlog.lock().closed {
            return;
        }
        let may_begin = !halted && in_work.len() < concurrency;
        tokio::select! {
            biased;
            Some(halt) = in_work.next() => halted |= halt,
            () = backlog.wake.notified(), if may_begin || in_work.is_empty() => {}
        }
        // A handler that never waits must not keep the thread from others.
        consume_budget().await;
    }
}

/// Has one message handled and settles it. Returns whether that was the last.
async fn attend(handler: &impl Handler, work: Work, panics: &Mutex<PanicLog>) -> bool {
    let Work { delivery, mut ticket } = work;
    let handled = AssertUnwindSafe(async { handler.handle(delivery).await }).catch_unwind().await;
    let Some(ticket) = ticket.0.take() else { return false };
    let outcome = handled.unwrap_or_else(|_| {
        ticket.stats().dispatch_panics.add(1);
        panics.lock().unwrap_or_else(PoisonError::into_inner).note("handler");
        Outcome::Reject
    });
    ticket.settle(outcome);
    matches!(outcome, Outcome::Halt { .. })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    use tokio::sync::{Semaphore, mpsc};

    use super::*;
    use crate::{
        outcome::Verdict, settlement::Settlement, stats::ConsumerStats, stop::StopListener, window::Run,
    };

    /// A channel's settlement and a dispatch in front of a handler.
    struct Bench {
        settlement: Arc<Settlement>,
        stats: Arc<ConsumerStats>,
        dispatch: HandlerDispatch,
        stopped: StopListener,
        next_tag: u64,
    }

    impl Bench {
        fn new(concurrency: u16, handler: impl Handler) -> Self {
            let (stop, stopped) = StopSignal::new();
            let stats = Arc::new(ConsumerStats::default());
            let settlement = Arc::new(Settlement::new(100, 100, stats.clone(), stop.clone()));
            let dispatch = begin(handler, concurrency, &Handle::current(), stop);
            Self { settlement, stats, dispatch, stopped, next_tag: 1 }
        }

        /// Delivers a burst of messages with these keys.
        fn deliver(&mut self, keys: &[&str]) {
            for key in keys {
                let (ticket, _) = self.settlement.deliver(self.next_tag, true).unwrap();
                self.next_tag += 1;
                self.dispatch.dispatch(Delivery::detached(key, Vec::new()), ticket);
            }
            self.dispatch.burst_ends();
        }

        async fn until_open(&self, open: usize) {
            let end = tokio::time::Instant::now() + Duration::from_secs(30);
            while self.settlement.open() != open {
                assert!(tokio::time::Instant::now() < end, "{} open, not {open}", self.settlement.open());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        fn verdicts(&self) -> Vec<(u64, Verdict)> {
            let runs = std::iter::from_fn(|| self.settlement.take_run());
            runs.map(|Run { messages, verdict, .. }| (messages, verdict)).collect()
        }
    }

    async fn by_key(delivery: Delivery) -> Outcome {
        match delivery.routing_key() {
            "ack" => Outcome::Ack,
            "requeue" => Outcome::Requeue,
            "reject" => Outcome::Reject,
            "halt" => Outcome::Halt { code: 3, requeue: false },
            other => panic!("this is the test's panic: {other}"),
        }
    }

    #[tokio::test]
    async fn f07_n11_the_outcome_settles_the_delivery() {
        let mut bench = Bench::new(1, by_key);
        bench.deliver(&["ack", "ack", "requeue", "reject", "ack"]);
        bench.until_open(0).await;
        use Verdict::{Ack, Reject, Requeue};
        assert_eq!(bench.verdicts(), [(2, Ack), (1, Requeue), (1, Reject), (1, Ack)]);
    }

    #[tokio::test]
    async fn f08_n13_a_panic_in_the_call_or_in_the_future_rejects_that_message_only() {
        let in_call = |delivery: Delivery| {
            assert_ne!(delivery.routing_key(), "call", "this is the test's panic");
            async move {
                tokio::task::yield_now().await;
                assert_ne!(delivery.routing_key(), "future", "this is the test's panic");
                Outcome::Ack
            }
        };
        let mut bench = Bench::new(2, in_call);
        bench.deliver(&["a", "call", "b", "future", "c"]);
        bench.until_open(0).await;
        use Verdict::{Ack, Reject};
        assert_eq!(bench.verdicts(), [(1, Ack), (1, Reject), (1, Ack), (1, Reject), (1, Ack)]);
        assert_eq!(bench.stats.dispatch_panics.get(), 2);
        assert_eq!(*bench.stopped.borrow(), None);
    }

    #[tokio::test]
    async fn f02_messages_are_begun_in_order_and_no_more_than_allowed_are_in_work() {
        for concurrency in [1_u16, 3] {
            let (begun, mut order) = mpsc::channel(100);
            let (working, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let counters = (working, most.clone());
            let handler = move |delivery: Delivery| {
                let (begun, (working, most)) = (begun.clone(), counters.clone());
                async move {
                    begun.try_send(delivery.routing_key().to_owned()).unwrap();
                    most.fetch_max(working.fetch_add(1, SeqCst) + 1, SeqCst);
                    for _ in 0..fastrand::u8(0..5) {
                        tokio::task::yield_now().await;
                    }
                    working.fetch_sub(1, SeqCst);
                    Outcome::Ack
                }
            };
            let mut bench = Bench::new(concurrency, handler);
            let keys: Vec<String> = (0..60).map(|n| n.to_string()).collect();
            for burst in keys.chunks(20) {
                bench.deliver(&burst.iter().map(String::as_str).collect::<Vec<_>>());
                tokio::task::yield_now().await;
            }
            bench.until_open(0).await;
            let mut got = Vec::new();
            while let Ok(key) = order.try_recv() {
                got.push(key);
            }
            assert_eq!(got, keys, "concurrency {concurrency}");
            assert_eq!(most.load(SeqCst), usize::from(concurrency));
        }
    }

    #[tokio::test]
    async fn f07_after_a_halt_nothing_more_is_begun_and_what_is_in_work_is_finished() {
        let go_on = Arc::new(Semaphore::new(0));
        let gate = go_on.clone();
        let handler = move |delivery: Delivery| {
            let gate = gate.clone();
            async move {
                match delivery.routing_key() {
                    "halt" => Outcome::Halt { code: 3, requeue: false },
                    _ => {
                        drop(gate.acquire().await);
                        Outcome::Ack
                    }
                }
            }
        };
        let mut bench = Bench::new(2, handler);
        bench.deliver(&["slow", "halt", "never", "never"]);
        bench.until_open(3).await;
        assert_eq!(*bench.stopped.borrow(), Some(StopReason::Halted { code: 3 }));
        bench.dispatch.channel_ends();
        go_on.add_permits(10);
        bench.until_open(0).await;
        assert_eq!(bench.verdicts(), [(2, Verdict::Ack)]);
        assert_eq!(bench.settlement.completed_behind_gap(), [], "two were left to the broker");
    }

    #[tokio::test]
    async fn n18_k25_what_was_not_begun_when_its_channel_ended_is_never_begun() {
        let go_on = Arc::new(Semaphore::new(0));
        let (gate, calls) = (go_on.clone(), Arc::new(AtomicUsize::new(0)));
        let count = calls.clone();
        let handler = move |_: Delivery| {
            count.fetch_add(1, SeqCst);
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Outcome::Ack
            }
        };
        let mut bench = Bench::new(1, handler);
        bench.deliver(&["a", "b", "c"]);
        while calls.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        bench.dispatch.channel_ends();
        bench.settlement.close();
        go_on.add_permits(1);
        while bench.stats.stale.get() == 0 {
            tokio::task::yield_now().await;
        }
        let (stop, _listener) = StopSignal::new();
        bench.settlement = Arc::new(Settlement::new(100, 100, bench.stats.clone(), stop));
        bench.next_tag = 1;
        bench.deliver(&["a"]);
        go_on.add_permits(1);
        bench.until_open(0).await;
        assert_eq!((calls.load(SeqCst), bench.stats.stale.get()), (2, 1));
        assert_eq!(bench.verdicts(), [(1, Verdict::Ack)], "the late ack did not go to the new channel");
    }

    #[test]
    fn when_the_handlers_runtime_goes_its_messages_are_left_and_the_consumer_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bench = runtime.block_on(async {
            let mut bench = Bench::new(1, |_: Delivery| std::future::pending());
            bench.deliver(&["a", "b"]);
            tokio::task::yield_now().await;
            bench
        });
        drop(runtime);
        assert_eq!(*bench.stopped.borrow(), Some(StopReason::RuntimeGone));
        let Bench { settlement, dispatch, .. } = bench;
        drop(dispatch);
        assert_eq!((settlement.open(), settlement.take_run()), (0, None), "not acked");
    }

    #[tokio::test]
    async fn a_handler_that_never_waits_leaves_the_thread_to_others() {
        const MANY: usize = 1_000_000;
        let (calls, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let feed: Arc<Mutex<Option<HandlerDispatch>>> = Arc::default();
        let (again, count, stop) = (feed.clone(), calls.clone(), heard.clone());
        // Each message brings the next, on this one thread, until the other task has had its turn.
        let handler = move |delivery: Delivery| {
            let mut feed = again.lock().unwrap();
            if count.fetch_add(1, SeqCst) < MANY && !stop.load(SeqCst) {
                let dispatch = feed.as_mut().unwrap();
                dispatch.dispatch(delivery, Ticket::detached());
                dispatch.burst_ends();
            }
            async { Outcome::Ack }
        };
        let mut dispatch = begin(handler, 1, &Handle::current(), StopSignal::new().0);
        dispatch.dispatch(Delivery::detached("a", Vec::new()), Ticket::detached());
        dispatch.burst_ends();
        *feed.lock().unwrap() = Some(dispatch);
        tokio::task::yield_now().await;
        heard.store(true, SeqCst);
        let calls = calls.load(SeqCst);
        assert!((1..MANY).contains(&calls), "{calls} calls before anybody else had a turn");
    }
}
