//! The project as Kubernetes resources. Pure: same project and images, same resources.
//!
//! A project is a namespace. A service is a Deployment (a Job when it runs to its end, a DaemonSet when it is global),
//! a Service by each of its names, a second kind of Service for the ports it publishes on the host, a
//! PersistentVolumeClaim for each volume, a ConfigMap or Secret for each config or secret. Networks that keep services
//! apart are NetworkPolicies.

mod container;
mod links;
mod mentions;
mod names;
mod naming;
mod pod;
mod policies;
mod services;
mod storage;

use crate::{Condition, Dependency, Mode, Project, Service, Update, health::Health};
use names::dns_name;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(crate) use names::{dns_name as object_name, literal};
pub use pod::OWN_FOLDERS;
pub use storage::{UNNAMED, UNNAMED_OF};

/// How long containers without a health check must run until they take the place of others: what is wrong with a program
/// shows in its first moments, and the old containers stay until then. As long as Docker watches an update
/// (moby/swarmkit `api/defaults`).
const STEADY_SECONDS: u64 = 5;

/// Where a project comes from.
pub const FROM_FILES: &str = "knarr.dev/compose-files";
/// Its name as Compose knows it.
pub const PROJECT_NAME: &str = "knarr.dev/compose-project";

/// What is known of a service's image; all may be empty.
#[derive(Debug, Clone, Default)]
pub struct ImageFacts {
    /// What to run instead of the file's name: the digest of what was built or pulled.
    pub reference: Option<String>,
    /// `EXPOSE`: (port, `TCP` or `UDP`).
    pub exposed: Vec<(u16, String)>,
    /// `HEALTHCHECK`
    pub health: Option<Health>,
    /// `VOLUME`
    pub volumes: Vec<String>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
}

/// What the project becomes.
#[derive(Debug, Clone)]
pub struct Resources {
    pub namespace: String,
    /// To be applied first, in order: Namespace, PersistentVolumeClaims, ConfigMaps, Secrets, NetworkPolicies, Services.
    pub shared: Vec<Value>,
    /// One a service, in name order; services that share another's namespaces are in that one's.
    pub workloads: Vec<Workload>,
    /// Made elsewhere: (kind, name) that must be in the namespace.
    pub external: Vec<(&'static str, String)>,
    /// What the resources can't say to other clusters than knarr.
    pub warnings: Vec<String>,
}

/// A service's Deployment, DaemonSet or Job, and what must be so before it starts.
#[derive(Debug, Clone)]
pub struct Workload {
    pub service: String,
    /// The services that run in it, its own included.
    pub members: Vec<String>,
    pub object: Value,
    pub depends_on: Vec<Dependency>,
    /// (host address, host port, `TCP` or `UDP`) it publishes.
    pub published: Vec<(Option<String>, u16, String)>,
    pub update: Option<Update>,
    pub rollback: Option<Update>,
    /// The strategy by which it is brought back.
    pub rollback_strategy: Option<Value>,
    /// Why its Pods end before their successors start, when the file did not ask for that.
    pub gap: Option<&'static str>,
    /// Somebody waits for its end.
    pub completes: bool,
    /// Of each container with a health check, after what time and how many failures it is unhealthy.
    pub patience: BTreeMap<String, (std::time::Duration, i64)>,
    /// The file has a word on when its containers start again.
    pub restarts: bool,
}

/// What all parts of the translation look at.
struct Context<'a> {
    project: &'a Project,
    namespace: String,
    images: &'a BTreeMap<String, ImageFacts>,
    /// Services are kept apart by their networks.
    isolated: bool,
    naming: naming::Naming,
}

