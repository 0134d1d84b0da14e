//! Registry, outboxes and shards together against a simple model: random histories of logins, duplicate logins,
//! notifications in the middle of a login, clients that leave and clients that do not read, over real sockets.
//!
//! For each session the model keeps which messages it must get and which it may get, because they were handed over
//! while the session came or went. Then, whatever happened: nothing precedes the welcome; what is received is in order,
//! was for this user or for everyone, and leaves out nothing that must be there, unless the session was too slow, and
//! then nothing follows the first gap; and the shards' figures add up.
//!
//! `PROPTEST_CASES=5000 cargo test -p lobby-sessions --test model` is the long form.

mod rig;

use std::{cell::Cell, collections::BTreeMap, time::Duration};

use lobby_sessions::{Admission, DuplicateLogin, OverflowPolicy, Transport};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use rig::{Dropped, Lobby, PATIENCE};
use serde_json::Value;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

/// Users that log in; one more never does.
const USERS: i64 = 3;
const ABSENT: i64 = 99;
/// The kernel's buffers hold some 100 KiB of one client's messages, and its outbox this much more.
const OUTBOX: usize = 64 << 10;

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// A user logs in while these messages are handed over.
    Login { user: i64, websocket: bool, meanwhile: Vec<Message> },
    /// Messages are handed over.
    Publish(Vec<Message>),
    /// A client closes its connection.
    Leave(prop::sample::Index),
}

/// A notification; most are small, some fill buffers.
#[derive(Debug, Clone)]
struct Message {
    /// `None`: everyone.
    to: Option<i64>,
    fill: usize,
}

fn message() -> impl Strategy<Value = Message> {
    let to = prop_oneof![Just(None), (1..=USERS).prop_map(Some), Just(Some(ABSENT))];
    let fill = prop_oneof![7 => Just(0_usize), 3 => Just(60 << 10)];
    (to, fill).prop_map(|(to, fill)| Message { to, fill })
}

fn step() -> impl Strategy<Value = Step> {
    let messages = |most| prop::collection::vec(message(), 0..most);
    prop_oneof![
        3 => (1..=USERS, any::<bool>(), messages(4))
            .prop_map(|(user, websocket, meanwhile)| Step::Login { user, websocket, meanwhile }),
        4 => messages(12).prop_map(Step::Publish),
        1 => any::<prop::sample::Index>().prop_map(Step::Leave),
    ]
}

/// What the model knows of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stand {
    /// It was welcomed and nothing has happened to it since.
    Open,
    /// It comes, goes, or may have been replaced: what is sent now it may get.
    Unsure,
    /// It was replaced, or never let in.
    Out,
}

struct Client {
    user: i64,
    transport: Transport,
    /// `None` once it has left, or has read all.
    stream: Option<TcpStream>,
    left: bool,
    bytes: Vec<u8>,
    stand: Stand,
    /// Numbers of messages for it, and whether it must get each.
    expected: BTreeMap<u64, bool>,
}

struct History {
    lobby: Lobby,
    policy: DuplicateLogin,
    clients: Vec<Client>,
    tickets: Vec<Dropped>,
    next: u64,
    unicasts: u64,
}

