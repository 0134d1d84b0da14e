//! The certificate that clients see, read from files and exchanged while connections go on.

use std::{fmt, path::Path, sync::Arc};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// TLS on the listeners for clients.
pub struct ListenTls(ArcSwap<ServerConfig>);

/// What takes the place of the certificate in force.
pub struct Certificate(ServerConfig);

impl ListenTls {
    /// Reads both files.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else, or a key that is not the certificate's; it names the
    /// file and the setting.
    pub fn open(cert_file: &Path, key_file: &Path) -> anyhow::Result<Self> {
        Ok(Self(ArcSwap::from_pointee(load(cert_file, key_file)?)))
    }

    /// Shows another certificate to those who come from now on.
    pub fn replace(&self, certificate: Certificate) {
        self.0.store(Arc::new(certificate.0));
    }

    /// For one connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

impl fmt::Debug for ListenTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListenTls")
    }
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// As [`ListenTls::open`].
    pub fn read(cert_file: &Path, key_file: &Path) -> anyhow::Result<Self> {
        load(cert_file, key_file).map(Self)
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
    use std::path::PathBuf;

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
}
