//! HorizontalPodAutoscaler: a target's size follows its metrics (`pkg/controller/podautoscaler`). The metrics are read every [`SYNC`], as the API defines it; nothing is read while there is no autoscaler.

mod behavior;
mod calculate;
mod go;
mod metrics;
mod propose;
mod target;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use self::{
    behavior::{Bounds, Memory},
    target::{Scale, Targets},
};
use crate::{
    error::{Error, Result},
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        recorder::Recorder,
        rest::Rest,
        status,
        work::{Next, WORKERS, work},
    },
    objects::{
        autoscaler::{Autoscaler, AutoscalerStatus},
        meta::{Condition, Key, now, rfc3339},
        pod::Pod,
        selector::Selector,
    },
};

const NAME: &str = "horizontalpodautoscaler";
/// Who events are from.
const SOURCE: &str = "horizontal-pod-autoscaler";
/// `--horizontal-pod-autoscaler-sync-period`
const SYNC: Duration = Duration::from_secs(15);
/// Tries to write a scale that others write, too.
const CONFLICTS: usize = 5;

struct Controller {
    rest: Rest,
    recorder: Recorder,
    autoscalers: Arc<Cache<Autoscaler>>,
    pods: Arc<Cache<Pod>>,
    targets: Targets,
    queue: Queue<Key>,
    memories: Mutex<HashMap<Key, Memory>>,
    /// what each one's target selects
    selectors: Mutex<HashMap<Key, Selector>>,
}

/// The controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        autoscalers: ctx.caches.autoscalers.clone(),
        pods: ctx.caches.pods.clone(),
        targets: Targets::default(),
        queue: Queue::default(),
        memories: Mutex::default(),
        selectors: Mutex::default(),
    });
    c.pods.want();
    let me = c.clone();
    c.autoscalers.on_change(move |old, new| {
        let Some(any) = new.or(old) else { return };
        let key = any.metadata.key();
        if new.is_none() {
            me.memories.lock().remove(&key);
            me.selectors.lock().remove(&key);
        } else if old.is_none_or(|o| o.metadata.generation != any.metadata.generation) {
            me.queue.add(key);
        }
    });
    Box::pin(async move {
        c.pods.synced().await;
        c.autoscalers.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.sync(key)).await;
    })
}

/// A status being made.
struct Draft {
    status: AutoscalerStatus,
}

impl Draft {
    fn condition(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<Box<str>>) {
        let value = if holds { "True" } else { "False" };
        let all = &mut self.status.conditions;
        let i = all
            .iter()
            .position(|c| &*c.kind == kind)
            .unwrap_or(all.len());
        if i == all.len() {
            all.push(Condition {
                kind: kind.into(),
                ..Default::default()
            });
        }
        let c = &mut all[i];
        if &*c.status != value {
            c.last_transition_time = Some(rfc3339(now()).into());
        }
        c.status = value.into();
        c.reason = reason.into();
        c.message = message.into();
    }
}

impl Controller {
    async fn sync(&self, key: Key) -> Result<Next> {
        let Some(hpa) = self.autoscalers.at(&key) else {
            return Ok(Next::Wait);
        };
        if hpa.metadata.deleting() {
            return Ok(Next::Wait);
        }
        let mut draft = Draft {
            status: hpa.status.clone(),
        };
        let outcome = self.scale(&hpa, &key, &mut draft).await;
        if let Err(why) = &outcome {
            tracing::debug!(autoscaler = %key, why, "not scaled");
        }
        if draft.status != hpa.status
            && let Err(e) = self.write(&hpa, &draft.status).await
            && !e.is_not_found()
            && !e.is_conflict()
        {
            self.recorder
                .warning(&*hpa, SOURCE, "FailedUpdateStatus", e.to_string());
        }
        Ok(Next::After(SYNC))
    }

    async fn write(&self, hpa: &Autoscaler, new: &AutoscalerStatus) -> Result<()> {
        let keep = ["currentReplicas", "desiredReplicas"];
        let body = serde_json::to_value(new).unwrap_or(Value::Null);
        status::write::<Autoscaler>(&self.rest, hpa, &body, &keep)
            .await
            .map(|_| ())
    }

