//! The Node object and its Lease: what this machine is, and that it's alive.
//!
//! Source: kubernetes `pkg/kubelet/kubelet_node_status.go`, `pkg/kubelet/nodestatus`, KEP-0009 (node heartbeat).

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
            NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::watch;

use crate::{eviction::Conditions, pod::jobs::handler::ORDINARY};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The status itself is renewed every so many heartbeats (5 minutes), or when a condition has changed.
const STATUS_EVERY: u32 = 30;
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Ten times the kubelet's: what a machine of 4 processors and 24 GB is shown to hold (BENCHMARKS.md).
/// What newer parts of a Pod the node understands, sorted: k8s.io/component-helpers `nodedeclaredfeatures`.
const DECLARED_FEATURES: [&str; 3] = [
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];
const PODS_MAX: u32 = 1100;
pub(crate) const VERSION: &str = "v1.36.0+knarr";

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Machine {
    pub cpus: u32,
    pub memory_bytes: u64,
}

impl Machine {
    /// Blocking, quick.
    pub(crate) fn read() -> Machine {
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            memory_bytes: meminfo("MemTotal").unwrap_or(0),
        }
    }
}

pub(crate) fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|l| l.strip_prefix(key).is_some_and(|r| r.starts_with(':')))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// (total, available) bytes of the file system that holds `dir`.
fn disk(dir: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

pub(crate) struct Registrar {
    pub client: kube::Client,
    pub name: String,
    /// One a family, the first family first.
    pub host_ips: Vec<IpAddr>,
    pub data_dir: std::path::PathBuf,
    pub machine: Machine,
    /// how many nodes share the machine
    pub share: u32,
    /// what the node is short of
    pub pressure: watch::Receiver<Conditions>,
    /// of the agent; 0: none
    pub port: u16,
}

pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

impl Registrar {
    fn labels(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture()),
        ];
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    /// Makes the Node object, or brings its labels up to date; then its status.
    pub(crate) async fn register(&self) -> Result<String, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let node = match api.get_opt(&self.name).await? {
            Some(_) => {
                let patch = json!({"metadata": {"labels": self.labels()}});
                api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await?
            }
            None => {
                let node = Node {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        labels: Some(self.labels()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(NodeSpec::default()),
                    status: None,
                };
                api.create(&PostParams::default(), &node).await?
            }
        };
        self.put_status(&node).await?;
        Ok(node.metadata.uid.unwrap_or_default())
    }

    async fn put_status(&self, node: &Node) -> Result<(), kube::Error> {
        let before = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        let name = self.name.clone();
        let (host_ips, data_dir, machine) = (
            self.host_ips.clone(),
            self.data_dir.clone(),
            self.machine.clone(),
        );
        let before = before.cloned().unwrap_or_default();
        let short_of = self.pressure.borrow().clone();
        let share = self.share;
        let status = tokio::task::spawn_blocking(move || {
            status(
                &name, &host_ips, &data_dir, &machine, share, &before, &short_of,
            )
        })
        .await;
        let Ok(mut status) = status else {
            return Ok(());
        };
        status.daemon_endpoints = Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(self.port),
            }),
        });
        let api: Api<Node> = Api::all(self.client.clone());
        let mut patch = json!({"status": status});
        replace_addresses(&mut patch);
        api.patch_status(
            &self.name,
            &PatchParams::default(),
            &Patch::Strategic(&patch),
        )
        .await?;
        Ok(())
    }

    /// Heartbeats until cancelled; every failure is retried at the next beat.
    pub(crate) async fn run(self, uid: String) {
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut since_status = 0;
        let mut pressure = self.pressure.clone();
        loop {
            // a change of what the node is short of is told at once
            let news = tokio::select! {
                _ = beat.tick() => pressure.has_changed().unwrap_or(false),
                changed = pressure.changed() => changed.is_ok(),
            };
            pressure.mark_unchanged();
            match tokio::time::timeout(CALL_DEADLINE, self.renew(&uid)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the node lease is renewed at the next beat")
                }
                Err(_) => tracing::debug!("the node lease was not renewed in time"),
            }
            since_status += 1;
            if since_status >= STATUS_EVERY || news {
                since_status = 0;
                let again = async {
                    let api: Api<Node> = Api::all(self.client.clone());
                    match api.get_opt(&self.name).await? {
                        Some(node) => self.put_status(&node).await,
                        None => self.register().await.map(drop),
                    }
                };
                if let Ok(Err(error)) = tokio::time::timeout(CALL_DEADLINE, again).await {
                    tracing::debug!(%error, "the node status is renewed at a later beat");
                }
            }
        }
    }

    async fn renew(&self, uid: &str) -> Result<(), kube::Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let now = MicroTime(Timestamp::now());
        let patch = json!({"spec": {"renewTime": now, "holderIdentity": self.name}});
        match api
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(drop),
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: self.name.clone(),
                    uid: uid.to_owned(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        api.create(&PostParams::default(), &lease).await.map(drop)
    }
}

