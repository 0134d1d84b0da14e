//! The console's page: files in the binary, which ask nothing of any other host.

use axum::{
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response},
};

const INDEX: &str = "lobby\n/         the console, in a browser\n/live     the process serves\n/ready    it consumes from the broker\n\
    /metrics  Prometheus text\n/trace    the last messages that somebody may miss; /trace?user=42: the last for one user\n\
    /drain    how far a drain is; POST, with `admin.token`, begins one\n";

/// Scripts and styles of this address only, no frames around it; a WebSocket to this host for the client's tab.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
    connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn answer(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // A new version of the lobby has a new page.
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    (headers, text).into_response()
}

/// The page for a browser, a list of what is here for a terminal.
pub async fn index(headers: HeaderMap) -> Response {
    if super::wants_html(&headers) {
        answer("text/html; charset=utf-8", include_str!("../../console/index.html"))
    } else {
        INDEX.into_response()
    }
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

pub async fn script() -> Response {
    answer(SCRIPT, include_str!("../../console/console.js"))
}

pub async fn missed() -> Response {
    answer(SCRIPT, include_str!("../../console/missed.js"))
}

pub async fn common() -> Response {
    answer(SCRIPT, include_str!("../../console/common.js"))
}

pub async fn style() -> Response {
    answer("text/css; charset=utf-8", include_str!("../../console/console.css"))
}
