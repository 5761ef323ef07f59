//! Pods, as controllers see them.

use serde::{Deserialize, Deserializer, de::MapAccess};

use super::{
    meta::{Condition, Labels, Meta, Seconds, nullable, object, parse_time, time},
    quantity,
    selector::Requirement,
};

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
    pub scheduling_gates: Vec<serde::de::IgnoredAny>,
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
}

/// `v1.ResourceRequirements`
#[derive(Debug, Clone, Default, Deserialize)]
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

/// A resource list: CPU in thousandths of a core, memory in bytes, the others in units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// milli-CPU
    pub cpu_milli: i64,
    /// bytes
    pub memory_bytes: i64,
    /// ephemeral-storage, extended resources, `pods`
    pub other: Vec<(Box<str>, i64)>,
}

impl Requests {
    /// Adds `more`.
    pub fn add(&mut self, more: &Requests) {
        self.combine(more, i64::saturating_add);
    }
    /// The larger of each.
    pub fn max(&mut self, other: &Requests) {
        self.combine(other, i64::max);
    }
    fn combine(&mut self, with: &Requests, f: fn(i64, i64) -> i64) {
        self.cpu_milli = f(self.cpu_milli, with.cpu_milli);
        self.memory_bytes = f(self.memory_bytes, with.memory_bytes);
        for (name, value) in &with.other {
            match self.other.iter_mut().find(|(n, _)| n == name) {
                Some((_, v)) => *v = f(*v, *value),
                None => self.other.push((name.clone(), *value)),
            }
        }
    }
    /// Amount of another resource than CPU and memory.
    pub fn other(&self, name: &str) -> Option<i64> {
        self.other
            .iter()
            .find(|(n, _)| &**n == name)
            .map(|(_, v)| *v)
    }
}

impl<'de> Deserialize<'de> for Requests {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// Quantities may come as JSON numbers.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Amount<'a> {
            Text(#[serde(borrow)] std::borrow::Cow<'a, str>),
            Number(serde_json::Number),
        }
        struct V;
        impl<'de> serde::de::Visitor<'de> for V {
            type Value = Requests;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map of quantities")
            }
            fn visit_unit<E>(self) -> Result<Requests, E> {
                Ok(Requests::default())
            }
            fn visit_none<E>(self) -> Result<Requests, E> {
                Ok(Requests::default())
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Requests, D::Error> {
                d.deserialize_map(V)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Requests, A::Error> {
                let mut r = Requests::default();
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    let text = match map.next_value::<Amount>()? {
                        Amount::Text(t) => t.into_owned(),
                        Amount::Number(n) => n.to_string(),
                    };
                    match &*key {
                        "cpu" => r.cpu_milli = quantity::milli(&text).unwrap_or(0),
                        "memory" => r.memory_bytes = quantity::units(&text).unwrap_or(0),
                        other => r
                            .other
                            .push((other.into(), quantity::units(&text).unwrap_or(0))),
                    }
                }
                Ok(r)
            }
        }
        d.deserialize_option(V)
    }
}

/// `v1.Affinity`: the node part's requirements.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// node affinity
    pub node_affinity: Option<NodeAffinity>,
}

/// `v1.NodeAffinity`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// must hold to be scheduled
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
}

/// `v1.NodeSelector`: one of the terms must hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// terms
    #[serde(deserialize_with = "nullable")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// `v1.NodeSelectorTerm`: all must hold; an empty term holds for none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// on labels
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<Requirement>,
    /// on `metadata.name`
    #[serde(deserialize_with = "nullable")]
    pub match_fields: Vec<Requirement>,
}

impl NodeSelector {
    /// A term holds for the node.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector_terms.iter().any(|t| {
            !(t.match_expressions.is_empty() && t.match_fields.is_empty())
                && t.match_expressions
                    .iter()
                    .all(|r| r.matches(labels.get(&r.key)))
                && t.match_fields
                    .iter()
                    .all(|r| &*r.key == "metadata.name" && r.matches(Some(name)))
        })
    }
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
    /// Sum of restarts.
    pub fn restarts(&self) -> i32 {
        self.status
            .container_statuses
            .iter()
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0)
    }
    /// What it takes from a node: containers and sidecars together, or the largest step of initialisation (KEP-753).
    pub fn requests(&self) -> Requests {
        let mut sum = Requests::default();
        for c in &self.spec.containers {
            sum.add(&c.resources.requests);
        }
        let mut sidecars = Requests::default();
        let mut init_peak = Requests::default();
        for c in &self.spec.init_containers {
            if &*c.restart_policy == "Always" {
                sum.add(&c.resources.requests);
                sidecars.add(&c.resources.requests);
                init_peak.max(&sidecars);
            } else {
                let mut step = sidecars.clone();
                step.add(&c.resources.requests);
                init_peak.max(&step);
            }
        }
        sum.max(&init_peak);
        sum.add(&self.spec.overhead);
        sum
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
    fn requests_of_init_containers_and_sidecars() {
        let c = |cpu: &str, restart: &str| serde_json::json!({"name":"c","restartPolicy":restart,"resources":{"requests":{"cpu":cpu}}});
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec":{
            "containers":[c("100m",""),c("200m","")],
            "initContainers":[c("50m","Always"),c("400m",""),c("10m","Always")],
            "overhead":{"cpu":"5m"}}}))
        .unwrap();
        // init step: 50 + 400 beats 100 + 200 + 50 + 10
        assert_eq!(pod.requests().cpu_milli, 455);
    }

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
