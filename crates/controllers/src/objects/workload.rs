//! Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet, ControllerRevision and Job, as controllers see them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    intstr::IntOrString,
    meta::{Condition, Labels, Meta, Seconds, nullable, object, time},
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

/// `batch/v1.Job`
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: JobSpec,
    /// status
    #[serde(default)]
    pub status: JobStatus,
}
object!(Job, "batch", "v1", "jobs", "Job");

/// `batch/v1.JobSpec`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSpec {
    /// pods at a time
    pub parallelism: Option<i32>,
    /// pods that must succeed; None: one success ends a work queue
    pub completions: Option<i32>,
    /// failures borne
    pub backoff_limit: Option<i32>,
    /// s until it counts as failed
    pub active_deadline_seconds: Option<i64>,
    /// s from its end to its deletion
    pub ttl_seconds_after_finished: Option<i32>,
    /// pods meant
    #[serde(default)]
    pub selector: Selector,
    /// template
    pub template: Template,
    /// no pods now
    #[serde(default)]
    pub suspend: bool,
    /// NonIndexed (also when empty) or Indexed
    #[serde(default)]
    pub completion_mode: Box<str>,
    /// failures borne of each index
    #[serde(default)]
    pub backoff_limit_per_index: Option<i32>,
    /// failed indexes borne
    #[serde(default)]
    pub max_failed_indexes: Option<i32>,
    /// what failures mean
    #[serde(default)]
    pub pod_failure_policy: Option<Box<PodFailurePolicy>>,
    /// what success is
    #[serde(default)]
    pub success_policy: Option<Box<SuccessPolicy>>,
    /// TerminatingOrFailed (also when empty) or Failed
    #[serde(default)]
    pub pod_replacement_policy: Box<str>,
    /// who keeps the job, if not we
    #[serde(default)]
    pub managed_by: Option<Box<str>>,
}

/// `batch/v1.PodFailurePolicy`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodFailurePolicy {
    /// the first that matches counts
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<FailureRule>,
}

/// `batch/v1.PodFailurePolicyRule`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureRule {
    /// FailJob, FailIndex, Ignore, Count
    pub action: Box<str>,
    /// by exit code
    pub on_exit_codes: Option<ExitCodes>,
    /// by condition
    #[serde(deserialize_with = "nullable")]
    pub on_pod_conditions: Vec<ConditionPattern>,
}

/// `batch/v1.PodFailurePolicyOnExitCodesRequirement`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExitCodes {
    /// this container alone
    pub container_name: Option<Box<str>>,
    /// In or NotIn
    pub operator: Box<str>,
    /// exit codes
    pub values: Vec<i32>,
}

/// `batch/v1.PodFailurePolicyOnPodConditionsPattern`
#[derive(Debug, Clone, Deserialize)]
pub struct ConditionPattern {
    /// condition
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// its status, True unless set
    #[serde(default = "holds")]
    pub status: Box<str>,
}

fn holds() -> Box<str> {
    "True".into()
}

/// `batch/v1.SuccessPolicy`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SuccessPolicy {
    /// one is enough
    #[serde(deserialize_with = "nullable")]
    pub rules: Vec<SuccessRule>,
}

/// `batch/v1.SuccessPolicyRule`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRule {
    /// indexes meant, e.g. `0,2-4`
    pub succeeded_indexes: Option<Box<str>>,
    /// so many of them
    pub succeeded_count: Option<i32>,
}

/// `batch/v1.JobStatus`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// pods that run or wait
    pub active: i32,
    /// pods that ended well
    pub succeeded: i32,
    /// pods that failed
    pub failed: i32,
    /// ready pods
    pub ready: Option<i32>,
    /// start
    #[serde(deserialize_with = "time")]
    pub start_time: Option<Seconds>,
    /// end
    #[serde(deserialize_with = "time")]
    pub completion_time: Option<Seconds>,
    /// conditions
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// indexes that are done, e.g. `0,2-4`
    #[serde(deserialize_with = "nullable")]
    pub completed_indexes: Box<str>,
    /// indexes that failed, with a limit for each
    pub failed_indexes: Option<Box<str>>,
    /// pods on their way out
    pub terminating: Option<i32>,
    /// pods that ended, and aren't in the counts yet
    #[serde(deserialize_with = "nullable")]
    pub uncounted_terminated_pods: Uncounted,
}

/// `batch/v1.UncountedTerminatedPods`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uncounted {
    /// uids of pods that ended well
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub succeeded: Vec<Box<str>>,
    /// uids of pods that failed
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Box<str>>,
}

/// `batch/v1.CronJob`
#[derive(Debug, Clone, Deserialize)]
pub struct CronJob {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: CronJobSpec,
    /// status
    #[serde(default)]
    pub status: CronJobStatus,
}
object!(CronJob, "batch", "v1", "cronjobs", "CronJob");

/// `batch/v1.CronJobSpec`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CronJobSpec {
    /// five fields or an `@` word
    pub schedule: Box<str>,
    /// IANA name
    #[serde(default)]
    pub time_zone: Option<Box<str>>,
    /// s after which a job isn't started any more
    #[serde(default)]
    pub starting_deadline_seconds: Option<i64>,
    /// Allow (also when empty), Forbid or Replace
    #[serde(default)]
    pub concurrency_policy: Box<str>,
    /// no jobs now
    #[serde(default, deserialize_with = "nullable")]
    pub suspend: bool,
    /// the jobs
    #[serde(default)]
    pub job_template: Template,
    /// jobs kept that ended well
    #[serde(default)]
    pub successful_jobs_history_limit: Option<i32>,
    /// jobs kept that failed
    #[serde(default)]
    pub failed_jobs_history_limit: Option<i32>,
}

/// `batch/v1.CronJobStatus`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobStatus {
    /// jobs that run
    #[serde(deserialize_with = "nullable")]
    pub active: Vec<ActiveJob>,
    /// when a job was due last
    #[serde(deserialize_with = "time")]
    pub last_schedule_time: Option<Seconds>,
    /// when a job ended well last
    #[serde(deserialize_with = "time")]
    pub last_successful_time: Option<Seconds>,
}

/// `v1.ObjectReference` of a job
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ActiveJob {
    /// `batch/v1`
    pub api_version: Box<str>,
    /// `Job`
    pub kind: Box<str>,
    /// namespace
    pub namespace: Box<str>,
    /// name
    pub name: Box<str>,
    /// uid
    pub uid: Box<str>,
    /// revision when it was made
    pub resource_version: Box<str>,
}
