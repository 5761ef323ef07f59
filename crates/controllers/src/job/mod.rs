//! Job: pods until enough of them ended well (`pkg/controller/job`, `pkg/controller/ttlafterfinished`).

mod plan;

use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use serde_json::{Value, json};

use self::plan::{End, INDEX, Plan, indexed};
use crate::{
    error::Result,
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
        meta::{Condition, Key, Object, now, parse_time, rfc3339},
        pod::Pod,
        template::PodName,
        workload::Job,
    },
};

const NAME: &str = "job";
const SOURCE: &str = "job-controller";
/// Finalizer that upstream's job controller puts on pods; ones made by it are let go.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";

struct Controller {
    rest: Rest,
    recorder: Recorder,
    control: PodControl,
    pods: Arc<Cache<Pod>>,
    jobs: Arc<Cache<Job>>,
    queue: Queue<Key>,
    expected: Expectations,
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
        expected: Expectations::default(),
    });
    let me = c.clone();
    c.jobs.on_change(move |old, new| {
        if let Some(j) = new.or(old) {
            if new.is_none() {
                me.expected.forget(&j.metadata.key());
            }
            me.queue.add(j.metadata.key());
        }
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        let Some(pod) = new.or(old) else { return };
        let Some(key) = me.owner(pod) else { return };
        if new.is_none() || pod.metadata.deleting() {
            me.expected.deleted(&key, &pod.metadata.uid);
        } else if old.is_none() {
            me.expected.created(&key);
        }
        me.queue.add(key);
    });
    Box::pin(async move {
        c.jobs.synced().await;
        c.pods.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

/// Condition `Complete` or `Failed`.
fn ended(job: &Job) -> Option<&Condition> {
    job.status
        .conditions
        .iter()
        .find(|c| matches!(&*c.kind, "Complete" | "Failed") && &*c.status == "True")
}

impl Controller {
    fn owner(&self, pod: &Pod) -> Option<Key> {
        let o = pod.metadata.controller()?;
        if &*o.kind != "Job" {
            return None;
        }
        let job = self.jobs.get(&pod.metadata.namespace, &o.name)?;
        (job.metadata.uid == o.uid).then(|| job.metadata.key())
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(job) = self.jobs.at(&key) else {
            self.expected.forget(&key);
            return Ok(Next::Wait);
        };
        if job.metadata.deleting() || job.spec.selector.is_empty() {
            return Ok(Next::Wait);
        }
        if let Some(end) = ended(&job) {
            return self.expire(&job, end).await;
        }
        let candidates = self.pods.in_namespace(&key.namespace, |_| true);
        let pods = ownership::claim(&self.rest, &*job, &job.spec.selector, candidates).await?;
        self.untrack(&pods).await?;
        let met = self.expected.met(&key);
        let plan = plan::plan(&job, &pods, now());
        let done = if met {
            self.carry_out(&key, &job, &plan).await
        } else {
            Ok(())
        };
        self.write_status(&job, &plan, met).await?;
        done?;
        let mut next = Next::Wait;
        if let Some(s) = plan.again_s {
            next = Next::after_s(s);
        }
        Ok(next)
    }

    async fn carry_out(&self, key: &Key, job: &Job, plan: &Plan) -> Result<()> {
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        self.expected.expect(
            key,
            plan.create.len(),
            plan.delete.iter().map(|p| p.metadata.uid.clone()).collect(),
        );
        let deleted = join_all(plan.delete.iter().map(|pod| async move {
            let r = self.control.delete(job, pod).await;
            if r.is_err() {
                self.expected.deleted(key, &pod.metadata.uid);
            }
            r
        }))
        .await;
        let owner = job.controller_ref();
        let (made, error) = slow_start(plan.create.len(), |i| {
            let index = plan.create[i].map(|n| n.to_string());
            let prefix = match &index {
                Some(n) => format!("{}-{n}-", job.metadata.name),
                None => format!("{}-", job.metadata.name),
            };
            let body = job.spec.template.pod_with_spec(
                PodName::Prefix(&prefix),
                &key.namespace,
                &owner,
                |m| {
                    if let Some(n) = &index {
                        m.labels.set(INDEX, n);
                        m.annotations.set(INDEX, n);
                    }
                },
                |spec| {
                    if let Some(n) = &index {
                        give_index(spec, &job.metadata.name, n);
                    }
                },
            );
            async move { self.control.create(job, body).await.map(|_| ()) }
        })
        .await;
        for _ in made..plan.create.len() {
            self.expected.created(key);
        }
        match error {
            Some(e) if e.is_namespace_terminating() => {}
            Some(e) => return Err(e),
            None => {}
        }
        deleted.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }

    async fn write_status(&self, job: &Job, plan: &Plan, met: bool) -> Result<()> {
        let at = rfc3339(now());
        let old = &job.status;
        let mut conditions = old.conditions.clone();
        let started = if job.spec.suspend {
            None
        } else {
            old.start_time.or_else(|| Some(now()))
        };
        let active = if met {
            plan.active + plan.create.len() as i32
        } else {
            old.active
        };
        let suspended = status::find(&conditions, "Suspended").map(|c| &*c.status == "True");
        if job.spec.suspend != suspended.unwrap_or(false) {
            let (s, reason, message) = if job.spec.suspend {
                ("True", "JobSuspended", "Job suspended")
            } else {
                ("False", "JobResumed", "Job resumed")
            };
            status::set(
                &mut conditions,
                status::condition("Suspended", s, reason, message.into()),
            );
            self.recorder.normal(
                job,
                SOURCE,
                if job.spec.suspend {
                    "Suspended"
                } else {
                    "Resumed"
                },
                message.into(),
            );
        }
        match plan.end {
            Some(End::Complete) => {
                for kind in ["SuccessCriteriaMet", "Complete"] {
                    status::set(
                        &mut conditions,
                        status::condition(
                            kind,
                            "True",
                            "CompletionsReached",
                            "Reached expected number of succeeded pods".into(),
                        ),
                    );
                }
                self.recorder
                    .normal(job, SOURCE, "Completed", "Job completed".into());
            }
            Some(End::Failed(reason, message)) => {
                for kind in ["FailureTarget", "Failed"] {
                    status::set(
                        &mut conditions,
                        status::condition(kind, "True", reason, message.into()),
                    );
                }
                self.recorder.warning(job, SOURCE, reason, message.into());
            }
            None => {}
        }
        let completed = plan::ranges(&plan.done);
        let same = conditions == old.conditions
            && active == old.active
            && plan.succeeded == old.succeeded
            && plan.failed == old.failed
            && old.ready == Some(plan.ready)
            && started == old.start_time
            && *old.completed_indexes == *completed;
        if same {
            return Ok(());
        }
        let positive = |n: i32| if n > 0 { json!(n) } else { Value::Null };
        let patch = json!({
            "metadata": {"resourceVersion": job.metadata.resource_version},
            "status": {
                "active": positive(active),
                "succeeded": positive(plan.succeeded),
                "failed": positive(plan.failed),
                "ready": plan.ready,
                "terminating": 0,
                "uncountedTerminatedPods": {},
                "startTime": started.map(rfc3339),
                "completionTime": (plan.end == Some(End::Complete)).then_some(at),
                "completedIndexes": indexed(job).then_some(completed),
                "conditions": conditions,
            },
        });
        let path = format!("{}/status", Job::KIND.at(&job.metadata));
        self.rest.merge::<Ignored>(&path, &patch).await.map(|_| ())
    }

    /// After its time an ended job goes, with its pods.
    async fn expire(&self, job: &Job, end: &Condition) -> Result<Next> {
        let Some(ttl) = job.spec.ttl_seconds_after_finished else {
            return Ok(Next::Wait);
        };
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

    /// Pods that upstream's controller made wait to be counted: here they are counted while they're there.
    async fn untrack(&self, pods: &[Arc<Pod>]) -> Result<()> {
        for pod in pods {
            let meta = &pod.metadata;
            if !meta.deleting() || !meta.finalizers.iter().any(|f| &**f == TRACKING) {
                continue;
            }
            let stay: Vec<_> = meta
                .finalizers
                .iter()
                .filter(|f| &***f != TRACKING)
                .collect();
            let patch = json!({"metadata": {
                "resourceVersion": meta.resource_version, "finalizers": stay,
            }});
            match self
                .rest
                .merge::<Ignored>(&Pod::KIND.at(meta), &patch)
                .await
            {
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Host name and `JOB_COMPLETION_INDEX`.
fn give_index(spec: &mut serde_json::Map<String, Value>, job: &str, index: &str) {
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
                        "fieldPath": format!("metadata.annotations['{INDEX}']"),
                    }}}),
                );
            }
        }
    }
}
