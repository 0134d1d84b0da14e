//! The parts put together: build, run until a signal, drain.

mod drain;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwap;
use lobby_sessions::{Admission, Authenticator, LogGate, Sessions, Transport};
use notify_amqp::{
    Consumer, ConsumerHandle, ConsumerStatus, DeadLetters, DeadLettersHandle, Publisher, PublisherConfig,
    Ticket,
};
use notify_protocol::{Limits, UserId};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

pub use self::drain::DrainDesk;
use crate::{
    Failure,
    admin::{self, Console},
    config::{self, Address, Config, Loaded, Sources, connection, dead_letters, drain_times},
    dispatch::{Dispatcher, Outcomes},
    doorkeeper::Doorkeeper,
    handshake::{Counts, Gate},
    listen_tls::ListenTls,
    listener::{Acceptor, bind},
    logging::LogControl,
    login::{self, LoginDesk},
    metrics::Figures,
    otel::{SpanDesk, Spans},
    proxies::Proxies,
    readiness::Readiness,
    receipts::{self, ReceiptCounts, ReceiptDesk},
    reload::Reloader,
    service_manager,
    startup::Startup,
    trace::Trace,
    upgrade::OriginPolicy,
};

/// Logins that may wait for their shard.
const ADMISSIONS: usize = 256;
/// Log lines a second about logins that were refused.
const LOGIN_LINES_PER_SECOND: u32 = 10;
/// Connections over a limit that are told so at the same time; more are dropped without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// Serves until SIGTERM or SIGINT, or until it is clear that the start has failed (see [`Startup`]), then drains. SIGTERM sent again changes nothing; a second SIGINT, from a person who
/// will not wait, ends the process at once.
pub async fn serve(loaded: Loaded, sources: Sources, log: LogControl) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let startup = Startup { began: Instant::now(), timeout: loaded.config.startup_timeout };
    // A signal that comes while a key set is fetched ends the start: there is nothing to drain.
    let app = tokio::select! {
        app = App::build(loaded, sources, log) => app?,
        name = signals.next() => {
            info!(by = name, "ended before the start was complete");
            return Ok(());
        }
    };
    let ended = tokio::select! {
        // SIGHUP is for the reloader.
        name = signals.next_after(|| ()) => {
            app.announce_drain(name);
            Ok(())
        }
        () = app.drain.ordered() => {
            app.announce_drain("POST /drain");
            Ok(())
        }
        failure = startup.failed(app.consumer.status()) => {
            error!(code = failure.code, "giving up, as the broker was never consumed from");
            Err(failure)
        }
        failure = consumer_ended(app.consumer.status()) => {
            error!(code = failure.code, "draining, as the consumer has ended");
            Err(failure)
        }
    };
    tokio::select! {
        () = app.drain() => ended,
        () = signals.impatience() => {
            Err(Failure { code: Failure::INTERNAL, error: anyhow::anyhow!("a second SIGINT ended the drain early") })
        }
    }
}

/// Waits until the consumer ends by itself, which it does only where `queue.exit_on_cancel` says so.
async fn consumer_ended(mut status: watch::Receiver<ConsumerStatus>) -> Failure {
    match status.wait_for(|status| matches!(status, ConsumerStatus::Stopped)).await {
        Ok(_) => Failure {
            code: Failure::TRY_AGAIN,
            error: anyhow::anyhow!("the broker cancelled the consumer, and `queue.exit_on_cancel` is set"),
        },
        Err(_) => {
            Failure { code: Failure::INTERNAL, error: anyhow::anyhow!("the consumer's thread is gone") }
        }
    }
}

/// The signals that a lobby listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).context("listen to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one that means the end.
    async fn next(&mut self) -> &'static str {
        self.next_after(|| info!("SIGHUP is passed over: the lobby is starting or draining")).await
    }

    /// Waits for one that means the end; `hung_up` hears of each SIGHUP before.
    async fn next_after(&mut self, hung_up: impl Fn()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => hung_up(),
            }
        }
    }

    /// Waits for a SIGINT; the others are passed over.
    async fn impatience(&mut self) {
        while self.next().await != "SIGINT" {}
    }
}

/// A lobby that serves.
struct App {
    drain: DrainDesk,
    sessions: Arc<Sessions<Ticket>>,
    consumer: ConsumerHandle,
    dead_letters: Option<DeadLettersHandle>,
    receipts: Receipts,
    spans: Spans,
    readiness: Readiness,
    handshakes: TaskTracker,
    /// Cancelled when no more connections are accepted.
    stop_accepting: CancellationToken,
    /// Cancelled when the process is about to end.
    stop_admin: CancellationToken,
    acceptors: Vec<JoinHandle<()>>,
}

