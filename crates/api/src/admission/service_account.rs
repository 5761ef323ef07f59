//! ServiceAccount (`plugin/pkg/admission/serviceaccount`): every Pod runs as an account of its namespace, and its
//! containers find a token of it at the usual place.

use serde_json::{Value, json};

use super::{
    Attributes, Operation,
    json::{items, items_mut, list_mut, parse_bool, text},
    stored,
};
use crate::{bootstrap, object, server::Inner, status::Failure};

const DEFAULT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
/// Longer than an hour, so that it is told from a token that a user asked to live for one
/// (`serviceaccount.WarnOnlyBoundTokenExpirationSeconds`).
const TOKEN_SECONDS: i64 = 60 * 60 + 7;
const GROUPS: [(&str, &str); 2] = [
    ("initContainers", "init container"),
    ("containers", "container"),
];

fn concerns(a: &Attributes<'_>) -> bool {
    a.resource.group.is_empty()
        && a.resource.plural == "pods"
        && matches!(a.subresource, "" | "ephemeralcontainers")
        && matches!(a.operation, Operation::Create | Operation::Update)
        && a.object.is_some()
}

/// Names the account, mounts its token, lends its pull secrets.
pub async fn admit(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    if !concerns(a) || a.operation != Operation::Create {
        return Ok(());
    }
    let mirror = a.object.as_ref().is_some_and(|o| {
        o.pointer("/metadata/annotations")
            .is_some_and(|x| x.get(MIRROR).is_some())
    });
    if !mirror {
        let Some(pod) = a.object.as_mut() else {
            return Ok(());
        };
        let spec = &mut pod["spec"];
        if text(spec, "/serviceAccountName").is_empty() {
            spec["serviceAccountName"] = DEFAULT.into();
        }
        let name = text(spec, "/serviceAccountName").to_string();
        spec["serviceAccount"] = name.as_str().into();
        let account = account(inner, a, &name).await?;
        let served = inner
            .catalog()
            .preferred("", "serviceaccounts")
            .is_some_and(|r| r.subresources.contains(&"token"));
        let Some(pod) = a.object.as_mut() else {
            return Ok(());
        };
        let spec = &mut pod["spec"];
        let automount = spec["automountServiceAccountToken"]
            .as_bool()
            .or_else(|| account.get("automountServiceAccountToken")?.as_bool())
            .unwrap_or(true);
        if automount && served {
            mount(spec);
        }
        let secrets = items(&account, "/imagePullSecrets");
        if items(spec, "/imagePullSecrets").is_empty() && !secrets.is_empty() {
            let names = secrets.iter().map(|s| json!({"name": s["name"]}));
            spec["imagePullSecrets"] = names.collect();
        }
    }
    validate(inner, a).await
}

/// The account exists, and lets the Pod have the Secrets it refers to.
pub async fn validate(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    let Some(pod) = a.object.as_ref().filter(|_| concerns(a)) else {
        return Ok(());
    };
    let ephemeral = a.subresource == "ephemeralcontainers" && a.operation == Operation::Update;
    if !ephemeral && a.operation != Operation::Create {
        return Ok(());
    }
    let spec = &pod["spec"];
    let name = text(spec, "/serviceAccountName");
    let annotations = pod.pointer("/metadata/annotations");
    if !ephemeral && annotations.is_some_and(|x| x.get(MIRROR).is_some()) {
        return match mirror_fault(spec) {
            Some(why) => Err(a.forbidden(why)),
            None => Ok(()),
        };
    }
    if name.is_empty() {
        return Err(a.forbidden(&format!(
            "no service account specified for pod {}/{}",
            a.namespace,
            object::meta(pod, "name")
        )));
    }
    let account = account(inner, a, name).await?;
    let enforced = account
        .pointer("/metadata/annotations")
        .is_some_and(|x| parse_bool(x[ENFORCE_MOUNTABLE].as_str().unwrap_or("")));
    if !enforced {
        return Ok(());
    }
    let fault = if ephemeral {
        container_fault(&account, spec, "ephemeralContainers", "ephemeral container")
    } else {
        secret_fault(&account, spec)
    };
    fault.map_or(Ok(()), |why| Err(a.forbidden(&why)))
}

/// The account of the Pod. The one that every namespace has is made on the spot when its controller has not come to it.
async fn account(inner: &Inner, a: &Attributes<'_>, name: &str) -> Result<Value, Failure> {
    let find = || stored(inner, "", "serviceaccounts", &a.namespace, name);
    if let Some(found) = find() {
        return Ok(found);
    }
    let missing = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": a.namespace}});
    if name == DEFAULT {
        let Some(r) = inner.catalog().preferred("", "serviceaccounts") else {
            return Ok(missing);
        };
        if a.dry_run {
            return Ok(missing);
        }
        // boxed: it is a create, which passes admission itself
        let made = Box::pin(bootstrap::ensure(inner, &r, &a.namespace, missing)).await;
        if let (Ok(()), Some(found)) = (made, find()) {
            return Ok(found);
        }
    }
    Err(a.forbidden(&format!(
        "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
        a.namespace
    )))
}

