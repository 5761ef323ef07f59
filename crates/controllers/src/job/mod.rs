//! Job: pods until enough of them ended well (`pkg/controller/job`, `pkg/controller/ttlafterfinished`).

mod backoff;
mod indexes;
mod policy;
mod survey;
mod tally;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use self::{
    backoff::Backoff,
    survey::{Action, Create, Given, INDEX, Survey, indexed, survey, tracked},
    tally::{set, surplus, tally},
};
use crate::{
    error::{Error, Result},
    machinery::{
        cache::Cache,
        context::Context,
        expectations::Expectations,
        ownership,
        pods::{PodControl, slow_start},
        queue::Queue,
        recorder::Recorder,
        rest::{Delete, Ignored, Rest},
        status,
        work::{Next, WORKERS, work},
    },
    objects::{
        batch::{Job, JobStatus},
        meta::{Condition, Key, Object, now, parse_time, rfc3339},
        pod::Pod,
        template::PodName,
    },
};

const NAME: &str = "job";
const SOURCE: &str = "job-controller";
/// Finalizer of pods whose end is still to be counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation: failures of the pod's index before it, that count.
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation: those that don't.
const INDEX_FAILURES_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// `spec.managedBy` of jobs that are ours.
const US: &str = "kubernetes.io/job-controller";
/// Longest prefix of a generated name.
const PREFIX_MAX: usize = 58;

struct Controller {
    rest: Rest,
    recorder: Recorder,
    control: PodControl,
    pods: Arc<Cache<Pod>>,
    jobs: Arc<Cache<Job>>,
    queue: Queue<Key>,
    /// pods that may hold a finalizer that nobody counts
    orphans: Queue<Key>,
    expected: Expectations,
    /// uids of pods whose finalizer we took, until the cache shows it
    released: Mutex<HashSet<Box<str>>>,
    /// failures of the jobs that run
    backoffs: Mutex<HashMap<Key, Backoff>>,
    /// uid and revision of our last write, until the cache has it
    written: Mutex<HashMap<Key, (Box<str>, u64)>>,
}

/// The Job controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let rest = ctx.rest(NAME);
    let c = Arc::new(Controller {
        control: PodControl::new(rest.clone(), ctx.recorder.clone(), SOURCE),
        rest,
        recorder: ctx.recorder.clone(),
        pods: ctx.caches.pods.clone(),
        jobs: ctx.caches.jobs.clone(),
        queue: Queue::default(),
        orphans: Queue::default(),
        expected: Expectations::default(),
        released: Mutex::default(),
        backoffs: Mutex::default(),
        written: Mutex::default(),
    });
    let me = c.clone();
    c.jobs.on_change(move |old, new| {
        let Some(job) = new.or(old) else { return };
        if new.is_none() {
            me.forget(&job.metadata.key());
        }
        me.queue.add(job.metadata.key());
        if new.is_none_or(|j| ended(j).is_some()) {
            me.abandon(job);
        }
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        let Some(pod) = new.or(old) else { return };
        let holds = pod.metadata.finalizers.iter().any(|f| &**f == TRACKING);
        if new.is_none() || !holds {
            me.released.lock().remove(&pod.metadata.uid);
        }
        // one that lost its owner may be of a job that no longer wants it
        for pod in [old, new].into_iter().flatten() {
            if let Some(key) = me.owner(pod) {
                if new.is_none() || pod.metadata.deleting() {
                    me.expected.deleted(&key, &pod.metadata.uid);
                } else if old.is_none() {
                    me.expected.created(&key);
                }
                me.queue.add(key);
            } else if holds && new.is_some() {
                me.orphans.add(pod.metadata.key());
            }
        }
        if new.is_some() && pod.metadata.controller().is_none() {
            me.jobs
                .in_namespace(&pod.metadata.namespace, |j| {
                    !j.spec.selector.is_empty() && j.spec.selector.matches(&pod.metadata.labels)
                })
                .iter()
                .for_each(|j| me.queue.add(j.metadata.key()));
        }
    });
    Box::pin(async move {
        c.jobs.synced().await;
        c.pods.synced().await;
        futures::join!(
            work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)),
            work(NAME, &c.orphans, 1, |key| c.let_go(key)),
        );
    })
}

/// Condition `Complete` or `Failed`.
fn ended(job: &Job) -> Option<&Condition> {
    job.status
        .conditions
        .iter()
        .find(|c| matches!(&*c.kind, "Complete" | "Failed") && &*c.status == "True")
}

/// Someone else keeps it.
fn foreign(job: &Job) -> bool {
    job.spec.managed_by.as_deref().is_some_and(|m| m != US)
}

/// What came of an [`Action`].
#[derive(Default)]
struct Outcome {
    made: i32,
    deleted: i32,
    /// of the deleted, ready
    ready: i32,
    error: Option<Error>,
}

