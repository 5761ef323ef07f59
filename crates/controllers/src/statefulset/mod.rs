//! StatefulSet: pods with names and claims of their own, in order (`pkg/controller/statefulset`).

mod plan;
mod pods;
mod retention;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::json;

use self::{
    plan::{Plan, Why},
    pods::{claim_body, claims, ordinal, pod_body, pod_name, revision},
};
use crate::{
    error::{Error, Result},
    history::{self, History},
    machinery::{
        cache::Cache,
        context::Context,
        ownership,
        pods::{PodControl, said, slow_start},
        queue::Queue,
        recorder::Recorder,
        rest::{Ignored, Rest},
        status,
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Object, OwnerRef, now},
        pod::Pod,
        template::Template,
        volume::Claim,
        workload::{ControllerRevision, StatefulSet},
    },
};

const NAME: &str = "statefulset";
const SOURCE: &str = "statefulset-controller";

struct Controller {
    rest: Rest,
    recorder: Recorder,
    control: PodControl,
    pods: Arc<Cache<Pod>>,
    sets: Arc<Cache<StatefulSet>>,
    revisions: Arc<Cache<ControllerRevision>>,
    claims: Arc<Cache<Claim>>,
    queue: Queue<Key>,
}

/// The StatefulSet controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let rest = ctx.rest(NAME);
    let c = Arc::new(Controller {
        control: PodControl::new(rest.clone(), ctx.recorder.clone(), SOURCE),
        rest,
        recorder: ctx.recorder.clone(),
        pods: ctx.caches.pods.clone(),
        sets: ctx.caches.stateful_sets.clone(),
        revisions: ctx.caches.revisions.clone(),
        claims: ctx.caches.claims.clone(),
        queue: Queue::default(),
    });
    c.revisions.want();
    c.claims.want();
    let me = c.clone();
    c.sets.on_change(move |old, new| {
        if let Some(s) = new.or(old) {
            me.queue.add(s.metadata.key());
        }
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        for pod in [old, new].into_iter().flatten() {
            me.wake(pod);
        }
    });
    Box::pin(async move {
        c.sets.synced().await;
        c.pods.synced().await;
        c.revisions.synced().await;
        c.claims.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

impl Controller {
    fn wake(&self, pod: &Pod) {
        let namespace = &pod.metadata.namespace;
        match pod.metadata.controller() {
            Some(o) if &*o.kind == "StatefulSet" => {
                if let Some(set) = self.sets.get(namespace, &o.name)
                    && set.metadata.uid == o.uid
                {
                    self.queue.add(set.metadata.key());
                }
            }
            Some(_) => {}
            None => {
                for set in self.sets.in_namespace(namespace, |s| {
                    !s.spec.selector.is_empty() && s.spec.selector.matches(&pod.metadata.labels)
                }) {
                    self.queue.add(set.metadata.key());
                }
            }
        }
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(set) = self.sets.at(&key) else {
            return Ok(Next::Wait);
        };
        if set.spec.selector.is_empty() {
            return Ok(Next::Wait);
        }
        // only pods of the set's names are its own
        let candidates = self.pods.in_namespace(&key.namespace, |p| {
            ordinal(&set, &p.metadata.name).is_some()
        });
        let pods = ownership::claim(&self.rest, &*set, &set.spec.selector, candidates).await?;
        let history = history::sync(
            &self.rest,
            &self.revisions,
            &*set,
            &set.spec.selector,
            &set.spec.template,
            set.status.collision_count,
        )
        .await?;
        let update = history.newest.metadata.name.clone();
        let current = match history.get(&set.status.current_revision) {
            Some(r) => r.clone(),
            None => history.newest.clone(),
        };
        let plan = plan::plan(&set, &pods, &update, now());
        let done = self.carry_out(&set, &plan, &current, &history).await;
        let retained = match &done {
            Ok(()) => self.retention(&set, &pods).await,
            Err(_) => Ok(()),
        };
        let mut s = plan::status(&set, &pods, &current.metadata.name, &update, now());
        s.collision_count = history.collisions.or(s.collision_count);
        if s != set.status {
            status::write(&self.rest, &*set, &s, &["replicas", "availableReplicas"]).await?;
        }
        done?;
        retained?;
        history::truncate(
            &self.rest,
            &history,
            set.spec.revision_history_limit,
            |name| *s.current_revision == *name || pods.iter().any(|p| revision(p) == name),
        )
        .await?;
        Ok(plan.next.unwrap_or(Next::Wait))
    }

    async fn carry_out(
        &self,
        set: &StatefulSet,
        plan: &Plan,
        current: &ControllerRevision,
        history: &History,
    ) -> Result<()> {
        for (pod, why) in &plan.delete {
            if *why == Why::Ended {
                self.recorder.warning(
                    set,
                    SOURCE,
                    "RecreatingFailedPod",
                    format!(
                        "StatefulSet {} is recreating failed Pod {}",
                        set.metadata.key(),
                        pod.metadata.name
                    ),
                );
            }
            if *why == Why::Scaled {
                // before it goes
                self.own_claims(set, pod).await?;
            }
            self.control.delete(set, pod).await?;
        }
        for n in &plan.claims {
            self.ensure_claims(set, *n).await?;
        }
        let old_template: Option<Template> = plan
            .create
            .iter()
            .any(|(_, of_update)| !of_update)
            .then(|| history::template(current));
        let (_, error) = slow_start(plan.create.len(), |i| {
            let (n, of_update) = plan.create[i];
            let (template, revision) = match &old_template {
                Some(t) if !of_update => (t, &current.metadata.name),
                _ => (&set.spec.template, &history.newest.metadata.name),
            };
            let body = pod_body(set, template, revision, n);
            async move {
                self.ensure_claims(set, n).await?;
                self.control.create(set, body).await.map(|_| ())
            }
        })
        .await;
        match error {
            Some(e) if e.is_namespace_terminating() => Ok(()),
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    async fn ensure_claims(&self, set: &StatefulSet, n: i32) -> Result<()> {
        let namespace = &set.metadata.namespace;
        for (template, (_, name)) in set.spec.volume_claim_templates.iter().zip(claims(set, n)) {
            match self.claims.get(namespace, &name) {
                Some(c) if c.metadata.deleting() => {
                    return Err(Error::Other(format!(
                        "pvc {name} is being deleted; pod {} is made after it has gone",
                        pod_name(set, n)
                    )));
                }
                Some(c) => {
                    let pod = pod_name(set, n);
                    let owners = &c.metadata.owner_references;
                    if retention::goes_with_another(owners, set, &pod) {
                        return Err(Error::Other(format!(
                            "pvc {name} goes with the pod {pod} before; a new one is made after it has gone"
                        )));
                    }
                    continue;
                }
                None => {}
            }
            let body = claim_body(set, template, &name);
            let collection = Claim::KIND.collection(namespace);
            match self.rest.create::<Ignored>(&collection, &body).await {
                Ok(_) => self.recorder.normal(
                    set,
                    SOURCE,
                    "SuccessfulCreate",
                    format!(
                        "create Claim {name} Pod {} in StatefulSet {} success",
                        pod_name(set, n),
                        set.metadata.name
                    ),
                ),
                Err(e) if e.is_already_exists() => {}
                Err(e) => {
                    self.recorder.warning(
                        set,
                        SOURCE,
                        "FailedCreate",
                        format!(
                            "create Claim {name} for Pod {} in StatefulSet {} failed error: {}",
                            pod_name(set, n),
                            set.metadata.name,
                            said(&e)
                        ),
                    );
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// The claims of the set's Pods are owned by whom they go with.
    async fn retention(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<()> {
        if set.metadata.deleting() || set.spec.volume_claim_templates.is_empty() {
            return Ok(());
        }
        for pod in pods {
            self.own_claims(set, pod).await?;
        }
        Ok(())
    }

    async fn own_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let Some(n) = ordinal(set, &pod.metadata.name) else {
            return Ok(());
        };
        for (_, name) in claims(set, n) {
            let Some(claim) = self.claims.get(&set.metadata.namespace, &name) else {
                continue;
            };
            let owners = retention::owners(&claim.metadata.owner_references, set, pod, n);
            let Some(anew) = owners.anew else {
                continue;
            };
            if owners.conflict {
                self.recorder.warning(
                    set,
                    SOURCE,
                    "ConflictingController",
                    format!(
                        "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
                    ),
                );
            }
            self.set_owners(&claim, &anew).await?;
        }
        Ok(())
    }

    async fn set_owners(&self, claim: &Claim, owners: &[OwnerRef]) -> Result<()> {
        let patch = json!({"metadata": {
            "resourceVersion": claim.metadata.resource_version,
            "ownerReferences": owners,
        }});
        self.rest
            .merge::<Ignored>(&Claim::KIND.at(&claim.metadata), &patch)
            .await
            .map(|_| ())
    }
}
