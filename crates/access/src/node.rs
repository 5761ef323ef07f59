//! What a node's agent may do: what the Pods bound to its node refer to, and no more (upstream
//! `plugin/pkg/auth/authorizer/node`).

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    attributes::{Attributes, Decision},
    policy,
    rbac::Kind,
    rule::{Names, Rule},
};

/// Namespace of the nodes' leases.
const LEASES: &str = "kube-node-lease";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a Pod may refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Thing {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    Account,
}

/// Namespace and name.
type Place = (Arc<str>, Arc<str>);
/// Nodes, and how many of their Pods it is.
type Counted = Vec<(Arc<str>, u32)>;

#[derive(Debug)]
struct Pod {
    node: Arc<str>,
    refers: Box<[(Thing, Arc<str>)]>,
}

#[derive(Debug)]
struct Volume {
    claim: Place,
    secrets: Vec<Place>,
}

/// Who refers to what. Fed with objects as they change.
#[derive(Debug)]
pub struct Graph {
    rules: Vec<Rule>,
    names: Names,
    changes: usize,
    pods: HashMap<Place, Pod>,
    /// the nodes whose Pods refer to a thing of a namespace, and how many do
    referred: HashMap<(Thing, Place), Counted>,
    volumes: HashMap<Arc<str>, Volume>,
    attachments: HashMap<Arc<str>, Arc<str>>,
    slices: HashMap<Arc<str>, Arc<str>>,
}

/// Changes between two sweeps of the shared strings.
const SWEEP_CHANGES: usize = 4096;

impl Default for Graph {
    fn default() -> Graph {
        let own = |d: &policy::Default| d.kind == Kind::ClusterRole && d.name == "system:node";
        let role = policy::defaults().into_iter().find(own);
        Graph {
            rules: role.map(|d| policy::rules(&d.object)).unwrap_or_default(),
            names: Names::default(),
            changes: 0,
            pods: HashMap::new(),
            referred: HashMap::new(),
            volumes: HashMap::new(),
            attachments: HashMap::new(),
            slices: HashMap::new(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodObject {
    metadata: Metadata,
    spec: Value,
    status: PodStatus,
}
#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    annotations: Option<HashMap<String, Value>>,
}
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    resource_claim_statuses: Option<Vec<ClaimStatus>>,
    extended_resource_claim_status: Option<ExtendedClaim>,
}
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClaimStatus {
    name: String,
    resource_claim_name: Option<String>,
}
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ExtendedClaim {
    resource_claim_name: String,
}
#[derive(Default, Deserialize)]
#[serde(default)]
struct Plain {
    spec: Value,
}

fn text<'a>(o: &'a Value, pointer: &str) -> &'a str {
    o.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn items<'a>(o: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    o[field].as_array().into_iter().flatten()
}

impl Graph {
    /// Takes a Pod in (its JSON), or out (None).
    pub fn pod(&mut self, namespace: &str, name: &str, json: Option<&[u8]>) {
        self.changes += 1;
        if self.changes.is_multiple_of(SWEEP_CHANGES) {
            self.names.sweep();
        }
        let place = (self.names.shared(namespace), self.names.shared(name));
        if let Some(old) = self.pods.remove(&place) {
            for (thing, name) in &old.refers {
                self.less(*thing, (place.0.clone(), name.clone()), &old.node);
            }
        }
        let pod = json.and_then(|j| serde_json::from_slice::<PodObject>(j).ok());
        let Some(pod) = pod else { return };
        let node = text(&pod.spec, "/nodeName");
        if node.is_empty() {
            return;
        }
        let node = self.names.shared(node);
        let mut refers: Vec<(Thing, Arc<str>)> = Vec::new();
        for (thing, name) in references(name, &pod) {
            let reference = (thing, self.names.shared(&name));
            if !name.is_empty() && !refers.contains(&reference) {
                refers.push(reference);
            }
        }
        for (thing, name) in &refers {
            let nodes = self
                .referred
                .entry((*thing, (place.0.clone(), name.clone())))
                .or_default();
            match nodes.iter_mut().find(|(n, _)| *n == node) {
                Some((_, count)) => *count += 1,
                None => nodes.push((node.clone(), 1)),
            }
        }
        let refers = refers.into();
        self.pods.insert(place, Pod { node, refers });
    }

