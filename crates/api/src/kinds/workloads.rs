//! Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, ControllerRevision, Job, CronJob.

use super::{
    PLAIN, age,
    cells::{AGE, NAME, column, containers, labels, or_none, selector, wide},
    checks::{jobs, path::Path, rules, workloads as checks},
    json::{child, default, items_mut, map, number, text},
    pod_prepare, pod_warnings, storage, template,
};
use crate::registry::{FieldError, Lookup, NameRule, Resource, Scale, Selector, Strategy};
use serde_json::{Value, json};

struct Deployment;
impl Strategy for Deployment {
    fn default(&self, o: &mut Value) {
        template::fill(o);
        let Some(spec) = child(o, "spec") else { return };
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        if let Some(strategy) = child(spec, "strategy") {
            default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = child(strategy, "rollingUpdate")
            {
                default(rolling, "maxUnavailable", "25%");
                default(rolling, "maxSurge", "25%");
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o, true)
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::deployment(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::immutable_selector(new, old)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&DeploymentStatus)
    }
}

/// `…/status`
struct DeploymentStatus;
impl Strategy for DeploymentStatus {
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let fields = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        checks::counts(new, old, &fields, &parts, "readyReplicas")
    }
}

struct ReplicaSet;
impl Strategy for ReplicaSet {
    fn default(&self, o: &mut Value) {
        template::fill(o);
        if let Some(spec) = child(o, "spec") {
            default(spec, "replicas", 1);
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "replicas": 0 });
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o, true)
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::replica_set(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::immutable_selector(new, old)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&ReplicaStatus)
    }
}

/// `…/status` of ReplicaSets and ReplicationControllers
struct ReplicaStatus;
impl Strategy for ReplicaStatus {
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let fields = [
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ];
        let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        checks::counts(new, old, &fields, &parts, "readyReplicas")
    }
}

struct ReplicationController;
impl Strategy for ReplicationController {
    fn default(&self, o: &mut Value) {
        template::fill(o);
        let from = o["spec"]["template"]["metadata"]["labels"].clone();
        let Some(spec) = child(o, "spec") else { return };
        default(spec, "replicas", 1);
        if from.is_object() {
            if map(spec, "/selector").is_none_or(|m| m.is_empty()) {
                spec["selector"] = from.clone();
            }
            if map(o, "/metadata/labels").is_none_or(|m| m.is_empty()) {
                o["metadata"]["labels"] = from;
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "replicas": 0 });
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o, true)
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::replication_controller(o)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&ReplicaStatus)
    }
}

struct StatefulSet;
impl Strategy for StatefulSet {
    fn default(&self, o: &mut Value) {
        template::fill(o);
        let Some(spec) = child(o, "spec") else { return };
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "podManagementPolicy", "OrderedReady");
        if let Some(policy) = child(spec, "persistentVolumeClaimRetentionPolicy") {
            default(policy, "whenDeleted", "Retain");
            default(policy, "whenScaled", "Retain");
        }
        if let Some(update) = child(spec, "updateStrategy") {
            default(update, "type", "RollingUpdate");
            if update["type"] == "RollingUpdate"
                && let Some(rolling) = child(update, "rollingUpdate")
            {
                // maxUnavailable is kept, but has no default: upstream's MaxUnavailableStatefulSet is off unless asked for
                default(rolling, "partition", 0);
            }
        }
        for claim in super::json::items_mut(spec, "volumeClaimTemplates") {
            default(claim, "apiVersion", "v1");
            default(claim, "kind", "PersistentVolumeClaim");
            if let Some(s) = claim.get_mut("spec").filter(|s| s.is_object()) {
                storage::claim_spec(s);
            }
            if let Some(status) = child(claim, "status") {
                default(status, "phase", "Pending");
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "replicas": 0, "availableReplicas": 0 });
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o, false)
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::stateful_set(o, false)
    }
    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        checks::stateful_set(o, true)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::stateful_set_update(new, old)
    }
    fn name(&self) -> NameRule {
        NameRule::DnsLabel
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&StatefulStatus)
    }
}

/// `…/status`
struct StatefulStatus;
impl Strategy for StatefulStatus {
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let fields = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        checks::counts(new, old, &fields, &fields[1..5], "status.readyReplicas")
    }
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

