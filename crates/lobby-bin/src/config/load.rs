//! Puts the layers of the configuration together and remembers where each value came from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use super::{
    broker,
    dead_letter::dead_letter_topology,
    drain::drain_times,
    fields::Config,
    file, otel, queue, secret_file,
    settings::{SETTINGS, Setting},
    value::without_any_login,
};

/// Variables of the FAF lobby server, and the keys of `broker` that they set.
const FAF_VARIABLES: [(&str, &str); 6] = [
    ("MQ_EXCHANGE_NAME", "exchange"),
    ("MQ_SERVER", "hosts"),
    ("MQ_PORT", "port"),
    ("MQ_USER", "user"),
    ("MQ_PASSWORD", "password"),
    ("MQ_VHOST", "vhost"),
];

/// Former names of keys, and what they are now.
const RENAMED: [(&str, &str); 1] = [("broker.queue_expires", "queue.expires")];

/// What the configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file named by `--config` or `LOBBY_CONFIG`; it must exist.
    pub file: Option<PathBuf>,
    /// The environment's variables.
    pub environment: BTreeMap<String, String>,
    /// `section.key=value` from flags.
    pub flags: Vec<String>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    Variable(String),
    Flag,
    /// A file that another key names.
    SecretFile {
        path: PathBuf,
        by: Box<Origin>,
    },
}

impl Origin {
    /// How strong its layer is; 0 for a default.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Variable(variable) if !variable.starts_with("LOBBY_") => 2,
            Self::Variable(_) => 3,
            Self::Flag => 4,
            Self::SecretFile { by, .. } => by.rank(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}, line {line}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag --set"),
            Self::SecretFile { path, by } => write!(f, "file {}, named by {by}", path.display()),
        }
    }
}

/// A checked configuration with the origin of each value.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// By `section.key`: the text of the value and where it came from.
    pub values: BTreeMap<String, (String, Origin)>,
    /// What is accepted and had better be different.
    pub warnings: Vec<String>,
}

/// Why a configuration is not accepted. The text names the key, where it stands and what would be right.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("unknown key `{key}` in {origin}{}", suggestion(.nearest))]
    UnknownKey { key: String, origin: String, nearest: Option<String> },
    #[error("`{key}` = {value} ({origin}): {problem}")]
    BadValue { key: String, value: String, origin: String, problem: String },
    #[error("configuration file {path}: {problem}")]
    File { path: String, problem: String },
    #[error("{0}")]
    Conflict(String),
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default()
}

/// Loads and checks the configuration.
///
/// # Errors
/// The first thing that is wrong; nothing is started then.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { config: Config::new(), values: BTreeMap::new(), warnings: Vec::new() };
    for setting in SETTINGS {
        loaded.values.insert(setting.name(), (setting.default.to_owned(), Origin::Default));
    }
    if let Some((path, text)) = file::read(sources.file.as_deref())? {
        file::apply(&mut loaded, &path, &text, &sources.environment)?;
    }
    apply_faf_aliases(&mut loaded, &sources.environment)?;
    apply_otel_variables(&mut loaded, &sources.environment);
    apply_environment(&mut loaded, &sources.environment)?;
    for flag in &sources.flags {
        let (name, value) = flag.split_once('=').ok_or_else(|| ConfigError::BadValue {
            key: "--set".to_owned(),
            // Without a `=`, all of it may be a secret.
            value: "…".to_owned(),
            origin: "flag".to_owned(),
            problem: "expected SECTION.KEY=VALUE".to_owned(),
        })?;
        let (section, key) = name.split_once('.').unwrap_or((name, ""));
        set(&mut loaded, section, key, value, Origin::Flag)?;
    }
    secret_file::settle(&mut loaded)?;
    otel::check_built_in(&loaded, otel::BUILT_IN)?;
    loaded.config.otel.endpoint_is_whole =
        loaded.values["otel.endpoint"].1 == Origin::Variable(otel::TRACES_ENDPOINT.to_owned());
    let weak = otel::warnings(&sources.environment, &loaded, otel::BUILT_IN);
    loaded.warnings.extend(weak);
    broker::settle(&mut loaded.config, &mut loaded.values)
        .and_then(|()| check_all(&loaded.config))
        .map_err(|error| with_origins(error, &loaded.values))?;
    Ok(loaded)
}

