//! Why a TLS handshake failed, in the operator's terms.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError};

/// What was wrong between two ends that tried to speak TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsProblem {
    /// No authority that is trusted here signed the broker's certificate.
    UnknownIssuer,
    /// The broker's certificate is no longer valid.
    Expired,
    /// The broker's certificate is not valid yet.
    NotYetValid,
    /// The broker's certificate is for other names.
    NameMismatch,
    /// The broker's certificate is unusable for another reason.
    BadCertificate,
    /// The broker wants a client certificate and got none.
    ClientCertificateMissing,
    /// The broker does not accept the client certificate.
    ClientCertificateRefused,
    /// What answers on that port does not speak TLS.
    NotTls,
    /// Any other failure of the protocol.
    Protocol,
}

impl TlsProblem {
    /// What is wrong, if `error` comes from TLS; with a text for people.
    ///
    /// `identified` says whether a client certificate was offered: brokers answer a missing one and a bad one with
    /// the same alert.
    pub(crate) fn of(error: &io::Error, identified: bool) -> Option<(Self, String)> {
        let mut source: &(dyn Error + 'static) = error.get_ref()?;
        loop {
            if let Some(error) = source.downcast_ref::<rustls::Error>() {
                return Some((Self::of_rustls(error, identified), error.to_string()));
            }
            source = match source.downcast_ref::<io::Error>() {
                Some(error) => error.get_ref()?,
                None => source.source()?,
            };
        }
    }

    fn of_rustls(error: &rustls::Error, identified: bool) -> Self {
        match error {
            rustls::Error::InvalidCertificate(problem) => Self::of_certificate(problem),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired => Self::ClientCertificateMissing,
                AlertDescription::HandshakeFailure
                | AlertDescription::BadCertificate
                | AlertDescription::NoCertificate
                    if !identified =>
                {
                    Self::ClientCertificateMissing
                }
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied => Self::ClientCertificateRefused,
                _ => Self::Protocol,
            },
            _ => Self::Protocol,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::NameMismatch
            }
            _ => Self::BadCertificate,
        }
    }

    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::UnknownIssuer => {
                "the broker's certificate is not trusted: set LOBBY_BROKER__TLS_CA_FILE to the PEM file of the authority that signed it, or add that to the system's certificates (SSL_CERT_FILE)"
            }
            Self::Expired => "renew the broker's certificate, and look at this machine's clock",
            Self::NotYetValid => "look at this machine's clock: the broker's certificate is for a later time",
            Self::NameMismatch => {
                "use a host name that the broker's certificate holds, or set LOBBY_BROKER__TLS_SERVER_NAME to one of its names"
            }
            Self::BadCertificate => {
                "give the broker a certificate for a server, version 3, signed by an authority"
            }
            Self::ClientCertificateMissing => {
                "the broker asks for a client certificate: set LOBBY_BROKER__TLS_CERT_FILE and LOBBY_BROKER__TLS_KEY_FILE"
            }
            Self::ClientCertificateRefused => {
                "the client certificate must be valid now and signed by an authority that the broker trusts (its `ssl_options.cacertfile`)"
            }
            Self::NotTls => {
                "what answers there does not speak TLS: use the broker's TLS port (5671 as a rule), or switch TLS off (`amqp://`)"
            }
            Self::Protocol => "broker and client must share a version of TLS (1.2 or 1.3) and a cipher suite",
        }
    }

    /// Whether waiting alone will not help.
    pub(crate) fn is_permanent(self) -> bool {
        // A port that is taken over by something else during a restart looks like this for a moment.
        !matches!(self, Self::NotTls | Self::Protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n01_each_cause_has_its_name() {
        use rustls::Error as E;
        let alert = E::AlertReceived;
        let bad = E::InvalidCertificate;
        for (error, identified, expected) in [
            (bad(CertificateError::UnknownIssuer), false, TlsProblem::UnknownIssuer),
            (bad(CertificateError::Expired), false, TlsProblem::Expired),
            (bad(CertificateError::NotValidYet), false, TlsProblem::NotYetValid),
            (bad(CertificateError::NotValidForName), false, TlsProblem::NameMismatch),
            (bad(CertificateError::Revoked), false, TlsProblem::BadCertificate),
            (alert(AlertDescription::CertificateRequired), false, TlsProblem::ClientCertificateMissing),
            (alert(AlertDescription::HandshakeFailure), false, TlsProblem::ClientCertificateMissing),
            (alert(AlertDescription::HandshakeFailure), true, TlsProblem::Protocol),
            (alert(AlertDescription::BadCertificate), true, TlsProblem::ClientCertificateRefused),
            (alert(AlertDescription::UnknownCA), true, TlsProblem::ClientCertificateRefused),
            (alert(AlertDescription::ProtocolVersion), false, TlsProblem::Protocol),
            (E::InvalidMessage(rustls::InvalidMessage::InvalidContentType), false, TlsProblem::NotTls),
        ] {
            // As it comes from the handshake, and as lapin and the streams in between wrap it again.
            let once = io::Error::new(io::ErrorKind::InvalidData, error.clone());
            assert_eq!(TlsProblem::of(&once, identified).unwrap().0, expected, "{error}");
            let twice = io::Error::other(once);
            assert_eq!(TlsProblem::of(&twice, identified).unwrap().0, expected, "{error}, wrapped");
        }
        assert_eq!(TlsProblem::of(&io::ErrorKind::ConnectionRefused.into(), false), None);
        assert_eq!(TlsProblem::of(&io::Error::other("reset"), false), None);
    }
}