struct DaemonSet;
impl Strategy for DaemonSet {
    fn default(&self, o: &mut Value) {
        template::fill(o);
        let Some(spec) = child(o, "spec") else { return };
        default(spec, "revisionHistoryLimit", 10);
        if let Some(update) = child(spec, "updateStrategy") {
            default(update, "type", "RollingUpdate");
            if update["type"] == "RollingUpdate"
                && let Some(rolling) = child(update, "rollingUpdate")
            {
                default(rolling, "maxUnavailable", 1);
                default(rolling, "maxSurge", 0);
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["metadata"]["annotations"][TEMPLATE_GENERATION] = "1".into();
        o["status"] = json!({ "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0 });
        Ok(())
    }
    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        // extensions/v1beta1 had the number as a field; it lives on in an annotation
        let number = old["metadata"]["annotations"][TEMPLATE_GENERATION].as_str();
        let number: i64 = number.and_then(|n| n.parse().ok()).unwrap_or(0);
        let changed = new["spec"]["template"] != old["spec"]["template"];
        let number = number + i64::from(changed);
        if number != 0 {
            new["metadata"]["annotations"][TEMPLATE_GENERATION] = number.to_string().into();
        }
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o, false)
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::daemon_set(o)
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = checks::immutable_selector(new, old);
        errors.extend(checks::daemon_set(new));
        errors
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&DaemonStatus)
    }
}

/// `…/status`
struct DaemonStatus;
impl Strategy for DaemonStatus {
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let fields = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        checks::counts(new, old, &fields, &[], "")
    }
}

/// ControllerRevision
struct Revision;
impl Strategy for Revision {
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::revision(o, false)
    }
    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        checks::revision(o, true)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::revision_update(new, old)
    }
}

struct Job;
impl Strategy for Job {
    fn default(&self, o: &mut Value) {
        template::fill(o);
        let Some(spec) = child(o, "spec") else { return };
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            default(spec, "completions", 1);
        }
        default(spec, "parallelism", 1);
        let per_index = !spec["backoffLimitPerIndex"].is_null();
        let limit = if per_index { i64::from(i32::MAX) } else { 6 };
        default(spec, "backoffLimit", limit);
        default(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        default(spec, "manualSelector", false);
        let policy = spec["podFailurePolicy"].is_object();
        default(
            spec,
            "podReplacementPolicy",
            if policy {
                "Failed"
            } else {
                "TerminatingOrFailed"
            },
        );
        failure_policy(spec);
        let labels = o["spec"]["template"]["metadata"]["labels"].clone();
        if labels.is_object() && map(o, "/metadata/labels").is_none_or(|m| m.is_empty()) {
            o["metadata"]["labels"] = labels;
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        pod_prepare::drop_disabled(&mut o["spec"]["template"]["spec"]);
        if o["spec"]["manualSelector"] == true {
            return Ok(());
        }
        // The engine has set the uid: it names this Job's pods.
        let (uid, name) = (o["metadata"]["uid"].clone(), o["metadata"]["name"].clone());
        let shared = o["metadata"]["labels"] == o["spec"]["template"]["metadata"]["labels"];
        if let Some(selector) = child(&mut o["spec"], "selector")
            && let Some(labels) = child(selector, "matchLabels")
        {
            default(labels, "batch.kubernetes.io/controller-uid", uid.clone());
        }
        let template = &mut o["spec"]["template"];
        if let Some(meta) = child(template, "metadata")
            && let Some(labels) = child(meta, "labels")
        {
            for (key, value) in [
                ("batch.kubernetes.io/controller-uid", &uid),
                ("controller-uid", &uid),
                ("batch.kubernetes.io/job-name", &name),
                ("job-name", &name),
            ] {
                default(labels, key, value.clone());
            }
        }
        // labels that came from the template are the template's
        if shared {
            o["metadata"]["labels"] = o["spec"]["template"]["metadata"]["labels"].clone();
        }
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        warnings(o, true)
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        jobs::job(o, false)
    }
    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        jobs::job(o, true)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        jobs::job_update(new, old)
    }
}

/// What a failure policy's patterns leave out.
fn failure_policy(spec: &mut Value) {
    let Some(policy) = spec.get_mut("podFailurePolicy").filter(|p| p.is_object()) else {
        return;
    };
    for rule in items_mut(policy, "rules") {
        for pattern in items_mut(rule, "onPodConditions") {
            if text(pattern, "/status").is_empty() {
                pattern["status"] = "True".into();
            }
        }
    }
}

/// Warnings about the template at `spec.template`, and with `named` about a name that Pods can't have in theirs.
fn warnings(o: &Value, named: bool) -> Vec<String> {
    let mut all = Vec::new();
    let messages = rules::dns_label(text(o, "/metadata/name"));
    if named && !messages.is_empty() {
        all.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            messages.join(" ")
        ));
    }
    let template = &o["spec"]["template"];
    let at = Path::Root("spec.template");
    all.extend(pod_warnings::of(
        &template["metadata"],
        &template["spec"],
        &at,
    ));
    all
}

