//! The Kubernetes manifests: valid to Kubernetes' own schemas, and of one mind with the configuration that they mount.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::{chosen, read};
use crate::environment::{Environment, PROBE_LIMIT, run, said};
use crate::{apt, python};

const DIRECTORY: &str = "deploy/kubernetes";
/// Where the pod has its secrets.
const SECRETS: &str = "/etc/lobby/secrets";
/// Listeners, by the name of the container's port.
const LISTENERS: [&str; 3] = ["tcp", "websocket", "admin"];
/// What each probe asks.
const PROBES: [(&str, &str); 3] =
    [("startupProbe", "/live"), ("livenessProbe", "/live"), ("readinessProbe", "/ready")];

/// What was left out, and why.
pub(super) async fn check(lobby: &Path) -> anyhow::Result<Option<String>> {
    let kustomization = documents("kustomization.yaml")?.into_iter().next().context("no kustomization")?;
    let resources = strings(&kustomization["resources"]);
    let stateful_set = resources
        .iter()
        .map(|name| documents(name))
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .find(|document| document["kind"] == "StatefulSet")
        .context("no StatefulSet")?;
    let configuration = accepted(lobby).await?;
    let faults = faults(&stateful_set, &configuration);
    ensure!(faults.is_empty(), "{DIRECTORY}:\n  {}", faults.join("\n  "));
    schemas(&resources).await
}

/// The configuration as the lobby takes it in a pod, whose secrets are files here too.
async fn accepted(lobby: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mounted = tempfile::tempdir()?;
    let here = mounted.path().to_str().context("a temporary directory that is text")?;
    let text = read(&format!("{DIRECTORY}/lobby.toml"))?;
    for part in text.split(SECRETS).skip(1) {
        let name = part.trim_start_matches('/').split('"').next().unwrap_or_default();
        std::fs::write(mounted.path().join(name), "a secret of the test's").context(name.to_owned())?;
    }
    let file = mounted.path().join("lobby.toml");
    std::fs::write(&file, text.replace(SECRETS, here))?;
    let mut command = Command::new(lobby);
    command.arg("--config").arg(&file).arg("check-config").env_clear();
    let output = run(command, PROBE_LIMIT).await?;
    ensure!(output.status.success(), "{DIRECTORY}/lobby.toml: {}", said(&output));
    Ok(chosen(&String::from_utf8_lossy(&output.stdout).replace(here, SECRETS)))
}

/// Has the manifests judged by Kubernetes' JSON schemas; as kustomize puts them together too, where kubectl is.
async fn schemas(resources: &[String]) -> anyhow::Result<Option<String>> {
    let python = match python::environment().await? {
        Environment::Ready(python) => python,
        Environment::Unreachable(reason) => return Ok(Some(format!("Kubernetes' schemas: {reason}"))),
    };
    let directory = tempfile::tempdir()?;
    let mut files: Vec<_> = resources.iter().map(|name| Path::new(DIRECTORY).join(name)).collect();
    if let Some(kubectl) = apt::find("kubectl") {
        let mut command = Command::new(kubectl);
        command.args(["kustomize", DIRECTORY]);
        let built = run(command, PROBE_LIMIT).await?;
        ensure!(built.status.success(), "kubectl kustomize: {}", said(&built));
        let file = directory.path().join("built.yaml");
        std::fs::write(&file, built.stdout)?;
        files.push(file);
    }
    for file in files {
        let mut command = Command::new(&python);
        command.args(["-m", "kubernetes_validate", "--strict"]).arg(&file);
        let output = run(command, PROBE_LIMIT).await?;
        ensure!(output.status.success(), "{}: {}", file.display(), said(&output));
    }
    Ok(None)
}

fn documents(name: &str) -> anyhow::Result<Vec<Value>> {
    let path = format!("{DIRECTORY}/{name}");
    serde_saphyr::from_multiple(&read(&path)?).with_context(|| path.clone())
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Where manifest and configuration contradict each other. Pure.
fn faults(stateful_set: &Value, configuration: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    let setting = |key: &str| configuration.get(key).map(String::as_str).unwrap_or_default();
    let pod = &stateful_set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or_default();
    let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or_default();
    match setting("shutdown.drain_timeout").strip_suffix('s').and_then(|text| text.parse::<u64>().ok()) {
        Some(drain) if grace > sleep + drain => {}
        drain => faults.push(format!(
            "terminationGracePeriodSeconds {grace} is not above preStop ({sleep} s) and shutdown.drain_timeout ({drain:?} s)"
        )),
    }
    let ports = container["ports"].as_array().cloned().unwrap_or_default();
    for name in LISTENERS {
        let port = ports.iter().find(|port| port["name"] == name);
        let port = port.and_then(|port| port["containerPort"].as_u64()).unwrap_or_default();
        let listens = setting(&format!("listen.{name}"));
        if listens != format!("0.0.0.0:{port}") {
            faults.push(format!("port `{name}` is {port}, but listen.{name} is `{listens}`"));
        }
    }
    for (probe, path) in PROBES {
        let asked = &container[probe]["httpGet"];
        if asked["path"] != path || asked["port"] != "admin" {
            faults.push(format!("{probe} asks {asked} and not {path} at the port `admin`"));
        }
    }
    let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
    let mounted: Vec<_> = mounts.iter().filter_map(|mount| mount["mountPath"].as_str()).collect();
    for (key, file) in configuration.iter().filter(|(key, file)| key.ends_with("_file") && !file.is_empty()) {
        if !mounted.iter().any(|mount| Path::new(file).starts_with(mount)) {
            faults.push(format!("{key} is {file}, where nothing is mounted"));
        }
    }
    if !setting("instance.name").is_empty() {
        faults.push("instance.name is set: all pods would have one queue".to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Value {
        documents("statefulset.yaml").unwrap().remove(0)
    }

    fn configuration(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
        let usual = [
            ("shutdown.drain_timeout", "60s"),
            ("listen.tcp", "0.0.0.0:8002"),
            ("listen.websocket", "0.0.0.0:8003"),
            ("listen.admin", "0.0.0.0:8011"),
            ("broker.password_file", "/etc/lobby/secrets/broker-password"),
            ("instance.name", ""),
        ];
        usual.iter().chain(changes).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_manifest_that_contradicts_its_configuration_is_seen() {
        assert_eq!(faults(&shipped(), &configuration(&[])), Vec::<String>::new());
        for (change, word) in [
            (("shutdown.drain_timeout", "70s"), "terminationGracePeriodSeconds"),
            (("listen.websocket", "0.0.0.0:8004"), "port `websocket`"),
            (("listen.admin", "127.0.0.1:8011"), "port `admin`"),
            (("broker.tls_ca_file", "/etc/ssl/ca.pem"), "nothing is mounted"),
            (("instance.name", "one"), "one queue"),
        ] {
            let found = faults(&shipped(), &configuration(&[change]));
            assert!(found.len() == 1 && found[0].contains(word), "{change:?}: {found:?}");
        }
        let mut probe = shipped();
        probe["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"] =
            "/ready".into();
        assert!(faults(&probe, &configuration(&[]))[0].contains("livenessProbe"));
    }
}