impl Controller {
    fn owner(&self, pod: &Pod) -> Option<Key> {
        let o = pod.metadata.controller()?;
        if &*o.kind != Job::KIND.kind {
            return None;
        }
        let job = self.jobs.get(&pod.metadata.namespace, &o.name)?;
        (job.metadata.uid == o.uid && ended(&job).is_none()).then(|| job.metadata.key())
    }
    fn forget(&self, key: &Key) {
        self.expected.forget(key);
        self.backoffs.lock().remove(key);
        self.written.lock().remove(key);
    }
    /// Nobody counts its pods any more.
    fn abandon(&self, job: &Job) {
        self.pods
            .in_namespace(&job.metadata.namespace, |p| {
                p.metadata.controlled_by(&job.metadata.uid)
                    && p.metadata.finalizers.iter().any(|f| &**f == TRACKING)
            })
            .iter()
            .for_each(|p| self.orphans.add(p.metadata.key()));
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(job) = self.jobs.at(&key) else {
            self.forget(&key);
            return Ok(Next::Wait);
        };
        if job.spec.selector.is_empty() || foreign(&job) {
            return Ok(Next::Wait);
        }
        if let Some(end) = ended(&job) {
            self.forget(&key);
            return self.expire(&job, end).await;
        }
        if self.is_old(&key, &job) {
            // its watch brings us back
            return Ok(Next::Wait);
        }
        // before the cache is read: what it shows is then at least as new
        let settled = self.expected.met(&key);
        let candidates = self.pods.in_namespace(&key.namespace, |p| {
            p.metadata.controlled_by(&job.metadata.uid) || p.metadata.controller().is_none()
        });
        let selector = &job.spec.selector;
        let mark = Some(TRACKING);
        let pods = ownership::claim_marked(&self.rest, &*job, selector, candidates, mark).await?;
        let released: HashSet<Box<str>> = {
            let all = self.released.lock();
            let uids = pods.iter().map(|p| &p.metadata.uid);
            uids.filter(|uid| all.contains(*uid)).cloned().collect()
        };
        let given = Given {
            job: &job,
            pods: &pods,
            released: &released,
            backoff: self.backoffs.lock().get(&key).copied().unwrap_or_default(),
            settled,
            now: now(),
        };
        let mut s = survey(&given);
        let outcome = self.act(&key, &job, &s).await;
        self.count(&key, &given, &mut s, &outcome).await?;
        match outcome.error {
            Some(e) if !e.is_namespace_terminating() => Err(e),
            _ => Ok(s.again_s.map_or(Next::Wait, Next::after_s)),
        }
    }

    /// The cache hasn't seen our last write.
    fn is_old(&self, key: &Key, job: &Job) -> bool {
        let written = self.written.lock();
        written.get(key).is_some_and(|(uid, revision)| {
            let cached = job.metadata.resource_version.parse::<u64>();
            *uid == job.metadata.uid && cached.is_ok_and(|r| r < *revision)
        })
    }

    async fn act(&self, key: &Key, job: &Job, s: &Survey) -> Outcome {
        match &s.action {
            Action::None => Outcome::default(),
            Action::End(pods) => self.delete(key, job, pods, false).await,
            Action::Delete(pods) => {
                let uids = pods.iter().map(|p| p.metadata.uid.clone()).collect();
                self.expected.expect(key, 0, uids);
                self.delete(key, job, pods, true).await
            }
            Action::Create(all) => {
                self.expected.expect(key, all.len(), HashSet::new());
                let (made, error) = slow_start(all.len(), |i| self.create(key, job, &all[i])).await;
                for _ in made..all.len() {
                    self.expected.created(key);
                }
                Outcome {
                    made: made as i32,
                    error,
                    ..Default::default()
                }
            }
        }
    }

    /// Deletes; `uncounted` ones lose their finalizer first.
    async fn delete(&self, key: &Key, job: &Job, pods: &[Arc<Pod>], uncounted: bool) -> Outcome {
        let results = join_all(pods.iter().map(|pod| async move {
            let mut result = Ok(());
            if uncounted {
                result = self.release(pod).await;
            }
            if result.is_ok() {
                result = self.control.delete(job, pod).await;
            }
            if result.is_err() {
                self.expected.deleted(key, &pod.metadata.uid);
            }
            result.map(|()| i32::from(pod.ready()))
        }))
        .await;
        let mut outcome = Outcome::default();
        for result in results {
            match result {
                Ok(ready) => {
                    outcome.deleted += 1;
                    outcome.ready += ready;
                }
                Err(e) => outcome.error = Some(e),
            }
        }
        outcome
    }