struct CronJob;
impl Strategy for CronJob {
    fn default(&self, o: &mut Value) {
        let Some(spec) = child(o, "spec") else { return };
        default(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = spec.get_mut("jobTemplate") {
            template::fill(job);
            if let Some(spec) = job.get_mut("spec") {
                failure_policy(spec);
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        let mut all = Vec::new();
        let messages = rules::dns_label(text(o, "/metadata/name"));
        if !messages.is_empty() {
            all.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
                messages.join(" ")
            ));
        }
        let template = &o["spec"]["jobTemplate"]["spec"]["template"];
        let at = Path::Root("spec.jobTemplate.spec.template");
        all.extend(pod_warnings::of(
            &template["metadata"],
            &template["spec"],
            &at,
        ));
        all
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        jobs::cron_job(o)
    }
    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = jobs::cron_job(o);
        errors.extend(jobs::cron_job_name(o));
        errors
    }
}

const REPLICAS: Option<Scale> = Some(Scale {
    spec_replicas: "/spec/replicas",
    status_replicas: "/status/replicas",
    selector: Selector::LabelSelector("/spec/selector"),
});

const CONTAINERS: crate::registry::Column = wide("Containers", "string", |o| containers(o, "name"));
const IMAGES: crate::registry::Column = wide("Images", "string", |o| containers(o, "image"));
const SELECTOR: crate::registry::Column =
    wide("Selector", "string", |o| selector(&o["spec"]["selector"]));

