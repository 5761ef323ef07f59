//! What stops containers, starts them again and removes them.

use super::{
    Asked, Target,
    containers::{Container, State, containers},
    workloads::{Workload, again, api, gone, ready, workloads},
};
use crate::{error::Error, progress::Progress, ready::has_failed, rollout, work::REPLICAS};
use clap::Args;
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use std::collections::BTreeSet;

#[derive(Args)]
pub struct ServicesArguments {
    pub services: Vec<String>,
}

#[derive(Args)]
pub struct StopArguments {
    pub services: Vec<String>,
    /// Seconds until what does not end is killed. Default: as the file says
    #[arg(short, long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
}

pub async fn stop(asked: &Asked<'_>, a: StopArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let all = workloads(&target, &a.services).await?;
    super::held::release(&target, &a.services).await?;
    let progress = Progress::new(false);
    for one in &all {
        progress.set(&one.name(), "stopping", false);
        match one.kind {
            "Deployment" if one.replicas() > 0 => {
                let kept = json!({ REPLICAS: one.replicas().to_string() });
                let patch =
                    json!({ "metadata": { "annotations": kept }, "spec": { "replicas": 0 } });
                one.patch(patch).await?;
            }
            "Deployment" => {}
            "DaemonSet" => drop(
                one.api
                    .delete(&one.name(), &DeleteParams::background())
                    .await?,
            ),
            _ if has_failed(&one.object)
                || one.object["status"]["succeeded"].as_i64().is_some() => {}
            _ => drop(one.patch(json!({ "spec": { "suspend": true } })).await?),
        }
    }
    if let Some(seconds) = a.timeout {
        end_pods(&target, &a.services, seconds).await?;
    }
    gone(&target, &a.services).await?;
    for one in &all {
        progress.set(&one.name(), "stopped", true);
    }
    Ok(0)
}

