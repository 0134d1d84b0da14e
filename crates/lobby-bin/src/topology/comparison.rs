//! The plan beside what is there.

use std::collections::BTreeMap;

use notify_amqp::Declare;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    observed::{Observed, ObservedBinding, ObservedQueue},
    permission::{Right, allows},
    plan::{Plan, Thing, plain},
};

/// Whether somebody has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The lobby does not work as configured, or leaves something behind.
    Wrong,
    /// Worth knowing.
    Note,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// One word for scripts, such as `queue_differs`.
    pub finding: &'static str,
    /// What it is about.
    pub name: String,
    /// A sentence with the values.
    pub text: String,
    /// What to do.
    pub fix: String,
}

/// Every difference between `plan` and `observed`, what is wrong first.
pub fn compare(plan: &Plan, observed: &Observed) -> Vec<Finding> {
    let mut found = Findings { plan, findings: Vec::new() };
    if !observed.vhost {
        let text = format!("virtual host {:?} is not there", plan.vhost);
        found.wrong("vhost_missing", &plan.vhost, text, "lobby topology apply, or correct broker.vhost");
        return found.findings;
    }
    for thing in &plan.things {
        match thing {
            Thing::Vhost { .. } => {}
            Thing::Exchange { name, foreign } => found.exchange(name, *foreign, observed),
            Thing::Queue { name, own, durable, auto_delete, exclusive, arguments } => {
                match observed.queues.iter().find(|queue| queue.name == *name) {
                    None => found.missing_queue(name, *own),
                    Some(queue) => {
                        let flags = [
                            ("durable", *durable, queue.durable),
                            ("auto_delete", *auto_delete, queue.auto_delete),
                            ("exclusive", *exclusive, queue.exclusive),
                        ];
                        found.queue(name, queue, flags, arguments);
                    }
                }
            }
            Thing::Binding { exchange, queue, routing_key, .. } => {
                found.binding(exchange, queue, routing_key, observed);
            }
            Thing::Policy { name, pattern, definition } => found.policy(name, pattern, definition, observed),
            Thing::Permissions { .. } => found.permissions(observed),
        }
    }
    found.unexpected_bindings(observed);
    found.orphans(observed);
    found.findings.sort_by_key(|finding| finding.severity);
    found.findings
}

