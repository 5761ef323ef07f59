//! What knarr can't honour: an error where the service would behave otherwise, a warning where it is of no matter.

use super::{Notes, section};
use crate::{
    Error,
    tree::{Node, Value},
};
use std::collections::BTreeSet;

/// Keys of a service that nothing stands in for, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    (
        "provider",
        "knarr starts no provider's resources: run what it provides as a service",
    ),
    (
        "models",
        "knarr runs no models: run an inference server as a service",
    ),
    ("gpus", "knarr gives no GPUs to containers"),
    ("cgroup_parent", "knarr places cgroups itself"),
    ("cpu_rt_period", "knarr sets no real-time limits"),
    ("cpu_rt_runtime", "knarr sets no real-time limits"),
    ("credential_spec", "Windows accounts are of no use here"),
    (
        "storage_opt",
        "knarr sets no limit to a container's own files",
    ),
    (
        "use_api_socket",
        "bind the socket of the engine that is meant",
    ),
    ("volume_driver", "knarr has no volume drivers"),
];

/// Keys that Compose or Docker ignore on Linux, or that make no difference to what the service does.
const IGNORED: &[(&str, &str)] = &[
    ("cpu_count", "it is for Windows"),
    ("cpu_percent", "it is for Windows"),
];

pub(super) fn top_level(
    tree: &Node,
    active: &BTreeSet<String>,
    notes: &mut Notes,
) -> Result<(), Error> {
    if let Some((_, job)) = section(tree, "jobs").next() {
        return Err(job.error("jobs: knarr starts no jobs by trigger: make it a service with restart: \"no\", or a CronJob"));
    }
    if let Some((_, model)) = section(tree, "models").next()
        && section(tree, "services").any(|(n, s)| active.contains(n) && s.get("models").is_some())
    {
        return Err(
            model.error("models: knarr runs no models: run an inference server as a service")
        );
    }
    let _ = notes;
    Ok(())
}

pub(super) fn service(
    name: &str,
    node: &Node,
    tree: &Node,
    notes: &mut Notes,
) -> Result<(), Error> {
    let cannot = |at: &Node, key: &str, instead: &str| {
        at.error(format!(
            "services.{name}.{key}: knarr cannot honour it: {instead}"
        ))
    };
    for (key, instead) in REFUSED {
        if let Some(at) = node.get(key)
            && !is_empty(at)
        {
            return Err(cannot(at, key, instead));
        }
    }
    for (key, why) in IGNORED {
        if let Some(at) = node.get(key)
            && !is_empty(at)
        {
            notes.say(at, format!("services.{name}.{key} is ignored: {why}"));
        }
    }
    let said = |key: &str| node.get(key).and_then(|n| Some((n, n.scalar()?)));
    if let Some((at, score)) = said("oom_score_adj").filter(|(_, v)| v.starts_with('-')) {
        return Err(cannot(
            at,
            "oom_score_adj",
            &format!(
                "{score}: no container is kept from being ended for want of memory; say 0 to 1000"
            ),
        ));
    }
    if let Some((at, mode)) = said("cgroup").filter(|(_, v)| v == "host")
        && !super::service::may_mount(node)
    {
        return Err(cannot(
            at,
            "cgroup",
            &format!("{mode:?}: say privileged: true as well, or leave it out"),
        ));
    }
    if let Some((at, mode)) = said("uts").filter(|(_, v)| !v.is_empty()) {
        return Err(cannot(
            at,
            "uts",
            &format!("{mode:?}: network_mode: host brings the host's name"),
        ));
    }
    if let Some((at, mode)) =
        said("userns_mode").filter(|(_, v)| !matches!(v.as_str(), "" | "host"))
    {
        return Err(cannot(
            at,
            "userns_mode",
            &format!("{mode:?}: say host or leave it out"),
        ));
    }
    if let Some((at, runtime)) = said("runtime")
        .filter(|(_, v)| !matches!(v.as_str(), "" | "runc" | "crun" | "io.containerd.runc.v2"))
    {
        return Err(cannot(
            at,
            "runtime",
            &format!("there is no runtime {runtime:?}"),
        ));
    }
    if let Some((at, isolation)) =
        said("isolation").filter(|(_, v)| !matches!(v.as_str(), "" | "default"))
    {
        return Err(cannot(
            at,
            "isolation",
            &format!("{isolation:?} is for Windows"),
        ));
    }
    if let Some((at, platform)) = said("platform").filter(|(_, v)| !v.is_empty()) {
        platform_fits(at, name, &platform)?;
    }
    let reserved = node
        .get("deploy")
        .and_then(|d| d.get("resources")?.get("reservations"));
    for key in ["devices", "generic_resources"] {
        if let Some(at) = reserved.and_then(|r| r.get(key)).filter(|a| !is_empty(a)) {
            return Err(cannot(
                at,
                &format!("deploy.resources.reservations.{key}"),
                "knarr gives no GPUs or other such devices to containers",
            ));
        }
    }
    sysctls(name, node)?;
    logging(name, node, notes);
    if let Some((at, _)) = said("domainname").filter(|(_, v)| !v.is_empty())
        && node.text_of("hostname").is_none_or(|h| h.is_empty())
    {
        notes.say(at, format!("services.{name}.domainname is ignored without hostname: each container is called by a name of its own"));
    }
    networks(name, node, tree, notes)?;
    security(name, node, notes)
}

fn is_empty(node: &Node) -> bool {
    match &node.value {
        Value::Text(t) => t.is_empty(),
        Value::List(l) => l.is_empty(),
        Value::Map(m) => m.is_empty(),
        Value::Bool(b) => !b,
        Value::Int(n) => *n == 0,
        _ => false,
    }
}

