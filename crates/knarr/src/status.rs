//! `knarr status`: what runs, what has run to its end, and what is wrong.

mod jobs;

use crate::{cli::Output, connect, error::Error, paths::Paths, ready};
use clap::Args;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    batch::v1::Job,
    core::v1::{Event, Node, Pod, Service},
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Args)]
pub struct StatusArguments {
    #[command(flatten)]
    target: crate::cli::Target,
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

struct Row {
    app: String,
    service: String,
    ready: String,
    state: String,
    restarts: i32,
    addresses: Vec<String>,
    problems: Vec<String>,
}

pub async fn run(paths: &Paths, arguments: StatusArguments) -> Result<u8, Error> {
    let client = connect::connect(paths).await?;
    let rows = rows(&client, arguments.target.project.as_deref()).await?;
    let node_ready = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?
        .items
        .iter()
        .any(|n| {
            let conditions = n.status.as_ref().and_then(|s| s.conditions.as_ref());
            conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        });
    let well = node_ready
        && rows
            .iter()
            .all(|r| r.problems.is_empty() && matches!(r.state.as_str(), "running" | "completed"));
    if arguments.output == Output::Json {
        let services: Vec<Value> = rows
            .iter()
            .map(|r| json!({ "app": r.app, "service": r.service, "ready": r.ready, "state": r.state, "restarts": r.restarts, "addresses": r.addresses, "problems": r.problems }))
            .collect();
        println!(
            "{}",
            json!({ "ready": well, "node": if node_ready { "ready" } else { "not ready" }, "pid": paths.running(), "services": services })
        );
        return Ok(0);
    }
    println!(
        "platform  {}  pid {}, data in {}",
        if node_ready { "ready" } else { "NOT READY" },
        paths.running().unwrap_or(0),
        paths.data.display()
    );
    if rows.is_empty() {
        println!("nothing runs; start an app with `knarr up FOLDER`");
        return Ok(0);
    }
    let width =
        |f: fn(&Row) -> usize, least: usize| rows.iter().map(f).max().unwrap_or(0).max(least);
    let (app, service) = (width(|r| r.app.len(), 3), width(|r| r.service.len(), 7));
    println!(
        "\n{:app$}  {:service$}  {:7}  {:12}  {:8}  ADDRESS",
        "APP", "SERVICE", "READY", "STATE", "RESTARTS"
    );
    for r in &rows {
        println!(
            "{:app$}  {:service$}  {:7}  {:12}  {:8}  {}",
            r.app,
            r.service,
            r.ready,
            r.state,
            r.restarts,
            r.addresses.join(" ")
        );
    }
    for r in rows.iter().filter(|r| !r.problems.is_empty()) {
        println!("\n{}/{}:", r.app, r.service);
        for problem in &r.problems {
            println!("  {problem}");
        }
    }
    Ok(0)
}

async fn rows(client: &Client, project: Option<&str>) -> Result<Vec<Row>, Error> {
    let all = ListParams::default();
    let namespaced = |namespace: &str| project.is_none_or(|p| p == namespace);
    let mut workloads: Vec<Value> = Vec::new();
    macro_rules! collect {
        ($kind:ty, $name:literal) => {
            for object in Api::<$kind>::all(client.clone()).list(&all).await? {
                let mut value =
                    serde_json::to_value(&object).map_err(|e| Error::Failed(e.to_string()))?;
                value["kind"] = json!($name);
                workloads.push(value);
            }
        };
    }
    collect!(Deployment, "Deployment");
    collect!(StatefulSet, "StatefulSet");
    collect!(DaemonSet, "DaemonSet");
    let pods = Api::<Pod>::all(client.clone()).list(&all).await?.items;
    let services = Api::<Service>::all(client.clone()).list(&all).await?.items;
    let mut rows = Vec::new();
    for workload in workloads {
        let (namespace, name) = (
            workload["metadata"]["namespace"]
                .as_str()
                .unwrap_or_default(),
            workload["metadata"]["name"].as_str().unwrap_or_default(),
        );
        if !namespaced(namespace) {
            continue;
        }
        let labels = labels_of(&workload);
        let mine: Vec<&Pod> = pods
            .iter()
            .filter(|p| {
                p.namespace().as_deref() == Some(namespace) && includes(p.labels(), &labels)
            })
            .collect();
        let wanted = workload
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or(mine.len() as i64);
        let ready = mine
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_none() && is_ready(p))
            .count() as i64;
        let restarts = mine
            .iter()
            .filter_map(|p| p.status.as_ref()?.container_statuses.as_ref())
            .flatten()
            .map(|c| c.restart_count)
            .sum();
        let mut problems = Vec::new();
        for pod in &mine {
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let mut trouble = ready::trouble(pod, false);
            if trouble.is_none() {
                trouble = ready::warning(client, namespace, pod).await;
            }
            if let Some(trouble) = trouble {
                problems.push(format!("{}: {}", trouble.pod, trouble.why));
                if trouble.ran {
                    let lines = ready::last_lines(client, namespace, &trouble).await;
                    problems.extend(lines.iter().rev().take(5).rev().map(|l| format!("  | {l}")));
                }
            }
        }
        if ready < wanted && problems.is_empty() {
            problems.push(format!(
                "{} of {wanted} replicas are missing or starting",
                wanted - ready
            ));
        }
        let state = state_of(wanted, ready);
        let published: Vec<&Service> = services
            .iter()
            .filter(|s| s.namespace().as_deref() == Some(namespace) && publishes(s, &labels))
            .collect();
        for service in published.iter().filter(|s| !is_open(s)) {
            problems.push(port_trouble(client, namespace, service).await?);
        }
        let addresses = published
            .iter()
            .filter_map(|s| s.spec.as_ref())
            .flat_map(|s| {
                s.ports
                    .iter()
                    .flatten()
                    .map(|p| format!("http://localhost:{}", p.port))
            })
            .collect();
        rows.push(Row {
            app: namespace.into(),
            service: name.into(),
            ready: format!("{ready}/{wanted}"),
            state: state.into(),
            restarts,
            addresses,
            problems,
        });
        let beside = beside(&workload, name);
        rows.extend(beside.iter().map(|service| {
            let (ready, restarts) = own(&mine, service);
            Row {
                app: namespace.into(),
                service: service.clone(),
                ready: format!("{ready}/{wanted}"),
                state: state_of(wanted, ready).into(),
                restarts,
                addresses: Vec::new(),
                problems: Vec::new(),
            }
        }));
    }
    for job in Api::<Job>::all(client.clone()).list(&all).await? {
        if namespaced(&job.namespace().unwrap_or_default()) && jobs::is_a_service(&job) {
            rows.push(jobs::row(client, &job, &pods).await);
        }
    }
    rows.sort_by(|a, b| (&a.app, &a.service).cmp(&(&b.app, &b.service)));
    Ok(rows)
}

