//! Login tokens, good ones and forged ones.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// A token that logs in as `user` for an hour.
pub(crate) fn valid(secret: &str, user: i64) -> anyhow::Result<String> {
    signed(secret, &json!({"alg": "HS256", "typ": "JWT"}), &claims(user)?)
}

/// The claims of [`valid`], for a forger to change.
pub(crate) fn claims(user: i64) -> anyhow::Result<Value> {
    Ok(json!({
        "sub": user.to_string(),
        "scp": ["lobby"],
        "exp": now()? + 3600,
        "ext": {"username": format!("player-{user}")},
    }))
}

/// Any header and claims with an HMAC-SHA256 signature under `secret`.
pub(crate) fn signed(secret: &str, header: &Value, claims: &Value) -> anyhow::Result<String> {
    signed_by(secret.as_bytes(), header, claims)
}

/// The same under a secret that is no text.
pub(crate) fn signed_by(secret: &[u8], header: &Value, claims: &Value) -> anyhow::Result<String> {
    let content = content(header, claims);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).context("a secret of any length")?;
    mac.update(content.as_bytes());
    Ok(format!("{content}.{}", BASE64URL.encode(mac.finalize().into_bytes())))
}

/// Header and claims with nothing behind the last dot.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.", content(header, claims))
}

/// Seconds since 1970.
pub(crate) fn now() -> anyhow::Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("a clock after 1970")?.as_secs())
}

fn content(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_the_one_every_jwt_library_makes() {
        // Made with `printf '%s' CONTENT | openssl dgst -sha256 -hmac secret -binary | basenc --base64url`.
        let token = signed("secret", &json!({"alg": "HS256"}), &json!({"sub": "1"})).unwrap();
        assert_eq!(token, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.M11_c_Mkz5wKz70TPIkcPwzBTd5M-3ZW69WFmxuEnHk");
    }
}
