//! CronJob: jobs at times (`pkg/controller/cronjob`).

mod due;
mod schedule;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use self::{
    due::Missed,
    schedule::{Schedule, zone},
};
use crate::{
    error::{Error, Result},
    machinery::{
        cache::Cache,
        context::Context,
        pods::said,
        queue::Queue,
        recorder::Recorder,
        rest::{Delete, Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::{
        batch::{ActiveJob, CronJob, CronJobStatus, Job},
        meta::{Key, Meta, Object, Seconds, now, rfc3339},
    },
};

const NAME: &str = "cronjob";
const SOURCE: &str = "cronjob-controller";
/// Annotation of a job: the time it was due, in the CronJob's zone.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    rest: Rest,
    recorder: Recorder,
    cron_jobs: Arc<Cache<CronJob>>,
    jobs: Arc<Cache<Job>>,
    queue: Queue<Key>,
}

/// The CronJob controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        cron_jobs: ctx.caches.cron_jobs.clone(),
        jobs: ctx.caches.jobs.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.cron_jobs.on_change(move |_, new| {
        if let Some(j) = new {
            me.queue.add(j.metadata.key());
        }
    });
    let me = c.clone();
    c.jobs.on_change(move |old, new| {
        for job in [old, new].into_iter().flatten() {
            if let Some(o) = job.metadata.controller()
                && &*o.kind == CronJob::KIND.kind
            {
                me.queue.add(Key::new(&job.metadata.namespace, &o.name));
            }
        }
    });
    Box::pin(async move {
        c.cron_jobs.synced().await;
        c.jobs.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

/// `Complete` or `Failed`, when it has ended.
fn end(job: &Job) -> Option<&str> {
    job.status
        .conditions
        .iter()
        .find(|c| matches!(&*c.kind, "Complete" | "Failed") && &*c.status == "True")
        .map(|c| &*c.kind)
}

/// A job as the status names it.
fn reference(meta: &Meta) -> ActiveJob {
    ActiveJob {
        api_version: Job::KIND.api_version().into(),
        kind: Job::KIND.kind.into(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
    }
}

/// Deterministic, so that no time is served twice.
fn job_name(cron_job: &CronJob, at: Seconds) -> String {
    format!("{}-{}", cron_job.metadata.name, at.div_euclid(60))
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(cron_job) = self.cron_jobs.at(&key) else {
            return Ok(Next::Wait);
        };
        let jobs = self.jobs.in_namespace(&key.namespace, |j| {
            j.metadata.controlled_by(&cron_job.metadata.uid)
        });
        let mut status = cron_job.status.clone();
        self.forget_old(&cron_job, &jobs, &mut status).await;
        let next = match self.note(&cron_job, &jobs, &mut status).await {
            Ok(()) if cron_job.metadata.deleting() => Ok(Next::Wait),
            Ok(()) => self.start_due(&cron_job, &mut status).await,
            Err(e) => Err(e),
        };
        if status != cron_job.status {
            self.write(&cron_job, &status).await?;
        }
        next
    }

    /// Ended jobs above the limits go, the oldest first.
    async fn forget_old(&self, cron_job: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) {
        for (kind, limit) in [
            ("Complete", cron_job.spec.successful_jobs_history_limit),
            ("Failed", cron_job.spec.failed_jobs_history_limit),
        ] {
            let Some(limit) = limit else { continue };
            let mut ended: Vec<_> = jobs
                .iter()
                .filter(|j| end(j) == Some(kind) && !j.metadata.deleting())
                .collect();
            let started = |j: &Job| j.status.start_time.unwrap_or(Seconds::MAX);
            ended.sort_by(|a, b| {
                (started(a), &a.metadata.name).cmp(&(started(b), &b.metadata.name))
            });
            let too_many = ended.len().saturating_sub(limit.max(0) as usize);
            for job in &ended[..too_many] {
                // it is tried again when the next one ends
                let _ = self.delete(cron_job, &job.metadata, status).await;
            }
        }
    }

    async fn delete(
        &self,
        cron_job: &CronJob,
        job: &Meta,
        status: &mut CronJobStatus,
    ) -> Result<()> {
        let options = Delete::uid(&job.uid).propagate("Background");
        if let Err(e) = self.rest.delete(&Job::KIND.at(job), &options).await {
            let message = format!("Deleted job: {}", said(&e));
            self.recorder
                .warning(cron_job, SOURCE, "FailedDelete", message);
            return Err(e);
        }
        status.active.retain(|a| a.uid != job.uid);
        let message = format!("Deleted job {}", job.name);
        self.recorder
            .normal(cron_job, SOURCE, "SuccessfulDelete", message);
        Ok(())
    }

    /// What became of the jobs.
    async fn note(
        &self,
        cron_job: &CronJob,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> Result<()> {
        let mut live: Option<CronJobStatus> = None;
        for job in jobs {
            let uid = &job.metadata.uid;
            let known = status.active.iter().any(|a| a.uid == *uid);
            match end(job) {
                None if !known && !job.metadata.deleting() => {
                    // the cache may be older than our own write
                    if live.is_none() {
                        let path = CronJob::KIND.at(&cron_job.metadata);
                        live = Some(self.rest.get::<CronJob>(&path).await?.status);
                    }
                    if !live.iter().flat_map(|l| &l.active).any(|a| a.uid == *uid) {
                        let message = format!(
                            "Saw a job that the controller did not create or forgot: {}",
                            job.metadata.name
                        );
                        self.recorder
                            .warning(cron_job, SOURCE, "UnexpectedJob", message);
                    }
                }
                None => {}
                Some(kind) => {
                    if known {
                        status.active.retain(|a| a.uid != *uid);
                        let message = format!(
                            "Saw completed job: {}, condition: {kind}",
                            job.metadata.name
                        );
                        self.recorder
                            .normal(cron_job, SOURCE, "SawCompletedJob", message);
                    }
                    if kind == "Complete" {
                        status.last_successful_time =
                            status.last_successful_time.max(job.status.completion_time);
                    }
                }
            }
        }
        let missing: Vec<ActiveJob> = status
            .active
            .iter()
            .filter(|a| !jobs.iter().any(|j| j.metadata.uid == a.uid))
            .cloned()
            .collect();
        for job in missing {
            let path = Job::KIND.path(&cron_job.metadata.namespace, &job.name);
            match self.rest.get::<Job>(&path).await {
                Ok(live) if live.metadata.uid == job.uid => {}
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {
                    status.active.retain(|a| a.uid != job.uid);
                    let message = format!("Active job went missing: {}", job.name);
                    self.recorder
                        .normal(cron_job, SOURCE, "MissingJob", message);
                }
            }
        }
        Ok(())
    }

    /// Starts the job that is due, if one is.
    async fn start_due(&self, cron_job: &CronJob, status: &mut CronJobStatus) -> Result<Next> {
        let spec = &cron_job.spec;
        let warn = |reason, message| self.recorder.warning(cron_job, SOURCE, reason, message);
        let time_zone = spec.time_zone.as_deref();
        if let Some(name) = time_zone
            && let Err(e) = zone(name)
        {
            warn(
                "UnknownTimeZone",
                format!("invalid timeZone: {name:?}: {e}"),
            );
            return Ok(Next::Wait);
        }
        if spec.suspend {
            return Ok(Next::Wait);
        }
        if spec.schedule.contains("TZ") {
            warn(
                "UnsupportedSchedule",
                format!(
                    "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                    spec.schedule
                ),
            );
        }
        let schedule = match Schedule::parse(&spec.schedule, time_zone) {
            Ok(s) => s,
            Err(e) => {
                warn(
                    "UnparseableSchedule",
                    format!("unparseable schedule: {:?} : {e}", spec.schedule),
                );
                return Ok(Next::Wait);
            }
        };
        let at = now();
        let created = cron_job.metadata.creation_timestamp.unwrap_or(at);
        let last = status.last_schedule_time.unwrap_or(created);
        // a little later, for the clocks of others
        let next = match due::next(&schedule, last, at) {
            Some(t) => Next::after_s(t - at),
            None => Next::Wait,
        };
        let deadline = spec.starting_deadline_seconds;
        let earliest = deadline.map_or(last, |d| last.max(at.saturating_sub(d)));
        let recent = match due::recent(&schedule, earliest, at) {
            Ok(r) => r,
            Err(e) => {
                let message = format!("invalid schedule: {} : {e}", spec.schedule);
                warn("InvalidSchedule", message);
                return Ok(Next::Wait);
            }
        };
        let Some(due) = recent.due else {
            return Ok(next);
        };
        if recent.missed == Missed::Many {
            warn(
                "TooManyMissedTimes",
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew".into(),
            );
        }
        if deadline.is_some_and(|d| due.saturating_add(d) < at) {
            let time = jiff::Timestamp::from_second(due).unwrap_or_default();
            let time = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
            warn(
                "MissSchedule",
                format!("Missed scheduled time to start a job: {time}"),
            );
            return Ok(next);
        }
        let name = job_name(cron_job, due);
        let served = status.active.iter().any(|a| *a.name == *name);
        if served || status.last_schedule_time == Some(due) {
            return Ok(next);
        }
        if &*spec.concurrency_policy == "Forbid" && !status.active.is_empty() {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.recorder
                .normal(cron_job, SOURCE, "JobAlreadyActive", message.into());
            return Ok(next);
        }
        if &*spec.concurrency_policy == "Replace" {
            for active in status.active.clone() {
                let meta = Meta {
                    name: active.name,
                    namespace: cron_job.metadata.namespace.clone(),
                    uid: active.uid,
                    ..Default::default()
                };
                self.delete(cron_job, &meta, status).await?;
            }
        }
        let Some(meta) = self.create(cron_job, &name, due).await? else {
            return Ok(next);
        };
        if !status.active.iter().any(|a| a.uid == meta.uid) {
            status.active.push(reference(&meta));
        }
        status.last_schedule_time = Some(due);
        let next = match due::next(&schedule, due, at) {
            Some(t) => Next::after_s(t - at),
            None => Next::Wait,
        };
        Ok(next)
    }

    /// The job of a time; None when another has its name.
    async fn create(&self, cron_job: &CronJob, name: &str, due: Seconds) -> Result<Option<Meta>> {
        let body = job(cron_job, name, due);
        let collection = Job::KIND.collection(&cron_job.metadata.namespace);
        match self.rest.create::<Job>(&collection, &body).await {
            Ok(job) => {
                let message = format!("Created job {}", job.metadata.name);
                self.recorder
                    .normal(cron_job, SOURCE, "SuccessfulCreate", message);
                Ok(Some(job.metadata))
            }
            Err(e) if e.is_already_exists() => {
                // made before a status that couldn't be written
                let path = Job::KIND.path(&cron_job.metadata.namespace, name);
                let there: Job = self.rest.get(&path).await?;
                let ours = there.metadata.controlled_by(&cron_job.metadata.uid);
                Ok(ours.then_some(there.metadata))
            }
            Err(e) => {
                if !e.is_namespace_terminating() {
                    let message = format!("Error creating job: {}", said(&e));
                    self.recorder
                        .warning(cron_job, SOURCE, "FailedCreate", message);
                }
                Err(e)
            }
        }
    }

    async fn write(&self, cron_job: &CronJob, status: &CronJobStatus) -> Result<()> {
        let patch = json!({
            "metadata": {"resourceVersion": cron_job.metadata.resource_version},
            "status": {
                "active": if status.active.is_empty() { Value::Null } else { json!(status.active) },
                "lastScheduleTime": status.last_schedule_time.map(rfc3339),
                "lastSuccessfulTime": status.last_successful_time.map(rfc3339),
            },
        });
        let path = format!("{}/status", CronJob::KIND.at(&cron_job.metadata));
        match self.rest.merge::<Ignored>(&path, &patch).await {
            Ok(_) => Ok(()),
            Err(Error::Api(s)) if s.code == 404 => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// A job from the template.
fn job(cron_job: &CronJob, name: &str, due: Seconds) -> Value {
    let template = cron_job.spec.job_template.value();
    let mut metadata = json!({
        "name": name,
        "namespace": cron_job.metadata.namespace,
        "labels": template.pointer("/metadata/labels"),
        "annotations": template.pointer("/metadata/annotations"),
        "ownerReferences": [cron_job.controller_ref()],
    });
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    let zone = zone(cron_job.spec.time_zone.as_deref().unwrap_or(""));
    let at = jiff::Timestamp::from_second(due).unwrap_or_default();
    metadata["annotations"][SCHEDULED] = match zone {
        Ok(z) if z != jiff::tz::TimeZone::UTC => {
            let at = at.to_zoned(z);
            at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().into()
        }
        _ => rfc3339(due).into(),
    };
    json!({
        "apiVersion": Job::KIND.api_version(),
        "kind": Job::KIND.kind,
        "metadata": metadata,
        "spec": template.get("spec"),
    })
}