impl History {
    fn publish(&mut self, messages: &[Message]) {
        for Message { to, fill } in messages {
            let number = self.next;
            self.next += 1;
            let json = format!(r#"{{"n":{number},"fill":"{}"}}"#, "x".repeat(*fill));
            for client in &mut self.clients {
                if to.is_none_or(|to| to == client.user) && client.stand != Stand::Out {
                    client.expected.insert(number, client.stand == Stand::Open);
                }
            }
            self.tickets.push(match to {
                None => self.lobby.broadcast(&json),
                Some(user) => {
                    self.unicasts += 1;
                    self.lobby.unicast(*user, &json)
                }
            });
        }
    }

    async fn login(&mut self, user: i64, transport: Transport, meanwhile: &[Message]) {
        let (stream, admission) = self.lobby.admission(user, transport).await;
        let present = |client: &&mut Client| client.user == user && client.stand != Stand::Out;
        let open = self.clients.iter().filter(|c| c.user == user && c.stand == Stand::Open).count();
        // Whoever may have to go for the newcomer.
        match self.policy {
            DuplicateLogin::Reject => {}
            DuplicateLogin::Allow { max } if open < max => {}
            DuplicateLogin::Replace | DuplicateLogin::Allow { .. } => {
                self.clients.iter_mut().filter(present).for_each(|client| client.stand = Stand::Unsure);
            }
        }
        self.clients.push(Client {
            user,
            transport,
            stream: Some(stream),
            left: false,
            bytes: Vec::new(),
            stand: Stand::Unsure,
            expected: BTreeMap::new(),
        });
        self.lobby.sessions.admit(Admission { permit: None, ..admission }).await;
        self.publish(meanwhile);
        let (newcomer, others) = self.clients.split_last_mut().expect("just pushed");
        let welcomed = newcomer.first().await["command"] == "welcome";
        newcomer.stand = if welcomed { Stand::Open } else { Stand::Out };
        if welcomed && self.policy == DuplicateLogin::Replace {
            others.iter_mut().filter(|c| c.user == user).for_each(|client| client.stand = Stand::Out);
        }
        if !welcomed {
            assert_eq!(self.policy, DuplicateLogin::Reject, "a login is refused");
        }
    }

    fn leave(&mut self, pick: &prop::sample::Index) {
        let picked = pick.index(self.clients.len().max(1));
        if let Some(client) = self.clients.get_mut(picked) {
            client.stream = None;
            client.left = true;
            if client.stand == Stand::Open {
                client.stand = Stand::Unsure;
            }
        }
    }
}

impl Client {
    /// The first message; reads no more than that needs.
    async fn first(&mut self) -> Value {
        loop {
            if let Some(first) = self.messages().into_iter().next() {
                return first;
            }
            let stream = self.stream.as_mut().expect("connected");
            let read = timeout(PATIENCE, stream.read_buf(&mut self.bytes)).await;
            assert!(read.expect("an answer in time").expect("readable") > 0, "closed without a word");
        }
    }

    /// Reads on until the lobby has closed.
    async fn read_to_end(mut self) -> Self {
        if let Some(mut stream) = self.stream.take() {
            let read = timeout(PATIENCE, stream.read_to_end(&mut self.bytes)).await;
            read.expect("an end in time").expect("readable");
        }
        self
    }

    /// Whole messages so far.
    fn messages(&self) -> Vec<Value> {
        let parse = |bytes: &[u8]| serde_json::from_slice(bytes).expect("JSON");
        match self.transport {
            Transport::Tcp => {
                let lines = self.bytes.split_inclusive(|byte| *byte == b'\n');
                lines.filter(|line| line.ends_with(b"\n")).map(parse).collect()
            }
            Transport::WebSocket => frames(&self.bytes).into_iter().map(parse).collect(),
        }
    }

    /// Holds what it got against the model; the code that it was closed with.
    fn judge(&self, policy: OverflowPolicy) -> Result<Option<u64>, TestCaseError> {
        let messages = self.messages();
        let name = |message: &Value| message["command"].as_str().map(str::to_owned);
        let closing = messages.last().filter(|last| name(last).as_deref() == Some("closing"));
        let code = closing.and_then(|closing| closing["code"].as_u64());
        if self.left {
            return Ok(None);
        }
        prop_assert!(code.is_some(), "closed without a reason: {:?}", messages.last());
        let numbers: Vec<u64> = messages.iter().filter_map(|message| message["n"].as_u64()).collect();
        let welcome = messages.iter().position(|message| name(message).as_deref() == Some("welcome"));
        let first_number = messages.iter().position(|message| message["n"].is_u64());
        prop_assert!(
            first_number.is_none_or(|at| welcome.is_some_and(|welcome| welcome < at)),
            "before the welcome"
        );
        prop_assert!(numbers.is_sorted_by(|a, b| a < b), "out of order or twice: {numbers:?}");
        for number in &numbers {
            prop_assert!(self.expected.contains_key(number), "{number} was not for user {}", self.user);
        }
        let must = self.expected.iter().filter(|(_, must)| **must).map(|(number, _)| *number);
        let missing: Vec<_> = must.filter(|number| numbers.binary_search(number).is_err()).collect();
        let last = numbers.last().copied().unwrap_or(0);
        match (policy, code) {
            // What made it too slow, and what came after that, and nothing else.
            (OverflowPolicy::Disconnect, Some(4000)) => {
                prop_assert!(
                    missing.iter().all(|number| *number > last || numbers.is_empty()),
                    "a gap: {missing:?}"
                );
            }
            (OverflowPolicy::Disconnect, _) => prop_assert!(missing.is_empty(), "missing: {missing:?}"),
            (OverflowPolicy::DropOldest, _) => {}
        }
        Ok(code)
    }
}

/// The payloads of the text frames that are whole.
fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let extended = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((digits, rest)) = rest.split_at_checked(extended) else { break };
        let length = match extended {
            0 => usize::from(*length),
            _ => digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)),
        };
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if *first == 0x81 {
            payloads.push(payload);
        }
        bytes = rest;
    }
    payloads
}

