//! Tokens that must not log anybody in, and what the lobby may not do because of them.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::key_server::{Answer, KeyServer};
use super::keys::once_per_interval;
use super::signer::{Signer, key_set, with_flipped_bits};
use crate::client::Transport;
use crate::e2e::logins;
use crate::faults::scene::Scene;
use crate::lobby::Lobby;
use crate::stage::SECRET;
use crate::token;

/// Refusals of one connection; the last closes it.
const TRIES: usize = 3;

/// Against a shared secret, then against a key set with two keys. Addresses inside of tokens lead to a trap.
pub(super) async fn tokens(scene: &Scene) -> anyhow::Result<()> {
    scene.plays(logins::bad_tokens(scene)).await?;

    let (es256, ed_dsa) = (Signer::es256("first")?, Signer::ed_dsa("second")?);
    let server = KeyServer::start(Answer::Keys(key_set(&[&es256, &ed_dsa]))).await?;
    let trap = TcpListener::bind("127.0.0.1:0").await.context("a trap")?;
    let lure = format!("http://{}/keys", trap.local_addr()?);
    let setup = scene.setup().set("LOBBY_AUTH__JWKS", server.url());
    let lobby = scene.start(&setup).await?;
    let mut tokens = Vec::new();
    for signer in [&es256, &ed_dsa] {
        tokens.extend(forged(signer, &lure)?);
        let flipped = with_flipped_bits(&signer.token(42)?)?;
        tokens.extend(flipped.into_iter().map(|token| ("a flipped bit".to_owned(), token)));
    }
    rejected(scene, &lobby, &tokens).await?;
    too_long(scene, &lobby, &es256).await?;
    for signer in [&es256, &ed_dsa] {
        for transport in Transport::BOTH {
            let mut client = scene.stranger(&lobby, transport).await?;
            client.login(&signer.token(42)?).await.context("a good token of each key")?;
        }
    }
    let caught = futures_util::FutureExt::now_or_never(trap.accept());
    ensure!(caught.is_none(), "the lobby went to an address that a token named");
    // The first is the start's own; all the names that it does not know are worth one more.
    let asked = server.asked();
    once_per_interval(&asked[1..])?;
    let told = tokens.iter().find(|(_, token)| token.len() > 20 && lobby.log().holds(token));
    ensure!(told.is_none(), "the log holds {told:?}");
    scene.fact(format!(
        "{} tokens refused; the key set was asked for {} times, nobody else",
        tokens.len(),
        asked.len()
    ));
    scene.leaves_nothing(lobby).await
}

/// Each token is refused, on both transports in turn.
async fn rejected(scene: &Scene, lobby: &Lobby, tokens: &[(String, String)]) -> anyhow::Result<()> {
    for (number, some) in tokens.chunks(TRIES).enumerate() {
        let transport = Transport::BOTH[number % 2];
        let mut client = scene.stranger(lobby, transport).await?;
        for (position, (what, token)) in some.iter().enumerate() {
            client.authenticate(token).await?;
            if position + 1 < TRIES {
                client.command("authentication_failed").await.with_context(|| what.clone())?;
            } else {
                client.expect_close(4500).await.with_context(|| what.clone())?;
            }
        }
    }
    Ok(())
}

/// A name of a megabyte does not even arrive.
async fn too_long(scene: &Scene, lobby: &Lobby, signer: &Signer) -> anyhow::Result<()> {
    let header = json!({ "alg": signer.alg(), "kid": "k".repeat(1 << 20) });
    let token = signer.signed(&header, &token::claims(42)?)?;
    for transport in Transport::BOTH {
        let mut client = scene.stranger(lobby, transport).await?;
        // It may be closed before it has sent all.
        let _ = client.authenticate(&token).await;
        match client.until_end().await {
            Ok((lines, _)) => {
                let welcomed = lines.iter().any(|line| line.command().as_deref() == Some("welcome"));
                ensure!(!welcomed, "a name of a megabyte was welcome");
            }
            // What was sent and not read makes the end a reset, maybe inside of the last line.
            Err(error) => ensure!(format!("{error:#}").contains("inside a line"), "{error:#}"),
        }
    }
    Ok(())
}

