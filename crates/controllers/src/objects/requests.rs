//! What pods ask of nodes.

use serde::{Deserialize, Deserializer, de::MapAccess};

use super::{
    pod::{Container, Pod, Resources},
    quantity,
};

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
    /// Puts what `with` has in place of what is there, for resources that pods as a whole may ask for.
    fn replace(&mut self, with: &Requests) {
        if with.cpu_milli > 0 {
            self.cpu_milli = with.cpu_milli;
        }
        if with.memory_bytes > 0 {
            self.memory_bytes = with.memory_bytes;
        }
        for (name, value) in &with.other {
            if name.starts_with("hugepages-") {
                match self.other.iter_mut().find(|(n, _)| n == name) {
                    Some((_, v)) => *v = *value,
                    None => self.other.push((name.clone(), *value)),
                }
            }
        }
    }
    /// Takes `less` away.
    pub fn subtract(&mut self, less: &Requests) {
        self.combine(less, i64::saturating_sub);
    }
    fn combine(&mut self, with: &Requests, f: fn(i64, i64) -> i64) {
        self.cpu_milli = f(self.cpu_milli, with.cpu_milli);
        self.memory_bytes = f(self.memory_bytes, with.memory_bytes);
        for (name, value) in &with.other {
            match self.other.iter_mut().find(|(n, _)| n == name) {
                Some((_, v)) => *v = f(*v, *value),
                None => self.other.push((name.clone(), f(0, *value))),
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

/// A port of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    address: Box<str>,
    port: i32,
    protocol: Box<str>,
}

impl HostPort {
    /// Both can't be had: an unset address means all.
    pub fn clashes(&self, other: &HostPort) -> bool {
        let any = |a: &str| a.is_empty() || a == "0.0.0.0" || a == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

impl Pod {
    /// Host ports that it asks for, those of its sidecars too.
    pub fn host_ports(&self) -> Vec<HostPort> {
        let sidecars = self
            .spec
            .init_containers
            .iter()
            .filter(|c| &*c.restart_policy == "Always");
        self.spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|c| &c.ports)
            .filter(|p| p.host_port > 0)
            .map(|p| HostPort {
                address: p.host_ip.clone(),
                port: p.host_port,
                protocol: if p.protocol.is_empty() {
                    "TCP".into()
                } else {
                    p.protocol.clone()
                },
            })
            .collect()
    }
    /// What it takes from a node: containers and sidecars together, or the largest step of initialisation (KEP-753), or what is asked for the pod as a whole; and its overhead. While it's resized, the larger of what it has and what it wants (`component-helpers/resource PodRequests`).
    pub fn requests(&self) -> Requests {
        self.sum(&Requests::default())
    }
    /// What it counts for when nodes are compared: containers that ask for nothing count as upstream counts them.
    pub fn requests_for_score(&self) -> Requests {
        self.sum(&Requests {
            cpu_milli: 100,
            memory_bytes: 200 << 20,
            other: vec![],
        })
    }
    /// What it is being resized to can't be had on its node.
    fn resize_infeasible(&self) -> bool {
        self.status
            .conditions
            .iter()
            .any(|c| &*c.kind == "PodResizePending" && &*c.reason == "Infeasible")
    }
    fn sum(&self, missing: &Requests) -> Requests {
        let statuses = &self.status;
        let infeasible = self.resize_infeasible();
        let of = |c: &Container, lasting: bool| {
            let mut r = c.resources.requests.clone();
            let known = statuses
                .container_statuses
                .iter()
                .chain(&statuses.init_container_statuses)
                .find(|s| lasting && s.name == c.name && s.resources != Resources::default());
            if let Some(s) = known {
                if infeasible {
                    r = Requests::default();
                }
                r.max(&s.resources.requests);
                r.max(&s.allocated_resources);
            }
            if r.cpu_milli == 0 {
                r.cpu_milli = missing.cpu_milli;
            }
            if r.memory_bytes == 0 {
                r.memory_bytes = missing.memory_bytes;
            }
            r
        };
        let mut sum = Requests::default();
        for c in &self.spec.containers {
            sum.add(&of(c, true));
        }
        let mut sidecars = Requests::default();
        let mut init_peak = Requests::default();
        for c in &self.spec.init_containers {
            if &*c.restart_policy == "Always" {
                sum.add(&of(c, true));
                sidecars.add(&of(c, true));
                init_peak.max(&sidecars);
            } else {
                let mut step = sidecars.clone();
                step.add(&of(c, false));
                init_peak.max(&step);
            }
        }
        sum.max(&init_peak);
        sum.replace(&self.spec.resources.requests);
        sum.add(&self.spec.overhead);
        sum
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
    fn requests_of_the_pod_as_a_whole_and_while_it_is_resized() {
        let cases = [
            (
                "pod level",
                serde_json::json!({"spec":{"resources":{"requests":{"cpu":"2"}},
                "containers":[{"resources":{"requests":{"cpu":"1","memory":"1Ki"}}}]}}),
                (2000, 1024),
            ),
            (
                "resized, not yet done",
                serde_json::json!({"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]},
                "status":{"containerStatuses":[{"name":"c","resources":{"requests":{"cpu":"3"}},"allocatedResources":{"cpu":"2"}}]}}),
                (3000, 0),
            ),
            (
                "resized, infeasible",
                serde_json::json!({"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"9"}}}]},
                "status":{"conditions":[{"type":"PodResizePending","reason":"Infeasible"}],
                    "containerStatuses":[{"name":"c","resources":{"requests":{"cpu":"1"}},"allocatedResources":{"cpu":"2"}}]}}),
                (2000, 0),
            ),
        ];
        for (name, pod, want) in cases {
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let got = pod.requests();
            assert_eq!((got.cpu_milli, got.memory_bytes), want, "{name}");
        }
        let empty: Pod =
            serde_json::from_value(serde_json::json!({"spec":{"containers":[{},{}]}})).unwrap();
        assert_eq!(empty.requests_for_score().cpu_milli, 200);
    }
}
