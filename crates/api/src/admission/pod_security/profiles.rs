//! The checks of AppArmor, SELinux and seccomp.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Fault, Subject, containers_named, plural, quoted, setters};
use crate::admission::json::text;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// RuntimeDefault or Localhost, by field and by the old annotation.
pub fn app_armor(s: &Subject<'_>) -> Option<Fault> {
    let bad_kind = |o: &Value| {
        let profile = o.pointer("/securityContext/appArmorProfile")?;
        let kind = text(profile, "/type");
        (!matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_string())
    };
    let mut values = BTreeSet::new();
    values.extend(bad_kind(s.spec));
    let mut bad = Vec::new();
    for c in s.containers() {
        if let Some(kind) = bad_kind(c) {
            values.insert(kind);
            bad.push(text(c, "/name"));
        }
    }
    let mut setters = setters(bad_kind(s.spec).is_some(), &bad);
    let mut annotations: Vec<String> = annotations(s)
        .filter(|(k, v)| {
            k.starts_with(APP_ARMOR)
                && !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/"))
        })
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    annotations.sort();
    let mut values: Vec<String> = values.into_iter().collect();
    if !annotations.is_empty() {
        setters.push(plural("annotation", "annotations", annotations.len()).to_string());
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    Some(Fault {
        reason: plural(
            "forbidden AppArmor profile",
            "forbidden AppArmor profiles",
            values.len(),
        ),
        detail: format!(
            "{} must not set AppArmor profile type to {}",
            setters.join(" and "),
            quoted(&values)
        ),
    })
}

fn annotations<'a>(s: &Subject<'a>) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let all = s.metadata.get("annotations").and_then(Value::as_object);
    all.into_iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("")))
}

/// Container types only, and neither user nor role; `engine`: container_engine_t is one of them.
pub fn selinux(s: &Subject<'_>, engine: bool) -> Option<Fault> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut check = |o: &Value| {
        let Some(options) = o.pointer("/securityContext/seLinuxOptions") else {
            return false;
        };
        let kind = text(options, "/type");
        let fine = matches!(
            kind,
            "" | "container_t" | "container_init_t" | "container_kvm_t"
        ) || (engine && kind == "container_engine_t");
        if !fine {
            types.insert(kind.to_string());
        }
        let (sets_user, sets_role) = (
            !text(options, "/user").is_empty(),
            !text(options, "/role").is_empty(),
        );
        user |= sets_user;
        role |= sets_role;
        !fine || sets_user || sets_role
    };
    let pod = check(s.spec);
    let mut bad = Vec::new();
    for c in s.containers() {
        if check(c) {
            bad.push(text(c, "/name"));
        }
    }
    let setters = setters(pod, &bad);
    if setters.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!(
            "{} {}",
            plural("type", "types", types.len()),
            quoted(&types)
        ));
    }
    if user {
        data.push("user may not be set".into());
    }
    if role {
        data.push("role may not be set".into());
    }
    Some(Fault {
        reason: "seLinuxOptions",
        detail: format!(
            "{} set forbidden securityContext.seLinuxOptions: {}",
            setters.join(" and "),
            data.join("; ")
        ),
    })
}

/// Before v1.19: annotations.
pub fn seccomp_annotations(s: &Subject<'_>) -> Option<Fault> {
    let fine =
        |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let names: Vec<String> = s
        .containers()
        .map(|c| format!("{SECCOMP_CONTAINER}{}", text(c, "/name")))
        .collect();
    let bad: BTreeSet<String> = annotations(s)
        .filter(|(k, v)| (*k == SECCOMP_POD || names.iter().any(|n| n == k)) && !fine(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    Some(Fault {
        reason: "seccompProfile",
        detail: format!(
            "forbidden {} {}",
            plural("annotation", "annotations", bad.len()),
            bad.into_iter().collect::<Vec<_>>().join(", ")
        ),
    })
}

/// The profile's type, None when there is no profile.
fn seccomp(o: &Value) -> Option<&str> {
    Some(text(o.pointer("/securityContext/seccompProfile")?, "/type"))
}

fn fine(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

/// From v1.19: nobody asks for another profile.
pub fn seccomp_baseline(s: &Subject<'_>) -> Option<Fault> {
    let bad_kind = |o: &Value| seccomp(o).filter(|k| !fine(k)).map(String::from);
    let mut values = BTreeSet::new();
    values.extend(bad_kind(s.spec));
    let mut bad = Vec::new();
    for c in s.containers() {
        if let Some(kind) = bad_kind(c) {
            values.insert(kind);
            bad.push(text(c, "/name"));
        }
    }
    let setters = setters(bad_kind(s.spec).is_some(), &bad);
    if setters.is_empty() {
        return None;
    }
    Some(Fault {
        reason: "seccompProfile",
        detail: format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters.join(" and "),
            quoted(&values)
        ),
    })
}

/// Everybody has one of the two, too.
pub fn seccomp_restricted(s: &Subject<'_>) -> Option<Fault> {
    if let Some(fault) = seccomp_baseline(s) {
        return Some(fault);
    }
    if seccomp(s.spec).is_some_and(fine) {
        return None;
    }
    let silent: Vec<&str> = s
        .containers()
        .filter(|c| seccomp(c).is_none())
        .map(|c| text(c, "/name"))
        .collect();
    if silent.is_empty() {
        return None;
    }
    Some(Fault {
        reason: "seccompProfile",
        detail: format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers_named(&silent)
        ),
    })
}
