//! Every setting, once: its name, default, meaning, and how its text becomes a value.
//!
//! The default configuration file, the check of unknown keys, the environment's names and the table in the
//! documentation are all made from this list.

use std::time::Duration;

use lobby_sessions::{FrameKind, MAX_REACH_ENTRIES, OverflowPolicy, Transport};
use notify_amqp::{BrokerUrl, Declare, Overflow, QueueMode, QueueType};
use notify_protocol::limits::MIN_MAX_BODY_BYTES;

use super::{
    fields::Config,
    otel::{otel_headers, parse_endpoint},
    text::{choice, parse, set, whole, within},
    value::{
        ByteSize, LogFormat, Name, Secret, parse_command, parse_header_name, parse_hosts, parse_list,
        parse_networks, parse_pairs,
    },
};

/// One setting.
pub struct Setting {
    pub section: &'static str,
    pub key: &'static str,
    pub default: &'static str,
    pub help: &'static str,
    /// Whether its value must not be printed.
    pub secret: bool,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Setting {
    /// `section.key`, as in the file.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("LOBBY_{}__{}", self.section, self.key).to_uppercase()
    }

    /// Sets it from text; the error says what would be right.
    pub fn apply(&self, config: &mut Config, text: &str) -> Result<(), String> {
        (self.set)(config, text)
    }

    /// Finds a setting by `section` and `key`.
    pub fn find(section: &str, key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|s| s.section == section && s.key == key)
    }
}

/// Files with secrets are read once all layers are known (`secret_file.rs`).
fn named(_: &mut Config, _: &str) {}

const YES_NO: [(&str, bool); 2] = [("true", true), ("false", false)];
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

macro_rules! settings {
    ($($section:ident . $key:ident = $default:literal $($secret:ident)?, $help:literal,
       |$config:ident, $text:ident| $set:expr;)*) => {
        /// All settings, in the order of the default file.
        pub static SETTINGS: &[Setting] = &[$(Setting {
            section: stringify!($section),
            key: stringify!($key),
            default: $default,
            help: $help,
            secret: settings!(@secret $($secret)?),
            set: |$config, $text| { $set; Ok(()) },
        }),*];
    };
    (@secret secret) => { true };
    (@secret) => { false };
}

