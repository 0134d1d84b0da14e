//! One test's exchange and queue, and a consumer whose deliveries the test receives.

use std::{
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use notify_amqp::{
    BrokerConfig, BrokerUrl, Consumer, ConsumerConfig, ConsumerHandle, ConsumerStatus, Delivery, QueueMode,
    QueueOptions, Ticket, Topology, instance_queue, shared_queue,
};
use tokio::{sync::mpsc, time::timeout};

use crate::raw::Raw;

/// Longer than anything here takes; only a broken promise waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Names of its own on the broker.
pub struct Rig {
    pub url: BrokerUrl,
    pub exchange: String,
    pub instance: String,
    pub queue: String,
    pub raw: Raw,
    user: String,
    password: String,
}

/// What a test sees of a delivery.
#[derive(Debug)]
pub struct Got {
    pub body: Vec<u8>,
    pub headers: Vec<(String, String)>,
    pub redelivered: bool,
    pub timestamp: Option<u64>,
    pub ticket: Option<Ticket>,
}

impl Rig {
    pub fn new() -> Self {
        static LOG: Once = Once::new();
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        LOG.call_once(|| {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        });
        let text = std::env::var("AMQP_URL").expect("AMQP_URL names a broker");
        let url = BrokerUrl::parse(&text).unwrap();
        let login =
            text.split("://").nth(1).and_then(|rest| rest.rsplit_once('@')).map_or("guest:guest", |l| l.0);
        let (user, password) = login.split_once(':').unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let exchange = format!("t{}-{number}", std::process::id());
        let instance = format!("i{number}");
        let queue = instance_queue(&exchange, &instance).unwrap().as_str().to_owned();
        let raw = Raw::connect(&url.address(), user, password, url.vhost());
        Self { exchange, instance, queue, raw, user: user.into(), password: password.into(), url }
    }

    /// A second connection for the operator's hand.
    pub fn another_raw(&self) -> Raw {
        Raw::connect(&self.url.address(), &self.user, &self.password, self.url.vhost())
    }

    /// The broker behind another port.
    pub fn url_with_port(&self, port: u16) -> BrokerUrl {
        BrokerUrl::from_parts("127.0.0.1", port, &self.user, &self.password, self.url.vhost()).unwrap()
    }

    /// The same broker and virtual host as another user.
    pub fn url_as(&self, user: &str, password: &str) -> BrokerUrl {
        BrokerUrl::from_parts(self.url.host(), self.url.port(), user, password, self.url.vhost()).unwrap()
    }

    pub fn config(&self) -> ConsumerConfig {
        self.config_at(self.url.clone())
    }

    pub fn config_at(&self, url: BrokerUrl) -> ConsumerConfig {
        let broker = BrokerConfig::new(url, format!("test {}", self.exchange));
        let queue = instance_queue(&self.exchange, &self.instance).unwrap();
        ConsumerConfig::new(broker, Topology::new(self.exchange.clone(), queue))
    }

    /// The same exchange with the queue that all instances share.
    pub fn shared(&self, mode: QueueMode, reliable: bool) -> ConsumerConfig {
        let mut config = self.config();
        config.topology = Topology::new(self.exchange.clone(), shared_queue(&self.exchange).unwrap());
        config.topology.options = QueueOptions::new(mode, reliable);
        config
    }

    /// Publishes the numbers as bodies.
    pub fn publish_numbers(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.raw.publish_plain(&self.exchange, number.to_string().as_bytes());
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let mut raw = self.another_raw();
            raw.delete_queue(&self.queue);
            raw.delete_exchange(&self.exchange);
        }
    }
}

/// A running consumer and its deliveries.
pub struct Running {
    pub handle: ConsumerHandle,
    pub deliveries: mpsc::Receiver<Got>,
}

impl Running {
    /// Spawns without waiting for anything.
    pub fn spawn(config: ConsumerConfig) -> Self {
        let (sender, deliveries) = mpsc::channel(200_000);
        let dispatch = move |delivery: Delivery, ticket: Ticket| {
            let headers = delivery.headers();
            let headers =
                headers.map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_string()));
            let got = Got {
                headers: headers.collect(),
                redelivered: delivery.redelivered(),
                timestamp: delivery.timestamp(),
                ticket: Some(ticket),
                body: delivery.into_body(),
            };
            sender.try_send(got).expect("the test's buffer is large enough");
        };
        Self { handle: Consumer::spawn(config, dispatch).unwrap(), deliveries }
    }

    /// Spawns and waits until it consumes.
    pub async fn start(config: ConsumerConfig) -> Self {
        let running = Self::spawn(config);
        running.until("consuming", ConsumerStatus::is_consuming).await;
        running
    }

    /// Waits for a status and returns it.
    pub async fn until(&self, what: &str, test: impl FnMut(&ConsumerStatus) -> bool) -> ConsumerStatus {
        let mut status = self.handle.status();
        match timeout(PATIENCE, status.wait_for(test)).await {
            Ok(Ok(status)) => status.clone(),
            other => panic!("not {what}: {other:?}, status {:?}", self.handle.status().borrow()),
        }
    }

    /// The next delivery; its ticket goes with it.
    pub async fn next(&mut self) -> Got {
        match timeout(PATIENCE, self.deliveries.recv()).await {
            Ok(Some(got)) => got,
            other => panic!("no delivery: {other:?}, status {:?}", self.handle.status().borrow()),
        }
    }

    /// The next `n` bodies as numbers, settled at once.
    pub async fn numbers(&mut self, n: usize) -> Vec<u32> {
        let mut numbers = Vec::with_capacity(n);
        for _ in 0..n {
            numbers.push(self.next().await.number());
        }
        numbers
    }

    /// Waits until a counter has this value.
    pub async fn until_stat(&self, what: &str, test: impl Fn(&notify_amqp::ConsumerStats) -> bool) {
        let stats = self.handle.stats();
        let end = tokio::time::Instant::now() + PATIENCE;
        while !test(&stats) {
            assert!(tokio::time::Instant::now() < end, "not {what}: {stats:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Got {
    pub fn number(&self) -> u32 {
        String::from_utf8_lossy(&self.body).parse().unwrap()
    }
}

/// How many threads of this process have a name that starts so.
pub fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map_while(Result::ok);
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|comm| comm.starts_with(name)).count()
}