impl App {
    /// Binds, starts the sessions' threads and the consumer.
    async fn build(loaded: Loaded, sources: Sources, log: LogControl) -> Result<Self, Failure> {
        let mut config = loaded.config.clone();
        let hang_up = signal(SignalKind::hangup()).context("listen to signals")?;
        if !config.has_login() {
            invent_login(&mut config)?;
        }
        let listeners = Listeners::bind(&config)?;
        let tls = open_tls(&config)?;
        let login = LoginDesk::open(&config).await;
        let login = Arc::new(login.map_err(|error| Failure { code: Failure::CONFIG, error })?);
        let sessions = start_sessions(&config, Arc::clone(&login) as Arc<dyn Authenticator>)?;
        let outcomes = Arc::new(Outcomes::default());
        let trace = Arc::new(Trace::new(Arc::clone(sessions.meter())));
        let (letters, dead_letters) =
            dead_letters(&config)?.map(|config| DeadLetters::start(config, &Handle::current())).unzip();
        let (receipts, desk) = Receipts::start(&config)?;
        let (spans, span_desk) = Spans::start(&config)?;
        let consumer = start_consumer(&config, &sessions, &outcomes, &trace, letters, desk, span_desk)?;
        let readiness = Readiness::new(consumer.status(), consumer.self_check());

        let gate = Arc::new(Gate {
            authenticator: Arc::clone(&login) as Arc<dyn Authenticator>,
            login_timeout: config.login_timeout,
            max_login_bytes: config.max_login.0,
            command_rate: config.command_rate(),
            origins: OriginPolicy::new(&config.origins),
            console_port: listeners.admin.as_ref().and_then(|admin| Some(admin.local_addr().ok()?.port())),
            doorkeeper: Arc::new(Doorkeeper::new(config.connection_limits(), std::time::Instant::now())),
            proxies: Proxies {
                networks: config.trusted_proxies.clone(),
                protocol: config.proxy_protocol,
                header: config.real_ip_header.clone(),
            },
            tls: Transport::ALL.map(|transport| tls.clone().filter(|_| config.uses_tls(transport))),
            frame: config.frame,
            retry_spread_ms: millis(config.retry_spread),
            counts: Counts::default(),
            log_gate: Mutex::new(LogGate::new(LOGIN_LINES_PER_SECOND)),
            turning_away: Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE)),
        });
        let admin_token = Arc::new(ArcSwap::from_pointee(config.admin_token.clone()));
        let drain = DrainDesk::new(drain_times(&config)?);
        let figures = Figures {
            sessions: Arc::clone(&sessions),
            outcomes,
            consumer: consumer.stats(),
            status: consumer.status(),
            dead_letters: dead_letters.as_ref().map(DeadLettersHandle::figures),
            self_check: consumer.self_check(),
            gate: Arc::clone(&gate),
            receipts: Arc::clone(&receipts.counts),
            spans: spans.counts(),
            readiness: readiness.clone(),
        };
        let port = |listener: &Option<TcpListener>| Some(listener.as_ref()?.local_addr().ok()?.port());
        let hello = admin::hello(&config, port(&listeners.websocket));
        let console = Console {
            token: Arc::clone(&admin_token),
            hello,
            desk: admin::Desk::new(&config),
            drain: drain.clone(),
        };
        let reloader = Reloader {
            sources,
            loaded,
            log,
            doorkeeper: Arc::clone(&gate.doorkeeper),
            login,
            tls,
            drain: drain.clone(),
            admin_token,
        };
        let mut app = Self {
            drain,
            sessions,
            consumer,
            dead_letters,
            receipts,
            spans,
            readiness,
            handshakes: TaskTracker::new(),
            stop_accepting: CancellationToken::new(),
            stop_admin: CancellationToken::new(),
            acceptors: Vec::new(),
        };
        tokio::spawn(reloader.run(hang_up, app.stop_accepting.clone()));
        app.serve(listeners, &gate, figures, trace, console);
        Ok(app)
    }

    fn serve(
        &mut self,
        listeners: Listeners,
        gate: &Arc<Gate>,
        figures: Figures,
        trace: Arc<Trace>,
        console: Console,
    ) {
        let (admitted, logins) = mpsc::channel(ADMISSIONS);
        tokio::spawn(admit(logins, Arc::clone(&self.sessions)));
        for (transport, listener) in
            [(Transport::Tcp, listeners.tcp), (Transport::WebSocket, listeners.websocket)]
        {
            let Some(listener) = listener else { continue };
            let acceptor = Acceptor {
                transport,
                gate: Arc::clone(gate),
                admitted: admitted.clone(),
                handshakes: self.handshakes.clone(),
                stop: self.stop_accepting.clone(),
            };
            self.acceptors.push(tokio::spawn(acceptor.run(listener)));
        }
        service_manager::ready();
        tokio::spawn(service_manager::report(Arc::clone(&self.sessions), self.stop_admin.clone()));
        if let Some(listener) = listeners.admin {
            let stop = self.stop_admin.clone();
            tokio::spawn(admin::serve(listener, figures, trace, console, stop));
        }
    }

    fn announce_drain(&self, by: &str) {
        let times = self.drain.times();
        let sessions: u64 = self.sessions.stats().sessions.iter().sum();
        info!(by, sessions, window_ms = millis(times.window), limit_ms = millis(times.limit), "draining");
    }
}