    async fn create(&self, key: &Key, job: &Job, create: &Create) -> Result<()> {
        let index = create.index.map(|n| n.to_string());
        let end = index.as_ref().map_or("-".into(), |n| format!("-{n}-"));
        let name = &job.metadata.name;
        let prefix = format!("{}{end}", &name[..name.len().min(PREFIX_MAX - end.len())]);
        let body = job.spec.template.pod_with_spec(
            PodName::Prefix(&prefix),
            &key.namespace,
            &job.controller_ref(),
            |m| {
                if !m.finalizers.iter().any(|f| &**f == TRACKING) {
                    m.finalizers.push(TRACKING.into());
                }
                if let Some(n) = &index {
                    m.labels.set(INDEX, n);
                    m.annotations.set(INDEX, n);
                }
                if let Some((counted, ignored)) = create.failures {
                    m.annotations.set(INDEX_FAILURES, &counted.to_string());
                    if ignored > 0 {
                        m.annotations
                            .set(INDEX_FAILURES_IGNORED, &ignored.to_string());
                    }
                }
            },
            |spec| {
                if let Some(n) = &index {
                    give_index(spec, name, n);
                }
            },
        );
        self.control.create(job, body).await.map(|_| ())
    }

    /// Brings the status up to date, and lets pods go that are counted.
    async fn count(
        &self,
        key: &Key,
        given: &Given<'_>,
        s: &mut Survey,
        outcome: &Outcome,
    ) -> Result<()> {
        let job = given.job;
        let mut status = job.status.clone();
        let active = s.active - outcome.deleted + outcome.made;
        status.active = active;
        status.ready = Some(s.ready - outcome.ready);
        status.terminating = Some(s.terminating + outcome.deleted);
        if status.start_time.is_none() && !job.spec.suspend {
            status.start_time = Some(given.now);
        }
        let managed = given.settled && !job.metadata.deleting();
        if s.finish.is_some() {
            if active > 0 || !given.settled {
                s.finish = None;
            }
        } else {
            let complete = match job.spec.completions {
                Some(n) => s.succeeded >= n && active == 0,
                None => s.succeeded > 0 && active == 0,
            };
            if complete {
                s.finish = Some(survey::Finish {
                    well: true,
                    reason: "CompletionsReached".into(),
                    message: "Reached expected number of succeeded pods".into(),
                });
            } else if managed {
                self.suspend(job, &mut status);
            }
        }
        let mut tally = tally(given, s, status);
        let mut last = job.status.clone();
        let mut revision = job.metadata.resource_version.clone();
        if tally.status != last {
            revision = self.write(key, job, &revision, &tally.status).await?;
            last = tally.status.clone();
        }
        self.backoffs.lock().insert(key.clone(), s.backoff);
        let released = join_all(tally.release.iter().map(|pod| self.release(pod))).await;
        let mut failure = None;
        let pods = std::mem::take(&mut tally.release);
        let gone = pods.iter().zip(released).filter_map(|(pod, r)| match r {
            Ok(()) => Some(pod.metadata.uid.clone()),
            Err(e) => {
                failure = Some(e);
                None
            }
        });
        let gone: Vec<_> = gone.collect();
        let through = tally.settle(s, gone.into_iter(), now());
        if tally.status != last {
            self.write(key, job, &revision, &tally.status).await?;
        }
        if let (true, Some(f)) = (through, &s.finish) {
            if f.well && surplus(job, &tally.status) {
                let message = "Too many succeeded pods running after completion count reached";
                self.recorder
                    .warning(job, SOURCE, "TooManySucceededPods", message.into());
            }
            match f.well {
                true => self
                    .recorder
                    .normal(job, SOURCE, "Completed", "Job completed".into()),
                false => self
                    .recorder
                    .warning(job, SOURCE, reason(&f.reason), f.message.clone()),
            }
        } else if tally.more {
            self.queue.add(key.clone());
        }
        failure.map_or(Ok(()), Err)
    }

    /// Says that it is suspended, or no longer.
    fn suspend(&self, job: &Job, status: &mut JobStatus) {
        let was = status::find(&status.conditions, "Suspended").map(|c| &*c.status == "True");
        if job.spec.suspend == was.unwrap_or(false) {
            return;
        }
        let (holds, reason, event, message) = match job.spec.suspend {
            true => ("True", "JobSuspended", "Suspended", "Job suspended"),
            false => ("False", "JobResumed", "Resumed", "Job resumed"),
        };
        let condition = status::condition("Suspended", holds, reason, message.into());
        set(&mut status.conditions, condition);
        // its time to end starts anew
        status.start_time = (!job.spec.suspend).then(now);
        self.recorder.normal(job, SOURCE, event, message.into());
    }

