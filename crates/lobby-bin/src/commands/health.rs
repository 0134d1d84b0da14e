//! `lobby health`: whether a running lobby is ready, or lives, as an exit code for who starts and watches it.

use anyhow::anyhow;
use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::admin::{AdminAddress, AdminArgs, Unanswered, refusal};
use crate::{Failure, config::Config, print};

/// What to ask.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Only whether it lives, ready or not: what a restart could cure.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    admin: AdminArgs,
    /// As one JSON object, also when the answer is no.
    #[arg(long)]
    json: bool,
}

/// Prints the lobby's answer.
///
/// # Errors
/// [`Failure::UNAVAILABLE`]: it is not ready, with its reason, or nobody answers.
pub fn health(config: &Config, args: &HealthArgs) -> Result<(), Failure> {
    let admin = AdminAddress::of(config, &args.admin)?;
    super::run(async {
        let (asked, path) = if args.live { ("live", "/live") } else { ("ready", "/ready") };
        let answer = admin.answer(Method::GET, path).await;
        if args.json {
            print(&format!("{}\n", said(asked, &answer)))?;
        }
        match answer {
            Ok((status, _)) if status.is_success() && args.json => Ok(()),
            Ok((status, text)) if status.is_success() => print(&format!("{}\n", text.trim_end())),
            Ok((status, text)) => {
                let error = anyhow!("the lobby at {admin} is not well: {:#}", refusal(status, &text));
                Err(Failure { code: Failure::UNAVAILABLE, error })
            }
            Err(why) => Err(admin.failure(why)),
        }
    })
}

/// The answer for programs: `/ready` is JSON already, `/live` is a word.
fn said(asked: &str, answer: &Result<(StatusCode, String), Unanswered>) -> Value {
    let (well, reason) = match answer {
        Ok((status, text)) => match serde_json::from_str(text) {
            Ok(object @ Value::Object(_)) => return object,
            _ => (status.is_success(), text.trim().to_owned()),
        },
        Err(Unanswered::Away(error) | Unanswered::Denied(error)) => (false, format!("{error:#}")),
    };
    let mut said = json!({});
    said[asked] = json!(well);
    if !well {
        said["reason"] = json!(reason);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_read_the_same_key_whatever_comes_back() {
        let answered =
            |status: u16, text: &str| Ok((StatusCode::from_u16(status).expect("a status"), text.to_owned()));
        for (asked, answer, says) in [
            ("ready", answered(200, r#"{"ready":true}"#), r#"{"ready":true}"#),
            (
                "ready",
                answered(503, r#"{"ready":false,"reason":"draining"}"#),
                r#"{"ready":false,"reason":"draining"}"#,
            ),
            ("live", answered(200, "live\n"), r#"{"live":true}"#),
            ("live", answered(502, "bad gateway\n"), r#"{"live":false,"reason":"bad gateway"}"#),
            ("ready", Err(Unanswered::Away(anyhow!("refused"))), r#"{"ready":false,"reason":"refused"}"#),
        ] {
            assert_eq!(said(asked, &answer).to_string(), says);
        }
    }
}
