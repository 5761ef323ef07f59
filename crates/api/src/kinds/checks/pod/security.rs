//! What containers may do, and as whom.

use crate::kinds::{
    checks::{
        path::{Errors, Go, Path},
        rules, windows,
    },
    json::{list, str_of, yes},
};
use serde_json::Value;
use std::collections::HashSet;

const SORTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const ID: &str = "must be between 0 and 2147483647, inclusive";

const PROFILE: Go = Go::Struct(&[
    ("type", "Type", Go::Text),
    ("localhostProfile", "LocalhostProfile", Go::Plain),
]);
/// SecurityContext
const CONTEXT: Go = Go::Struct(&[
    (
        "capabilities",
        "Capabilities",
        Go::Struct(&[("add", "Add", Go::Plain), ("drop", "Drop", Go::Plain)]),
    ),
    ("privileged", "Privileged", Go::Plain),
    (
        "seLinuxOptions",
        "SELinuxOptions",
        Go::Struct(&[
            ("user", "User", Go::Text),
            ("role", "Role", Go::Text),
            ("type", "Type", Go::Text),
            ("level", "Level", Go::Text),
        ]),
    ),
    ("windowsOptions", "WindowsOptions", Go::Plain),
    ("runAsUser", "RunAsUser", Go::Plain),
    ("runAsGroup", "RunAsGroup", Go::Plain),
    ("runAsNonRoot", "RunAsNonRoot", Go::Plain),
    (
        "readOnlyRootFilesystem",
        "ReadOnlyRootFilesystem",
        Go::Plain,
    ),
    (
        "allowPrivilegeEscalation",
        "AllowPrivilegeEscalation",
        Go::Plain,
    ),
    ("procMount", "ProcMount", Go::Plain),
    ("seccompProfile", "SeccompProfile", PROFILE),
    ("appArmorProfile", "AppArmorProfile", PROFILE),
]);

/// A user's or group's number.
fn id(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(n) = value.as_i64().filter(|n| !(0..=2_147_483_647).contains(n)) {
        errors.invalid(at, n, ID);
    }
}

/// All containers of a Pod with their places, as upstream visits them.
fn visit(spec: &Value, at: &Path<'_>, f: &mut dyn FnMut(&Value, &Path<'_>)) {
    for field in SORTS {
        let at = at.child(field);
        for (i, c) in list(spec, field).iter().enumerate() {
            f(c, &at.index(i));
        }
    }
}

/// The Pod's security context.
pub(super) fn of_pod(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let sc = &spec["securityContext"];
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&sc[field], &at.child(field), errors);
    }
    let place = at.child("supplementalGroups");
    for (i, group) in list(sc, "supplementalGroups").iter().enumerate() {
        id(group, &place.index(i), errors);
    }
    if yes(spec, "shareProcessNamespace") && yes(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&at.child("shareProcessNamespace"), true, detail);
    }
    sysctls(spec, list(sc, "sysctls"), &at.child("sysctls"), errors);
    errors.supported(
        &at.child("fsGroupChangePolicy"),
        &sc["fsGroupChangePolicy"],
        &["Always", "OnRootMismatch"],
    );
    seccomp(&sc["seccompProfile"], &at.child("seccompProfile"), errors);
    windows::options(&sc["windowsOptions"], &at.child("windowsOptions"), errors);
    app_armor(&sc["appArmorProfile"], &at.child("appArmorProfile"), errors);
    errors.supported(
        &at.child("supplementalGroupsPolicy"),
        &sc["supplementalGroupsPolicy"],
        &["Merge", "Strict"],
    );
    errors.supported(
        &at.child("seLinuxChangePolicy"),
        &sc["seLinuxChangePolicy"],
        &["Recursive"],
    );
}