async fn admit(mut logins: mpsc::Receiver<Admission>, sessions: Arc<Sessions<Ticket>>) {
    while let Some(admission) = logins.recv().await {
        sessions.admit(admission).await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// With no login configured, only this machine can connect, with a token that dies with the process.
fn invent_login(config: &mut Config) -> Result<(), Failure> {
    let secret: String = std::iter::repeat_with(fastrand::alphanumeric).take(43).collect();
    config.secret = crate::config::Secret::new(&secret);
    let token = login::mint(config, UserId::new(42), Some("Zep"), Duration::from_secs(24 * 60 * 60))?;
    warn!(
        %token,
        "no login is configured: listening on loopback only, with a secret made for this run. Log in as user 42 \
         with this token; set LOBBY_AUTH__SECRET or LOBBY_AUTH__JWKS for anything else"
    );
    Ok(())
}

fn open_tls(config: &Config) -> Result<Option<Arc<ListenTls>>, Failure> {
    if config.tls_cert_file.is_empty() {
        return Ok(None);
    }
    let tls = ListenTls::open(Path::new(&config.tls_cert_file), Path::new(&config.tls_key_file));
    Ok(Some(Arc::new(tls.map_err(|error| Failure { code: Failure::CONFIG, error })?)))
}

fn start_sessions(
    config: &Config,
    authenticator: Arc<dyn Authenticator>,
) -> Result<Arc<Sessions<Ticket>>, Failure> {
    let sessions = Sessions::start(config::sessions(config), authenticator, &Handle::current())
        .context("start the sessions' threads")?;
    Ok(Arc::new(sessions))
}

fn start_consumer(
    config: &Config,
    sessions: &Arc<Sessions<Ticket>>,
    outcomes: &Arc<Outcomes>,
    trace: &Arc<Trace>,
    dead_letters: Option<DeadLetters>,
    receipts: Option<ReceiptDesk>,
    spans: Option<SpanDesk>,
) -> Result<ConsumerHandle, Failure> {
    let limits = Limits { max_body_bytes: config.max_body.0 };
    let (counts, trace) = (Arc::clone(outcomes), Arc::clone(trace));
    let dispatcher =
        Dispatcher::new(Arc::clone(sessions), limits, counts, trace, dead_letters, receipts, spans);
    Ok(Consumer::spawn(config::consumer(config)?, dispatcher).context("start the consumer's thread")?)
}

/// The task that sends delivery receipts, where they are switched on.
struct Receipts {
    counts: Arc<ReceiptCounts>,
    last_call: CancellationToken,
    sending: Option<JoinHandle<()>>,
}

impl Receipts {
    fn start(config: &Config) -> Result<(Self, Option<ReceiptDesk>), Failure> {
        let (counts, last_call) = (Arc::<ReceiptCounts>::default(), CancellationToken::new());
        if !config.receipts {
            return Ok((Self { counts, last_call, sending: None }, None));
        }
        let mut broker = connection(config);
        // A connection of its own: the broker may block it.
        broker.connection_name.push_str(" publisher");
        let mut publishing = PublisherConfig::new(broker, config.exchange.as_str());
        (publishing.max_connections, publishing.max_channels) = (1, 1);
        let publisher = Publisher::new(publishing).context("prepare the connection for receipts")?;
        let (desk, waiting) =
            ReceiptDesk::open(config.instance_name.as_str(), config.receipts_pending, Arc::clone(&counts));
        let sending = receipts::send(publisher, waiting, Arc::clone(&counts), last_call.clone());
        Ok((Self { counts, last_call, sending: Some(tokio::spawn(sending)) }, Some(desk)))
    }

    /// Sends what still waits, at most for so long.
    async fn finish(self, limit: Duration) {
        self.last_call.cancel();
        if let Some(sending) = self.sending {
            let _ = timeout(limit, sending).await;
        }
    }
}

/// The sockets that are listened on.
struct Listeners {
    tcp: Option<TcpListener>,
    websocket: Option<TcpListener>,
    admin: Option<TcpListener>,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, Failure> {
        let open = |key: &str, address: Address| match address {
            Address::Off => Ok(None),
            Address::At(address) => {
                bind(key, address).map(Some).map_err(|error| Failure { code: Failure::LISTEN, error })
            }
        };
        Ok(Self {
            tcp: open("tcp", config.tcp)?,
            websocket: open("websocket", config.websocket)?,
            admin: open("admin", config.admin)?,
        })
    }
}
