//! What is there, as the management API tells it. Fields that nobody needs are not read.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// One virtual host.
#[derive(Debug, Clone)]
pub struct Observed {
    pub vhost: bool,
    pub exchanges: Vec<ObservedExchange>,
    pub queues: Vec<ObservedQueue>,
    pub bindings: Vec<ObservedBinding>,
    pub policies: Vec<ObservedPolicy>,
    /// Of the lobby's user; or why they cannot be known.
    pub permissions: Result<Option<Permissions>, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ObservedExchange {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ObservedQueue {
    pub name: String,
    pub durable: bool,
    pub auto_delete: bool,
    #[serde(default)]
    pub exclusive: bool,
    #[serde(default)]
    pub arguments: BTreeMap<String, Value>,
    /// Absent until the broker has counted them, some seconds after the queue was made.
    pub consumers: Option<u64>,
    pub messages: Option<u64>,
    /// A table; an empty one may be a list or null.
    #[serde(default)]
    pub effective_policy_definition: Value,
}

impl ObservedQueue {
    /// Whether the broker will delete it by itself, by its arguments, its nature, or a policy.
    pub fn goes_by_itself(&self) -> bool {
        let policy = self.effective_policy_definition.get("expires").is_some();
        self.exclusive || self.auto_delete || policy || self.arguments.contains_key("x-expires")
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct ObservedBinding {
    /// Empty for the default exchange, which every queue is bound to.
    pub source: String,
    pub destination: String,
    pub destination_type: String,
    pub routing_key: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ObservedPolicy {
    pub name: String,
    pub pattern: String,
    pub definition: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Permissions {
    pub configure: String,
    pub write: String,
    pub read: String,
}
