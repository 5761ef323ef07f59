//! Which AppArmor profile a container's processes are under, and which Pods can't be taken for theirs.
//!
//! Source: kubernetes `pkg/security/apparmor` (the Pod as a whole, by the kubelet), containerd
//! `internal/cri/server/container_create_linux.go` (each container, by its runtime): the same decisions and words.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};
use knarr_runtime::AppArmor;

const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Why a Pod can't be taken; None when it can.
pub(crate) fn refusal(pod: &Pod, host: &AppArmor) -> Option<String> {
    if !asks(pod) {
        return None;
    }
    if !host.enabled() {
        return Some("Cannot enforce AppArmor: AppArmor is not enabled on the host".into());
    }
    let nameless = containers(pod).find_map(|(name, own)| {
        let profile = profile(pod, name, own)?;
        let named = profile.localhost_profile.as_deref().unwrap_or_default();
        (profile.type_ == "Localhost" && named.trim().is_empty()).then(|| named.to_owned())
    })?;
    Some(format!(
        "Cannot enforce AppArmor: invalid empty AppArmor profile name: {nameless:?}"
    ))
}

/// Whether there is anything to decide: cheap, and never blocks for long.
pub(crate) fn matters(pod: &Pod, host: &AppArmor) -> bool {
    asks(pod) || host.enabled()
}

/// The profile for the runtime; None: what the container's processes do is up to the platform's own. Blocking.
///
/// # Errors
/// A `CreateContainerError`, in containerd's words.
pub(crate) fn wanted(
    pod: &Pod,
    container: &Container,
    host: &AppArmor,
) -> Result<Option<String>, String> {
    let context = container.security_context.as_ref();
    let own = context.and_then(|s| s.app_armor_profile.as_ref());
    let privileged = context.and_then(|s| s.privileged).unwrap_or(false);
    let profile = profile(pod, &container.name, own);
    let told = |text: &dyn std::fmt::Display| {
        format!("failed to get container spec opts: failed to generate apparmor spec opts: {text}")
    };
    let kind = profile.as_ref().map(|p| p.type_.as_str());
    if kind == Some("Unconfined") {
        return Ok(None);
    }
    if !host.usable() {
        return match kind {
            Some(_) => Err(told(&"apparmor is not supported")),
            None => Ok(None),
        };
    }
    match (
        kind,
        profile.as_ref().and_then(|p| p.localhost_profile.clone()),
    ) {
        (Some("Localhost"), name) => {
            let name = name.unwrap_or_default();
            if name.is_empty() {
                return Err(told(&"nil apparmor profile is not supported"));
            }
            match host.loaded(&name) {
                Ok(true) => Ok(Some(name)),
                Ok(false) => Err(told(&format!("apparmor profile not found {name}"))),
                Err(error) => Err(told(&error)),
            }
        }
        _ if privileged => Ok(None),
        (Some("RuntimeDefault") | None, _) => {
            // containerd fails later with this one, and so without the words above
            let name = host.default_profile().map_err(|e| e.to_string())?;
            Ok(Some(name.into()))
        }
        _ => Err(told(&"apparmor unknown ProfileType")),
    }
}

/// Containers of all kinds by name, each with what its own security context says.
fn containers(pod: &Pod) -> impl Iterator<Item = (&str, Option<&AppArmorProfile>)> {
    let spec = pod.spec.as_ref();
    let usual = spec.into_iter().flat_map(|s| {
        let both = s.init_containers.iter().flatten().chain(&s.containers);
        both.map(|c| (c.name.as_str(), c.security_context.as_ref()))
    });
    let late = spec.into_iter().flat_map(|s| {
        let all = s.ephemeral_containers.iter().flatten();
        all.map(|c| (c.name.as_str(), c.security_context.as_ref()))
    });
    usual
        .chain(late)
        .map(|(name, own)| (name, own.and_then(|s| s.app_armor_profile.as_ref())))
}

fn of_pod(pod: &Pod) -> Option<&AppArmorProfile> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.app_armor_profile.as_ref()
}

/// Whether any profile but Unconfined is asked for.
fn asks(pod: &Pod) -> bool {
    let confines = |p: &AppArmorProfile| p.type_ != "Unconfined";
    let mut annotations = pod.metadata.annotations.iter().flatten();
    of_pod(pod).is_some_and(confines)
        || containers(pod).any(|(_, own)| own.is_some_and(confines))
        || annotations.any(|(key, value)| key.starts_with(ANNOTATION) && value != "unconfined")
}

