//! NodeRestriction (`plugin/pkg/admission/noderestriction`): a node writes what is its own, and no more. What it may
//! read is the node authorizer's.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    access::{
        self,
        authenticate::{stored, stored_in},
    },
    certs::Request,
    object::meta,
    server::Inner,
    status::Failure,
};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// Labels of its own Node that a node may set (`kubelet/pkg/apis/well_known_labels.go`).
const LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const LABEL_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// 403 when a node's agent writes what isn't its node's.
pub fn admit(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    let Some(node) = a.who.info().node() else {
        return Ok(());
    };
    let refused = |why: String| Err(a.forbidden(&why));
    if node.is_empty() {
        return refused(format!(
            "could not determine node from user {:?}",
            a.who.user()
        ));
    }
    let sub = a.subresource;
    let checked = match (a.resource.group, a.resource.plural) {
        ("", "pods") => match sub {
            "" => pod(inner, node, a)?,
            "status" => pod_status(node, a),
            "eviction" => return eviction(inner, node, a),
            _ => Err(format!(
                "unexpected pod subresource {sub:?}, only 'status' and 'eviction' are allowed"
            )),
        },
        ("", "nodes") => own_node(node, a),
        ("", "persistentvolumeclaims") => match sub {
            "status" => claim_status(node, a),
            _ => Err("may only update PVC status".into()),
        },
        ("", "serviceaccounts") if sub == "token" && a.operation == Operation::Create => {
            return token(inner, node, a);
        }
        ("coordination.k8s.io", "leases") if a.namespace != LEASES => {
            Err("can only access leases in the \"kube-node-lease\" system namespace".into())
        }
        ("coordination.k8s.io", "leases") if named(a) != node => {
            Err("can only access node lease with the same name as the requesting node".into())
        }
        ("storage.k8s.io", "csinodes") if named(a) != node => {
            Err("can only access CSINode with the same name as the requesting node".into())
        }
        ("resource.k8s.io", "resourceslices") => match a.operation {
            Operation::Create if at(&a.object, "/spec/nodeName") != node => Err(
                "can only create ResourceSlice with the same NodeName as the requesting node"
                    .into(),
            ),
            Operation::Delete if old(a, "/spec/nodeName") != node => Err(
                "can only delete ResourceSlice with the same NodeName as the requesting node"
                    .into(),
            ),
            _ => Ok(()),
        },
        ("certificates.k8s.io", "certificatesigningrequests") => request(node, a),
        _ => Ok(()),
    };
    checked.or_else(refused)
}

/// The name the write is about; at a create the object's.
fn named<'a>(a: &'a Attributes<'_>) -> &'a str {
    match (&a.object, a.operation) {
        (Some(o), Operation::Create) => meta(o, "name"),
        _ => &a.name,
    }
}

fn text<'a>(o: &'a Value, pointer: &str) -> &'a str {
    o.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}
fn at<'a>(o: &'a Option<Value>, pointer: &str) -> &'a str {
    o.as_ref().map_or("", |o| text(o, pointer))
}
fn old<'a>(a: &'a Attributes<'_>, pointer: &str) -> &'a str {
    a.old.map_or("", |o| text(o, pointer))
}

type Checked = Result<(), String>;

fn pod(inner: &Inner, node: &str, a: &Attributes<'_>) -> Result<Checked, Failure> {
    Ok(match a.operation {
        Operation::Create => return mirror(inner, node, a),
        Operation::Delete if old(a, "/spec/nodeName") != node => Err(format!(
            "node {node:?} can only delete pods with spec.nodeName set to itself"
        )),
        Operation::Delete => Ok(()),
        other => Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            other.name()
        )),
    })
}

fn mirror(inner: &Inner, node: &str, a: &Attributes<'_>) -> Result<Checked, Failure> {
    let Some(pod) = &a.object else {
        return Ok(Ok(()));
    };
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Ok(Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        )));
    }
    if text(pod, "/spec/nodeName") != node {
        return Ok(Err(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        )));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let owner = match owners.map_or(&[][..], |o| o) {
        [one] => one,
        [] => {
            return Ok(Err(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            )));
        }
        _ => {
            return Ok(Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            )));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Ok(Err(format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        )));
    }
    if owner["controller"] != true {
        return Ok(Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        )));
    }
    if owner["blockOwnerDeletion"] == true {
        return Ok(Err(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        )));
    }
    let own = stored(inner, "nodes", "", node)
        .ok_or_else(|| Failure::not_found_named("", "nodes", node))?;
    let (expected, got) = (text(owner, "/uid"), meta(&own, "uid"));
    if expected != got {
        return Ok(Err(format!(
            "node {node} UID mismatch: expected {expected} got {got}"
        )));
    }
    Ok(match referenced(pod) {
        Some(what) => Err(format!(
            "node {node:?} can not create pods that reference {what}"
        )),
        None => Ok(()),
    })
}

