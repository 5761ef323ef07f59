//! Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet and ControllerRevision, as controllers see them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    intstr::IntOrString,
    meta::{Condition, Labels, Meta, nullable, object},
    selector::Selector,
    template::Template,
};

fn one() -> i32 {
    1
}

/// `apps/v1.Deployment`
#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: DeploymentSpec,
    /// status
    #[serde(default)]
    pub status: DeploymentStatus,
}
object!(Deployment, "apps", "v1", "deployments", "Deployment");

/// `apps/v1.DeploymentSpec`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentSpec {
    /// pods wanted
    #[serde(default = "one")]
    pub replicas: i32,
    /// pods meant
    #[serde(default)]
    pub selector: Selector,
    /// template
    pub template: Template,
    /// strategy
    #[serde(default)]
    pub strategy: DeploymentStrategy,
    /// s that a pod must be ready to count
    #[serde(default)]
    pub min_ready_seconds: i32,
    /// old ReplicaSets kept
    pub revision_history_limit: Option<i32>,
    /// no rollout now
    #[serde(default)]
    pub paused: bool,
    /// s without progress until it counts as failed
    pub progress_deadline_seconds: Option<i32>,
}

/// `apps/v1.DeploymentStrategy`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStrategy {
    /// RollingUpdate (also when empty) or Recreate
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// parameters
    pub rolling_update: Option<RollingUpdate>,
}

/// `apps/v1.RollingUpdateDeployment`, and the DaemonSet's and StatefulSet's
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// pods that may be missing
    pub max_unavailable: Option<IntOrString>,
    /// pods that may be too many
    pub max_surge: Option<IntOrString>,
    /// StatefulSet: pods below this ordinal stay as they are
    pub partition: i32,
}

/// `apps/v1.DeploymentStatus`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// generation that this status is of
    pub observed_generation: i64,
    /// pods
    pub replicas: i32,
    /// pods of the newest template
    pub updated_replicas: i32,
    /// ready pods
    pub ready_replicas: i32,
    /// pods ready for long enough
    pub available_replicas: i32,
    /// pods missing
    pub unavailable_replicas: i32,
    /// pods that go away; None: not every set says
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating_replicas: Option<i32>,
    /// hash collisions met
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    /// conditions
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

/// `apps/v1.ReplicaSet`
#[derive(Debug, Clone, Deserialize)]
pub struct ReplicaSet {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: ReplicaSetSpec,
    /// status
    #[serde(default)]
    pub status: ReplicaSetStatus,
}
object!(ReplicaSet, "apps", "v1", "replicasets", "ReplicaSet");

/// `apps/v1.ReplicaSetSpec`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSetSpec {
    /// pods wanted
    #[serde(default = "one")]
    pub replicas: i32,
    /// s that a pod must be ready to count
    #[serde(default)]
    pub min_ready_seconds: i32,
    /// pods meant
    #[serde(default)]
    pub selector: Selector,
    /// template
    #[serde(default)]
    pub template: Template,
}

/// `apps/v1.ReplicaSetStatus`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    /// pods
    pub replicas: i32,
    /// pods with all of the template's labels
    pub fully_labeled_replicas: i32,
    /// ready pods
    pub ready_replicas: i32,
    /// pods ready for long enough
    pub available_replicas: i32,
    /// pods that go away; None for ReplicationControllers
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating_replicas: Option<i32>,
    /// generation that this status is of
    pub observed_generation: i64,
    /// conditions
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

/// `v1.ReplicationController`
#[derive(Debug, Clone, Deserialize)]
pub struct ReplicationController {
    /// metadata
    pub metadata: Meta,
    /// spec
    #[serde(rename = "spec", deserialize_with = "rc_spec")]
    pub spec: ReplicaSetSpec,
    /// status
    #[serde(default)]
    pub status: ReplicaSetStatus,
}
object!(
    ReplicationController,
    "",
    "v1",
    "replicationcontrollers",
    "ReplicationController"
);

/// A ReplicationController's selector is a plain map.
fn rc_spec<'de, D: serde::Deserializer<'de>>(d: D) -> Result<ReplicaSetSpec, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default = "one")]
        replicas: i32,
        #[serde(default)]
        min_ready_seconds: i32,
        #[serde(default)]
        selector: Labels,
        #[serde(default)]
        template: Template,
    }
    let s = Spec::deserialize(d)?;
    Ok(ReplicaSetSpec {
        replicas: s.replicas,
        min_ready_seconds: s.min_ready_seconds,
        selector: Selector::of(s.selector),
        template: s.template,
    })
}

