//! Every scenario by name. The names are what scripts and people use: keep them.

use futures_util::future::BoxFuture;

use super::kit;
use super::stage::Stage;
use super::{
    addressing, admittance, broker_login, cluster, console, console_why, conversation, dead_letters, drain,
    duplicates, examples, exit_codes, haproxy, limits, logins, monitoring, otel, outage, publish_command,
    publishers, queue_modes, receipts, recordings, refusals, reload, restart, rolling, self_check,
    service_manager, slow_reader, start_up, top, topology, trace, vectors,
};

/// Whether others may use the broker meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    SideBySide,
    /// It needs the machine to itself.
    Alone,
    /// It stops the broker, which must be ours.
    StopsBroker,
}

/// One claim about the lobby.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) sharing: Sharing,
    pub(super) run: for<'a> fn(&'a Stage) -> BoxFuture<'a, anyhow::Result<()>>,
}

impl Scenario {
    /// Whether it runs Python programs: those are called so.
    pub(super) fn needs_python(&self) -> bool {
        self.name.starts_with("python-")
    }

    /// Whether it runs a lobby that was built with OpenTelemetry.
    pub(super) fn needs_otel(&self) -> bool {
        self.name.starts_with("otel-")
    }

    /// Whether it runs compiled TypeScript.
    pub(super) fn needs_node(&self) -> bool {
        self.name.starts_with("typescript-")
    }