struct Findings<'a> {
    plan: &'a Plan,
    findings: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, severity: Severity, finding: &'static str, name: &str, text: String, fix: &str) {
        self.findings.push(Finding { severity, finding, name: name.to_owned(), text, fix: fix.to_owned() });
    }

    fn wrong(&mut self, finding: &'static str, name: &str, text: String, fix: &str) {
        self.add(Severity::Wrong, finding, name, text, fix);
    }

    fn note(&mut self, finding: &'static str, name: &str, text: String, fix: &str) {
        self.add(Severity::Note, finding, name, text, fix);
    }

    /// Where the lobby does not declare, it takes properties as they are.
    fn differs(&mut self, finding: &'static str, name: &str, text: String, fix: &str) {
        let severity = if self.plan.declare == Declare::Active { Severity::Wrong } else { Severity::Note };
        self.add(severity, finding, name, text, fix);
    }

    fn exchange(&mut self, name: &str, foreign: bool, observed: &Observed) {
        let Some(exchange) = observed.exchanges.iter().find(|exchange| exchange.name == name) else {
            let fix = if foreign {
                "whoever owns it makes it; or take it out of queue.bindings"
            } else {
                "lobby topology apply, or start the lobby"
            };
            return self.wrong("exchange_missing", name, format!("exchange {name:?} is not there"), fix);
        };
        if foreign {
            return;
        }
        for (what, wanted, there) in [
            ("type", json!("topic"), json!(exchange.kind)),
            ("durable", json!(true), json!(exchange.durable)),
            ("auto_delete", json!(false), json!(exchange.auto_delete)),
            ("internal", json!(false), json!(exchange.internal)),
        ] {
            if wanted != there {
                let (wanted, there) = (plain(&wanted), plain(&there));
                let text = format!("exchange {name:?}: {what} is {there}, planned is {wanted}");
                let fix = "delete it so that it is made anew, or choose another exchange";
                self.differs("exchange_differs", name, text, fix);
            }
        }
    }

    fn missing_queue(&mut self, name: &str, own: bool) {
        let fix = match (own, self.plan.declare) {
            (true, Declare::Active) => {
                "start the lobby, which makes it; `--without-queue` leaves it out of the check"
            }
            (true, _) => "lobby topology apply --queue",
            (false, _) => "lobby topology apply, or start the lobby",
        };
        self.wrong("queue_missing", name, format!("queue {name:?} is not there"), fix);
    }

    fn queue(
        &mut self,
        name: &str,
        queue: &ObservedQueue,
        flags: [(&str, bool, bool); 3],
        arguments: &BTreeMap<String, Value>,
    ) {
        let flags = flags.map(|(what, wanted, there)| (what, Some(json!(wanted)), Some(json!(there))));
        let names =
            arguments.keys().chain(queue.arguments.keys().filter(|name| !arguments.contains_key(*name)));
        let arguments = names
            .map(|name| (name.as_str(), arguments.get(name).cloned(), queue.arguments.get(name).cloned()));
        for (what, wanted, there) in flags.into_iter().chain(arguments) {
            // Newer brokers write down the type that a queue got by default.
            if wanted == there || (what == "x-queue-type" && wanted.is_none()) {
                continue;
            }
            let shown = |value: Option<Value>| value.map_or("not set".to_owned(), |value| plain(&value));
            let text = format!("queue {name:?}: {what} is {}, planned is {}", shown(there), shown(wanted));
            let fix = "delete the queue (what waits in it is lost) so that it is made anew, or set the key to what is there";
            self.differs("queue_differs", name, text, fix);
        }
        if name == self.plan.queue && queue.consumers == Some(0) {
            let text = format!("nobody consumes from queue {name:?}");
            self.note(
                "queue_not_consumed",
                name,
                text,
                "start the lobby; `/ready` and its log say what keeps it away",
            );
        }
    }

    fn binding(&mut self, exchange: &str, queue: &str, routing_key: &str, observed: &Observed) {
        // A missing queue has no bindings, and is told already.
        if !observed.queues.iter().any(|there| there.name == queue) {
            return;
        }
        let there = observed.bindings.iter().any(|binding| {
            binding.source == exchange
                && binding.destination == queue
                && binding.destination_type == "queue"
                && binding.routing_key == routing_key
        });
        if !there {
            let text = format!("queue {queue:?} is not bound to exchange {exchange:?} with {routing_key:?}");
            let fix = "lobby topology apply, or restart the lobby: it binds whenever it connects";
            self.wrong("binding_missing", queue, text, fix);
        }
    }

    /// Bindings that nobody planned bring messages that nobody expects. They are never taken away by the lobby.
    fn unexpected_bindings(&mut self, observed: &Observed) {
        let planned = |binding: &&ObservedBinding| {
            self.plan.things.iter().any(|thing| {
                    matches!(thing, Thing::Binding { exchange, queue, routing_key, .. }
                        if *exchange == binding.source && *queue == binding.destination && *routing_key == binding.routing_key)
                })
        };
        let ours = |name: &str| {
            self.plan
                .things
                .iter()
                .any(|thing| matches!(thing, Thing::Queue { name: queue, .. } if queue == name))
        };
        let unexpected: Vec<_> = observed
            .bindings
            .iter()
            .filter(|binding| !binding.source.is_empty() && binding.destination_type == "queue")
            .filter(|binding| ours(&binding.destination) && !planned(binding))
            .cloned()
            .collect();
        for binding in unexpected {
            let (queue, exchange, key) = (&binding.destination, &binding.source, &binding.routing_key);
            let text = format!(
                "queue {queue:?} is bound to exchange {exchange:?} with {key:?}, which is not planned"
            );
            let fix = "remove the binding, or add it to queue.routing_keys or queue.bindings";
            self.wrong("binding_unexpected", queue, text, fix);
        }
    }

    fn policy(
        &mut self,
        name: &str,
        pattern: &str,
        definition: &BTreeMap<String, Value>,
        observed: &Observed,
    ) {
        let fix = "lobby topology apply; without it the queues' own arguments count";
        match observed.policies.iter().find(|policy| policy.name == name) {
            None => self.note("policy_missing", name, format!("policy {name:?} is not there"), fix),
            Some(there) if there.pattern != pattern || there.definition != *definition => {
                let text = format!(
                    "policy {name:?} is {}, planned is {}",
                    shown(&there.pattern, &there.definition),
                    shown(pattern, definition)
                );
                self.note("policy_differs", name, text, "lobby topology apply");
            }
            Some(_) => {}
        }
    }

    fn permissions(&mut self, observed: &Observed) {
        let user = self.plan.user.clone();
        let grant = "lobby topology apply --grant, or rabbitmqctl set_permissions";
        let permissions = match &observed.permissions {
            Err(reason) => {
                let text = format!("the permissions of user {user:?} are not known: {reason}");
                let fix = "give broker.management_url a user with the tag administrator";
                return self.note("permission_unknown", &user, text, fix);
            }
            Ok(None) => {
                let text = format!("user {user:?} has no permissions in virtual host {:?}", self.plan.vhost);
                return self.wrong("permission_missing", &user, text, grant);
            }
            Ok(Some(permissions)) => permissions,
        };
        for need in self.plan.needs.clone() {
            let expression = match need.right {
                Right::Configure => &permissions.configure,
                Right::Write => &permissions.write,
                Right::Read => &permissions.read,
            };
            let right = need.right.as_str();
            match allows(expression, &need.name) {
                Some(true) => {}
                Some(false) => {
                    let text = format!(
                        "user {user:?} may not {right} {} {:?}: it may {right} what matches {expression:?}",
                        need.kind, need.name
                    );
                    self.wrong("permission_missing", &user, text, grant);
                }
                None => {
                    let text = format!(
                        "whether user {user:?} may {right} {} {:?} is not known: {expression:?} cannot be read here",
                        need.kind, need.name
                    );
                    self.note("permission_unknown", &user, text, "look at it by hand");
                }
            }
        }
    }

    /// Queues of other instances that nobody consumes from.
    fn orphans(&mut self, observed: &Observed) {
        let Some(prefix) = self.plan.instance_prefix.clone() else { return };
        let others = observed.queues.iter().filter(|queue| {
            queue.name.starts_with(&prefix) && queue.name != self.plan.queue && queue.consumers == Some(0)
        });
        for queue in others {
            let name = queue.name.as_str();
            let messages = queue.messages.unwrap_or_default();
            let text = format!("queue {name:?} has no consumer and {messages} messages");
            if queue.goes_by_itself() {
                self.note(
                    "queue_orphaned",
                    name,
                    format!("{text}; it expires by itself"),
                    "nothing, unless its lobby should run",
                );
            } else {
                self.wrong(
                    "queue_orphaned",
                    name,
                    format!("{text}, and never expires"),
                    "delete it, or apply the policy that makes it expire",
                );
            }
        }
    }
}

fn shown(pattern: &str, definition: &BTreeMap<String, Value>) -> String {
    let pairs: Vec<_> = definition.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
    format!("{} for {pattern}", pairs.join(" "))
}

#[cfg(test)]
pub(super) mod tests;