impl Context<'_> {
    /// Metadata of an object that belongs to the project, or to one of its services.
    fn meta(&self, name: String, service: Option<&str>) -> Value {
        let mut labels = Map::new();
        labels.insert("app.kubernetes.io/part-of".into(), json!(self.namespace));
        labels.insert("app.kubernetes.io/managed-by".into(), json!("knarr"));
        if let Some(s) = service {
            labels.insert("app.kubernetes.io/name".into(), json!(dns_name(s)));
        }
        json!({ "name": name, "namespace": self.namespace, "labels": labels })
    }

    /// The labels that the Pods of a service have.
    fn selector(&self, service: &Service) -> Value {
        let lead = service.namespaces.joins.as_ref().unwrap_or(&service.name);
        json!({ "app.kubernetes.io/name": dns_name(lead), "app.kubernetes.io/part-of": self.namespace })
    }

    fn facts(&self, service: &str) -> ImageFacts {
        self.images.get(service).cloned().unwrap_or_default()
    }

    /// The services that run in the Pod of `lead`, which comes first.
    fn members(&self, lead: &Service) -> Vec<&Service> {
        let all = self.project.services.values();
        let joined = all
            .clone()
            .filter(|s| s.namespaces.joins.as_deref() == Some(&lead.name));
        all.filter(|s| s.name == lead.name).chain(joined).collect()
    }
}

/// Translates. `images` gives, by service, what is known of its image.
pub fn translate(project: &Project, images: &BTreeMap<String, ImageFacts>) -> Resources {
    let isolated = policies::is_isolated(project);
    let mut context = Context {
        project,
        namespace: dns_name(&project.name),
        images,
        isolated,
        naming: naming::naming(project, isolated),
    };
    let mut warnings = std::mem::take(&mut context.naming.warnings);
    if !project.at_home {
        warnings.extend(project.services.values().flat_map(container::differences));
    }
    let mut shared = vec![json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": context.namespace, "labels": { "app.kubernetes.io/managed-by": "knarr" } },
    })];
    if project.at_home {
        let files = project.files.iter().map(|f| f.display().to_string());
        let files = files.collect::<Vec<_>>().join(",");
        shared[0]["metadata"]["annotations"] =
            json!({ FROM_FILES: files, PROJECT_NAME: project.name });
    }
    let mut external = Vec::new();
    storage::claims(&context, &mut shared, &mut external);
    storage::unnamed_claims(&context, &mut shared);
    storage::objects(&context, &mut shared, &mut external);
    shared.extend(policies::policies(&context));
    services::services(&context, &mut shared);
    services::outer(&context, &mut shared);
    let lead_of = |name: &str| {
        let service = project.services.get(name);
        let lead = service.and_then(|s| s.namespaces.joins.clone());
        lead.unwrap_or_else(|| name.to_string())
    };
    let waited_for = |name: &str| {
        let mut all = project.services.values().flat_map(|s| &s.depends_on);
        all.any(|d| d.condition == Condition::CompletedSuccessfully && d.service == name)
    };
    let mut workloads = Vec::new();
    for lead in project
        .services
        .values()
        .filter(|s| s.namespaces.joins.is_none())
    {
        let members = context.members(lead);
        let mut depends_on: Vec<Dependency> = Vec::new();
        for dependency in members.iter().flat_map(|m| &m.depends_on) {
            let service = lead_of(&dependency.service);
            let known = depends_on
                .iter()
                .any(|d| d.service == service && d.condition == dependency.condition);
            if service != lead.name && !known {
                depends_on.push(Dependency {
                    service,
                    ..dependency.clone()
                });
            }
        }
        let published = members.iter().flat_map(|m| services::published(m));
        workloads.push(Workload {
            service: lead.name.clone(),
            members: members.iter().map(|m| m.name.clone()).collect(),
            published: published.collect(),
            object: workload(&context, lead, &members),
            depends_on,
            update: lead.update.clone(),
            rollback: lead.rollback.clone(),
            rollback_strategy: lead
                .rollback
                .as_ref()
                .map(|r| strategy(&context, lead, &members, Some(r))),
            gap: gap(&context, lead, &members, lead.update.as_ref()),
            completes: waited_for(&lead.name),
            patience: members
                .iter()
                .filter_map(|m| {
                    let health = m.health.resolve(context.facts(&m.name).health.as_ref())?;
                    Some((dns_name(&m.name), health.patience()))
                })
                .collect(),
            restarts: members.iter().any(|m| m.restart.said),
        });
    }
    Resources {
        namespace: context.namespace,
        shared,
        workloads,
        external,
        warnings,
    }
}