/// Everything but the signature's bits, for one key of the set.
fn forged(signer: &Signer, lure: &str) -> anyhow::Result<Vec<(String, String)>> {
    let good = token::claims(42)?;
    let usual = json!({ "alg": signer.alg(), "kid": signer.kid() });
    let mut tokens = Vec::new();
    let mut add = |what: String, token: String| tokens.push((format!("{}: {what}", signer.alg()), token));
    let header_with = |key: &str, value: Value| {
        let mut header = usual.clone();
        header[key] = value;
        header
    };

    for alg in ["none", "None", "NONE", "nOnE", ""] {
        add(format!("alg {alg:?}"), token::unsigned(&header_with("alg", json!(alg)), &good));
    }
    for alg in ["HS256", "HS384", "HS512"] {
        for (what, public) in signer.public_spellings() {
            // The MAC is always SHA-256: the header's word is what must not be believed.
            let token = token::signed_by(&public, &header_with("alg", json!(alg)), &good)?;
            add(format!("{alg} with {what} as the secret"), token);
        }
    }
    add(
        "HS256 with the real secret".to_owned(),
        token::signed(SECRET, &header_with("alg", json!("HS256")), &good)?,
    );
    for alg in ["RS256", "PS256", "ES384", "ES512", "EdDSA", "ES256", "es256", "unknown"] {
        if alg != signer.alg() {
            add(format!("alg {alg}"), signer.signed(&header_with("alg", json!(alg)), &good)?);
        }
    }
    let attacker =
        if signer.alg() == "ES256" { Signer::es256("attacker")? } else { Signer::ed_dsa("attacker")? };
    for (key, value) in [
        ("jwk", attacker.jwk()),
        ("jku", json!(lure)),
        ("x5u", json!(lure)),
        ("x5c", json!(["bm90IGEgY2VydGlmaWNhdGU="])),
    ] {
        add(
            format!("another key's signature and {key}"),
            attacker.signed(&header_with(key, value.clone()), &good)?,
        );
        let mut header = header_with(key, value);
        header["kid"] = json!("attacker");
        add(format!("another key's name and {key}"), attacker.signed(&header, &good)?);
    }
    for crit in [json!(["x"]), json!([]), json!("x"), json!(["exp"])] {
        add(format!("crit {crit}"), signer.signed(&header_with("crit", crit), &good)?);
    }
    add("no kid".to_owned(), signer.signed(&json!({ "alg": signer.alg() }), &good)?);
    for kid in [
        json!(""),
        json!(null),
        json!(1),
        json!([signer.kid()]),
        json!("../../../../../dev/null"),
        json!("/etc/passwd"),
        json!(lure),
        json!("first' OR '1'='1"),
        json!("k".repeat(4_096)),
    ] {
        add(format!("kid {kid:.40}"), signer.signed(&header_with("kid", kid), &good)?);
    }
    for (claim, wrong) in wrong_claims()? {
        let mut claims = good.clone();
        claims[claim] = wrong.clone();
        add(format!("{claim} {wrong}"), signer.signed(&usual, &claims)?);
    }
    for claims in [json!([]), json!("42"), json!(null), json!({})] {
        add(format!("claims {claims}"), signer.signed(&usual, &claims)?);
    }
    Ok(tokens)
}

/// Claims in types, and with values, that no login has.
fn wrong_claims() -> anyhow::Result<Vec<(&'static str, Value)>> {
    let now = token::now()?;
    let mut wrong = Vec::new();
    for value in [
        json!(null),
        json!(true),
        json!("soon"),
        json!([now + 60]),
        json!({ "at": now + 60 }),
        json!(-1),
        json!(0),
        json!(now - 120),
    ] {
        wrong.push(("exp", value));
    }
    for value in
        [json!(true), json!("soon"), json!([now]), json!({ "at": now }), json!(now + 120), json!(u64::MAX)]
    {
        wrong.push(("nbf", value));
    }
    for value in [
        json!(null),
        json!(true),
        json!(1),
        json!({ "lobby": true }),
        json!([["lobby"]]),
        json!([1]),
        json!(["Lobby"]),
        json!("lobbyist"),
        json!(["lobby "]),
    ] {
        wrong.push(("scp", value));
    }
    for value in [
        json!(null),
        json!(true),
        json!(4.2),
        json!(1e300),
        json!(u64::MAX),
        json!("42x"),
        json!(" 42"),
        json!("+42"),
        json!(""),
        json!("9223372036854775808"),
        json!([42]),
        json!({ "id": 42 }),
    ] {
        wrong.push(("sub", value));
    }
    Ok(wrong)
}
