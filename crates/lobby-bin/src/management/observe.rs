//! Reads what a plan is compared with; changes nothing.

use serde_json::Value;

use super::{Management, ManagementError};
use crate::topology::{Observed, Plan, segment};

/// What is there of `plan`'s virtual host.
///
/// # Errors
/// [`ManagementError`]: not all could be read. Permissions that may not be read are no error: the answer says so.
pub async fn observe(management: &Management, plan: &Plan) -> Result<Observed, ManagementError> {
    let vhost = segment(&plan.vhost);
    let mut observed = Observed {
        vhost: true,
        exchanges: Vec::new(),
        queues: Vec::new(),
        bindings: Vec::new(),
        policies: Vec::new(),
        permissions: Ok(None),
    };
    // A user without the tag administrator may not ask for the virtual host, but gets its lists.
    let listed: Option<Value> = match management.get(&format!("/vhosts/{vhost}")).await {
        Err(ManagementError::Forbidden { .. }) => Some(Value::Null),
        other => other?,
    };
    if listed.is_none() {
        observed.vhost = false;
        return Ok(observed);
    }
    let columns =
        "name,durable,auto_delete,exclusive,arguments,consumers,messages,effective_policy_definition";
    observed.exchanges = management.get(&format!("/exchanges/{vhost}")).await?.unwrap_or_default();
    observed.queues =
        management.get(&format!("/queues/{vhost}?columns={columns}")).await?.unwrap_or_default();
    observed.bindings = management.get(&format!("/bindings/{vhost}")).await?.unwrap_or_default();
    let permissions = management.get(&format!("/permissions/{vhost}/{}", segment(&plan.user))).await;
    observed.permissions = match permissions {
        Ok(permissions) => Ok(permissions),
        Err(error @ ManagementError::Forbidden { .. }) => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    observed.policies = match management.get(&format!("/policies/{vhost}")).await {
        Ok(policies) => policies.unwrap_or_default(),
        // Only a policymaker may look at policies; what they do shows on the queues.
        Err(ManagementError::Forbidden { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(observed)
}
