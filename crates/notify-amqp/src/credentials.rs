//! Who logs in, and where the password comes from.
//!
//! A password in a file or from a command is read again at each attempt to connect: a token that was renewed is
//! used without a restart. Nothing read here is ever printed: not by `Debug`, and not in an error.

use std::{fmt, path::PathBuf, process::Stdio, time::Duration};

use crate::{broker::BrokerConfig, error::ConsumerError};
use lapin::{
    auth::AuthProvider,
    types::{LongString, ShortString},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

/// A token of any provider fits; a file named by mistake is not read whole.
const MAX_BYTES: usize = 65_536;

/// How the client proves who it is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Login {
    /// User and password of the [`BrokerUrl`](crate::BrokerUrl) (SASL PLAIN).
    #[default]
    Url,
    /// User and password from elsewhere (SASL PLAIN). An OAuth token is a password to RabbitMQ.
    Password {
        /// The user; `None` means the URL's.
        user: Option<CredentialSource>,
        /// The password.
        password: CredentialSource,
    },
    /// The client certificate (SASL EXTERNAL). The broker needs its plugin `rabbitmq_auth_mechanism_ssl`.
    External,
}

/// Where a user's name or a password comes from. `Debug` shows no value.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialSource {
    /// The text itself.
    Value(String),
    /// A file's content, without white space around it; at most 64 KiB of UTF-8.
    File(PathBuf),
    /// What a program prints, without white space around it, within 10 s; at most 64 KiB of UTF-8. Program and
    /// arguments: no shell is involved. The program's own complaints go where this process's go.
    Command(Vec<String>),
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for CredentialSource {
    /// Names the file or the program; arguments may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("***"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Command(words) => {
                write!(f, "command `{}`", words.first().map_or("", String::as_str))
            }
        }
    }
}

/// A name or password could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} from {from} {problem}")]
#[non_exhaustive]
pub struct CredentialError {
    /// `user` or `password`.
    pub what: &'static str,
    /// The file or the program.
    pub from: String,
    /// What happened.
    pub problem: CredentialProblem,
}

impl CredentialError {
    /// Whether waiting alone will not help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self.problem {
            CredentialProblem::Unreadable { .. }
            | CredentialProblem::NotStarted { .. }
            | CredentialProblem::Empty
            | CredentialProblem::TooLong
            | CredentialProblem::NotText => true,
            // What the command asks may be away for a moment.
            CredentialProblem::Failed { .. } | CredentialProblem::TimedOut { .. } => false,
        }
    }

    pub(crate) fn hint(&self) -> String {
        match self.problem {
            CredentialProblem::Unreadable { .. } | CredentialProblem::NotStarted { .. } => {
                format!("correct the path, or let this process's user reach the {}", self.from)
            }
            CredentialProblem::Empty | CredentialProblem::TooLong | CredentialProblem::NotText => {
                format!("the {} must give the {} and nothing else, as UTF-8", self.from, self.what)
            }
            CredentialProblem::Failed { .. } | CredentialProblem::TimedOut { .. } => {
                format!("run the {} by hand as this process's user", self.from)
            }
        }
    }
}

/// Why a name or password could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialProblem {
    /// The file is not there or may not be read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// The operating system's words.
        reason: String,
    },
    /// There is no such program, or it may not be run.
    #[error("cannot be started: {reason}")]
    NotStarted {
        /// The operating system's words.
        reason: String,
    },
    /// The program says that it failed.
    #[error("failed ({status})")]
    Failed {
        /// Its exit status.
        status: String,
    },
    /// No end within the limit.
    #[error("did not come within {after:?}")]
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// Nothing but white space.
    #[error("is empty")]
    Empty,
    /// More than 64 KiB.
    #[error("is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// No UTF-8, or a zero byte.
    #[error("is no text in UTF-8")]
    NotText,
}

impl CredentialSource {
    /// Reads it now, within `limit`. Cancelling the future kills the command.
    pub(crate) async fn read(&self, what: &'static str, limit: Duration) -> Result<String, CredentialError> {
        let reading = async {
            match self {
                Self::Value(text) => Ok(text.clone()),
                Self::File(path) => {
                    let unreadable =
                        |error: std::io::Error| CredentialProblem::Unreadable { reason: error.to_string() };
                    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
                    clean(limited(file).await.map_err(unreadable)?)
                }
                Self::Command(words) => run(words).await,
            }
        };
        let read = timeout(limit, reading).await;
        read.unwrap_or(Err(CredentialProblem::TimedOut { after: limit })).map_err(|problem| CredentialError {
            what,
            from: self.to_string(),
            problem,
        })
    }
}