fn status(
    name: &str,
    host_ips: &[IpAddr],
    data_dir: &Path,
    machine: &Machine,
    share: u32,
    before: &[NodeCondition],
    short_of: &Conditions,
) -> NodeStatus {
    let [memory, full, pids] =
        ["MemoryPressure", "DiskPressure", "PIDPressure"].map(|c| short_of.contains(c));
    let now = Time(Timestamp::now());
    let condition = |type_: &str, status: bool, reason: &str, message: &str| {
        let text = if status { "True" } else { "False" };
        let old = before.iter().find(|c| c.type_ == type_ && c.status == text);
        NodeCondition {
            type_: type_.into(),
            status: text.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: old
                .and_then(|c| c.last_transition_time.clone())
                .or(Some(now.clone())),
        }
    };
    let conditions = vec![
        if memory {
            condition(
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            )
        } else {
            condition(
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            )
        },
        if full {
            condition(
                "DiskPressure",
                true,
                "KubeletHasDiskPressure",
                "kubelet has disk pressure",
            )
        } else {
            condition(
                "DiskPressure",
                false,
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure",
            )
        },
        if pids {
            condition(
                "PIDPressure",
                true,
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            )
        } else {
            condition(
                "PIDPressure",
                false,
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            )
        },
        condition(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
        ),
    ];
    let disk_bytes = disk(data_dir).map_or(0, |(total, _)| total);
    // A node that shares the machine has all of it, and offers Pods its part.
    let resources = |share: u64| {
        let cpu = match u64::from(machine.cpus) {
            cpus if cpus % share == 0 => (cpus / share).to_string(),
            cpus => format!("{}m", cpus * 1000 / share),
        };
        let mut all: BTreeMap<String, Quantity> = [
            ("cpu", cpu),
            (
                "memory",
                format!("{}Ki", machine.memory_bytes / share / 1024),
            ),
            (
                "ephemeral-storage",
                format!("{}Ki", disk_bytes / share / 1024),
            ),
            ("pods", PODS_MAX.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), Quantity(v)))
        .into();
        all.extend(huge_pages(share));
        all
    };
    let address = |type_: &str, address: String| NodeAddress {
        type_: type_.into(),
        address,
    };
    let handler = |name: &str| NodeRuntimeHandler {
        name: Some(name.to_owned()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(true),
            user_namespaces: Some(true),
        }),
    };
    NodeStatus {
        allocatable: Some(resources(u64::from(share.max(1)))),
        capacity: Some(resources(1)),
        conditions: Some(conditions),
        addresses: Some(
            host_ips
                .iter()
                .map(|ip| address("InternalIP", ip.to_string()))
                .chain([address("Hostname", name.to_owned())])
                .collect(),
        ),
        node_info: Some(info()),
        runtime_handlers: Some(["", ORDINARY].map(handler).into()),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).into()),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        ..NodeStatus::default()
    }
}

