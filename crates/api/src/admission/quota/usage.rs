//! What an object costs, and which quotas ask about it (`pkg/quota/v1/evaluator`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    admission::{
        Attributes, Operation,
        json::{items, text},
        resources::{self, Amounts},
    },
    kinds::checks::quantity::Quantity,
};

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLAIMS: &str = "count/resourceclaims.resource.k8s.io";
/// After the class's name: how many of its devices.
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices that a request for all of them may get (resource/v1 `AllocationResultsMaxSize`).
const DEVICES_MAX: i64 = 32;
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Without one of these a container is refused where a quota counts it.
const REQUIRED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];
const POD: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];

/// How objects of a resource are counted.
pub enum Counted {
    /// By what they ask for.
    Pods,
    /// By type.
    Services,
    /// By storage and class.
    Claims,
    /// By devices and class.
    DeviceClaims,
    /// One each: under these names.
    Plain(Vec<String>),
}

fn one() -> Quantity {
    amount(1)
}

fn amount(n: usize) -> Quantity {
    Quantity::whole(i64::try_from(n).unwrap_or(i64::MAX))
}

impl Counted {
    /// None for what no quota counts.
    pub fn of(group: &str, plural: &str) -> Option<Counted> {
        Some(match (group, plural) {
            ("", "pods") => Counted::Pods,
            ("", "services") => Counted::Services,
            ("", "persistentvolumeclaims") => Counted::Claims,
            ("resource.k8s.io", "resourceclaims") => Counted::DeviceClaims,
            ("" | "events.k8s.io", "events") => return None,
            _ => {
                let mut names = vec![if group.is_empty() {
                    format!("count/{plural}")
                } else {
                    format!("count/{plural}.{group}")
                }];
                let alias = [
                    "configmaps",
                    "resourcequotas",
                    "replicationcontrollers",
                    "secrets",
                ];
                if group.is_empty() && alias.contains(&plural) {
                    names.push(plural.to_string());
                }
                Counted::Plain(names)
            }
        })
    }

    /// Can the request change what is counted?
    pub fn handles(&self, a: &Attributes<'_>) -> bool {
        let plain = a.subresource.is_empty();
        match (self, a.operation) {
            (Counted::Plain(_), op) => plain && op == Operation::Create,
            (Counted::Pods, Operation::Create) => plain,
            (Counted::Pods, Operation::Update) => {
                a.subresource == "resize"
                    || plain
                        && matches!((&a.object, a.old), (Some(n), Some(o)) if terminating(n) != terminating(o))
            }
            (Counted::Services | Counted::DeviceClaims, Operation::Create | Operation::Update) => {
                plain
            }
            (Counted::Claims, Operation::Create | Operation::Update) => {
                let allocated =
                    |o: &Value| o.pointer("/status/allocatedResources/storage").cloned();
                plain
                    || a.subresource == "status"
                        && matches!((&a.object, a.old), (Some(n), Some(o)) if allocated(n) != allocated(o))
            }
            _ => false,
        }
    }