/// Plays one history out; how many sessions were too slow.
async fn play(
    steps: Vec<Step>,
    shards: usize,
    policy: DuplicateLogin,
    overflow: OverflowPolicy,
) -> Result<u64, TestCaseError> {
    let lobby = Lobby::start(|config| {
        config.shards = shards;
        config.duplicate_login = policy;
        config.overflow = overflow;
        config.outbox_bytes = OUTBOX;
    })
    .await;
    let mut history =
        History { lobby, policy, clients: Vec::new(), tickets: Vec::new(), next: 0, unicasts: 0 };
    for step in &steps {
        match step {
            Step::Login { user, websocket, meanwhile } => {
                let transport = if *websocket { Transport::WebSocket } else { Transport::Tcp };
                history.login(*user, transport, meanwhile).await;
            }
            Step::Publish(messages) => history.publish(messages),
            Step::Leave(pick) => history.leave(pick),
        }
    }
    let History { lobby, clients, tickets, unicasts, .. } = history;
    let reading: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client.read_to_end())).collect();
    prop_assert_eq!(
        lobby.sessions.drain(Duration::ZERO, PATIENCE).await,
        0,
        "all is read, or its reader has left"
    );
    let mut by_code: BTreeMap<u64, u64> = BTreeMap::new();
    let mut left = 0;
    for client in reading {
        match client.await.expect("no panic").judge(overflow)? {
            Some(code) => *by_code.entry(code).or_default() += 1,
            None => left += 1,
        }
    }
    for ticket in &tickets {
        ticket.wait().await;
    }
    let stats = lobby.sessions.stats();
    prop_assert_eq!((stats.sessions, stats.queued_bytes), ([0, 0], 0));
    prop_assert_eq!(stats.unicast + stats.not_connected, unicasts);
    prop_assert_eq!(lobby.sessions.meter().live_bytes(), 0, "nothing holds a message any more");
    let too_slow = by_code.get(&4000).copied().unwrap_or(0);
    for (code, count) in by_code {
        let counted = stats.closes_with(u16::try_from(code).expect("a code"));
        prop_assert!((count..=count + left).contains(&counted), "{code}: {count} seen, {counted} counted");
    }
    Ok(too_slow)
}

#[test]
fn random_histories_keep_what_the_model_promises() {
    let policies = prop_oneof![
        2 => Just(DuplicateLogin::Replace),
        1 => Just(DuplicateLogin::Allow { max: 2 }),
        1 => Just(DuplicateLogin::Reject),
    ];
    let overflow = prop_oneof![3 => Just(OverflowPolicy::Disconnect), 1 => Just(OverflowPolicy::DropOldest)];
    let history = (prop::collection::vec(step(), 1..30), 1..4_usize, policies, overflow);
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let too_slow = Cell::new(0);
    let outcome = TestRunner::new(config).run(&history, |(steps, shards, policy, overflow)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let here = runtime.block_on(play(steps, shards, policy, overflow))?;
        too_slow.set(too_slow.get() + here);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(too_slow.get() > 0, "no session was too slow: the histories are too tame");
}
