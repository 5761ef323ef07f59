//! What is allowed in a PodSpec, but surely not meant (`pkg/api/pod/warnings.go`).

use super::{
    checks::{path::Path, quantity::Quantity, rules},
    json::{entries, list, str_of},
};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

const SORTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// JSON field, place, what became of it.
const VOLUMES: [(&str, &str, &str); 9] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    (
        "scaleIO",
        "scaleIO",
        "deprecated in v1.16, non-functional in v1.22+",
    ),
    (
        "flocker",
        "flocker",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "storageos",
        "storageOS",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "quobyte",
        "quobyte",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "glusterfs",
        "glusterfs",
        "deprecated in v1.25, non-functional in v1.26+",
    ),
    (
        "cephfs",
        "cephfs",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
    (
        "rbd",
        "rbd",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
];

/// What upstream says of a node's label that is no more.
pub(crate) fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

/// An address that is written as it shouldn't be.
pub(crate) fn address(text: &str, at: &Path<'_>) -> Option<String> {
    let ip = rules::sloppy_ip(text)?;
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let canonical = v6.to_string();
            (canonical != text).then(|| {
                format!("{at}: IPv6 address {text:?} should be in RFC 5952 canonical format ({canonical:?})")
            })
        }
        Ok(IpAddr::V4(_)) => None,
        _ => {
            let plain = ip.to_canonical().to_string();
            Some(format!(
                "{at}: non-standard IP address {text:?} is invalid: use {plain:?}"
            ))
        }
    }
}

/// The warnings about a Pod, or about a template below `root`.
pub(crate) fn of(metadata: &Value, spec: &Value, root: &Path<'_>) -> Vec<String> {
    let mut all = Vec::new();
    let at = root.child("spec");
    labels(spec, &at, &mut all);
    let place = root.child("metadata");
    let place = place.child("annotations");
    for (key, message) in ANNOTATIONS {
        if !metadata["annotations"][key].is_null() {
            all.push(format!("{}: {message}", place.key(key)));
        }
    }
    volumes(spec, &at, &mut all);
    twice(spec, "hostAliases", "ip", &at, &mut all);
    twice(spec, "imagePullSecrets", "name", &at, &mut all);
    let secrets = at.child("imagePullSecrets");
    for (i, s) in list(spec, "imagePullSecrets").iter().enumerate() {
        if str_of(s, "name").is_empty() {
            all.push(format!(
                "{}: invalid empty name \"\"",
                secrets.index(i).child("name")
            ));
        }
    }
    bytes(&spec["overhead"], &at.child("overhead"), &mut all);
    seccomp(metadata, spec, &place, &mut all);
    ports(spec, &at, &mut all);
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    if grace.is_some_and(|n| n < 0) {
        all.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            at.child("terminationGracePeriodSeconds")
        ));
    }
    selectors(spec, &at, &mut all);
    let servers = at.child("dnsConfig");
    let servers = servers.child("nameservers");
    for (i, ip) in list(&spec["dnsConfig"], "nameservers").iter().enumerate() {
        all.extend(address(ip.as_str().unwrap_or_default(), &servers.index(i)));
    }
    let aliases = at.child("hostAliases");
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = aliases.index(i);
        all.extend(address(str_of(alias, "ip"), &at.child("ip")));
    }
    all
}

fn labels(spec: &Value, at: &Path<'_>, all: &mut Vec<String>) {
    for (key, _) in entries(&spec["nodeSelector"]) {
        if let Some(message) = deprecated_label(key) {
            all.push(format!("{}: {message}", at.child("nodeSelector").key(key)));
        }
    }
    let affinity = &spec["affinity"]["nodeAffinity"];
    let place = at.child("affinity");
    let place = place.child("nodeAffinity");
    let (required, preferred) = (place.child(REQUIRED), place.child(PREFERRED));
    let terms = required.child("nodeSelectorTerms");
    for (i, term) in list(&affinity[REQUIRED], "nodeSelectorTerms")
        .iter()
        .enumerate()
    {
        node_term(term, false, &terms.index(i), all);
    }
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        let at = preferred.index(i);
        node_term(&term["preference"], true, &at.child("preference"), all);
    }
    let place = at.child("topologySpreadConstraints");
    for (i, c) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = place.index(i);
        let key = str_of(c, "topologyKey");
        if let Some(message) = deprecated_label(key) {
            all.push(format!("{}: {key} is {message}", at.child("topologyKey")));
        }
        if c["labelSelector"].is_null() {
            all.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
        }
    }
}

