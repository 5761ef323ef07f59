//! PodSecurity (`k8s.io/pod-security-admission`): Pods against the level that their namespace's labels ask for.

mod checks;
mod policy;
mod profiles;

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::{
    Attributes, Operation,
    json::{items, text},
    list, stored,
};
use crate::{namespaces::is_namespace, object::meta, server::Inner, status::Failure};
use checks::{Fault, Subject};
use policy::{Level, LevelVersion, Policy};

/// Pods looked at when a namespace's level rises.
const PODS_MAX: usize = 3000;
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
/// Subresources that can't change what a Pod may do.
const HARMLESS: [&str; 8] = [
    "exec",
    "attach",
    "binding",
    "eviction",
    "log",
    "portforward",
    "proxy",
    "status",
];

/// Refuses, warns and notes.
pub fn validate(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    if !matches!(a.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if is_namespace(a.resource) {
        return namespace(inner, a);
    }
    let (pod, template) = match (a.resource.group, a.resource.plural) {
        ("", "pods") => (true, ""),
        ("", "podtemplates") => (false, "/template"),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => (false, "/spec/template"),
        ("batch", "cronjobs") => (false, "/spec/jobTemplate/spec/template"),
        _ => return Ok(()),
    };
    let harmless = if pod {
        HARMLESS.contains(&a.subresource)
    } else {
        !a.subresource.is_empty()
    };
    if harmless {
        return Ok(());
    }
    let Some(ns) = stored(inner, "", "namespaces", "", &a.namespace) else {
        return Ok(());
    };
    let (policy, errors) = Policy::of(ns.pointer("/metadata/labels"));
    if policy.is_privileged() && errors.is_empty() {
        if pod {
            a.annotate(ENFORCED, &policy.enforce.to_string());
        }
        return Ok(());
    }
    let Some(object) = &a.object else {
        return Ok(());
    };
    if pod
        && let Some(old) = a.old
        && !significant(object, old)
    {
        return Ok(());
    }
    let Some(subject) = object.pointer(template).filter(|t| t.is_object()) else {
        return Ok(());
    };
    let subject = Subject {
        metadata: &subject["metadata"],
        spec: &subject["spec"],
    };
    let mut notes = Vec::new();
    if let Some(first) = errors.first() {
        notes.push(("error", format!("Failed to parse policy: {first}")));
    }
    let mut refusal = None;
    if pod {
        a.annotate(ENFORCED, &policy.enforce.to_string());
        refusal = violation(policy.enforce, &subject)
            .map(|detail| format!("violates PodSecurity \"{}\": {detail}", policy.enforce));
    }
    let would = |l: LevelVersion| {
        violation(l, &subject).map(|d| format!("would violate PodSecurity \"{l}\": {d}"))
    };
    if let Some(text) = would(policy.audit) {
        notes.push(("audit-violations", text));
    }
    let warning = if refusal.is_none() {
        would(policy.warn)
    } else {
        None
    };
    for (key, value) in notes {
        a.annotate(&format!("pod-security.kubernetes.io/{key}"), &value);
    }
    a.warnings.extend(warning);
    match refusal {
        // upstream's library asks for the request's name, which a generated one isn't
        Some(why) => Err(Failure::forbidden(a.resource, &a.shown_name(), &why)),
        None => Ok(()),
    }
}

fn joined(faults: &[Fault], detailed: bool) -> Option<String> {
    if faults.is_empty() {
        return None;
    }
    let one = |f: &Fault| {
        if detailed && !f.detail.is_empty() {
            format!("{} ({})", f.reason, f.detail)
        } else {
            f.reason.to_string()
        }
    };
    Some(faults.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn violation(level: LevelVersion, subject: &Subject<'_>) -> Option<String> {
    joined(&checks::evaluate(level.level, level.version, subject), true)
}

/// Could the update change the verdict? Only images may change, and ephemeral containers be added.
fn significant(new: &Value, old: &Value) -> bool {
    for group in ["/spec/containers", "/spec/initContainers"] {
        let (new, old) = (items(new, group), items(old, group));
        if new.len() != old.len() || new.iter().zip(old).any(|(n, o)| n["image"] != o["image"]) {
            return true;
        }
    }
    let before = items(old, "/spec/ephemeralContainers");
    items(new, "/spec/ephemeralContainers").iter().any(|n| {
        let same = before.iter().find(|o| o["name"] == n["name"]);
        same.is_none_or(|o| o["image"] != n["image"])
    })
}

/// A namespace's own labels: they must be readable, and those who will be outside of a stricter level are warned of.
fn namespace(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    if !a.subresource.is_empty() {
        return Ok(());
    }
    let Some(object) = &a.object else {
        return Ok(());
    };
    let (policy, errors) = Policy::of(object.pointer("/metadata/labels"));
    let invalid = || Failure::invalid("", "Namespace", meta(object, "name"), &errors);
    let Some(old) = a.old else {
        return if errors.is_empty() {
            Ok(())
        } else {
            Err(invalid())
        };
    };
    let (before, old_errors) = Policy::of(old.pointer("/metadata/labels"));
    if !errors.is_empty() && errors != old_errors {
        return Err(invalid());
    }
    let (new, old) = (policy.enforce, before.enforce);
    let relaxed = new.version == old.version && new.level <= old.level;
    if new == old || new.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let name = meta(object, "name").to_string();
    let warnings = existing(inner, &name, new);
    a.warnings.extend(warnings);
    Ok(())
}

/// What is to be said of the Pods that are there already.
fn existing(inner: &Inner, namespace: &str, level: LevelVersion) -> Vec<String> {
    let pods = prioritized(list(inner, "", "pods", namespace));
    let mut by_fault: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods.iter().take(PODS_MAX) {
        let subject = Subject {
            metadata: &pod["metadata"],
            spec: &pod["spec"],
        };
        let faults = checks::evaluate(level.level, level.version, &subject);
        let Some(reason) = joined(&faults, false) else {
            continue;
        };
        let name = meta(pod, "name");
        let entry = by_fault.entry(reason).or_insert((name.to_string(), 0));
        if name < entry.0.as_str() {
            entry.0 = name.to_string();
        }
        entry.1 += 1;
    }
    let mut warnings = Vec::new();
    if pods.len() > PODS_MAX {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods",
            pods.len()
        ));
    }
    if !by_fault.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{level}\""
        ));
    }
    let mut each: Vec<String> = by_fault
        .into_iter()
        .map(|(reason, (name, count))| match count {
            1 => format!("{name}: {reason}"),
            2 => format!("{name} (and 1 other pod): {reason}"),
            n => format!("{name} (and {} other pods): {reason}", n - 1),
        })
        .collect();
    each.sort();
    warnings.extend(each);
    warnings
}