    fn less(&mut self, thing: Thing, place: Place, node: &str) {
        let key = (thing, place);
        let Some(nodes) = self.referred.get_mut(&key) else {
            return;
        };
        for (_, count) in nodes.iter_mut().filter(|(n, _)| &**n == node) {
            *count -= 1;
        }
        nodes.retain(|(_, count)| *count > 0);
        if nodes.is_empty() {
            self.referred.remove(&key);
        }
    }

    /// Takes a PersistentVolume in or out.
    pub fn volume(&mut self, name: &str, json: Option<&[u8]>) {
        let name = self.names.shared(name);
        self.volumes.remove(&name);
        let Some(o) = json.and_then(|j| serde_json::from_slice::<Plain>(j).ok()) else {
            return;
        };
        let (namespace, claim) = (
            text(&o.spec, "/claimRef/namespace"),
            text(&o.spec, "/claimRef/name"),
        );
        if claim.is_empty() {
            return;
        }
        let mut secrets = Vec::new();
        for (source, key, name_key, namespace_key) in [
            ("azureFile", "", "secretName", "secretNamespace"),
            ("cephfs", "secretRef", "name", "namespace"),
            ("cinder", "secretRef", "name", "namespace"),
            ("flexVolume", "secretRef", "name", "namespace"),
            ("rbd", "secretRef", "name", "namespace"),
            ("scaleIO", "secretRef", "name", "namespace"),
            ("iscsi", "secretRef", "name", "namespace"),
            ("storageos", "secretRef", "name", "namespace"),
            ("csi", "nodePublishSecretRef", "name", "namespace"),
            ("csi", "nodeStageSecretRef", "name", "namespace"),
            ("csi", "nodeExpandSecretRef", "name", "namespace"),
        ] {
            let source = &o.spec[source];
            let reference = if key.is_empty() { source } else { &source[key] };
            let secret = reference[name_key].as_str().unwrap_or("");
            let own = reference[namespace_key].as_str().unwrap_or("");
            if !secret.is_empty() {
                let namespace = if own.is_empty() { namespace } else { own };
                secrets.push((self.names.shared(namespace), self.names.shared(secret)));
            }
        }
        let claim = (self.names.shared(namespace), self.names.shared(claim));
        self.volumes.insert(name, Volume { claim, secrets });
    }

    /// Takes a VolumeAttachment in or out.
    pub fn attachment(&mut self, name: &str, json: Option<&[u8]>) {
        let node = json
            .and_then(|j| serde_json::from_slice::<Plain>(j).ok())
            .map(|o| text(&o.spec, "/nodeName").to_string());
        let entry = (self.names.shared(name), node.map(|n| self.names.shared(&n)));
        put(&mut self.attachments, entry);
    }

    /// Takes a ResourceSlice in or out.
    pub fn slice(&mut self, name: &str, json: Option<&[u8]>) {
        let node = json
            .and_then(|j| serde_json::from_slice::<Plain>(j).ok())
            .map(|o| text(&o.spec, "/nodeName").to_string());
        let entry = (self.names.shared(name), node.map(|n| self.names.shared(&n)));
        put(&mut self.slices, entry);
    }

    fn refers(&self, node: &str, thing: Thing, namespace: &str, name: &str) -> bool {
        let place: Place = (namespace.into(), name.into());
        let direct = self
            .referred
            .get(&(thing, place.clone()))
            .is_some_and(|nodes| nodes.iter().any(|(n, _)| &**n == node));
        direct
            || (thing == Thing::Secret
                && self
                    .volumes
                    .values()
                    .any(|v| v.secrets.contains(&place) && self.claims(node, &v.claim)))
    }

    fn claims(&self, node: &str, claim: &Place) -> bool {
        self.refers(node, Thing::Claim, &claim.0, &claim.1)
    }

