//! What controllers share: one cache per kind, the event recorder, clients.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{cache::Cache, recorder::Recorder, reflector::reflect, rest::Rest};
use crate::{
    Config,
    objects::{
        meta::Object,
        node::{Namespace, Node, ServiceAccount},
        pod::Pod,
        service::{EndpointSlice, Endpoints, Service},
        volume::{Claim, StorageClass, Volume},
        workload::{
            ControllerRevision, DaemonSet, Deployment, Job, ReplicaSet, ReplicationController,
            StatefulSet,
        },
    },
};

macro_rules! caches {
    ($($(#[$doc:meta])* $field:ident: $ty:ty,)*) => {
        /// One cache per kind; only those that a controller wants are filled.
        #[derive(Default)]
        pub struct Caches {
            $($(#[$doc])* pub $field: Arc<Cache<$ty>>,)*
        }
        impl Caches {
            /// What keeps the wanted caches filled.
            pub fn reflectors(&self, rest: &Rest) -> Vec<BoxFuture<'static, ()>> {
                let mut all: Vec<BoxFuture<'static, ()>> = vec![];
                $(if self.$field.wanted() {
                    let (cache, rest) = (self.$field.clone(), rest.clone());
                    all.push(Box::pin(async move {
                        let path = <$ty as Object>::KIND.collection("");
                        reflect::<$ty>(&rest, &path, false, &*cache).await
                    }));
                })*
                all
            }
        }
    };
}

caches! {
    /// Pods
    pods: Pod,
    /// Nodes
    nodes: Node,
    /// Namespaces
    namespaces: Namespace,
    /// Services
    services: Service,
    /// EndpointSlices
    slices: EndpointSlice,
    /// Endpoints
    endpoints: Endpoints,
    /// ServiceAccounts
    accounts: ServiceAccount,
    /// Deployments
    deployments: Deployment,
    /// ReplicaSets
    replica_sets: ReplicaSet,
    /// ReplicationControllers
    replication_controllers: ReplicationController,
    /// StatefulSets
    stateful_sets: StatefulSet,
    /// DaemonSets
    daemon_sets: DaemonSet,
    /// ControllerRevisions
    revisions: ControllerRevision,
    /// Jobs
    jobs: Job,
    /// PersistentVolumeClaims
    claims: Claim,
    /// PersistentVolumes
    volumes: Volume,
    /// StorageClasses
    classes: StorageClass,
}

/// What a controller is built from.
pub struct Context {
    /// clients, folders
    pub config: Config,
    /// caches
    pub caches: Caches,
    /// events
    pub recorder: Recorder,
}

impl Context {
    /// A client of a controller's own.
    pub fn rest(&self, name: &'static str) -> Rest {
        Rest::new((self.config.client)(name), name)
    }
}
