//! What makes the plan true: requests to the management API, each with the reason why it is needed.
//!
//! Only what is missing is made, so a second time there is nothing to do. What exists with other properties cannot be
//! changed on a broker, and bindings that nobody planned stay: both are for people to decide.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    comparison::{Finding, compare},
    observed::Observed,
    permission::allows,
    plan::{Plan, Thing},
};

/// What to make besides what all lobbies share.
#[derive(Debug, Clone, Copy, Default)]
pub struct Apply {
    /// This instance's own queue too.
    pub queue: bool,
    /// The user's permissions too.
    pub grant: bool,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request {
    pub method: &'static str,
    /// Without `/api`.
    pub path: String,
    pub body: Value,
}

/// What is done to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Make,
    Change,
    /// Permissions are added to those that are there.
    Widen,
}

impl Verb {
    /// Before it is done.
    pub fn plan(self) -> &'static str {
        match self {
            Self::Make => "would make",
            Self::Change => "would change",
            Self::Widen => "would widen",
        }
    }

    /// Once it is done.
    pub fn done(self) -> &'static str {
        match self {
            Self::Make => "made",
            Self::Change => "changed",
            Self::Widen => "widened",
        }
    }
}

/// One thing to make or change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Such as `make`.
    #[serde(skip)]
    pub verb: Verb,
    /// Such as `exchange "players" (topic durable)`.
    pub text: String,
    pub request: Request,
}

/// The requests that are needed, in order.
///
/// # Errors
/// The differences that no request can mend; nothing should be done then.
pub fn steps(plan: &Plan, observed: &Observed, apply: Apply) -> Result<Vec<Step>, Vec<Finding>> {
    let mut stuck = compare(plan, observed);
    stuck.retain(|finding| {
        matches!(finding.finding, "exchange_differs" | "queue_differs")
            && (apply.queue || finding.name != plan.queue || plan.instance_prefix.is_none())
    });
    if !stuck.is_empty() {
        return Err(stuck);
    }
    let vhost = segment(&plan.vhost);
    let needed = plan.things.iter().filter_map(|thing| {
        let (verb, request) = step(thing, observed, &vhost, apply)?;
        let properties = thing.properties();
        let properties = if properties.is_empty() { String::new() } else { format!(" ({properties})") };
        let text = format!("{} {:?}{properties}", thing.kind(), thing.name());
        Some(Step { verb, text, request })
    });
    Ok(needed.collect())
}

fn step(thing: &Thing, observed: &Observed, vhost: &str, apply: Apply) -> Option<(Verb, Request)> {
    let put = |path: String, body: Value| Request { method: "PUT", path, body };
    let make = |needed: bool, request: Request| needed.then_some((Verb::Make, request));
    match thing {
        Thing::Vhost { .. } => make(!observed.vhost, put(format!("/vhosts/{vhost}"), json!({}))),
        Thing::Exchange { name, foreign } => {
            let there = observed.exchanges.iter().any(|exchange| exchange.name == *name);
            let body = json!({"type": "topic", "durable": true, "auto_delete": false, "internal": false, "arguments": {}});
            make(!there && !foreign, put(format!("/exchanges/{vhost}/{}", segment(name)), body))
        }
        Thing::Queue { name, own, durable, auto_delete, exclusive, arguments } => {
            let there = observed.queues.iter().any(|queue| queue.name == *name);
            // An exclusive queue belongs to the connection that declares it.
            let wanted = (apply.queue || !own) && !exclusive;
            let body = json!({"durable": durable, "auto_delete": auto_delete, "arguments": arguments});
            make(wanted && !there, put(format!("/queues/{vhost}/{}", segment(name)), body))
        }
        Thing::Binding { exchange, queue, routing_key, own } => {
            let there = observed.bindings.iter().any(|binding| {
                (&binding.source, &binding.destination, &binding.routing_key)
                    == (exchange, queue, routing_key)
            });
            let queue_there = observed.queues.iter().any(|there| there.name == *queue);
            let path = format!("/bindings/{vhost}/e/{}/q/{}", segment(exchange), segment(queue));
            let body = json!({"routing_key": routing_key, "arguments": {}});
            make((apply.queue || !own || queue_there) && !there, Request { method: "POST", path, body })
        }
        Thing::Policy { name, pattern, definition } => {
            let there = observed.policies.iter().find(|policy| policy.name == *name);
            let body =
                json!({"pattern": pattern, "definition": definition, "priority": 0, "apply-to": "queues"});
            let request = put(format!("/policies/{vhost}/{}", segment(name)), body);
            match there {
                Some(there) if there.pattern == *pattern && there.definition == *definition => None,
                Some(_) => Some((Verb::Change, request)),
                None => Some((Verb::Make, request)),
            }
        }
        Thing::Permissions { user, configure, write, read } => {
            if !apply.grant {
                return None;
            }
            let path = format!("/permissions/{vhost}/{}", segment(user));
            let request = |configure: &str, write: &str, read: &str| {
                put(path.clone(), json!({"configure": configure, "write": write, "read": read}))
            };
            match &observed.permissions {
                Ok(Some(there)) => {
                    let wider = [(&there.configure, configure), (&there.write, write), (&there.read, read)]
                        .map(|(there, wanted)| widened(there, wanted));
                    if wider == [&there.configure, &there.write, &there.read].map(String::clone) {
                        return None;
                    }
                    Some((Verb::Widen, request(&wider[0], &wider[1], &wider[2])))
                }
                _ => Some((Verb::Make, request(configure, write, read))),
            }
        }
    }
}