fn node_term(term: &Value, values: bool, at: &Path<'_>, all: &mut Vec<String>) {
    let place = at.child("matchExpressions");
    for (i, e) in list(term, "matchExpressions").iter().enumerate() {
        let at = place.index(i);
        let key = str_of(e, "key");
        if let Some(message) = deprecated_label(key) {
            all.push(format!("{}: {key} is {message}", at.child("key")));
        }
        if !values {
            continue;
        }
        let at = at.child("values");
        for (j, value) in list(e, "values")
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
        {
            for message in rules::label_value(value) {
                all.push(format!("{}: {value} is invalid, {message}", at.index(j)));
            }
        }
    }
}

fn volumes(spec: &Value, at: &Path<'_>, all: &mut Vec<String>) {
    let place = at.child("volumes");
    for (i, v) in list(spec, "volumes").iter().enumerate() {
        let at = place.index(i);
        for (field, name, what) in VOLUMES {
            if v[field].is_object() {
                all.push(format!("{}: {what}", at.child(name)));
            }
        }
        let claim = &v["ephemeral"]["volumeClaimTemplate"]["spec"];
        let at = at.child("ephemeral");
        let at = at.child("volumeClaimTemplate");
        self::claim(claim, &at.child("spec"), all);
    }
    for v in list(spec, "volumes") {
        overlaps(v, all);
    }
}

/// A claim's spec at `at`.
pub(crate) fn claim(spec: &Value, at: &Path<'_>, all: &mut Vec<String>) {
    let at = at.child("resources");
    for field in ["requests", "limits"] {
        fraction(&spec["resources"][field], "storage", &at.child(field), all);
    }
}

fn fraction(amounts: &Value, name: &str, at: &Path<'_>, all: &mut Vec<String>) {
    if let Some(q) = Quantity::of(&amounts[name]).filter(|q| !q.is_whole()) {
        let (at, text) = (at.key(name), q.canonical());
        all.push(format!(
            "{at}: fractional byte value {text:?} is invalid, must be an integer"
        ));
    }
}

fn bytes(amounts: &Value, at: &Path<'_>, all: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        fraction(amounts, name, at, all);
    }
}

/// Files of one volume, one of which is or lies within another.
fn overlaps(v: &Value, all: &mut Vec<String>) {
    let name = str_of(v, "name");
    let paths = |s: &Value, of: &str| -> Vec<(String, String)> {
        list(s, "items")
            .iter()
            .map(|i| (str_of(i, "path").to_string(), of.to_string()))
            .collect()
    };
    for (field, of) in [
        (
            "configMap",
            format!("ConfigMap {:?}", str_of(&v["configMap"], "name")),
        ),
        (
            "secret",
            format!("Secret {:?}", str_of(&v["secret"], "secretName")),
        ),
        ("downwardAPI", "DownwardAPI".to_string()),
    ] {
        for body in collisions(paths(&v[field], "")) {
            all.push(format!("volume {name:?} ({of}): overlapping paths: {body}"));
        }
    }
    if !v["projected"].is_object() {
        return;
    }
    let mut files = Vec::new();
    for source in list(&v["projected"], "sources") {
        if source.as_object().is_none_or(|s| s.is_empty()) {
            all.push(format!(
                "volume {name:?} (Projected) has no sources provided"
            ));
        }
        let of = |field: &str, kind: &str| format!("{kind} {:?}", str_of(&source[field], "name"));
        files.extend(paths(&source["configMap"], &of("configMap", "ConfigMap")));
        files.extend(paths(&source["secret"], &of("secret", "Secret")));
        files.extend(paths(&source["downwardAPI"], "DownwardAPI"));
        let token = str_of(&source["serviceAccountToken"], "path");
        if !token.is_empty() {
            files.push((token.to_string(), "ServiceAccountToken".to_string()));
        }
    }
    for body in collisions(files) {
        all.push(format!(
            "volume {name:?} (Projected): overlapping paths: {body}"
        ));
    }
}

fn collisions(files: Vec<(String, String)>) -> Vec<String> {
    let shown = |(path, of): &(String, String)| match of.as_str() {
        "" => format!("{path:?}"),
        of => format!("{path:?} ({of})"),
    };
    let mut out = Vec::new();
    let mut seen: Vec<(String, String)> = Vec::new();
    for (path, of) in files {
        let file = (path.trim_end_matches('/').to_string(), of);
        let within = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
        for other in &seen {
            let (a, b) = (&file.0, &other.0);
            if !a.is_empty() && (a == b || within(a, b) || within(b, a)) {
                out.push(format!("{} with {}", shown(&file), shown(other)));
            }
        }
        seen.push(file);
    }
    out
}

