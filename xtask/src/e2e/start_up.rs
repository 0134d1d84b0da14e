//! A lobby that starts: with a login of its own making, with FAF's variables, with everything visible.

use anyhow::{Context as _, ensure};
use notify_protocol::NOTIFY_ROUTING_KEY;
use serde_json::{Value, json};

use super::addressing::received;
use super::notifier::{Notifier, numbered, unique};
use super::stage::{SECRET, Stage};
use crate::amqp_wire::{Connection, percent_encode};
use crate::client::{Client, Transport};
use crate::token;

/// With no login configured the lobby says so, listens on loopback, and logs a token that works.
pub(super) async fn no_login_configured(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.start(&stage.setup().unset("LOBBY_AUTH__SECRET")).await?;
    for transport in Transport::BOTH {
        ensure!(lobby.address(transport)?.ip().is_loopback(), "{transport} does not listen on loopback");
    }
    let token = lobby.log().records().iter().find_map(|record| record.field("token"));
    let token = token.context("no log line with a token")?;
    ensure!(lobby.log().holds("LOBBY_AUTH__SECRET"), "the log does not say what to set");
    let mut client = stage.stranger(&lobby, Transport::Tcp).await?;
    let user = client.login(&token).await?.json()?["id"].as_i64().context("the welcome's id")?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(user, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut client, &sentinel, &[&numbered(1)]).await?;
    // A secret of this run only: what another run would sign is refused.
    let mut forger = stage.stranger(&lobby, Transport::Tcp).await?;
    forger.authenticate(&token::valid(SECRET, 42)?).await?;
    forger.command("authentication_failed").await.map(drop)
}

/// FAF's own `MQ_…` variables are understood.
pub(super) async fn faf_variables(stage: &Stage) -> anyhow::Result<()> {
    let url = stage.url();
    let exchange = unique("exchange");
    let setup = stage
        .setup()
        .unset("LOBBY_BROKER__URL")
        .unset("LOBBY_BROKER__EXCHANGE")
        .set("MQ_EXCHANGE_NAME", &exchange)
        .set("MQ_USER", &url.user)
        .set("MQ_PASSWORD", &url.password)
        .set("MQ_SERVER", &url.host)
        .set("MQ_PORT", url.port.to_string())
        .set("MQ_VHOST", &url.vhost);
    let lobby = stage.start(&setup).await?;
    let mut client = stage.client(&lobby, Transport::WebSocket, 42).await?;
    let mut notifier = Notifier::open(url, &exchange).await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut client, &sentinel, &[&numbered(1)]).await
}

/// The exchange that is there already is used; the queue is bound to one routing key only.
pub(super) async fn existing_exchange(stage: &Stage) -> anyhow::Result<()> {
    let connection = Connection::open(stage.url()).await?;
    connection.declare_exchange(stage.exchange()).await?;
    let lobby = stage.lobby().await?;
    let mut client = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut notifier = stage.notifier().await?;
    for other in ["request.client.kick", "success.client.notify", ""] {
        let outcome = notifier.publish_to(other, &Value::Null, &json!({}), numbered(1).as_bytes()).await?;
        ensure!(
            outcome == crate::amqp_wire::Outcome::Returned,
            "`{other}` was routed, not only {NOTIFY_ROUTING_KEY}"
        );
    }
    let sentinel = notifier.sentinel().await?;
    received(&mut client, &sentinel, &[]).await
}

/// Every promised metric is there, and the admin address answers.
pub(super) async fn metrics(stage: &Stage) -> anyhow::Result<()> {
    const NAMES: [&str; 14] = [
        "lobby_deliveries_total",
        "lobby_sessions",
        "lobby_connections",
        "lobby_handshakes",
        "lobby_connections_refused_total",
        "lobby_messages_written_total",
        "lobby_bytes_written_total",
        "lobby_outbox_overflow_total",
        "lobby_broker_connected",
        "lobby_broker_reconnects_total",
        "lobby_redelivered_total",
        "lobby_delivery_seconds",
        "lobby_logins_total",
        "lobby_closes_total",
    ];
    let lobby = stage.lobby().await?;
    let mut tcp = stage.client(&lobby, Transport::Tcp, 1).await?;
    let mut websocket = stage.client(&lobby, Transport::WebSocket, 2).await?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(1, &numbered(1)).await?;
    notifier.publish(&Value::Null, &json!({}), b"nonsense").await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut tcp, &sentinel, &[&numbered(1)]).await?;
    received(&mut websocket, &sentinel, &[]).await?;
    let measured = |name| move |metrics: &crate::lobby::Metrics| metrics.count(name, &[]) == 2;
    let metrics =
        lobby.metrics_until("two timed deliveries", measured("lobby_delivery_seconds_count")).await?;
    let missing: Vec<_> = NAMES.into_iter().filter(|name| !metrics.has(name)).collect();
    ensure!(missing.is_empty(), "no metrics {missing:?} among {:?}", metrics.names());
    let strange: Vec<_> = metrics.names().into_iter().filter(|name| !name.starts_with("lobby_")).collect();
    ensure!(strange.is_empty(), "metrics without the prefix: {strange:?}");
    for (labels, wanted) in [
        (vec![("outcome", "unicast")], 1),
        (vec![("outcome", "broadcast")], 1),
        (vec![("outcome", "dropped"), ("reason", "non_json")], 1),
    ] {
        let count = metrics.count("lobby_deliveries_total", &labels);
        ensure!(count == wanted, "{labels:?}: {count} instead of {wanted}:\n{metrics}");
    }
    ensure!(metrics.count("lobby_sessions", &[]) == 2, "two sessions:\n{metrics}");
    ensure!(metrics.count("lobby_broker_connected", &[]) == 1, "the broker is connected:\n{metrics}");
    let written = metrics.count("lobby_messages_written_total", &[]);
    ensure!(written >= 3, "{written} messages written, at least 3 were received");
    for path in ["/live", "/ready"] {
        let answer = lobby.admin(path).await?;
        ensure!(answer.status == 200, "{path} said {} {}", answer.status, answer.body);
    }
    Ok(())
}