fn check_all(config: &Config) -> Result<(), ConfigError> {
    check_together(config)?;
    queue::topology(config)?;
    dead_letter_topology(config)?;
    drain_times(config)?;
    Ok(())
}

/// Values that are right one by one and wrong together: says where each of the keys that the text names was set.
fn with_origins(error: ConfigError, values: &BTreeMap<String, (String, Origin)>) -> ConfigError {
    let ConfigError::Conflict(text) = error else { return error };
    let named = text.split('`').skip(1).step_by(2).filter_map(|key| {
        let (_, origin) = values.get(key).filter(|(_, origin)| *origin != Origin::Default)?;
        Some(format!("`{key}` is set by {origin}"))
    });
    let origins: BTreeSet<_> = named.collect();
    if origins.is_empty() {
        return ConfigError::Conflict(text);
    }
    let origins: Vec<_> = origins.into_iter().collect();
    ConfigError::Conflict(format!("{text} ({})", origins.join("; ")))
}

/// The FAF lobby server's own variables, weaker than `LOBBY_BROKER__…` and stronger than a file.
fn apply_faf_aliases(loaded: &mut Loaded, environment: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (variable, key) in FAF_VARIABLES {
        if let Some(value) = environment.get(variable) {
            set(loaded, "broker", key, value, Origin::Variable(variable.to_owned()))?;
        }
    }
    Ok(())
}

/// OpenTelemetry's own variables, weaker than `LOBBY_OTEL__…` and stronger than a file. They are set for every program on
/// a machine, so that one that does not fit is passed over with a warning.
fn apply_otel_variables(loaded: &mut Loaded, environment: &BTreeMap<String, String>) {
    if !otel::variables_count(environment, otel::BUILT_IN) {
        return;
    }
    for (variable, key) in otel::OTEL_VARIABLES {
        let Some(value) = otel::variable(environment, variable) else { continue };
        if let Err(error) = set(loaded, "otel", key, value, Origin::Variable(variable.to_owned())) {
            loaded.warnings.push(format!("{variable} is passed over: {error}"));
        }
    }
}

/// `LOBBY_<SECTION>__<KEY>`. Variables without `__` are not ours: Kubernetes makes some for a service that is
/// called lobby.
fn apply_environment(loaded: &mut Loaded, environment: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (name, value) in environment {
        if let Some(meant) = SETTINGS.iter().find(|s| s.variable().replace("__", "_") == *name) {
            let origin = "the environment".to_owned();
            return Err(ConfigError::UnknownKey {
                key: name.clone(),
                origin,
                nearest: Some(meant.variable()),
            });
        }
        let Some((section, key)) = name.strip_prefix("LOBBY_").and_then(|rest| rest.split_once("__")) else {
            continue;
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        set(loaded, &section, &key, value, Origin::Variable(name.clone()))?;
    }
    Ok(())
}

/// Sets one key. The error names it, its value and its origin.
pub(super) fn set(
    loaded: &mut Loaded,
    section: &str,
    key: &str,
    value: &str,
    origin: Origin,
) -> Result<(), ConfigError> {
    let name = format!("{section}.{key}");
    let renamed = RENAMED.iter().find(|(former, _)| *former == name).and_then(|(_, now)| now.split_once('.'));
    let (section, key) = renamed.unwrap_or((section, key));
    let setting = Setting::find(section, key).ok_or_else(|| unknown(section, key, &origin))?;
    setting.apply(&mut loaded.config, value).map_err(|problem| ConfigError::BadValue {
        key: setting.name(),
        value: if setting.secret { "***".to_owned() } else { format!("{:?}", without_any_login(value)) },
        origin: origin.to_string(),
        problem,
    })?;
    loaded.values.insert(setting.name(), (value.to_owned(), origin));
    Ok(())
}

pub(super) fn unknown(section: &str, key: &str, origin: &Origin) -> ConfigError {
    let name = if key.is_empty() { section.to_owned() } else { format!("{section}.{key}") };
    let nearest = SETTINGS
        .iter()
        .map(|s| (strsim::jaro_winkler(&s.name(), &name), s.name()))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name);
    ConfigError::UnknownKey { key: name, origin: origin.to_string(), nearest }
}

