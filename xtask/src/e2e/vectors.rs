//! Every case of the contract's vectors, from a real publisher to real clients.
//!
//! For each: publish exactly those bytes, then a sentinel broadcast; what each client received before the sentinel is
//! what the case did. Cases that need a redelivered message get one for real: the lobby's link is cut, another
//! consumer takes the message without acknowledging it and leaves, the link is given back.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::addressing::heard_nothing;
use super::notifier::Notifier;
use super::proxy::Proxy;
use super::stage::Stage;
use crate::amqp_wire::{Connection, Outcome, decode_body};
use crate::client::{Client, Transport, without_insignificant_space};
use crate::lobby::{Lobby, Metrics};

const VECTORS: &str = include_str!("../../../crates/notify-protocol/testdata/vectors.jsonl");
pub(super) const COUNT: usize = 277;
/// Somebody no case is for.
const BYSTANDER: i64 = 7;
/// The outcomes the lobby counts, in the words of its metrics.
const OUTCOMES: [&str; 5] = ["unicast", "broadcast", "channel_reserved", "not_connected", "dropped"];

#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) routing_key: String,
    pub(super) headers: Value,
    #[serde(default)]
    pub(super) props: Value,
    body: String,
    body_enc: String,
    #[serde(default)]
    needs: Option<String>,
    pub(super) expect: Expectation,
}

#[derive(Debug, Deserialize)]
pub(super) struct Expectation {
    pub(super) outcome: String,
    #[serde(default)]
    pub(super) target: Option<i64>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    line: Option<String>,
    #[serde(default)]
    line_enc: Option<String>,
    #[serde(default)]
    strength: Option<String>,
    #[serde(default)]
    also_ok: Vec<Alternative>,
}

#[derive(Debug, Deserialize)]
struct Alternative {
    outcome: String,
}

/// Per client, what stood before the sentinel, without insignificant white space.
type Received = Vec<(i64, Transport, Vec<Vec<u8>>)>;

struct Cast {
    lobby: Lobby,
    proxy: Proxy,
    players: Vec<(i64, Client)>,
    strangers: Vec<Client>,
    notifier: Notifier,
    before: Metrics,
}

impl Case {
    pub(super) fn body(&self) -> anyhow::Result<Vec<u8>> {
        decode_body(&self.body, &self.body_enc)
    }
}

/// All vectors.
pub(super) fn cases() -> anyhow::Result<Vec<Case>> {
    let cases = VECTORS
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Case>, _>>()
        .context("read vectors")?;
    ensure!(cases.len() == COUNT, "{} vectors instead of {COUNT}", cases.len());
    Ok(cases)
}

/// All cases do what the contract says, and the lobby counts each of them once.
pub(crate) async fn vectors(stage: &Stage) -> anyhow::Result<()> {
    let cases = cases()?;
    let mut cast = gather(stage, &cases).await?;
    let mut wrong = Vec::new();
    let mut alternatives = 0u64;
    for case in &cases {
        let played = play(stage, &mut cast, case).await.with_context(|| format!("vector {}", case.id))?;
        match judge(case, &played) {
            Ok(outcome) => alternatives += u64::from(outcome != case.expect.outcome),
            Err(error) => wrong.push(format!("{}: {error:#}", case.id)),
        }
    }
    for stranger in &mut cast.strangers {
        heard_nothing(stranger).await?;
    }
    stage.fact(format!("{COUNT} vectors, {alternatives} through an outcome the vectors also allow"));
    ensure!(wrong.is_empty(), "{} of {COUNT} vectors failed:\n  {}", wrong.len(), wrong.join("\n  "));
    stage.leaves_nothing(cast.lobby).await
}

async fn gather(stage: &Stage, cases: &[Case]) -> anyhow::Result<Cast> {
    let (proxy, setup) = stage.proxied(true).await?;
    // The connections that never log in must stay to the end, on the slowest machine too.
    let setup =
        setup.set("LOBBY_SESSIONS__LOGIN_TIMEOUT", "10m").set("LOBBY_SESSIONS__DUPLICATE_LOGIN", "allow");
    let lobby = stage.start(&setup).await?;
    let mut users: Vec<i64> = cases.iter().filter_map(|case| case.expect.target).chain([BYSTANDER]).collect();
    users.sort_unstable();
    users.dedup();
    let mut players = Vec::new();
    let mut strangers = Vec::new();
    for transport in Transport::BOTH {
        for &user in &users {
            players.push((user, stage.client(&lobby, transport, user).await?));
        }
        strangers.push(stage.stranger(&lobby, transport).await?);
    }
    let before = lobby.metrics().await?;
    Ok(Cast { lobby, proxy, players, strangers, notifier: stage.notifier().await?, before })
}

