//! The decoder beside a second reading of the contract, in this process: random envelopes, one verdict each.
//!
//! Bodies are made so that their verdict is known: an object in many spellings, and one mistake or none. Addresses are
//! computed again from the contract's words.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, anyhow, ensure};
use notify_protocol::{HeaderValue, Limits, UNDECODABLE_HEADERS_MARKER, decode};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Duration, Instant};

use crate::faults::scene::Scene;

/// The long form.
const MANY: u64 = 100_000_000;
/// The short one.
const SHORTLY: Duration = Duration::from_secs(4);
/// Small, so that bodies exceed it often.
const LIMITS: Limits = Limits { max_body_bytes: 160 };

/// What the contract says of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    User(i64),
    Everyone,
    Channel,
    Dropped(&'static str),
}

/// Compares until enough cases agree.
pub(super) async fn compared(scene: &Scene) -> anyhow::Result<()> {
    let cases = Arc::new(AtomicU64::new(0));
    let enough = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let mut threads = JoinSet::new();
    let cores = scene.pick(1, std::thread::available_parallelism().map_or(1, usize::from));
    let seed = fastrand::u64(..);
    for number in 0..cores as u64 {
        let (cases, enough) = (Arc::clone(&cases), Arc::clone(&enough));
        threads.spawn(async move {
            spawn_blocking(move || compare(seed.wrapping_add(number), &cases, &enough))
                .await
                .context("a thread")?
        });
    }
    let done = |cases: u64| scene.pick(start.elapsed() >= SHORTLY, cases >= MANY);
    let outcome = loop {
        tokio::select! {
            ended = threads.join_next() => break ended.context("no thread")?.context("a thread")?,
            () = tokio::time::sleep(Duration::from_millis(50)) => if done(cases.load(Relaxed)) { break Ok(()) },
        }
    };
    enough.store(true, Relaxed);
    while let Some(ended) = threads.join_next().await {
        ended.context("a thread")??;
    }
    outcome?;
    let cases = cases.load(Relaxed);
    scene.fact(format!(
        "{cases} cases, all as the model says, {:.0} a second; seed {seed}",
        cases as f64 / start.elapsed().as_secs_f64()
    ));
    ensure!(cases >= scene.pick(10_000, MANY), "only {cases} cases");
    Ok(())
}

fn compare(seed: u64, cases: &AtomicU64, enough: &AtomicBool) -> anyhow::Result<()> {
    const BETWEEN_LOOKS: u64 = 256;
    let mut random = fastrand::Rng::with_seed(seed);
    while !enough.load(Relaxed) {
        for _ in 0..BETWEEN_LOOKS {
            let envelope = Envelope::random(&mut random);
            let decided = catch_unwind(|| envelope.decided());
            let decided = decided.map_err(|_| anyhow!("the decoder panicked, seed {seed}: {envelope:?}"))?;
            let wanted = envelope.wanted();
            ensure!(decided == wanted, "{decided:?} instead of {wanted:?}, seed {seed}: {envelope:?}");
        }
        cases.fetch_add(BETWEEN_LOOKS, Relaxed);
    }
    Ok(())
}

/// A header with what it owns.
#[derive(Debug, Clone)]
enum Value {
    Text(Vec<u8>),
    Bytes(Vec<u8>),
    Other(HeaderValue<'static>),
}

#[derive(Debug, Clone)]
struct Envelope {
    headers: Vec<(Vec<u8>, Value)>,
    body: Vec<u8>,
    /// What is wrong with the body.
    mistake: Option<&'static str>,
}

impl Envelope {
    fn random(random: &mut fastrand::Rng) -> Self {
        let headers = (0..random.usize(0..5)).map(|_| (name(random), value(random))).collect();
        let (body, mistake) = body(random);
        let mistake = if body.len() > LIMITS.max_body_bytes { Some("too_large") } else { mistake };
        Self { headers, body, mistake }
    }

    fn decided(&self) -> Verdict {
        let headers = self.headers.iter().map(|(name, value)| {
            let value = match value {
                Value::Text(text) => HeaderValue::LongString(text),
                Value::Bytes(bytes) => HeaderValue::Bytes(bytes),
                Value::Other(value) => *value,
            };
            (name.as_slice(), value)
        });
        match decode(headers, &self.body, &LIMITS) {
            Ok(decoded) => match decoded.address {
                notify_protocol::Address::User(user) => Verdict::User(user.get()),
                notify_protocol::Address::Channel(_) => Verdict::Channel,
                notify_protocol::Address::Everyone => Verdict::Everyone,
            },
            Err(reason) => Verdict::Dropped(reason.as_str()),
        }
    }

