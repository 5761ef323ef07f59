//! What upstream fills into a PodSpec (pkg/apis/core/v1/defaults.go, SetDefaults_Pod, SetDefaults_PodSpec and its parts).

use super::{
    checks::quantity,
    json::{child, default, items_mut, str_of},
};
use serde_json::{Value, json};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Fills the spec of a Pod.
pub(crate) fn pod_spec(spec: &mut Value) {
    template_spec(spec);
    for list in ["initContainers", "containers"] {
        for c in items_mut(spec, list) {
            requests(c);
        }
    }
    pod_requests(spec);
    default(spec, "enableServiceLinks", true);
    if spec["hostNetwork"] == true {
        for list in ["initContainers", "containers"] {
            for c in items_mut(spec, list) {
                for port in items_mut(c, "ports") {
                    if port["hostPort"].as_i64().unwrap_or(0) == 0 {
                        port["hostPort"] = port["containerPort"].clone();
                    }
                }
            }
        }
    }
}

/// Fills the spec of a Pod template.
pub(crate) fn template_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    account(spec);
    for list in CONTAINERS {
        for c in items_mut(spec, list) {
            container(c, list == "ephemeralContainers");
        }
    }
    for list in ["limits", "requests"] {
        let amounts = spec.get_mut("resources").and_then(|r| r.get_mut(list));
        quantity::canonical_list(amounts, true);
    }
    quantity::canonical_list(spec.get_mut("overhead"), true);
    for v in items_mut(spec, "volumes") {
        volume(v);
    }
}

