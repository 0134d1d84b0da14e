//! Verifies a token: its key, its signature, its times, its claims.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use lobby_sessions::{Authenticator, Identity, Refused, Verdict};
use serde_json::{Map, Value};

use super::{claims, jwks::Jwks};
use crate::config::Config;

/// Verifies tokens against the configured secret (HS256) and key set (RS256, ES256, EdDSA).
///
/// The key fixes the algorithm: a token that names a key of the set must be signed as that key signs, and the
/// secret verifies nothing but HS256. Keys and URLs inside a token are never looked at.
pub struct Verifier {
    secret: Option<DecodingKey>,
    jwks: Option<Arc<Jwks>>,
    scope: String,
    issuer: String,
    audience: String,
    leeway: Duration,
}

impl Verifier {
    /// A verifier for `config`; `jwks` is the key set, when one is configured.
    pub fn new(config: &Config, jwks: Option<Arc<Jwks>>) -> Self {
        let secret = config.secret.is_set().then(|| config.secret.expose().as_bytes());
        Self {
            secret: secret.map(DecodingKey::from_secret),
            jwks,
            scope: config.scope.clone(),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway: config.leeway,
        }
    }

    /// The identity that the token proves.
    ///
    /// # Errors
    /// Why it is not accepted; for the log, not for the client.
    pub async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        let header = decode_header(token).map_err(|e| Refused(e.to_string()))?;
        if names_critical_extensions(&header) {
            return Err(Refused("the header has `crit`".to_owned()));
        }
        match (&self.jwks, &header.kid) {
            (Some(jwks), Some(kid)) => match jwks.key(kid).await {
                Some(key) => self.check(token, &key.key, key.algorithm),
                None => Err(Refused("no key of the set has the token's `kid`".to_owned())),
            },
            _ => match &self.secret {
                Some(secret) => self.check(token, secret, Algorithm::HS256),
                None => Err(Refused("the token names no `kid`".to_owned())),
            },
        }
    }

    fn check(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Identity, Refused> {
        let mut rules = Validation::new(algorithm);
        rules.leeway = self.leeway.as_secs();
        rules.validate_nbf = true;
        rules.validate_aud = !self.audience.is_empty();
        let mut required = vec!["exp"];
        if !self.audience.is_empty() {
            rules.set_audience(&[&self.audience]);
            required.push("aud");
        }
        if !self.issuer.is_empty() {
            rules.set_issuer(&[&self.issuer]);
            required.push("iss");
        }
        rules.set_required_spec_claims(&required);
        let token = decode::<Map<String, Value>>(token, key, &rules).map_err(|e| Refused(e.to_string()))?;
        let mut identity = claims::identity(&token.claims, &self.scope).map_err(Refused)?;
        // A session must not end while the same token would still be let in.
        identity.expires_at = identity.expires_at.map(|at| at.saturating_add(rules.leeway));
        Ok(identity)
    }
}

/// RFC 7515, 4.1.11: extensions that a verifier does not understand must make it refuse; we understand none.
fn names_critical_extensions(header: &Header) -> bool {
    serde_json::to_value(header).is_ok_and(|header| header.get("crit").is_some())
}

impl Authenticator for Verifier {
    fn authenticate<'a>(&'a self, token: &'a str) -> Verdict<'a> {
        Box::pin(self.verify(token))
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, encode};
    use notify_protocol::UserId;
    use serde_json::json;

    use super::*;
    use crate::{
        config::{Sources, load},
        login::mint,
    };

    const SECRET: &str = "a secret for tests";

    fn config(more: &[(&str, &str)]) -> Config {
        let mut environment: std::collections::BTreeMap<_, _> =
            more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        environment.insert("LOBBY_AUTH__SECRET".to_owned(), SECRET.to_owned());
        load(&Sources { environment, ..Sources::default() }).expect("accepted").config
    }

    fn now() -> u64 {
        jsonwebtoken::get_current_timestamp()
    }

    fn claims() -> Value {
        json!({"sub": "42", "scp": ["lobby"], "exp": now() + 60})
    }

    fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("signed")
    }

    async fn verify(config: &Config, token: &str) -> Result<i64, String> {
        let who = Verifier::new(config, None).verify(token).await;
        who.map(|who| who.user.get()).map_err(|refused| refused.0)
    }

    #[tokio::test]
    async fn a_minted_token_is_accepted_by_the_same_configuration() {
        for more in [vec![], vec![("LOBBY_AUTH__ISSUER", "us"), ("LOBBY_AUTH__AUDIENCE", "players")]] {
            let config = config(&more);
            let token = mint(&config, UserId::new(42), Some("Zep"), Duration::from_secs(60)).expect("minted");
            let who = Verifier::new(&config, None).verify(&token).await.expect("accepted");
            assert_eq!((who.user.get(), who.login.as_str()), (42, "Zep"));
        }
    }

    #[tokio::test]
    async fn tokens_that_must_not_be_accepted_are_not() {
        let config = config(&[]);
        let with = |key: &str, value: Value| {
            let mut claims = claims();
            claims[key] = value;
            signed(Algorithm::HS256, SECRET, &claims)
        };
        let mut no_exp = claims();
        no_exp.as_object_mut().expect("an object").remove("exp");
        for (what, token) in [
            ("empty", String::new()),
            ("not a token", "a.b.c".to_owned()),
            ("another secret", signed(Algorithm::HS256, "other", &claims())),
            ("another algorithm", signed(Algorithm::HS512, SECRET, &claims())),
            ("expired", with("exp", json!(now() - 31))),
            ("not yet valid", with("nbf", json!(now() + 60))),
            ("no exp", signed(Algorithm::HS256, SECRET, &no_exp)),
            ("exp is a text", with("exp", json!("soon"))),
            ("no scope", with("scp", json!([]))),
            ("sub is a text", with("sub", json!("me"))),
        ] {
            assert!(verify(&config, &token).await.is_err(), "{what}");
        }
        assert_eq!(verify(&config, &with("exp", json!(now() - 10))).await, Ok(42), "within the leeway");
        assert_eq!(verify(&config, &with("aud", json!("anyone"))).await, Ok(42), "no audience is asked for");
    }

    #[tokio::test]
    async fn a_token_without_signature_is_refused_whatever_its_algorithm_claims() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let payload = URL_SAFE_NO_PAD.encode(claims().to_string());
        for header in
            [json!({"alg": "none"}), json!({"alg": "HS256"}), json!({"alg": "HS256", "crit": ["x"]})]
        {
            let token = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header.to_string()));
            assert!(verify(&config(&[]), &token).await.is_err(), "{header}");
        }
    }

    #[tokio::test]
    async fn a_critical_extension_is_refused_however_well_it_is_signed() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        for (header, accepted) in [
            (json!({"alg": "HS256"}), true),
            (json!({"alg": "HS256", "crit": ["x"], "x": 1}), false),
            (json!({"alg": "HS256", "crit": []}), false),
        ] {
            let content =
                [header.to_string(), claims().to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            let signature = jsonwebtoken::crypto::sign(content.as_bytes(), &key, Algorithm::HS256);
            let token = format!("{content}.{}", signature.expect("signed"));
            assert_eq!(verify(&config(&[]), &token).await.is_ok(), accepted, "{header}");
        }
    }

    #[tokio::test]
    async fn every_flipped_bit_of_the_signature_is_noticed() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let config = config(&[]);
        let token = signed(Algorithm::HS256, SECRET, &claims());
        let (signed_part, signature) = token.rsplit_once('.').expect("three parts");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        for bit in 0..signature.len() * 8 {
            let mut flipped = signature.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let token = format!("{signed_part}.{}", URL_SAFE_NO_PAD.encode(flipped));
            assert!(verify(&config, &token).await.is_err(), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn issuer_and_audience_are_checked_when_configured() {
        let config = config(&[("LOBBY_AUTH__ISSUER", "us"), ("LOBBY_AUTH__AUDIENCE", "players")]);
        assert!(verify(&config, &signed(Algorithm::HS256, SECRET, &claims())).await.is_err());
        let mut claims = claims();
        claims["iss"] = json!("us");
        claims["aud"] = json!(["others", "players"]);
        assert_eq!(verify(&config, &signed(Algorithm::HS256, SECRET, &claims)).await, Ok(42));
    }
}