/// What is allowed already stays allowed: the user may do other work too.
fn widened(there: &str, wanted: &str) -> String {
    let alternatives = wanted.strip_prefix("^(").and_then(|rest| rest.strip_suffix(")$"));
    let covered = |pattern: &str| {
        // Each alternative is a name, or a prefix and `.+`.
        let name = pattern.replace('\\', "");
        let name = name.strip_suffix(".+").map_or(name.clone(), |prefix| format!("{prefix}any"));
        match allows(there, &name) {
            Some(allowed) => allowed,
            // An expression that is not read here: only what stands in it as it is wanted counts.
            None => there.split(['^', '(', ')', '$', '|']).any(|alternative| alternative == pattern),
        }
    };
    match (there, alternatives) {
        (_, None) => there.to_owned(),
        (_, Some(alternatives)) if alternatives.split('|').all(covered) => there.to_owned(),
        ("" | "^$", _) => wanted.to_owned(),
        _ => format!("{there}|{wanted}"),
    }
}

/// Escapes everything but letters, digits and `-_~`, dots too, so that no name is a path.
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{
        comparison::tests::{true_to, without},
        plan::tests::plan,
    };

    const NOTHING: fn() -> Observed = || Observed {
        vhost: false,
        exchanges: Vec::new(),
        queues: Vec::new(),
        bindings: Vec::new(),
        policies: Vec::new(),
        permissions: Ok(None),
    };
    const LETTERS: &[&str] = &["dead_letter.exchange=graves"];

    fn texts(flags: &[&str], observed: &Observed, apply: Apply) -> Vec<String> {
        let steps = steps(&plan(flags), observed, apply).expect("can be made");
        steps.into_iter().map(|step| format!("{} {}", step.request.method, step.request.path)).collect()
    }

    #[test]
    fn n14_on_an_empty_broker_everything_shared_is_made_in_order() {
        assert_eq!(
            texts(LETTERS, &NOTHING(), Apply::default()),
            [
                "PUT /vhosts/faf",
                "PUT /exchanges/faf/players",
                "PUT /exchanges/faf/graves",
                "PUT /queues/faf/graves",
                "POST /bindings/faf/e/graves/q/graves",
                "PUT /policies/faf/players%2Elobby",
                "PUT /policies/faf/graves%2Edead-letters",
            ]
        );
        let all = texts(LETTERS, &NOTHING(), Apply { queue: true, grant: true });
        for path in [
            "PUT /queues/faf/players%2Elobby%2Eclient%2Enotify%2Epod-7",
            "POST /bindings/faf/e/players/q/players%2Elobby%2Eclient%2Enotify%2Epod-7",
            "PUT /permissions/faf/lobby",
        ] {
            assert!(all.iter().any(|text| text == path), "{path}: {all:?}");
        }
    }

    #[test]
    fn n14_what_is_there_is_not_made_again() {
        let all = Apply { queue: true, grant: true };
        assert_eq!(texts(LETTERS, &true_to(&plan(LETTERS)), all), [""; 0]);
        let shared = ["queue.mode=shared", "dead_letter.exchange=graves"];
        assert_eq!(texts(&shared, &true_to(&plan(&shared)), Apply::default()), [""; 0]);
        let exclusive = ["queue.reliable=false"];
        let absent = without(&true_to(&plan(&exclusive)), "players.lobby.client.notify.pod-7");
        assert!(!texts(&exclusive, &absent, all).iter().any(|text| text.contains("/queues/")));
    }

    #[test]
    fn n14_what_cannot_be_changed_stops_everything() {
        let plan = plan(LETTERS);
        let mut observed = true_to(&plan);
        observed.exchanges[1].kind = "fanout".into();
        observed.policies.clear();
        let stuck = steps(&plan, &observed, Apply::default()).expect_err("cannot be mended");
        assert_eq!(stuck.len(), 1);
        assert!(stuck[0].text.contains("fanout"), "{stuck:?}");
    }

    #[test]
    fn n14_permissions_are_widened_and_never_narrowed() {
        let wanted = r"^(players|players\.lobby\.client\.notify\..+)$";
        for (there, becomes) in [
            (".*", ".*"),
            ("", wanted),
            ("^$", wanted),
            ("^other$", r"^other$|^(players|players\.lobby\.client\.notify\..+)$"),
            (r"^(players|players\.lobby\.client\.notify\..+)$", wanted),
            ("^players", "^players"),
            (r"^players-archive$", r"^players-archive$|^(players|players\.lobby\.client\.notify\..+)$"),
            // With what only RabbitMQ can read, the same words must stand there.
            (
                r"^(?=p)(players|players\.lobby\.client\.notify\..+)$",
                r"^(?=p)(players|players\.lobby\.client\.notify\..+)$",
            ),
            (r"^(?=p)players-x$", r"^(?=p)players-x$|^(players|players\.lobby\.client\.notify\..+)$"),
        ] {
            assert_eq!(widened(there, wanted), becomes, "{there}");
        }
        assert_eq!(widened("^x$", ""), "^x$", "nothing is wanted");
    }

    #[test]
    fn no_name_can_be_a_path() {
        assert_eq!(segment("/"), "%2F");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("é a-b"), "%C3%A9%20a-b");
    }
}
