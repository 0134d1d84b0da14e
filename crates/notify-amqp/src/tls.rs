//! What TLS to the broker needs: whom to trust, who we are, what name to expect.
//!
//! Files are read at each attempt to connect, so that renewed certificates are used without a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_rustls::TlsConnector;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject},
};

/// How TLS is done, where the [`BrokerUrl`](crate::BrokerUrl) asks for it. Versions 1.2 and 1.3.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TlsOptions {
    /// PEM file of the authorities to trust. They replace the system's: a broker of one's own is not to be
    /// impersonated by whoever gets a certificate from some public authority. `None` means the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate, and those between it and the authority.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the certificate's private key, not encrypted.
    pub key_file: Option<PathBuf>,
    /// The name to ask for (SNI) and to find in the certificate, instead of the host's own.
    pub server_name: Option<String>,
    /// Whether the broker's certificate is verified (default true). Without it anybody in between can read the
    /// password and every message; a warning says so at each start.
    pub verify: bool,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { ca_file: None, cert_file: None, key_file: None, server_name: None, verify: true }
    }
}

/// The files or names for TLS cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsSetupError {
    /// A file is not there, may not be read, or does not hold what it should.
    #[error("{what} {}: {problem}", path.display())]
    File {
        /// `CA file`, `client certificate` or `client key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Only one of certificate and key is set.
    #[error("a client certificate needs its key, and a key its certificate: only one of them is set")]
    HalfAnIdentity,
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("client certificate {} with key {}: {problem}", cert.display(), key.display())]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system has no authorities to trust.
    #[error("the system's certificate authorities cannot be read: {problem}")]
    SystemRoots {
        /// What is wrong.
        problem: String,
    },
    /// The host, or the name set instead, cannot stand in a certificate.
    #[error("{name:?} cannot be the name in a certificate")]
    ServerName {
        /// The name.
        name: String,
    },
}

impl TlsSetupError {
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::File { what: what @ "client key", .. } => {
                format!("the {what} must be a PEM file with one unencrypted private key, readable by this process's user")
            }
            Self::File { what, .. } => {
                format!("the {what} must be a PEM file with at least one certificate, readable by this process's user")
            }
            Self::HalfAnIdentity => "set LOBBY_BROKER__TLS_CERT_FILE and LOBBY_BROKER__TLS_KEY_FILE, or neither".into(),
            Self::Identity { .. } => "use the private key that the certificate was made for".into(),
            Self::SystemRoots { .. } => {
                "install the package ca-certificates, or set LOBBY_BROKER__TLS_CA_FILE to the broker's authority".into()
            }
            Self::ServerName { .. } => {
                "set LOBBY_BROKER__TLS_SERVER_NAME to a name that the broker's certificate holds".into()
            }
        }
    }
}

impl TlsOptions {
    /// Reads the files and makes what connections are made with.
    pub(crate) fn connector(&self) -> Result<TlsConnector, TlsSetupError> {
        Ok(Arc::new(self.client_config()?).into())
    }

    /// Reads the files, for another client of the same broker, such as one of its management API.
    ///
    /// # Errors
    /// [`TlsSetupError`]: a file cannot be used.
    pub fn client_config(&self) -> Result<ClientConfig, TlsSetupError> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsSetupError::SystemRoots { problem: error.to_string() })?;
        let config = if self.verify {
            config.with_root_certificates(self.roots()?)
        } else {
            config.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        };
        let config = match (&self.cert_file, &self.key_file) {
            (None, None) => config.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let certs = certificates("client certificate", cert)?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| file_error("client key", key, &error))?;
                config.with_client_auth_cert(certs, private).map_err(|error| TlsSetupError::Identity {
                    cert: cert.clone(),
                    key: key.clone(),
                    problem: error.to_string(),
                })?
            }
            (Some(_), None) | (None, Some(_)) => return Err(TlsSetupError::HalfAnIdentity),
        };
        Ok(config)
    }

    /// The name to ask `host` for.
    pub(crate) fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsSetupError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_| TlsSetupError::ServerName { name: name.into() })
    }

    fn roots(&self) -> Result<RootCertStore, TlsSetupError> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.ca_file else {
            let system = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(system.certs);
            if added == 0 {
                let errors: Vec<_> = system.errors.iter().map(ToString::to_string).collect();
                let problem = if errors.is_empty() { "there are none".to_owned() } else { errors.join("; ") };
                return Err(TlsSetupError::SystemRoots { problem });
            }
            return Ok(roots);
        };
        for certificate in certificates("CA file", path)? {
            roots.add(certificate).map_err(|error| TlsSetupError::File {
                what: "CA file",
                path: path.clone(),
                problem: error.to_string(),
            })?;
        }
        Ok(roots)
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(file_error(what, path, &pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(error) => Err(file_error(what, path, &error)),
    }
}

/// Nothing of the file's content goes into the text: it may be a key.
fn file_error(what: &'static str, path: &Path, error: &pem::Error) -> TlsSetupError {
    let problem = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound if what == "client key" => "no private key in it".into(),
        pem::Error::NoItemsFound => "no certificate in it".into(),
        _ => "not in PEM format".into(),
    };
    TlsSetupError::File { what, path: path.into(), problem }
}

/// Accepts any certificate; that the peer holds its key is checked all the same.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
