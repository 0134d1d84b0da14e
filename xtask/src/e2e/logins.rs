//! Tokens that log in and tokens that must not.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::addressing::received;
use super::stage::{SECRET, Stage};
use crate::client::Transport;
use crate::token;

/// Every kind of bad token is refused with the same words; the third refusal closes with 4500.
pub(crate) async fn bad_tokens(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut texts = BTreeSet::new();
    for transport in Transport::BOTH {
        for (what, bad) in forged()? {
            let mut client = stage.stranger(&lobby, transport).await?.named(format_args!("bearer of {what}"));
            for _ in 0..2 {
                client.authenticate(&bad).await?;
                texts.insert(refusal(client.command("authentication_failed").await?.json()?)?);
            }
            // Two failures are forgiven, the third is not.
            client.authenticate(&bad).await?;
            let mut closing = client.expect_close(4500).await?;
            if let Some(line) = closing.before.pop() {
                ensure!(line.command().as_deref() == Some("authentication_failed"), "{what}: {line}");
            }
            ensure!(closing.before.is_empty(), "{what}: more than a refusal: {:?}", closing.before);
        }
        let mut client = stage.stranger(&lobby, transport).await?;
        client.authenticate("nonsense").await?;
        client.command("authentication_failed").await?;
        client.login(&token::valid(SECRET, 42)?).await?;
    }
    ensure!(texts.len() == 1, "the refusal tells which check failed: {texts:?}");
    for (what, bad) in forged()? {
        ensure!(bad.len() < 20 || !lobby.log().holds(&bad), "the log holds {what}");
    }
    Ok(())
}

fn refusal(line: Value) -> anyhow::Result<String> {
    Ok(line["text"].as_str().with_context(|| format!("no text in {line}"))?.to_owned())
}

/// Each fails exactly one check.
fn forged() -> anyhow::Result<Vec<(&'static str, String)>> {
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let good = token::claims(42)?;
    let with = |change: &dyn Fn(&mut Value)| -> anyhow::Result<String> {
        let mut claims = good.clone();
        change(&mut claims);
        token::signed(SECRET, &header, &claims)
    };
    let now = token::now()?;
    let genuine = token::valid(SECRET, 42)?;
    let (content, signature) = genuine.rsplit_once('.').context("a token has dots")?;
    Ok(vec![
        ("a wrong signature", token::signed("another secret of at least the same length", &header, &good)?),
        ("no signature", format!("{content}.")),
        ("half a signature", format!("{content}.{}", &signature[..signature.len() / 2])),
        ("alg none", token::unsigned(&json!({"alg": "none"}), &good)),
        ("alg none in capitals", token::unsigned(&json!({"alg": "NONE"}), &good)),
        ("another alg under the right secret", token::signed(SECRET, &json!({"alg": "HS512"}), &good)?),
        ("an RS256 header", token::signed(SECRET, &json!({"alg": "RS256"}), &good)?),
        ("an expired token", with(&|claims| claims["exp"] = json!(now - 120))?),
        ("a token not yet valid", with(&|claims| claims["nbf"] = json!(now + 120))?),
        ("a token without exp", with(&|claims| claims["exp"] = Value::Null)?),
        ("a token without the scope", with(&|claims| claims["scp"] = json!(["other"]))?),
        ("a token with a scope that only starts so", with(&|claims| claims["scp"] = json!(["lobby-admin"]))?),
        ("a token without any scope", with(&|claims| claims["scp"] = Value::Null)?),
        ("a sub that is a name", with(&|claims| claims["sub"] = json!("Zep"))?),
        ("a sub with a fraction", with(&|claims| claims["sub"] = json!(4.2))?),
        ("a sub that is true", with(&|claims| claims["sub"] = json!(true))?),
        ("a token without sub", with(&|claims| claims["sub"] = Value::Null)?),
        ("nonsense", "nonsense".to_owned()),
        ("an empty token", String::new()),
        ("dots", "..".to_owned()),
    ])
}

/// Claims that other issuers send are understood: `sub` as a number, scopes as text, other names of the login.
pub(super) async fn accepted_tokens(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let exp = token::now()? + 600;
    // Expired within the leeway of 30 s still logs in.
    let just = token::now()? - 10;
    let cases = [
        (json!({"sub": 5, "scope": "openid lobby", "exp": exp, "preferred_username": "p"}), 5, "p"),
        (json!({"sub": "5", "scp": "openid lobby", "exp": exp, "username": "u"}), 5, "u"),
        (json!({"sub": "5", "scp": ["x", "lobby"], "exp": just}), 5, "user-5"),
    ];
    for (claims, id, login) in cases {
        let mut client = stage.stranger(&lobby, Transport::Tcp).await?.named(&claims);
        let token = token::signed(SECRET, &json!({"alg": "HS256"}), &claims)?;
        let welcome = client.login(&token).await?.json()?;
        ensure!(welcome["id"] == id && welcome["login"] == login, "wanted {id} and {login}: {welcome}");
    }
    Ok(())
}

/// `lobby token` mints what the lobby accepts.
pub(super) async fn token_command(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let setup = stage.setup().argument("token").argument("--user").argument("42");
    for (setup, login) in [
        (setup.clone(), None),
        (setup.argument("--login").argument("Zep").argument("--ttl").argument("1h"), Some("Zep")),
    ] {
        let minted = setup.run_to_exit().await?;
        ensure!(minted.status.success(), "`lobby token` exited with {}: {}", minted.status, minted.stderr);
        let token = minted.stdout.trim();
        ensure!(!token.contains(char::is_whitespace), "standard output is not just the token: {token}");
        let mut client = stage.stranger(&lobby, Transport::WebSocket).await?;
        let welcome = client.login(token).await?.json()?;
        ensure!(welcome["id"] == 42, "another user: {welcome}");
        ensure!(login.is_none_or(|login| welcome["login"] == login), "another login: {welcome}");
        let mut notifier = stage.notifier().await?;
        notifier.notify_user(42, r#"{"a":1}"#).await?;
        let sentinel = notifier.sentinel().await?;
        received(&mut client, &sentinel, &[r#"{"a":1}"#]).await?;
    }
    Ok(())
}
