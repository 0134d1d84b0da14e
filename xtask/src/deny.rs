//! Whether what is built in may be: the licences, crates and sources that `deny.toml` allows, and known advisories.
//!
//! `cargo deny` does all of it where it is installed. It takes longer to build than the lobby does, so where it is not,
//! licences, bans and sources are judged here, by the same file; advisories are then left out, and CI says so.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::build::cargo;

const POLICY: &str = "deny.toml";

/// Checks the workspace; what was left out, and why.
///
/// # Errors
/// A crate that `deny.toml` does not allow, by name.
pub(crate) async fn check() -> anyhow::Result<Option<String>> {
    if !succeeds(&["deny", "--version"]).await? {
        own_check().await?;
        return Ok(Some(
            "known advisories: cargo-deny is not installed (cargo install --locked cargo-deny)".to_owned(),
        ));
    }
    ensure!(
        succeeds(&["deny", "check", "licenses", "bans", "sources"]).await?,
        "cargo deny found what may not be"
    );
    if !succeeds(&["deny", "fetch", "db"]).await? {
        return Ok(Some("known advisories: their database cannot be reached".to_owned()));
    }
    ensure!(succeeds(&["deny", "check", "advisories"]).await?, "cargo deny found a known advisory");
    Ok(None)
}

async fn succeeds(arguments: &[&str]) -> anyhow::Result<bool> {
    let mut command = cargo();
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    if arguments.contains(&"--version") {
        command.stderr(Stdio::null());
    }
    Ok(command.status().await.context("run cargo deny")?.success())
}

async fn own_check() -> anyhow::Result<()> {
    let policy = std::fs::read_to_string(POLICY)
        .with_context(|| format!("read {POLICY}; run from the repository's root"))?;
    let policy: Policy = toml::from_str(&policy).with_context(|| format!("read {POLICY}"))?;
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--locked", "--all-features"]);
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await.context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", output.status);
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("read cargo's metadata")?;
    let faults = faults(&policy, &metadata.packages);
    ensure!(faults.is_empty(), "{POLICY} does not allow:\n  {}", faults.join("\n  "));
    println!("{} crates keep to {POLICY}", metadata.packages.len());
    Ok(())
}

/// The part of `deny.toml` that is read here.
#[derive(Debug, Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None`: a path in this repository.
    source: Option<String>,
}

/// What of `packages` the policy does not allow. Pure.
fn faults(policy: &Policy, packages: &[Package]) -> Vec<String> {
    let banned: BTreeMap<_, _> =
        policy.bans.deny.iter().map(|ban| (ban.name.as_str(), ban.reason.as_str())).collect();
    let mut faults = Vec::new();
    for Package { name, version, license, source } in packages {
        if let Some(reason) = banned.get(name.as_str()) {
            faults.push(format!("{name} {version}: banned, {reason}"));
        }
        if let Some(source) = source {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            if !policy.sources.allow_registry.contains(registry) {
                faults.push(format!("{name} {version}: from {source}"));
            }
        }
        if let Err(fault) = licensed(&policy.licenses, name, license.as_deref()) {
            faults.push(format!("{name} {version}: {fault}"));
        }
    }
    faults
}

fn licensed(policy: &Licenses, name: &str, license: Option<&str>) -> Result<(), String> {
    let license = license.ok_or("names no licence")?;
    // As older crates write it: a slash for a choice.
    let expression = Expression::parse_mode(license, ParseMode::LAX)
        .map_err(|error| format!("licence {license:?}: {}", error.reason))?;
    let exceptions = policy.exceptions.iter().filter(|exception| exception.name == name);
    let allowed: BTreeSet<_> =
        policy.allow.iter().chain(exceptions.flat_map(|exception| &exception.allow)).collect();
    match expression.evaluate(|required| allowed.contains(&required.to_string())) {
        true => Ok(()),
        false => Err(format!("licence {license}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
        exceptions = [{ crate = "data", allow = ["CDLA-Permissive-2.0"] }]
        [bans]
        deny = [{ crate = "openssl", reason = "rustls" }]
        [sources]
        allow-registry = ["https://example/index"]
    "#;

    fn check(name: &str, license: Option<&str>, source: Option<&str>) -> Vec<String> {
        let policy: Policy = toml::from_str(TEXT).unwrap();
        let package = Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: license.map(str::to_owned),
            source: source.map(str::to_owned),
        };
        faults(&policy, &[package])
    }

    #[test]
    fn a_choice_needs_one_allowed_licence_and_a_sum_all() {
        for (license, fine) in [
            ("MIT", true),
            ("GPL-3.0-only OR MIT", true),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("(MIT OR GPL-3.0-only) AND Apache-2.0", true),
            ("MIT AND GPL-3.0-only", false),
            ("GPL-3.0-only", false),
            ("CDLA-Permissive-2.0", false),
            ("whatever", false),
        ] {
            assert_eq!(check("a", Some(license), None).is_empty(), fine, "{license}");
        }
        assert!(check("data", Some("CDLA-Permissive-2.0"), None).is_empty(), "the exception is this crate's");
        assert_eq!(check("a", None, None), ["a 1.0.0: names no licence"]);
    }

    #[test]
    fn banned_crates_and_other_sources_are_found() {
        assert_eq!(check("openssl", Some("MIT"), None), ["openssl 1.0.0: banned, rustls"]);
        assert!(check("a", Some("MIT"), Some("registry+https://example/index")).is_empty());
        assert_eq!(
            check("a", Some("MIT"), Some("git+https://example/a")),
            ["a 1.0.0: from git+https://example/a"]
        );
    }

    #[test]
    fn the_repositorys_own_policy_can_be_read() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml")).unwrap();
        let policy: Policy = toml::from_str(&text).unwrap();
        assert!(policy.bans.deny.iter().any(|ban| ban.name == "openssl"));
    }
}
