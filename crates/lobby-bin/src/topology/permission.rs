//! What the lobby's user must be allowed, and whether it is.

use std::collections::BTreeSet;

use notify_amqp::{Declare, Topology};
use regex::Regex;

/// The three permissions of RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    Configure,
    Write,
    Read,
}

impl Right {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// One right to one exchange or queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) right: Right,
    /// `exchange` or `queue`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    /// What to grant for it, without anchors: a queue that each instance has is granted to all of them.
    pattern: String,
}

impl Need {
    fn new(right: Right, kind: &'static str, name: &str, prefix: Option<&str>) -> Self {
        let pattern = match prefix {
            Some(prefix) => format!("{}.+", regex::escape(prefix)),
            None => regex::escape(name),
        };
        Self { right, kind, name: name.to_owned(), pattern }
    }

    pub(super) fn read_queue(name: &str, prefix: Option<&str>) -> Self {
        Self::new(Right::Read, "queue", name, prefix)
    }

    pub(super) fn write_exchange(name: &str) -> Self {
        Self::new(Right::Write, "exchange", name, None)
    }

    /// What declaring takes: looking for what is there takes no permission.
    pub(super) fn of(topology: &Topology, prefix: Option<&str>) -> Vec<Self> {
        if topology.declare != Declare::Active {
            return Vec::new();
        }
        let queue = topology.queue.as_str();
        let mut needs = vec![
            Self::new(Right::Configure, "exchange", &topology.exchange, None),
            Self::new(Right::Configure, "queue", queue, prefix),
            Self::new(Right::Write, "queue", queue, prefix), // to bind it
            Self::new(Right::Read, "exchange", &topology.exchange, None), // to bind to it
        ];
        let more = topology.more_bindings.iter();
        needs.extend(more.map(|binding| Self::new(Right::Read, "exchange", &binding.exchange, None)));
        needs
    }

    /// Expressions for configure, write and read that allow all of `needs` and nothing else.
    pub(super) fn patterns(needs: &[Self]) -> (String, String, String) {
        let of = |right| {
            let patterns: BTreeSet<_> =
                needs.iter().filter(|need| need.right == right).map(|need| need.pattern.as_str()).collect();
            match patterns.len() {
                0 => String::new(),
                _ => format!("^({})$", patterns.into_iter().collect::<Vec<_>>().join("|")),
            }
        };
        (of(Right::Configure), of(Right::Write), of(Right::Read))
    }
}

/// Whether RabbitMQ would let `expression` match `name`; `None` where it is written in a way that only RabbitMQ reads.
pub(super) fn allows(expression: &str, name: &str) -> Option<bool> {
    if expression.is_empty() {
        return Some(false); // RabbitMQ takes it for ^$
    }
    Some(Regex::new(expression).ok()?.is_match(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_rabbitmq_reads_them() {
        for (expression, name, allowed) in [
            (".*", "players", Some(true)),
            ("", "players", Some(false)),
            ("^$", "players", Some(false)),
            ("lay", "players", Some(true)), // not anchored
            ("^(a|players)$", "players", Some(true)),
            ("^(a|player)$", "players", Some(false)),
            ("(?=x)y", "players", None),
            ("(", "players", None),
        ] {
            assert_eq!(allows(expression, name), allowed, "{expression}");
        }
    }
}
