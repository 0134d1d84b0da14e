//! One notification for a Python program to publish, and what has to become of it.

/// What has to become of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// That user gets it.
    To(i64),
    /// Everyone who is logged in gets it.
    Everyone,
    /// It reaches the lobby, which drops it for this reason.
    Dropped(&'static str),
    /// The library refuses it with an error whose text begins so.
    Refused(&'static str),
}

impl Expected {
    pub(super) fn is_for(self, user: i64) -> bool {
        self == Self::Everyone || self == Self::To(user)
    }

    /// The outcome that the lobby counts.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::To(_) => "unicast",
            Self::Everyone => "broadcast",
            Self::Dropped(_) => "dropped",
            Self::Refused(_) => "nothing",
        }
    }
}

/// One notification.
#[derive(Debug)]
pub(super) struct Case {
    /// What is special about it.
    pub(super) name: &'static str,
    /// The header as Python's `json` reads it (so `NaN` is a number); `None`: no header at all.
    pub(super) user_id: Option<String>,
    /// The body in the same language.
    pub(super) body: String,
    pub(super) expected: Expected,
    /// The type letter that the library writes for `user-id`.
    pub(super) letter: Option<char>,
}

impl Case {
    /// The line for the program.
    pub(super) fn line(&self) -> String {
        let headers = self.user_id.as_ref().map_or("{}".to_owned(), |id| format!(r#"{{"user-id": {id}}}"#));
        format!("{{\"headers\": {headers}, \"body\": {}}}\n", self.body)
    }
}