settings! {
    instance.name = "", "Names this instance's queue; empty means the host's name (the pod's name on Kubernetes), \"random\" a new one at each start, which needs `queue.reliable` = \"false\".",
        |c, t| {
            c.instance_random = t == "random";
            c.instance_name = match t { "" => Name::host(), "random" => Name::random(), _ => parse(t)? };
        };

    broker.url = "amqp://guest:guest@127.0.0.1:5672/%2f" secret,
        "Where RabbitMQ is: amqp[s]://USER:PASSWORD@HOST:PORT/VHOST. Each of the next keys replaces a part of it, unless the URL comes from a stronger layer.",
        |c, t| c.broker_url = BrokerUrl::parse(t).map_err(|e| e.to_string())?;
    broker.url_file = "", "File that holds this URL instead.", |c, t| named(c, t);
    broker.hosts = "", "Hosts of a cluster, HOST[:PORT] separated by commas: when one fails the next is tried at once, and a wait follows when all have failed.",
        |c, t| c.broker.hosts = parse_hosts(t)?;
    broker.shuffle = "false", "Whether each lobby tries the hosts in an order of its own, which spreads a fleet over the cluster.",
        |c, t| c.broker.shuffle = choice(t, &YES_NO)?;
    broker.port = "", "Port of the hosts that name none; 5672, or 5671 with TLS, unless the URL or this key says otherwise.",
        |c, t| c.broker.port = if t.is_empty() { 0 } else { whole(t, 1, 65_535)? as u16 };
    broker.vhost = "", "Virtual host, as it is called (not percent-encoded).",
        |c, t| c.broker.vhost = t.to_owned();
    broker.user = "", "User.", |c, t| c.broker.user = t.to_owned();
    broker.user_file = "", "File that holds the user's name.", |c, t| c.broker.user_file = t.to_owned();
    broker.password = "" secret, "Password, or an OAuth token.", |c, t| c.broker.password = Secret::new(t);
    broker.password_file = "", "File that holds the password or token, read again at each attempt to connect.",
        |c, t| c.broker.password_file = t.to_owned();
    broker.password_command = "" secret, "Program with its arguments (no shell) that prints the password or token, run again at each attempt to connect; at most 64 KiB, within `broker.connect_timeout`.",
        |c, t| c.broker.password_command = parse_command(t)?;
    broker.auth = "plain", "\"plain\" logs in with user and password, \"external\" with the client certificate.",
        |c, t| c.broker.external = choice(t, &[("plain", false), ("external", true)])?;
    broker.tls = "", "\"on\" or \"off\"; empty: as the URL says (amqps).",
        |c, t| c.broker.tls = choice(t, &[("", None), ("on", Some(true)), ("off", Some(false))])?;
    broker.tls_ca_file = "", "PEM file of the authorities that may sign the broker's certificate, instead of the system's.",
        |c, t| c.broker.tls_ca_file = t.to_owned();
    broker.tls_cert_file = "", "PEM file of the client certificate.", |c, t| c.broker.tls_cert_file = t.to_owned();
    broker.tls_key_file = "", "PEM file of the client certificate's key.", |c, t| c.broker.tls_key_file = t.to_owned();
    broker.tls_server_name = "", "Name to ask for and to find in the broker's certificate; empty: the host's.",
        |c, t| c.broker.tls_server_name = t.to_owned();
    broker.tls_verify = "true", "Whether the broker's certificate is verified; \"false\" lets anybody in between read password and messages, and warns at each start.",
        |c, t| c.broker.tls_verify = choice(t, &YES_NO)?;
    broker.management_url = "" secret, "Where the management API is, for `lobby topology`: http[s]://[USER:PASSWORD@]HOST:PORT. Empty: port 15672 of the broker's hosts, or 15671 with TLS; without a user the broker's.",
        |c, t| c.management_url = parse(t)?;
    broker.management_url_file = "", "File that holds this URL instead.", |c, t| named(c, t);
    broker.connection_name = "", "Name of the connection in the broker's UI; empty: \"lobby INSTANCE\".",
        |c, t| c.broker.connection_name = t.to_owned();
    broker.client_properties = "", "More facts for the broker's UI beside product, version, platform and instance: NAME=VALUE separated by commas.",
        |c, t| c.broker.client_properties = parse_pairs(t)?;
    broker.exchange = "faf-lobby", "The topic exchange that publishers post to.",
        |c, t| c.exchange = parse(t)?;
    broker.prefetch = "200", "Deliveries that the broker sends ahead of acks; bounds memory and duplicates.",
        |c, t| c.prefetch = whole(t, 1, 65_535)? as u16;
    broker.heartbeat = "10s", "A silent broker counts as lost after twice this.",
        |c, t| c.heartbeat = within(t, SECOND, 60 * SECOND)?;
    broker.connect_timeout = "10s", "How long one attempt to connect to one host may take, login included.",
        |c, t| c.connect_timeout = within(t, 100 * MS, 600 * SECOND)?;
    broker.startup_timeout = "0s", "How long after the start the lobby may take to consume for the first time before it gives up; 0 means that it serves clients and keeps trying.",
        |c, t| c.startup_timeout = within(t, Duration::ZERO, DAY)?;
    broker.call_timeout = "10s", "How long one call to the broker may take.",
        |c, t| c.call_timeout = within(t, 100 * MS, 600 * SECOND)?;
    broker.reconnect_max = "4s", "The longest wait between two attempts to connect, at most 30s. Waits start at 100ms, double, are spread at random, and start anew after a minute of consuming; after less, at 400ms at most.",
        |c, t| c.reconnect_max = within(t, 100 * MS, 30 * SECOND)?;
    broker.ack_batch = "0", "Deliveries that one ack may settle; 0 means a quarter of the prefetch, at most 100.",
        |c, t| c.ack_batch = whole(t, 0, 65_535)? as u16;
    broker.ack_delay = "5ms", "How long a finished delivery may wait for its ack.",
        |c, t| c.ack_delay = within(t, Duration::ZERO, 10 * SECOND)?;

    queue.mode = "per-instance", "Who shares a queue: \"per-instance\" gives every lobby every notification; \"shared\" gives each to one of all lobbies; of \"singleton\" lobbies one consumes and the others wait, unready, to take over.",
        |c, t| c.queue.mode = choice(t, &[("per-instance", QueueMode::PerInstance), ("shared", QueueMode::Shared), ("singleton", QueueMode::Singleton)])?;
    queue.name = "", "Name of the queue; empty: EXCHANGE.lobby.client.notify.INSTANCE, without the instance where lobbies share it.",
        |c, t| c.queue.name = t.to_owned();
    queue.reliable = "true", "Whether the queue outlives the lobby, for `queue.expires`, and is durable. \"false\": it goes with the lobby's connection (exclusive), or where lobbies share it with the last of them (auto-delete), and so does what waits in it.",
        |c, t| c.queue.reliable = choice(t, &YES_NO)?;
    queue.declare = "active", "\"active\" makes exchange, queue and bindings; \"passive\" only looks whether exchange and queue are there; \"none\" consumes from what is there.",
        |c, t| c.queue.declare = choice(t, &[("active", Declare::Active), ("passive", Declare::Passive), ("none", Declare::None)])?;
    queue.routing_keys = "request.client.notify", "Routing keys that bind the queue to the exchange, separated by commas. Whatever arrives is treated as the contract says.",
        |c, t| c.queue.routing_keys = parse_list(t);
    queue.bindings = "", "Bindings to further exchanges, which must exist: EXCHANGE=ROUTING.KEY separated by commas.",
        |c, t| c.queue.bindings = parse_pairs(t)?;
    queue.expires = "10m", "The broker deletes the queue when nobody has consumed for so long. Called broker.queue_expires before.",
        |c, t| c.queue.expires = within(t, SECOND, DAY)?;
    queue.message_ttl = "", "The broker drops what has waited so long; empty: nothing is dropped.",
        |c, t| c.queue.message_ttl = set(t, |t| within(t, Duration::ZERO, 49 * DAY))?;
    queue.max_length = "", "Messages that may wait; empty: no limit.",
        |c, t| c.queue.max_length = set(t, |t| Ok(whole(t, 0, u32::MAX as usize)? as u32))?;
    queue.max_length_bytes = "", "Bytes of bodies that may wait; empty: no limit.",
        |c, t| c.queue.max_length_bytes = set(t, |t| Ok(ByteSize::at_least(t, 0)?.0 as u64))?;
    queue.overflow = "", "What happens at these limits: \"drop-head\" (the broker's default), \"reject-publish\" or \"reject-publish-dlx\".",
        |c, t| c.queue.overflow = set(t, |t| choice(t, &[Overflow::DropHead, Overflow::RejectPublish, Overflow::RejectPublishDlx].map(|o| (o.as_str(), o))))?;
    queue.type = "", "\"classic\" or \"quorum\"; empty: the virtual host's default.",
        |c, t| c.queue.queue_type = set(t, |t| choice(t, &[("classic", QueueType::Classic), ("quorum", QueueType::Quorum)]))?;
    queue.single_active_consumer = "false", "Whether the broker itself chooses one of several lobbies and feeds the next when it is gone; nothing tells the others that they receive nothing, so they look ready. Not with \"per-instance\".",
        |c, t| c.queue.single_active_consumer = choice(t, &YES_NO)?;
    queue.max_priority = "", "Priorities that messages may have, 1 to 255; empty: none. Classic queues only.",
        |c, t| c.queue.max_priority = set(t, |t| Ok(whole(t, 1, 255)? as u8))?;
    queue.delivery_limit = "", "Redeliveries after which the broker drops a message or dead-letters it; empty: the broker's default. Quorum queues only.",
        |c, t| c.queue.delivery_limit = set(t, |t| Ok(whole(t, 0, 1_000_000)? as u32))?;
    queue.standby_retry_max = "10s", "The longest wait between two attempts while another lobby has the queue; waits start at 1s and double.",
        |c, t| c.standby_retry_max = within(t, SECOND, 600 * SECOND)?;
    queue.exit_on_cancel = "false", "Whether the lobby drains and ends with exit code 75 when the broker cancels its consumer, because the queue was deleted or its node is gone; else it declares the queue again and goes on.",
        |c, t| c.exit_on_cancel = choice(t, &YES_NO)?;

    dead_letter.exchange = "", "Topic exchange for the messages that the lobby drops, each kept with the reason; empty: they are acked and gone. Not the exchange that is consumed from.",
        |c, t| c.dead_letter.exchange = if t.is_empty() { None } else { Some(parse(t)?) };
    dead_letter.queue = "", "Queue that keeps them, one for all lobbies; empty: called like the exchange.",
        |c, t| c.dead_letter.queue = t.to_owned();
    dead_letter.routing_key = "", "Key that they are published with and the queue is bound with; empty: each message's own, and `#`.",
        |c, t| c.dead_letter.routing_key = t.to_owned();
    dead_letter.max_length = "10000", "Messages that the queue holds; the oldest make room. To change it, delete the queue or set a policy.",
        |c, t| c.dead_letter.max_length = whole(t, 1, 100_000_000)? as u32;
    dead_letter.max_pending = "0", "Dropped messages that may wait for the broker's confirm, unacked and in memory; one more is acked and lost. 0 means as many as `broker.prefetch` lets come.",
        |c, t| c.dead_letter.max_pending = whole(t, 0, 65_535)?;
    dead_letter.timeout = "2s", "How long one may wait for the confirm. Then all that wait are acked and lost, and no more wait until the broker confirms again: players do not wait for dead letters.",
        |c, t| c.dead_letter.timeout = within(t, 10 * MS, 60 * SECOND)?;

    self_check.interval = "3s", "How often the lobby publishes a canary to its own queue, makes its bindings again and asks for queue and consumer; or \"off\". Off anyway where lobbies share a queue. The broker's user needs the permission to write to the exchange; without it the rest goes on.",
        |c, t| c.self_check.interval = if t == "off" { None } else { Some(within(t, 100 * MS, 600 * SECOND).map_err(|e| e + ", or \"off\"")?) };
    self_check.max_age = "10s", "When neither a canary nor anything else came for so long, the lobby is not ready and connects again; at least twice the interval. Canaries expire after this time.",
        |c, t| c.self_check.max_age = within(t, 200 * MS, 3600 * SECOND)?;

    messages.max_body_bytes = "4160KiB", "A larger body is dropped as `too_large`; at least 1MiB.",
        |c, t| c.max_body = ByteSize::at_least(t, MIN_MAX_BODY_BYTES)?;

    receipts.enabled = "true", "Whether messages that ask for a delivery receipt get one (docs/receipts.md).",
        |c, t| c.receipts = choice(t, &YES_NO)?;
    receipts.max_pending = "10000", "Receipts that may wait to be sent; one more is dropped and counted, and no delivery waits for it.",
        |c, t| c.receipts_pending = whole(t, 1, 1_000_000)?;

    listen.tcp = "127.0.0.1:8002", "Address for newline-delimited JSON, or \"off\".",
        |c, t| c.tcp = parse(t)?;
    listen.websocket = "127.0.0.1:8003", "Address for WebSocket, or \"off\".",
        |c, t| c.websocket = parse(t)?;
    listen.admin = "127.0.0.1:8011", "Address of the console, /live, /ready, /metrics, /trace and /drain, or \"off\".",
        |c, t| c.admin = parse(t)?;
    listen.max_connections = "100000", "Connections in all; one more is told to try later (1013, or 503 before the upgrade).",
        |c, t| c.max_connections = whole(t, 1, 10_000_000)?;
    listen.max_connections_per_address = "0", "Connections of one IPv4 address or one IPv6 /64; 0 means no limit, which a proxy in front needs: all clients then share its address.",
        |c, t| c.max_connections_per_address = whole(t, 0, 10_000_000)?;
    listen.max_accepts_per_second = "2000", "New connections a second in all, once the burst is used up; 0 means no limit.",
        |c, t| c.max_accepts_per_second = whole(t, 0, 1_000_000)?;
    listen.accept_burst = "20000", "New connections in all that may come at once, as after a restart.",
        |c, t| c.accept_burst = whole(t, 1, 10_000_000)?;
    listen.max_accepts_per_second_per_address = "0", "New connections a second of one IPv4 address or one IPv6 /64, once the burst is used up; 0 means no limit, which a proxy in front needs.",
        |c, t| c.max_accepts_per_second_per_address = whole(t, 0, 1_000_000)?;
    listen.accept_burst_per_address = "50", "New connections of one address that may come at once.",
        |c, t| c.accept_burst_per_address = whole(t, 1, 10_000_000)?;
    listen.origins = "", "Origins that browsers may connect from, separated by commas; empty allows the same host, \"*\" all.",
        |c, t| c.origins = t.split(',').map(str::trim).filter(|o| !o.is_empty()).map(str::to_owned).collect();
    listen.tls_cert_file = "", "PEM file of the certificate that clients see, with its chain, and with it TLS for them. Read again on SIGHUP.",
        |c, t| c.tls_cert_file = t.to_owned();
    listen.tls_key_file = "", "PEM file of that certificate's key. Read again on SIGHUP.",
        |c, t| c.tls_key_file = t.to_owned();
    listen.tls = "both", "Which listeners use TLS where there is a certificate: \"both\", \"tcp\" or \"websocket\".",
        |c, t| c.tls_on = choice(t, &[("both", &Transport::ALL[..]), ("tcp", &[Transport::Tcp]), ("websocket", &[Transport::WebSocket])])?.to_vec();
    listen.trusted_proxies = "", "Addresses and networks (10.0.0.0/8) of proxies, separated by commas, whose word about a client's address is taken. Limits for each address are then about the client.",
        |c, t| c.trusted_proxies = parse_networks(t)?;
    listen.proxy_protocol = "off", "\"on\": listed proxies, and only they, begin each connection with a PROXY header, version 1 or 2; one without is closed.",
        |c, t| c.proxy_protocol = choice(t, &[("off", false), ("on", true)])?;
    listen.real_ip_header = "", "HTTP header in which listed proxies name a WebSocket client's address, as in X-Forwarded-For or X-Real-IP; empty means none.",
        |c, t| c.real_ip_header = parse_header_name(t)?;

    admin.token = "" secret, "Opens the console, and allows to act through it; empty: it only shows, to whoever reaches `listen.admin` by an IP address or as localhost.",
        |c, t| c.admin_token = Secret::new(t);
    admin.token_file = "", "File that holds this token instead.", |c, t| named(c, t);

    auth.secret = "" secret, "HS256 secret for development; empty means none.",
        |c, t| c.secret = Secret::new(t);
    auth.secret_file = "", "File that holds this secret instead.", |c, t| named(c, t);
    auth.jwks = "", "URL or file of the JSON Web Key Set for production; empty means none.",
        |c, t| c.jwks = t.to_owned();
    auth.jwks_refresh = "10m", "How often the key set is read again.",
        |c, t| c.jwks_refresh = within(t, SECOND, DAY)?;
    auth.scope = "lobby", "The scope that a token must carry; empty asks for none.",
        |c, t| c.scope = t.to_owned();
    auth.issuer = "", "The issuer that a token must name; empty accepts any.",
        |c, t| c.issuer = t.to_owned();
    auth.audience = "", "The audience that a token must name; empty accepts any.",
        |c, t| c.audience = t.to_owned();
    auth.leeway = "30s", "How far clocks may differ when `exp` and `nbf` are checked.",
        |c, t| c.leeway = within(t, Duration::ZERO, 600 * SECOND)?;

    sessions.duplicate_login = "replace", "A second login of a user: \"replace\" the first, \"allow\" both, or \"reject\" it.",
        |c, t| c.duplicate_login = choice(t, &[("replace", "replace"), ("allow", "allow"), ("reject", "reject")])?.to_owned();
    sessions.max_per_user = "4", "Sessions a user under \"allow\"; one more replaces the oldest.",
        |c, t| c.max_per_user = whole(t, 1, 1000)?;
    sessions.outbox_bytes = "10MiB", "Bytes that may wait for one client; two of the largest messages should fit.",
        |c, t| c.outbox = ByteSize::at_least(t, 1024)?;
    sessions.outbox_total_bytes = "256MiB", "Bytes of notifications that may wait for all clients together, each counted once; past it the slowest are closed with 4000. At most half of the memory that a container or `ulimit -d` allows.",
        |c, t| c.outbox_total = ByteSize::at_least(t, 1024)?;
    sessions.overflow = "disconnect", "When they are not enough: \"disconnect\" with 4000, or \"drop_oldest\".",
        |c, t| c.overflow = choice(t, &[("disconnect", OverflowPolicy::Disconnect), ("drop_oldest", OverflowPolicy::DropOldest)])?;
    sessions.login_timeout = "30s", "How long a connection may take to log in.",
        |c, t| c.login_timeout = within(t, 10 * MS, 600 * SECOND)?;
    sessions.ping_interval = "45s", "Silence after which a client is pinged; two unanswered pings close with 4001.",
        |c, t| c.ping_interval = within(t, 10 * MS, DAY)?;
    sessions.write_timeout = "60s", "How long messages may wait for a client before it counts as too slow.",
        |c, t| c.write_timeout = within(t, 100 * MS, DAY)?;
    sessions.max_inbound_bytes = "64KiB", "The largest message of a logged-in client.",
        |c, t| c.max_inbound = ByteSize::at_least(t, 64)?;
    sessions.max_login_bytes = "16KiB", "The largest message, and the largest HTTP request head, before login.",
        |c, t| c.max_login = ByteSize::at_least(t, 64)?;
    sessions.max_commands_per_second = "100", "Commands that a client may send a second, before its login and after it; past it the connection is closed with 1008. Pings count, and so do an empty line, a WebSocket pong, and a fragment of less than 128 bytes. 0 means no limit.",
        |c, t| c.max_commands_per_second = whole(t, 0, 1_000_000)?;
    sessions.command_burst = "200", "Commands that it may send at once.",
        |c, t| c.command_burst = whole(t, 1, 1_000_000)?;
    sessions.expiry = "ignore", "When the token of a live session expires: \"ignore\", or \"close\" with 4002.",
        |c, t| c.close_on_expiry = choice(t, &[("ignore", false), ("close", true)])?;
    sessions.frame = "text", "WebSocket frames to clients: \"text\" or \"binary\".",
        |c, t| c.frame = choice(t, &[("text", FrameKind::Text), ("binary", FrameKind::Binary)])?;
    sessions.shards = "0", "Threads that own connections; 0 means one for each core.",
        |c, t| c.shards = whole(t, 0, 1024)?;

    shutdown.drain_timeout = "10s", "How long a drain may take before the process ends anyway.",
        |c, t| c.drain_timeout = within(t, 100 * MS, 3600 * SECOND)?;
    shutdown.drain_window = "", "Over how much of that time clients are told to come back later (1012), one after the other; the others go on getting messages. At least ten a second are told. Empty: half of `shutdown.drain_timeout`. At most all of it but a second.",
        |c, t| c.drain_window = set(t, |t| within(t, Duration::ZERO, 3600 * SECOND))?;
    shutdown.retry_spread = "10s", "Over how long the returns of clients are spread that a drain or a limit on connections sent away.",
        |c, t| c.retry_spread = within(t, MS, 3600 * SECOND)?;

    trace.decisions = "4096", "How many of the last decisions `lobby trace` and /trace know, rounded up to a power of two; each takes 400 bytes, 0 is off.",
        |c, t| c.trace_decisions = whole(t, 0, MAX_REACH_ENTRIES)?;

    otel.endpoint = "", "Where spans go: http[s]://HOST:PORT of an OpenTelemetry collector (OTLP over HTTP; `/v1/traces` is added; no user and password: see `otel.headers`). Empty: no spans. Needs a lobby that was built with the feature `otel`, as the next keys do.",
        |c, t| c.otel.endpoint = parse_endpoint(t)?;
    otel.service_name = "lobby", "The `service.name` of those spans.",
        |c, t| c.otel.service_name = if t.is_empty() { return Err("expected a name".to_owned()) } else { t.to_owned() };
    otel.headers = "" secret, "HTTP headers for the collector: NAME=VALUE separated by commas, values percent-encoded.",
        |c, t| { otel_headers(t)?; c.otel.headers = Secret::new(t) };
    otel.headers_file = "", "File that holds these headers instead.", |c, t| named(c, t);
    otel.timeout = "10s", "How long the collector may take for a batch of at most 512 spans; then they are lost and counted.",
        |c, t| c.otel.timeout = within(t, 100 * MS, 600 * SECOND)?;
    otel.max_pending = "2048", "Spans that may wait to be exported; one more is dropped and counted, and no delivery waits for it.",
        |c, t| c.otel.max_pending = whole(t, 1, 1_000_000)?;

    log.level = "info", "What is logged: error, warn, info, debug, trace, or a filter like \"info,lobby=debug\".",
        |c, t| { tracing_subscriber::EnvFilter::try_new(t).map_err(|e| e.to_string())?; c.log_level = t.to_owned() };
    log.format = "human", "\"human\" or \"json\".",
        |c, t| c.log_format = choice(t, &[("human", LogFormat::Human), ("json", LogFormat::Json)])?;
}