    /// Whether the agent of `node` may. NoOpinion says why not.
    pub fn authorize(&self, node: &str, a: &Attributes) -> Decision {
        if node.is_empty() {
            return no("unknown node for user \"system:node:\"");
        }
        if a.resource_request {
            let (verb, sub) = (a.verb.as_str(), a.subresource.as_str());
            let read = matches!(verb, "get" | "list" | "watch");
            let thing = |thing| self.refers(node, thing, &a.namespace, &a.name);
            match (a.group.as_str(), a.resource.as_str()) {
                ("", "secrets") => return readable(node, a, || thing(Thing::Secret)),
                ("", "configmaps") => return readable(node, a, || thing(Thing::ConfigMap)),
                ("", "persistentvolumeclaims") if sub == "status" => {
                    return match verb {
                        "update" | "patch" => related(node, a, || thing(Thing::Claim)),
                        _ => no("can only get/update/patch this type"),
                    };
                }
                // upstream's agents ask for a claim again and again; ours follows it, which shows no more
                ("", "persistentvolumeclaims") => {
                    return readable(node, a, || thing(Thing::Claim));
                }
                ("", "persistentvolumes") => {
                    let volume = || self.volumes.get(&*a.name);
                    return gettable(node, a, || {
                        volume().is_some_and(|v| self.claims(node, &v.claim))
                    });
                }
                ("resource.k8s.io", "resourceclaims") => {
                    return gettable(node, a, || thing(Thing::ResourceClaim));
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return gettable(node, a, || is(&self.attachments, &a.name, node));
                }
                ("", "serviceaccounts") if verb == "get" && sub.is_empty() => {
                    return readable(node, a, || thing(Thing::Account));
                }
                ("", "serviceaccounts") => {
                    return match (verb, sub) {
                        ("create", "token") if !a.name.is_empty() => {
                            related(node, a, || thing(Thing::Account))
                        }
                        ("create", _) if !a.name.is_empty() => {
                            no("can only create token subresource of serviceaccount")
                        }
                        _ => no("can only create tokens for individual service accounts"),
                    };
                }
                ("coordination.k8s.io", "leases") => return lease(node, a),
                ("storage.k8s.io", "csinodes") => return csi_node(node, a),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, a),
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => {
                    return match (sub, verb) {
                        ("", "get") => self.own_pod(node, a),
                        ("", "list" | "watch") if selects(a, "spec.nodeName", node) => yes(),
                        ("", "list" | "watch") if !a.name.is_empty() => self.own_pod(node, a),
                        ("", _) if read => {
                            no("can only list/watch pods with spec.nodeName field selector")
                        }
                        ("", "create" | "delete")
                        | ("status", "update" | "patch")
                        | ("eviction", "create") => yes(),
                        _ => no(""),
                    };
                }
                ("certificates.k8s.io", "podcertificaterequests") => return no(""),
                _ => {}
            }
        }
        match self.rules.iter().any(|r| r.allows(a)) {
            true => yes(),
            false => no(""),
        }
    }

    fn own_pod(&self, node: &str, a: &Attributes) -> Decision {
        let place: Place = (a.namespace.as_str().into(), a.name.as_str().into());
        related(node, a, || {
            self.pods.get(&place).is_some_and(|p| &*p.node == node)
        })
    }

    fn resource_slice(&self, node: &str, a: &Attributes) -> Decision {
        if !a.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match a.verb.as_str() {
            "create" => yes(),
            "get" | "update" | "patch" | "delete" => {
                related(node, a, || is(&self.slices, &a.name, node))
            }
            "watch" | "list" | "deletecollection" => match selects(a, "spec.nodeName", node) {
                true => yes(),
                false => no(
                    "can only list/watch/deletecollection resourceslices with nodeName field selector",
                ),
            },
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }
}

fn put(map: &mut HashMap<Arc<str>, Arc<str>>, (name, node): (Arc<str>, Option<Arc<str>>)) {
    match node.filter(|n| !n.is_empty()) {
        Some(node) => map.insert(name, node),
        None => map.remove(&name),
    };
}