/// `hugepages-2Mi` and the like, with the bytes set aside for each.
fn huge_pages(share: u64) -> impl Iterator<Item = (String, Quantity)> {
    crate::spec::resources::huge_page_sizes()
        .iter()
        .map(move |size| {
            let file = format!(
                "/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
                size >> 10
            );
            let pages = std::fs::read_to_string(file)
                .ok()
                .and_then(|t| t.trim().parse::<u64>().ok())
                .unwrap_or(0);
            let name = match size {
                s if s % (1 << 30) == 0 => format!("hugepages-{}Gi", s >> 30),
                s if s % (1 << 20) == 0 => format!("hugepages-{}Mi", s >> 20),
                s => format!("hugepages-{}Ki", s >> 10),
            };
            let bytes = match pages / share * size {
                0 => "0".to_owned(),
                b if b % (1 << 30) == 0 => format!("{}Gi", b >> 30),
                b if b % (1 << 20) == 0 => format!("{}Mi", b >> 20),
                b => format!("{}Ki", b >> 10),
            };
            (name, Quantity(bytes))
        })
}

pub(crate) fn info() -> NodeSystemInfo {
    let first = |paths: &[&str]| {
        let texts = paths.iter().filter_map(|p| std::fs::read_to_string(p).ok());
        texts
            .map(|t| t.trim().to_owned())
            .find(|t| !t.is_empty())
            .unwrap_or_default()
    };
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    let machine_id = first(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
    let uuid = first(&["/sys/class/dmi/id/product_uuid"]);
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: first(&["/proc/sys/kernel/random/boot_id"]),
        container_runtime_version: format!("knarr://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: first(&["/proc/sys/kernel/osrelease"]),
        kubelet_version: VERSION.into(),
        operating_system: "linux".into(),
        os_image: pretty
            .map(|p| p.trim_matches('"').to_owned())
            .unwrap_or_else(|| "Linux".into()),
        system_uuid: if uuid.is_empty() {
            machine_id.clone()
        } else {
            uuid
        },
        machine_id,
        ..NodeSystemInfo::default()
    }
}

/// A strategic merge takes one address of a type, but a node of two families has two: the list goes in as a whole.
///
/// Source: kubernetes `pkg/util/node` (fixupPatchForNodeStatusAddresses).
fn replace_addresses(patch: &mut serde_json::Value) {
    if let Some(list) = patch
        .pointer_mut("/status/addresses")
        .and_then(serde_json::Value::as_array_mut)
    {
        list.insert(0, json!({"$patch": "replace"}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_two_families_go_in_as_a_whole() {
        let all = json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"}]);
        let mut patch = json!({"status": {"addresses": all}});
        replace_addresses(&mut patch);
        let got = patch["status"]["addresses"].as_array().unwrap();
        assert_eq!(got[0], json!({"$patch": "replace"}));
        assert_eq!(got[1..], all.as_array().unwrap()[..]);
        let mut none = json!({"status": {}});
        replace_addresses(&mut none);
        assert_eq!(none, json!({"status": {}}));
    }

    #[test]
    fn says_what_the_machine_is() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory_bytes > 1 << 20);
        let old = NodeCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(Timestamp::UNIX_EPOCH)),
            ..NodeCondition::default()
        };
        let status = status(
            "n1",
            &[IpAddr::from([10, 0, 0, 1])],
            dir.path(),
            &machine,
            3,
            &[old],
            &Conditions::new(),
        );
        let capacity = status.capacity.unwrap();
        assert_eq!(capacity["cpu"].0, machine.cpus.to_string());
        assert!(capacity["memory"].0.ends_with("Ki"));
        let offered = &status.allocatable.unwrap()["cpu"].0;
        let third = match machine.cpus % 3 {
            0 => (machine.cpus / 3).to_string(),
            _ => format!("{}m", machine.cpus * 1000 / 3),
        };
        assert_eq!(*offered, third);
        let ready = status
            .conditions
            .unwrap()
            .into_iter()
            .find(|c| c.type_ == "Ready")
            .unwrap();
        assert_eq!(
            ready.last_transition_time,
            Some(Time(Timestamp::UNIX_EPOCH)),
            "it was ready all along"
        );
        assert_eq!(status.addresses.unwrap()[1].address, "n1");
        assert!(!status.node_info.unwrap().kernel_version.is_empty());
    }
}