pub(crate) fn resources() -> Vec<Resource> {
    let apps = Resource {
        group: "apps",
        has_status: true,
        categories: &["all"],
        ..PLAIN
    };
    vec![
        Resource {
            kind: "ReplicationController",
            plural: "replicationcontrollers",
            singular: "replicationcontroller",
            short_names: &["rc"],
            categories: &["all"],
            has_status: true,
            strategy: &ReplicationController,
            scale: Some(Scale {
                spec_replicas: "/spec/replicas",
                status_replicas: "/status/replicas",
                selector: Selector::Labels("/spec/selector"),
            }),
            selectable_fields: &[("status.replicas", |o| {
                number(o, "/status/replicas").to_string()
            })],
            columns: const {
                &[
                    NAME,
                    column("Desired", "integer", |o| number(o, "/spec/replicas").into()),
                    column("Current", "integer", |o| {
                        number(o, "/status/replicas").into()
                    }),
                    column("Ready", "integer", |o| {
                        number(o, "/status/readyReplicas").into()
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    wide("Selector", "string", |o| labels(&o["spec"]["selector"])),
                ]
            },
            ..PLAIN
        },
        Resource {
            kind: "Deployment",
            plural: "deployments",
            singular: "deployment",
            short_names: &["deploy"],
            scale: REPLICAS,
            strategy: &Deployment,
            columns: const {
                &[
                    NAME,
                    column("Ready", "string", |o| {
                        format!(
                            "{}/{}",
                            number(o, "/status/readyReplicas"),
                            number(o, "/spec/replicas")
                        )
                        .into()
                    }),
                    column("Up-to-date", "string", |o| {
                        number(o, "/status/updatedReplicas").into()
                    }),
                    column("Available", "string", |o| {
                        number(o, "/status/availableReplicas").into()
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    SELECTOR,
                ]
            },
            ..apps
        },
        Resource {
            kind: "ReplicaSet",
            plural: "replicasets",
            singular: "replicaset",
            short_names: &["rs"],
            scale: REPLICAS,
            strategy: &ReplicaSet,
            selectable_fields: &[("status.replicas", |o| {
                number(o, "/status/replicas").to_string()
            })],
            columns: const {
                &[
                    NAME,
                    column("Desired", "integer", |o| number(o, "/spec/replicas").into()),
                    column("Current", "integer", |o| {
                        number(o, "/status/replicas").into()
                    }),
                    column("Ready", "integer", |o| {
                        number(o, "/status/readyReplicas").into()
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    SELECTOR,
                ]
            },
            group: "apps",
            has_status: true,
            categories: &["all"],
            ..PLAIN
        },
        Resource {
            kind: "StatefulSet",
            plural: "statefulsets",
            singular: "statefulset",
            short_names: &["sts"],
            scale: REPLICAS,
            strategy: &StatefulSet,
            columns: const {
                &[
                    NAME,
                    column("Ready", "string", |o| {
                        format!(
                            "{}/{}",
                            number(o, "/status/readyReplicas"),
                            number(o, "/spec/replicas")
                        )
                        .into()
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                ]
            },
            group: "apps",
            has_status: true,
            categories: &["all"],
            ..PLAIN
        },
        Resource {
            kind: "DaemonSet",
            plural: "daemonsets",
            singular: "daemonset",
            short_names: &["ds"],
            strategy: &DaemonSet,
            columns: const {
                &[
                    NAME,
                    column("Desired", "integer", |o| {
                        number(o, "/status/desiredNumberScheduled").into()
                    }),
                    column("Current", "integer", |o| {
                        number(o, "/status/currentNumberScheduled").into()
                    }),
                    column("Ready", "integer", |o| {
                        number(o, "/status/numberReady").into()
                    }),
                    column("Up-to-date", "integer", |o| {
                        number(o, "/status/updatedNumberScheduled").into()
                    }),
                    column("Available", "integer", |o| {
                        number(o, "/status/numberAvailable").into()
                    }),
                    column("Node Selector", "string", |o| {
                        labels(&o["spec"]["template"]["spec"]["nodeSelector"])
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    SELECTOR,
                ]
            },
            group: "apps",
            has_status: true,
            categories: &["all"],
            ..PLAIN
        },
        Resource {
            group: "apps",
            kind: "ControllerRevision",
            strategy: &Revision,
            plural: "controllerrevisions",
            singular: "controllerrevision",
            columns: const {
                &[
                    NAME,
                    column("Controller", "string", |o| {
                        let owner = super::json::items(o, "/metadata/ownerReferences")
                            .iter()
                            .find(|r| r["controller"] == true);
                        or_none(
                            owner
                                .map(|r| {
                                    format!(
                                        "{}/{}",
                                        text(r, "/kind").to_lowercase(),
                                        text(r, "/name")
                                    )
                                })
                                .unwrap_or_default(),
                        )
                    }),
                    column("Revision", "string", |o| number(o, "/revision").into()),
                    AGE,
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "batch",
            kind: "Job",
            plural: "jobs",
            singular: "job",
            categories: &["all"],
            has_status: true,
            strategy: &Job,
            selectable_fields: &[("status.successful", |o| {
                number(o, "/status/succeeded").to_string()
            })],
            columns: const {
                &[
                    NAME,
                    column("Status", "string", |o| {
                        let met = |t: &str| {
                            super::json::items(o, "/status/conditions")
                                .iter()
                                .any(|c| c["type"] == t && c["status"] == "True")
                        };
                        [
                            "Complete",
                            "Failed",
                            "Suspended",
                            "FailureTarget",
                            "SuccessCriteriaMet",
                        ]
                        .into_iter()
                        .find(|t| met(t))
                        .unwrap_or("Running")
                        .into()
                    }),
                    column(
                        "Completions",
                        "string",
                        |o| match o["spec"]["completions"].as_i64() {
                            Some(n) => format!("{}/{n}", number(o, "/status/succeeded")).into(),
                            None => format!("{}/1", number(o, "/status/succeeded")).into(),
                        },
                    ),
                    column("Duration", "string", |o| {
                        let at = |p: &str| {
                            text(o, p)
                                .parse::<jiff::Timestamp>()
                                .ok()
                                .map(jiff::Timestamp::as_second)
                        };
                        match (at("/status/startTime"), at("/status/completionTime")) {
                            (Some(a), Some(b)) => age::human(b - a).into(),
                            (Some(a), None) => {
                                age::human(jiff::Timestamp::now().as_second() - a).into()
                            }
                            _ => "".into(),
                        }
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    SELECTOR,
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "batch",
            kind: "CronJob",
            plural: "cronjobs",
            singular: "cronjob",
            short_names: &["cj"],
            categories: &["all"],
            has_status: true,
            strategy: &CronJob,
            columns: const {
                &[
                    NAME,
                    column("Schedule", "string", |o| text(o, "/spec/schedule").into()),
                    column("Timezone", "string", |o| {
                        or_none(text(o, "/spec/timeZone").into())
                    }),
                    column("Suspend", "boolean", |o| {
                        (o["spec"]["suspend"] == true).to_string().into()
                    }),
                    column("Active", "integer", |o| {
                        super::json::items(o, "/status/active").len().into()
                    }),
                    column("Last Schedule", "string", |o| {
                        match text(o, "/status/lastScheduleTime") {
                            "" => "<none>".into(),
                            _ => age::since(&o["status"]["lastScheduleTime"]).into(),
                        }
                    }),
                    AGE,
                    wide("Containers", "string", |o| {
                        containers(&o["spec"]["jobTemplate"], "name")
                    }),
                    wide("Images", "string", |o| {
                        containers(&o["spec"]["jobTemplate"], "image")
                    }),
                    wide("Selector", "string", |o| {
                        selector(&o["spec"]["jobTemplate"]["spec"]["selector"])
                    }),
                ]
            },
            ..PLAIN
        },
    ]
}
