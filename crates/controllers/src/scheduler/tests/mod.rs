//! Upstream's cases as data: nodes, the pods on them, a pod, and where it goes or why not.

mod company;
mod devices;
mod filters;
mod preemption;
mod spreading;
mod volumes;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    cycle::{Decision, Nominated, World, decide},
    devices::Devices,
    view::{Placed, View},
    volumes::Storage,
};
use crate::{
    machinery::{cache::Cache, reflector::Sink},
    objects::{meta::Object, pod::Pod, policy::Budget, selector::Selector},
};

/// What a case is decided on.
#[derive(Default, Clone)]
pub struct Setting {
    pub nodes: Vec<Value>,
    pub pods: Vec<Value>,
    pub nominated: Vec<(&'static str, Value)>,
    pub namespaces: Vec<(&'static str, Value)>,
    pub claims: Vec<Value>,
    pub volumes: Vec<Value>,
    pub classes: Vec<Value>,
    pub drivers: Vec<Value>,
    pub all_drivers: Vec<Value>,
    pub capacities: Vec<Value>,
    pub attachments: Vec<Value>,
    pub budgets: Vec<Value>,
    pub device_claims: Vec<Value>,
    pub slices: Vec<Value>,
    pub device_classes: Vec<Value>,
    pub like: Option<Value>,
}

/// A node with room for 10 pods, 4 CPUs, 10 GB, and these labels.
pub fn node(name: &str, labels: Value) -> Value {
    json!({"metadata":{"name":name,"labels":labels},"spec":{},
        "status":{"allocatable":{"cpu":"4","memory":"10G","ephemeral-storage":"20G","pods":"10","example.com/aaa":"5","hugepages-2Mi":"5"}}})
}
/// A pod on a node.
pub fn on(node: &str, name: &str, labels: Value, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = node.into();
    json!({"metadata":{"name":name,"uid":name,"namespace":"n","labels":labels},"spec":spec,
        "status":{"startTime":"2024-01-01T00:00:00Z"}})
}
/// A pod without a node.
pub fn pod(labels: Value, spec: Value) -> Value {
    json!({"metadata":{"name":"p","uid":"p","namespace":"n","labels":labels},"spec":spec})
}
/// One container with these requests.
pub fn asking(requests: Value) -> Value {
    json!({"containers":[{"name":"c","resources":{"requests":requests}}]})
}
/// `base` with the fields of `extra`.
pub fn and(base: Value, extra: Value) -> Value {
    let mut base = base;
    for (k, v) in extra.as_object().unwrap() {
        base[k] = v.clone();
    }
    base
}

fn read<T: Object>(v: &Value) -> Arc<T> {
    Arc::new(serde_json::from_value(v.clone()).unwrap())
}
fn cache<T: Object>(all: &[Value]) -> Arc<Cache<T>> {
    let cache = Arc::new(Cache::default());
    cache.replace(
        all.iter()
            .map(|v| serde_json::from_value(v.clone()).unwrap())
            .collect(),
    );
    cache
}

impl Setting {
    fn view(&self) -> View {
        let mut view = View::default();
        self.nodes.iter().for_each(|n| view.set_node(read(n)));
        self.pods.iter().for_each(|p| view.set_pod(&read(p)));
        for (name, labels) in &self.namespaces {
            view.namespaces.insert(
                (*name).into(),
                serde_json::from_value(labels.clone()).unwrap(),
            );
        }
        view
    }
    /// The decision.
    pub fn decide(&self, pod: &Value) -> Decision {
        let view = self.view();
        let storage = Storage {
            claims: cache(&self.claims),
            volumes: cache(&self.volumes),
            classes: cache(&self.classes),
            drivers: cache(&self.drivers),
            all_drivers: cache(&self.all_drivers),
            capacities: cache(&self.capacities),
            attachments: cache(&self.attachments),
        };
        let devices = Devices {
            claims: cache(&self.device_claims),
            slices: cache(&self.slices),
            classes: cache(&self.device_classes),
            ..Default::default()
        };
        let mut nominated: Nominated = HashMap::new();
        for (node, pod) in &self.nominated {
            nominated
                .entry((*node).into())
                .or_default()
                .push(Arc::new(Placed::new(read(pod))));
        }
        let like: Option<Selector> = self
            .like
            .clone()
            .map(|l| serde_json::from_value(l).unwrap());
        let budgets: Vec<Arc<Budget>> = self.budgets.iter().map(read).collect();
        let world = World {
            view: &view,
            storage: &storage,
            nominated: &nominated,
            taken: &HashSet::new(),
            devices: &devices,
            pending: &Default::default(),
            like: &|_| like.clone(),
            budgets: &|| budgets.clone(),
        };
        decide(&read::<Pod>(pod), &world)
    }
    /// The node's name; `node: victims`; or the message, without what is said of preemption.
    pub fn outcome(&self, pod: &Value) -> String {
        match self.decide(pod) {
            Decision::Bind(node, _) => node.into(),
            Decision::Preempt(c, _) => {
                let names: Vec<&str> = c.victims.iter().map(|v| &*v.metadata.name).collect();
                format!("{}: {}", c.node, names.join(" "))
            }
            Decision::Wait(mut d, _) => {
                d.preemption = None;
                d.message()
            }
        }
    }
    /// How many nodes of two give which reason.
    pub fn reasons(&self, pod: &Value) -> BTreeMap<String, usize> {
        match self.decide(pod) {
            Decision::Wait(d, _) | Decision::Preempt(_, d) => d
                .reasons
                .into_iter()
                .map(|(r, n)| (r.into_owned(), n))
                .collect(),
            Decision::Bind(..) => BTreeMap::new(),
        }
    }
}

/// Each case: a name, a setting, a pod, the outcome.
pub fn check(cases: Vec<(&str, Setting, Value, &str)>) {
    let mut wrong = vec![];
    for (name, setting, pod, want) in cases {
        let got = setting.outcome(&pod);
        if got != want {
            wrong.push(format!("{name}: got {got:?}, want {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