struct Played {
    published: Outcome,
    received: Received,
    /// Deliveries counted since the case before, by outcome; the sentinels are taken off.
    counted: BTreeMap<&'static str, u64>,
    /// Dropped deliveries counted since, by the case's own reason.
    with_reason: u64,
}

async fn play(stage: &Stage, cast: &mut Cast, case: &Case) -> anyhow::Result<Played> {
    let body = case.body()?;
    let props = own_login(stage, &case.props);
    let redelivered = case.needs.as_deref() == Some("redelivered");
    if redelivered {
        cast.proxy.cut();
        stage.queue_with_consumers(&stage.queue(), 0).await?;
        // The sentinel before may have been on its way to an ack: it would come again.
        Connection::open(stage.url()).await?.purge(&stage.queue()).await?;
    }
    let published = cast.notifier.publish_to(&case.routing_key, &case.headers, &props, &body).await?;
    let seen_redelivered = cast.lobby.metrics().await?.count("lobby_redelivered_total", &[]);
    if redelivered {
        take_and_put_back(stage, &body).await?;
        cast.proxy.open();
        stage.queue_with_consumers(&stage.queue(), 1).await?;
    }
    let sentinel = cast.notifier.sentinel().await?;
    let mut received = Received::new();
    for (user, client) in &mut cast.players {
        let lines = client.expect_until(&sentinel).await?;
        let lines = lines.iter().map(|line| without_insignificant_space(line.bytes())).collect();
        received.push((*user, client.transport(), lines));
    }
    // Counting and handing over are two steps: the last client may read the sentinel a moment before it is counted.
    let due = total(&cast.before) + 1 + u64::from(published == Outcome::Confirmed);
    let now = cast.lobby.metrics_until("case and sentinel", |metrics| total(metrics) >= due).await?;
    if redelivered {
        let count = now.count("lobby_redelivered_total", &[]);
        ensure!(count == seen_redelivered + 1, "redelivered: counted {count} after {seen_redelivered}");
    }
    let mut counted: BTreeMap<_, _> = OUTCOMES
        .into_iter()
        .map(|outcome| (outcome, now.deliveries(outcome).saturating_sub(cast.before.deliveries(outcome))))
        .filter(|(_, count)| *count > 0)
        .collect();
    if let Some(broadcasts) = counted.get_mut("broadcast") {
        *broadcasts -= 1;
    }
    counted.retain(|_, count| *count > 0);
    let reason = [("outcome", "dropped"), ("reason", case.expect.reason.as_deref().unwrap_or_default())];
    let with_reason = now.count("lobby_deliveries_total", &reason)
        - cast
            .before
            .count("lobby_deliveries_total", &reason)
            .min(now.count("lobby_deliveries_total", &reason));
    cast.before = now;
    Ok(Played { published, received, counted, with_reason })
}

/// Deliveries of any outcome.
fn total(metrics: &Metrics) -> u64 {
    OUTCOMES.into_iter().map(|outcome| metrics.deliveries(outcome)).sum()
}

/// The broker accepts only the publisher's own login as `user_id`; the vectors say `guest`.
fn own_login(stage: &Stage, props: &Value) -> Value {
    let mut props = props.clone();
    if let Some(user) = props.get_mut("user_id") {
        *user = json!(stage.url().user);
    }
    props
}

/// Takes the only message of the queue without acknowledging it, and leaves.
async fn take_and_put_back(stage: &Stage, body: &[u8]) -> anyhow::Result<()> {
    let other = Connection::open(stage.url()).await?;
    let got = other.get(&stage.queue()).await?.context("the message is not in the queue")?;
    ensure!(got.body == body && !got.redelivered, "another message was in the queue");
    other.close().await
}

/// The outcome that happened, if the case allows it.
fn judge<'a>(case: &'a Case, played: &Played) -> anyhow::Result<&'a str> {
    let alternatives = case.expect.also_ok.iter().map(|other| other.outcome.as_str());
    let mut first = None;
    for outcome in std::iter::once(case.expect.outcome.as_str()).chain(alternatives) {
        match fits(case, outcome, played) {
            Ok(()) => return Ok(outcome),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| anyhow::anyhow!("no outcome is allowed")))
}

