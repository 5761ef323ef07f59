//! What all parts of the node share.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use crate::{
    PodNetwork,
    devices::Devices,
    engine::{Engine, ImageSource},
    events::Events,
    eviction,
    id_ranges::IdRanges,
    machine::Machine,
    pod::resize::share::Requests,
    services::Services,
    settings::Settings,
    sources::Sources,
    turns::Turns,
    volumes::csi::Csi,
};

pub(crate) struct Context {
    pub name: String,
    pub data_dir: PathBuf,
    pub host_ip: IpAddr,
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
    /// the whole of it; what follows is the node's part, for Pods
    pub machine: Machine,
    pub cpus_milli: i64,
    pub memory_bytes: i64,
    pub engine: Engine,
    pub operations: Arc<crate::measure::Operations>,
    pub images: Arc<dyn ImageSource>,
    /// how many images are pulled at the same time
    pub pulls: tokio::sync::Semaphore,
    pub network: Arc<dyn PodNetwork>,
    pub client: kube::Client,
    pub events: Events,
    pub sources: Sources,
    pub services: Services,
    pub settings: Settings,
    /// what the node is short of, as it was last seen
    pub pressure: tokio::sync::watch::Sender<eviction::Conditions>,
    pub csi: Csi,
    pub devices: Devices,
    pub id_ranges: IdRanges,
    pub turns: Turns,
    pub app_armor: knarr_runtime::AppArmor,
}

impl Context {
    /// What Pods may ask for together.
    pub(crate) fn capacity(&self) -> Requests {
        Requests {
            cpu_milli: self.cpus_milli,
            memory_bytes: self.memory_bytes,
        }
    }

    /// Where `Localhost` seccomp profiles are looked up.
    pub(crate) fn seccomp_dir(&self) -> PathBuf {
        self.data_dir.join("seccomp")
    }

    /// What drivers and their Pods know as `/var/lib/kubelet`.
    pub(crate) fn kubelet_dir(&self) -> PathBuf {
        self.data_dir.join("kubelet")
    }
}
