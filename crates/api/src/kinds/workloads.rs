//! Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, ControllerRevision.

use super::{
    PLAIN,
    cells::{AGE, NAME, column, containers, labels, or_none, selector, wide},
    checks::{path::Path, rules, workloads as checks},
    json::{child, default, map, number, text},
    pod_warnings, storage, template,
};
use crate::registry::{Column, FieldError, Lookup, NameRule, Resource, Scale, Selector, Strategy};
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
                // maxUnavailable is kept, and the controller goes by it, but has no default: upstream drops it unless its
                // MaxUnavailableStatefulSet is asked for, which ours always is
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
        let mut all = warnings(o, false);
        if o["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(0) < 0 {
            all.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".into());
        }
        all
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

/// Warnings about the template at `spec.template`, and with `named` about a name that Pods can't have in theirs.
fn warnings(o: &Value, named: bool) -> Vec<String> {
    let mut all = Vec::new();
    if named {
        all.extend(name_warning(o));
    }
    let template = &o["spec"]["template"];
    all.extend(template_warnings(template, "spec.template"));
    all
}

/// About a name that Pods can't have in theirs.
pub(super) fn name_warning(o: &Value) -> Option<String> {
    let messages = rules::dns_label(text(o, "/metadata/name"));
    (!messages.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            messages.join(" ")
        )
    })
}

/// About a Pod template at this path.
pub(super) fn template_warnings(template: &Value, path: &'static str) -> Vec<String> {
    pod_warnings::of(&template["metadata"], &template["spec"], &Path::Root(path))
}

const REPLICAS: Option<Scale> = Some(Scale {
    spec_replicas: "/spec/replicas",
    status_replicas: "/status/replicas",
    selector: Selector::LabelSelector("/spec/selector"),
});

const DESIRED: Column = column("Desired", "integer", |o| number(o, "/spec/replicas").into());
const CURRENT: Column = column("Current", "integer", |o| {
    number(o, "/status/replicas").into()
});
const READY: Column = column("Ready", "integer", |o| {
    number(o, "/status/readyReplicas").into()
});
const READY_OF_ALL: Column = column("Ready", "string", |o| {
    let (ready, all) = (
        number(o, "/status/readyReplicas"),
        number(o, "/spec/replicas"),
    );
    format!("{ready}/{all}").into()
});
pub(super) const CONTAINERS: Column = wide("Containers", "string", |o| containers(o, "name"));
pub(super) const IMAGES: Column = wide("Images", "string", |o| containers(o, "image"));
pub(super) const SELECTOR: Column =
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
                    DESIRED,
                    CURRENT,
                    READY,
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
                    READY_OF_ALL,
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
                    NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR,
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
            columns: const { &[NAME, READY_OF_ALL, AGE, CONTAINERS, IMAGES] },
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
    ]
}
