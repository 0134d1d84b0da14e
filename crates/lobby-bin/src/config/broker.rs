//! The connection that the keys of `broker` amount to: a URL, and fields that each replace a part of it.
//!
//! Pure. A field counts unless the URL comes from a stronger layer: a URL in the environment is not mixed with a
//! file's password. Of the ways to give a password the strongest layer's counts.

use std::{collections::BTreeMap, path::PathBuf};

use notify_amqp::{BrokerConfig, BrokerUrl, CredentialSource, Host, Login, TlsOptions};

use super::{
    fields::Config,
    load::{ConfigError, Origin},
    value::Secret,
};

/// The fields as they were written; empty means unset.
#[derive(Debug, Clone, Default)]
pub struct BrokerFields {
    pub hosts: Vec<Host>,
    pub shuffle: bool,
    pub port: u16,
    pub vhost: String,
    pub user: String,
    pub user_file: String,
    pub password: Secret,
    pub password_file: String,
    pub password_command: Option<CredentialSource>,
    pub external: bool,
    pub tls: Option<bool>,
    pub tls_ca_file: String,
    pub tls_cert_file: String,
    pub tls_key_file: String,
    pub tls_server_name: String,
    pub tls_verify: bool,
    pub connection_name: String,
    pub client_properties: Vec<(String, String)>,
}

/// Parts of the URL that fields replace.
const PARTS: [&str; 8] =
    ["hosts", "port", "vhost", "user", "user_file", "password", "password_file", "password_command"];
/// One of these says who logs in.
const PASSWORDS: [&str; 3] = ["password", "password_file", "password_command"];
const USERS: [&str; 2] = ["user", "user_file"];

type Values = BTreeMap<String, (String, Origin)>;

/// Applies the fields to the URL and leaves the result in `config`; what does not count is blanked in `values`.
///
/// # Errors
/// Two ways to give the same thing in one layer, or keys that need another one.
pub fn settle(config: &mut Config, values: &mut Values) -> Result<(), ConfigError> {
    let url_rank = rank(values, "url").unwrap_or_default();
    let url_origin = values.get("broker.url").map(|(_, origin)| origin.clone());
    let mut counts: BTreeMap<&str, u8> = BTreeMap::new();
    for key in PARTS.into_iter().chain(["tls"]) {
        let Some(rank) = rank(values, key) else { continue };
        if rank >= url_rank {
            counts.insert(key, rank);
        } else if let (Some(value), Some(origin)) = (values.get_mut(&name(key)), url_origin.clone()) {
            *value = (String::new(), origin);
        }
    }
    let user = strongest(&USERS, &counts)?;
    let password = strongest(&PASSWORDS, &counts)?;
    let has = |key: &str| counts.contains_key(key);

    let fields = &config.broker;
    let mut url = config.broker_url.clone();
    let wrong = |key: &str, error: notify_amqp::BrokerUrlError| {
        ConfigError::Conflict(format!("`broker.{key}`: {error}"))
    };
    if has("hosts") {
        url = url.with_hosts(fields.hosts.clone()).map_err(|error| wrong("hosts", error))?;
    }
    if has("port") {
        url = url.with_port(fields.port);
    }
    if has("vhost") {
        url = url.with_vhost(&fields.vhost).map_err(|error| wrong("vhost", error))?;
    }
    if user == Some("user") {
        url = url.with_user(&fields.user);
    }
    if password == Some("password") {
        url = url.with_password(fields.password.expose());
    }
    if let (true, Some(tls)) = (has("tls"), fields.tls) {
        url = url.with_tls(tls);
        // The default URL's port is written out, but nobody asked for it.
        if url_rank == 0 && !has("port") {
            url = url.with_port(if tls { 5671 } else { 5672 });
        }
    }
    check_tls(fields, &url)?;
    config.login = login(fields, &url, user, password);
    for (key, of_url, field) in [
        ("heartbeat", url.heartbeat(), &mut config.heartbeat),
        ("connect_timeout", url.connect_timeout(), &mut config.connect_timeout),
    ] {
        // The URL's own keys are weaker than ours and stronger than a default.
        if let (None, Some(value), Some(origin)) = (rank(values, key), of_url, url_origin.clone()) {
            *field = value;
            values.insert(name(key), (humantime::format_duration(value).to_string(), origin));
        }
    }
    config.broker_url = url;
    Ok(())
}

