//! Validates a line against the schema that other teams get.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use anyhow::{Context as _, anyhow};
use jsonschema::Validator;
use serde_json::{Value, json};

/// A message of the client protocol, by its name in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClientMessage {
    Auth,
    Session,
    Welcome,
    AuthenticationFailed,
    Invalid,
    Closing,
    Notification,
}

static VALIDATORS: LazyLock<Result<BTreeMap<ClientMessage, Validator>, String>> = LazyLock::new(|| {
    let definitions = super::schema::document()["$defs"].take();
    let validator = |message: ClientMessage| {
        let schema = json!({"$ref": format!("#/$defs/{}", message.definition()), "$defs": definitions});
        jsonschema::validator_for(&schema)
            .map(|validator| (message, validator))
            .map_err(|error| error.to_string())
    };
    ClientMessage::ALL.into_iter().map(validator).collect()
});

impl ClientMessage {
    const ALL: [Self; 7] = [
        Self::Auth,
        Self::Session,
        Self::Welcome,
        Self::AuthenticationFailed,
        Self::Invalid,
        Self::Closing,
        Self::Notification,
    ];

    fn definition(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Session => "session",
            Self::Welcome => "welcome",
            Self::AuthenticationFailed => "authenticationFailed",
            Self::Invalid => "invalid",
            Self::Closing => "closing",
            Self::Notification => "notification",
        }
    }

    /// The lobby's own message with this `command`, if the schema knows it.
    pub(crate) fn of_command(command: &str) -> Option<Self> {
        let known = [Self::Session, Self::Welcome, Self::AuthenticationFailed, Self::Invalid, Self::Closing];
        known.into_iter().find(|message| message.definition().eq_ignore_ascii_case(&command.replace('_', "")))
    }

    /// # Errors
    /// The line is not what the schema says of this message.
    pub(crate) fn check(self, line: &[u8]) -> anyhow::Result<()> {
        let validators = VALIDATORS.as_ref().map_err(|error| anyhow!("the schema: {error}"))?;
        let validator = validators.get(&self).context("a message that the schema lacks")?;
        let value: Value = serde_json::from_slice(line).context("a client message")?;
        validator.validate(&value).map_err(|error| {
            anyhow!("`{}` does not fit the schema: {error}; it is {value}", self.definition())
        })
    }
}