/// Neither a secret nor a password nor a token appears in the log or in what the commands print.
pub(crate) async fn secrets_stay_secret(stage: &Stage) -> anyhow::Result<()> {
    let password = unique("broker-password");
    let url = stage.url();
    let wrong = format!(
        "amqp://{}:{}@{}/{}",
        percent_encode(&url.user),
        percent_encode(&password),
        url.address(),
        percent_encode(&url.vhost)
    );
    let usual = stage.setup().set("LOBBY_LOG__LEVEL", "debug");
    let setup = usual.clone().set("LOBBY_BROKER__URL", &wrong);
    let refused = setup.run_to_exit().await?;
    ensure!(refused.stderr.contains("refused user"), "no refused login: {}", refused.stderr);
    let mut lobby = stage.start_unready(&usual).await?;
    let token = token::valid(SECRET, 42)?;
    let expired = {
        let mut claims = token::claims(42)?;
        claims["exp"] = json!(1);
        token::signed(SECRET, &json!({"alg": "HS256"}), &claims)?
    };
    for transport in Transport::BOTH {
        let mut client: Client = stage.stranger(&lobby, transport).await?;
        client.authenticate(&expired).await?;
        client.command("authentication_failed").await?;
        client.login(&token).await?;
        client.send(&json!({"command": "unheard", "token": token}).to_string()).await?;
        client.command("invalid").await?;
    }
    lobby.ready().await?;
    lobby.stop().await?;
    let checked = setup.clone().argument("check-config").run_to_exit().await?;
    let typo = setup.clone().set("LOBBY_BROKER__URL", wrong.replace("amqp://", "ampq://"));
    let mistaken = typo.argument("check-config").run_to_exit().await?;
    for (what, secret) in [
        ("broker password", password.as_str()),
        ("login secret", SECRET),
        ("token", &token),
        ("expired token", &expired),
    ] {
        ensure!(!lobby.log().holds(secret), "the log holds the {what}");
        for output in [&refused, &checked, &mistaken] {
            ensure!(!output.stdout.contains(secret), "a command prints the {what}");
            ensure!(!output.stderr.contains(secret), "a command complains with the {what}");
        }
    }
    ensure!(checked.status.success(), "check-config exited with {}: {}", checked.status, checked.stderr);
    Ok(())
}

/// A listener that is switched off is off, and the others serve.
pub(super) async fn listeners_off(stage: &Stage) -> anyhow::Result<()> {
    for (key, left) in
        [("LOBBY_LISTEN__TCP", Transport::WebSocket), ("LOBBY_LISTEN__WEBSOCKET", Transport::Tcp)]
    {
        let mut lobby = stage.start(&stage.setup().set(key, "off")).await?;
        let mut client = stage.client(&lobby, left, 42).await?;
        let sentinel = stage.notifier().await?.sentinel().await?;
        received(&mut client, &sentinel, &[]).await?;
        let up = lobby.log().records();
        let up = up.iter().filter(|record| record.field("message").as_deref() == Some("listening")).count();
        ensure!(up == 2, "{up} listeners are up with {key}=off");
        lobby.stop().await?;
        stage.queue_with_consumers(&stage.queue(), 0).await?;
    }
    Ok(())
}

/// `lobby health` ends with 69 and the reason while the lobby is not ready or not there, and with 0 when it is; with
/// `--live` it is content with a lobby that lives.
pub(super) async fn health_command(stage: &Stage) -> anyhow::Result<()> {
    let (proxy, setup) = stage.proxied(false).await?;
    let mut lobby = stage.start_unready(&setup).await?;
    let admin = lobby.admin_address()?.to_string();
    let ask = |arguments: &[&str]| {
        let command = stage.setup().arguments(["health", "--admin"]).argument(admin.as_str());
        command.arguments(arguments.iter().copied())
    };
    lobby.unready().await?;
    let unready = ask(&[]).run_to_exit().await?;
    ensure!(unready.status.code() == Some(69), "not ready: {} {}", unready.status, unready.stderr);
    ensure!(unready.stderr.contains("503"), "the reason: {}", unready.stderr);
    let unready = ask(&["--json"]).run_to_exit().await?;
    let said: serde_json::Value = serde_json::from_str(&unready.stdout)?;
    ensure!(unready.status.code() == Some(69), "not ready, as JSON: {unready:?}");
    ensure!(said["ready"] == json!(false) && said["reason"].is_string(), "not ready, as JSON: {said}");
    let live = ask(&["--live"]).run_to_exit().await?;
    ensure!(live.status.success() && live.stdout == "live\n", "it lives: {} {}", live.stdout, live.stderr);
    proxy.open();
    lobby.ready().await?;
    let ready = ask(&[]).run_to_exit().await?;
    ensure!(ready.status.success() && ready.stdout.contains("\"ready\":true"), "ready: {ready:?}");
    lobby.stop().await?;
    let gone = ask(&["--live"]).run_to_exit().await?;
    ensure!(gone.status.code() == Some(69), "nobody there: {} {}", gone.status, gone.stderr);
    Ok(())
}