/// Two items of a list that share their key.
fn twice(spec: &Value, field: &str, key: &str, at: &Path<'_>, all: &mut Vec<String>) {
    let at = at.child(field);
    let mut seen = HashSet::new();
    for (i, item) in list(spec, field).iter().enumerate() {
        let value = str_of(item, key);
        if !seen.insert(value) {
            let at = at.index(i);
            all.push(format!("{}: duplicate {key} {value:?}", at.child(key)));
        }
    }
}

/// Annotations that fields have taken over, and what each container's own fields say.
fn seccomp(metadata: &Value, spec: &Value, notes: &Path<'_>, all: &mut Vec<String>) {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let unset = |o: &Value| o["securityContext"]["seccompProfile"].is_null();
    let mut gone = |key: &str| {
        all.push(format!(
            "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
            notes.key(key)
        ));
    };
    let annotations = &metadata["annotations"];
    if unset(spec) && !annotations[POD].is_null() {
        gone(POD);
    }
    for field in SORTS {
        for c in list(spec, field) {
            let key = format!("{CONTAINER}{}", str_of(c, "name"));
            if unset(c) && !annotations[&key].is_null() {
                gone(&key);
            }
        }
    }
}

fn ports(spec: &Value, at: &Path<'_>, all: &mut Vec<String>) {
    let mut numbers: HashMap<String, Vec<(String, &Value)>> = HashMap::new();
    let mut names: HashMap<&str, String> = HashMap::new();
    let (mut overlapping, mut named) = (Vec::new(), Vec::new());
    for field in SORTS {
        let place = at.child(field);
        for (i, c) in list(spec, field).iter().enumerate() {
            let at = place.index(i);
            let resources = at.child("resources");
            for list in ["limits", "requests"] {
                let amounts = &c["resources"][list];
                fraction(amounts, "memory", &resources.child(list), all);
            }
            for list in ["limits", "requests"] {
                let amounts = &c["resources"][list];
                fraction(amounts, "ephemeral-storage", &resources.child(list), all);
            }
            env(c, &at.child("env"), all);
            let at = at.child("ports");
            for (j, port) in list(c, "ports").iter().enumerate() {
                let at = at.index(j).to_string();
                let key = format!("{}/{}", port["containerPort"], str_of(port, "protocol"));
                let others = numbers.entry(key).or_default();
                for (other_at, other) in others.iter() {
                    if let Some(how) = overlap(port, other) {
                        overlapping.push(format!("{at}: {how} port definition with {other_at}"));
                    }
                }
                others.push((at.clone(), port));
                let name = str_of(port, "name");
                if name.is_empty() {
                    continue;
                }
                match names.get(name) {
                    Some(other) => named.push(format!("{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}")),
                    None => {
                        names.insert(name, at);
                    }
                }
            }
        }
    }
    all.extend(overlapping);
    all.extend(named);
}

fn overlap(a: &Value, b: &Value) -> Option<&'static str> {
    let of = |p: &Value| {
        (
            p["hostPort"].as_i64().unwrap_or(0),
            str_of(p, "hostIP").to_string(),
        )
    };
    let ((port, ip), (other_port, other_ip)) = (of(a), of(b));
    if port == other_port && ip == other_ip {
        Some("duplicate")
    } else if port == 0 || other_port == 0 {
        Some("overlapping")
    } else if port == other_port && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

fn env(c: &Value, at: &Path<'_>, all: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (i, e) in list(c, "env").iter().enumerate() {
        let name = str_of(e, "name");
        if seen.insert(name) {
            continue;
        }
        let (value, itself) = (str_of(e, "value"), format!("$({name})"));
        if e["valueFrom"].is_object() || value == itself || !value.contains(&itself) {
            let at = at.index(i);
            all.push(format!(
                "{at}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

fn selectors(spec: &Value, at: &Path<'_>, all: &mut Vec<String>) {
    let place = at.child("affinity");
    for field in ["podAffinity", "podAntiAffinity"] {
        let a = &spec["affinity"][field];
        let at = place.child(field);
        let (required, preferred) = (at.child(REQUIRED), at.child(PREFERRED));
        for (i, term) in list(a, REQUIRED).iter().enumerate() {
            if term["labelSelector"].is_null() {
                let at = required.index(i);
                all.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
            }
        }
        for (i, term) in list(a, PREFERRED).iter().enumerate() {
            if term["podAffinityTerm"]["labelSelector"].is_null() {
                let at = preferred.index(i);
                let at = at.child("podAffinityTerm");
                all.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
            }
        }
    }
}
