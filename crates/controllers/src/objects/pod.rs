//! Pods, as controllers see them.

use serde::{Deserialize, Deserializer};

use super::{
    affinity::{Affinity, SpreadConstraint},
    device::{ExtendedClaim, PodClaim, PodClaimStatus},
    meta::{Condition, Labels, Meta, Seconds, nullable, object, parse_time, time},
};

pub use super::requests::Requests;

/// `v1.Pod`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: PodSpec,
    /// status
    pub status: PodStatus,
}
object!(Pod, "", "v1", "pods", "Pod");

/// `v1.PodSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// the node; empty until bound
    pub node_name: Box<str>,
    /// who binds it
    pub scheduler_name: Box<str>,
    /// host name
    pub hostname: Box<str>,
    /// headless service
    pub subdomain: Box<str>,
    /// labels that the node must have
    pub node_selector: Labels,
    /// affinity
    pub affinity: Option<Box<Affinity>>,
    /// taints it bears
    #[serde(deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    /// containers
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    /// init containers
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
    /// volumes
    #[serde(deserialize_with = "nullable")]
    pub volumes: Vec<Volume>,
    /// resources on top of the containers'
    pub overhead: Requests,
    /// gates that hold scheduling
    #[serde(deserialize_with = "nullable")]
    pub scheduling_gates: Vec<SchedulingGate>,
    /// how important it is; 0 unless set
    #[serde(deserialize_with = "nullable")]
    pub priority: i32,
    /// Never, or PreemptLowerPriority (also when empty)
    pub preemption_policy: Box<str>,
    /// how it's spread with its like
    #[serde(deserialize_with = "nullable")]
    pub topology_spread_constraints: Vec<SpreadConstraint>,
    /// resources of the pod as a whole, in place of its containers'
    #[serde(deserialize_with = "nullable")]
    pub resources: Resources,
    /// the network is the node's
    pub host_network: bool,
    /// claims of devices
    pub resource_claims: Option<Box<[PodClaim]>>,
}

/// `v1.PodSchedulingGate`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SchedulingGate {
    /// name
    pub name: Box<str>,
}

/// `v1.Container`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// name
    pub name: Box<str>,
    /// ports
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// resources
    pub resources: Resources,
    /// `Always` on an init container: a sidecar
    pub restart_policy: Box<str>,
    /// image
    pub image: Box<str>,
}

/// `v1.ResourceRequirements`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// requests
    pub requests: Requests,
}

/// `v1.ContainerPort`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// name
    pub name: Box<str>,
    /// port in the pod
    pub container_port: i32,
    /// port on the node, 0 for none
    pub host_port: i32,
    /// address on the node
    #[serde(rename = "hostIP")]
    pub host_ip: Box<str>,
    /// TCP unless set
    pub protocol: Box<str>,
}

/// `v1.Toleration`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// taint key; empty with Exists for all
    pub key: Box<str>,
    /// Exists, Equal (also when empty)
    pub operator: Box<str>,
    /// taint value
    pub value: Box<str>,
    /// effect; empty for all
    pub effect: Box<str>,
    /// how long a NoExecute taint is borne; without end when not given
    pub toleration_seconds: Option<i64>,
}

/// `v1.Volume`: claims only.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// name
    pub name: Box<str>,
    /// a claim
    pub persistent_volume_claim: Option<ClaimSource>,
    /// a claim made with the pod, named `<pod>-<volume>`
    pub ephemeral: Option<serde::de::IgnoredAny>,
}

/// `v1.PersistentVolumeClaimVolumeSource`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSource {
    /// claim in the pod's namespace
    pub claim_name: Box<str>,
}

/// `v1.PodStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// phase
    pub phase: Phase,
    /// one word on the phase
    pub reason: Box<str>,
    /// where room is being made for it
    pub nominated_node_name: Box<str>,
    /// address
    #[serde(rename = "podIP")]
    pub pod_ip: Box<str>,
    /// addresses of all families
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    /// conditions
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// containers
    #[serde(deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatus>,
    /// init containers
    #[serde(deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// when the node took it
    #[serde(deserialize_with = "time")]
    pub start_time: Option<Seconds>,
    /// claims that were made for it
    pub resource_claim_statuses: Option<Box<[PodClaimStatus]>>,
    /// the claim of its extended resources
    pub extended_resource_claim_status: Option<Box<ExtendedClaim>>,
}

