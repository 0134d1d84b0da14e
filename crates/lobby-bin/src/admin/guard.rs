//! Who may look at the console, and who may act through it.
//!
//! Pure: headers in, a verdict out. The console has no cookie, so that another site's page has nothing to ride on;
//! what is left is a page that reaches this address through the reader's own browser, by a name that it made point
//! here (DNS rebinding) or by a request that it sends blindly.

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Look,
    Act,
}

/// The answer to a request that is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    pub status: StatusCode,
    pub why: &'static str,
}

const fn forbidden(why: &'static str) -> Denied {
    Denied { status: StatusCode::FORBIDDEN, why }
}

const UNNAMED: Denied = forbidden(
    "without `admin.token` the console answers to IP addresses and localhost only: use one of these, or set a token",
);
const ELSEWHERE: Denied = forbidden("this request comes from another site's page");
const READ_ONLY: Denied =
    forbidden("the console only shows: set `admin.token` (LOBBY_ADMIN__TOKEN) to act through it");
const NO_TOKEN: Denied =
    Denied { status: StatusCode::UNAUTHORIZED, why: "send `Authorization: Bearer` with `admin.token`" };

/// Lets a request in or says why not. `token` is `admin.token`.
///
/// # Errors
/// The first reason against it.
pub fn judge(want: Want, headers: &HeaderMap, token: &Secret) -> Result<(), Denied> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if !token.is_set() && !is_address(host) {
        return Err(UNNAMED);
    }
    let site = text(HeaderName::from_static("sec-fetch-site"));
    let foreign = site.is_some_and(|site| site != "same-origin" && site != "none");
    let origin = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or("", |(_, host)| host));
    if foreign || origin.is_some_and(|origin| !origin.eq_ignore_ascii_case(host)) {
        return Err(ELSEWHERE);
    }
    if token.is_set() {
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let known = bearer.is_some_and(|said| said.as_bytes().ct_eq(token.expose().as_bytes()).into());
        return if known { Ok(()) } else { Err(NO_TOKEN) };
    }
    if want == Want::Act { Err(READ_ONLY) } else { Ok(()) }
}

/// Whether a Host header is an IP address or localhost, which no name of somebody else's can be.
fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(want: Want, headers: &[(&'static str, &str)], token: &str) -> Option<u16> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value")));
        judge(want, &headers.collect(), &Secret::new(token)).err().map(|denied| denied.status.as_u16())
    }

    #[test]
    fn without_a_token_anybody_at_the_address_may_look_and_nobody_may_act() {
        for host in ["127.0.0.1:8011", "localhost:8011", "[::1]:8011", "10.0.0.1", "[::1]", "LOCALHOST"] {
            assert_eq!(verdict(Want::Look, &[("host", host)], ""), None, "{host}");
            assert_eq!(verdict(Want::Act, &[("host", host)], ""), Some(403), "{host}");
        }
        for host in
            ["evil.example:8011", "evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:8011"]
        {
            assert_eq!(
                verdict(Want::Look, &[("host", host)], ""),
                Some(403),
                "{host}: a name that was made to point here"
            );
        }
    }

    #[test]
    fn with_a_token_both_need_it() {
        for want in [Want::Look, Want::Act] {
            for (authorization, status) in [
                ("Bearer s3cret", None),
                ("Bearer s3cre", Some(401)),
                ("Bearer s3cret2", Some(401)),
                ("bearer", Some(401)),
                ("Basic s3cret", Some(401)),
            ] {
                let headers = [("host", "lobby.example"), ("authorization", authorization)];
                assert_eq!(verdict(want, &headers, "s3cret"), status, "{want:?} {authorization}");
            }
            assert_eq!(verdict(want, &[("host", "127.0.0.1")], "s3cret"), Some(401));
        }
    }

    #[test]
    fn another_sites_page_is_refused_even_with_the_token() {
        let base = [("host", "127.0.0.1:8011"), ("authorization", "Bearer t")];
        for (name, value, status) in [
            ("sec-fetch-site", "same-origin", None),
            ("sec-fetch-site", "none", None),
            ("sec-fetch-site", "cross-site", Some(403)),
            ("sec-fetch-site", "same-site", Some(403)),
            ("origin", "http://127.0.0.1:8011", None),
            ("origin", "http://127.0.0.1:9000", Some(403)),
            ("origin", "null", Some(403)),
        ] {
            let headers = [base[0], base[1], (name, value)];
            for want in [Want::Look, Want::Act] {
                assert_eq!(verdict(want, &headers, "t"), status, "{name}: {value}");
            }
        }
    }
}