    /// Does a quota's resource name concern these objects?
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Counted::Plain(names) => names.iter().any(|n| n == name),
            Counted::Pods => {
                POD.contains(&name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || name.strip_prefix("requests.").is_some_and(extended)
            }
            Counted::Services => matches!(
                name,
                "count/services" | "services" | "services.nodeports" | "services.loadbalancers"
            ),
            Counted::DeviceClaims => name == DEVICE_CLAIMS || name.ends_with(DEVICES),
            Counted::Claims => {
                let own = ["persistentvolumeclaims", "requests.storage"];
                name == "count/persistentvolumeclaims"
                    || own.contains(&name)
                    || name
                        .split_once(STORAGE_CLASS)
                        .is_some_and(|(_, what)| own.contains(&what))
            }
        }
    }

    /// Is the object in a quota's scope?
    pub fn in_scope(&self, scope: &Value, o: &Value) -> bool {
        let exists = scope["operator"] == "Exists";
        match (self, text(scope, "/scopeName")) {
            (Counted::Pods, "Terminating") => terminating(o),
            (Counted::Pods, "NotTerminating") => !terminating(o),
            (Counted::Pods, "BestEffort") => best_effort(&o["spec"]),
            (Counted::Pods, "NotBestEffort") => !best_effort(&o["spec"]),
            (Counted::Pods, "PriorityClass") => {
                let class = text(o, "/spec/priorityClassName");
                let given = (!class.is_empty()).then_some(class);
                if exists {
                    given.is_some()
                } else {
                    selected(scope, given)
                }
            }
            (Counted::Pods, "CrossNamespacePodAffinity") => crosses_namespaces(o),
            (Counted::Claims, "VolumeAttributesClass") => {
                let names: BTreeSet<&str> = [
                    "/spec/volumeAttributesClassName",
                    "/status/currentVolumeAttributesClassName",
                    "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
                ]
                .iter()
                .map(|p| text(o, p))
                .filter(|n| !n.is_empty())
                .collect();
                if exists {
                    !names.is_empty()
                } else if names.is_empty() {
                    selected(scope, None)
                } else {
                    names.iter().any(|n| selected(scope, Some(n)))
                }
            }
            _ => false,
        }
    }

    /// What must be said for a quota that counts `required`; the fault in upstream's words.
    pub fn missing(&self, required: &[&str], o: &Value) -> Option<String> {
        if !matches!(self, Counted::Pods) {
            return None;
        }
        let own = &o["spec"]["resources"];
        let says = |k: &str| own[k].as_object().is_some_and(|m| !m.is_empty());
        if says("requests") || says("limits") {
            return None;
        }
        let mut faults = Vec::new();
        let mut required: Vec<&str> = required
            .iter()
            .copied()
            .filter(|r| REQUIRED.contains(r))
            .collect();
        required.sort_unstable();
        for name in required {
            let mut without = BTreeSet::new();
            for group in ["/spec/containers", "/spec/initContainers"] {
                for c in items(o, group) {
                    let requests = resources::amounts(&c["resources"]["requests"]);
                    let limits = resources::amounts(&c["resources"]["limits"]);
                    if !compute(&requests, &limits).contains_key(name) {
                        without.insert(text(c, "/name"));
                    }
                }
            }
            if !without.is_empty() {
                let names: Vec<&str> = without.into_iter().collect();
                faults.push(format!("{name} for: {}", names.join(",")));
            }
        }
        (!faults.is_empty()).then(|| format!("must specify {}", faults.join("; ")))
    }

    /// The object's cost.
    pub fn usage(&self, o: &Value) -> Amounts {
        match self {
            Counted::Plain(names) => names.iter().map(|n| (n.clone(), one())).collect(),
            Counted::Services => service(o),
            Counted::Claims => claim(o),
            Counted::DeviceClaims => device_claim(o),
            Counted::Pods => {
                let mut usage = Amounts::from([("count/pods".to_string(), one())]);
                if counts(o) {
                    let requests = resources::of_pod(&o["spec"], "requests");
                    let limits = resources::of_pod(&o["spec"], "limits");
                    usage.extend(compute(&requests, &limits));
                }
                usage
            }
        }
    }
}

/// Resources that Kubernetes itself doesn't know: of another domain.
fn extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
        || name.starts_with("deviceclass.resource.kubernetes.io/")
}

fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::from([("pods".to_string(), one())]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(v) = requests.get(name) {
            usage.insert(name.into(), v.clone());
            usage.insert(format!("requests.{name}"), v.clone());
        }
        if let Some(v) = limits.get(name) {
            usage.insert(format!("limits.{name}"), v.clone());
        }
    }
    for (name, v) in requests {
        if name.starts_with("hugepages-") {
            usage.insert(name.clone(), v.clone());
            usage.insert(format!("requests.{name}"), v.clone());
        }
        if extended(name) {
            usage.insert(format!("requests.{name}"), v.clone());
        }
    }
    usage
}

/// Ended Pods, and those stuck beyond their grace, cost nothing.
fn counts(pod: &Value) -> bool {
    if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") {
        return false;
    }
    let deadline = text(pod, "/metadata/deletionTimestamp").parse::<jiff::Timestamp>();
    let grace = pod
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    match (deadline, grace) {
        (Ok(at), Some(grace)) => {
            let end = at.checked_add(jiff::SignedDuration::from_secs(grace));
            end.is_ok_and(|end| jiff::Timestamp::now() <= end)
        }
        _ => true,
    }
}

