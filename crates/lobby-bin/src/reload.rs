//! SIGHUP: the configuration is read again, and what can change while the lobby runs does.
//!
//! All or nothing: where anything of it is wrong, everything stays as it was.

use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    app::DrainDesk,
    config::{Change, Config, Loaded, Secret, Sources, changes, drain_times, load},
    doorkeeper::Doorkeeper,
    file_limit,
    listen_tls::{Certificate, ListenTls},
    logging::LogControl,
    login::LoginDesk,
};

/// What can be exchanged, and the configuration in force.
pub struct Reloader {
    pub sources: Sources,
    pub loaded: Loaded,
    pub log: LogControl,
    pub doorkeeper: Arc<Doorkeeper>,
    pub login: Arc<LoginDesk>,
    pub tls: Option<Arc<ListenTls>>,
    pub drain: DrainDesk,
    pub admin_token: Arc<ArcSwap<Secret>>,
}

impl Reloader {
    /// Reloads at each signal until `stop`.
    pub async fn run(mut self, mut hang_up: Signal, stop: CancellationToken) {
        loop {
            tokio::select! {
                _ = hang_up.recv() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.reload().await {
                error!(
                    error = format!("{error:#}"),
                    "the configuration was not reloaded; the old one stays in force"
                );
            }
        }
    }

    async fn reload(&mut self) -> anyhow::Result<()> {
        let mut new = load(&self.sources)?;
        let config = &mut new.config;
        let times = drain_times(config)?;
        let certificate = self.certificate(config)?;
        // The last that can go wrong: it may exchange keys right away.
        let login = if config.has_login() { Some(self.login.renew(config).await?) } else { None };
        file_limit::raise(&mut config.max_connections);

        self.log.set(&config.log_level)?;
        self.doorkeeper.set_limits(config.connection_limits());
        self.drain.set_times(times);
        self.admin_token.store(Arc::new(config.admin_token.clone()));
        if let Some(login) = login {
            self.login.replace(login);
        }
        if let (Some(tls), Some(certificate)) = (&self.tls, certificate) {
            tls.replace(certificate);
            info!("the certificate for clients was read again");
        }
        new.warnings.iter().for_each(|warning| warn!(%warning, "the configuration has a weakness"));
        let changes = changes(&self.loaded, &new);
        changes.iter().for_each(tell);
        info!(changes = changes.len(), "configuration reloaded");
        self.remember(new, &changes);
        Ok(())
    }

    /// The certificate, where clients see one, now and after the next start.
    fn certificate(&self, config: &Config) -> anyhow::Result<Option<Certificate>> {
        if self.tls.is_none() || config.tls_cert_file.is_empty() {
            return Ok(None);
        }
        Certificate::read(Path::new(&config.tls_cert_file), Path::new(&config.tls_key_file)).map(Some)
    }

    /// What takes a restart is told again next time.
    fn remember(&mut self, new: Loaded, changes: &[Change]) {
        let mut values = new.values.clone();
        for change in changes.iter().filter(|change| !change.counts) {
            if let Some(old) = self.loaded.values.get(&change.key) {
                values.insert(change.key.clone(), old.clone());
            }
        }
        self.loaded = Loaded { values, ..new };
    }
}

fn tell(change: &Change) {
    let Change { key, old, new, counts } = change;
    if *counts {
        info!(key, old, new, "setting reloaded");
    } else {
        warn!(key, old, new, "setting changed, but it needs a restart; the old value stays in force");
    }
}
