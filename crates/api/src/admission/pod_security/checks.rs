//! The Pod Security Standards' checks (`k8s.io/pod-security-admission/policy`), each with the version it counts from.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, Version};
use crate::admission::json::{items, text};

/// What is wrong, and where.
pub struct Fault {
    /// E.g. `privileged`.
    pub reason: &'static str,
    /// E.g. `container "a" must not set securityContext.privileged=true`.
    pub detail: String,
}

/// A Pod or a template of one.
pub struct Subject<'a> {
    /// Its metadata.
    pub metadata: &'a Value,
    /// Its spec.
    pub spec: &'a Value,
}

type Run = fn(&Subject<'_>) -> Option<Fault>;

struct Check {
    level: Level,
    /// Baseline checks that this one makes needless.
    overrides: &'static str,
    /// The name overridden checks are called by.
    id: &'static str,
    /// From which minor version on it runs how; in rising order.
    versions: &'static [(u32, Run)],
}

const fn baseline(id: &'static str, versions: &'static [(u32, Run)]) -> Check {
    Check {
        level: Level::Baseline,
        overrides: "",
        id,
        versions,
    }
}
const fn restricted(
    id: &'static str,
    overrides: &'static str,
    versions: &'static [(u32, Run)],
) -> Check {
    Check {
        level: Level::Restricted,
        overrides,
        id,
        versions,
    }
}

/// In the order in which faults are told: baseline first, each level by id.
const CHECKS: [Check; 19] = [
    baseline("appArmorProfile", &[(0, super::profiles::app_armor)]),
    baseline("capabilities_baseline", &[(0, capabilities_baseline)]),
    baseline("hostNamespaces", &[(0, host_namespaces)]),
    baseline("hostPathVolumes", &[(0, host_path_volumes)]),
    baseline("hostPorts", &[(0, host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, host_probes)]),
    baseline("privileged", &[(0, privileged)]),
    baseline(
        "procMount",
        &[(0, proc_mount), (35, |s| host_users(s, proc_mount))],
    ),
    baseline(
        "seLinuxOptions",
        &[
            (0, |s| super::profiles::selinux(s, false)),
            (31, |s| super::profiles::selinux(s, true)),
        ],
    ),
    baseline(
        "seccompProfile_baseline",
        &[
            (0, super::profiles::seccomp_annotations),
            (19, super::profiles::seccomp_baseline),
        ],
    ),
    baseline(
        "sysctls",
        &[
            (0, |s| sysctls(s, 0)),
            (27, |s| sysctls(s, 1)),
            (29, |s| sysctls(s, 2)),
            (32, |s| sysctls(s, 3)),
        ],
    ),
    baseline("windowsHostProcess", &[(0, host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        "",
        &[(8, escalation), (25, |s| linux(s, escalation))],
    ),
    restricted(
        "capabilities_restricted",
        "capabilities_baseline",
        &[
            (22, capabilities_restricted),
            (25, |s| linux(s, capabilities_restricted)),
        ],
    ),
    restricted("procMount_restricted", "procMount", &[(35, proc_mount)]),
    restricted("restrictedVolumes", "hostPathVolumes", &[(0, volumes)]),
    restricted(
        "runAsNonRoot",
        "",
        &[(0, non_root), (35, |s| host_users(s, non_root))],
    ),
    restricted(
        "runAsUser",
        "",
        &[(23, user), (35, |s| host_users(s, user))],
    ),
    restricted(
        "seccompProfile_restricted",
        "seccompProfile_baseline",
        &[
            (19, super::profiles::seccomp_restricted),
            (25, |s| linux(s, super::profiles::seccomp_restricted)),
        ],
    ),
];

/// All that a Pod does against a level, in upstream's order.
pub fn evaluate(level: Level, version: Version, subject: &Subject<'_>) -> Vec<Fault> {
    if level == Level::Privileged {
        return vec![];
    }
    let minor = version.0.unwrap_or(u32::MAX);
    let current = |c: &Check| {
        let at = c.versions.iter().rev().find(|(from, _)| *from <= minor);
        at.map(|(_, run)| *run)
    };
    let overridden: Vec<&str> = CHECKS
        .iter()
        .filter(|c| level == Level::Restricted && c.level == level && current(c).is_some())
        .map(|c| c.overrides)
        .collect();
    CHECKS
        .iter()
        .filter(|c| c.level == Level::Baseline || level == Level::Restricted)
        .filter(|c| !overridden.contains(&c.id))
        .filter_map(|c| current(c)?(subject))
        .collect()
}

/// `"a", "b"`
pub fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let all: Vec<String> = names
        .into_iter()
        .map(|n| format!("\"{}\"", n.as_ref()))
        .collect();
    all.join(", ")
}

/// One or many.
pub fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
pub fn containers_named(names: &[&str]) -> String {
    format!(
        "{} {}",
        plural("container", "containers", names.len()),
        quoted(names)
    )
}

impl<'a> Subject<'a> {
    /// Init, regular and ephemeral containers, in this order.
    pub fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["/initContainers", "/containers", "/ephemeralContainers"]
            .into_iter()
            .flat_map(move |group| items(spec, group))
    }
    fn bad(&self, test: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|c| test(c))
            .map(|c| text(c, "/name"))
            .collect()
    }
}