    async fn scale(&self, hpa: &Autoscaler, key: &Key, draft: &mut Draft) -> Result<(), String> {
        let reference = &hpa.spec.scale_target_ref;
        let mut scale = match self
            .targets
            .scale(&self.rest, &key.namespace, reference)
            .await
        {
            Ok(s) => s,
            Err(why) => {
                self.recorder
                    .warning(hpa, SOURCE, "FailedGetScale", why.clone());
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {why}"
                );
                draft.condition("AbleToScale", false, "FailedGetScale", message);
                return Err(why);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        draft.condition("AbleToScale", true, "SucceededGetScale", message);
        let current = scale.replicas;
        let at = Instant::now();
        self.remember(key, |m| m.start(current, at));
        let bounds = Bounds {
            min: hpa.spec.min_replicas.unwrap_or(1),
            max: hpa.spec.max_replicas,
            current,
        };
        let mut reason = String::new();
        let mut statuses = vec![];
        let desired = if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            draft.condition("ScalingActive", false, "ScalingDisabled", message);
            0
        } else if current > bounds.max {
            reason.push_str("Current number of replicas above Spec.MaxReplicas");
            bounds.max
        } else if current < bounds.min {
            reason.push_str("Current number of replicas below Spec.MinReplicas");
            bounds.min
        } else {
            let (proposals, metric, proposed) = match self.propose_all(hpa, &scale, draft).await {
                Ok(p) => p,
                Err((seen, why)) => {
                    draft.status.current_replicas = current;
                    draft.status.current_metrics = seen;
                    self.recorder
                        .warning(hpa, SOURCE, "FailedComputeMetricsReplicas", why.clone());
                    return Err(why);
                }
            };
            statuses = proposals;
            if proposed > current {
                reason = format!("{metric} above target");
            } else if proposed < current {
                reason.push_str("All metrics below target");
            }
            let behavior = hpa.spec.behavior.as_ref();
            let n = self.remember(key, |m| m.normalize(behavior, proposed.max(0), bounds, at));
            draft.condition("AbleToScale", true, n.able.0, n.able.1);
            draft.condition("ScalingLimited", n.limited, n.limit.0, n.limit.1);
            n.replicas
        };
        let mut result = Ok(());
        if desired != current {
            match self.rescale(hpa, key, &mut scale, desired).await {
                Ok(()) => {
                    let message = format!(
                        "the HPA controller was able to update the target scale to {desired}"
                    );
                    draft.condition("AbleToScale", true, "SucceededRescale", message);
                    let message = format!("New size: {desired}; reason: {reason}");
                    self.recorder
                        .normal(hpa, SOURCE, "SuccessfulRescale", message);
                    let behavior = hpa.spec.behavior.as_ref();
                    self.remember(key, |m| m.scaled(behavior, current, desired, at));
                    draft.status.last_scale_time = Some(rfc3339(now()).into());
                    draft.status.desired_replicas = desired;
                }
                Err(e) => {
                    let why = api_message(&e);
                    let message = format!("New size: {desired}; reason: {reason}; error: {why}");
                    self.recorder.warning(hpa, SOURCE, "FailedRescale", message);
                    let message =
                        format!("the HPA controller was unable to update the target scale: {why}");
                    draft.condition("AbleToScale", false, "FailedUpdateScale", message);
                    result = Err(why);
                }
            }
        } else {
            draft.status.desired_replicas = current;
        }
        draft.status.current_replicas = current;
        draft.status.current_metrics = statuses;
        result
    }

    fn remember<T>(&self, key: &Key, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(self.memories.lock().entry(key.clone()).or_default())
    }

    async fn rescale(
        &self,
        hpa: &Autoscaler,
        key: &Key,
        scale: &mut Scale,
        desired: i32,
    ) -> Result<()> {
        let mut tries = 0;
        loop {
            match scale.write(&self.rest, desired).await {
                Err(e) if e.is_conflict() && tries < CONFLICTS => {
                    tries += 1;
                    let reference = &hpa.spec.scale_target_ref;
                    *scale = self
                        .targets
                        .scale(&self.rest, &key.namespace, reference)
                        .await
                        .map_err(Error::Other)?;
                }
                other => return other,
            }
        }
    }

    /// The target's pods; Err: why they can't be told.
    fn pods_of(
        &self,
        hpa: &Autoscaler,
        scale: &Scale,
        draft: &mut Draft,
    ) -> Result<Vec<Arc<Pod>>, String> {
        let mut invalid = |event: &'static str, reason: &str, why: &str, message: &str| {
            self.recorder.warning(hpa, SOURCE, event, why.to_owned());
            draft.condition("ScalingActive", false, reason, message);
            Err(why.to_owned())
        };
        if scale.selector.is_empty() {
            return invalid(
                "SelectorRequired",
                "InvalidSelector",
                "selector is required",
                "the HPA target's scale is missing a selector",
            );
        }
        let selector: Selector = match scale.selector.parse() {
            Ok(s) => s,
            Err(e) => {
                let why = format!(
                    "couldn't convert selector into a corresponding internal selector object: {e}"
                );
                return invalid("InvalidSelector", "InvalidSelector", &why, &why);
            }
        };
        let key = hpa.metadata.key();
        let pods = self
            .pods
            .in_namespace(&key.namespace, |p| selector.matches(&p.metadata.labels));
        let mut all = self.selectors.lock();
        all.insert(key.clone(), selector);
        let ours: BTreeSet<&Key> = all
            .iter()
            .filter(|(k, s)| {
                // one may have gone while it was looked at
                self.autoscalers.at(k).is_some()
                    && k.namespace == key.namespace
                    && pods.iter().any(|p| s.matches(&p.metadata.labels))
            })
            .map(|(k, _)| k)
            .collect();
        if ours.len() > 1 {
            let list: Vec<String> = ours
                .iter()
                .map(|k| format!("{{{} {}}}", k.name, k.namespace))
                .collect();
            let why = format!(
                "pods by selector {} are controlled by multiple HPAs: [{}]",
                scale.selector,
                list.join(" ")
            );
            drop(all);
            return invalid("AmbiguousSelector", "AmbiguousSelector", &why, &why);
        }
        Ok(pods)
    }
}

/// What the server said.
fn api_message(e: &Error) -> String {
    match e {
        Error::Api(s) => s.message.clone(),
        other => other.to_string(),
    }
}
