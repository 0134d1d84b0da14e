//! A vhost of one's own, so that tests can share a broker without meeting.

use anyhow::Context as _;
use serde_json::json;

use super::address::{Address, segment};
use super::management::Management;
use crate::process::blocking;

/// A vhost, deleted on drop. Shared, and left alone, where the management API is out of reach.
#[derive(Debug)]
pub(crate) struct Vhost {
    name: String,
    url: String,
    owner: Option<Management>,
}

impl Vhost {
    /// Makes a fresh vhost; its name begins with `hint`.
    pub(crate) async fn fresh(
        address: &Address,
        management: &Management,
        hint: &str,
    ) -> anyhow::Result<Self> {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let name = format!("{}-{:08x}", hint.chars().map(plain).collect::<String>(), fastrand::u32(..));
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        management.put(&format!("/vhosts/{name}"), &json!({})).await.context("make a vhost")?;
        let vhost = Self { url: address.with_vhost(&name), name, owner: Some(management.clone()) };
        let permissions = format!("/permissions/{}/{}", vhost.name, segment(management.user()));
        management.put(&permissions, &all).await.context("open the vhost to its user")?;
        Ok(vhost)
    }

    /// The vhost of the broker's own URL, for all: use names of exchanges and instances that nobody else has.
    pub(crate) fn shared(address: &Address) -> Self {
        Self { name: address.vhost(), url: address.url(), owner: None }
    }

    /// The URL of the broker with this vhost.
    pub(crate) fn amqp_url(&self) -> &str {
        &self.url
    }

    /// The vhost's name, decoded.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether others use it too.
    pub(crate) fn is_shared(&self) -> bool {
        self.owner.is_none()
    }

    /// Deletes it now; the broker closes the connections that are left in it.
    pub(crate) async fn delete(mut self) -> anyhow::Result<()> {
        match self.owner.take() {
            Some(management) => management.delete(&format!("/vhosts/{}", self.name)).await,
            None => Ok(()),
        }
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        if let Some(management) = self.owner.take() {
            // The broker may be gone already, and its vhosts with it.
            let path = format!("/vhosts/{}", self.name);
            let _ = blocking(|| management.request_blocking("DELETE", &path, None));
        }
    }
}