/// Sets a text that is absent or empty.
fn fill(o: &mut Value, key: &str, value: &str) {
    if str_of(o, key).is_empty()
        && let Some(m) = o.as_object_mut()
    {
        m.insert(key.to_string(), value.into());
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always there together.
fn account(spec: &mut Value) {
    let name = match str_of(spec, "serviceAccountName") {
        "" => str_of(spec, "serviceAccount"),
        name => name,
    };
    if name.is_empty() {
        return;
    }
    let name = name.to_string();
    spec["serviceAccountName"] = name.clone().into();
    spec["serviceAccount"] = name.into();
}

fn container(c: &mut Value, ephemeral: bool) {
    fill(c, "terminationMessagePath", "/dev/termination-log");
    fill(c, "terminationMessagePolicy", "File");
    let policy = pull_policy(str_of(c, "image"));
    fill(c, "imagePullPolicy", policy);
    if !ephemeral || c.get("resources").is_some() {
        default(c, "resources", json!({}));
    }
    for list in ["limits", "requests"] {
        let amounts = c.get_mut("resources").and_then(|r| r.get_mut(list));
        quantity::canonical_list(amounts, true);
    }
    for port in items_mut(c, "ports") {
        fill(port, "protocol", "TCP");
    }
    for env in items_mut(c, "env") {
        let Some(from) = env.get_mut("valueFrom").filter(|f| f.is_object()) else {
            continue;
        };
        reference(from);
        if let Some(file) = from.get_mut("fileKeyRef").filter(|f| f.is_object()) {
            default(file, "optional", false);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = c.get_mut(name).filter(|p| p.is_object()) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                if probe[field].as_i64().unwrap_or(0) == 0 {
                    probe[field] = value.into();
                }
            }
            handler(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(h) = c.pointer_mut(&format!("/lifecycle/{hook}")) {
            handler(h);
        }
    }
}

/// `fieldRef` and `resourceFieldRef` below an env variable's source or a volume's file.
fn reference(from: &mut Value) {
    if let Some(field) = from.get_mut("fieldRef").filter(|f| f.is_object()) {
        fill(field, "apiVersion", "v1");
    }
    if let Some(resource) = from.get_mut("resourceFieldRef").filter(|r| r.is_object()) {
        default(resource, "divisor", "0");
        if let Some(divisor) = resource.get_mut("divisor") {
            quantity::canonical(divisor);
        }
    }
}

/// Limits without requests: the request is the limit.
fn requests(c: &mut Value) {
    let Some(limits) = c["resources"]["limits"].as_object().cloned() else {
        return;
    };
    if let Some(resources) = child(c, "resources")
        && let Some(requests) = child(resources, "requests")
    {
        for (name, amount) in limits {
            default(requests, &name, amount);
        }
    }
}

/// The Pod's own requests, when it has limits of its own: what its containers ask for, or else the limit.
fn pod_requests(spec: &mut Value) {
    let own = |spec: &Value, field: &str| spec["resources"][field].as_object().cloned();
    let Some(resources) = spec.get("resources").filter(|r| r.is_object()) else {
        return;
    };
    let empty = |field: &str| resources[field].as_object().is_none_or(|m| m.is_empty());
    if empty("limits") && empty("requests") {
        return;
    }
    let mut limits = own(spec, "limits").unwrap_or_default();
    let mut requests = own(spec, "requests").unwrap_or_default();
    let huge = |name: &str| super::checks::pod::resources::is_huge_pages(name);
    for (name, q) in super::checks::pod::resources::sum(spec, "limits") {
        if huge(&name) && !requests.contains_key(&name) && !limits.contains_key(&name) {
            limits.insert(name, q.canonical().into());
        }
    }
    if !limits.is_empty() {
        for (name, q) in super::checks::pod::resources::sum(spec, "requests") {
            if ["cpu", "memory"].contains(&name.as_str()) && !requests.contains_key(&name) {
                requests.insert(name, q.canonical().into());
            }
        }
        for (name, q) in &limits {
            let supported = huge(name) || ["cpu", "memory"].contains(&name.as_str());
            if supported && !requests.contains_key(name) {
                requests.insert(name.clone(), q.clone());
            }
        }
    }
    for (field, amounts) in [("limits", limits), ("requests", requests)] {
        if !amounts.is_empty() {
            spec["resources"][field] = amounts.into();
        }
    }
}

fn handler(h: &mut Value) {
    if let Some(http) = h.get_mut("httpGet").filter(|v| v.is_object()) {
        fill(http, "path", "/");
        fill(http, "scheme", "HTTP");
    }
    if let Some(grpc) = h.get_mut("grpc").filter(|v| v.is_object()) {
        default(grpc, "service", "");
    }
}

/// `Always` for `:latest` and no tag, `IfNotPresent` otherwise.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None if image.is_empty() => "IfNotPresent",
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn volume(v: &mut Value) {
    let any = v
        .as_object()
        .is_some_and(|m| m.iter().any(|(k, v)| k != "name" && !v.is_null()));
    if !any {
        default(v, "emptyDir", json!({}));
    }
    if let Some(image) = v.get_mut("image").filter(|i| i.is_object()) {
        let policy = pull_policy(str_of(image, "reference"));
        fill(image, "pullPolicy", policy);
    }
    source(v);
    if let Some(claim) = v.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        default(claim, "volumeMode", "Filesystem");
    }
    let sources = v.get_mut("projected").filter(|p| p.is_object());
    for projected in sources.into_iter().flat_map(|p| items_mut(p, "sources")) {
        if let Some(token) = projected
            .get_mut("serviceAccountToken")
            .filter(|t| t.is_object())
        {
            default(token, "expirationSeconds", 3600);
        }
        if let Some(api) = projected.get_mut("downwardAPI") {
            for item in items_mut(api, "items") {
                reference(item);
            }
        }
    }
}

/// The types of volumes that Pods and PersistentVolumes share.
pub(crate) fn source(v: &mut Value) {
    for (field, defaults) in [
        ("configMap", json!({ "defaultMode": 0o644 })),
        ("secret", json!({ "defaultMode": 0o644 })),
        ("downwardAPI", json!({ "defaultMode": 0o644 })),
        ("projected", json!({ "defaultMode": 0o644 })),
        ("hostPath", json!({ "type": "" })),
        ("iscsi", json!({ "iscsiInterface": "default" })),
        (
            "rbd",
            json!({ "pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring" }),
        ),
        (
            "azureDisk",
            json!({ "cachingMode": "ReadWrite", "fsType": "ext4", "kind": "Shared", "readOnly": false }),
        ),
        (
            "scaleIO",
            json!({ "storageMode": "ThinProvisioned", "fsType": "xfs" }),
        ),
    ] {
        let Some(s) = v.get_mut(field).filter(|s| s.is_object()) else {
            continue;
        };
        for (key, value) in defaults.as_object().into_iter().flatten() {
            let blank = s.get(key).is_some_and(|v| v == "") && *value != "";
            if blank {
                s[key] = value.clone();
            }
            default(s, key, value.clone());
        }
        if field == "downwardAPI" {
            for item in items_mut(s, "items") {
                reference(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("localhost:5000/x", "Always"),
            ("localhost:5000/x:2", "IfNotPresent"),
            ("x@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn a_bare_container_gets_what_upstream_gives_it() {
        let mut spec = json!({ "containers": [{ "name": "c", "image": "i:1", "ports": [{ "containerPort": 80 }],
            "readinessProbe": { "httpGet": { "port": 80 } }, "resources": { "limits": { "cpu": "1" } } }],
            "volumes": [{ "name": "e" }, { "name": "c", "configMap": { "name": "x" } }] });
        pod_spec(&mut spec);
        let c = &spec["containers"][0];
        assert_eq!(c["ports"][0]["protocol"], "TCP");
        assert_eq!(
            c["readinessProbe"]["httpGet"],
            json!({ "port": 80, "path": "/", "scheme": "HTTP" })
        );
        assert_eq!(c["readinessProbe"]["failureThreshold"], 3);
        assert_eq!(c["resources"]["requests"]["cpu"], "1");
        assert_eq!(
            spec["volumes"],
            json!([{ "name": "e", "emptyDir": {} }, { "name": "c", "configMap": { "name": "x", "defaultMode": 420 } }])
        );
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    }
}