/// Deletes the Pods, each with so many seconds to end.
async fn end_pods(target: &Target, services: &[String], seconds: u32) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let names: BTreeSet<String> = containers(target, services)
        .await?
        .iter()
        .filter(|c| !matches!(c.state, State::Exited(_)))
        .map(Container::pod_name)
        .collect();
    for name in names {
        let parameters = DeleteParams::default().grace_period(seconds);
        match pods.delete(&name, &parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    Ok(())
}

pub async fn start(asked: &Asked<'_>, a: ServicesArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let all = workloads(&target, &a.services).await?;
    if all.is_empty() {
        return Err(Error::Failed(format!(
            "no containers of {} are here: make them with `knarr compose up`",
            target.namespace
        )));
    }
    let mut started = Vec::new();
    for one in all {
        let unset = json!({ REPLICAS: null });
        let object = match (one.kind, one.kept()) {
            ("Deployment", Some(kept)) => {
                let patch =
                    json!({ "metadata": { "annotations": unset }, "spec": { "replicas": kept } });
                one.patch(patch).await?
            }
            ("Job", _) if one.object["spec"]["suspend"] == true => {
                one.patch(json!({ "spec": { "suspend": false } })).await?
            }
            _ => continue,
        };
        started.push((one, object));
    }
    ready(started).await
}

#[derive(Args)]
pub struct RestartArguments {
    services: Vec<String>,
    /// Only the named services: knarr restarts no others anyway
    #[arg(long, hide = true)]
    no_deps: bool,
    #[arg(short, long, hide = true, value_name = "SECONDS")]
    timeout: Option<u32>,
}

pub async fn restart(asked: &Asked<'_>, a: RestartArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let mut started = Vec::new();
    for one in workloads(&target, &a.services).await? {
        let mut patch = json!({ "spec": { "template": { "metadata": { "annotations": {
            "kubectl.kubernetes.io/restartedAt": Timestamp::now().to_string() } } } } });
        if let Some(kept) = one.kept() {
            patch["metadata"] = json!({ "annotations": { REPLICAS: null } });
            patch["spec"]["replicas"] = json!(kept);
        }
        let object = match one.kind {
            "Job" => again(&one).await?,
            _ => one.patch(patch).await?,
        };
        started.push((one, object));
    }
    if started.is_empty() {
        return Err(Error::Failed(format!(
            "no containers of {} are here",
            target.namespace
        )));
    }
    ready(started).await
}

#[derive(Args)]
pub struct KillArguments {
    services: Vec<String>,
    /// By name or number
    #[arg(short, long, default_value = "SIGKILL", value_name = "SIGNAL")]
    signal: String,
    #[arg(long, hide = true)]
    remove_orphans: bool,
}

/// By SIGKILL the containers stay ended; other signals are given to their first process.
pub async fn kill(asked: &Asked<'_>, a: KillArguments) -> Result<u8, Error> {
    let signal = a.signal.to_uppercase();
    let signal = signal.strip_prefix("SIG").unwrap_or(&signal);
    if matches!(signal, "KILL" | "9") {
        let all = StopArguments {
            services: a.services,
            timeout: Some(0),
        };
        return stop(asked, all).await;
    }
    let target = asked.target().await?;
    for c in containers(&target, &a.services).await? {
        if c.is_running() {
            let line = ["kill".to_string(), format!("-{signal}"), "1".into()];
            super::exec::quietly(&target.client, &target.namespace, &c, &line).await?;
        }
    }
    Ok(0)
}

#[derive(Args)]
pub struct RmArguments {
    services: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// Stop them first
    #[arg(short, long)]
    stop: bool,
    /// With their volumes that have no name
    #[arg(short = 'v', long = "volumes")]
    volumes: bool,
}

pub async fn rm(asked: &Asked<'_>, a: RmArguments) -> Result<u8, Error> {
    if a.stop {
        let which = StopArguments {
            services: a.services.clone(),
            timeout: None,
        };
        stop(asked, which).await?;
    }
    let target = asked.target().await?;
    let stopped = |w: &Workload| match w.kind {
        "Deployment" => w.replicas() == 0,
        "Job" => w.object["status"]["active"].as_i64().unwrap_or(0) == 0,
        _ => false,
    };
    let all = workloads(&target, &a.services).await?;
    let all: Vec<&Workload> = all.iter().filter(|w| stopped(w)).collect();
    if all.is_empty() {
        println!("No stopped containers");
        return Ok(0);
    }
    let names: Vec<String> = all.iter().map(|w| w.name()).collect();
    if !a.force && !sure(&names) {
        return Ok(0);
    }
    for one in all {
        one.api
            .delete(&one.name(), &DeleteParams::background())
            .await?;
        println!("{}  removed", one.name());
        if a.volumes {
            let service = target.service_of(&one.name());
            crate::unnamed::forget(&target.client, &target.namespace, &[service]).await?;
        }
    }
    Ok(0)
}

fn sure(names: &[String]) -> bool {
    eprint!("Going to remove {}\nAre you sure? [yN] ", names.join(", "));
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}

/// `down SERVICE…`: their containers, and what leads to them; with `volumes` those that have no name, too.
pub async fn remove(asked: &Asked<'_>, services: &[String], volumes: bool) -> Result<u8, Error> {
    let target = asked.target().await?;
    target.known(services)?;
    for service in services {
        let name = knarr_compose::object_name(service);
        let labels = format!("app.kubernetes.io/managed-by=knarr,app.kubernetes.io/name={name}");
        let mine = ListParams::default().labels(&labels);
        for (group, kind) in rollout::KINDS {
            let api = api(&target.client, &target.namespace, group, kind);
            for object in api.list_metadata(&mine).await? {
                api.delete(&object.name_any(), &DeleteParams::background())
                    .await?;
            }
        }
    }
    gone(&target, services).await?;
    if volumes {
        crate::unnamed::forget(&target.client, &target.namespace, services).await?;
    }
    println!(
        "{}: {} stopped and removed",
        target.namespace,
        services.join(", ")
    );
    Ok(0)
}