fn mount(spec: &mut Value) {
    let present = items(spec, "/volumes")
        .iter()
        .map(|v| text(v, "/name"))
        .find(|n| n.starts_with(VOLUME_PREFIX))
        .map(String::from);
    let exists = present.is_some();
    let volume = present.unwrap_or_else(|| crate::names::generate(VOLUME_PREFIX));
    let mut needed = false;
    for (group, _) in GROUPS {
        for container in items_mut(spec, group) {
            let mounted = items(container, "/volumeMounts")
                .iter()
                .any(|m| m["mountPath"] == MOUNT_PATH);
            if !mounted {
                list_mut(container, "volumeMounts")
                    .push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                needed = true;
            }
        }
    }
    if needed && !exists {
        list_mut(spec, "volumes").push(json!({"name": volume, "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
            "defaultMode": 0o644,
        }}));
    }
}

fn mirror_fault(spec: &Value) -> Option<&'static str> {
    if !text(spec, "/serviceAccountName").is_empty() {
        return Some("a mirror pod may not reference service accounts");
    }
    let all = ["initContainers", "containers", "ephemeralContainers"];
    let by_env = all.iter().any(|group| {
        items(spec, &format!("/{group}")).iter().any(|c| {
            let env = items(c, "/env").iter();
            env.clone()
                .any(|e| e.pointer("/valueFrom/secretKeyRef").is_some())
                || items(c, "/envFrom")
                    .iter()
                    .any(|e| e.get("secretRef").is_some())
        })
    });
    let by_volume = items(spec, "/volumes").iter().any(|v| {
        v.get("secret").is_some()
            || items(v, "/projected/sources")
                .iter()
                .any(|s| s.get("secret").is_some())
    });
    if by_env || by_volume || !items(spec, "/imagePullSecrets").is_empty() {
        return Some("a mirror pod may not reference secrets");
    }
    let token = |v: &Value| {
        let sources = items(v, "/projected/sources").iter();
        sources
            .clone()
            .any(|s| s.get("serviceAccountToken").is_some())
    };
    items(spec, "/volumes")
        .iter()
        .any(token)
        .then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

fn names(account: &Value, list: &str) -> Vec<String> {
    items(account, list)
        .iter()
        .map(|s| text(s, "/name").to_string())
        .collect()
}

fn secret_fault(account: &Value, spec: &Value) -> Option<String> {
    let who = object::meta(account, "name");
    let mountable = names(account, "/secrets");
    for v in items(spec, "/volumes")
        .iter()
        .filter(|v| v.get("secret").is_some())
    {
        let secret = text(v, "/secret/secretName");
        if !mountable.iter().any(|m| m == secret) {
            return Some(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {who} does not reference that secret"
            ));
        }
    }
    for (group, label) in GROUPS {
        if let Some(fault) = container_fault(account, spec, group, label) {
            return Some(fault);
        }
    }
    let pull = names(account, "/imagePullSecrets");
    for (i, s) in items(spec, "/imagePullSecrets").iter().enumerate() {
        let name = text(s, "/name");
        if !pull.iter().any(|p| p == name) {
            return Some(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {who} does not reference that imagePullSecret"
            ));
        }
    }
    None
}

fn container_fault(account: &Value, spec: &Value, group: &str, label: &str) -> Option<String> {
    let who = object::meta(account, "name");
    let mountable = names(account, "/secrets");
    let allowed = |secret: &str| mountable.iter().any(|m| m == secret);
    for c in items(spec, &format!("/{group}")) {
        let container = text(c, "/name");
        for e in items(c, "/env") {
            let Some(r) = e.pointer("/valueFrom/secretKeyRef") else {
                continue;
            };
            let secret = text(r, "/name");
            if !allowed(secret) {
                return Some(format!(
                    "{label} {container} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because service account {who} does not reference that secret",
                    text(e, "/name")
                ));
            }
        }
        for e in items(c, "/envFrom") {
            let Some(r) = e.get("secretRef") else {
                continue;
            };
            let secret = text(r, "/name");
            if !allowed(secret) {
                return Some(format!(
                    "{label} {container} with envFrom referencing secret.secretName=\"{secret}\" is not allowed because service account {who} does not reference that secret"
                ));
            }
        }
    }
    None
}