    /// Size, then body, then address; of a header that stands twice the last counts; void is not set.
    fn wanted(&self) -> Verdict {
        if let Some(mistake) = self.mistake {
            return Verdict::Dropped(mistake);
        }
        let last = |wanted: &[u8]| {
            let found = self.headers.iter().rfind(|(name, _)| name == wanted);
            found.map(|(_, value)| value).filter(|value| !matches!(value, Value::Other(HeaderValue::Void)))
        };
        if self.headers.iter().any(|(name, _)| name == UNDECODABLE_HEADERS_MARKER.as_bytes()) {
            return Verdict::Dropped("undecodable_headers");
        }
        match (last(b"user-id"), last(b"channel")) {
            (Some(Value::Other(HeaderValue::Int(user))), _) => Verdict::User(*user),
            (Some(Value::Text(text)), _) => {
                decimal(text).map_or(Verdict::Dropped("invalid_user_id"), Verdict::User)
            }
            (Some(_), _) => Verdict::Dropped("invalid_user_id"),
            (None, Some(_)) => Verdict::Channel,
            (None, None) => Verdict::Everyone,
        }
    }
}

/// `[+-]?[0-9]+` within 64 bits.
fn decimal(text: &[u8]) -> Option<i64> {
    let text = str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Leading zeros do not count; what is longer than this is out of range.
    let short = digits.trim_start_matches('0');
    if !plain || short.len() > 19 {
        return None;
    }
    let size: i128 = if short.is_empty() { 0 } else { short.parse().ok()? };
    i64::try_from(if text.starts_with('-') { -size } else { size }).ok()
}

fn name(random: &mut fastrand::Rng) -> Vec<u8> {
    match random.u32(0..12) {
        0..=4 => b"user-id".to_vec(),
        5..=6 => b"channel".to_vec(),
        7 => b"User-Id".to_vec(),
        8 => b"user_id".to_vec(),
        9 => b"user-id ".to_vec(),
        10 if random.u32(0..8) == 0 => UNDECODABLE_HEADERS_MARKER.as_bytes().to_vec(),
        _ => some_bytes(random, 6),
    }
}

fn some_bytes(random: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    (0..random.usize(0..=most)).map(|_| random.u8(..)).collect()
}

fn value(random: &mut fastrand::Rng) -> Value {
    let other = match random.u32(0..16) {
        0..=3 => HeaderValue::Int(random.i64(..) >> random.u32(0..64)),
        4..=8 => return Value::Text(text(random)),
        9 => return Value::Text(some_bytes(random, 8)),
        10 => return Value::Bytes(text(random)),
        11 => HeaderValue::Bool(random.bool()),
        12 => HeaderValue::Void,
        13 => HeaderValue::Double(f64::from_bits(random.u64(..))),
        14 => HeaderValue::Float(f32::from_bits(random.u32(..))),
        _ => match random.u32(0..4) {
            0 => HeaderValue::Decimal { scale: random.u8(..), value: random.u32(..) },
            1 => HeaderValue::Timestamp(random.u64(..)),
            2 => HeaderValue::Array,
            _ => HeaderValue::Table,
        },
    };
    Value::Other(other)
}

/// Numbers, and what looks like one.
fn text(random: &mut fastrand::Rng) -> Vec<u8> {
    let number = match random.u32(0..4) {
        0 => format!("{}", random.i64(..)),
        1 => format!("922337203685477580{}", random.u32(0..10)),
        2 => format!("{:0width$}", random.u32(..), width = random.usize(1..40)),
        _ => format!("{}", random.u128(..) >> random.u32(0..128)),
    };
    let number = match random.u32(0..8) {
        0 => format!("+{number}"),
        1 => format!("-{number}"),
        2 => format!(" {number}"),
        3 => format!("{number}_0"),
        4 => "+-".get(..random.usize(0..3)).unwrap_or_default().to_owned(),
        _ => number,
    };
    number.into_bytes()
}

/// Bytes and the mistake in them.
fn body(random: &mut fastrand::Rng) -> (Vec<u8>, Option<&'static str>) {
    let object = object(random, 3);
    let blank =
        |random: &mut fastrand::Rng| " \n\t\r".get(..random.usize(0..4)).unwrap_or_default().to_owned();
    let spaced = format!("{}{object}{}", blank(random), blank(random));
    match random.u32(0..12) {
        0 => {
            // Inside of the object it is not closed; without a byte it is empty.
            let cut = random.usize(0..object.len());
            let mut bytes = object.into_bytes();
            bytes.truncate(cut);
            (bytes, Some("non_json"))
        }
        1 => (
            format!("{spaced}{}", ["x", "{}", "\u{feff}", "\0", ","][random.usize(0..5)]).into_bytes(),
            Some("non_json"),
        ),
        2 => ([spaced.as_bytes(), &b"\xff"[..]].concat(), Some("non_json")),
        3 => (format!("[{object}]").into_bytes(), Some("not_object")),
        4 => (scalar(random).into_bytes(), Some("not_object")),
        5 => ([&b"\xef\xbb\xbf"[..], spaced.as_bytes()].concat(), None),
        6 => (format!(" \u{feff}{object}").into_bytes(), Some("non_json")),
        _ => (spaced.into_bytes(), None),
    }
}

fn object(random: &mut fastrand::Rng, depth: u32) -> String {
    let members: Vec<_> =
        (0..random.usize(0..4)).map(|_| format!("{}:{}", string(random), json(random, depth))).collect();
    format!("{{{}}}", members.join([",", " , ", ",\n"][random.usize(0..3)]))
}

fn json(random: &mut fastrand::Rng, depth: u32) -> String {
    match random.u32(0..6) {
        0 if depth > 0 => object(random, depth - 1),
        1 if depth > 0 => {
            let items: Vec<_> = (0..random.usize(0..3)).map(|_| json(random, depth - 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => scalar(random),
    }
}

fn scalar(random: &mut fastrand::Rng) -> String {
    match random.u32(0..6) {
        0 => string(random),
        1 => ["true", "false", "null"][random.usize(0..3)].to_owned(),
        2 => format!("{}.{}", random.i16(..), random.u16(..)),
        3 => format!("{}e{}", random.i16(..), random.i16(..)),
        _ => random.i64(..).to_string(),
    }
}

fn string(random: &mut fastrand::Rng) -> String {
    const PARTS: [&str; 8] = ["a", "é", "😀", "\\n", "\\\"", "\\u00e9", "\\ud83d\\ude00", "\u{7f}"];
    let parts: String = (0..random.usize(0..4)).map(|_| PARTS[random.usize(0..PARTS.len())]).collect();
    format!("\"{parts}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(headers: &[(&str, Value)], body: &[u8]) -> Envelope {
        let headers = headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect();
        Envelope { headers, body: body.to_vec(), mistake: None }
    }

    #[test]
    fn the_model_reads_the_contract() {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let int = |user| Value::Other(HeaderValue::Int(user));
        let (void, flag) = (Value::Other(HeaderValue::Void), Value::Other(HeaderValue::Bool(true)));
        for (headers, wanted) in [
            (vec![("user-id", text("+042"))], Verdict::User(42)),
            (vec![("user-id", text("-9223372036854775808"))], Verdict::User(i64::MIN)),
            (vec![("user-id", text("9223372036854775808"))], Verdict::Dropped("invalid_user_id")),
            (vec![("user-id", text("4_2"))], Verdict::Dropped("invalid_user_id")),
            (vec![("user-id", flag), ("channel", int(1))], Verdict::Dropped("invalid_user_id")),
            (vec![("user-id", int(1)), ("user-id", int(2))], Verdict::User(2)),
            (vec![("user-id", void.clone()), ("channel", text(""))], Verdict::Channel),
            (vec![("user-id", void), ("User-Id", int(1))], Verdict::Everyone),
        ] {
            let envelope = envelope(&headers, b"{}");
            assert_eq!((envelope.wanted(), envelope.decided()), (wanted.clone(), wanted), "{headers:?}");
        }
    }

    #[test]
    fn every_verdict_is_met_within_ten_thousand_cases() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..10_000 {
            let envelope = Envelope::random(&mut random);
            let wanted = envelope.wanted();
            assert_eq!(envelope.decided(), wanted, "{envelope:?}");
            let name = match wanted {
                Verdict::User(_) => "user",
                Verdict::Everyone => "everyone",
                Verdict::Channel => "channel",
                Verdict::Dropped(reason) => reason,
            };
            *seen.entry(name).or_insert(0) += 1;
        }
        assert!(seen.len() == 8 && seen.values().all(|count| *count > 20), "{seen:?}");
    }
}
