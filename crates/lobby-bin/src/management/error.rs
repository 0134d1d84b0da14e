//! Why the management API did not answer as hoped, and what to do.

/// The text has the address without its login.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    #[error(
        "the management API at {url} cannot be reached: {reason}; is the plugin rabbitmq_management enabled? broker.management_url says where it is"
    )]
    Unreachable { url: String, reason: String },
    #[error("the management API at {url} is not trusted: {reason}; broker.tls_ca_file names its authority")]
    Tls { url: String, reason: String },
    #[error(
        "the management API at {url} refused user {user:?}: {reason}; give broker.management_url a user with the tag management"
    )]
    LoginRefused { url: String, user: String, reason: String },
    #[error(
        "user {user:?} may not {method} {path}: {reason}; give broker.management_url a user with the tag administrator"
    )]
    Forbidden { user: String, method: &'static str, path: String, reason: String },
    #[error("{method} {path}: {status} {reason}")]
    Refused { method: &'static str, path: String, status: u16, reason: String },
    #[error("{method} {path}: {problem}")]
    Unreadable { method: &'static str, path: String, problem: String },
    #[error(
        "broker.auth = \"external\" logs in with a certificate, which the management API does not take: give broker.management_url a user and a password"
    )]
    NoPassword,
    #[error(transparent)]
    TlsSetup(notify_amqp::TlsSetupError),
    #[error(transparent)]
    Credentials(notify_amqp::ConsumerError),
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}
