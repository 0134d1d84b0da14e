use super::*;
use crate::topology::{
    observed::{ObservedBinding, ObservedExchange, ObservedPolicy, Permissions},
    plan::tests::plan,
};

const QUEUE: &str = "players.lobby.client.notify.pod-7";
const FLAGS: &[&str] = &["dead_letter.exchange=graves"];

/// A broker that has exactly what is planned.
pub(in crate::topology) fn true_to(plan: &Plan) -> Observed {
    let mut observed = Observed {
        vhost: true,
        exchanges: Vec::new(),
        queues: Vec::new(),
        bindings: Vec::new(),
        policies: Vec::new(),
        permissions: Ok(None),
    };
    for thing in plan.things.clone() {
        match thing {
            Thing::Vhost { .. } => {}
            Thing::Exchange { name, .. } => observed.exchanges.push(ObservedExchange {
                name,
                kind: "topic".into(),
                durable: true,
                auto_delete: false,
                internal: false,
            }),
            Thing::Queue { name, durable, auto_delete, exclusive, arguments, .. } => {
                observed.bindings.push(binding("", &name, &name));
                observed.queues.push(ObservedQueue {
                    durable,
                    auto_delete,
                    exclusive,
                    arguments,
                    ..queue(&name, Some(1))
                });
            }
            Thing::Binding { exchange, queue, routing_key, .. } => {
                observed.bindings.push(binding(&exchange, &queue, &routing_key));
            }
            Thing::Policy { name, pattern, definition } => {
                observed.policies.push(ObservedPolicy { name, pattern, definition });
            }
            Thing::Permissions { configure, write, read, .. } => {
                observed.permissions = Ok(Some(Permissions { configure, write, read }));
            }
        }
    }
    observed
}

/// The same without one queue and its bindings.
pub(in crate::topology) fn without(observed: &Observed, queue: &str) -> Observed {
    let mut observed = observed.clone();
    observed.queues.retain(|there| there.name != queue);
    observed.bindings.retain(|binding| binding.destination != queue);
    observed
}

fn queue(name: &str, consumers: Option<u64>) -> ObservedQueue {
    ObservedQueue {
        name: name.to_owned(),
        durable: true,
        auto_delete: false,
        exclusive: false,
        arguments: BTreeMap::new(),
        consumers,
        messages: Some(3),
        effective_policy_definition: Value::Null,
    }
}

fn binding(source: &str, destination: &str, routing_key: &str) -> ObservedBinding {
    ObservedBinding {
        source: source.into(),
        destination: destination.into(),
        destination_type: "queue".into(),
        routing_key: routing_key.into(),
    }
}

/// What is found after `change`, as severity and finding.
fn found(flags: &[&str], change: impl FnOnce(&mut Observed)) -> Vec<Finding> {
    let plan = plan(flags);
    let mut observed = true_to(&plan);
    change(&mut observed);
    compare(&plan, &observed)
}

#[test]
fn n14_where_all_is_as_planned_nothing_is_found() {
    for flags in [FLAGS, &[], &["queue.mode=shared"], &["queue.reliable=false"], &["queue.bindings=maps=k"]] {
        assert_eq!(found(flags, |_| {}), [], "{flags:?}");
    }
}

