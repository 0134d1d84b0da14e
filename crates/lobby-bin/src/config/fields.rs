//! The configuration, typed.

use std::time::Duration;

use ipnet::IpNet;
use lobby_sessions::{DuplicateLogin, FrameKind, OverflowPolicy, Rate, Transport};
use notify_amqp::{BrokerUrl, Login};

use super::{
    broker::BrokerFields,
    dead_letter::DeadLetterFields,
    otel::OtelFields,
    queue::QueueFields,
    self_check::SelfCheckFields,
    settings::SETTINGS,
    value::{Address, ByteSize, LogFormat, ManagementUrl, Name, Secret},
};
use crate::doorkeeper::Limits;

/// The whole configuration, typed and checked key by key. `Config::default()` is blank: the defaults that people
/// get stand in [`SETTINGS`], as text, and [`Config::new`] applies them.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub instance_name: Name,
    /// Whether that is one that no other start will have.
    pub instance_random: bool,
    /// With what the fields replace in it.
    pub broker_url: BrokerUrl,
    pub broker: BrokerFields,
    pub login: Login,
    pub startup_timeout: Duration,
    pub exchange: Name,
    pub prefetch: u16,
    pub heartbeat: Duration,
    pub management_url: ManagementUrl,
    pub connect_timeout: Duration,
    pub call_timeout: Duration,
    pub reconnect_max: Duration,
    pub ack_batch: u16,
    pub ack_delay: Duration,
    pub queue: QueueFields,
    pub standby_retry_max: Duration,
    pub exit_on_cancel: bool,
    pub dead_letter: DeadLetterFields,
    pub self_check: SelfCheckFields,
    pub max_body: ByteSize,
    pub receipts: bool,
    pub receipts_pending: usize,
    pub tcp: Address,
    pub websocket: Address,
    pub admin: Address,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub max_accepts_per_second: usize,
    pub accept_burst: usize,
    pub max_accepts_per_second_per_address: usize,
    pub accept_burst_per_address: usize,
    pub origins: Vec<String>,
    pub tls_cert_file: String,
    pub tls_key_file: String,
    pub tls_on: Vec<Transport>,
    pub trusted_proxies: Vec<IpNet>,
    pub proxy_protocol: bool,
    pub real_ip_header: String,
    pub admin_token: Secret,
    pub secret: Secret,
    pub jwks: String,
    pub jwks_refresh: Duration,
    pub scope: String,
    pub issuer: String,
    pub audience: String,
    pub leeway: Duration,
    pub duplicate_login: String,
    pub max_per_user: usize,
    pub outbox: ByteSize,
    pub outbox_total: ByteSize,
    pub overflow: OverflowPolicy,
    pub login_timeout: Duration,
    pub ping_interval: Duration,
    pub write_timeout: Duration,
    pub max_inbound: ByteSize,
    pub max_login: ByteSize,
    pub max_commands_per_second: usize,
    pub command_burst: usize,
    pub close_on_expiry: bool,
    pub frame: FrameKind,
    pub shards: usize,
    pub drain_timeout: Duration,
    pub drain_window: Option<Duration>,
    pub retry_spread: Duration,
    pub trace_decisions: usize,
    pub otel: OtelFields,
    pub log_level: String,
    pub log_format: LogFormat,
}

impl Config {
    /// Every setting at the default that [`SETTINGS`] names.
    pub fn new() -> Self {
        let mut config = Self::default();
        for setting in SETTINGS {
            if let Err(error) = setting.apply(&mut config, setting.default) {
                unreachable!("the default of {} is wrong: {error}", setting.name());
            }
        }
        config
    }

    /// Whether clients of `transport` connect over TLS.
    pub fn uses_tls(&self, transport: Transport) -> bool {
        !self.tls_cert_file.is_empty() && self.tls_on.contains(&transport)
    }

    /// The policy that `sessions.duplicate_login` and `sessions.max_per_user` amount to.
    pub fn duplicate_login(&self) -> DuplicateLogin {
        match self.duplicate_login.as_str() {
            "allow" => DuplicateLogin::Allow { max: self.max_per_user },
            "reject" => DuplicateLogin::Reject,
            _ => DuplicateLogin::Replace,
        }
    }

    /// What a client may say, before its login and after it.
    pub fn command_rate(&self) -> Option<Rate> {
        Rate::new(self.max_commands_per_second, self.command_burst)
    }

    /// The limits on connections that the keys of `listen` amount to.
    pub fn connection_limits(&self) -> Limits {
        Limits {
            total: self.max_connections,
            per_address: self.max_connections_per_address,
            rate: Rate::new(self.max_accepts_per_second, self.accept_burst),
            address_rate: Rate::new(self.max_accepts_per_second_per_address, self.accept_burst_per_address),
        }
    }

    /// Whether any way to verify a token is configured.
    pub fn has_login(&self) -> bool {
        self.secret.is_set() || !self.jwks.is_empty()
    }
}