/// `v1.PodIP`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// address
    pub ip: Box<str>,
}

/// `v1.ContainerStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// name of the container
    pub name: Box<str>,
    /// restarts
    pub restart_count: i32,
    /// how it stands
    pub state: ContainerState,
    /// requests that it runs with, while they may differ from the wanted
    #[serde(deserialize_with = "nullable")]
    pub resources: Resources,
    /// requests that the node has set aside for it
    pub allocated_resources: Requests,
}

/// `v1.ContainerState`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// it ended
    pub terminated: Option<Terminated>,
}

/// `v1.ContainerStateTerminated`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// exit code
    pub exit_code: i32,
    /// when
    #[serde(deserialize_with = "time")]
    pub finished_at: Option<Seconds>,
}

/// `v1.PodPhase`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// not all containers started
    #[default]
    Pending,
    /// the node doesn't answer
    Unknown,
    /// at least one container runs
    Running,
    /// all ended well
    Succeeded,
    /// all ended, one badly
    Failed,
}

impl<'de> Deserialize<'de> for Phase {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(d)?;
        Ok(match text.as_deref() {
            None | Some("" | "Pending") => Phase::Pending,
            Some("Running") => Phase::Running,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            Some(_) => Phase::Unknown,
        })
    }
}

impl Pod {
    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| &*c.kind == kind)
    }
    /// The Ready condition holds.
    pub fn ready(&self) -> bool {
        self.condition("Ready")
            .is_some_and(|c| &*c.status == "True")
    }
    /// When Ready last changed.
    pub fn ready_since(&self) -> Option<Seconds> {
        self.condition("Ready")
            .and_then(|c| parse_time(c.last_transition_time.as_deref()))
    }
    /// Ready for at least `min_ready_seconds`. `Err(wait)`: ready, but for `wait` seconds more.
    pub fn available(&self, min_ready_seconds: i32, now: Seconds) -> Result<bool, Seconds> {
        if !self.ready() {
            return Ok(false);
        }
        if min_ready_seconds <= 0 {
            return Ok(true);
        }
        match self.ready_since() {
            None => Ok(false),
            Some(since) => {
                let left = since + i64::from(min_ready_seconds) - now;
                if left <= 0 { Ok(true) } else { Err(left) }
            }
        }
    }
    /// It ended.
    pub fn terminal(&self) -> bool {
        matches!(self.status.phase, Phase::Succeeded | Phase::Failed)
    }
    /// It runs, or may still (`controller.IsPodActive`).
    pub fn active(&self) -> bool {
        !self.terminal() && !self.metadata.deleting()
    }
    /// It is being deleted, and its node has nothing of it any more (`podIsShutDown`).
    pub fn shut_down(&self) -> bool {
        self.metadata.deleting() && self.metadata.deletion_grace_period_seconds == Some(0)
    }
    /// Sum of restarts.
    pub fn restarts(&self) -> i32 {
        self.status
            .container_statuses
            .iter()
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0)
    }
    /// Names of the claims it mounts.
    pub fn claims(&self) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
        self.spec.volumes.iter().filter_map(|v| {
            if let Some(c) = &v.persistent_volume_claim {
                Some(std::borrow::Cow::Borrowed(&*c.claim_name))
            } else if v.ephemeral.is_some() {
                Some(format!("{}-{}", self.metadata.name, v.name).into())
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"p","creationTimestamp":null,"labels":null,"ownerReferences":null,"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","a":"b"}},
            "spec":{"containers":null,"volumes":[{"name":"v","emptyDir":{}},{"name":"d","persistentVolumeClaim":{"claimName":"data"}}],"nodeSelector":null},
            "status":{"phase":"Weird","conditions":[{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2024-01-01T00:00:10Z"}],"podIPs":null}}"#,
        )
        .unwrap();
        assert_eq!(pod.status.phase, Phase::Unknown);
        assert_eq!(
            pod.metadata.annotations.iter().collect::<Vec<_>>(),
            [("a", "b")]
        );
        assert_eq!(pod.claims().collect::<Vec<_>>(), ["data"]);
        let at = 1_704_067_210;
        assert_eq!(pod.available(0, at), Ok(true));
        assert_eq!(pod.available(5, at + 2), Err(3));
        assert_eq!(pod.available(5, at + 5), Ok(true));
    }
}