fn platform_fits(at: &Node, name: &str, platform: &str) -> Result<(), Error> {
    let mut parts = platform.split('/');
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let arch = |a: &str| match a {
        "x86_64" => "amd64".to_string(),
        "aarch64" => "arm64".into(),
        a => a.to_string(),
    };
    let first = parts.next().unwrap_or_default();
    let fits = match parts.next() {
        Some(a) => first == "linux" && arch(a) == own,
        None => first == "linux" || arch(first) == own,
    };
    match fits {
        true => Ok(()),
        false => Err(at.error(format!(
            "services.{name}.platform: knarr cannot honour it: this machine runs linux/{own}, not {platform}"
        ))),
    }
}

/// Kernel parameters that a container has not for itself can't be set for it, by nobody.
///
/// SOURCE: runc `libcontainer/configs/validate`, sysctl
fn sysctls(name: &str, node: &Node) -> Result<(), Error> {
    const OF_IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let is_host = |key: &str| node.text_of(key).as_deref() == Some("host");
    let Some(at) = node.get("sysctls") else {
        return Ok(());
    };
    let listed = at.items().iter().filter_map(|n| Some((n.scalar()?, n)));
    let all = listed.chain(at.entries().map(|(key, n)| (key.clone(), n)));
    for (text, at) in all {
        let key = text.split('=').next().unwrap_or_default().trim();
        let dotted = match key.find(['.', '/']) {
            Some(i) if key[i..].starts_with('/') => key.replace('/', "."),
            _ => key.to_string(),
        };
        let why = if dotted.starts_with("net.") {
            is_host("network_mode").then_some("the machine's network is shared: set it there")
        } else if OF_IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            is_host("ipc").then_some("the machine's IPC is shared: set it there")
        } else if dotted == "kernel.hostname" || dotted == "kernel.domainname" {
            Some("say hostname and domainname")
        } else {
            Some("it is the whole machine's: set it there with `sysctl -w`")
        };
        if let Some(why) = why {
            return Err(at.error(format!(
                "services.{name}.sysctls.{dotted}: knarr cannot honour it: {why}"
            )));
        }
    }
    Ok(())
}

/// Drivers that keep logs on the machine are as good as ours.
fn logging(name: &str, node: &Node, notes: &mut Notes) {
    let Some(at) = node.get("logging") else {
        return;
    };
    let driver = at.text_of("driver").unwrap_or_default();
    if !matches!(driver.as_str(), "" | "json-file" | "local" | "journald") {
        notes.say(at, format!("services.{name}.logging.driver {driver} is ignored: `knarr logs` has what the service writes"));
    }
}

fn networks(name: &str, node: &Node, tree: &Node, notes: &mut Notes) -> Result<(), Error> {
    for (network, at) in node
        .get("networks")
        .map(Node::entries)
        .into_iter()
        .flatten()
    {
        if let Some(address) = at.get("ipv6_address") {
            let text = address.scalar().unwrap_or_default();
            // An address that nobody asks for is of no matter.
            if mentions(tree, &text, &mut vec![]) > 1 {
                return Err(address.error(format!(
                    "services.{name}.networks.{network}.ipv6_address: knarr cannot honour it: addresses are its own; use the service's name where {text} is asked for"
                )));
            }
            notes.say(address, format!("services.{name}.networks.{network}.ipv6_address is ignored: the service is reached by its name"));
        }
        if let Some(at) = at.get("link_local_ips") {
            return Err(at.error(format!(
                "services.{name}.networks.{network}.link_local_ips: knarr cannot honour it: addresses are its own"
            )));
        }
        for key in ["driver_opts", "priority", "gw_priority"] {
            if let Some(at) = at.get(key) {
                notes.say(at, format!("services.{name}.networks.{network}.{key} is ignored: a container has one interface"));
            }
        }
    }
    Ok(())
}

/// How often an address stands in the services, and not as part of another.
pub(super) fn mentions(node: &Node, text: &str, path: &mut Vec<String>) -> usize {
    if path.first().is_some_and(|k| k == "networks") {
        return 0;
    }
    match &node.value {
        Value::Text(t) => t
            .match_indices(text)
            .filter(|(i, m)| {
                let after = t[i + m.len()..].chars().next();
                !after.is_some_and(|c| c.is_ascii_digit())
            })
            .count(),
        Value::List(l) => l.iter().map(|n| mentions(n, text, path)).sum(),
        Value::Map(m) => m
            .iter()
            .map(|(key, n)| {
                path.push(key.clone());
                let found = mentions(n, text, path);
                path.pop();
                found
            })
            .sum(),
        _ => 0,
    }
}

fn security(name: &str, node: &Node, notes: &mut Notes) -> Result<(), Error> {
    for at in node
        .get("security_opt")
        .map(Node::items)
        .unwrap_or_default()
    {
        let text = at.scalar().unwrap_or_default();
        let cut = text.find(['=', ':']);
        let (key, value) = cut.map_or((text.as_str(), ""), |i| (&text[..i], &text[i + 1..]));
        match (key, value) {
            ("no-new-privileges", "" | "true" | "false")
            | ("seccomp" | "systempaths" | "apparmor", "unconfined")
            | ("apparmor", "docker-default") => {}
            ("label", "disable" | "type:container_runtime_t") => {}
            ("apparmor" | "label", _) => notes.say(
                at,
                format!("services.{name}.security_opt {text} is ignored: knarr confines containers by namespaces, capabilities and seccomp"),
            ),
            _ => {
                return Err(at.error(format!(
                    "services.{name}.security_opt: knarr cannot honour {text:?}: no-new-privileges, seccomp=unconfined and systempaths=unconfined are known"
                )));
            }
        }
    }
    Ok(())
}