/// One Pod of each controller first.
fn prioritized(pods: Vec<Value>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for pod in pods {
        let owner = items(&pod, "/metadata/ownerReferences")
            .iter()
            .find(|o| o["controller"] == true)
            .map(|o| text(o, "/uid").to_string());
        match owner {
            Some(uid) if !seen.insert(uid.clone()) => rest.push(pod),
            _ => first.push(pod),
        }
    }
    first.extend(rest);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Version;
    use serde_json::json;

    fn told(level: Level, minor: Option<u32>, metadata: Value, spec: Value) -> String {
        let subject = Subject {
            metadata: &metadata,
            spec: &spec,
        };
        let level = LevelVersion {
            level,
            version: Version(minor),
        };
        violation(level, &subject).unwrap_or_default()
    }

    #[test]
    fn violations_are_told_in_upstreams_words() {
        let plain = json!({"containers": [{"name": "a"}]});
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}}}], "volumes": [{"name": "v", "emptyDir": {}}]});
        let host = json!({"hostNetwork": true, "hostPID": true, "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 8080}],
                "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_TIME", "NET_RAW"]}}},
                {"name": "b", "securityContext": {"procMount": "Unmasked"}}]});
        let none = json!({});
        for (name, level, minor, metadata, spec, want) in [
            ("privileged", Level::Privileged, None, &none, &host, ""),
            (
                "plain is baseline",
                Level::Baseline,
                None,
                &none,
                &plain,
                "",
            ),
            ("restricted", Level::Restricted, None, &none, &good, ""),
            (
                "plain",
                Level::Restricted,
                None,
                &none,
                &plain,
                "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ),
            (
                "old rules",
                Level::Restricted,
                Some(7),
                &none,
                &plain,
                "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)",
            ),
            (
                "host",
                Level::Baseline,
                None,
                &none,
                &host,
                "non-default capabilities (container \"a\" must not include \"NET_RAW\", \"SYS_TIME\" in securityContext.capabilities.add), host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"h\"), hostPort (container \"a\" uses hostPorts 80, 8080), privileged (container \"a\" must not set securityContext.privileged=true), procMount (container \"b\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                "volumes",
                Level::Restricted,
                Some(1),
                &none,
                &json!({"securityContext": {"runAsNonRoot": true}, "volumes": [{"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}]}),
                "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
            ),
            (
                "sysctls",
                Level::Baseline,
                Some(28),
                &none,
                &json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_fin_timeout"}, {"name": "kernel.shm_rmid_forced"}]}}),
                "forbidden sysctls (net.ipv4.tcp_fin_timeout)",
            ),
            (
                "selinux",
                Level::Baseline,
                None,
                &none,
                &json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}, "containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"role": "r", "type": "container_engine_t"}}}]}),
                "seLinuxOptions (pod and container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set; role may not be set)",
            ),
            (
                "app armor",
                Level::Baseline,
                None,
                &json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}}),
                &json!({"containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}),
                "forbidden AppArmor profiles (container \"a\" and annotation must not set AppArmor profile type to \"Unconfined\", \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")",
            ),
            (
                "seccomp",
                Level::Baseline,
                None,
                &none,
                &json!({"containers": [{"name": "a", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]}),
                "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                "probes",
                Level::Baseline,
                None,
                &none,
                &json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "x"}}}]}),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"x\")",
            ),
            (
                "user namespace",
                Level::Restricted,
                Some(35),
                &none,
                &json!({"hostUsers": false, "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 0}, "containers": []}),
                "",
            ),
            (
                "windows",
                Level::Restricted,
                None,
                &none,
                &json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]}),
                "",
            ),
        ] {
            assert_eq!(
                told(level, minor, metadata.clone(), spec.clone()),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn labels_make_a_policy() {
        for (name, labels, want, errors) in [
            (
                "none",
                json!({}),
                "privileged:latest privileged:latest privileged:latest",
                "",
            ),
            (
                "enforce sets warn",
                json!({"enforce": "baseline", "enforce-version": "v1.20"}),
                "baseline:v1.20 privileged:latest baseline:v1.20",
                "",
            ),
            (
                "own warn",
                json!({"enforce": "baseline", "warn": "privileged"}),
                "baseline:latest privileged:latest privileged:latest",
                "",
            ),
            (
                "bad level",
                json!({"enforce": "x"}),
                "restricted:latest privileged:latest privileged:latest",
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
            ),
            (
                "bad version",
                json!({"audit": "restricted", "audit-version": "v1.07"}),
                "privileged:latest restricted:latest privileged:latest",
                "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"v1.07\": must be \"latest\" or \"v1.x\"",
            ),
        ] {
            let mut full = json!({});
            for (k, v) in labels.as_object().unwrap() {
                full[format!("pod-security.kubernetes.io/{k}")] = v.clone();
            }
            let (p, found) = Policy::of(Some(&full));
            assert_eq!(
                format!("{} {} {}", p.enforce, p.audit, p.warn),
                want,
                "{name}"
            );
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(", "), errors, "{name}");
        }
    }
}