fn is(map: &HashMap<Arc<str>, Arc<str>>, name: &str, node: &str) -> bool {
    map.get(name).is_some_and(|n| &**n == node)
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

fn no(why: &str) -> Decision {
    Decision::NoOpinion(why.to_string())
}

fn selects(a: &Attributes, field: &str, value: &str) -> bool {
    let wanted = |f: &crate::attributes::FieldRequirement| f.field == field && !f.not;
    a.fields.iter().any(|f| wanted(f) && f.value == value)
}

fn related(node: &str, a: &Attributes, ask: impl Fn() -> bool) -> Decision {
    if a.name.is_empty() {
        return no("No Object name found");
    }
    match ask() {
        true => yes(),
        false => Decision::NoOpinion(format!(
            "no relationship found between node '{node}' and this object"
        )),
    }
}

fn readable(node: &str, a: &Attributes, ask: impl Fn() -> bool) -> Decision {
    if !a.is_read_only() {
        return no("can only read resources of this type");
    }
    if !a.subresource.is_empty() {
        return no("cannot read subresource");
    }
    if a.namespace.is_empty() {
        return no("can only read namespaced object of this type");
    }
    related(node, a, ask)
}

fn gettable(node: &str, a: &Attributes, ask: impl Fn() -> bool) -> Decision {
    if a.verb != "get" {
        return no("can only get individual resources of this type");
    }
    if !a.subresource.is_empty() {
        return no("cannot get subresource");
    }
    related(node, a, ask)
}

fn lease(node: &str, a: &Attributes) -> Decision {
    if !matches!(
        a.verb.as_str(),
        "get" | "create" | "update" | "patch" | "delete"
    ) {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != LEASES {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if a.verb != "create" && a.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_node(node: &str, a: &Attributes) -> Decision {
    if !matches!(
        a.verb.as_str(),
        "get" | "create" | "update" | "patch" | "delete"
    ) {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

fn own_node(node: &str, a: &Attributes) -> Decision {
    match (a.subresource.as_str(), a.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") if a.name == node => yes(),
        ("", "get" | "list" | "watch") => Decision::NoOpinion(match a.name.as_str() {
            "" => format!("node '{node}' cannot read all nodes, only its own Node object"),
            other => format!("node '{node}' cannot read '{other}', only its own Node object"),
        }),
        _ => no(""),
    }
}

/// All that a Pod refers to in its own namespace.
fn references(name: &str, pod: &PodObject) -> Vec<(Thing, String)> {
    // a node must not get at things by Pods it makes itself
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|a| a.contains_key(MIRROR)) {
        return vec![];
    }
    let spec = &pod.spec;
    let mut out: Vec<(Thing, String)> = Vec::new();
    let mut add = |thing, name: &str| out.push((thing, name.to_string()));
    add(Thing::Account, text(spec, "/serviceAccountName"));
    for s in items(spec, "imagePullSecrets") {
        add(Thing::Secret, text(s, "/name"));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for c in items(spec, list) {
            for e in items(c, "env") {
                add(Thing::Secret, text(e, "/valueFrom/secretKeyRef/name"));
                add(Thing::ConfigMap, text(e, "/valueFrom/configMapKeyRef/name"));
            }
            for e in items(c, "envFrom") {
                add(Thing::Secret, text(e, "/secretRef/name"));
                add(Thing::ConfigMap, text(e, "/configMapRef/name"));
            }
        }
    }
    for v in items(spec, "volumes") {
        for secret in [
            "/secret/secretName",
            "/azureFile/secretName",
            "/cephfs/secretRef/name",
            "/cinder/secretRef/name",
            "/flexVolume/secretRef/name",
            "/rbd/secretRef/name",
            "/scaleIO/secretRef/name",
            "/iscsi/secretRef/name",
            "/storageos/secretRef/name",
            "/csi/nodePublishSecretRef/name",
        ] {
            add(Thing::Secret, text(v, secret));
        }
        add(Thing::ConfigMap, text(v, "/configMap/name"));
        for s in v["projected"]["sources"].as_array().into_iter().flatten() {
            add(Thing::Secret, text(s, "/secret/name"));
            add(Thing::ConfigMap, text(s, "/configMap/name"));
        }
        add(Thing::Claim, text(v, "/persistentVolumeClaim/claimName"));
        if v["ephemeral"].is_object() {
            add(Thing::Claim, &format!("{name}-{}", text(v, "/name")));
        }
    }
    let made = pod.status.resource_claim_statuses.as_ref();
    for c in items(spec, "resourceClaims") {
        add(Thing::ResourceClaim, text(c, "/resourceClaimName"));
        let status = made.and_then(|m| m.iter().find(|s| s.name == text(c, "/name")));
        if let Some(claim) = status.and_then(|s| s.resource_claim_name.as_deref()) {
            add(Thing::ResourceClaim, claim);
        }
    }
    if let Some(extended) = &pod.status.extended_resource_claim_status {
        add(Thing::ResourceClaim, &extended.resource_claim_name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::FieldRequirement;
    use serde_json::json;

    fn sample() -> Graph {
        let mut g = Graph::default();
        let pod = json!({"spec": {"nodeName": "n1", "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}, {"valueFrom": {"configMapKeyRef": {"name": "conf"}}}],
                "envFrom": [{"secretRef": {"name": "all"}}]}],
            "resourceClaims": [{"name": "a", "resourceClaimName": "direct"}, {"name": "b", "resourceClaimTemplateName": "t"}],
            "volumes": [{"name": "s", "secret": {"secretName": "vol"}}, {"name": "p", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}}, {"name": "e", "ephemeral": {}}]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "made"}]}});
        g.pod("ns", "p1", Some(pod.to_string().as_bytes()));
        let other = json!({"spec": {"nodeName": "n2", "containers": [], "volumes": [{"name": "s", "secret": {"secretName": "other"}}]}});
        g.pod("ns", "p2", Some(other.to_string().as_bytes()));
        let mirror = json!({"metadata": {"annotations": {MIRROR: "x"}}, "spec": {"nodeName": "n1", "volumes": [{"secret": {"secretName": "stolen"}}]}});
        g.pod("ns", "m", Some(mirror.to_string().as_bytes()));
        let unbound = json!({"spec": {"volumes": [{"secret": {"secretName": "unbound"}}]}});
        g.pod("ns", "u", Some(unbound.to_string().as_bytes()));
        let pv = json!({"spec": {"claimRef": {"namespace": "ns", "name": "claim"}, "csi": {"nodeStageSecretRef": {"name": "stage", "namespace": "sys"}, "controllerPublishSecretRef": {"name": "control", "namespace": "sys"}}}});
        g.volume("pv", Some(pv.to_string().as_bytes()));
        let va = json!({"spec": {"nodeName": "n1"}});
        g.attachment("va", Some(va.to_string().as_bytes()));
        g.slice("slice", Some(va.to_string().as_bytes()));
        g
    }

    #[test]
    fn nodes_reach_what_their_pods_refer_to() {
        let g = sample();
        let get = |resource: &str, name: &str| {
            let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
            let cluster = matches!(
                resource,
                "persistentvolumes" | "volumeattachments" | "resourceslices" | "nodes"
            );
            let namespace = if cluster { "" } else { "ns" };
            Attributes::resource("get", group, resource, namespace, name)
        };
        let verb = |verb: &str, a: Attributes| Attributes {
            verb: verb.into(),
            ..a
        };
        let on = |node: &str, a: Attributes| Attributes {
            fields: vec![FieldRequirement {
                field: "spec.nodeName".into(),
                not: false,
                value: node.into(),
            }],
            ..a
        };
        let at = |namespace: &str, a: Attributes| Attributes {
            namespace: namespace.into(),
            ..a
        };
        let none = "no relationship found between node 'n1' and this object";
        let cases: Vec<(&str, Attributes, Result<(), &str>)> = vec![
            ("secret of a volume", get("secrets", "vol"), Ok(())),
            ("watched", verb("watch", get("secrets", "vol")), Ok(())),
            ("secret of a variable", get("secrets", "key"), Ok(())),
            ("secret of all variables", get("secrets", "all"), Ok(())),
            ("secret to pull", get("secrets", "pull"), Ok(())),
            (
                "secret of the volume's driver",
                at("sys", get("secrets", "stage")),
                Ok(()),
            ),
            (
                "secret of the driver's controller",
                at("sys", get("secrets", "control")),
                Err(none),
            ),
            ("secret on another node", get("secrets", "other"), Err(none)),
            (
                "secret of a mirror Pod",
                get("secrets", "stolen"),
                Err(none),
            ),
            (
                "secret of an unbound Pod",
                get("secrets", "unbound"),
                Err(none),
            ),
            (
                "secret of another namespace",
                at("x", get("secrets", "vol")),
                Err(none),
            ),
            (
                "secret written",
                verb("update", get("secrets", "vol")),
                Err("can only read resources of this type"),
            ),
            (
                "all secrets",
                verb("list", get("secrets", "")),
                Err("No Object name found"),
            ),
            ("configmap", get("configmaps", "conf"), Ok(())),
            (
                "projected configmap",
                get("configmaps", "kube-root-ca.crt"),
                Ok(()),
            ),
            ("claim", get("persistentvolumeclaims", "claim"), Ok(())),
            (
                "ephemeral claim",
                get("persistentvolumeclaims", "p1-e"),
                Ok(()),
            ),
            (
                "claim's status",
                verb(
                    "patch",
                    get("persistentvolumeclaims", "claim").part("status"),
                ),
                Ok(()),
            ),
            (
                "claim followed",
                verb("watch", get("persistentvolumeclaims", "claim")),
                Ok(()),
            ),
            (
                "volume followed",
                verb("watch", get("persistentvolumes", "pv")),
                Err("can only get individual resources of this type"),
            ),
            ("volume", get("persistentvolumes", "pv"), Ok(())),
            (
                "resource claim",
                get("resourceclaims.resource.k8s.io", "direct"),
                Ok(()),
            ),
            (
                "resource claim made of a template",
                get("resourceclaims.resource.k8s.io", "made"),
                Ok(()),
            ),
            (
                "attachment",
                get("volumeattachments.storage.k8s.io", "va"),
                Ok(()),
            ),
            (
                "token",
                verb("create", get("serviceaccounts", "sa").part("token")),
                Ok(()),
            ),
            ("account", get("serviceaccounts", "sa"), Ok(())),
            (
                "another's token",
                verb("create", get("serviceaccounts", "x").part("token")),
                Err(none),
            ),
            (
                "slice",
                get("resourceslices.resource.k8s.io", "slice"),
                Ok(()),
            ),
            (
                "own lease",
                at(LEASES, get("leases.coordination.k8s.io", "n1")),
                Ok(()),
            ),
            (
                "other lease",
                at(LEASES, get("leases.coordination.k8s.io", "n2")),
                Err("can only access node lease with the same name as the requesting node"),
            ),
            (
                "lease elsewhere",
                get("leases.coordination.k8s.io", "n1"),
                Err("can only access leases in the \"kube-node-lease\" system namespace"),
            ),
            ("itself", get("nodes", "n1"), Ok(())),
            (
                "another node",
                get("nodes", "n2"),
                Err("node 'n1' cannot read 'n2', only its own Node object"),
            ),
            (
                "all nodes",
                verb("list", get("nodes", "")),
                Err("node 'n1' cannot read all nodes, only its own Node object"),
            ),
            ("own pod", get("pods", "p1"), Ok(())),
            ("another's pod", get("pods", "p2"), Err(none)),
            ("own pods", on("n1", verb("list", get("pods", ""))), Ok(())),
            (
                "another's pods",
                on("n2", verb("list", get("pods", ""))),
                Err("can only list/watch pods with spec.nodeName field selector"),
            ),
            (
                "pod's status",
                verb("patch", get("pods", "p2").part("status")),
                Ok(()),
            ),
            ("pod's log", get("pods", "p1").part("log"), Err("")),
            (
                "services",
                verb("watch", at("", get("services", ""))),
                Ok(()),
            ),
            ("events", verb("create", get("events", "")), Ok(())),
            ("deployments", get("deployments.apps", "d"), Err("")),
        ];
        for (name, a, want) in cases {
            let got = g.authorize("n1", &a);
            match want {
                Ok(()) => assert!(got.allowed(), "{name}: {got:?}"),
                Err(why) => assert_eq!(got, no(why), "{name}"),
            }
        }
    }

    #[test]
    fn what_goes_is_forgotten() {
        let mut g = sample();
        let key = Attributes::resource("get", "", "secrets", "ns", "key");
        let stage = Attributes::resource("get", "", "secrets", "sys", "stage");
        let again = json!({"spec": {"nodeName": "n1", "containers": [{"envFrom": [{"secretRef": {"name": "key"}}]}]}});
        g.pod("ns", "p3", Some(again.to_string().as_bytes()));
        g.pod("ns", "p1", None);
        assert!(
            g.authorize("n1", &key).allowed(),
            "another Pod still needs it"
        );
        assert!(!g.authorize("n1", &stage).allowed());
        g.pod("ns", "p3", None);
        assert!(!g.authorize("n1", &key).allowed());
        g.pod("ns", "p2", None);
        g.pod("ns", "m", None);
        assert!(g.pods.is_empty() && g.referred.is_empty());
    }
}
