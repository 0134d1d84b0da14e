//! Mints tokens for development.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use notify_protocol::UserId;
use serde_json::json;

use crate::config::Config;

/// A token for `user` that the lobby with the same configuration accepts for `ttl`.
///
/// # Errors
/// When no secret is configured, or the signature could not be made.
pub fn mint(config: &Config, user: UserId, login: Option<&str>, ttl: Duration) -> anyhow::Result<String> {
    anyhow::ensure!(
        config.secret.is_set(),
        "`auth.secret` is not set: set LOBBY_AUTH__SECRET to the secret of the lobby that shall accept the token"
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut claims = json!({
        "sub": user.to_string(),
        "iat": now,
        "exp": now.saturating_add(ttl.as_secs()),
        "scp": [config.scope],
        "ext": {"username": login.map_or_else(|| format!("user-{user}"), str::to_owned)},
    });
    for (claim, value) in [("iss", &config.issuer), ("aud", &config.audience)] {
        if !value.is_empty() {
            claims[claim] = json!(value);
        }
    }
    let key = EncodingKey::from_secret(config.secret.expose().as_bytes());
    Ok(encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}
