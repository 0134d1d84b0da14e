//! Runs every delivery of `testdata/vectors.jsonl` through `decode` and compares with what must become of it; then
//! again through lobbies that are wrong on purpose, each of which must fail.
//!
//! Two outcomes are decided elsewhere: `unrouted` by the broker's binding (the routing key), `not_connected` by the
//! registry. Here a user counts as connected if any vector expects a delivery to that user.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "vectors/case.rs"]
mod case;
#[path = "vectors/mutants.rs"]
mod mutants;

use case::{CASES, CONNECTED, Case, VECTOR_COUNT, compact};
use notify_protocol::{
    Address, DropReason, HeaderRole, HeaderValue, Limits, NOTIFY_ROUTING_KEY, decode, explain,
};
use serde_json::Value;

/// The steps of a lobby that the vectors judge.
#[derive(Clone, Copy)]
struct Lobby {
    name: &'static str,
    /// Whether deliveries with this routing key arrive at all.
    is_bound: fn(&str) -> bool,
    /// Whom a delivery is for and the checked body, or why it is dropped.
    decode: fn(Headers<'_>, &[u8]) -> Decoded,
    /// What a client's TCP socket gets for a checked body.
    encode: fn(&[u8]) -> Vec<u8>,
}

type Decoded = Result<(To, Vec<u8>), &'static str>;
type Headers<'a> = Vec<(&'a [u8], HeaderValue<'a>)>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    User(i64),
    Channel,
    Everyone,
}

const REAL: Lobby = Lobby {
    name: "the lobby",
    is_bound: |key| key == NOTIFY_ROUTING_KEY,
    decode: real_decode,
    encode: real_encode,
};

fn real_decode(headers: Headers<'_>, body: &[u8]) -> Decoded {
    let decoded = decode(headers, body, &Limits::default()).map_err(|reason| reason.as_str())?;
    let to = match decoded.address {
        Address::User(user) => To::User(user.get()),
        Address::Channel(_) => To::Channel,
        Address::Everyone => To::Everyone,
    };
    Ok((to, decoded.body.json().to_vec()))
}

fn real_encode(json: &[u8]) -> Vec<u8> {
    let limits = Limits { max_body_bytes: usize::MAX };
    let mut line = Vec::new();
    notify_protocol::Body::check(json, &limits).unwrap().append_line_to(&mut line);
    assert_eq!(line.len(), json.len());
    line.push(b'\n');
    line
}

#[test]
fn every_vector_has_its_outcome() {
    let failures = failures(&REAL);
    assert!(failures.is_empty(), "{} of {VECTOR_COUNT} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_lobby_that_is_wrong_on_purpose_fails_a_vector() {
    let passing: Vec<_> = mutants::ALL
        .iter()
        .filter(|mutant| {
            let failures = failures(mutant);
            println!("{}: fails {} of {VECTOR_COUNT}", mutant.name, failures.len());
            failures.is_empty()
        })
        .map(|mutant| mutant.name)
        .collect();
    assert!(passing.is_empty(), "no vector notices: {passing:?}");
}

#[test]
fn every_vector_is_explained_as_it_is_decoded() {
    let limits = Limits::default();
    for case in CASES.iter() {
        let explanation = explain(case.headers(), &case.body, &limits);
        let decoded = decode(case.headers(), &case.body, &limits);
        // Text of the reasons: a NaN in a channel's value differs from itself.
        assert_eq!(format!("{:?}", explanation.outcome), format!("{decoded:?}"), "{}", case.id);
        let address = explanation.address.clone();
        let parts = explanation.body.and_then(|body| Ok((address?, body.json)));
        let whole = decoded.map(|decoded| (decoded.address, decoded.body));
        assert_eq!(format!("{parts:?}"), format!("{whole:?}"), "{}", case.id);
        let roles = explanation.headers.iter().map(|header| header.role);
        let addressing = roles.clone().filter(|role| *role == HeaderRole::Addresses).count();
        let everyone =
            matches!(explanation.address, Ok(Address::Everyone) | Err(DropReason::UndecodableHeaders));
        assert_eq!(addressing, usize::from(!everyone), "{}: {:?}", case.id, explanation.headers);
    }
}

fn failures(lobby: &Lobby) -> Vec<String> {
    CASES
        .iter()
        .filter_map(|case| check(lobby, case).err().map(|why| format!("{}: {why}", case.id)))
        .collect()
}

/// Compares one vector with what happens to it: any outcome of `also_ok` passes, too.
fn check(lobby: &Lobby, case: &Case) -> Result<(), String> {
    let Case { expect, .. } = case;
    let (outcome, json) = happens(lobby, case);
    let reason_counts = expect["strength"] != "info";
    let also_ok = expect["also_ok"].as_array().into_iter().flatten();
    let expected = outcome.matches(expect, reason_counts);
    if !expected && !also_ok.clone().any(|other| outcome.matches(other, !other["reason"].is_null())) {
        return Err(format!("is {outcome:?}, expected {expect}"));
    }
    let Some(json) = json else { return Ok(()) };
    let (exact, compacted) = case.line.as_ref().ok_or("the vector has no line")?;
    let sent = (lobby.encode)(&json);
    let lines: Vec<_> = sent.split_inclusive(|&byte| byte == b'\n').collect();
    let [line] = lines.as_slice() else { return Err(format!("{} lines instead of one", lines.len())) };
    match line.strip_suffix(b"\n") {
        None => Err("the line has no end".into()),
        Some(line) if line != exact => Err("line differs from the body in more than line ends".into()),
        Some(line) if compact(line) != *compacted => Err("line differs".into()),
        Some(_) => Ok(()),
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Unrouted,
    Unicast(i64),
    Broadcast,
    Dropped(&'static str),
}

impl Outcome {
    fn matches(&self, expect: &Value, reason_counts: bool) -> bool {
        match self {
            Self::Unrouted => expect["outcome"] == "unrouted",
            Self::Unicast(user) => expect["outcome"] == "unicast" && expect["target"] == *user,
            Self::Broadcast => expect["outcome"] == "broadcast",
            Self::Dropped(reason) => {
                expect["outcome"] == "dropped" && (!reason_counts || expect["reason"] == *reason)
            }
        }
    }
}

/// The outcome, and the checked body where somebody gets it.
fn happens(lobby: &Lobby, case: &Case) -> (Outcome, Option<Vec<u8>>) {
    if !(lobby.is_bound)(&case.routing_key) && !case.is_copied() {
        return (Outcome::Unrouted, None);
    }
    match (lobby.decode)(case.headers().collect(), &case.body) {
        Err(reason) => (Outcome::Dropped(reason), None),
        Ok((To::User(user), _)) if !CONNECTED.contains(&user) => (Outcome::Dropped("not_connected"), None),
        Ok((To::User(user), json)) => (Outcome::Unicast(user), Some(json)),
        Ok((To::Channel, _)) => (Outcome::Dropped("channel_reserved"), None),
        Ok((To::Everyone, json)) => (Outcome::Broadcast, Some(json)),
    }
}