fn terminating(pod: &Value) -> bool {
    pod.pointer("/spec/activeDeadlineSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|n| n >= 0)
}

fn best_effort(spec: &Value) -> bool {
    let asks = |o: &Value| {
        ["requests", "limits"].iter().any(|which| {
            resources::amounts(&o["resources"][*which])
                .iter()
                .any(|(k, v)| matches!(k.as_str(), "cpu" | "memory") && v.sign() > 0)
        })
    };
    !asks(spec)
        && !["/containers", "/initContainers"]
            .iter()
            .any(|group| items(spec, group).iter().any(asks))
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        !items(term, "/namespaces").is_empty() || term.get("namespaceSelector").is_some()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let Some(affinity) = pod.pointer(&format!("/spec/affinity/{kind}")) else {
            return false;
        };
        items(affinity, "/requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .any(crosses)
            || items(affinity, "/preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|w| crosses(&w["podAffinityTerm"]))
    })
}

/// One requirement of a scopeSelector against a name.
fn selected(scope: &Value, name: Option<&str>) -> bool {
    let named = |n: &str| items(scope, "/values").iter().any(|v| v == n);
    match text(scope, "/operator") {
        "In" => name.is_some_and(named),
        "NotIn" => !name.is_some_and(named),
        "DoesNotExist" => name.is_none(),
        _ => name.is_some(),
    }
}

fn service(o: &Value) -> Amounts {
    let ports = items(o, "/spec/ports");
    let (node_ports, balancers) = match text(o, "/spec/type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer"
            if o.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&false.into()) =>
        {
            let given = |p: &&Value| p["nodePort"].as_i64().unwrap_or(0) != 0;
            (ports.iter().filter(given).count(), 1)
        }
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    Amounts::from([
        ("count/services".into(), one()),
        ("services".into(), one()),
        ("services.nodeports".into(), amount(node_ports)),
        ("services.loadbalancers".into(), amount(balancers)),
    ])
}

fn claim(o: &Value) -> Amounts {
    let mut usage = Amounts::from([
        ("persistentvolumeclaims".into(), one()),
        ("count/persistentvolumeclaims".into(), one()),
    ]);
    let old = o
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(OLD_CLASS)?.as_str());
    let class = old.unwrap_or_else(|| text(o, "/spec/storageClassName"));
    if !class.is_empty() {
        usage.insert(
            format!("{class}{STORAGE_CLASS}persistentvolumeclaims"),
            one(),
        );
    }
    let asked = o
        .pointer("/spec/resources/requests/storage")
        .and_then(Quantity::of);
    if let Some(asked) = asked {
        let allocated = o
            .pointer("/status/allocatedResources/storage")
            .and_then(Quantity::of);
        let mut size = match allocated {
            Some(a) if a > asked => a,
            _ => asked,
        };
        size.round_up(0);
        if !class.is_empty() {
            usage.insert(
                format!("{class}{STORAGE_CLASS}requests.storage"),
                size.clone(),
            );
        }
        usage.insert("requests.storage".into(), size);
    }
    usage
}

/// A ResourceClaim's; of alternatives the most of each class.
fn device_claim(o: &Value) -> Amounts {
    let mut usage = Amounts::from([(DEVICE_CLAIMS.into(), one())]);
    for request in items(o, "/spec/devices/requests") {
        let exactly = request.get("exactly").map(std::slice::from_ref);
        let mut most = std::collections::BTreeMap::<String, i64>::new();
        for wanted in items(request, "/firstAvailable")
            .iter()
            .chain(exactly.into_iter().flatten())
        {
            let n = match text(wanted, "/allocationMode") {
                "ExactCount" => wanted["count"].as_i64().unwrap_or(0),
                "All" => DEVICES_MAX,
                _ => 0,
            };
            let class = text(wanted, "/deviceClassName");
            let of_class = most.entry(format!("{class}{DEVICES}")).or_default();
            *of_class = n.max(*of_class);
        }
        for (name, n) in most {
            let sum = usage.entry(name).or_insert(Quantity::whole(0));
            sum.add(&Quantity::whole(n));
        }
    }
    usage
}