/// `apps/v1.StatefulSet`
#[derive(Debug, Clone, Deserialize)]
pub struct StatefulSet {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: StatefulSetSpec,
    /// status
    #[serde(default)]
    pub status: StatefulSetStatus,
}
object!(StatefulSet, "apps", "v1", "statefulsets", "StatefulSet");

/// `apps/v1.StatefulSetSpec`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSetSpec {
    /// pods wanted
    #[serde(default = "one")]
    pub replicas: i32,
    /// pods meant
    #[serde(default)]
    pub selector: Selector,
    /// template
    pub template: Template,
    /// claims of each pod
    #[serde(default, deserialize_with = "nullable")]
    pub volume_claim_templates: Vec<Template>,
    /// headless service
    #[serde(default)]
    pub service_name: Box<str>,
    /// OrderedReady (also when empty) or Parallel
    #[serde(default)]
    pub pod_management_policy: Box<str>,
    /// update strategy
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// old revisions kept
    pub revision_history_limit: Option<i32>,
    /// s that a pod must be ready to count
    #[serde(default)]
    pub min_ready_seconds: i32,
    /// what happens to claims
    #[serde(default)]
    pub persistent_volume_claim_retention_policy: Option<ClaimRetention>,
    /// first ordinal
    #[serde(default)]
    pub ordinals: Option<Ordinals>,
}

/// `apps/v1.StatefulSetOrdinals`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Ordinals {
    /// ordinal of the first pod
    pub start: i32,
}

/// `apps/v1.StatefulSetPersistentVolumeClaimRetentionPolicy`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimRetention {
    /// Retain (also when empty) or Delete
    pub when_deleted: Box<str>,
    /// Retain (also when empty) or Delete
    pub when_scaled: Box<str>,
}

/// `apps/v1.StatefulSetUpdateStrategy` and the DaemonSet's
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// RollingUpdate (also when empty) or OnDelete
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// parameters
    pub rolling_update: Option<RollingUpdate>,
}

/// `apps/v1.StatefulSetStatus`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetStatus {
    /// generation that this status is of
    pub observed_generation: i64,
    /// pods
    pub replicas: i32,
    /// ready pods
    pub ready_replicas: i32,
    /// pods of the current revision
    pub current_replicas: i32,
    /// pods of the update revision
    pub updated_replicas: i32,
    /// pods ready for long enough
    pub available_replicas: i32,
    /// current revision
    #[serde(skip_serializing_if = "str::is_empty")]
    pub current_revision: Box<str>,
    /// update revision
    #[serde(skip_serializing_if = "str::is_empty")]
    pub update_revision: Box<str>,
    /// hash collisions met
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
}

/// `apps/v1.ControllerRevision`
#[derive(Debug, Clone, Deserialize)]
pub struct ControllerRevision {
    /// metadata
    pub metadata: Meta,
    /// the state, a patch
    pub data: Option<Box<RawValue>>,
    /// number in the history
    #[serde(default)]
    pub revision: i64,
}
object!(
    ControllerRevision,
    "apps",
    "v1",
    "controllerrevisions",
    "ControllerRevision"
);

/// `apps/v1.DaemonSet`
#[derive(Debug, Clone, Deserialize)]
pub struct DaemonSet {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: DaemonSetSpec,
    /// status
    #[serde(default)]
    pub status: DaemonSetStatus,
}
object!(DaemonSet, "apps", "v1", "daemonsets", "DaemonSet");

/// `apps/v1.DaemonSetSpec`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonSetSpec {
    /// pods meant
    #[serde(default)]
    pub selector: Selector,
    /// template
    pub template: Template,
    /// update strategy
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// s that a pod must be ready to count
    #[serde(default)]
    pub min_ready_seconds: i32,
    /// old revisions kept
    pub revision_history_limit: Option<i32>,
}

/// `apps/v1.DaemonSetStatus`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatus {
    /// nodes that run it and should
    pub current_number_scheduled: i32,
    /// nodes that run it and shouldn't
    pub number_misscheduled: i32,
    /// nodes that should
    pub desired_number_scheduled: i32,
    /// nodes with a ready pod
    pub number_ready: i32,
    /// generation that this status is of
    pub observed_generation: i64,
    /// nodes with a pod of the newest template
    pub updated_number_scheduled: i32,
    /// nodes with an available pod
    pub number_available: i32,
    /// nodes without
    pub number_unavailable: i32,
    /// hash collisions met
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
}
