//! Dropped messages: kept before they are acked, shown without being taken, published again.

use std::time::{Duration, Instant};

use notify_amqp::{
    BrokerConfig, Consumer, ConsumerConfig, ConsumerError, ConsumerHandle, DeadLetter, DeadLetterConfig,
    DeadLetterFigures, DeadLetterQueue, DeadLetterQueueError, DeadLetterTopology, DeadLetters,
    DeadLettersHandle, Delivery, QueueName, Replayed, Ticket,
};
use tokio::{runtime::Handle, sync::mpsc};

use crate::{
    proxy::Proxy,
    raw::{Raw, entry, sized},
    rig::{PATIENCE, Rig},
};

/// A consumer that drops every message whose body begins with `bad`, and tells the others.
struct Dropping {
    rig: Rig,
    name: String,
    consumer: ConsumerHandle,
    letters: DeadLettersHandle,
    good: mpsc::Receiver<Vec<u8>>,
}

impl Dropping {
    /// `port` is where dead letters find the broker.
    async fn start(change: impl FnOnce(&Rig, &mut DeadLetterConfig, &mut ConsumerConfig)) -> Self {
        let rig = Rig::new();
        let name = format!("{}.dead", rig.exchange);
        let topology = DeadLetterTopology::new(&name, QueueName::new(&name).unwrap());
        let broker = BrokerConfig::new(rig.url.clone(), format!("dead letters {}", rig.exchange));
        let mut config = DeadLetterConfig::new(broker, topology, "pod-7");
        // Long enough for a busy machine; only a broken promise waits so long.
        config.timeout = PATIENCE;
        let mut consuming = rig.config();
        change(&rig, &mut config, &mut consuming);
        let (letters, handle) = DeadLetters::start(config, &Handle::current());
        let (sender, good) = mpsc::channel(10_000);
        let dispatch = move |delivery: Delivery, ticket: Ticket| {
            if delivery.body().starts_with(b"bad") {
                letters.hand_over(delivery, ticket, "non_json", "body is not JSON");
            } else {
                sender.try_send(delivery.into_body()).expect("the test's buffer is large enough");
            }
        };
        let consumer = Consumer::spawn(consuming, dispatch).unwrap();
        let mut status = consumer.status();
        tokio::time::timeout(PATIENCE, status.wait_for(|s| s.is_consuming())).await.unwrap().unwrap();
        Self { rig, name, consumer, letters: handle, good }
    }

    fn figures(&self) -> DeadLetterFigures {
        self.letters.figures()
    }

