//! Headers of one's own, and a publisher's receipts where it has them.

use anyhow::{Context as _, ensure};
use notify_protocol::{RECEIPT_HEADER, Receipt, ReceiptOutcome};
use serde_json::Value;

use super::language::{Language, Tongue};
use super::program::Program;
use super::{BYSTANDER, INTEGERS, overheard};
use crate::amqp_wire::{Connection, Got, WrittenProperties};
use crate::contract::check_receipt;
use crate::stage::Stage;

/// Somebody who is not connected.
const ABSENT: i64 = 4_711;

/// Headers of one's own arrive beside the address, and what the lobby says of a message comes back to who asked.
pub(super) async fn told(
    stage: &Stage,
    language: &Language,
    program: &mut Program,
    ear: &Connection,
    queue: &str,
) -> anyhow::Result<()> {
    overheard(ear, queue).await.context("the sentinel")?;
    let headers = language.one_of(
        r#"to_user(7, {}, headers={"x-operator": "ops", "x-count": 70_000, "x-flag": True})"#,
        r#"toUser(7, {}, { headers: { "x-operator": "ops", "x-count": 70_000, "x-flag": true } })"#,
        r#"toUser(7, Map.of()).header("x-operator", "ops").header("x-count", 70_000).header("x-flag", true)"#,
    );
    let answer = program.publish(headers).await?;
    ensure!(answer.starts_with("sent "), "{answer}");
    let got = overheard(ear, queue).await?;
    for (name, letters) in
        [("user-id", INTEGERS), ("x-operator", "S"), ("x-count", INTEGERS), ("x-flag", "t")]
    {
        let letter = letter(&got, name).with_context(|| format!("no header {name}: {got:?}"))?;
        ensure!(letters.contains(letter), "{name} is of type {letter}");
    }

    let asking = |user: i64, python: &str, typescript: &str| {
        let message = language.to_user(&user.to_string(), "{}");
        match language.tongue {
            Tongue::Python => format!("asking({message}{python})"),
            Tongue::TypeScript | Tongue::Java => format!("asking({message}, {{{typescript}}})"),
        }
    };
    if language.tongue == Tongue::Java {
        return Ok(()); // it asks for none
    }
    // One user's lobby answers; the default waits for it and no longer.
    let (id, receipts) = ask(program, &asking(BYSTANDER, ", wait=60", "wait: 60")).await?;
    let got = overheard(ear, queue).await?;
    ensure!(letter(&got, RECEIPT_HEADER) == Some('S'), "{got:?}");
    let wanted = [WrittenProperties::REPLY_TO, WrittenProperties::CORRELATION_ID];
    ensure!(wanted.into_iter().all(|property| got.properties.has(property)), "{got:?}");
    let [receipt] = &receipts[..] else { anyhow::bail!("one receipt: {receipts:?}") };
    ensure!(
        receipt.outcome == ReceiptOutcome::Written
            && receipt.instance == stage.instance()
            && receipt.message_id.as_deref() == Some(id.as_str())
            && receipt.sessions_written == 2,
        "{receipt:?}"
    );
    // Of an absent user only those say so who are all asked.
    let options = (", scope=\"all\", answers=1, wait=60", "scope: \"all\", answers: 1, wait: 60");
    let (_, receipts) = ask(program, &asking(ABSENT, options.0, options.1)).await?;
    ensure!(
        matches!(&receipts[..], [receipt] if receipt.outcome == ReceiptOutcome::NotConnected),
        "{receipts:?}"
    );
    let (_, receipts) = ask(program, &asking(ABSENT, ", wait=0.1", "wait: 0.1")).await?;
    ensure!(receipts.is_empty(), "{receipts:?}");
    for _ in 0..2 {
        overheard(ear, queue).await?;
    }
    stage.fact("receipts of one user's lobby and of an absent user's came back".to_owned());
    Ok(())
}

async fn ask(program: &mut Program, expression: &str) -> anyhow::Result<(String, Vec<Receipt>)> {
    let answer = program.publish(expression).await?;
    let said = answer.strip_prefix("sent ").and_then(|said| said.split_once(' '));
    let (id, receipts) = said.with_context(|| format!("{expression}: {answer}"))?;
    let receipts: Vec<Value> = serde_json::from_str(receipts).with_context(|| answer.clone())?;
    let receipt = |receipt: Value| {
        let json = receipt.to_string();
        check_receipt(json.as_bytes())?;
        Ok(Receipt::from_json(json.as_bytes())?)
    };
    Ok((id.to_owned(), receipts.into_iter().map(receipt).collect::<anyhow::Result<_>>()?))
}

fn letter(got: &Got, name: &str) -> Option<char> {
    got.headers.iter().find(|header| header.name == name).map(|header| header.letter)
}
