//! What the keys of `otel` amount to, and the variables that OpenTelemetry has for everybody.

use std::{collections::BTreeMap, time::Duration};

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderName, HeaderValue};

use super::{
    load::{ConfigError, Loaded, Origin},
    settings::{SETTINGS, Setting},
    value::Secret,
};

/// The keys as they were written.
#[derive(Debug, Clone, Default)]
pub struct OtelFields {
    /// Empty: no spans.
    pub endpoint: String,
    /// Whether nothing is added to its path, as it came from [`TRACES_ENDPOINT`].
    pub endpoint_is_whole: bool,
    pub service_name: String,
    /// As [`otel_headers`] reads them.
    pub headers: Secret,
    pub timeout: Duration,
    pub max_pending: usize,
}

/// The one of OpenTelemetry's addresses that is used as it is (OTLP, "Endpoint URLs for OTLP/HTTP").
pub const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// Variables of OpenTelemetry's specification and the keys of `otel` that they set, the stronger last.
pub const OTEL_VARIABLES: [(&str, &str); 5] = [
    ("OTEL_SERVICE_NAME", "service_name"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint"),
    (TRACES_ENDPOINT, "endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "headers"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "headers"),
];
/// The transport that the lobby has, of those that collectors offer.
const PROTOCOL: &str = "http/protobuf";
/// Whether spans are built in.
pub const BUILT_IN: bool = cfg!(feature = "otel");

/// A variable of OpenTelemetry's. One that is empty counts as one that is not there (its specification, "Environment
/// Variables").
pub fn variable<'a>(environment: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Whether OpenTelemetry's own variables count: not in a lobby without it, nor where they switch it off.
pub fn variables_count(environment: &BTreeMap<String, String>, built_in: bool) -> bool {
    let says = |name: &str| variable(environment, name).map(str::to_ascii_lowercase);
    let disabled = says("OTEL_SDK_DISABLED").as_deref() == Some("true");
    let elsewhere =
        says("OTEL_TRACES_EXPORTER").is_some_and(|exporter| !exporter.split(',').any(|e| e.trim() == "otlp"));
    built_in && !disabled && !elsewhere
}

/// What of OpenTelemetry's own variables does not do what whoever set them may think.
pub fn warnings(environment: &BTreeMap<String, String>, loaded: &Loaded, built_in: bool) -> Vec<String> {
    let is_endpoint =
        |(name, key): &&(&str, &str)| *key == "endpoint" && variable(environment, name).is_some();
    if !built_in {
        let passed_over = OTEL_VARIABLES.iter().rfind(is_endpoint).map(|(name, _)| {
            format!("{name} is passed over: this lobby was built without OpenTelemetry ({FEATURE})")
        });
        return passed_over.into_iter().collect();
    }
    let origin = loaded.values.get("otel.endpoint").map(|(_, origin)| origin);
    let used = OTEL_VARIABLES
        .iter()
        .filter(is_endpoint)
        .any(|(name, _)| origin.is_some_and(|origin| *origin == Origin::Variable((*name).to_owned())));
    let protocol = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]
        .into_iter()
        .find_map(|name| Some((name, variable(environment, name)?)));
    match protocol {
        Some((name, other)) if used && other != PROTOCOL => vec![format!(
            "{name} is {other:?}, but the lobby exports as {PROTOCOL}: set `otel.endpoint` to the collector's HTTP \
             port, 4318 as a rule"
        )],
        _ => Vec::new(),
    }
}

const FEATURE: &str = "build it with `--features otel`";

/// Refuses keys of `otel` in a lobby that cannot do what they say.
///
/// # Errors
/// The first of them that is not at its default.
pub fn check_built_in(loaded: &Loaded, built_in: bool) -> Result<(), ConfigError> {
    let set = |setting: &&Setting| {
        let value = loaded.values.get(&setting.name());
        setting.section == "otel" && value.is_some_and(|(text, _)| text != setting.default)
    };
    let Some((setting, (value, origin))) = SETTINGS
        .iter()
        .filter(|_| !built_in)
        .find(set)
        .and_then(|setting| Some((setting, loaded.values.get(&setting.name())?)))
    else {
        return Ok(());
    };
    Err(ConfigError::BadValue {
        key: setting.name(),
        value: if setting.secret { "***".to_owned() } else { format!("{value:?}") },
        origin: origin.to_string(),
        problem: format!("this lobby was built without OpenTelemetry: {FEATURE}, or leave the key out"),
    })
}

/// Checks the address of a collector; empty means none.
///
/// # Errors
/// No address of a collector, or one with a login, which would not be sent; the text does not repeat it.
pub fn parse_endpoint(text: &str) -> Result<String, String> {
    let url = text.parse::<reqwest::Url>().ok();
    let fits = |url: &reqwest::Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let has_login = |url: &reqwest::Url| !url.username().is_empty() || url.password().is_some();
    if url.as_ref().is_some_and(has_login) {
        return Err("a user and a password in it are not sent: use `otel.headers`, as in \
                    authorization=Basic%20… with USER:PASSWORD in base64"
            .to_owned());
    }
    if text.is_empty() || url.as_ref().is_some_and(fits) {
        return Ok(text.to_owned());
    }
    Err("expected http[s]://HOST:PORT, as in http://127.0.0.1:4318".to_owned())
}

/// Reads headers as OTEL_EXPORTER_OTLP_HEADERS has them: NAME=VALUE separated by commas, values percent-encoded.
///
/// # Errors
/// A name or value that HTTP does not allow. The text gives its number, from 1, and repeats nothing: what is written
/// wrongly may have a secret where its name should be.
pub fn otel_headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let headers = (1..).zip(pairs).map(|(number, pair)| {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            format!("header number {number} has no `=`: expected NAME=VALUE separated by commas, values percent-encoded")
        })?;
        let (name, value) = (name.trim(), percent_decode_str(value.trim()));
        let value = value.decode_utf8().ok().and_then(|value| HeaderValue::from_str(&value).ok());
        let name = name.parse().map_err(|_| {
            format!("what stands before the `=` of header number {number} is not the name of an HTTP header")
        })?;
        let mut value = value
            .ok_or_else(|| format!("the value of header number {number} cannot stand in an HTTP header"))?;
        value.set_sensitive(true);
        Ok((name, value))
    });
    headers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn loaded(variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        load(&Sources { environment: environment(variables), ..Sources::default() })
    }

    #[test]
    fn a_lobby_without_opentelemetry_refuses_its_keys_and_says_how_to_build_one_that_has_it() {
        for (variable, value, shown) in [
            ("LOBBY_OTEL__ENDPOINT", "http://collector:4318", "http://collector:4318"),
            ("LOBBY_OTEL__SERVICE_NAME", "other", "other"),
            ("LOBBY_OTEL__HEADERS", "authorization=hunter2", "***"),
        ] {
            let Err(error) = loaded(&[(variable, value)]).and_then(|loaded| check_built_in(&loaded, false))
            else {
                panic!("{variable} is accepted");
            };
            let error = error.to_string();
            for says in [variable, shown, "--features otel", "`otel."] {
                assert!(error.contains(says), "{error}");
            }
            assert!(!error.contains("hunter2"), "{error}");
            assert_eq!(loaded(&[(variable, value)]).is_ok(), BUILT_IN);
        }
        let defaults = loaded(&[("LOBBY_OTEL__ENDPOINT", "")]).expect("accepted");
        assert_eq!(check_built_in(&defaults, false), Ok(()));
    }

    #[test]
    fn opentelemetrys_own_variables_count_where_it_is_built_in_and_not_switched_off() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        for (more, counts) in [
            (&[][..], true),
            (&[("OTEL_SDK_DISABLED", "false")], true),
            (&[("OTEL_SDK_DISABLED", "True")], false),
            (&[("OTEL_TRACES_EXPORTER", "otlp")], true),
            (&[("OTEL_TRACES_EXPORTER", "console, otlp")], true),
            (&[("OTEL_TRACES_EXPORTER", "none")], false),
        ] {
            let mut variables = environment(more);
            variables.insert(endpoint.0.into(), endpoint.1.into());
            assert_eq!(variables_count(&variables, true), counts, "{more:?}");
            assert!(!variables_count(&variables, false));
            let used = load(&Sources { environment: variables, ..Sources::default() }).expect("accepted");
            assert_eq!(used.config.otel.endpoint.is_empty(), !(counts && BUILT_IN), "{more:?}");
        }
        let loaded = loaded(&[endpoint]).expect("accepted");
        assert_eq!(loaded.warnings.is_empty(), BUILT_IN, "{:?}", loaded.warnings);
        let passed_over = warnings(&environment(&[endpoint]), &loaded, false);
        assert!(
            passed_over[0].contains("--features otel") && passed_over[0].contains(endpoint.0),
            "{passed_over:?}"
        );
    }

    #[cfg(feature = "otel")]
    #[test]
    fn the_lobbys_own_keys_are_stronger_and_a_transport_that_it_lacks_is_warned_about() {
        let own = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:4318/v1/traces"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_SERVICE_NAME", "theirs"),
        ];
        let theirs = loaded(&own).expect("accepted");
        assert_eq!(theirs.config.otel.endpoint, "http://b:4318/v1/traces");
        assert_eq!(
            (theirs.config.otel.service_name.as_str(), theirs.config.otel.headers.expose()),
            ("theirs", "x-tenant=a%20b")
        );
        let shown = crate::config::effective(&theirs);
        assert!(shown.contains("environment OTEL_SERVICE_NAME") && !shown.contains("a%20b"), "{shown}");
        assert!(
            theirs.warnings.iter().any(|text| text.contains("4318") && text.contains("grpc")),
            "{:?}",
            theirs.warnings
        );
        let mut all = own.to_vec();
        all.extend([("LOBBY_OTEL__ENDPOINT", "http://c:4318"), ("LOBBY_OTEL__SERVICE_NAME", "ours")]);
        let ours = loaded(&all).expect("accepted");
        assert_eq!(
            (ours.config.otel.endpoint.as_str(), ours.config.otel.service_name.as_str()),
            ("http://c:4318", "ours")
        );
        assert_eq!(ours.warnings, Vec::<String>::new());
    }

    #[test]
    fn addresses_and_headers_are_checked_and_values_stay_hidden() {
        for (text, fits) in [
            ("", true),
            ("http://127.0.0.1:4318", true),
            ("https://collector.example/otlp@", true),
            ("https://u:p@collector.example/otlp", false),
            ("https://u@collector.example/otlp", false),
            ("collector:4318", false),
            ("grpc://collector:4317", false),
            ("http://collector:4318/?a=b", false),
        ] {
            assert_eq!(parse_endpoint(text).is_ok(), fits, "{text}");
        }
        let read = otel_headers("authorization=Basic%20aHVudGVyMg==, X-Tenant = a ,").expect("headers");
        let read: Vec<_> =
            read.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        assert_eq!(read, [("authorization", "Basic aHVudGVyMg=="), ("x-tenant", "a")]);
        for (text, says) in [
            ("hunter2", "number 1 has no `=`"),
            ("a=b,,c=d,hunter2", "number 3 has no `=`"),
            ("a b=hunter2", "the `=` of header number 1"),
            ("Bearer hunter2=", "the `=` of header number 1"),
            ("a=b, Authorization: Bearer hunter2==", "the `=` of header number 2"),
            ("=hunter2", "the `=` of header number 1"),
            ("a=hunter2%0a", "the value of header number 1"),
            ("hunter2=%0a", "the value of header number 1"),
        ] {
            let error = otel_headers(text).expect_err(text);
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
    }

    #[cfg(feature = "otel")]
    #[test]
    fn a_login_in_an_address_is_refused_and_not_repeated() {
        for address in
            ["http://u:hunter2@collector:4318", "u:hunter2@collector:4318", "http://u:hunter2/@collector"]
        {
            let error = loaded(&[("LOBBY_OTEL__ENDPOINT", address)]).expect_err(address).to_string();
            assert!(error.contains("@collector") && !error.contains("hunter2"), "{error}");
        }
        let error = loaded(&[("LOBBY_OTEL__ENDPOINT", "http://u:hunter2@collector:4318")]);
        assert!(error.expect_err("a login").to_string().contains("`otel.headers`"));
    }

    #[test]
    fn variables_of_opentelemetry_that_are_empty_are_not_there() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let none = loaded(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        let none = none.expect("accepted");
        assert_eq!((none.config.otel.endpoint.as_str(), none.warnings.len()), ("", 0), "{:?}", none.warnings);
        let all = [endpoint, (TRACES_ENDPOINT, ""), ("OTEL_TRACES_EXPORTER", "")];
        assert!(variables_count(&environment(&all), true));
        let all = loaded(&[&all[..], &[("OTEL_EXPORTER_OTLP_PROTOCOL", "")]].concat()).expect("accepted");
        if BUILT_IN {
            assert_eq!((all.config.otel.endpoint.as_str(), all.warnings.len()), (endpoint.1, 0));
        } else {
            assert!(all.warnings[0].contains("OTEL_EXPORTER_OTLP_ENDPOINT is passed over"));
        }
    }

    #[cfg(feature = "otel")]
    #[test]
    fn a_bad_value_in_a_variable_that_is_set_for_everybody_is_passed_over_with_a_warning() {
        let good = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        for (name, value, endpoint) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", ""),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hunter2@collector", ""),
            (TRACES_ENDPOINT, "collector:4317", good.1),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer hunter2==", good.1),
        ] {
            let loaded = loaded(&[good, (name, value)]).expect("accepted");
            assert_eq!(loaded.config.otel.endpoint, endpoint, "{name}");
            let warning = loaded.warnings.join("\n");
            assert!(warning.starts_with(&format!("{name} is passed over: ")), "{warning}");
            assert!(!warning.contains("hunter2"), "{warning}");
        }
    }

    #[cfg(feature = "otel")]
    #[test]
    fn opentelemetrys_address_for_traces_is_used_as_it_is_where_it_counts() {
        let whole = |variables: &[(&str, &str)]| loaded(variables).expect("ok").config.otel.endpoint_is_whole;
        let (traces, own) = ((TRACES_ENDPOINT, "http://a:4318"), ("LOBBY_OTEL__ENDPOINT", "http://b:4318"));
        assert!(whole(&[traces]) && whole(&[traces, ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]));
        assert!(!whole(&[own, traces]) && !whole(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]));
    }
}
