//! Stands in for the lobby's configuration, of which the login's files read these keys.

use std::time::Duration;

/// The keys of `[auth]` that a verifier reads.
pub(crate) struct Config {
    pub(crate) secret: Secret,
    pub(crate) scope: String,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) leeway: Duration,
}

pub(crate) struct Secret(pub(crate) &'static str);

impl Secret {
    pub(crate) fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    pub(crate) fn expose(&self) -> &str {
        self.0
    }
}

/// For logs; none is written here.
pub(crate) fn without_login(location: &str) -> String {
    location.to_owned()
}