fn check_together(config: &Config) -> Result<(), ConfigError> {
    let conflict = |text: &str| Err(ConfigError::Conflict(text.to_owned()));
    if config.tls_cert_file.is_empty() != config.tls_key_file.is_empty() {
        return conflict(
            "`listen.tls_cert_file` and `listen.tls_key_file` need each other: set both or neither",
        );
    }
    let word = if config.proxy_protocol { "listen.proxy_protocol" } else { "listen.real_ip_header" };
    if config.trusted_proxies.is_empty() && (config.proxy_protocol || !config.real_ip_header.is_empty()) {
        return conflict(&format!(
            "`{word}` is set, but nobody's word is taken: list the proxies in `listen.trusted_proxies`"
        ));
    }
    if config.has_login() {
        return Ok(());
    }
    for (key, address) in [("listen.tcp", config.tcp), ("listen.websocket", config.websocket)] {
        if let (true, super::Address::At(address)) = (address.is_beyond_loopback(), address) {
            return Err(ConfigError::Conflict(format!(
                "`{key}` = {address} can be reached from other machines, but no login is configured: set \
                 `auth.jwks` (LOBBY_AUTH__JWKS, a URL or file, for production) or `auth.secret` \
                 (LOBBY_AUTH__SECRET, for development), or listen on 127.0.0.1"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use notify_amqp::BrokerUrl;

    use super::*;

    fn sources(environment: &[(&str, &str)], flags: &[&str]) -> Sources {
        Sources {
            file: None,
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    fn file(text: &str) -> (tempfile::NamedTempFile, PathBuf) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        let path = file.path().to_owned();
        (file, path)
    }

    #[test]
    fn each_layer_overrides_the_one_before() {
        let (_keep, path) = file("[broker]\nprefetch = 10\nexchange = \"a\"\nheartbeat = \"20s\"\n");
        let environment = [("LOBBY_BROKER__PREFETCH", "20"), ("LOBBY_BROKER__EXCHANGE", "b")];
        let mut sources = sources(&environment, &["broker.prefetch=30"]);
        sources.file = Some(path.clone());
        let loaded = load(&sources).expect("accepted");
        let config = &loaded.config;
        assert_eq!((config.prefetch, config.exchange.as_str()), (30, "b"));
        assert_eq!(config.heartbeat.as_secs(), 20);
        assert_eq!(loaded.values["broker.heartbeat"].1, Origin::File { path, line: 4 });
        assert_eq!(loaded.values["broker.prefetch"].1, Origin::Flag);
        assert_eq!(loaded.values["auth.scope"].1, Origin::Default);
    }

    #[test]
    fn an_unknown_key_is_named_wherever_it_stands() {
        let error = load(&sources(&[("LOBBY_BROKER__PREFTECH", "1")], &[])).expect_err("unknown").to_string();
        assert!(error.contains("broker.preftech") && error.contains("LOBBY_BROKER__PREFTECH"), "{error}");
        assert!(error.contains("did you mean `broker.prefetch`"), "{error}");

        let (_keep, path) = file("[brocker]\nurl = \"x\"\n");
        let error =
            load(&Sources { file: Some(path), ..Sources::default() }).expect_err("unknown").to_string();
        assert!(error.contains("brocker.url"), "{error}");

        let (_keep, path) = file("url = \"x\"\n");
        let error =
            load(&Sources { file: Some(path), ..Sources::default() }).expect_err("unknown").to_string();
        assert!(error.contains("`url`"), "{error}");
    }

    #[test]
    fn variables_that_kubernetes_makes_for_a_service_called_lobby_are_passed_over() {
        let environment =
            [("LOBBY_SERVICE_HOST", "10.0.0.1"), ("LOBBY_PORT_8002_TCP", "tcp://10.0.0.1:8002")];
        assert!(load(&sources(&environment, &[])).is_ok());
    }

    #[test]
    fn a_variable_with_one_underscore_too_few_is_not_passed_over() {
        let error = load(&sources(&[("LOBBY_AUTH_SECRET", "s")], &[])).expect_err("unknown").to_string();
        assert!(error.contains("LOBBY_AUTH_SECRET") && error.contains("LOBBY_AUTH__SECRET"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_by_its_line_without_what_stands_there() {
        let (_keep, path) = file("[auth]\nsecret = \"hunter2\n");
        let error = load(&Sources { file: Some(path), ..Sources::default() }).expect_err("bad").to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        let error = load(&sources(&[], &["auth.secret:hunter2"])).expect_err("bad").to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_bad_value_names_key_value_and_origin_but_no_secret() {
        let error = load(&sources(&[("LOBBY_BROKER__PREFETCH", "many")], &[])).expect_err("bad").to_string();
        assert!(
            ["broker.prefetch", "many", "LOBBY_BROKER__PREFETCH"].iter().all(|t| error.contains(t)),
            "{error}"
        );
        let error = load(&sources(&[("LOBBY_BROKER__URL", "http://u:hunter2@h")], &[])).expect_err("bad");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn fafs_own_variables_work_and_ours_win_over_them() {
        let faf = [
            ("MQ_SERVER", "mq.example"),
            ("MQ_PORT", "5673"),
            ("MQ_USER", "faf"),
            ("MQ_PASSWORD", "p@ss"),
            ("MQ_VHOST", "/faf-core"),
            ("MQ_EXCHANGE_NAME", "faf"),
        ];
        let loaded = load(&sources(&faf, &[])).expect("accepted");
        let url = &loaded.config.broker_url;
        assert_eq!(url.to_string(), "amqp://faf:***@mq.example:5673/%2ffaf-core");
        assert_eq!(url.password(), "p@ss");
        assert_eq!(loaded.config.exchange.as_str(), "faf");
        assert!(!loaded.values["broker.url"].0.contains("p@ss"));

        let mut both = faf.to_vec();
        both.push(("LOBBY_BROKER__URL", "amqp://a:b@other:1/v"));
        let loaded = load(&sources(&both, &[])).expect("accepted");
        assert_eq!(loaded.config.broker_url, BrokerUrl::parse("amqp://a:b@other:1/v").expect("a URL"));
    }

    #[test]
    fn without_a_login_only_loopback_is_listened_on() {
        let open = ("LOBBY_LISTEN__TCP", "0.0.0.0:8002");
        let error = load(&sources(&[open], &[])).expect_err("refused").to_string();
        assert!(error.contains("LOBBY_AUTH__SECRET") && error.contains("LOBBY_AUTH__JWKS"), "{error}");
        assert!(error.ends_with("(`listen.tcp` is set by environment LOBBY_LISTEN__TCP)"), "{error}");
        assert!(load(&sources(&[open, ("LOBBY_AUTH__SECRET", "s")], &[])).is_ok());
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let sources = Sources { file: Some("/nowhere/lobby.toml".into()), ..Sources::default() };
        assert!(load(&sources).expect_err("missing").to_string().contains("/nowhere/lobby.toml"));
    }
}