    async fn until(&self, what: &str, test: impl Fn(&DeadLetterFigures) -> bool) {
        let (figures, end) = (self.figures(), Instant::now() + PATIENCE);
        while !test(&figures) {
            assert!(Instant::now() < end, "not {what}: {figures:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until_acked(&self, count: u64) {
        let (stats, end) = (self.consumer.stats(), Instant::now() + PATIENCE);
        while stats.acked.get() < count {
            assert!(Instant::now() < end, "{count} never acked: {stats:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn good(&mut self) -> String {
        let body = tokio::time::timeout(PATIENCE, self.good.recv()).await.unwrap().unwrap();
        String::from_utf8(body).unwrap()
    }

    async fn queue(&self) -> DeadLetterQueue {
        open(&self.rig, &self.name).await.unwrap()
    }

    /// Stops everything and deletes what was declared.
    async fn end(self) {
        self.consumer.stop().await;
        self.letters.stop(Instant::now()).await;
        let mut raw = self.rig.another_raw();
        raw.delete_queue(&self.name);
        raw.delete_exchange(&self.name);
    }
}

async fn open(rig: &Rig, queue: &str) -> Result<DeadLetterQueue, DeadLetterQueueError> {
    let broker = BrokerConfig::new(rig.url.clone(), format!("operator {}", rig.exchange));
    DeadLetterQueue::open(&broker, &QueueName::new(queue).unwrap()).await
}

/// All bodies, the oldest first.
async fn bodies(queue: &DeadLetterQueue) -> Vec<String> {
    let mut bodies = Vec::new();
    let each = |_, letter: &DeadLetter| bodies.push(String::from_utf8_lossy(letter.body()).into_owned());
    queue.list(1000, each).await.unwrap();
    bodies
}

fn publish(raw: &mut Raw, exchange: &str, bodies: impl IntoIterator<Item = String>) {
    for body in bodies {
        raw.publish_plain(exchange, body.as_bytes());
    }
}

#[tokio::test]
async fn n06_what_is_dropped_is_kept_with_its_headers_as_they_came_and_then_acked() {
    let mut dropping = Dropping::start(|_, _, _| {}).await;
    // Every letter of the wire, one name that is not UTF-8, one number that the library writes with another letter.
    let entries = [
        entry(b"bool", b't', b"\x01"),
        entry(b"i8", b'b', b"\xff"),
        entry(b"u8", b'B', b"\xff"),
        entry(b"i16", b's', b"\xff\xfe"),
        entry(b"u16", b'u', b"\xff\xff"),
        entry(b"i32", b'I', b"\xff\xff\xff\xfe"),
        entry(b"u32", b'i', b"\xff\xff\xff\xff"),
        entry(b"i64", b'l', b"\x80\0\0\0\0\0\0\0"),
        entry(b"L", b'L', b"\0\0\0\0\0\0\0\x2a"),
        entry(b"f32", b'f', b"\x3f\xc0\0\0"),
        entry(b"f64", b'd', b"\x40\x04\0\0\0\0\0\0"),
        entry(b"text", b'S', &sized(b"\xff\xfe")),
        entry(b"bytes", b'x', &sized(b"\x01\x02")),
        entry(b"time", b'T', b"\x80\0\0\0\0\0\0\0"),
        entry(b"void", b'V', b""),
        entry(b"list", b'A', &sized(b"VV")),
        entry(b"table", b'F', &sized(&entry(b"deep", b't', b"\x01"))),
        entry(b"n\xffme", b'V', b""),
    ]
    .concat();
    // Headers, delivery mode 1, expiration, message id, user id.
    let flags = (1 << 13) | (1 << 12) | (1 << 8) | (1 << 7);
    let properties = [sized(&entries), b"\x01\x0560000\x03m-1".to_vec()].concat();
    dropping.rig.raw.publish(
        &dropping.rig.exchange,
        "request.client.notify",
        flags,
        &properties,
        b"bad \xff\0 bytes",
    );
    dropping.until("confirmed", |figures| figures.stats().confirmed.get() == 1).await;
    dropping.until_acked(1).await;
    let queue = dropping.queue().await;
    let letter = queue.show(1).await.unwrap().unwrap();
    assert_eq!(letter.body(), b"bad \xff\0 bytes");
    let headers: Vec<_> = letter.headers().map(|(name, value)| format!("{name}={value}")).collect();
    let mut expected = [
        "bool=boolean true",
        "i8=integer -1",
        "u8=integer 255",
        "i16=integer -2",
        "u16=integer 65535",
        "i32=integer -2",
        "u32=integer 4294967295",
        "i64=integer -9223372036854775808",
        "L=integer 42",
        "f32=float 1.5e0",
        "f64=double 2.5e0",
        r#"text=long string "\xff\xfe""#,
        r#"bytes=byte array "\x01\x02""#,
        "time=timestamp 9223372036854775808",
        "void=void",
        "list=array",
        "table=table",
        "n?me=void",
    ];
    expected.sort_unstable();
    assert_eq!(headers, expected);
    assert_eq!((letter.reason(), letter.detail()), (Some("non_json"), Some("body is not JSON")));
    assert_eq!((letter.instance(), letter.exchange()), (Some("pod-7"), Some(dropping.rig.exchange.as_str())));
    let age = letter.time().unwrap().elapsed().unwrap_or_default();
    assert!(age < Duration::from_secs(120), "{age:?}");
    let properties = letter.properties();
    for (name, value) in [("expiration", "60000"), ("delivery-mode", "1"), ("message-id", "m-1")] {
        assert!(properties.contains(&(name, value.to_owned())), "{name}: {properties:?}");
    }
    queue.close().await;
    dropping.end().await;
}

#[tokio::test]
async fn n06_the_ticket_is_held_until_the_confirm_and_nobody_else_waits_for_ever() {
    let proxy = Proxy::to(&Rig::new().url.address());
    let mut dropping = Dropping::start(|rig, letters, _| {
        letters.broker = BrokerConfig::new(rig.url_with_port(proxy.port()), "dead letters");
        letters.timeout = Duration::from_secs(5);
    })
    .await;
    let exchange = dropping.rig.exchange.clone();
    publish(&mut dropping.rig.raw, &exchange, ["bad 0".to_owned()]);
    dropping.until_acked(1).await;

    proxy.hold(); // confirms do not come through, and nothing else is wrong
    publish(&mut dropping.rig.raw, &exchange, ["bad 1".into(), "good 1".into()]);
    assert_eq!(dropping.good().await, "good 1", "players do not wait for dead letters");
    dropping.until("under way", |figures| figures.pending() == 1).await;
    assert_eq!(dropping.consumer.stats().acked.get(), 1, "held until the confirm");
    dropping.until_acked(3).await;
    let figures = dropping.figures();
    assert_eq!((figures.stats().confirmed.get(), figures.stats().timed_out.get()), (1, 1));

    // What comes before the broker confirms again is not held: neither acks nor players wait.
    publish(&mut dropping.rig.raw, &exchange, (2..500).map(|n| format!("bad {n}")));
    dropping.until_acked(501).await;
    let stats = figures.stats();
    let all =
        || stats.confirmed.get() + stats.timed_out.get() + stats.unreachable.get() + stats.overflow.get();
    dropping.until("all decided", |_| all() == 500).await;

    proxy.release_with(b"");
    let mut written = stats.confirmed.get();
    let end = Instant::now() + PATIENCE;
    while stats.confirmed.get() == written {
        assert!(Instant::now() < end, "the broker confirms again, and nobody notices: {figures:?}");
        publish(&mut dropping.rig.raw, &exchange, ["bad again".into()]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    dropping.until("idle", |figures| figures.pending() == 0).await;
    written = stats.confirmed.get();
    proxy.set_black_hole(true); // held again, as before
    let acked = dropping.consumer.stats().acked.get();
    publish(&mut dropping.rig.raw, &exchange, ["bad last".into()]);
    dropping.until("under way", |figures| figures.pending() == 1).await;
    assert_eq!((dropping.consumer.stats().acked.get(), stats.confirmed.get()), (acked, written));
    dropping.end().await;
}

#[tokio::test]
async fn n06_a_broken_connection_costs_no_dead_letter() {
    let proxy = Proxy::to(&Rig::new().url.address());
    let mut dropping = Dropping::start(|rig, letters, _| {
        letters.broker = BrokerConfig::new(rig.url_with_port(proxy.port()), "dead letters");
    })
    .await;
    let exchange = dropping.rig.exchange.clone();
    for round in 0..5 {
        publish(&mut dropping.rig.raw, &exchange, (0..10).map(|n| format!("bad {round} {n}")));
        proxy.break_connections();
    }
    dropping.until_acked(50).await;
    assert_eq!(dropping.figures().stats().confirmed.get(), 50);
    let queue = dropping.queue().await;
    let mut kept = bodies(&queue).await;
    kept.sort();
    kept.dedup();
    assert_eq!(kept.len(), 50, "each at least once: {kept:?}");
    queue.close().await;
    dropping.end().await;
}

#[tokio::test]
async fn n06_a_queue_that_was_deleted_is_declared_again_before_the_message_is_acked() {
    let mut dropping = Dropping::start(|_, _, _| {}).await;
    let exchange = dropping.rig.exchange.clone();
    publish(&mut dropping.rig.raw, &exchange, ["bad 1".into()]);
    dropping.until_acked(1).await;
    dropping.rig.raw.delete_queue(&dropping.name);
    publish(&mut dropping.rig.raw, &exchange, ["bad 2".into()]);
    dropping.until_acked(2).await;
    dropping.rig.raw.delete_queue(&dropping.name);
    dropping.rig.raw.delete_exchange(&dropping.name);
    publish(&mut dropping.rig.raw, &exchange, ["bad 3".into()]);
    dropping.until_acked(3).await;
    let queue = dropping.queue().await;
    assert_eq!(bodies(&queue).await, ["bad 3"]);
    let stats = crate::management::queue(&dropping.name);
    assert_eq!((&stats["durable"], &stats["arguments"]["x-max-length"]), (&true.into(), &10_000.into()));
    assert_eq!(stats["arguments"]["x-overflow"], "drop-head");
    queue.close().await;
    dropping.end().await;
}

#[tokio::test]
async fn n06_an_exchange_of_another_type_costs_dead_letters_and_nothing_else() {
    let mut dropping = Dropping::start(|rig, letters, _| {
        rig.another_raw().declare_exchange(&letters.topology.exchange, "fanout");
    })
    .await;
    let exchange = dropping.rig.exchange.clone();
    let end = Instant::now() + PATIENCE;
    let mut sent = 0;
    while dropping.figures().stats().unreachable.get() == 0 {
        assert!(Instant::now() < end, "{:?}", dropping.figures());
        publish(&mut dropping.rig.raw, &exchange, ["bad".into()]);
        sent += 1;
        dropping.until_acked(sent).await; // at once, long before the limit of a single one
    }
    publish(&mut dropping.rig.raw, &exchange, ["good".into()]);
    assert_eq!(dropping.good().await, "good");
    assert_eq!(dropping.figures().stats().confirmed.get(), 0);
    dropping.rig.raw.declare_queue(&dropping.name, true, b"");
    dropping.end().await;
}

#[tokio::test]
async fn n13_more_than_may_wait_are_acked_and_counted() {
    let proxy = Proxy::to(&Rig::new().url.address());
    proxy.set_black_hole(true);
    let mut dropping = Dropping::start(|rig, letters, _| {
        letters.broker = BrokerConfig::new(rig.url_with_port(proxy.port()), "dead letters");
        letters.max_pending = 5;
    })
    .await;
    let exchange = dropping.rig.exchange.clone();
    publish(&mut dropping.rig.raw, &exchange, (0..20).map(|n| format!("bad {n}")));
    dropping.until("overflow", |figures| figures.stats().overflow.get() == 15).await;
    assert_eq!(dropping.figures().pending(), 5);
    dropping.consumer.stop().await;
    dropping.letters.stop(Instant::now()).await;
    let mut raw = dropping.rig.another_raw();
    let deadline = Instant::now() + PATIENCE;
    while raw.queue(&dropping.rig.queue) != Some((5, 0)) {
        assert!(Instant::now() < deadline, "what was held goes back: {:?}", raw.queue(&dropping.rig.queue));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn n13_a_dead_letter_that_comes_back_is_not_kept_for_ever_and_ever() {
    let mut dropping = Dropping::start(|_, _, _| {}).await;
    let reason = entry(b"x-lobby-reason", b'S', &sized(b"non_json"));
    let ours = [&reason[..], &entry(b"x-lobby-time", b'T', &1_700_000_000_u64.to_be_bytes())].concat();
    dropping.rig.raw.publish_headers(&dropping.rig.exchange, &ours, b"bad");
    dropping.until_acked(1).await;
    // A publisher's own header of that name is no sign of one.
    dropping.rig.raw.publish_headers(&dropping.rig.exchange, &reason, b"bad");
    dropping.until_acked(2).await;
    let stats = dropping.figures();
    assert_eq!((stats.stats().looped.get(), stats.stats().confirmed.get()), (1, 1));
    dropping.until("declared", |_| dropping.rig.another_raw().queue(&dropping.name).is_some()).await;
    dropping.end().await;
}

#[tokio::test]
async fn f21_looking_takes_nothing_and_a_replay_brings_back_what_was_published() {
    let mut dropping = Dropping::start(|_, _, _| {}).await;
    let exchange = dropping.rig.exchange.clone();
    let user = entry(b"user-id", b'I', &42_u32.to_be_bytes());
    for n in 1..=4 {
        dropping.rig.raw.publish_headers(&exchange, &user, format!("bad {n}").as_bytes());
        dropping.until_acked(n).await; // several at a time need not keep their order
    }
    let queue = dropping.queue().await;
    let all = ["bad 1", "bad 2", "bad 3", "bad 4"];
    assert_eq!(bodies(&queue).await, all);
    assert_eq!(bodies(&queue).await, all, "in the same order, again and again");
    assert_eq!(queue.len().await.unwrap(), 4);
    let mut shown = Vec::new();
    queue.list(2, |at, _| shown.push(at)).await.unwrap();
    assert_eq!(shown, [1, 2], "no more than asked for");
    assert_eq!(queue.show(3).await.unwrap().unwrap().body(), b"bad 3");
    assert_eq!(queue.show(5).await.unwrap(), None);

    // The third goes back, is dropped again, and is the last now.
    let mut outcomes = Vec::new();
    let confirmed = dropping.figures().stats().confirmed.get();
    queue.replay(Some(3), |at, _, replayed| outcomes.push((at, replayed.clone()))).await.unwrap();
    assert_eq!(outcomes, [(3, Replayed::Published)]);
    dropping.until("kept again", |f| f.stats().confirmed.get() == confirmed + 1).await;
    assert_eq!(bodies(&queue).await, ["bad 1", "bad 2", "bad 4", "bad 3"]);
    let headers = |letter: &DeadLetter| letter.headers().map(|h| format!("{h:?}")).collect::<Vec<_>>();
    let (first, again) = (queue.show(1).await.unwrap().unwrap(), queue.show(4).await.unwrap().unwrap());
    assert_eq!(headers(&first), headers(&again));

    // All of them, each once, though each comes back.
    let mut outcomes = Vec::new();
    queue.replay(None, |at, _, replayed| outcomes.push((at, replayed.clone()))).await.unwrap();
    let published = |n: u32| (1..=n).map(|at| (at, Replayed::Published)).collect::<Vec<_>>();
    assert_eq!(outcomes, published(4));
    dropping.until("kept again", |f| f.stats().confirmed.get() == confirmed + 5).await;
    assert_eq!(queue.purge().await.unwrap(), 4);
    assert_eq!(queue.len().await.unwrap(), 0);
    queue.close().await;
    dropping.end().await;
}

#[tokio::test]
async fn f21_what_cannot_be_published_again_stays_and_says_why() {
    let mut dropping = Dropping::start(|_, _, _| {}).await;
    let exchange = dropping.rig.exchange.clone();
    let name = dropping.name.clone();
    for n in 1..=2 {
        publish(&mut dropping.rig.raw, &exchange, [format!("bad {n}")]);
        dropping.until_acked(n).await;
    }
    dropping.rig.raw.publish_plain(&name, b"from elsewhere");
    dropping.consumer.stop().await;
    let mut raw = dropping.rig.another_raw();
    raw.unbind(&dropping.rig.queue, &exchange, "request.client.notify");
    let queue = open(&dropping.rig, &name).await.unwrap();
    let replay = async || {
        let mut outcomes = Vec::new();
        queue.replay(None, |_, _, replayed| outcomes.push(replayed.clone())).await.unwrap();
        outcomes
    };
    assert_eq!(replay().await, [Replayed::Unroutable, Replayed::Unroutable, Replayed::NotOurs]);
    raw.delete_exchange(&exchange);
    let outcomes = replay().await;
    for outcome in &outcomes[..2] {
        assert!(
            matches!(outcome, Replayed::Refused { text } if text.contains("no exchange")),
            "{outcomes:?}"
        );
    }
    assert_eq!(bodies(&queue).await, ["bad 1", "bad 2", "from elsewhere"], "all stay, in order");
    queue.close().await;
    let missing = open(&dropping.rig, "nowhere-at-all").await.err();
    assert!(
        matches!(missing, Some(DeadLetterQueueError::Broker(ConsumerError::NotFound { .. }))),
        "{missing:?}"
    );
    raw.declare_exchange(&exchange, "topic"); // the rig deletes it
    raw.delete_queue(&name);
    dropping.letters.stop(Instant::now()).await;
    raw.delete_exchange(&name);
}
