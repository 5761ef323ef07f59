//! What controllers share: one cache per kind, the event recorder, clients.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::future::BoxFuture;

use super::{cache::Cache, recorder::Recorder, reflector::reflect, rest::Rest};
use crate::{
    Config,
    gc::inventory::Inventory,
    objects::{
        address::{IpAddress, ServiceCidr},
        autoscaler::Autoscaler,
        batch::{CronJob, Job},
        csi::{CsiDriver, CsiNode, StorageCapacity, VolumeAttachment},
        device::{DeviceClass, ResourceClaim, ResourceSlice},
        lease::Lease,
        meta::{Kind, Meta, Object},
        node::{Namespace, Node, ServiceAccount},
        pod::Pod,
        policy::Budget,
        service::{EndpointSlice, Endpoints, Service},
        volume::{AttributesClass, Claim, StorageClass, Volume},
        workload::{
            ControllerRevision, DaemonSet, Deployment, ReplicaSet, ReplicationController,
            StatefulSet,
        },
    },
    quota::ResourceQuota,
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
            /// The wanted caches' metadata, for the garbage collector.
            pub fn watched(&self) -> Vec<Watched> {
                let mut all = vec![];
                $(if self.$field.wanted() {
                    let cache = self.$field.clone();
                    let synced = self.$field.clone();
                    all.push(Watched {
                        kind: <$ty as Object>::KIND,
                        subscribe: Box::new(move |f| cache.replay(move |old, new| {
                            f(old.map(|o| o.meta()), new.map(|n| n.meta()))
                        })),
                        synced: Box::pin(async move { synced.synced().await }),
                    });
                })*
                all
            }
        }
    };
}

type Subscriber = Box<dyn Fn(Option<&Meta>, Option<&Meta>) + Send + Sync>;

/// A kind whose cache others fill.
pub struct Watched {
    /// the kind
    pub kind: Kind,
    /// calls the function for what's there and for each change
    pub subscribe: Box<dyn FnOnce(Subscriber) + Send>,
    /// resolves when the first list is in
    pub synced: BoxFuture<'static, ()>,
}

caches! {
    /// Pods
    pods: Pod,
    /// Nodes
    nodes: Node,
    /// Leases
    leases: Lease,
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
    /// CronJobs
    cron_jobs: CronJob,
    /// PersistentVolumeClaims
    claims: Claim,
    /// PersistentVolumes
    volumes: Volume,
    /// StorageClasses
    classes: StorageClass,
    /// HorizontalPodAutoscalers
    autoscalers: Autoscaler,
    /// CSINodes
    csi_nodes: CsiNode,
    /// VolumeAttributesClasses
    attributes_classes: AttributesClass,
    /// CSIDrivers
    csi_drivers: CsiDriver,
    /// CSIStorageCapacities
    capacities: StorageCapacity,
    /// VolumeAttachments
    attachments: VolumeAttachment,
    /// PodDisruptionBudgets
    budgets: Budget,
    /// ResourceQuotas
    quotas: ResourceQuota,
    /// ServiceCIDRs
    service_ranges: ServiceCidr,
    /// IPAddresses
    ip_addresses: IpAddress,
    /// ResourceClaims
    resource_claims: ResourceClaim,
    /// ResourceSlices
    resource_slices: ResourceSlice,
    /// DeviceClasses
    device_classes: DeviceClass,
}

/// What a controller is built from.
pub struct Context {
    /// clients, folders
    pub config: Config,
    /// caches
    pub caches: Caches,
    /// events
    pub recorder: Recorder,
    /// all objects, for the garbage collector and namespace deletion
    pub inventory: Arc<Inventory>,
    wants_inventory: AtomicBool,
}

impl Context {
    /// Nothing watched yet.
    pub fn new(config: Config, recorder: Recorder) -> Context {
        Context {
            config,
            caches: Caches::default(),
            recorder,
            inventory: Arc::default(),
            wants_inventory: AtomicBool::new(false),
        }
    }
    /// Asks for the inventory to be kept.
    pub fn inventory_wanted(&self) {
        self.wants_inventory.store(true, Ordering::Relaxed);
    }
    /// Someone asked.
    pub fn wants_inventory(&self) -> bool {
        self.wants_inventory.load(Ordering::Relaxed)
    }
    /// A client of a controller's own.
    pub fn rest(&self, name: &'static str) -> Rest {
        Rest::new((self.config.client)(name), name)
    }
}