/// The first kind of object a Pod refers to (upstream's `HasAPIObjectReference`).
fn referenced(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let list = |o: &Value, field: &str| o[field].as_array().cloned().unwrap_or_default();
    if !text(spec, "/serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    let mut in_env = (false, false);
    for group in ["initContainers", "containers", "ephemeralContainers"] {
        for c in list(spec, group) {
            for e in list(&c, "env").iter().chain(&list(&c, "envFrom")) {
                let from = e.get("valueFrom").unwrap_or(e);
                in_env.0 |= from["secretKeyRef"].is_object() || from["secretRef"].is_object();
                in_env.1 |= from["configMapKeyRef"].is_object() || from["configMapRef"].is_object();
            }
        }
    }
    let volumes = list(spec, "volumes");
    let has = |field: &str| volumes.iter().any(|v| v[field].is_object());
    if in_env.0 || !list(spec, "imagePullSecrets").is_empty() || has("secret") {
        return Some("secrets");
    }
    if in_env.1 || has("configMap") {
        return Some("configmaps");
    }
    if !list(spec, "resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    for (field, what) in [
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        (
            "ephemeral",
            "persistentvolumeclaims (via ephemeral volumes)",
        ),
        ("azureFile", "secrets (via azureFile volumes)"),
    ] {
        if has(field) {
            return Some(what);
        }
    }
    for v in &volumes {
        for s in list(&v["projected"], "sources") {
            for (field, what) in [
                ("configMap", "configmaps (via projected volumes)"),
                ("secret", "secrets (via projected volumes)"),
                (
                    "serviceAccountToken",
                    "serviceaccounts (via projected volumes)",
                ),
                ("clusterTrustBundle", "clustertrustbundles"),
                ("podCertificate", "podcertificates"),
            ] {
                if s[field].is_object() {
                    return Some(what);
                }
            }
        }
    }
    None
}

fn pod_status(node: &str, a: &Attributes<'_>) -> Checked {
    let (Operation::Update, Some(before), Some(after)) = (a.operation, a.old, &a.object) else {
        return Err(format!("unexpected operation {:?}", a.operation.name()));
    };
    if text(before, "/spec/nodeName") != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if differ(before, after, "/metadata/labels") {
        return Err(format!(
            "node {node:?} cannot update labels through pod status"
        ));
    }
    if differ(before, after, "/status/resourceClaimStatuses") {
        return Err(format!(
            "node {node:?} cannot update resource claim statues"
        ));
    }
    if differ(before, after, "/status/extendedResourceClaimStatus") {
        return Err(format!(
            "node {node:?} cannot update extended resource claim status"
        ));
    }
    Ok(())
}

/// Absent and empty are the same.
fn differ(before: &Value, after: &Value, pointer: &str) -> bool {
    let value = |o: &Value| o.pointer(pointer).cloned().unwrap_or(Value::Null);
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Object(o) => o.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    };
    let (before, after) = (value(before), value(after));
    before != after && !(empty(&before) && empty(&after))
}

fn eviction(inner: &Inner, node: &str, a: &Attributes<'_>) -> Result<(), Failure> {
    if a.operation != Operation::Create {
        let why = format!("unexpected operation {}", a.operation.name());
        return Err(a.forbidden(&why));
    }
    let pod = stored(inner, "pods", &a.namespace, &a.name)
        .ok_or_else(|| Failure::not_found_named("", "pods", &a.name))?;
    if text(&pod, "/spec/nodeName") != node {
        let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
        return Err(a.forbidden(&why));
    }
    Ok(())
}