fn state_of(wanted: i64, ready: i64) -> &'static str {
    match (wanted, ready) {
        (0, _) => "stopped",
        (w, r) if r >= w => "running",
        (_, 0) => "down",
        _ => "degraded",
    }
}

/// The further services of a compose file whose containers share the workload's Pods: they carry a note of their own, as
/// the workload's own service does. A manifest may note something of any container.
fn beside(workload: &Value, name: &str) -> Vec<String> {
    let notes = workload
        .pointer("/spec/template/metadata/annotations")
        .and_then(Value::as_object);
    let noted = |notes: &&serde_json::Map<String, Value>| {
        notes.contains_key(&format!("knarr.dev/container.{name}"))
    };
    let notes = notes.filter(noted).into_iter().flatten();
    notes
        .filter_map(|(key, _)| key.strip_prefix("knarr.dev/container."))
        .filter(|service| *service != name)
        .map(str::to_string)
        .collect()
}

/// In how many Pods the container of that name is ready, and how often it was started again.
fn own(pods: &[&Pod], container: &str) -> (i64, i32) {
    let statuses = pods
        .iter()
        .filter(|p| p.metadata.deletion_timestamp.is_none())
        .filter_map(|p| p.status.as_ref()?.container_statuses.as_ref())
        .flatten()
        .filter(|c| c.name == container);
    let ready = statuses.clone().filter(|c| c.ready).count() as i64;
    (ready, statuses.map(|c| c.restart_count).sum())
}

fn publishes(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    let Some(spec) = &service.spec else {
        return false;
    };
    let selector = spec.selector.as_ref();
    spec.type_.as_deref() == Some("LoadBalancer")
        && selector.is_some_and(|s| !s.is_empty() && includes(labels, s))
}

/// The gateway has opened its ports.
fn is_open(service: &Service) -> bool {
    let balancer = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    balancer.is_some_and(|b| b.ingress.as_ref().is_some_and(|i| !i.is_empty()))
}

/// Why a Service's ports are not open, as the gateway's newest Event says.
async fn port_trouble(
    client: &Client,
    namespace: &str,
    service: &Service,
) -> Result<String, Error> {
    let fields = format!(
        "involvedObject.kind=Service,involvedObject.name={},reason=PortInUse",
        service.name_any()
    );
    let mut events = Api::<Event>::namespaced(client.clone(), namespace)
        .list(&ListParams::default().fields(&fields))
        .await?
        .items;
    events.retain(|e| e.involved_object.uid == service.metadata.uid);
    events.sort_by_key(|e| e.last_timestamp.as_ref().map(|t| t.0));
    let said = events.pop().and_then(|e| e.message);
    Ok(said.unwrap_or_else(|| "its published ports are not open yet".into()))
}

fn labels_of(workload: &Value) -> BTreeMap<String, String> {
    let labels = workload
        .pointer("/spec/selector/matchLabels")
        .and_then(Value::as_object);
    labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string())))
        .collect()
}

fn includes(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_the_pods_of_a_workload() {
        for (what, noted, wanted) in [
            ("nobody", &[][..], &[][..]),
            ("a lone service", &["web"], &[]),
            ("two services", &["side", "web"], &["side"]),
            ("a manifest's container", &["proxy"], &[]),
        ] {
            let notes: serde_json::Map<String, Value> = noted
                .iter()
                .map(|n| (format!("knarr.dev/container.{n}"), json!("{}")))
                .collect();
            let workload =
                json!({ "spec": { "template": { "metadata": { "annotations": notes } } } });
            assert_eq!(beside(&workload, "web"), wanted, "{what}");
        }
    }
}
