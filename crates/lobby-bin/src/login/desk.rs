//! Who verifies logins now: exchanged when the configuration is read again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use lobby_sessions::{Authenticator, Verdict};
use tokio::task::AbortHandle;

use super::{Jwks, Verifier};
use crate::config::Config;

/// The verifier in force. A login that is being verified ends as it began.
pub struct LoginDesk {
    verifier: ArcSwap<Verifier>,
    keys: Mutex<Keys>,
}

/// The key set of the verifier, and the task that keeps it fresh.
#[derive(Default)]
struct Keys {
    location: String,
    jwks: Option<Arc<Jwks>>,
    refreshing: Option<AbortHandle>,
}

/// What takes the place of the verifier in force.
pub struct Renewed {
    verifier: Verifier,
    location: String,
    jwks: Option<Arc<Jwks>>,
    period: Duration,
}

impl LoginDesk {
    /// Opens the key set, where one is configured.
    ///
    /// # Errors
    /// As for [`Jwks::open`].
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let renewed = renewed(config, &Keys::default()).await?;
        let verifier = ArcSwap::from_pointee(Verifier::new(config, renewed.jwks.clone()));
        let desk = Self { verifier, keys: Mutex::default() };
        desk.replace(renewed);
        Ok(desk)
    }

    /// Reads the key set again, or the one that `config` names now. Nothing has changed before [`Self::replace`] but the
    /// keys of the same set.
    ///
    /// # Errors
    /// A file that cannot be read or holds no usable key. A URL that does not answer is only logged.
    pub async fn renew(&self, config: &Config) -> anyhow::Result<Renewed> {
        let known = {
            let keys = self.locked();
            Keys { location: keys.location.clone(), jwks: keys.jwks.clone(), refreshing: None }
        };
        renewed(config, &known).await
    }

    /// Verifies with the new one from now on.
    pub fn replace(&self, renewed: Renewed) {
        let Renewed { verifier, location, jwks, period } = renewed;
        self.verifier.store(Arc::new(verifier));
        let refreshing = jwks.clone().map(|jwks| tokio::spawn(jwks.keep_fresh(period)).abort_handle());
        let before = std::mem::replace(&mut *self.locked(), Keys { location, jwks, refreshing });
        if let Some(refreshing) = before.refreshing {
            refreshing.abort();
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn renewed(config: &Config, known: &Keys) -> anyhow::Result<Renewed> {
    let location = config.jwks.clone();
    let jwks = match &known.jwks {
        _ if location.is_empty() => None,
        Some(jwks) if known.location == location => {
            jwks.reload().await?;
            Some(Arc::clone(jwks))
        }
        _ => Some(Arc::new(Jwks::open(&location).await?)),
    };
    Ok(Renewed { verifier: Verifier::new(config, jwks.clone()), location, jwks, period: config.jwks_refresh })
}

impl Authenticator for LoginDesk {
    fn authenticate<'a>(&'a self, token: &'a str) -> Verdict<'a> {
        let verifier = self.verifier.load_full();
        Box::pin(async move { verifier.verify(token).await })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{Sources, load},
        login::mint,
    };

    fn config(flags: &[String]) -> Config {
        load(&Sources { flags: flags.to_vec(), ..Sources::default() }).expect("accepted").config
    }

    async fn accepts(desk: &LoginDesk, config: &Config) -> bool {
        let token =
            mint(config, notify_protocol::UserId::new(42), None, Duration::from_secs(60)).expect("minted");
        desk.authenticate(&token).await.is_ok()
    }

    #[tokio::test]
    async fn after_a_renewal_the_new_secret_counts_and_a_broken_key_set_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = Path::new(directory.path()).join("missing.json").display().to_string();
        let (old, new) = (config(&["auth.secret=old".to_owned()]), config(&["auth.secret=new".to_owned()]));
        let desk = LoginDesk::open(&old).await.expect("opened");
        assert!(accepts(&desk, &old).await && !accepts(&desk, &new).await);
        let broken = config(&["auth.secret=new".to_owned(), format!("auth.jwks={missing}")]);
        let error = desk.renew(&broken).await.err().expect("no such file");
        assert!(format!("{error:#}").contains(&missing), "{error:#}");
        assert!(accepts(&desk, &old).await && !accepts(&desk, &new).await);
        desk.replace(desk.renew(&new).await.expect("renewed"));
        assert!(!accepts(&desk, &old).await && accepts(&desk, &new).await);
    }
}
