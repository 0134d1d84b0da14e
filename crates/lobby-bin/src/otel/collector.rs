//! The way to the collector: OTLP over HTTP, as protobuf.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap};

use crate::config::{Config, OtelFields, otel_headers};

/// What collectors listen for, behind the address that people name (OTLP, "HTTP endpoints").
const PATH: &str = "/v1/traces";

/// Characters of a collector's own words that the log shows.
const WORDS: usize = 200;

/// An exporter, and the place where it leaves what was answered last.
pub struct Collector {
    pub exporter: SpanExporter,
    pub heard: Heard,
}

/// What came of the last request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Spans that a collector rejected which took the others.
    pub rejected: u64,
    /// Why it failed or rejected some, in words; empty if it did neither.
    pub trouble: String,
}

/// The place for it: the exporter itself only says that there was a network error, and nothing of what was rejected.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<Answer>>);

impl Heard {
    /// Takes it away.
    pub fn take(&self) -> Answer {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, answer: Answer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

impl Answer {
    fn trouble(trouble: String) -> Self {
        Self { rejected: 0, trouble }
    }

    /// What a collector that takes the request says of single spans (OTLP, "Partial Success"). One that says nothing
    /// readable has taken all.
    fn of_success(body: &[u8]) -> Self {
        let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
        let Some(partial) = answer.partial_success else { return Self::default() };
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
        if rejected == 0 {
            return Self::default();
        }
        let words: String = partial.error_message.chars().take(WORDS).collect();
        Self { rejected, trouble: format!("the collector rejected {rejected} of them: {words}") }
    }
}

impl Collector {
    /// The collector that the configuration names.
    ///
    /// # Errors
    /// No HTTP client can be made; what was configured has been checked.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let heard = Heard::default();
        let otel = &config.otel;
        let url = traces_url(otel);
        let mut client =
            reqwest::Client::builder().timeout(otel.timeout).redirect(reqwest::redirect::Policy::none());
        if is_this_machine(&url) {
            client = client.no_proxy();
        }
        let client = client.build().context("make the HTTP client for `otel.endpoint`")?;
        let mut headers = HeaderMap::new();
        for (name, value) in otel_headers(otel.headers.expose()).map_err(anyhow::Error::msg)? {
            headers.insert(name, value);
        }
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client { inner: client, headers, heard: heard.clone() })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .with_timeout(otel.timeout)
            // It would sleep on the runtime's thread before it tried again. The task that exports pauses after a failure.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .context("`otel.endpoint`")?;
        exporter.set_resource(&resource(config));
        Ok(Self { exporter, heard })
    }
}

/// The URL that spans are posted to.
fn traces_url(otel: &OtelFields) -> String {
    if otel.endpoint_is_whole {
        return otel.endpoint.clone();
    }
    let endpoint = otel.endpoint.trim_end_matches('/');
    if endpoint.ends_with("/traces") { endpoint.to_owned() } else { format!("{endpoint}{PATH}") }
}

/// Whether a collector runs here. HTTP_PROXY and its like, which otherwise count, are not meant for it.
fn is_this_machine(url: &str) -> bool {
    let url = url.parse::<reqwest::Url>().ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Who exports: what OTEL_RESOURCE_ATTRIBUTES says, and which lobby it is.
fn resource(config: &Config) -> Resource {
    Resource::builder()
        .with_service_name(config.otel.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", config.instance_name.as_str().to_owned()))
        .build()
}

/// The lobby's HTTP client, with the configuration's headers and a word about what is not taken.
#[derive(Debug)]
struct Client {
    inner: reqwest::Client,
    headers: HeaderMap,
    heard: Heard,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter has added what the environment says, whatever the configuration made of it.
        let theirs = std::mem::replace(request.headers_mut(), self.headers.clone());
        if let Some(kind) = theirs.get(CONTENT_TYPE) {
            request.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        let answer = self.inner.send_bytes(request).await;
        self.heard.set(match &answer {
            Ok(answer) if answer.status().is_success() => Answer::of_success(answer.body()),
            Ok(answer) => Answer::trouble(format!("the collector answered {}", answer.status())),
            Err(error) => Answer::trouble(chain(error.as_ref())),
        });
        answer
    }
}

/// An error with what caused it. The URL is left to who reads the configuration.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let first = match error.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => "no answer in time",
        Some(error) if error.is_connect() => "no connection",
        _ => "the request failed",
    };
    let mut text = first.to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    #[test]
    fn what_a_collector_rejects_is_told_and_nothing_readable_is_all_taken() {
        let answer = |rejected_spans, words: &str| {
            let partial = ExportTracePartialSuccess { rejected_spans, error_message: words.to_owned() };
            let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
            Answer::of_success(&answer.encode_to_vec())
        };
        for all_taken in [answer(0, ""), answer(0, "a warning"), answer(-1, "?"), Answer::of_success(b"{}")] {
            assert_eq!(all_taken, Answer::default());
        }
        assert_eq!(Answer::of_success(b""), Answer::default());
        let long = "é".repeat(WORDS + 1);
        let rejected = answer(7, &long);
        assert_eq!(rejected.rejected, 7);
        assert_eq!(rejected.trouble, format!("the collector rejected 7 of them: {}", "é".repeat(WORDS)));
    }

    #[test]
    fn an_endpoint_is_what_collectors_call_so_or_the_whole_url() {
        for (endpoint, url) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://host/otlp/", "https://host/otlp/v1/traces"),
            ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
        ] {
            let mut otel = OtelFields { endpoint: endpoint.to_owned(), ..OtelFields::default() };
            assert_eq!(traces_url(&otel), url);
            otel.endpoint_is_whole = true;
            assert_eq!(traces_url(&otel), endpoint);
        }
    }

    #[test]
    fn a_collector_on_this_machine_is_reached_without_a_proxy() {
        for (url, here) in [
            ("http://127.0.0.1:4318/v1/traces", true),
            ("http://127.1.2.3/", true),
            ("http://[::1]:4318/v1/traces", true),
            ("http://LocalHost:4318/v1/traces", true),
            ("http://localhost.example:4318/v1/traces", false),
            ("http://10.0.0.1:4318/v1/traces", false),
            ("https://collector.example/v1/traces", false),
        ] {
            assert_eq!(is_this_machine(url), here, "{url}");
        }
    }
}