/// The container's own, else its annotation's (static Pods have no fields made of theirs), else the Pod's.
fn profile(pod: &Pod, name: &str, own: Option<&AppArmorProfile>) -> Option<AppArmorProfile> {
    let annotated = || {
        let annotations = pod.metadata.annotations.as_ref()?;
        let of = |type_: &str, name: Option<&str>| AppArmorProfile {
            type_: type_.into(),
            localhost_profile: name.map(Into::into),
        };
        match annotations.get(&format!("{ANNOTATION}{name}"))?.as_str() {
            "runtime/default" => Some(of("RuntimeDefault", None)),
            "unconfined" => Some(of("Unconfined", None)),
            other => Some(of("Localhost", Some(other.strip_prefix("localhost/")?))),
        }
    };
    own.cloned()
        .or_else(annotated)
        .or_else(|| of_pod(pod).cloned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use serde_json::{Value, json};

    /// A machine as the kernel would show it: without AppArmor, with it, with the tool for the default profile.
    fn machine(kernel: bool, parser: bool) -> (tempfile::TempDir, AppArmor) {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        if kernel {
            put("sys/module/apparmor/parameters/enabled", "Y\n");
            let loaded = "strict (enforce)\ncri-containerd.apparmor.d (enforce)\n";
            put("sys/kernel/security/apparmor/profiles", loaded);
        }
        if parser {
            put("sbin/apparmor_parser", "#!/bin/sh\nexit 1\n");
        }
        let host = AppArmor::below(dir.path());
        (dir, host)
    }

    fn pod(annotation: Option<&str>, of_pod: Value, own: Value) -> Pod {
        let annotations = annotation.map(|value| json!({format!("{ANNOTATION}c"): value}));
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": {
            "securityContext": of_pod,
            "containers": [{"name": "c", "securityContext": own}]}}))
        .unwrap()
    }

    fn of(type_: &str) -> Value {
        json!({"appArmorProfile": {"type": type_}})
    }
    fn localhost(name: &str) -> Value {
        json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": name}})
    }

    #[test]
    fn a_pod_is_refused_where_its_profile_can_not_be() {
        let lacks = Some("Cannot enforce AppArmor: AppArmor is not enabled on the host");
        let empty = Some("Cannot enforce AppArmor: invalid empty AppArmor profile name: \" \"");
        for (pod, without, with) in [
            (pod(None, json!({}), json!({})), None, None),
            (pod(None, of("Unconfined"), of("Unconfined")), None, None),
            (pod(Some("unconfined"), json!({}), json!({})), None, None),
            (pod(None, of("RuntimeDefault"), json!({})), lacks, None),
            (pod(None, json!({}), localhost("x")), lacks, None),
            (
                pod(Some("runtime/default"), json!({}), json!({})),
                lacks,
                None,
            ),
            (pod(None, json!({}), localhost(" ")), lacks, empty),
        ] {
            for (kernel, want) in [(false, without), (true, with)] {
                let (_dir, host) = machine(kernel, true);
                let got = refusal(&pod, &host);
                assert_eq!(got.as_deref(), want, "{kernel} {pod:?}");
            }
        }
    }

    #[test]
    fn containers_are_under_what_they_ask_for() {
        let default = Ok(Some("cri-containerd.apparmor.d"));
        let strict = Ok(Some("strict"));
        let opts = "failed to get container spec opts: failed to generate apparmor spec opts: ";
        let plain = json!({});
        for (annotation, of_pod, own, want) in [
            // what says nothing has the default one
            (None, &plain, &plain, default),
            (None, &of("RuntimeDefault"), &plain, default),
            (None, &plain, &of("Unconfined"), Ok(None)),
            (None, &of("Unconfined"), &plain, Ok(None)),
            (None, &of("Unconfined"), &of("RuntimeDefault"), default),
            (None, &plain, &localhost("strict"), strict),
            (None, &localhost("strict"), &plain, strict),
            (
                None,
                &plain,
                &localhost("none"),
                Err("apparmor profile not found none"),
            ),
            (Some("localhost/strict"), &plain, &plain, strict),
            (Some("localhost/strict"), &of("Unconfined"), &plain, strict),
            (
                Some("localhost/strict"),
                &plain,
                &of("Unconfined"),
                Ok(None),
            ),
            (None, &plain, &json!({"privileged": true}), Ok(None)),
            (
                None,
                &of("RuntimeDefault"),
                &json!({"privileged": true}),
                Ok(None),
            ),
            (
                None,
                &localhost("strict"),
                &json!({"privileged": true}),
                strict,
            ),
        ] {
            let pod = pod(annotation, of_pod.clone(), own.clone());
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let (_dir, host) = machine(true, true);
            let got = wanted(&pod, container, &host);
            let want = want
                .map(|name| name.map(String::from))
                .map_err(|text| format!("{opts}{text}"));
            assert_eq!(got, want, "{annotation:?} {of_pod} {own}");
        }
        // where it can't be: only what says nothing goes on
        for (kernel, parser) in [(false, false), (false, true), (true, false)] {
            let (_dir, host) = machine(kernel, parser);
            for (own, want) in [
                (plain.clone(), Ok(None)),
                (of("Unconfined"), Ok(None)),
                (
                    of("RuntimeDefault"),
                    Err(format!("{opts}apparmor is not supported")),
                ),
                (
                    localhost("strict"),
                    Err(format!("{opts}apparmor is not supported")),
                ),
            ] {
                let pod = pod(None, json!({}), own);
                let container = &pod.spec.as_ref().unwrap().containers[0];
                assert_eq!(wanted(&pod, container, &host), want, "{kernel} {parser}");
            }
        }
    }
}
