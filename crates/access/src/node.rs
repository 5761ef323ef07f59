//! What a node's agent may do: what the Pods bound to its node refer to, and no more (upstream
//! `plugin/pkg/auth/authorizer/node`).

mod authorize;

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use crate::{
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
mod tests;
