//! Logins: of all byte strings only the tokens that were signed are let in, and of signed ones only those that say
//! all that they must.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use lobby_sessions::{Authenticator, Identity};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    config::{Config, Secret},
    login::{Jwks, Verifier},
};

const SECRET: &str = "the secret of the fuzz target";
const LEEWAY: Duration = Duration::from_secs(30);
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/keys/jwks.json");
/// Signed once with keys that were thrown away; they expire in 2100.
const SIGNED: &str = include_str!("../keys/tokens.txt");

/// The lobby's verifiers, with and without a key set.
struct Door {
    runtime: Runtime,
    by_keys: Verifier,
    by_secret: Verifier,
}

thread_local! {
    static DOOR: RefCell<Door> = RefCell::new(Door::open());
}

impl Door {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let jwks = runtime.block_on(Jwks::open(KEYS)).expect("the key set");
        let config = |secret| Config {
            secret: Secret(secret),
            scope: "lobby".to_owned(),
            issuer: String::new(),
            audience: String::new(),
            leeway: LEEWAY,
        };
        let by_keys = Verifier::new(&config(""), Some(Arc::new(jwks)));
        Self { runtime, by_keys, by_secret: Verifier::new(&config(SECRET), None) }
    }

    fn lets_in(&self, verifier: &Verifier, token: &str) -> Option<Identity> {
        self.runtime.block_on(verifier.authenticate(token)).ok()
    }
}

/// The first byte says what the rest is: a token; or, with the low bit set, a header and claims of JSON, divided by a
/// zero byte, which are then signed with the right secret.
pub fn run(data: &[u8]) {
    DOOR.with_borrow(|door| match data.split_first() {
        Some((mode, parts)) if mode & 1 == 1 => signed(door, parts),
        Some((_, token)) => unsigned(door, token),
        None => {}
    });
}

fn unsigned(door: &Door, token: &[u8]) {
    let Ok(token) = std::str::from_utf8(token) else { return };
    let content = |token: &str| token.rsplit_once('.').map(|(content, _)| content.to_owned());
    if let Some(who) = door.lets_in(&door.by_keys, token) {
        // An ECDSA signature has two spellings; what it signs has one.
        let known = SIGNED.lines().any(|line| content(line) == content(token));
        assert!(known, "nobody signed {token}");
        assert_eq!(who.user.get(), 42);
    }
    assert_eq!(door.lets_in(&door.by_secret, token), None, "nobody signed {token}");
}

fn signed(door: &Door, parts: &[u8]) {
    let mut parts = parts.splitn(2, |byte| *byte == 0);
    let (header, claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let content = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(content.as_bytes(), &key, Algorithm::HS256).expect("signed");
    let token = format!("{content}.{signature}");
    assert_eq!(door.lets_in(&door.by_keys, &token), None, "the secret is none of the keys");
    let Some(who) = door.lets_in(&door.by_secret, &token) else { return };
    let read = |part: &[u8]| serde_json::from_slice::<Value>(part).expect("what was let in is JSON");
    let (header, claims) = (read(header), read(claims));
    assert_eq!(header["alg"], "HS256");
    assert!(header.get("crit").is_none(), "{header}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    // A second for the clock's granularity, at either end.
    let slack = LEEWAY.as_secs_f64() + 1.0;
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp + slack >= now), "{claims}");
    if let Some(nbf) = claims.get("nbf").and_then(Value::as_f64) {
        assert!(nbf <= now + slack, "{claims}");
    }
    let user = match &claims["sub"] {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    assert_eq!(user, Some(who.user.get()), "{claims}");
    let scopes = |value: &Value| match value {
        Value::String(text) => text.split(' ').map(str::to_owned).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let in_scope = |name: &str| scopes(&claims[name]).iter().any(|scope| scope == "lobby");
    assert!(in_scope("scp") || in_scope("scope"), "{claims}");
    assert!(!who.login.is_empty() && who.login.len() <= 256);
}