    /// Returns the new revision.
    async fn write(
        &self,
        key: &Key,
        job: &Job,
        revision: &str,
        status: &JobStatus,
    ) -> Result<Box<str>> {
        let positive = |n: i32| if n > 0 { json!(n) } else { Value::Null };
        let some = |uids: &[Box<str>]| match uids {
            [] => Value::Null,
            uids => json!(uids),
        };
        let uncounted = &status.uncounted_terminated_pods;
        let completed = &status.completed_indexes;
        let patch = json!({
            "metadata": {"resourceVersion": revision},
            "status": {
                "active": positive(status.active),
                "succeeded": positive(status.succeeded),
                "failed": positive(status.failed),
                "ready": status.ready,
                "terminating": status.terminating,
                "uncountedTerminatedPods": {
                    "succeeded": some(&uncounted.succeeded),
                    "failed": some(&uncounted.failed),
                },
                "startTime": status.start_time.map(rfc3339),
                "completionTime": status.completion_time.map(rfc3339),
                "completedIndexes": (indexed(job) && !completed.is_empty()).then_some(completed),
                "failedIndexes": status.failed_indexes,
                "conditions": status.conditions,
            },
        });
        let path = format!("{}/status", Job::KIND.at(&job.metadata));
        let new: Job = self.rest.merge(&path, &patch).await?;
        let revision = new.metadata.resource_version;
        if let Ok(number) = revision.parse() {
            let uid = job.metadata.uid.clone();
            self.written.lock().insert(key.clone(), (uid, number));
        }
        Ok(revision)
    }

    /// Takes a pod's finalizer.
    async fn release(&self, pod: &Pod) -> Result<()> {
        let meta = &pod.metadata;
        if !tracked(pod, &HashSet::new()) {
            return Ok(());
        }
        self.released.lock().insert(meta.uid.clone());
        let patch = json!({"metadata": {
            "uid": meta.uid,
            "$deleteFromPrimitiveList/finalizers": [TRACKING],
        }});
        match self
            .rest
            .strategic::<Ignored>(&Pod::KIND.at(meta), &patch)
            .await
        {
            Ok(_) => Ok(()),
            Err(e) => {
                self.released.lock().remove(&meta.uid);
                // gone, or another of its name
                if e.is_not_found() || e.is_conflict() || e.is_invalid() {
                    return Ok(());
                }
                Err(e)
            }
        }
    }

    /// A pod with our finalizer whose job is gone or through.
    async fn let_go(&self, key: Key) -> Result<Next> {
        let Some(pod) = self.pods.at(&key) else {
            return Ok(Next::Wait);
        };
        if let Some(owner) = pod.metadata.controller() {
            if &*owner.kind != Job::KIND.kind {
                return Ok(Next::Wait);
            }
            // the cache may not have the job yet
            match self
                .rest
                .get::<Job>(&Job::KIND.path(&key.namespace, &owner.name))
                .await
            {
                Ok(job) if job.metadata.uid == owner.uid => {
                    if foreign(&job) || ended(&job).is_none() {
                        return Ok(Next::Wait);
                    }
                }
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        self.release(&pod).await?;
        Ok(Next::Wait)
    }

    /// After its time an ended job goes, with its pods.
    async fn expire(&self, job: &Job, end: &Condition) -> Result<Next> {
        let Some(ttl) = job.spec.ttl_seconds_after_finished else {
            return Ok(Next::Wait);
        };
        if job.metadata.deleting() {
            return Ok(Next::Wait);
        }
        let at = parse_time(end.last_transition_time.as_deref()).unwrap_or_else(now);
        let left = at + i64::from(ttl) - now();
        if left > 0 {
            return Ok(Next::after_s(left));
        }
        let options = Delete::uid(&job.metadata.uid)
            .at(&job.metadata.resource_version)
            .propagate("Foreground");
        self.rest
            .delete(&Job::KIND.at(&job.metadata), &options)
            .await?;
        Ok(Next::Wait)
    }
}

/// Reasons of a failure, as Events have them.
fn reason(of: &str) -> &'static str {
    [
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "PodFailurePolicy",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
    ]
    .into_iter()
    .find(|r| *r == of)
    .unwrap_or("Failed")
}

/// Host name and `JOB_COMPLETION_INDEX`.
fn give_index(spec: &mut Map<String, Value>, job: &str, index: &str) {
    spec.insert("hostname".into(), format!("{job}-{index}").into());
    for list in ["containers", "initContainers"] {
        let Some(all) = spec.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in all.iter_mut().filter_map(Value::as_object_mut) {
            let env = container.entry("env").or_insert_with(|| json!([]));
            if let Some(env) = env.as_array_mut()
                && !env.iter().any(|e| e["name"] == "JOB_COMPLETION_INDEX")
            {
                env.push(
                    json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {
                        "fieldPath": format!("metadata.labels['{INDEX}']"),
                    }}}),
                );
            }
        }
    }
}
