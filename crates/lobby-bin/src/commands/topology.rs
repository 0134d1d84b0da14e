//! `lobby topology`: what the lobby needs on the broker, shown, compared, made.

use std::{collections::VecDeque, fmt::Write as _};

use anyhow::anyhow;
use serde_json::json;

use super::{run, table::Table};
use crate::{
    Failure,
    cli::TopologyCommand,
    config::{Config, connection},
    management::{Management, ManagementError, observe},
    print,
    startup::{exit_code, told},
    topology::{Apply, Finding, Observed, Plan, Severity, compare, steps},
    warn_if_unverified,
};

/// Does what `command` says.
pub fn topology(config: &Config, command: &TopologyCommand) -> Result<(), Failure> {
    match command {
        TopologyCommand::Show { json } => {
            // Offline: where the name comes from a file or a certificate, the URL's stands for it.
            show(&Plan::of(config, config.broker_url.user())?, *json)
        }
        TopologyCommand::Check { without_queue, json } => {
            warn_if_unverified(config);
            let (plan, findings) = run(async {
                let (_, plan, observed) = look(config).await?;
                let findings = compare(&plan, &observed);
                Ok((plan, findings))
            })?;
            let own = |finding: &Finding| {
                finding.name == plan.queue
                    && matches!(finding.finding, "queue_missing" | "queue_not_consumed")
            };
            let findings = findings.into_iter().filter(|finding| !(*without_queue && own(finding))).collect();
            report(&plan, findings, *json)
        }
        TopologyCommand::Apply { queue, grant, dry_run, json } => {
            warn_if_unverified(config);
            run(apply(config, Apply { queue: *queue, grant: *grant }, *dry_run, *json))
        }
    }
}

fn show(plan: &Plan, json: bool) -> Result<(), Failure> {
    if json {
        return print(&format!("{:#}\n", json!({"vhost": plan.vhost, "things": plan.things})));
    }
    let mut table = Table::new(["kind", "name", "properties"]);
    for thing in &plan.things {
        table.row([thing.kind().to_owned(), thing.name(), thing.properties()]);
    }
    print(&table.to_string())
}

fn report(plan: &Plan, findings: Vec<Finding>, json: bool) -> Result<(), Failure> {
    let wrong = findings.iter().filter(|finding| finding.severity == Severity::Wrong).count();
    if json {
        print(&format!("{:#}\n", json!({"vhost": plan.vhost, "ok": wrong == 0, "findings": findings})))?;
    } else {
        let mut out = String::new();
        for finding in &findings {
            let severity = if finding.severity == Severity::Wrong { "wrong" } else { "note" };
            let _ = writeln!(
                out,
                "{severity:5}  {}: {}\n       -> {}",
                finding.finding, finding.text, finding.fix
            );
        }
        if wrong == 0 {
            let _ = writeln!(out, "virtual host {} is as planned", plan.vhost);
        }
        print(&out)?;
    }
    if wrong > 0 {
        let error = anyhow!("{wrong} differences between plan and broker");
        return Err(Failure { code: Failure::TOPOLOGY, error });
    }
    Ok(())
}

async fn apply(config: &Config, apply: Apply, dry_run: bool, json: bool) -> Result<(), Failure> {
    let (management, plan, mut observed) = look(config).await?;
    let needed = |observed: &Observed| {
        steps(&plan, observed, apply).map_err(|stuck| {
            let texts: Vec<_> =
                stuck.iter().map(|finding| format!("{}: {}", finding.text, finding.fix)).collect();
            let error = anyhow!("nothing was changed, as this cannot be: {}", texts.join("; "));
            Failure { code: Failure::MISMATCH, error }
        })
    };
    let mut todo = VecDeque::from(needed(&observed)?);
    let mut done = Vec::new();
    while let Some(step) = todo.pop_front() {
        if !dry_run {
            let request = &step.request;
            management.send(request.method, &request.path, &request.body).await.map_err(failure)?;
        }
        if !json {
            let verb = if dry_run { step.verb.plan() } else { step.verb.done() };
            print(&format!("{verb} {}\n", step.text))?;
        }
        done.push(step);
        if !dry_run && !observed.vhost {
            // The broker lets whoever makes a virtual host do everything in it: that is not to be narrowed.
            observed = observe(&management, &plan).await.map_err(failure)?;
            todo = needed(&observed)?.into();
        }
    }
    if json {
        return print(&format!("{:#}\n", json!({"vhost": plan.vhost, "dry_run": dry_run, "steps": done})));
    }
    if done.is_empty() { print("nothing to do\n") } else { Ok(()) }
}

/// Plan and broker.
async fn look(config: &Config) -> Result<(Management, Plan, Observed), Failure> {
    let login = connection(config).user_and_password().await;
    let login = login.map_err(|error| failure(ManagementError::Credentials(error)))?;
    let user = login.map_or_else(|| config.broker_url.user().to_owned(), |(user, _)| user);
    let plan = Plan::of(config, &user)?;
    let management = Management::open(config).await.map_err(failure)?;
    let observed = observe(&management, &plan).await.map_err(failure)?;
    Ok((management, plan, observed))
}

fn failure(error: ManagementError) -> Failure {
    let code = match &error {
        ManagementError::Unreachable { .. } => Failure::UNAVAILABLE,
        ManagementError::Tls { .. } => Failure::TLS,
        ManagementError::LoginRefused { .. } => Failure::LOGIN,
        ManagementError::Forbidden { .. } => Failure::PERMISSION,
        ManagementError::NoPassword | ManagementError::TlsSetup(_) => Failure::CONFIG,
        ManagementError::Credentials(error) => {
            return Failure { code: exit_code(error), error: told(error, error.hint().as_deref()) };
        }
        ManagementError::Refused { .. } | ManagementError::Unreadable { .. } | ManagementError::Client(_) => {
            Failure::INTERNAL
        }
    };
    Failure { code, error: error.into() }
}