/// What [`notify_amqp`] needs, with everything that the broker's own UI shows about `instance`.
pub fn connection(config: &Config) -> BrokerConfig {
    let fields = &config.broker;
    let instance = config.instance_name.as_str();
    let name = if fields.connection_name.is_empty() {
        format!("lobby {instance}")
    } else {
        fields.connection_name.clone()
    };
    let mut broker = BrokerConfig::new(config.broker_url.clone(), name);
    broker.shuffle = fields.shuffle;
    broker.login = config.login.clone();
    broker.heartbeat = config.heartbeat;
    broker.connect_timeout = config.connect_timeout;
    broker.call_timeout = config.call_timeout;
    let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
    let mut tls = TlsOptions::default();
    tls.ca_file = file(&fields.tls_ca_file);
    tls.cert_file = file(&fields.tls_cert_file);
    tls.key_file = file(&fields.tls_key_file);
    tls.server_name = Some(fields.tls_server_name.clone()).filter(|name| !name.is_empty());
    tls.verify = fields.tls_verify;
    broker.tls = tls;
    let ours = [("product", "lobby"), ("version", env!("CARGO_PKG_VERSION")), ("instance", instance)];
    broker.client_properties = ours.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    broker.client_properties.extend(fields.client_properties.iter().cloned());
    broker
}

fn login(fields: &BrokerFields, url: &BrokerUrl, user: Option<&str>, password: Option<&str>) -> Login {
    if fields.external {
        return Login::External;
    }
    let user = (user == Some("user_file")).then(|| CredentialSource::File(PathBuf::from(&fields.user_file)));
    let password = match (password, &fields.password_command) {
        (Some("password_file"), _) => CredentialSource::File(PathBuf::from(&fields.password_file)),
        (Some("password_command"), Some(command)) => command.clone(),
        _ if user.is_none() => return Login::Url,
        _ => CredentialSource::Value(url.password().to_owned()),
    };
    Login::Password { user, password }
}

fn check_tls(fields: &BrokerFields, url: &BrokerUrl) -> Result<(), ConfigError> {
    let conflict = |text: String| Err(ConfigError::Conflict(text));
    let files = [
        ("tls_ca_file", &fields.tls_ca_file),
        ("tls_cert_file", &fields.tls_cert_file),
        ("tls_key_file", &fields.tls_key_file),
        ("tls_server_name", &fields.tls_server_name),
    ];
    if let (false, Some((key, _))) = (url.tls(), files.iter().find(|(_, text)| !text.is_empty())) {
        return conflict(format!(
            "`broker.{key}` is set, but the connection has no TLS: set `broker.tls` = \"on\" (LOBBY_BROKER__TLS) or write amqps:// in `broker.url`"
        ));
    }
    if fields.tls_cert_file.is_empty() != fields.tls_key_file.is_empty() {
        return conflict(
            "`broker.tls_cert_file` and `broker.tls_key_file` go together: set both or neither".to_owned(),
        );
    }
    if fields.external && (!url.tls() || fields.tls_cert_file.is_empty()) {
        return conflict(
            "`broker.auth` = \"external\" logs in with a client certificate: it needs TLS, `broker.tls_cert_file` and `broker.tls_key_file`"
                .to_owned(),
        );
    }
    Ok(())
}

fn name(key: &str) -> String {
    format!("broker.{key}")
}

/// How strong the layer is that says something about `key`; `None` when none does.
fn rank(values: &Values, key: &str) -> Option<u8> {
    let (text, origin) = values.get(&name(key))?;
    let rank = origin.rank();
    (!text.is_empty() && rank > 0).then_some(rank)
}

