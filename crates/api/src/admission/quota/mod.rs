//! ResourceQuota (`apiserver/pkg/admission/plugin/resourcequota`): what an object costs is charged to the namespace's
//! quotas in the very commit that stores it, so that nothing is charged for a write that failed.

mod usage;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use knarr_schema::managed;
use knarr_store::{Expect, Op};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    Admitted, Attributes, Operation,
    json::items,
    resources::{Amounts, add, amounts},
};
use crate::{
    catalog, decode,
    namespaces::is_namespace,
    object::{self, meta},
    registry::Handle,
    server::Inner,
    status::Failure,
};
use usage::Counted;

const MANAGER: &str = "kube-apiserver";
const LOCKS: usize = 16;

/// Namespaces whose quotas are being charged: one request at a time each, until its commit.
pub struct Locks([Arc<Mutex<()>>; LOCKS]);
impl Default for Locks {
    fn default() -> Locks {
        Locks(std::array::from_fn(|_| Arc::default()))
    }
}
impl Locks {
    async fn lock(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let mut h = DefaultHasher::new();
        namespace.hash(&mut h);
        let i = usize::try_from(h.finish() % LOCKS as u64).unwrap_or(0);
        self.0[i].clone().lock_owned().await
    }
}

/// Charges the request, or refuses it.
pub async fn validate(
    inner: &Inner,
    a: &Attributes<'_>,
    admitted: &mut Admitted,
) -> Result<(), Failure> {
    if a.namespace.is_empty() || is_namespace(a.resource) {
        return Ok(());
    }
    if !matches!(a.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let Some(r) = inner.catalog().preferred("", "resourcequotas") else {
        return Ok(());
    };
    let prefix = catalog::prefix(&r, &a.namespace);
    if inner.store.snapshot().range(&prefix, None).next().is_none() {
        return Ok(());
    }
    let Some(counted) = Counted::of(a.resource.group, a.resource.plural) else {
        return Ok(());
    };
    if !counted.handles(a) {
        return Ok(());
    }
    let guard = inner.quota_locks.lock(&a.namespace).await;
    let snapshot = inner.store.snapshot();
    for entry in snapshot.range(&prefix, None) {
        let quota = object::parse(&entry.value)?;
        let Some(used) = charge(&counted, a, &quota)? else {
            continue;
        };
        if !a.dry_run {
            admitted.ops.push(Op::Put {
                key: entry.key.clone(),
                value: object::encode(&charged(&r, &quota, &used)).spliced(),
                expect: Expect::Revision(entry.mod_revision),
            });
        }
    }
    if !admitted.ops.is_empty() {
        admitted.guard = Some(guard);
    }
    Ok(())
}

fn scopes(quota: &Value) -> Vec<Value> {
    let plain = items(quota, "/spec/scopes").iter();
    plain
        .map(|s| json!({"scopeName": s, "operator": "Exists"}))
        .chain(
            items(quota, "/spec/scopeSelector/matchExpressions")
                .iter()
                .cloned(),
        )
        .collect()
}

fn show(amounts: &Amounts, names: &[&String]) -> String {
    names
        .iter()
        .filter_map(|n| Some(format!("{n}={}", amounts.get(*n)?.canonical())))
        .collect::<Vec<_>>()
        .join(",")
}

/// What will be used of this quota; None when the request doesn't change it.
fn charge(
    counted: &Counted,
    a: &Attributes<'_>,
    quota: &Value,
) -> Result<Option<Amounts>, Failure> {
    let Some(o) = &a.object else {
        return Ok(None);
    };
    let name = meta(quota, "name");
    let hard = amounts(&quota["status"]["hard"]);
    let used = amounts(&quota["status"]["used"]);
    let concerned: Vec<&str> = hard
        .keys()
        .map(String::as_str)
        .filter(|n| counted.matches(n))
        .collect();
    let scopes = scopes(quota);
    let matches = |o: &Value| scopes.iter().all(|s| counted.in_scope(s, o));
    if concerned.is_empty() || !matches(o) {
        return Ok(None);
    }
    if let Some(why) = counted.missing(&concerned, o) {
        return Err(a.forbidden(&format!("failed quota: {name}: {why}")));
    }
    if concerned.iter().any(|n| !used.contains_key(*n)) {
        return Err(a.forbidden(&format!(
            "status unknown for quota: {name}, resources: {}",
            concerned.join(",")
        )));
    }
    let cost = counted.usage(o);
    let negative: Vec<&str> = cost
        .iter()
        .filter(|(_, v)| v.sign() < 0)
        .map(|(k, _)| k.as_str())
        .collect();
    if !negative.is_empty() {
        return Err(a.forbidden(&format!(
            "quota usage is negative for resource(s): {}",
            negative.join(",")
        )));
    }
    let mut delta = cost;
    if let Some(old) = a.old.filter(|o| matches(o)) {
        for (k, before) in counted.usage(old) {
            if let Some(v) = delta.get_mut(&k) {
                v.sub(&before);
            }
        }
    }
    delta.retain(|k, v| v.sign() > 0 && hard.contains_key(k));
    if delta.is_empty() {
        return Ok(None);
    }
    let mut new = used.clone();
    add(&mut new, &delta);
    let exceeded: Vec<&String> = delta
        .keys()
        .filter(|k| new.get(*k) > hard.get(*k))
        .collect();
    if !exceeded.is_empty() && a.subresource != "status" {
        return Err(a.forbidden(&format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            show(&delta, &exceeded),
            show(&used, &exceeded),
            show(&hard, &exceeded)
        )));
    }
    Ok(Some(new))
}

