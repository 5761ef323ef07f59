//! Which kernel parameters a Pod may set: those that belong to a namespace of its own and touch no other Pod, and those that the node's owner allows besides.
//!
//! Source: kubernetes `pkg/kubelet/sysctl` (safe_sysctls.go, allowlist.go), k8s.io/component-helpers `node/util/sysctl`.

use k8s_openapi::api::core::v1::Pod;

/// Why a Pod that asks for others is refused.
pub(crate) const FORBIDDEN: &str = "SysctlForbidden";

/// Safe ones, with the kernel from which each belongs to a namespace.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

fn namespace_of(name: &str) -> Option<Namespace> {
    const IPC: [&str; 10] = [
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg",
    ];
    if IPC.contains(&name) || name == "fs.mqueue" || name.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else if name == "net" || name.starts_with("net.") {
        Some(Namespace::Net)
    } else {
        None
    }
}

/// With dots between the parts, whichever of `.` and `/` came first in `name`; the other then stands for a dot inside a part.
pub(crate) fn normalized(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The part before a `*` at the end, without the dot before it.
fn stem(pattern: &str) -> (String, bool) {
    let pattern = normalized(pattern);
    match pattern.strip_suffix('*') {
        Some(stem) => (stem.trim_end_matches('.').to_owned(), true),
        None => (pattern, false),
    }
}

/// Whether a pattern of the node's owner can be allowed at all.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), String> {
    let (name, _) = stem(pattern);
    let plain = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./".contains(&b));
    if !plain {
        return Err(format!(
            "sysctl {pattern:?} must have at most 253 characters of a-z, 0-9, -, _, . and /, with a * at the end at most"
        ));
    }
    match namespace_of(&name) {
        Some(_) => Ok(()),
        None => Err(format!(
            "the sysctls {name:?} are not known to be namespaced"
        )),
    }
}

/// The version of the running kernel, as far as it matters.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Why a Pod can't be taken for the kernel parameters it asks for; None when it can.
pub(crate) fn forbidden(pod: &Pod, allowed_unsafe: &[String]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let asked = spec.security_context.as_ref()?.sysctls.as_ref()?;
    let kernel = kernel();
    let own = spec.containers.first().is_some_and(|first| {
        let extras = super::extras::of(pod, first);
        extras.is_ok_and(|extras| extras.own_sysctls)
    });
    asked.iter().find_map(|sysctl| {
        let name = normalized(&sysctl.name);
        let safe = SAFE.iter().any(|(n, since)| *n == name && kernel >= *since);
        let owner = namespace_of(&name);
        let allowed = safe
            || (own && owner.is_some())
            || allowed_unsafe.iter().any(|pattern| {
                let (stem, prefix) = stem(pattern);
                stem == name || (prefix && name.starts_with(&stem))
            });
        let why = match owner {
            _ if !allowed => format!("{name:?} not allowlisted"),
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => {
                format!("{name:?} not allowed with host IPC enabled")
            }
            Some(Namespace::Net) if spec.host_network == Some(true) => {
                format!("{name:?} not allowed with host Net enabled")
            }
            _ => return None,
        };
        Some(format!("forbidden sysctl: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn safe_allowed_and_forbidden() {
        let check = |name: &str, more: serde_json::Value, want: Option<&str>| {
            let mut spec = json!({"containers": [],
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
            spec.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            let allowed = ["kernel.msg*".to_owned(), "net.core.somaxconn".to_owned()];
            let got = forbidden(&pod, &allowed);
            assert_eq!(
                got,
                want.map(|w| format!("forbidden sysctl: {w}")),
                "{name} {more}"
            );
        };
        check("kernel.shm_rmid_forced", json!({}), None);
        check("kernel/shm_rmid_forced", json!({}), None);
        check("kernel.msgmax", json!({}), None);
        check("net.core.somaxconn", json!({}), None);
        check(
            "net.core.somaxconn2",
            json!({}),
            Some("\"net.core.somaxconn2\" not allowlisted"),
        );
        check(
            "vm.swappiness",
            json!({}),
            Some("\"vm.swappiness\" not allowlisted"),
        );
        check(
            "kernel.shm_rmid_forced",
            json!({"hostIPC": true}),
            Some("\"kernel.shm_rmid_forced\" not allowed with host IPC enabled"),
        );
        check(
            "net/ipv4/tcp_syncookies",
            json!({"hostNetwork": true}),
            Some("\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"),
        );
    }

    #[test]
    fn those_of_its_own_namespaces_where_the_pod_says_so() {
        let check = |name: &str, extras: &str, want: Option<&str>| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"annotations": {"knarr.dev/container.c": extras}},
                "spec": {"containers": [{"name": "c"}, {"name": "d"}],
                    "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}))
            .unwrap();
            let want = want.map(|w| format!("forbidden sysctl: {w}"));
            assert_eq!(forbidden(&pod, &[]), want, "{name} {extras}");
        };
        let own = r#"{"ownSysctls": true}"#;
        check("net.core.somaxconn", own, None);
        check("fs.mqueue.msg_max", own, None);
        check(
            "vm.max_map_count",
            own,
            Some("\"vm.max_map_count\" not allowlisted"),
        );
        check(
            "net.core.somaxconn",
            "{}",
            Some("\"net.core.somaxconn\" not allowlisted"),
        );
    }

    #[test]
    fn names_in_both_spellings() {
        for (name, want) in [
            ("kernel.shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("net/ipv4/conf/eno2.100/x", "net.ipv4.conf.eno2/100.x"),
            ("net.ipv4.conf.eno2/100.x", "net.ipv4.conf.eno2/100.x"),
            ("foo", "foo"),
        ] {
            assert_eq!(normalized(name), want);
        }
    }
}
