//! The key set that production tokens are verified with: read at start, every `jwks_refresh`, and once more,
//! rate-limited, when a token names an unknown key. Keys in hand keep working while the source is down.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::config::without_login;

/// A key set larger than this is not taken.
const MAX_BYTES: usize = 1 << 20;
/// How long the source may take, from the connection to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 2;
/// However many unknown keys are named, the source is asked no more often.
const MIN_INTERVAL: Duration = Duration::from_secs(30);

/// A public key and the one algorithm it verifies.
pub struct Key {
    pub key: DecodingKey,
    pub algorithm: Algorithm,
}

type Keys = HashMap<String, Arc<Key>>;

/// The present key set and where it comes from.
pub struct Jwks {
    source: Source,
    keys: ArcSwap<Keys>,
    /// When the source was last asked on behalf of a token; the lock makes it one request at a time.
    asked: Mutex<Option<Instant>>,
}

enum Source {
    File(PathBuf),
    Url { url: reqwest::Url, client: reqwest::Client },
}

impl Jwks {
    /// Opens the set at `location`, an http(s) URL or a file.
    ///
    /// # Errors
    /// When a file cannot be read or holds no usable key: that will not mend itself. A URL that does not answer
    /// is only logged, and asked again.
    pub async fn open(location: &str) -> anyhow::Result<Self> {
        let is_url = location.starts_with("http://") || location.starts_with("https://");
        let source = if is_url {
            let client = reqwest::Client::builder()
                .timeout(FETCH_TIMEOUT)
                .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
                .build()?;
            Source::Url { url: location.parse().context("`auth.jwks` is not a URL")?, client }
        } else {
            Source::File(location.into())
        };
        let jwks = Self { source, keys: ArcSwap::default(), asked: Mutex::new(None) };
        let shown = without_login(location);
        match (jwks.refresh().await, &jwks.source) {
            (Err(error), Source::File(path)) => {
                return Err(error.context(format!("`auth.jwks` = {}", path.display())));
            }
            (Err(error), Source::Url { .. }) => {
                warn!(
                    location = shown,
                    error = format!("{error:#}"),
                    "key set not available yet; logins fail until it is"
                );
            }
            (Ok(count), _) => info!(location = shown, keys = count, "key set read"),
        }
        Ok(jwks)
    }

    /// The key named `kid`; asks the source once more if it is unknown and the last time was long enough ago.
    pub async fn key(&self, kid: &str) -> Option<Arc<Key>> {
        if let Some(key) = self.keys.load().get(kid) {
            return Some(Arc::clone(key));
        }
        let mut asked = self.asked.lock().await;
        // Another login may have brought it while this one waited for the lock.
        if let Some(key) = self.keys.load().get(kid) {
            return Some(Arc::clone(key));
        }
        if asked.is_some_and(|at| at.elapsed() < MIN_INTERVAL) {
            return None;
        }
        *asked = Some(Instant::now());
        self.refresh_and_log().await;
        self.keys.load().get(kid).map(Arc::clone)
    }

    /// Reads the set again every `period`, for ever.
    pub async fn keep_fresh(self: Arc<Self>, period: Duration) {
        loop {
            tokio::time::sleep(period).await;
            self.refresh_and_log().await;
        }
    }

    /// Reads the set again because somebody asks for it. A URL that does not answer is only logged: the old keys stay.
    ///
    /// # Errors
    /// A file that cannot be read or holds no usable key; the old keys stay then, too.
    pub async fn reload(&self) -> anyhow::Result<()> {
        match &self.source {
            Source::Url { .. } => self.refresh_and_log().await,
            Source::File(path) => {
                self.refresh().await.with_context(|| format!("`auth.jwks` = {}", path.display()))?;
            }
        }
        info!(keys = self.keys.load().len(), "key set read again");
        Ok(())
    }

    async fn refresh_and_log(&self) {
        if let Err(error) = self.refresh().await {
            warn!(
                error = format!("{error:#}"),
                keys = self.keys.load().len(),
                "key set not refreshed; the old keys stay"
            );
        }
    }

    async fn refresh(&self) -> anyhow::Result<usize> {
        let bytes = match &self.source {
            Source::File(path) => tokio::fs::read(path).await?,
            Source::Url { url, client } => fetch(client, url).await?,
        };
        ensure!(bytes.len() <= MAX_BYTES, "the key set has {} bytes, limit {MAX_BYTES}", bytes.len());
        let keys = read_keys(&bytes)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }
}

async fn fetch(client: &reqwest::Client, url: &reqwest::Url) -> anyhow::Result<Vec<u8>> {
    // The URL may hold a login, and the error goes to the log.
    let bare = reqwest::Error::without_url;
    let mut response =
        client.get(url.clone()).send().await.and_then(|r| r.error_for_status()).map_err(bare)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(bare)? {
        ensure!(bytes.len() + chunk.len() <= MAX_BYTES, "the key set is larger than {MAX_BYTES} bytes");
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The usable keys of a set. Keys without a name, for encryption, or of other kinds are passed over.
fn read_keys(bytes: &[u8]) -> anyhow::Result<Keys> {
    let document: serde_json::Value = serde_json::from_slice(bytes).context("the key set is not JSON")?;
    let Some(entries) = document.get("keys").and_then(|keys| keys.as_array()) else {
        bail!("the key set has no list `keys`");
    };
    // One by one: a key of a kind that we do not know must not cost the others.
    let known = entries.iter().filter_map(|k| serde_json::from_value::<Jwk>(k.clone()).ok());
    let keys: Keys = known.filter_map(|jwk| usable(&jwk)).collect();
    ensure!(!keys.is_empty(), "the key set has no key that can verify RS256, ES256 or EdDSA and has a `kid`");
    Ok(keys)
}

fn usable(jwk: &Jwk) -> Option<(String, Arc<Key>)> {
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(_) => Algorithm::EdDSA,
        // A symmetric key in a public set would let anyone who reads the set sign.
        _ => return None,
    };
    if jwk.common.key_algorithm.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some((jwk.common.key_id.clone()?, Arc::new(Key { key, algorithm })))
}

#[cfg(test)]
mod tests;