fn fits(case: &Case, outcome: &str, played: &Played) -> anyhow::Result<()> {
    let routed = if outcome == "unrouted" { Outcome::Returned } else { Outcome::Confirmed };
    ensure!(played.published == routed, "the broker said {:?}, wanted {routed:?}", played.published);
    let everyone = outcome == "broadcast";
    for (user, transport, lines) in &played.received {
        let addressed = everyone || (outcome == "unicast" && case.expect.target == Some(*user));
        let wanted = if addressed { vec![line(case)?] } else { Vec::new() };
        ensure!(
            *lines == wanted,
            "user {user} ({transport}): wanted {}, got {}",
            shown(&wanted),
            shown(lines)
        );
    }
    let reason = case.expect.reason.as_deref();
    let metric = match (outcome, reason) {
        ("unrouted", _) => None,
        ("dropped", Some(reason @ ("not_connected" | "channel_reserved"))) => Some(reason),
        (outcome, _) => Some(outcome),
    };
    let sure = case.expect.strength.as_deref() != Some("info");
    let counted: Vec<_> = played.counted.iter().map(|(outcome, count)| (*outcome, *count)).collect();
    let wanted: Vec<_> = metric.into_iter().map(|metric| (metric, 1)).collect();
    ensure!(!sure || counted == wanted, "counted {counted:?}, wanted {wanted:?}");
    let total: u64 = played.counted.values().sum();
    ensure!(total == u64::from(metric.is_some()), "counted {counted:?}: not once");
    if metric == Some("dropped") && outcome == case.expect.outcome && sure {
        ensure!(played.with_reason == 1, "not counted with reason {reason:?}");
    }
    Ok(())
}

/// The bytes the client must see.
fn line(case: &Case) -> anyhow::Result<Vec<u8>> {
    let (Some(text), Some(encoding)) = (&case.expect.line, &case.expect.line_enc) else {
        bail!("the vector has no `line`")
    };
    Ok(without_insignificant_space(&decode_body(text, encoding)?))
}

fn shown(lines: &[Vec<u8>]) -> String {
    let shown = lines.iter().map(|line| {
        let start = line.get(..120).unwrap_or(line);
        format!("`{}` ({} bytes)", start.escape_ascii(), line.len())
    });
    let all: Vec<_> = shown.collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(id: &str) -> Case {
        let found = VECTORS.lines().map(|line| serde_json::from_str::<Case>(line).unwrap());
        found.into_iter().find(|case| case.id == id).unwrap()
    }

    fn played(case: &Case, users: &[i64], counted: &'static str) -> Played {
        let lines = |user: i64| if users.contains(&user) { vec![line(case).unwrap()] } else { Vec::new() };
        Played {
            published: Outcome::Confirmed,
            received: [1, 42, 7].into_iter().map(|user| (user, Transport::Tcp, lines(user))).collect(),
            counted: BTreeMap::from([(counted, 1)]),
            with_reason: u64::from(counted == "dropped"),
        }
    }

    #[test]
    fn the_judge_sees_what_a_broken_lobby_would_do() {
        let unicast = case("uid-S-42");
        assert_eq!(judge(&unicast, &played(&unicast, &[42], "unicast")).unwrap(), "unicast");
        assert!(judge(&unicast, &played(&unicast, &[], "unicast")).is_err());
        assert!(judge(&unicast, &played(&unicast, &[42, 7], "unicast")).is_err());
        assert!(judge(&unicast, &played(&unicast, &[42], "broadcast")).is_err());
        let dropped = case("body-lead0");
        assert!(judge(&dropped, &played(&dropped, &[], "dropped")).is_ok());
        assert!(judge(&dropped, &Played { with_reason: 0, ..played(&dropped, &[], "dropped") }).is_err());
        let returned = case("rk-00");
        assert!(judge(&returned, &played(&returned, &[], "dropped")).is_err());
        let nothing =
            Played { published: Outcome::Returned, counted: BTreeMap::new(), ..played(&returned, &[], "x") };
        assert!(judge(&returned, &nothing).is_ok());
        let poison = case("poison-name-badutf8");
        assert_eq!(judge(&poison, &played(&poison, &[], "dropped")).unwrap(), "dropped");
        assert_eq!(judge(&poison, &played(&poison, &[42], "unicast")).unwrap(), "unicast");
    }
}