/// Which of `keys` counts: the one of the strongest layer.
fn strongest(
    keys: &[&'static str],
    counts: &BTreeMap<&str, u8>,
) -> Result<Option<&'static str>, ConfigError> {
    let mut best: Option<(&'static str, u8)> = None;
    for key in keys {
        let Some(rank) = counts.get(key) else { continue };
        match best {
            Some((other, same)) if same == *rank => {
                return Err(ConfigError::Conflict(format!(
                    "`broker.{other}` and `broker.{key}` say the same thing twice: keep one of them"
                )));
            }
            Some((_, stronger)) if stronger > *rank => {}
            _ => best = Some((key, *rank)),
        }
    }
    Ok(best.map(|(key, _)| key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Loaded, Sources, effective, load};

    fn loaded(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, ConfigError> {
        let path = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(path.path(), file).expect("written");
        load(&Sources {
            file: Some(path.path().to_owned()),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        })
    }

    /// The URL in force with its password, which `Display` hides.
    fn url(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> String {
        let config = loaded(file, environment, flags).expect("accepted").config;
        config.broker_url.to_string().replace("***", config.broker_url.password())
    }

    const FILE: &str = "[broker]\nurl = \"amqp://u:p@mq:5673/v\"\n";

    #[test]
    fn n01_a_field_replaces_its_part_of_the_url_and_nothing_else() {
        for (key, value, expected) in [
            ("HOSTS", "a, b:1,[::1]", "amqp://u:p@a:5673,b:1,[::1]:5673/v"),
            ("PORT", "7", "amqp://u:p@mq:7/v"),
            ("VHOST", "/w", "amqp://u:p@mq:5673/%2fw"),
            ("USER", "w", "amqp://w:p@mq:5673/v"),
            ("PASSWORD", "q", "amqp://u:q@mq:5673/v"),
            ("TLS", "on", "amqps://u:p@mq:5673/v"),
            ("PASSWORD", "", "amqp://u:p@mq:5673/v"),
        ] {
            let variable = format!("LOBBY_BROKER__{key}");
            assert_eq!(url(FILE, &[(&variable, value)], &[]), expected, "{key}={value}");
            let flag = format!("broker.{}={value}", key.to_lowercase());
            assert_eq!(url(FILE, &[], &[&flag]), expected, "{flag}");
        }
    }

    #[test]
    fn n01_fields_alone_are_enough_and_tls_moves_the_usual_port() {
        let fields = "[broker]\nhosts = [\"a\", \"b\"]\nvhost = \"v\"\nuser = \"u\"\npassword = \"p\"\n";
        assert_eq!(url(fields, &[], &[]), "amqp://u:p@a:5672,b:5672/v");
        assert_eq!(url(&format!("{fields}tls = \"on\"\n"), &[], &[]), "amqps://u:p@a:5671,b:5671/v");
    }

    #[test]
    fn m01_a_variable_of_faf_replaces_only_its_part_of_a_files_url() {
        assert_eq!(url(FILE, &[("MQ_PASSWORD", "q")], &[]), "amqp://u:q@mq:5673/v");
        assert_eq!(url(FILE, &[("MQ_SERVER", "a"), ("MQ_VHOST", "/w")], &[]), "amqp://u:p@a:5673/%2fw");
        assert_eq!(url("", &[("MQ_PASSWORD", "q")], &[]), "amqp://guest:q@127.0.0.1:5672/%2f");
        let ours = ("LOBBY_BROKER__PASSWORD", "r");
        assert_eq!(url(FILE, &[("MQ_PASSWORD", "q"), ours], &[]), "amqp://u:r@mq:5673/v");
    }

    #[test]
    fn n01_a_url_of_a_stronger_layer_replaces_weaker_fields_too() {
        let file = "[broker]\nhosts = \"a\"\npassword_file = \"/run/secret\"\nuser = \"u\"\n";
        let environment = [("LOBBY_BROKER__URL", "amqp://x:y@z:1/v")];
        assert_eq!(url(file, &environment, &[]), "amqp://x:y@z:1/v");
        let loaded = loaded(file, &environment, &[]).expect("accepted");
        assert!(matches!(loaded.config.login, Login::Url), "{:?}", loaded.config.login);
        let shown = effective(&loaded);
        assert!(!shown.contains("/run/secret"), "what does not count is not shown as in force: {shown}");
    }

    #[test]
    fn n17_the_strongest_way_to_give_a_password_counts() {
        let login = |file: &str, environment: &[(&str, &str)]| {
            format!("{:?}", loaded(file, environment, &[]).expect("accepted").config.login)
        };
        let file = "[broker]\npassword_file = \"/run/secret\"\n";
        assert!(login(file, &[]).contains("file /run/secret"));
        let command = ("LOBBY_BROKER__PASSWORD_COMMAND", "vault read 'a b'");
        assert!(login(file, &[command]).contains("command `vault`"));
        assert_eq!(login(file, &[("MQ_PASSWORD", "q")]), "Url");
        let list = "[broker]\npassword_command = [\"sh\", \"-c\", \"echo a,b\"]\n";
        let words = loaded(list, &[], &[]).expect("accepted").config.broker.password_command;
        let expected = ["sh", "-c", "echo a,b"].map(str::to_owned);
        assert_eq!(words, Some(CredentialSource::Command(expected.into())), "a list keeps its words");
        let list = "[broker]\npassword_command = [\"get\", \"${KEY}\"]\n";
        let words =
            loaded(list, &[("KEY", "it's --x 'y")], &[]).expect("accepted").config.broker.password_command;
        let expected = ["get", "it's --x 'y"].map(str::to_owned);
        assert_eq!(words, Some(CredentialSource::Command(expected.into())), "whatever a variable holds");
        let user = "[broker]\nuser_file = \"/run/user\"\n";
        assert!(login(user, &[]).contains("/run/user") && !login(user, &[]).contains("guest"));
    }

    #[test]
    fn n01_contradictions_are_refused_with_what_to_do() {
        let cert = "tls = \"on\"\ntls_cert_file = \"c\"\n";
        for (keys, says) in [
            ("password = \"p\"\npassword_file = \"f\"\n", "keep one"),
            ("user = \"p\"\nuser_file = \"f\"\n", "keep one"),
            ("tls_ca_file = \"f\"\n", "LOBBY_BROKER__TLS"),
            (cert, "tls_key_file"),
            ("auth = \"external\"\n", "client certificate"),
            ("auth = \"magic\"\n", "external"),
            ("hosts = \"amqp://u:hunter2@h\"\n", "expected hosts alone"),
            ("port = 65536\n", "65535"),
            ("password_command = \"vault 'x\"\n", "quote"),
            ("client_properties = \"team\"\n", "NAME=VALUE"),
            ("tls = \"maybe\"\n", "\"on\""),
        ] {
            let error = loaded(&format!("[broker]\n{keys}"), &[], &[]).expect_err(keys).to_string();
            assert!(error.contains(says) && !error.contains("hunter2"), "{keys}: {error}");
        }
        let whole = format!("[broker]\n{cert}tls_key_file = \"k\"\nauth = \"external\"\n");
        assert!(matches!(loaded(&whole, &[], &[]).expect("accepted").config.login, Login::External));
    }

    #[test]
    fn n02_the_urls_heartbeat_counts_unless_the_key_is_set() {
        let url = ("LOBBY_BROKER__URL", "amqp://h?heartbeat=7&connection_timeout=500");
        let config = loaded("", &[url], &[]).expect("accepted").config;
        assert_eq!((config.heartbeat.as_secs(), config.connect_timeout.as_millis()), (7, 500));
        let config = loaded("[broker]\nheartbeat = \"9s\"\n", &[url], &[]).expect("accepted").config;
        assert_eq!(config.heartbeat.as_secs(), 9);
    }

    #[test]
    fn n03_f17_what_the_brokers_ui_shows_can_be_extended() {
        let file = "[broker]\nclient_properties = [\"team=chat\", \"url=https://x.example/?a=b\"]\n[instance]\nname = \"pod-7\"\n";
        let broker = connection(&loaded(file, &[], &[]).expect("accepted").config);
        assert_eq!(broker.connection_name, "lobby pod-7");
        for (name, value) in
            [("product", "lobby"), ("instance", "pod-7"), ("team", "chat"), ("url", "https://x.example/?a=b")]
        {
            let found = broker.client_properties.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            assert_eq!(found, Some(value), "{name}");
        }
    }

    #[test]
    fn n29_no_secret_is_shown() {
        let environment = [("LOBBY_BROKER__PASSWORD_COMMAND", "vault --token hunter2")];
        let loaded = loaded("[broker]\nuser = \"u\"\n", &environment, &[]).expect("accepted");
        let config = format!("{:?}{:?}", loaded.config, connection(&loaded.config));
        let shown = effective(&loaded);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(!config.contains("hunter2"), "{config}");
        let environment = [("MQ_PASSWORD", "hunter2")];
        let loaded = super::tests::loaded("", &environment, &[]).expect("accepted");
        let shown = format!("{}{:?}{:?}", effective(&loaded), loaded.config, connection(&loaded.config));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
