//! How the lobby reaches the broker: hosts, credentials, TLS; and what it does when the broker refuses.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::notifier::unique;
use super::proxy::Proxy;
use super::refusals::{exits, refuses};
use super::stage::Stage;
use crate::PATIENCE;
use crate::amqp_wire::percent_encode;

/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";

/// What the broker or the configuration has to cure ends the start: each cause with an exit code of its own and a
/// hint, and none with the password.
pub(crate) async fn refused_by_broker(stage: &Stage) -> anyhow::Result<()> {
    let password = unique("password");
    let wrong = stage.setup().set("LOBBY_BROKER__PASSWORD", &password);
    let finished = refuses(wrong.clone(), &["refused user", "correct user and password"]).await?;
    ensure!(finished.status.code() == Some(67), "a wrong password: {:?}", finished.status.code());
    ensure!(!finished.stderr.contains(&password), "the password is shown: {}", finished.stderr);
    let nowhere = stage.setup().set("LOBBY_BROKER__VHOST", "nowhere");
    exits(nowhere, 68, &["nowhere", "does not exist", "add_vhost nowhere"]).await?;
    let file = stage.setup().set("LOBBY_BROKER__PASSWORD_FILE", "/nowhere/token");
    exits(file, 78, &["/nowhere/token", "No such file"]).await?;
    let command = stage.setup().set("LOBBY_BROKER__PASSWORD_COMMAND", "/nowhere/vault --token x");
    exits(command, 78, &["/nowhere/vault", "cannot be started"]).await?;
    let tls =
        stage.setup().set("LOBBY_BROKER__TLS", "on").set("LOBBY_BROKER__TLS_CA_FILE", "/nowhere/ca.pem");
    exits(tls, 78, &["/nowhere/ca.pem", "CA file", "PEM"]).await?;
    let Some(management) = stage.management() else { return Ok(()) };
    let user = unique("stranger");
    management.put(&format!("/users/{user}"), &json!({ "password": "pw", "tags": "" })).await?;
    let setup = stage.setup().set("LOBBY_BROKER__USER", &user).set("LOBBY_BROKER__PASSWORD", "pw");
    exits(setup.clone(), 77, &["does not let user", "set_permissions"]).await?;
    let permissions = format!("/permissions/{}/{user}", percent_encode(&stage.url().vhost));
    management.put(&permissions, &json!({ "configure": "", "write": "", "read": ".*" })).await?;
    exits(setup, 77, &["may not exchange.declare"]).await?;
    management.delete(&format!("/users/{user}")).await
}

/// A broker that is not there ends the start after `broker.startup_timeout`, and no sooner.
pub(super) async fn startup_timeout(stage: &Stage) -> anyhow::Result<()> {
    let setup = stage.setup().set("LOBBY_BROKER__HOSTS", DEAD).set("LOBBY_BROKER__STARTUP_TIMEOUT", "1s");
    let mut lobby = stage.start_unready(&setup).await?;
    ensure!(lobby.admin("/live").await?.status == 200, "it does not serve meanwhile");
    let status = lobby.exited(PATIENCE).await?;
    ensure!(status.code() == Some(69), "it exited with {status}");
    ensure!(lobby.log().holds("broker.startup_timeout"), "the reason is not told");
    Ok(())
}

/// What the broker refuses while the lobby runs makes it unready; a renewed token is read at the next attempt.
pub(super) async fn token_renewed(stage: &Stage) -> anyhow::Result<()> {
    let Some(management) = stage.management() else {
        stage.fact("management API out of reach: not tested");
        return Ok(());
    };
    let (user, first, second) = (unique("tokens"), unique("token"), unique("token"));
    let account = format!("/users/{user}");
    management.put(&account, &json!({ "password": first, "tags": "" })).await?;
    let permissions = format!("/permissions/{}/{user}", percent_encode(&stage.url().vhost));
    management.put(&permissions, &json!({ "configure": ".*", "write": ".*", "read": ".*" })).await?;
    let token = stage.directory().join("token");
    std::fs::write(&token, format!("{first}\n")).context("write the token")?;
    let setup = stage
        .setup()
        .set("LOBBY_BROKER__USER", &user)
        .set("LOBBY_BROKER__PASSWORD_FILE", token.to_str().context("a path in UTF-8")?);
    let mut lobby = stage.start(&setup).await?;
    management.put(&account, &json!({ "password": second, "tags": "" })).await?;
    stage.close_lobby_connections().await?;
    lobby.unready_with("refused user").await?;
    std::fs::write(&token, format!("{second}\n")).context("renew the token")?;
    let took = lobby.ready().await?;
    stage.fact(format!("ready {} ms after the token was renewed", took.as_millis()));
    for secret in [first, second] {
        ensure!(!lobby.log().holds(&secret), "the log holds a token");
    }
    lobby.stop().await?;
    management.delete(&account).await
}

/// Of several hosts a dead one is passed over; readiness and metrics say which is in use. When that one is lost too,
/// the lobby is unready and names both.
pub(super) async fn dead_host_first(stage: &Stage) -> anyhow::Result<()> {
    let proxy = Proxy::start(stage.url().address(), true).await?;
    let live = proxy.address().to_string();
    let setup = stage.setup().set("LOBBY_BROKER__HOSTS", format!("{DEAD},{live}"));
    let mut lobby = stage.start(&setup).await?;
    let ready = lobby.admin("/ready").await?.body;
    ensure!(ready.contains(&live), "/ready does not name the host: {ready}");
    let metrics = lobby.metrics().await?;
    ensure!(metrics.count("lobby_broker_host", &[("host", &live)]) == 1, "no host in:\n{metrics}");
    ensure!(
        metrics.count("lobby_broker_failures_total", &[]) == 0,
        "a round that succeeded counts as failed"
    );
    drop(proxy);
    let reason = lobby.unready_with("no host of 2").await?;
    ensure!(reason.contains(DEAD) && reason.contains(&live), "not every host is named: {reason}");
    let metrics = lobby.metrics().await?;
    ensure!(metrics.count("lobby_broker_host", &[("host", &live)]) == 0, "a lost host in:\n{metrics}");
    lobby.stop().await
}

/// Without verification every start says so, and so does `check-config`.
pub(super) async fn unverified_tls_warns(stage: &Stage) -> anyhow::Result<()> {
    const WARNING: &str = "NOT VERIFIED";
    let setup = stage.setup().set("LOBBY_BROKER__HOSTS", DEAD).set("LOBBY_BROKER__TLS", "on");
    let unverified = setup.clone().set("LOBBY_BROKER__TLS_VERIFY", "false");
    for (setup, warned) in [(unverified, true), (setup, false)] {
        let checked = setup.clone().argument("check-config").run_to_exit().await?;
        ensure!(checked.status.success(), "check-config: {}", checked.stderr);
        ensure!(checked.stderr.contains(WARNING) == warned, "check-config says: {}", checked.stderr);
        let mut lobby = stage.start_unready(&setup).await?;
        lobby.unready_with(DEAD).await?;
        ensure!(lobby.log().holds(WARNING) == warned, "the log does not fit to verification");
        lobby.stop().await?;
    }
    Ok(())
}
