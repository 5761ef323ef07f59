//! Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, ControllerRevision, Job, CronJob.

use super::{
    PLAIN, age,
    cells::{AGE, NAME, column, containers, labels, or_none, selector, wide},
    json::{child, default, map, number, text},
    pod_validation, template,
};
use crate::registry::{FieldError, Lookup, Resource, Scale, Selector, Strategy};
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
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = template::check(o);
        let strategy = &o["spec"]["strategy"];
        let rolling = &strategy["rollingUpdate"];
        let zero = |v: &Value| *v == 0 || *v == "0%";
        match text(strategy, "/type") {
            "Recreate" if rolling.is_object() => errors.push(FieldError::Forbidden {
                field: "spec.strategy.rollingUpdate".into(),
                detail: "may not be specified when strategy `type` is 'Recreate'".into(),
            }),
            "RollingUpdate" if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) => {
                errors.push(FieldError::Invalid {
                    field: "spec.strategy.rollingUpdate.maxUnavailable".into(),
                    value: rolling["maxUnavailable"].clone(),
                    detail: "may not be 0 when `maxSurge` is 0".into(),
                })
            }
            "Recreate" | "RollingUpdate" => {}
            other => errors.push(FieldError::NotSupported {
                field: "spec.strategy.type".into(),
                value: other.into(),
                supported: vec!["Recreate".into(), "RollingUpdate".into()],
            }),
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        template::immutable_selector(new, old)
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
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        template::check(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        template::immutable_selector(new, old)
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
            default(spec, "selector", from.clone());
            if let Some(meta) = o.get_mut("metadata") {
                default(meta, "labels", from);
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "replicas": 0 });
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if map(o, "/spec/selector").is_none_or(|m| m.is_empty()) {
            errors.push(FieldError::Required {
                field: "spec.selector".into(),
                detail: String::new(),
            });
        }
        errors.extend(pod_validation::pod_spec(
            &o["spec"]["template"]["spec"],
            "spec.template.spec",
            &["Always"],
        ));
        errors
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
        default(
            spec,
            "persistentVolumeClaimRetentionPolicy",
            json!({ "whenDeleted": "Retain", "whenScaled": "Retain" }),
        );
        if let Some(update) = child(spec, "updateStrategy") {
            default(update, "type", "RollingUpdate");
            if update["type"] == "RollingUpdate"
                && let Some(rolling) = child(update, "rollingUpdate")
            {
                default(rolling, "partition", 0);
            }
        }
        for claim in super::json::items_mut(spec, "volumeClaimTemplates") {
            default(claim, "apiVersion", "v1");
            default(claim, "kind", "PersistentVolumeClaim");
            if let Some(s) = claim.get_mut("spec") {
                default(s, "volumeMode", "Filesystem");
            }
            default(claim, "status", json!({ "phase": "Pending" }));
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "replicas": 0, "availableReplicas": 0 });
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        template::check(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let strip = |o: &Value| {
            let mut spec = o["spec"].clone();
            for key in [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
            ] {
                spec[key] = Value::Null;
            }
            spec
        };
        if strip(new) == strip(old) {
            return vec![];
        }
        vec![FieldError::Forbidden {
            field: "spec".into(),
            detail: "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden".into(),
        }]
    }
}

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
        o["status"] = json!({ "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0 });
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        template::check(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        template::immutable_selector(new, old)
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
        default(spec, "backoffLimit", 6);
        default(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        default(spec, "manualSelector", false);
        default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        if o["spec"]["manualSelector"] == true {
            return Ok(());
        }
        // The engine has set the uid: it names this Job's pods.
        let (uid, name) = (o["metadata"]["uid"].clone(), o["metadata"]["name"].clone());
        o["spec"]["selector"] =
            json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } });
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
                labels[key] = value.clone();
            }
        }
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        pod_validation::pod_spec(
            &o["spec"]["template"]["spec"],
            "spec.template.spec",
            &["OnFailure", "Never"],
        )
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        template::immutable_selector(new, old)
    }
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
        }
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
