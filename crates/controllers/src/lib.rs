//! Kubernetes controllers on a plain `kube::Client`.
//!
//! It is: Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet, Job, CronJob, HorizontalPodAutoscaler, ResourceQuota status, PodDisruptionBudget, EndpointSlice (mirrored ones, too), Endpoints, garbage collection of objects, Pods and Events, ephemeral volumes' claims, claims of devices, aggregated ClusterRoles, namespace deletion, service accounts, attachment and protection of volumes, a scheduler and a local-path volume provisioner, each runnable against any Kubernetes cluster.
//! It is not: part of knarr's API server or node.
//! It must never know: the store, the runtime, the network.
#![forbid(unsafe_code)]

mod attachdetach;
mod autoscaler;
mod certificates;
mod clusterrole;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod ephemeral;
mod error;
mod expiry;
mod gc;
mod history;
mod identity;
mod job;
mod machinery;
mod namespace;
mod nodelifecycle;
mod nodettl;
mod objects;
mod podgc;
mod quota;
mod replicaset;
mod resourceclaim;
mod running;
mod scheduler;
mod serviceaccount;
mod serviceaddresses;
mod statefulset;
mod tokens;
mod vacprotection;
mod volume;

pub use certificates::{CertificateAuthority, Subject};
pub use identity::{Identity, identity};
pub use running::Running;

use std::{path::PathBuf, sync::Arc};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use machinery::{context::Context, recorder::recorder, rest::Rest};

/// What controllers are given.
#[derive(Clone)]
pub struct Config {
    /** a new Client per controller (each has its own buffer worker); the argument is the controller's name, used as user agent and field manager */
    pub client: Arc<dyn Fn(&'static str) -> kube::Client + Send + Sync>,
    /** where local-path volumes are made */
    pub volumes_dir: PathBuf,
    /** who signs certificates; None = certificate requests are only cleaned up */
    pub authority: Option<Arc<dyn CertificateAuthority>>,
    /** which to run; None = all */
    pub only: Option<Vec<String>>,
    /** told which controllers run */
    pub running: Running,
    /** how long nothing may be heard of a node before it counts as lost: [`NODE_GRACE`] but in tests */
    pub node_grace: std::time::Duration,
}

/// Upstream's `--node-monitor-grace-period`.
pub const NODE_GRACE: std::time::Duration = std::time::Duration::from_secs(50);

type Start = fn(&Context) -> BoxFuture<'static, ()>;

/// Every controller by the name that [`Config::only`] takes.
const CONTROLLERS: &[(&str, Start)] = &[
    ("deployment", deployment::start),
    ("replicaset", replicaset::replica_sets),
    ("replicationcontroller", replicaset::replication_controllers),
    ("statefulset", statefulset::start),
    ("daemonset", daemonset::start),
    ("job", job::start),
    ("cronjob", cronjob::start),
    ("scheduler", scheduler::start),
    ("endpointslice", endpoints::slices),
    ("endpoints", endpoints::legacy),
    ("endpointslicemirroring", endpoints::mirror),
    ("serviceaccount", serviceaccount::start),
    ("bootstrapsigner", tokens::signer),
    ("tokencleaner", tokens::cleaner),
    ("legacytokencleaner", tokens::legacy),
    ("nodettl", nodettl::start),
    ("servicecidr", serviceaddresses::ranges),
    ("serviceaddresses", serviceaddresses::repair),
    ("namespace", namespace::start),
    ("nodelifecycle", nodelifecycle::start),
    ("tainteviction", nodelifecycle::eviction),
    ("volume", volume::start),
    ("attachdetach", attachdetach::start),
    ("vacprotection", vacprotection::start),
    ("certificates", certificates::start),
    ("resourcequota", quota::start),
    ("disruption", disruption::start),
    ("horizontalpodautoscaler", autoscaler::start),
    ("podgc", podgc::start),
    ("ephemeral", ephemeral::start),
    ("resourceclaim", resourceclaim::start),
    ("clusterroleaggregation", clusterrole::start),
    ("eventexpiry", expiry::start),
    ("garbagecollector", gc::start),
];

/// Names of all controllers.
pub fn names() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().map(|(name, _)| *name)
}

/// Runs them all until dropped; what fails on one object is tried again with back-off, and a panic counts as a failure.
pub async fn run(config: Config) {
    let (recorder, events) = recorder();
    let running = config.running.clone();
    let _until_dropped = running::UntilDropped(running.clone());
    let ctx = Context::new(config, recorder);
    let mut tasks = tokio::task::JoinSet::new();
    let mut names = std::collections::HashMap::new();
    for (name, start) in CONTROLLERS {
        let wanted = ctx
            .config
            .only
            .as_ref()
            .is_none_or(|only| only.iter().any(|o| o == name));
        if wanted {
            names.insert(tasks.spawn(start(&ctx)).id(), *name);
            running.begins(name);
        }
    }
    tasks.spawn(events.run(ctx.rest("events")));
    let watches = Rest::new((ctx.config.client)("caches"), "caches");
    let reflectors: FuturesUnordered<_> = ctx.caches.reflectors(&watches).into_iter().collect();
    // one task for all watches: they only parse and take notes
    tasks.spawn(async move { reflectors.collect::<Vec<()>>().await.clear() });
    if ctx.wants_inventory() {
        let shared = ctx.caches.watched();
        tasks.spawn(ctx.inventory.clone().run(watches, shared));
    }
    drop(ctx);
    while let Some(end) = tasks.join_next_with_id().await {
        let (id, why) = match &end {
            Ok((id, ())) => (*id, "it ended".to_string()),
            Err(e) => (e.id(), e.to_string()),
        };
        if let Err(e) = end
            && e.is_panic()
        {
            tracing::error!(error = %e, "a bug: a controller ended; the others go on");
        }
        if let Some(name) = names.get(&id) {
            running.ended(name, why);
        }
    }
}
