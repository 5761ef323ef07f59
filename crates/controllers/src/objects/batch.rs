//! Job and CronJob, as controllers see them.

use serde::{Deserialize, Serialize};

use super::{
    meta::{Condition, Meta, Seconds, nullable, object, time},
    selector::Selector,
    template::Template,
};

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
