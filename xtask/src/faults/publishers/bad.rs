//! So many messages that break the contract.

use std::collections::BTreeMap;

use anyhow::ensure;
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use serde_json::{Value, json};

use crate::amqp_wire::{Message, Properties};
use crate::faults::backlog::consumed;
use crate::faults::scene::Scene;
use crate::lobby::Lobby;

/// Somebody to whom nothing is addressed.
const BYSTANDER: i64 = 7;
/// Lines a second about messages that reach nobody, as the lobby caps them. They count from the first one's moment, so
/// that a second of the clock may hold the lines of two.
const LINES_PER_SECOND: u64 = 10;
/// Good messages are consumed at most so many times faster than bad ones: two in the long form; a debug build formats
/// errors slowly, and rows run side by side.
const SLOWER: (f64, f64) = (4.0, 2.0);

/// Each kind of mistake in turn. Nobody may get any of them.
fn mistakes() -> anyhow::Result<Vec<(Properties, Bytes)>> {
    let user = |letter: &str, value: Value| json!([["user-id", letter, value]]);
    let good = r#"{"command":"notice"}"#;
    let kinds = [
        (Value::Null, "nonsense"),
        (Value::Null, ""),
        (Value::Null, "[]"),
        (Value::Null, r#"{"a":NaN}"#),
        (user("t", json!(true)), good),
        (user("S", json!("4_2")), good),
        (user("d", json!(42.0)), good),
        (user("F", json!([])), good),
    ];
    let transient = json!({ "delivery_mode": 1 });
    kinds
        .into_iter()
        .map(|(headers, body)| {
            Ok((Properties::encode(&headers, &transient)?, Bytes::from_static(body.as_bytes())))
        })
        .collect()
}

/// They wait in the queue, and then as many that are in order, for a user who is not there.
pub(super) async fn messages(scene: &Scene) -> anyhow::Result<()> {
    let count = scene.pick(50_000, 1_000_000);
    let message = |(properties, body): (Properties, Bytes)| Message {
        exchange: scene.exchange().to_owned(),
        routing_key: NOTIFY_ROUTING_KEY.to_owned(),
        properties,
        body,
    };
    let absent = Properties::encode(&json!([["user-id", "l", 4711]]), &json!({ "delivery_mode": 1 }))?;
    let good = (absent, Bytes::from_static(br#"{"command":"notice"}"#));
    let consumed_good =
        consumed(scene, |setup| setup, BYSTANDER, count, |_| Ok(message(good.clone()))).await?;
    let usual = consumed_good.took;
    consumed_good.end(scene).await?;

    let kinds = mistakes()?;
    let bad = |number: u64| message(kinds[(number % kinds.len() as u64) as usize].clone());
    let consumed = consumed(scene, |setup| setup, BYSTANDER, count, |number| Ok(bad(number))).await?;
    let (lines, took) = (&consumed.lines, consumed.took);
    ensure!(lines.is_empty(), "somebody got {} of the bad messages, first {}", lines.len(), lines[0]);
    let dropped = |metrics: &crate::lobby::Metrics| metrics.deliveries("dropped") == count;
    consumed.lobby.metrics_until("every bad message dropped", dropped).await?;
    let (told, most) = lines_told(&consumed.lobby);
    let limit = LINES_PER_SECOND * (took.as_secs() + 2);
    let rate = |took: std::time::Duration| count as f64 / took.as_secs_f64();
    scene.fact(format!(
        "{:.0} bad messages a second, {:.0} good ones for a user who is not there; {told} log lines, at most {most} in a \
         second of the clock",
        rate(took),
        rate(usual)
    ));
    ensure!(told > 0 && told <= limit, "{told} lines in {took:?}, limit {limit}");
    ensure!(most <= 2 * LINES_PER_SECOND, "{most} lines in one second");
    let (short, long) = SLOWER;
    let slower = took.as_secs_f64() / usual.as_secs_f64();
    ensure!(slower <= scene.pick(short, long), "bad messages are consumed {slower:.1} times slower");
    consumed.end(scene).await
}

/// Lines about dropped messages, and the most of them with the same second in their time.
fn lines_told(lobby: &Lobby) -> (u64, u64) {
    let mut seconds: BTreeMap<String, u64> = BTreeMap::new();
    for record in lobby.log().records() {
        if record.field("message").as_deref() == Some("message dropped") {
            let time = record.field("timestamp").unwrap_or_default();
            *seconds.entry(time.get(..19).unwrap_or(&time).to_owned()).or_default() += 1;
        }
    }
    (seconds.values().sum(), seconds.values().max().copied().unwrap_or_default())
}
