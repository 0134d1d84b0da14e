//! Headers that a library's parser may not survive.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use serde_json::{Value, json};

use crate::amqp_wire::{Message, Outcome, Properties, Publisher};
use crate::client::{Line, Transport};
use crate::faults::scene::Scene;
use crate::stage::notifier::numbered;

/// The only one who is there.
const PLAYER: i64 = 42;
/// To whom whatever can be read is addressed.
const ABSENT: i64 = 4711;
/// Messages between two looks at the lobby.
const BATCH: usize = 50;

/// One after the other, each followed by one in order for the player, who gets those and nothing else.
pub(super) async fn passed(scene: &Scene) -> anyhow::Result<()> {
    let lobby = scene.lobby().await?;
    let mut player = scene.client(&lobby, Transport::Tcp, PLAYER).await?;
    let mut notifier = scene.notifier().await?;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kinds = known()?;
    let known = kinds.len();
    while kinds.len() < scene.pick(500, 50_000) {
        kinds.push(Kind {
            what: "random",
            properties: Properties::encode(&hostile(&mut random), &Value::Null)?,
        });
    }
    let mut publisher = Publisher::open(scene.url()).await?;
    let (mut taken, mut refused) = (0, Vec::new());
    for (batch, some) in kinds.chunks(BATCH).enumerate() {
        for kind in some {
            match publisher.publish_one(&kind.message(scene)).await {
                Ok(Outcome::Confirmed) => taken += 1,
                Ok(outcome) => anyhow::bail!("{}: the broker said {outcome:?}", kind.what),
                // What the broker cannot read itself it does not pass on.
                Err(_) => {
                    refused.push(kind.what);
                    publisher = Publisher::open(scene.url()).await?;
                }
            }
        }
        notifier.notify_user(PLAYER, &numbered(batch as u64)).await?;
        let line = player.line().await.with_context(|| format!("after {taken} of them, seed {seed}"))?;
        ensure!(line.seq() == Some(batch as u64), "the player got {line}, seed {seed}");
    }
    let sentinel = notifier.sentinel().await?;
    let lines = player.expect_until(&sentinel).await?;
    ensure!(lines.iter().all(|line: &Line| line.seq().is_some()), "the player got {lines:?}, seed {seed}");
    let metrics = lobby.metrics().await?;
    let (again, reconnects) =
        (metrics.count("lobby_redelivered_total", &[]), metrics.count("lobby_broker_reconnects_total", &[]));
    ensure!(again == 0 && reconnects == 0, "{again} redelivered, {reconnects} reconnects, seed {seed}");
    let outcomes = ["unicast", "not_connected", "dropped", "channel_reserved", "broadcast"];
    let counted: u64 = outcomes.iter().map(|outcome| metrics.deliveries(outcome)).sum();
    let ours = kinds.chunks(BATCH).len() as u64 + 1;
    ensure!(
        counted == taken + ours,
        "{counted} deliveries are counted, {} were sent:\n{metrics}",
        taken + ours
    );
    ensure!(metrics.deliveries("broadcast") == 1, "one of them became a broadcast, seed {seed}:\n{metrics}");
    scene.fact(format!(
        "{taken} passed ({known} known kinds, the rest random, seed {seed}): {} for a user who is not there, {} dropped; \
         {} were refused by the broker; none came again",
        metrics.deliveries("not_connected"),
        metrics.deliveries("dropped"),
        refused.len(),
    ));
    drop(player);
    scene.leaves_nothing(lobby).await
}

struct Kind {
    what: &'static str,
    properties: Properties,
}

impl Kind {
    fn message(&self, scene: &Scene) -> Message {
        Message {
            exchange: scene.exchange().to_owned(),
            routing_key: NOTIFY_ROUTING_KEY.to_owned(),
            properties: self.properties.clone(),
            body: Bytes::from_static(br#"{"command":"poison"}"#),
        }
    }
}

/// Those that are known to break a parser, each with the address of somebody else.
fn known() -> anyhow::Result<Vec<Kind>> {
    let address = json!(["user-id", "l", ABSENT]);
    let with = |what, header: Value| {
        let properties = Properties::encode(&json!([header, address]), &Value::Null)?;
        anyhow::Ok(Kind { what, properties })
    };
    let mut kinds = vec![
        with("a timestamp of 2⁶³", json!(["h", "T", 1_u64 << 63]))?,
        with("the largest timestamp", json!(["h", "T", u64::MAX]))?,
        with("a name that is not UTF-8", json!([{ "b64": "aP8=" }, "I", 1]))?,
        with("a name without a letter", json!([{ "b64": "" }, "I", 1]))?,
        with("text that is not UTF-8", json!(["h", "S", { "b64": "//8=" }]))?,
        with("tables nested 2,000 deep", json!(["h", "F", { "nest": 2_000 }]))?,
        with("arrays nested 2,000 deep", json!(["h", "A", { "nest": 2_000 }]))?,
        with("a decimal of scale 255", json!(["h", "D", { "scale": 255, "value": -1 }]))?,
        with("a list of timestamps", json!(["h", "A", [["T", u64::MAX], ["T", 1_u64 << 63]]]))?,
        with("a table of bad names", json!(["h", "F", [[{ "b64": "//8=" }, "T", u64::MAX]]]))?,
    ];
    let properties =
        Properties::encode(&json!([address]), &json!({ "timestamp": u64::MAX, "priority": 255 }))?;
    kinds.push(Kind { what: "the timestamp property out of range", properties });
    Ok(kinds)
}

/// Headers with one address and anything around it.
fn hostile(random: &mut fastrand::Rng) -> Value {
    let mut headers: Vec<_> = (0..random.usize(1..6)).map(|_| header(random, 3)).collect();
    let at = random.usize(0..=headers.len());
    headers.insert(at, json!(["user-id", "l", ABSENT]));
    Value::Array(headers)
}

fn header(random: &mut fastrand::Rng, depth: u32) -> Value {
    let (letter, value) = field(random, depth);
    json!([raw(random, 10), letter, value])
}

/// Bytes of any kind. No name of a header that means something begins with this one's first byte.
fn raw(random: &mut fastrand::Rng, most: usize) -> Value {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut bytes = vec![b'h'];
    bytes.extend((0..random.usize(0..most)).map(|_| random.u8(..)));
    json!({ "b64": STANDARD.encode(bytes) })
}

fn field(random: &mut fastrand::Rng, depth: u32) -> (&'static str, Value) {
    match random.u32(0..14) {
        0..=3 => ("T", json!(random.u64(..) | 1 << 63)),
        4 => ("S", raw(random, 40)),
        5 => ("D", json!({ "scale": random.u8(..), "value": random.i32(..) })),
        6 => ("F", json!({ "nest": random.u32(1..2_500) })),
        7 => ("A", json!({ "nest": random.u32(1..2_500) })),
        8..=9 if depth > 0 => ("F", (0..random.u32(0..4)).map(|_| header(random, depth - 1)).collect()),
        10..=11 if depth > 0 => {
            let items = (0..random.u32(0..4)).map(|_| {
                let (letter, value) = field(random, depth - 1);
                json!([letter, value])
            });
            ("A", items.collect())
        }
        12 => ("V", Value::Null),
        _ => ("L", json!(random.u64(..))),
    }
}
