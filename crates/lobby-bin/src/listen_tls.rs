//! The certificate that clients see, read from files and exchanged while connections go on.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// TLS on the listeners for clients.
pub struct ListenTls {
    cert_file: PathBuf,
    key_file: PathBuf,
    config: ArcSwap<ServerConfig>,
}

impl ListenTls {
    /// Reads both files.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else, or a key that is not the certificate's; it names the
    /// file and the setting.
    pub fn open(cert_file: &Path, key_file: &Path) -> anyhow::Result<Self> {
        let config = ArcSwap::from_pointee(load(cert_file, key_file)?);
        Ok(Self { cert_file: cert_file.to_owned(), key_file: key_file.to_owned(), config })
    }

    /// Reads both files again, for the connections that come from now on.
    ///
    /// # Errors
    /// As [`Self::open`]; what was there goes on being used.
    pub fn reload(&self) -> anyhow::Result<()> {
        self.config.store(Arc::new(load(&self.cert_file, &self.key_file)?));
        Ok(())
    }

    /// For one connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }
}

impl fmt::Debug for ListenTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenTls").field("cert_file", &self.cert_file).finish_non_exhaustive()
    }
}

fn load(cert_file: &Path, key_file: &Path) -> anyhow::Result<ServerConfig> {
    let certificates = || -> Result<Vec<_>, rustls::pki_types::pem::Error> {
        CertificateDer::pem_file_iter(cert_file)?.collect()
    };
    let chain = certificates().with_context(|| {
        format!("`listen.tls_cert_file`: cannot read certificates in PEM from {}", cert_file.display())
    })?;
    if chain.is_empty() {
        bail!("`listen.tls_cert_file`: there is no certificate in {}", cert_file.display());
    }
    let key = PrivateKeyDer::from_pem_file(key_file).with_context(|| {
        format!("`listen.tls_key_file`: cannot read a private key in PEM from {}", key_file.display())
    })?;
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| {
            format!(
                "the key in {} (`listen.tls_key_file`) does not fit the certificate in {}",
                key_file.display(),
                cert_file.display()
            )
        })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A certificate and its key, in files of a directory that goes away with it.
    pub struct Pair {
        pub directory: tempfile::TempDir,
        pub certificate: CertificateDer<'static>,
    }

    impl Pair {
        pub fn make() -> Self {
            let pair = Self {
                directory: tempfile::tempdir().expect("a directory"),
                certificate: CertificateDer::from(Vec::new()),
            };
            Self { certificate: pair.renew(), ..pair }
        }

        /// Writes another certificate into the same files.
        pub fn renew(&self) -> CertificateDer<'static> {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            std::fs::write(self.cert(), made.cert.pem()).expect("written");
            std::fs::write(self.key(), made.signing_key.serialize_pem()).expect("written");
            made.cert.der().clone()
        }

        pub fn cert(&self) -> PathBuf {
            self.directory.path().join("cert.pem")
        }

        pub fn key(&self) -> PathBuf {
            self.directory.path().join("key.pem")
        }
    }

    #[test]
    fn what_is_wrong_with_the_files_is_named() {
        let (pair, other) = (Pair::make(), Pair::make());
        let missing = pair.directory.path().join("missing.pem");
        for (cert, key, says) in [
            (missing.clone(), pair.key(), "listen.tls_cert_file"),
            (pair.cert(), missing, "listen.tls_key_file"),
            (pair.key(), pair.key(), "no certificate in"),
            (pair.cert(), pair.cert(), "listen.tls_key_file"),
            (pair.cert(), other.key(), "does not fit"),
        ] {
            let error = format!("{:#}", ListenTls::open(&cert, &key).expect_err(says));
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_failed_reload_keeps_what_was_there() {
        let pair = Pair::make();
        let tls = ListenTls::open(&pair.cert(), &pair.key()).expect("a pair");
        let before = tls.config.load_full();
        std::fs::write(pair.cert(), "no certificate").expect("written");
        assert!(tls.reload().is_err());
        assert!(Arc::ptr_eq(&before, &tls.config.load_full()));
        pair.renew();
        tls.reload().expect("a new pair");
        assert!(!Arc::ptr_eq(&before, &tls.config.load_full()));
    }
}