fn claim_status(node: &str, a: &Attributes<'_>) -> Checked {
    let (Operation::Update, Some(before), Some(after)) = (a.operation, a.old, &a.object) else {
        return Err(format!("unexpected operation {:?}", a.operation.name()));
    };
    let rest = |o: &Value| {
        let mut o = o.clone();
        for (part, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            (
                "status",
                &[
                    "capacity",
                    "conditions",
                    "allocatedResourceStatuses",
                    "allocatedResources",
                ],
            ),
        ] {
            if let Some(part) = o[part].as_object_mut() {
                part.retain(|k, _| !fields.contains(&k.as_str()));
            }
        }
        o
    };
    match rest(before) == rest(after) {
        true => Ok(()),
        false => Err(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        )),
    }
}

fn own_node(node: &str, a: &Attributes<'_>) -> Checked {
    let asked = named(a);
    if asked != node {
        return Err(format!(
            "node {node:?} is not allowed to modify node {asked:?}"
        ));
    }
    let Some(after) = &a.object else {
        return Ok(());
    };
    let config = "/spec/configSource";
    match (a.operation, a.old) {
        (Operation::Create, _) => {
            if after.pointer(config).is_some_and(Value::is_object) {
                return Err(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            match forbidden_labels(after, &Value::Null).as_slice() {
                [] => Ok(()),
                labels => Err(format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    labels.join(", ")
                )),
            }
        }
        (Operation::Update, Some(before)) => {
            let set = after.pointer(config).is_some_and(Value::is_object);
            if set && differ(before, after, config) {
                return Err(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if differ(before, after, "/spec/taints") {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if differ(before, after, "/metadata/ownerReferences") {
                return Err(format!(
                    "node {node:?} is not allowed to modify ownerReferences"
                ));
            }
            match forbidden_labels(after, before).as_slice() {
                [] => Ok(()),
                labels => Err(format!(
                    "is not allowed to modify labels: {}",
                    labels.join(", ")
                )),
            }
        }
        _ => Ok(()),
    }
}

/// Labels that differ and are not a node's to set, sorted.
fn forbidden_labels(after: &Value, before: &Value) -> Vec<String> {
    let labels = |o: &Value| {
        o["metadata"]["labels"]
            .as_object()
            .cloned()
            .unwrap_or_default()
    };
    let (after, before) = (labels(after), labels(before));
    let keys = after.keys().chain(before.keys());
    let mut out: Vec<String> = keys
        .filter(|k| after.get(*k) != before.get(*k) && is_forbidden(k))
        .cloned()
        .collect();
    out.sort();
    out.dedup();
    out
}

fn is_forbidden(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let below = |of: &str| {
        namespace == of
            || namespace
                .strip_suffix(of)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    if below("node-restriction.kubernetes.io") {
        return true;
    }
    let kubernetes = below("kubernetes.io") || below("k8s.io");
    kubernetes && !LABELS.contains(&label) && !LABEL_NAMESPACES.into_iter().any(below)
}

/// A node gets tokens for the Pods it runs, of the audiences their volumes name.
fn token(inner: &Inner, node: &str, a: &Attributes<'_>) -> Result<(), Failure> {
    let bound = |field: &str| at(&a.object, &format!("/spec/boundObjectRef/{field}"));
    let refused = |why: &str| Err(a.forbidden(why));
    if bound("apiVersion") != "v1" || bound("kind") != "Pod" || bound("name").is_empty() {
        return refused("node requested token not bound to a pod");
    }
    if bound("uid").is_empty() {
        return refused("node requested token with a pod binding without a uid");
    }
    let pod = stored(inner, "pods", &a.namespace, bound("name"))
        .ok_or_else(|| Failure::not_found_named("", "pods", bound("name")))?;
    let uid = meta(&pod, "uid");
    if bound("uid") != uid {
        return refused(&format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            bound("uid")
        ));
    }
    if text(&pod, "/spec/nodeName") != node {
        return refused("node requested token bound to a pod scheduled on a different node");
    }
    let audiences = a
        .object
        .as_ref()
        .and_then(|o| o["spec"]["audiences"].as_array());
    let audience = match audiences.map_or(&[][..], |v| v) {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return refused("node may only request 0 or 1 audiences"),
    };
    if names_audience(inner, &pod, audience) {
        return Ok(());
    }
    let asked = knarr_access::Attributes::resource(
        "request-serviceaccounts-token-audience",
        "",
        audience,
        &a.namespace,
        &a.name,
    );
    if access::decide(inner, a.who.info(), &asked).allowed() {
        return Ok(());
    }
    refused(&format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        a.who.user()
    ))
}

fn names_audience(inner: &Inner, pod: &Value, audience: &str) -> bool {
    let namespace = meta(pod, "namespace");
    let list = |o: &Value, field: &str| o[field].as_array().cloned().unwrap_or_default();
    let driver_of = |claim: &str| {
        let claim = stored(inner, "persistentvolumeclaims", namespace, claim)?;
        let volume = stored(
            inner,
            "persistentvolumes",
            "",
            text(&claim, "/spec/volumeName"),
        )?;
        Some(text(&volume, "/spec/csi/driver").to_string())
    };
    list(&pod["spec"], "volumes").iter().any(|v| {
        let asks = list(&v["projected"], "sources").iter().any(|s| {
            let token = &s["serviceAccountToken"];
            token.is_object() && text(token, "/audience") == audience
        });
        let claim = match v["ephemeral"].is_object() {
            true => format!("{}-{}", meta(pod, "name"), text(v, "/name")),
            false => text(v, "/persistentVolumeClaim/claimName").to_string(),
        };
        let driver = match text(v, "/csi/driver") {
            "" if claim.is_empty() => None,
            "" => driver_of(&claim),
            driver => Some(driver.to_string()),
        };
        asks || driver.is_some_and(|d| {
            let driver = stored_in(inner, "storage.k8s.io", "csidrivers", "", &d);
            driver.is_some_and(|d| {
                let tokens = list(&d["spec"], "tokenRequests");
                tokens.iter().any(|t| text(t, "/audience") == audience)
            })
        })
    })
}

/// A node asks for certificates in its own name alone.
fn request(node: &str, a: &Attributes<'_>) -> Checked {
    let signer = at(&a.object, "/spec/signerName");
    let ours = [
        "kubernetes.io/kubelet-serving",
        "kubernetes.io/kube-apiserver-client-kubelet",
    ];
    if a.operation != Operation::Create || !ours.contains(&signer) {
        return Ok(());
    }
    let text = STANDARD
        .decode(at(&a.object, "/spec/request"))
        .map_err(|e| format!("unable to parse csr: {e}"))?;
    let request = Request::from_pem(&text).map_err(|e| format!("unable to parse csr: {e}"))?;
    match request.common_name == format!("system:node:{node}") {
        true => Ok(()),
        false => Err(format!(
            "can only create a node CSR with CN=system:node:{node}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_of_a_node() {
        let cases = [
            ("kubernetes.io/hostname", false),
            ("topology.kubernetes.io/zone", false),
            ("foo.node.kubernetes.io/x", false),
            ("kubelet.kubernetes.io/x", false),
            ("example.com/x", false),
            ("x", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/x", true),
            ("foo.node-restriction.kubernetes.io/x", true),
            ("kubernetes.io/x", true),
            ("foo.k8s.io/x", true),
            ("mykubernetes.io/x", false),
        ];
        for (label, want) in cases {
            assert_eq!(is_forbidden(label), want, "{label}");
        }
        let with = |labels: Value| json!({"metadata": {"labels": labels}});
        let before = with(json!({"kubernetes.io/a": "1", "kubernetes.io/b": "1", "x": "1"}));
        let after = with(json!({"kubernetes.io/a": "2", "x": "2"}));
        assert_eq!(
            forbidden_labels(&after, &before),
            ["kubernetes.io/a", "kubernetes.io/b"]
        );
    }

    #[test]
    fn what_a_pod_refers_to() {
        let cases = [
            (json!({}), None),
            (json!({"volumes": [{"hostPath": {}}]}), None),
            (json!({"serviceAccountName": "a"}), Some("serviceaccounts")),
            (
                json!({"containers": [{"envFrom": [{"secretRef": {}}]}]}),
                Some("secrets"),
            ),
            (
                json!({"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {}}}]}]}),
                Some("configmaps"),
            ),
            (
                json!({"volumes": [{"ephemeral": {}}]}),
                Some("persistentvolumeclaims (via ephemeral volumes)"),
            ),
            (
                json!({"volumes": [{"projected": {"sources": [{"downwardAPI": {}}, {"serviceAccountToken": {}}]}}]}),
                Some("serviceaccounts (via projected volumes)"),
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(referenced(&json!({"spec": spec})), want, "{spec}");
        }
    }
}