#[test]
fn n07_n14_each_difference_is_named_with_both_values() {
    type Change = fn(&mut Observed);
    let cases: &[(Change, &str, &[&str])] = &[
        (|o| o.vhost = false, "vhost_missing", &["faf"]),
        (|o| o.exchanges.retain(|e| e.name != "players"), "exchange_missing", &["players"]),
        (|o| o.exchanges.retain(|e| e.name != "graves"), "exchange_missing", &["graves"]),
        (|o| o.exchanges[0].kind = "direct".into(), "exchange_differs", &["type is direct", "topic"]),
        (|o| o.exchanges[0].durable = false, "exchange_differs", &["durable is false", "true"]),
        (|o| o.exchanges[0].auto_delete = true, "exchange_differs", &["auto_delete is true"]),
        (|o| o.exchanges[1].internal = true, "exchange_differs", &["graves", "internal is true"]),
        (|o| *o = without(o, QUEUE), "queue_missing", &[QUEUE]),
        (|o| *o = without(o, "graves"), "queue_missing", &["graves"]),
        (|o| o.queues[0].durable = false, "queue_differs", &["durable is false, planned is true"]),
        (
            |o| {
                o.queues[0].arguments.insert("x-expires".into(), json!(1000));
            },
            "queue_differs",
            &["x-expires is 1000, planned is 600000"],
        ),
        (
            |o| {
                o.queues[0].arguments.clear();
            },
            "queue_differs",
            &["x-expires is not set, planned is 600000"],
        ),
        (
            |o| {
                o.queues[1].arguments.insert("x-message-ttl".into(), json!(5));
            },
            "queue_differs",
            &["graves", "x-message-ttl is 5, planned is not set"],
        ),
        (
            |o| o.bindings.retain(|b| b.routing_key != "request.client.notify"),
            "binding_missing",
            &[QUEUE, "players", "request.client.notify"],
        ),
        (|o| o.bindings.retain(|b| b.routing_key != "#"), "binding_missing", &["graves", "#"]),
        (
            |o| o.bindings.retain(|b| b.routing_key != "lobby.canary.pod-7"),
            "binding_missing",
            &["lobby.canary.pod-7"],
        ),
        (|o| o.bindings.push(binding("players", QUEUE, "old.key")), "binding_unexpected", &["old.key"]),
        (|o| o.bindings.push(binding("other", "graves", "#")), "binding_unexpected", &["other"]),
        (|o| o.permissions = Ok(None), "permission_missing", &["lobby", "faf"]),
        (
            |o| o.queues.push(queue("players.lobby.client.notify.pod-1", Some(0))),
            "queue_orphaned",
            &["pod-1", "3 messages", "never expires"],
        ),
    ];
    for (change, finding, says) in cases {
        let findings = found(FLAGS, change);
        let [one] = &findings[..] else { panic!("{finding}: {findings:?}") };
        assert_eq!((one.finding, one.severity), (*finding, Severity::Wrong), "{one:?}");
        for word in *says {
            assert!(one.text.contains(word), "{word}: {one:?}");
        }
        assert!(!one.fix.is_empty());
    }
}

#[test]
fn n14_each_missing_permission_is_named() {
    let says = |configure: &str, write: &str, read: &str| -> Vec<String> {
        let permissions = Permissions { configure: configure.into(), write: write.into(), read: read.into() };
        found(FLAGS, |o| o.permissions = Ok(Some(permissions))).into_iter().map(|f| f.text).collect()
    };
    assert_eq!(says(".*", ".*", ".*"), [""; 0]);
    let texts = says(".*", "^players", "");
    for (right, kind, name) in [
        ("write", "exchange", "graves"),
        ("write", "exchange", "amq.default"),
        ("write", "queue", "graves"),
        ("read", "exchange", "players"),
        ("read", "queue", QUEUE),
        ("read", "exchange", "graves"),
    ] {
        let wanted = format!("may not {right} {kind} {name:?}");
        assert!(texts.iter().any(|text| text.contains(&wanted)), "{wanted}: {texts:?}");
    }
    let looked_for =
        found(&["queue.declare=passive", "self_check.interval=off", "receipts.enabled=false"], |o| {
            o.permissions =
                Ok(Some(Permissions { configure: String::new(), write: String::new(), read: ".*".into() }));
        });
    assert_eq!(looked_for, [], "who only looks needs only to read");
}

#[test]
fn what_needs_nobody_to_act_is_a_note() {
    type Change = fn(&mut Observed);
    let cases: &[(&[&str], Change, &str)] = &[
        (FLAGS, |o| o.policies.clear(), "policy_missing"),
        (FLAGS, |o| o.policies[0].pattern = "x".into(), "policy_differs"),
        (FLAGS, |o| o.permissions = Err("forbidden".into()), "permission_unknown"),
        (FLAGS, |o| o.queues[0].consumers = Some(0), "queue_not_consumed"),
        (&["queue.declare=passive"], |o| o.queues[0].arguments.clear(), "queue_differs"),
        (
            FLAGS,
            |o| {
                let mut orphan = queue("players.lobby.client.notify.pod-1", Some(0));
                orphan.arguments.insert("x-expires".into(), json!(600_000));
                o.queues.push(orphan);
            },
            "queue_orphaned",
        ),
    ];
    for (flags, change, finding) in cases {
        let findings = found(flags, change);
        assert!(!findings.is_empty(), "{finding}");
        for one in findings {
            assert_eq!((one.finding, one.severity), (*finding, Severity::Note), "{one:?}");
        }
    }
}

#[test]
fn what_is_nobodys_fault_is_not_told() {
    let findings = found(FLAGS, |o| {
        o.queues.push(queue("players.lobby.client.notify.pod-1", Some(1))); // consumed
        o.queues.push(queue("players.lobby.client.notify.pod-2", None)); // not counted yet
        o.queues.push(queue("somebody-elses", Some(0)));
        o.bindings.push(binding("players", "somebody-elses", "#"));
        o.queues[0].arguments.insert("x-queue-type".into(), json!("classic"));
    });
    assert_eq!(findings, []);
}