fn linux(s: &Subject<'_>, run: Run) -> Option<Fault> {
    if text(s.spec, "/os/name") == "windows" {
        return None;
    }
    run(s)
}

fn own_users(s: &Subject<'_>) -> bool {
    s.spec["hostUsers"] == false
}

fn host_users(s: &Subject<'_>, run: Run) -> Option<Fault> {
    if own_users(s) {
        return None;
    }
    run(s)
}

fn fault(reason: &'static str, detail: String) -> Option<Fault> {
    Some(Fault { reason, detail })
}

fn escalation(s: &Subject<'_>) -> Option<Fault> {
    let bad = s.bad(|c| {
        c.pointer("/securityContext/allowPrivilegeEscalation")
            .and_then(Value::as_bool)
            .unwrap_or(true)
    });
    if bad.is_empty() {
        return None;
    }
    fault(
        "allowPrivilegeEscalation != false",
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            containers_named(&bad)
        ),
    )
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The containers that add a capability not allowed, and these capabilities.
fn added<'a>(s: &Subject<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let (mut bad, mut capabilities) = (Vec::new(), BTreeSet::new());
    for c in s.containers() {
        let before = capabilities.len();
        let mut found = false;
        for added in items(c, "/securityContext/capabilities/add") {
            let name = added.as_str().unwrap_or("");
            if !allowed.contains(&name) {
                capabilities.insert(name);
                found = true;
            }
        }
        if found || capabilities.len() > before {
            bad.push(text(c, "/name"));
        }
    }
    (bad, capabilities)
}

fn added_detail(bad: &[&str], capabilities: &BTreeSet<&str>) -> String {
    format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers_named(bad),
        quoted(capabilities)
    )
}

fn capabilities_baseline(s: &Subject<'_>) -> Option<Fault> {
    let (bad, capabilities) = added(s, &DEFAULT_CAPABILITIES);
    if bad.is_empty() {
        return None;
    }
    fault(
        "non-default capabilities",
        added_detail(&bad, &capabilities),
    )
}

fn capabilities_restricted(s: &Subject<'_>) -> Option<Fault> {
    let keeps = s.bad(|c| {
        !items(c, "/securityContext/capabilities/drop")
            .iter()
            .any(|d| d == "ALL")
    });
    let (bad, capabilities) = added(s, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            containers_named(&keeps)
        ));
    }
    if !bad.is_empty() {
        details.push(added_detail(&bad, &capabilities));
    }
    if details.is_empty() {
        return None;
    }
    fault("unrestricted capabilities", details.join("; "))
}

fn host_namespaces(s: &Subject<'_>) -> Option<Fault> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|k| s.spec[*k] == true)
        .map(|k| format!("{k}=true"))
        .collect();
    if used.is_empty() {
        return None;
    }
    fault("host namespaces", used.join(", "))
}