/// The quota with its new status.
fn charged(r: &Handle, quota: &Value, used: &Amounts) -> Value {
    let mut new = quota.clone();
    for (k, v) in used {
        new["status"]["used"][k] = v.canonical().into();
    }
    if let Some(ty) = decode::type_of(r) {
        let manager = managed::Manager {
            name: MANAGER,
            subresource: "status",
            api_version: "v1",
            time: &object::now(),
        };
        managed::update(ty, Some(quota), &mut new, &manager);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_upstreams() {
        let check = |name: &str, plural: &str, o: Value, want: &str| {
            let counted = Counted::of("", plural).unwrap();
            let usage = counted.usage(&o);
            let names: Vec<&String> = usage.keys().collect();
            assert_eq!(show(&usage, &names), want, "{name}");
        };
        check(
            "pod",
            "pods",
            json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "100m", "example.com/x": "2"}, "limits": {"cpu": "1"}}}, {"name": "b", "resources": {"requests": {"cpu": "200m"}}}],
                "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}}),
            "count/pods=1,cpu=1,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=1,requests.example.com/x=2,requests.memory=1Gi",
        );
        check(
            "ended",
            "pods",
            json!({"spec": {"containers": []}, "status": {"phase": "Failed"}}),
            "count/pods=1",
        );
        check(
            "load balancer",
            "services",
            json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}}),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2",
        );
        check(
            "claim",
            "persistentvolumeclaims",
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1.5Gi"}}}}),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=1536Mi,persistentvolumeclaims=1,requests.storage=1536Mi",
        );
        check("secret", "secrets", json!({}), "count/secrets=1,secrets=1");
    }

    #[test]
    fn containers_must_say_what_is_counted() {
        let o = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}, {"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1"}}}]}});
        assert_eq!(
            Counted::Pods
                .missing(&["pods", "requests.cpu", "limits.memory"], &o)
                .unwrap(),
            "must specify limits.memory for: a,b; requests.cpu for: a,b"
        );
        assert_eq!(
            Counted::Pods.missing(&["pods", "ephemeral-storage"], &o),
            None
        );
    }

    #[test]
    fn scopes_select_pods() {
        let pod = |spec: Value| json!({"spec": spec});
        let scope = |name: &str, op: &str, values: Value| json!({"scopeName": name, "operator": op, "values": values});
        for (name, s, o, want) in [
            (
                "terminating",
                scope("Terminating", "Exists", json!([])),
                pod(json!({"activeDeadlineSeconds": 5})),
                true,
            ),
            (
                "not terminating",
                scope("NotTerminating", "Exists", json!([])),
                pod(json!({"activeDeadlineSeconds": 5})),
                false,
            ),
            (
                "best effort",
                scope("BestEffort", "Exists", json!([])),
                pod(json!({"containers": [{"name": "a"}]})),
                true,
            ),
            (
                "burstable",
                scope("BestEffort", "Exists", json!([])),
                pod(json!({"containers": [{"resources": {"limits": {"cpu": "1"}}}]})),
                false,
            ),
            (
                "class",
                scope("PriorityClass", "In", json!(["gold"])),
                pod(json!({"priorityClassName": "gold"})),
                true,
            ),
            (
                "no class",
                scope("PriorityClass", "NotIn", json!(["gold"])),
                pod(json!({})),
                true,
            ),
            (
                "absent",
                scope("PriorityClass", "DoesNotExist", json!([])),
                pod(json!({})),
                true,
            ),
            (
                "cross",
                scope("CrossNamespacePodAffinity", "Exists", json!([])),
                pod(
                    json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["x"]}]}}}),
                ),
                true,
            ),
        ] {
            assert_eq!(Counted::Pods.in_scope(&s, &o), want, "{name}");
        }
    }
}