/// `net.ipv4.tcp_syncookies`, with dots or slashes between.
fn is_sysctl(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        s.bytes().next().is_some_and(edge)
            && s.bytes().next_back().is_some_and(edge)
            && s.bytes().all(|b| edge(b) || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(spec: &Value, all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    const SHAPE: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut seen = HashSet::new();
    for (i, s) in all.iter().enumerate() {
        let place = at.index(i);
        let place = place.child("name");
        let name = str_of(s, "name");
        if name.is_empty() {
            errors.required(&place, "");
        } else if !is_sysctl(name) {
            errors.invalid(&place, name, SHAPE);
        } else if seen.contains(name) {
            errors.duplicate(&place, name);
        }
        let dotted = name.replace('/', ".");
        if yes(spec, "hostNetwork") && dotted.starts_with("net.") {
            let detail = "may not be specified when 'hostNetwork' is true";
            errors.invalid(&place, name, detail);
        } else if yes(spec, "hostIPC")
            && (dotted.starts_with("kernel.msg")
                || dotted.starts_with("kernel.shm")
                || dotted == "kernel.sem"
                || dotted.starts_with("fs.mqueue."))
        {
            let detail = "may not be specified when 'hostIPC' is true";
            errors.invalid(&place, name, detail);
        }
        seen.insert(name);
    }
}

fn seccomp(p: &Value, at: &Path<'_>, errors: &mut Errors) {
    if !p.is_object() {
        return;
    }
    let kinds = ["Localhost", "RuntimeDefault", "Unconfined"];
    let kind = str_of(p, "type");
    let place = at.child("type");
    if kind.is_empty() {
        errors.required(&place, "type is required when seccompProfile is set");
    } else if !kinds.contains(&kind) {
        errors.not_supported(&place, kind, &kinds);
    }
    let place = at.child("localhostProfile");
    match (kind, p["localhostProfile"].as_str()) {
        ("Localhost", None) => {
            errors.required(&place, "must be set when seccomp type is Localhost");
        }
        ("Localhost", Some(path)) => rules::descending_path(path, &place, errors),
        (_, Some(_)) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.invalid_go(&place, p, &PROFILE, detail);
        }
        _ => {}
    }
}

fn app_armor(p: &Value, at: &Path<'_>, errors: &mut Errors) {
    const PROFILE_BYTES_MAX: usize = 4095;
    if !p.is_object() {
        return;
    }
    let profile = p["localhostProfile"].as_str();
    let place = at.child("localhostProfile");
    match str_of(p, "type") {
        "Localhost" => {
            let missing = "must be set when AppArmor type is Localhost";
            let Some(profile) = profile else {
                errors.required(&place, missing);
                return;
            };
            if profile.trim() != profile {
                errors.invalid(&place, profile, "must not be padded with whitespace");
            } else if profile.is_empty() {
                errors.required(&place, missing);
            }
            if profile.len() > PROFILE_BYTES_MAX {
                errors.too_long(&place, PROFILE_BYTES_MAX);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(profile) = profile {
                let detail = "can only be set when AppArmor type is Localhost";
                errors.invalid(&place, profile, detail);
            }
        }
        "" => errors.required(
            &at.child("type"),
            "type is required when appArmorProfile is set",
        ),
        other => errors.not_supported(
            &at.child("type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
}

/// A container's security context.
pub(super) fn of_container(sc: &Value, host_users: bool, at: &Path<'_>, errors: &mut Errors) {
    if !sc.is_object() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(&sc[field], &at.child(field), errors);
    }
    let place = at.child("procMount");
    errors.supported(&place, &sc["procMount"], &["Default", "Unmasked"]);
    if host_users && sc["procMount"] == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.invalid(&place, "Unmasked", detail);
    }
    seccomp(&sc["seccompProfile"], &at.child("seccompProfile"), errors);
    if sc["allowPrivilegeEscalation"] == false {
        if yes(sc, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid_go(at, sc, &CONTEXT, detail);
        }
        for _ in list(&sc["capabilities"], "add")
            .iter()
            .filter(|c| *c == "CAP_SYS_ADMIN")
        {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid_go(at, sc, &CONTEXT, detail);
        }
    }
    windows::options(&sc["windowsOptions"], &at.child("windowsOptions"), errors);
    app_armor(&sc["appArmorProfile"], &at.child("appArmorProfile"), errors);
}

/// Windows' containers that are processes of the host are so all together.
pub(super) fn host_process(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let of = |o: &Value| o["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let pod = of(spec);
    let (mut all, mut processes) = (0, 0);
    visit(spec, at, &mut |c, at| {
        all += 1;
        let own = of(c);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            errors.invalid(
                &at.child("securityContext.windowsOptions.hostProcess"),
                own,
                format!("pod hostProcess value must be identical if both are specified, was {pod}"),
            );
        }
        if own.or(pod) == Some(true) {
            processes += 1;
        }
    });
    if processes == 0 {
        return;
    }
    if processes != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(at, "", detail);
    }
    if !yes(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&at.child("hostNetwork"), false, detail);
    }
}

/// Users of its own go with none of the host's other namespaces.
pub(super) fn host_users(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    if spec["hostUsers"] != false {
        return;
    }
    const DETAIL: &str = "when `hostUsers` is false";
    for (field, place) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if yes(spec, field) {
            errors.forbidden(&at.child(place), DETAIL);
        }
    }
    visit(spec, at, &mut |c, at| {
        if !list(c, "volumeDevices").is_empty() {
            errors.forbidden(&at.child("volumeDevices"), DETAIL);
        }
    });
}

/// What a Pod for one operating system may not ask of it.
pub(super) fn operating_system(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let os = &spec["os"];
    if !os.is_object() {
        return;
    }
    match str_of(os, "name") {
        "" => errors.required(&at.child("os.name"), ""),
        "linux" => {
            const DETAIL: &str = "windows options cannot be set for a linux pod";
            let own = |o: &Value| o["securityContext"]["windowsOptions"].is_object();
            if own(spec) {
                errors.forbidden(&at.child("securityContext.windowsOptions"), DETAIL);
            }
            visit(spec, at, &mut |c, at| {
                if own(c) {
                    errors.forbidden(&at.child("securityContext.windowsOptions"), DETAIL);
                }
            });
        }
        "windows" => linux_only(spec, at, errors),
        other => errors.not_supported(&at.child("os"), other, &["linux", "windows"]),
    }
}

fn linux_only(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "cannot be set for a windows pod";
    let sc = &spec["securityContext"];
    let context = at.child("securityContext");
    for (within, field) in [
        (true, "appArmorProfile"),
        (true, "seLinuxOptions"),
        (false, "hostUsers"),
        (false, "hostPID"),
        (false, "hostIPC"),
        (true, "seccompProfile"),
        (true, "fsGroup"),
        (true, "fsGroupChangePolicy"),
        (true, "sysctls"),
        (false, "shareProcessNamespace"),
        (true, "runAsUser"),
        (true, "runAsGroup"),
        (true, "supplementalGroups"),
        (true, "supplementalGroupsPolicy"),
        (true, "seLinuxChangePolicy"),
    ] {
        let (value, at) = if within {
            (&sc[field], &context)
        } else {
            (&spec[field], at)
        };
        let set = match field {
            "hostPID" | "hostIPC" => *value == true,
            "sysctls" => value.as_array().is_some_and(|l| !l.is_empty()),
            _ => !value.is_null(),
        };
        if set {
            errors.forbidden(&at.child(field), DETAIL);
        }
    }
    visit(spec, at, &mut |c, at| {
        let at = at.child("securityContext");
        for field in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ] {
            if !c["securityContext"][field].is_null() {
                errors.forbidden(&at.child(field), DETAIL);
            }
        }
    });
}
