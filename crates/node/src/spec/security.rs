//! Security contexts to capabilities, seccomp and privilege flags.
//!
//! Source: kubernetes `pkg/securitycontext`, `pkg/kubelet/kuberuntime/security_context.go`.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use knarr_runtime::{CAPABILITIES, Seccomp};

/// Docker's and containerd's default set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What the runtime is told.
#[derive(Debug, PartialEq)]
pub(crate) struct Confinement {
    pub privileged: bool,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub read_only_rootfs: bool,
    pub masked_paths: Option<Vec<PathBuf>>,
    pub readonly_paths: Option<Vec<PathBuf>>,
}

/// Works it out; an error is a `CreateContainerConfigError`.
pub(crate) fn confinement(
    pod: &Pod,
    container: &Container,
    seccomp_dir: &Path,
    seccomp_default: bool,
) -> Result<Confinement, String> {
    let own = container.security_context.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let privileged = own.and_then(|s| s.privileged).unwrap_or(false);
    let profile = own
        .and_then(|s| s.seccomp_profile.as_ref())
        .or_else(|| of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    let unmasked = own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked");
    let open = (privileged || unmasked).then(Vec::new);
    let escalation = own.and_then(|s| s.allow_privilege_escalation);
    Ok(Confinement {
        privileged,
        capabilities: capabilities(container, privileged),
        no_new_privileges: escalation == Some(false),
        seccomp: match profile {
            None if privileged || !seccomp_default => Seccomp::Unconfined,
            _ => seccomp(profile, seccomp_dir)?,
        },
        read_only_rootfs: own
            .and_then(|s| s.read_only_root_filesystem)
            .unwrap_or(false),
        masked_paths: open.clone(),
        readonly_paths: open,
    })
}

fn seccomp(profile: Option<&SeccompProfile>, dir: &Path) -> Result<Seccomp, String> {
    let Some(profile) = profile else {
        return Ok(Seccomp::RuntimeDefault);
    };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Unconfined" => Ok(Seccomp::Unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            let plain = !name.is_empty()
                && Path::new(name)
                    .components()
                    .all(|c| matches!(c, Component::Normal(_)));
            if !plain {
                return Err(format!(
                    "localhostProfile {name:?} must be a relative path without '..'"
                ));
            }
            let path = dir.join(name);
            if !path.is_file() {
                return Err(format!(
                    "cannot load seccomp profile {:?}: put the profile there",
                    path.display()
                ));
            }
            Ok(Seccomp::Profile(path))
        }
        other => Err(format!("unknown seccomp profile type {other:?}")),
    }
}

fn capabilities(container: &Container, privileged: bool) -> Vec<String> {
    if privileged {
        return CAPABILITIES.iter().map(|c| c.to_string()).collect();
    }
    let asked = container
        .security_context
        .as_ref()
        .and_then(|s| s.capabilities.as_ref());
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let add = list(asked.and_then(|c| c.add.as_ref()));
    let drop = list(asked.and_then(|c| c.drop.as_ref()));
    changed_capabilities(&add, &drop)
}

fn full_names(list: &[String]) -> Vec<String> {
    let upper = list.iter().map(|c| c.to_uppercase());
    upper
        .map(|c| {
            if c.starts_with("CAP_") || c == "ALL" {
                c
            } else {
                format!("CAP_{c}")
            }
        })
        .collect()
}

/// The default set with these added and those dropped.
fn changed_capabilities(add: &[String], drop: &[String]) -> Vec<String> {
    let (add, drop) = (full_names(add), full_names(drop));
    let is_all = |c: &String| c == "ALL" || c == "CAP_ALL";
    let mut set: BTreeSet<String> = if add.iter().any(is_all) {
        CAPABILITIES.iter().map(|c| c.to_string()).collect()
    } else if drop.iter().any(is_all) {
        BTreeSet::new()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|c| c.to_string()).collect()
    };
    set.extend(add.into_iter().filter(|c| !is_all(c)));
    for name in &drop {
        set.remove(name);
    }
    set.into_iter().collect()
}

/// The capabilities of a container that is no Pod's: the default set with these added and those dropped.
///
/// # Errors
/// With the name of one that there is not.
pub fn of_names(add: &[String], drop: &[String]) -> Result<Vec<String>, String> {
    let known = |c: &&String| *c == "ALL" || *c == "CAP_ALL" || CAPABILITIES.contains(&c.as_str());
    for names in [full_names(add), full_names(drop)] {
        if let Some(unknown) = names.iter().find(|c| !known(c)) {
            return Err(format!("unknown capability: \"{unknown}\""));
        }
    }
    Ok(changed_capabilities(add, drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(
        pod_context: serde_json::Value,
        context: serde_json::Value,
    ) -> Result<Confinement, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "securityContext": pod_context,
            "containers": [{"name": "c", "securityContext": context}]}}))
        .unwrap();
        confinement(
            &pod,
            &pod.spec.as_ref().unwrap().containers[0],
            Path::new("/nowhere"),
            true,
        )
    }

    #[test]
    fn safe_by_default() {
        let got = of(json!({}), json!({})).unwrap();
        assert_eq!(got.capabilities.len(), 14);
        assert!(!got.no_new_privileges && !got.privileged && !got.read_only_rootfs);
        assert_eq!(got.seccomp, Seccomp::RuntimeDefault);
        assert_eq!(got.masked_paths, None);
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let check = |capabilities: serde_json::Value, want: &[&str]| {
            let got = of(json!({}), json!({"capabilities": capabilities.clone()})).unwrap();
            assert_eq!(got.capabilities, want, "{capabilities}");
        };
        check(json!({"drop": ["ALL"]}), &[]);
        check(
            json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CAP_SYS_TIME"]}),
            &["CAP_NET_BIND_SERVICE", "CAP_SYS_TIME"],
        );
        let got = of(
            json!({}),
            json!({"capabilities": {"drop": ["net_raw", "KILL"]}}),
        )
        .unwrap();
        assert_eq!(got.capabilities.len(), 12);
        assert!(!got.capabilities.contains(&"CAP_KILL".to_string()));
        let got = of(
            json!({}),
            json!({"capabilities": {"add": ["ALL"], "drop": ["SYS_ADMIN"]}}),
        );
        assert_eq!(got.unwrap().capabilities.len(), 40);
    }

    #[test]
    fn privileges() {
        let got = of(json!({}), json!({"privileged": true})).unwrap();
        assert_eq!(got.capabilities.len(), 41);
        assert!(!got.no_new_privileges);
        assert_eq!(got.seccomp, Seccomp::Unconfined);
        for (allowed, want) in [
            (json!(null), false),
            (json!(true), false),
            (json!(false), true),
        ] {
            let context = json!({"allowPrivilegeEscalation": allowed});
            assert_eq!(of(json!({}), context).unwrap().no_new_privileges, want);
        }
        let unconfined = json!({"seccompProfile": {"type": "Unconfined"}});
        assert_eq!(
            of(unconfined.clone(), json!({})).unwrap().seccomp,
            Seccomp::Unconfined
        );
        let own = json!({"seccompProfile": {"type": "RuntimeDefault"}});
        assert_eq!(
            of(unconfined, own).unwrap().seccomp,
            Seccomp::RuntimeDefault
        );
        let escape = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}});
        assert!(of(json!({}), escape).is_err());
    }
}