#[cfg(test)]
mod tests {
    use lobby_sessions::Rate;

    use super::*;

    #[test]
    fn every_default_is_accepted_and_no_name_stands_twice() {
        // Publishers build messages up to the same size.
        assert_eq!(Config::new().max_body.0, notify_protocol::limits::DEFAULT_MAX_BODY_BYTES);
        let mut names: Vec<_> = SETTINGS.iter().map(Setting::name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn each_limit_on_connections_reaches_the_doorkeeper() {
        let flags = [
            "listen.max_connections=3",
            "listen.max_connections_per_address=5",
            "listen.max_accepts_per_second=7",
            "listen.accept_burst=11",
            "listen.max_accepts_per_second_per_address=13",
            "listen.accept_burst_per_address=17",
        ];
        let flags = flags.map(str::to_owned).into();
        let sources = crate::config::Sources { flags, ..crate::config::Sources::default() };
        let limits = crate::config::load(&sources).expect("accepted").config.connection_limits();
        assert_eq!((limits.total, limits.per_address), (3, 5));
        assert_eq!((limits.rate, limits.address_rate), (Rate::new(7, 11), Rate::new(13, 17)));
    }

    #[test]
    fn names_that_scripts_rely_on_are_there() {
        let variables: Vec<_> = SETTINGS.iter().map(Setting::variable).collect();
        for name in [
            "LOBBY_BROKER__URL",
            "LOBBY_BROKER__EXCHANGE",
            "LOBBY_BROKER__PREFETCH",
            "LOBBY_INSTANCE__NAME",
            "LOBBY_LISTEN__TCP",
            "LOBBY_LISTEN__WEBSOCKET",
            "LOBBY_LISTEN__ADMIN",
            "LOBBY_LISTEN__MAX_CONNECTIONS",
            "LOBBY_LISTEN__MAX_CONNECTIONS_PER_ADDRESS",
            "LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND",
            "LOBBY_LISTEN__ACCEPT_BURST",
            "LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND_PER_ADDRESS",
            "LOBBY_LISTEN__ACCEPT_BURST_PER_ADDRESS",
            "LOBBY_AUTH__SECRET",
            "LOBBY_AUTH__JWKS",
            "LOBBY_AUTH__SCOPE",
            "LOBBY_SESSIONS__DUPLICATE_LOGIN",
            "LOBBY_SESSIONS__OUTBOX_BYTES",
            "LOBBY_SESSIONS__LOGIN_TIMEOUT",
            "LOBBY_SESSIONS__PING_INTERVAL",
        ] {
            assert!(variables.iter().any(|v| v == name), "{name}");
        }
    }

    #[test]
    fn every_client_of_a_full_lobby_may_come_back_at_once_through_one_proxy() {
        use crate::doorkeeper::Doorkeeper;

        let now = std::time::Instant::now();
        let doorkeeper = std::sync::Arc::new(Doorkeeper::new(Config::new().connection_limits(), now));
        let proxy = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        let places: Result<Vec<_>, _> = (0..20_000).map(|_| doorkeeper.admit(now, proxy)).collect();
        assert_eq!(places.map(|places| places.len()), Ok(20_000));
        let one_more = doorkeeper.admit(now, proxy).expect_err("a flood is cut to the rate");
        assert_eq!(one_more.setting(), "listen.max_accepts_per_second");
    }

    #[test]
    fn a_wrong_value_is_answered_with_what_would_be_right() {
        let mut config = Config::new();
        for (section, key, value, says) in [
            ("broker", "prefetch", "-1", "from 1 to 65535"),
            ("broker", "prefetch", "0", "from 1 to 65535"),
            ("sessions", "duplicate_login", "both", "\"replace\" or \"allow\" or \"reject\""),
            ("sessions", "login_timeout", "soon", "30s"),
            ("sessions", "outbox_bytes", "much", "1MiB"),
            ("listen", "tcp", "here", "off"),
            ("listen", "max_connections_per_address", "-1", "from 0 to"),
            ("listen", "max_accepts_per_second", "fast", "from 0 to"),
            ("listen", "accept_burst", "0", "from 1 to"),
            ("listen", "tls", "on", "\"both\" or \"tcp\" or \"websocket\""),
            ("listen", "trusted_proxies", "10.0.0.1, proxy.example", "proxy.example"),
            ("listen", "real_ip_header", "X Forwarded", "HTTP header"),
            ("log", "format", "xml", "\"human\" or \"json\""),
        ] {
            let error = Setting::find(section, key).expect("a setting").apply(&mut config, value);
            let text = error.expect_err(key);
            assert!(text.contains(says), "{section}.{key}: {text}");
        }
    }
}