fn host_path_volumes(s: &Subject<'_>) -> Option<Fault> {
    let bad: Vec<&str> = items(s.spec, "/volumes")
        .iter()
        .filter(|v| v.get("hostPath").is_some())
        .map(|v| text(v, "/name"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    fault(
        "hostPath volumes",
        format!(
            "{} {}",
            plural("volume", "volumes", bad.len()),
            quoted(&bad)
        ),
    )
}

fn host_ports(s: &Subject<'_>) -> Option<Fault> {
    let mut ports = BTreeSet::new();
    let mut bad = Vec::new();
    for c in s.containers() {
        let used: Vec<i64> = items(c, "/ports")
            .iter()
            .filter_map(|p| p["hostPort"].as_i64().filter(|n| *n != 0))
            .collect();
        if !used.is_empty() {
            bad.push(text(c, "/name"));
        }
        ports.extend(used.iter().map(i64::to_string));
    }
    if bad.is_empty() {
        return None;
    }
    fault(
        "hostPort",
        format!(
            "{} {} {} {}",
            containers_named(&bad),
            plural("uses", "use", bad.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        ),
    )
}

fn host_probes(s: &Subject<'_>) -> Option<Fault> {
    let handlers = [
        "/livenessProbe",
        "/readinessProbe",
        "/startupProbe",
        "/lifecycle/postStart",
        "/lifecycle/preStop",
    ];
    let (mut bad, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for c in s.containers() {
        for handler in handlers {
            for kind in ["httpGet", "tcpSocket"] {
                let host = text(c, &format!("{handler}/{kind}/host"));
                if !host.is_empty() {
                    bad.insert(text(c, "/name"));
                    hosts.insert(host);
                }
            }
        }
    }
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    fault(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            containers_named(&bad),
            plural("uses", "use", bad.len()),
            plural(
                "probe or lifecycle host",
                "probe or lifecycle hosts",
                hosts.len()
            ),
            quoted(&hosts)
        ),
    )
}

fn privileged(s: &Subject<'_>) -> Option<Fault> {
    let bad = s.bad(|c| c.pointer("/securityContext/privileged") == Some(&true.into()));
    if bad.is_empty() {
        return None;
    }
    fault(
        "privileged",
        format!(
            "{} must not set securityContext.privileged=true",
            containers_named(&bad)
        ),
    )
}

fn proc_mount(s: &Subject<'_>) -> Option<Fault> {
    let kind = |c: &Value| {
        c.pointer("/securityContext/procMount")
            .and_then(Value::as_str)
            .filter(|m| *m != "Default")
            .map(String::from)
    };
    let bad = s.bad(|c| kind(c).is_some());
    if bad.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> = s.containers().filter_map(kind).collect();
    fault(
        "procMount",
        format!(
            "{} must not set securityContext.procMount to {}",
            containers_named(&bad),
            quoted(&kinds)
        ),
    )
}

fn sysctls(s: &Subject<'_>, generation: usize) -> Option<Fault> {
    const ALLOWED: [&[&str]; 4] = [
        &[
            "kernel.shm_rmid_forced",
            "net.ipv4.ip_local_port_range",
            "net.ipv4.tcp_syncookies",
            "net.ipv4.ping_group_range",
            "net.ipv4.ip_unprivileged_port_start",
        ],
        &["net.ipv4.ip_local_reserved_ports"],
        &[
            "net.ipv4.tcp_keepalive_time",
            "net.ipv4.tcp_fin_timeout",
            "net.ipv4.tcp_keepalive_intvl",
            "net.ipv4.tcp_keepalive_probes",
        ],
        &["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"],
    ];
    let allowed = |name: &&str| ALLOWED[..=generation].iter().any(|l| l.contains(name));
    let bad: Vec<&str> = items(s.spec, "/securityContext/sysctls")
        .iter()
        .map(|x| text(x, "/name"))
        .filter(|n| !allowed(n))
        .collect();
    if bad.is_empty() {
        return None;
    }
    fault("forbidden sysctls", bad.join(", "))
}

/// `pod and container "a"`: who set something that they must not.
pub fn setters(pod: bool, bad: &[&str]) -> Vec<String> {
    let mut setters = Vec::new();
    if pod {
        setters.push("pod".to_string());
    }
    if !bad.is_empty() {
        setters.push(containers_named(bad));
    }
    setters
}

fn host_process(s: &Subject<'_>) -> Option<Fault> {
    let set =
        |o: &Value| o.pointer("/securityContext/windowsOptions/hostProcess") == Some(&true.into());
    let setters = setters(set(s.spec), &s.bad(set));
    if setters.is_empty() {
        return None;
    }
    fault(
        "hostProcess",
        format!(
            "{} must not set securityContext.windowsOptions.hostProcess=true",
            setters.join(" and ")
        ),
    )
}

fn non_root(s: &Subject<'_>) -> Option<Fault> {
    let says = |o: &Value| {
        o.pointer("/securityContext/runAsNonRoot")
            .and_then(Value::as_bool)
    };
    let pod = says(s.spec);
    let setters = setters(pod == Some(false), &s.bad(|c| says(c) == Some(false)));
    if !setters.is_empty() {
        return fault(
            "runAsNonRoot != true",
            format!(
                "{} must not set securityContext.runAsNonRoot=false",
                setters.join(" and ")
            ),
        );
    }
    let silent = s.bad(|c| says(c).is_none() && pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    fault(
        "runAsNonRoot != true",
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            containers_named(&silent)
        ),
    )
}

fn user(s: &Subject<'_>) -> Option<Fault> {
    let root = |o: &Value| o.pointer("/securityContext/runAsUser") == Some(&0.into());
    let setters = setters(root(s.spec), &s.bad(root));
    if setters.is_empty() {
        return None;
    }
    fault(
        "runAsUser=0",
        format!("{} must not set runAsUser=0", setters.join(" and ")),
    )
}

fn volumes(s: &Subject<'_>) -> Option<Fault> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    const KNOWN: [&str; 21] = [
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let (mut bad, mut kinds) = (Vec::new(), BTreeSet::new());
    for v in items(s.spec, "/volumes") {
        if ALLOWED.iter().any(|k| v.get(*k).is_some()) {
            continue;
        }
        bad.push(text(v, "/name"));
        let kind = KNOWN.into_iter().find(|k| v.get(*k).is_some());
        kinds.insert(kind.unwrap_or("unknown"));
    }
    if bad.is_empty() {
        return None;
    }
    fault(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", bad.len()),
            quoted(&bad),
            plural("uses", "use", bad.len()),
            plural(
                "restricted volume type",
                "restricted volume types",
                kinds.len()
            ),
            quoted(&kinds)
        ),
    )
}