fn workload(context: &Context<'_>, lead: &Service, members: &[&Service]) -> Value {
    let mut metadata = context.meta(dns_name(&lead.name), Some(&lead.name));
    for member in members {
        pod::annotate(&mut metadata, &member.own_labels);
    }
    let selector = context.selector(lead);
    let mut template = pod::template(context, lead, members);
    if let Mode::Job(replicas, retries) = lead.mode {
        template["spec"]["restartPolicy"] = json!("Never");
        let mut spec = json!({ "backoffLimit": retries, "template": template });
        if replicas != 1 {
            spec["completions"] = json!(replicas);
            spec["parallelism"] = json!(replicas);
        }
        return json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec });
    }
    let mut spec = json!({ "selector": { "matchLabels": selector }, "template": template });
    let update = lead.update.as_ref();
    // What must last before it counts: as long as a failure is watched for. At home the pause between two batches is
    // made while there is an update, elsewhere nobody knows when that is.
    let monitor = update.and_then(|u| u.monitor);
    let steady = match (monitor, is_asked(&spec["template"])) {
        (Some(monitor), _) => monitor.as_secs_f64().ceil() as u64,
        (None, true) => 0,
        (None, false) => STEADY_SECONDS,
    };
    let pause = update.filter(|_| !context.project.at_home);
    let pause = pause.map_or(0, |u| u.delay.as_secs());
    if pause.max(steady) > 0 {
        spec["minReadySeconds"] = json!(pause.max(steady));
    }
    if lead.mode == Mode::Global {
        let strategy = strategy(context, lead, members, update);
        let mut rolling = json!({ "maxSurge": 1, "maxUnavailable": 0 });
        if strategy["type"] == "Recreate" {
            rolling = json!({ "maxUnavailable": 1 });
        }
        spec["updateStrategy"] = json!({ "type": "RollingUpdate", "rollingUpdate": rolling });
        return json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec });
    }
    spec["replicas"] = json!(lead.mode.replicas());
    spec["strategy"] = strategy(context, lead, members, update);
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec })
}

/// Each container says by itself whether it's well.
fn is_asked(template: &Value) -> bool {
    let containers = template["spec"]["containers"].as_array();
    let mut all = containers.into_iter().flatten();
    all.all(|c| c.get("readinessProbe").is_some())
}

/// Why a service's Pods have to end before their successors start, though the file doesn't say so: a lone writer of a
/// volume must not run twice at once, nor can two hold a port of the host.
fn gap(
    context: &Context<'_>,
    lead: &Service,
    members: &[&Service],
    update: Option<&Update>,
) -> Option<&'static str> {
    let asked = update.and_then(|u| u.start_first);
    let handed_on = members.iter().any(|m| storage::hands_on(context, m));
    let writes = handed_on || members.iter().any(|m| storage::writes(m));
    let holds = members.iter().any(|m| m.namespaces.host_network);
    if handed_on && context.project.at_home && asked != Some(false) {
        return Some("its volumes without a name are handed on");
    }
    match asked {
        Some(_) => None,
        None if holds => Some("it listens on the machine's own network"),
        None if writes && lead.mode.replicas() <= 1 => Some("it alone writes to its volumes"),
        None => None,
    }
}

/// How a Deployment's Pods are replaced: without a gap, unless the file asks for one or there has to be one.
fn strategy(
    context: &Context<'_>,
    lead: &Service,
    members: &[&Service],
    update: Option<&Update>,
) -> Value {
    let holds = members.iter().any(|m| m.namespaces.host_network);
    let replicas = lead.mode.replicas();
    let start_first = update.and_then(|u| u.start_first).unwrap_or(true)
        && gap(context, lead, members, update).is_none();
    let at_once = match update.map_or(1, |u| u.parallelism) {
        0 => json!("100%"),
        n => json!(n),
    };
    match start_first {
        true => {
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": at_once, "maxUnavailable": 0 } })
        }
        false if replicas > 1 && !holds => {
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 0, "maxUnavailable": at_once } })
        }
        false => json!({ "type": "Recreate" }),
    }
}