async fn run(words: &[String]) -> Result<String, CredentialProblem> {
    let not_started = |reason: String| CredentialProblem::NotStarted { reason };
    let (program, arguments) = words.split_first().ok_or_else(|| not_started("no program named".into()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| not_started(error.to_string()))?;
    let failed = |status: String| CredentialProblem::Failed { status };
    let output = child.stdout.take().ok_or_else(|| failed("no output".into()))?;
    let bytes = limited(output).await.map_err(|error| failed(error.to_string()))?;
    if bytes.len() > MAX_BYTES {
        return Err(CredentialProblem::TooLong);
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    clean(bytes)
}

/// One byte more than is allowed at most.
async fn limited(from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn clean(bytes: Vec<u8>) -> Result<String, CredentialProblem> {
    if bytes.len() > MAX_BYTES {
        return Err(CredentialProblem::TooLong);
    }
    // SASL PLAIN separates its parts by zero bytes.
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    match text.ok_or(CredentialProblem::NotText)?.trim() {
        "" => Err(CredentialProblem::Empty),
        text => Ok(text.into()),
    }
}

/// What one attempt logs in with.
#[derive(Clone)]
pub(crate) enum Credentials {
    Plain { user: String, password: String },
    External,
}

impl Credentials {
    /// Reads user and password from wherever they are configured to be; files and commands get the time that a
    /// connection gets.
    pub(crate) async fn read(config: &BrokerConfig) -> Result<Self, ConsumerError> {
        let read = async |source: &CredentialSource, what| {
            source.read(what, config.connect_timeout).await.map_err(ConsumerError::Credentials)
        };
        let of_url = || config.url.user().to_owned();
        Ok(match &config.login {
            Login::External => Self::External,
            Login::Url => Self::Plain { user: of_url(), password: config.url.password().into() },
            Login::Password { user, password } => {
                let user = match user {
                    Some(user) => read(user, "user").await?,
                    None => of_url(),
                };
                Self::Plain { user, password: read(password, "password").await? }
            }
        })
    }

    /// Who it is, for messages.
    pub(crate) fn user(&self) -> &str {
        match self {
            Self::Plain { user, .. } => user,
            Self::External => "of the client certificate",
        }
    }
}

impl AuthProvider for Credentials {
    fn mechanism(&self) -> ShortString {
        match self {
            Self::Plain { .. } => "PLAIN".into(),
            Self::External => "EXTERNAL".into(),
        }
    }

    fn auth_starter(&self) -> Result<LongString, String> {
        Ok(match self {
            Self::Plain { user, password } => format!("\0{user}\0{password}").into(),
            Self::External => LongString::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn command(words: &[&str]) -> CredentialSource {
        CredentialSource::Command(words.iter().map(|word| (*word).to_owned()).collect())
    }

    async fn problem(source: CredentialSource, limit: Duration) -> CredentialProblem {
        let error = source.read("password", limit).await.unwrap_err();
        assert!(!format!("{error}{error:?}{}{source:?}", error.hint()).contains("hunter2"), "{error}");
        error.problem
    }

    #[tokio::test]
    async fn n17_a_file_is_read_anew_each_time_and_trimmed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = CredentialSource::File(file.path().into());
        for token in ["first", "second"] {
            std::fs::write(file.path(), format!(" {token}\r\n")).unwrap();
            assert_eq!(source.read("password", LIMIT).await.unwrap(), token);
        }
    }

    #[tokio::test]
    async fn n17_a_command_is_run_without_a_shell_and_trimmed() {
        let source = command(&["printf", "%s\n", "$HOME; a  b"]);
        assert_eq!(source.read("password", LIMIT).await.unwrap(), "$HOME; a  b");
    }

    #[tokio::test]
    async fn n29_what_cannot_be_a_password_is_told_apart_and_never_shown() {
        use CredentialProblem as P;
        let file = tempfile::NamedTempFile::new().unwrap();
        let at = || CredentialSource::File(file.path().into());
        assert_eq!(problem(at(), LIMIT).await, P::Empty);
        std::fs::write(file.path(), b"hunter2\xff").unwrap();
        assert_eq!(problem(at(), LIMIT).await, P::NotText);
        std::fs::write(file.path(), b"hunter2\0x").unwrap();
        assert_eq!(problem(at(), LIMIT).await, P::NotText);
        std::fs::write(file.path(), "hunter2".repeat(MAX_BYTES)).unwrap();
        assert_eq!(problem(at(), LIMIT).await, P::TooLong);
        let absent = CredentialSource::File("/nowhere/token".into());
        assert!(matches!(problem(absent, LIMIT).await, P::Unreadable { .. }));

        let failing = command(&["sh", "-c", "echo hunter2; exit 3"]);
        assert!(
            matches!(problem(failing, LIMIT).await, P::Failed { status } if status.contains('3')),
            "its output is not used"
        );
        assert_eq!(problem(command(&["true", "hunter2"]), LIMIT).await, P::Empty);
        assert_eq!(problem(command(&["yes", "hunter2"]), LIMIT).await, P::TooLong);
        assert!(matches!(problem(command(&["/nowhere/vault"]), LIMIT).await, P::NotStarted { .. }));
        let short = Duration::from_millis(50);
        assert_eq!(problem(command(&["sleep", "60"]), short).await, P::TimedOut { after: short });
    }

    #[test]
    fn n29_values_do_not_show() {
        let login = Login::Password { user: None, password: CredentialSource::Value("hunter2".into()) };
        assert!(!format!("{login:?}").contains("hunter2"));
    }

    #[test]
    fn only_what_a_command_says_may_change_by_itself() {
        let error = |problem| CredentialError { what: "password", from: String::new(), problem };
        assert!(!error(CredentialProblem::Failed { status: String::new() }).is_permanent());
        assert!(!error(CredentialProblem::TimedOut { after: LIMIT }).is_permanent());
        assert!(error(CredentialProblem::Empty).is_permanent());
    }

    #[test]
    fn f16_plain_carries_user_and_password_and_external_neither() {
        let plain = Credentials::Plain { user: "u".into(), password: "p".into() };
        assert_eq!(plain.mechanism().as_str(), "PLAIN");
        assert_eq!(plain.auth_starter().unwrap().as_bytes(), b"\0u\0p");
        assert_eq!(Credentials::External.mechanism().as_str(), "EXTERNAL");
        assert_eq!(Credentials::External.auth_starter().unwrap().as_bytes(), b"");
    }
}