    /// Whether it runs compiled Java.
    pub(super) fn needs_java(&self) -> bool {
        self.name.starts_with("java-")
    }
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! scenarios {
    ($($name:literal $sharing:ident $module:ident::$function:ident,)*) => {
        /// All scenarios, the longest first so that they do not trail behind the others.
        pub(super) const SCENARIOS: &[Scenario] = &[$(Scenario {
            name: $name,
            sharing: Sharing::$sharing,
            run: |stage| Box::pin($module::$function(stage)),
        },)*];
    };
}

scenarios! {
    "cluster" SideBySide cluster::cluster,
    "vectors" SideBySide vectors::vectors,
    "console" SideBySide console::overview,
    "service-manager" SideBySide service_manager::service_manager,
    "second-interrupt" SideBySide drain::second_interrupt,
    "drain-at-its-worst" SideBySide drain::at_its_worst,
    "reload" SideBySide reload::reload,
    "rolling-drain" SideBySide rolling::rolling_drain,
    "console-why" SideBySide console_why::why,
    "console-token" SideBySide console::token_and_kick,
    "console-publish" SideBySide console::publish_form,
    "console-client" SideBySide console::client_tab,
    "slow-reader" SideBySide slow_reader::slow_reader,
    "self-check-consumer-stuck" SideBySide self_check::consumer_stuck,
    "self-check-consumer-lost" SideBySide self_check::consumer_lost,
    "self-check-binding-removed" SideBySide self_check::binding_removed,
    "self-check-exchange-deleted" SideBySide self_check::exchange_deleted,
    "self-check-may-not-publish" SideBySide self_check::may_not_publish,
    "self-check-canaries" SideBySide self_check::canaries_are_nobodys,
    "receipts" SideBySide receipts::receipts,
    "receipts-of-all-kinds" SideBySide receipts::receipts_of_all_kinds,
    "receipts-off" SideBySide receipts::receipts_off,
    "connections-closed" SideBySide outage::connections_closed,
    "no-broker-at-start" SideBySide outage::no_broker_at_start,
    "published-while-down" SideBySide outage::published_while_down,
    "queue-deleted" SideBySide outage::queue_deleted,
    "same-name" SideBySide outage::same_name,
    "rust-example" SideBySide examples::rust_example,
    "rust-receipt-example" SideBySide examples::rust_receipt_example,
    "rust-consumer-example" SideBySide examples::rust_consumer_example,
    "rust-handler-example" SideBySide examples::rust_handler_example,
    "bad-tokens" SideBySide logins::bad_tokens,
    "accepted-tokens" SideBySide logins::accepted_tokens,
    "token-command" SideBySide logins::token_command,
    "duplicate-login-replace" SideBySide duplicates::replace,
    "duplicate-login-allow" SideBySide duplicates::allow,
    "duplicate-login-reject" SideBySide duplicates::reject,
    "hundred-logins" SideBySide duplicates::hundred_logins,
    "login-timeout" SideBySide limits::login_timeout,
    "protocol-errors" SideBySide limits::protocol_errors,
    "oversize-and-bad-text" SideBySide limits::oversize_and_bad_text,
    "too-many-commands" SideBySide limits::too_many_commands,
    "connection-limits" SideBySide admittance::connection_limits,
    "connection-rates" SideBySide admittance::connection_rates,
    "crowd-from-one-address" SideBySide admittance::crowd_from_one_address,
    "session-and-welcome" SideBySide conversation::session_and_welcome,
    "ping-pong" SideBySide conversation::ping_pong,
    "idle-ping" SideBySide conversation::idle_ping,
    "unknown-command" SideBySide conversation::unknown_command,
    "pretty-printed-body" SideBySide conversation::pretty_printed_body,
    "subprotocol" SideBySide conversation::subprotocol,
    "other-properties" SideBySide conversation::other_properties,
    "unicast" SideBySide addressing::unicast,
    "broadcast" SideBySide addressing::broadcast,
    "user-not-connected" SideBySide addressing::user_not_connected,
    "both-headers" SideBySide addressing::both_headers,
    "channel-reserved" SideBySide addressing::channel_reserved,
    "two-lobbies" SideBySide addressing::two_lobbies,
    "no-login-configured" SideBySide start_up::no_login_configured,
    "faf-variables" SideBySide start_up::faf_variables,
    "existing-exchange" SideBySide start_up::existing_exchange,
    "metrics" SideBySide start_up::metrics,
    "health-command" SideBySide start_up::health_command,
    "monitoring" SideBySide monitoring::monitoring,
    "otel-spans" SideBySide otel::spans,
    "otel-collector-hangs" SideBySide otel::collector_hangs,
    "otel-not-built-in" SideBySide otel::not_built_in,
    "trace" SideBySide trace::trace,
    "top-command" SideBySide top::top_command,
    "publish-command" SideBySide publish_command::publish_command,
    "publish-command-lines" SideBySide publish_command::lines,
    "publish-command-receipts" SideBySide publish_command::receipts,
    "explain-command" SideBySide recordings::explain_command,
    "tail-command" SideBySide recordings::tail_command,
    "record-replay" SideBySide recordings::record_replay,
    "refused-message" SideBySide exit_codes::refused_message,
    "not-let-in" SideBySide exit_codes::not_let_in,
    "recording-with-a-gap" SideBySide exit_codes::recording_with_a_gap,
    "secrets-stay-secret" SideBySide start_up::secrets_stay_secret,
    "listeners-off" SideBySide start_up::listeners_off,
    "unknown-key" SideBySide refusals::unknown_key,
    "configuration-layers" SideBySide refusals::configuration_layers,
    "taken-port" SideBySide refusals::taken_port,
    "open-without-login" SideBySide refusals::open_without_login,
    "python-example" SideBySide examples::python_example,
    "python-aio-pika" SideBySide publishers::aio_pika,
    "python-pika" SideBySide publishers::pika,
    "python-kombu" SideBySide publishers::kombu,
    "python-nameko" SideBySide publishers::nameko,
    "python-nuropb" SideBySide publishers::nuropb,
    "python-fedora-messaging" SideBySide publishers::fedora_messaging,
    "python-neon-mq-connector" SideBySide publishers::neon_mq_connector,
    "python-kit-pika" SideBySide kit::python_pika,
    "python-kit-aio-pika" SideBySide kit::python_aio_pika,
    "typescript-kit" SideBySide kit::typescript,
    "java-kit" SideBySide kit::java,
    "refused-by-broker" SideBySide broker_login::refused_by_broker,
    "broker-startup-timeout" SideBySide broker_login::startup_timeout,
    "token-renewed" SideBySide broker_login::token_renewed,
    "shared-queue" SideBySide queue_modes::shared,
    "singleton" SideBySide queue_modes::singleton,
    "random-names" SideBySide queue_modes::random_names,
    "exit-on-cancel" SideBySide queue_modes::exit_on_cancel,
    "queue-mismatch" SideBySide queue_modes::mismatch,
    "dead-host-first" SideBySide broker_login::dead_host_first,
    "unverified-tls-warns" SideBySide broker_login::unverified_tls_warns,
    "dead-letters" SideBySide dead_letters::dead_letters,
    "topology-apply" SideBySide topology::apply,
    "topology-check" SideBySide topology::check,
    "dead-letters-lobby-killed" SideBySide dead_letters::killed_before_the_confirm,
    "console-idle" Alone console::idle,
    "sigterm-drain" Alone drain::sigterm_drain,
    "haproxy-rolling" Alone haproxy::haproxy_rolling,
    "broker-hangs" StopsBroker outage::broker_hangs,
    "broker-restart" StopsBroker restart::broker_restart,
    "broker-killed" StopsBroker restart::broker_killed,
    "dead-letters-broker-killed" StopsBroker dead_letters::broker_killed,
}
