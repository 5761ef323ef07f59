//! The Pod of a container.

pub mod accounts;
mod mounts;
mod seccomp;

use crate::{
    create::{
        health::Health,
        ports,
        wanted::{Ipc, Pid, Restart, Seccomp, Wanted},
    },
    daemon::Daemon,
    error::{Fault, Result},
    joins, names,
    networks::{self, Network},
    record::{ANNOTATION, LABEL, Record},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

/// Containers of the namespace that name the same one here have, one after the other, the same writable layer.
pub const LAYER: &str = "knarr.dev/writable-layer";
/// What Kubernetes has no fields for, as JSON.
pub const EXTRAS: &str = "knarr.dev/container.main";
/// With Docker's pauses between restarts: `always`, and how often at most.
pub const PACE: &str = "restart.knarr.dev/main";
/// Until it's started.
pub const GATE: &str = "docker.knarr.dev/created";
/// The Pod's only container.
pub const CONTAINER: &str = "main";
/// SOURCE: moby `container.DefaultStopTimeout`
pub const STOP_SECONDS: i64 = 10;

/// What a `$(NAME)` would be expanded by is said twice.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn literals(list: &[String]) -> Vec<String> {
    list.iter().map(|t| literal(t)).collect()
}

/// The Pod's name: a person finds the container by it.
pub fn name(record: &Record) -> String {
    let name = names::label(&record.name, 40);
    let dot = if name.is_empty() { "" } else { "-" };
    match record.run {
        1 => format!("{name}{dot}{}", record.short()),
        run => format!("{name}{dot}{}-{run}", record.short()),
    }
}

/// # Errors
/// When what is asked for can't be said in a Pod.
pub fn build(
    daemon: &Daemon,
    record: &Record,
    wanted: &Wanted,
    networks: &[Network],
    gated: bool,
) -> Result<Pod> {
    let host = &wanted.host;
    let mut spec = json!({
        "restartPolicy": match host.restart {
            Restart::No => "Never",
            Restart::OnFailure(_) => "OnFailure",
            Restart::Always | Restart::UnlessStopped => "Always",
        },
        "terminationGracePeriodSeconds": wanted.stop_timeout.unwrap_or(STOP_SECONDS).max(1),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "nodeSelector": { "kubernetes.io/hostname": daemon.node },
        // the machine is the container's: nothing makes it wait
        "tolerations": [{ "operator": "Exists" }],
        "shareProcessNamespace": host.init && !matches!(host.pid, Pid::Of(_)),
        "hostPID": host.pid == Pid::Host,
        "hostIPC": host.ipc == Ipc::Host,
        "hostNetwork": record.network_mode == "host",
    });
    let mut container = json!({
        "name": CONTAINER,
        "image": record.image_name,
        "imagePullPolicy": "Never",
        "stdin": wanted.open_stdin,
        "stdinOnce": wanted.open_stdin && wanted.stdin_once,
        "tty": wanted.tty,
        "resources": limits(wanted),
        "securityContext": security(wanted),
        "ports": container_ports(record)?,
    });
    if let Some(signal) = &wanted.stop_signal
        && let Some(name) = names::signal_name(names::signal(signal)?)
    {
        spec["os"] = json!({ "name": "linux" });
        container["lifecycle"] = json!({ "stopSignal": name });
    }
    command(wanted, &mut container);
    if !wanted.workdir.is_empty() {
        container["workingDir"] = json!(wanted.workdir);
    }
    user(daemon, record, wanted, &mut spec, &mut container)?;
    hostname(daemon, record, wanted, &mut spec)?;
    resolving(wanted, networks, &mut spec)?;
    if !host.sysctls.is_empty() {
        let list = host.sysctls.iter();
        let list: Vec<Value> = list
            .map(|(n, v)| json!({ "name": n, "value": v }))
            .collect();
        merge(&mut spec, "securityContext", json!({ "sysctls": list }));
    }
    let mut extras = Map::new();
    mounts::add(record, wanted, &mut spec, &mut container, &mut extras)?;
    if let Some(probe) = record.health.as_ref().and_then(probe) {
        container["readinessProbe"] = probe;
    }
    extras.insert("noServices".into(), json!(true));
    if let Some(health) = &record.health {
        extras.insert("health".into(), pace(health));
    }
    if let Some(others) = joins::settle(daemon, record, wanted) {
        extras.insert("joins".into(), others);
    }
    more(daemon, wanted, &mut extras)?;
    let mut hosts = extra_hosts(daemon, wanted)?;
    let (linked, variables) = networks::links::settle(daemon, record, wanted);
    hosts.extend(linked);
    if !hosts.is_empty() {
        extras.insert("hosts".into(), json!(hosts));
    }
    container["env"] = json!(env(wanted, variables));
    spec["containers"] = json!([container]);
    if gated {
        spec["schedulingGates"] = json!([{ "name": GATE }]);
    }
    let mut annotations = json!({
        ANNOTATION: serde_json::to_string(record)?,
        LAYER: record.id,
    });
    annotations[EXTRAS] = json!(Value::Object(extras).to_string());
    // the node's own pace is the kubelet's: ten seconds and more
    match host.restart {
        Restart::No => {}
        Restart::OnFailure(most) if most > 0 => annotations[PACE] = json!(format!("always:{most}")),
        _ => annotations[PACE] = json!("always"),
    }
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(record),
            "namespace": crate::NAMESPACE,
            "labels": labels(record),
            "annotations": annotations,
        },
        "spec": spec,
    });
    serde_json::from_value(pod).map_err(Fault::server)
}

/// What a Pod has no fields for.
pub fn more(daemon: &Daemon, wanted: &Wanted, extras: &mut Map<String, Value>) -> Result<()> {
    let host = &wanted.host;
    host.limits.extras(extras)?;
    if !host.ulimits.is_empty() {
        let list = host.ulimits.iter();
        let list =
            list.map(|(name, (soft, hard))| json!({ "name": name, "soft": soft, "hard": hard }));
        extras.insert("ulimits".into(), Value::Array(list.collect()));
    }
    if let Some(signal) = &wanted.stop_signal {
        extras.insert("stopSignal".into(), json!(signal));
    }
    if host.host_cgroups {
        extras.insert("hostCgroups".into(), json!(true));
    }
    for (key, paths) in [
        ("maskedPaths", &host.masked_paths),
        ("readonlyPaths", &host.readonly_paths),
    ] {
        if let Some(paths) = paths {
            extras.insert(key.into(), json!(paths));
        }
    }
    if host.ipc == Ipc::None {
        extras.insert("noShm".into(), json!(true));
    }
    if host.shm_size > 0 {
        extras.insert("shmBytes".into(), json!(host.shm_size));
    }
    if !host.sysctls.is_empty() {
        extras.insert("ownSysctls".into(), json!(true));
    }
    if let Some((rows, columns)) = host.console.filter(|_| wanted.tty) {
        extras.insert("ttySize".into(), json!([columns, rows]));
    }
    if let Some(size) = host.log.max_size {
        extras.insert("logMaxBytes".into(), json!(size));
        extras.insert("logFilesMax".into(), json!(host.log.max_file.unwrap_or(1)));
    }
    if let Seccomp::Profile(text) = &host.seccomp {
        seccomp::keep(&daemon.seccomp_dir, text)?;
    }
    Ok(())
}

/// By which networks' policies choose the Pod, and people.
pub fn labels(record: &Record) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert(LABEL.into(), json!(record.short()));
    let name = record.name.trim_matches(['.', '_', '-']);
    if name.len() <= 63 {
        labels.insert("app.kubernetes.io/name".into(), json!(name));
    }
    labels.insert("app.kubernetes.io/managed-by".into(), json!("docker"));
    match record.network_mode.as_str() {
        "host" => {}
        "none" => {
            labels.insert(networks::label("none"), json!(""));
        }
        _ => {
            for endpoint in &record.endpoints {
                let id = endpoint
                    .network_id
                    .get(..12)
                    .unwrap_or(&endpoint.network_id);
                labels.insert(networks::label(id), json!(""));
            }
        }
    }
    labels
}

fn merge(spec: &mut Value, key: &str, more: Value) {
    if !spec[key].is_object() {
        spec[key] = json!({});
    }
    if let (Some(map), Value::Object(more)) = (spec[key].as_object_mut(), more) {
        map.extend(more);
    }
}

fn command(wanted: &Wanted, container: &mut Value) {
    // Docker: a new entrypoint drops the image's command.
    match (&wanted.entrypoint, &wanted.cmd) {
        // `--entrypoint ""` runs the command alone
        (Some(entrypoint), cmd) if entrypoint.iter().all(String::is_empty) => {
            container["command"] = json!(literals(cmd.as_deref().unwrap_or_default()));
        }
        (Some(entrypoint), cmd) => {
            container["command"] = json!(literals(entrypoint));
            container["args"] = json!(literals(cmd.as_deref().unwrap_or_default()));
        }
        (None, Some(cmd)) => container["args"] = json!(literals(cmd)),
        (None, None) => {}
    }
}

/// What was asked for counts before what links tell.
fn env(wanted: &Wanted, of_links: Vec<(String, String)>) -> Vec<Value> {
    let with_value = wanted.env.iter().filter_map(|v| v.split_once('='));
    let of_links = of_links.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    of_links
        .chain(with_value)
        .map(|(name, value)| json!({ "name": name, "value": literal(value) }))
        .collect()
}

/// Limits of memory and CPU, as a container has them.
pub fn limits(wanted: &Wanted) -> Value {
    let host = &wanted.host;
    // Docker reserves nothing; a little more than that lets limits be set later, and isn't the first to go.
    let mut requests = json!({ "cpu": "1m", "memory": "1Mi" });
    let mut limits = json!({});
    if host.memory > 0 {
        limits["memory"] = json!(host.memory.to_string());
    }
    if let Some(reservation) = host.limits.memory_reservation {
        requests["memory"] = json!(reservation.to_string());
    }
    if host.cpu_milli > 0 {
        limits["cpu"] = json!(format!("{}m", host.cpu_milli));
    }
    json!({ "requests": requests, "limits": limits })
}

fn capability(name: &str) -> String {
    let upper = name.to_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_string()
}

fn security(wanted: &Wanted) -> Value {
    let host = &wanted.host;
    let all = |list: &[String]| list.iter().map(|c| capability(c)).collect::<Vec<_>>();
    let profile = match &host.seccomp {
        _ if host.privileged => json!({ "type": "Unconfined" }),
        Seccomp::Unconfined => json!({ "type": "Unconfined" }),
        Seccomp::Usual => json!({ "type": "RuntimeDefault" }),
        Seccomp::Profile(text) => json!({
            "type": "Localhost", "localhostProfile": seccomp::name(text),
        }),
    };
    let mut context = json!({
        "privileged": host.privileged,
        "readOnlyRootFilesystem": host.read_only,
        "capabilities": { "add": all(&host.cap_add), "drop": all(&host.cap_drop) },
        "seccompProfile": profile,
    });
    match host.apparmor.as_str() {
        "" | "docker-default" => {}
        "unconfined" => context["appArmorProfile"] = json!({ "type": "Unconfined" }),
        name => {
            context["appArmorProfile"] = json!({ "type": "Localhost", "localhostProfile": name });
        }
    }
    if host.no_new_privileges {
        context["allowPrivilegeEscalation"] = json!(false);
    }
    context
}

fn container_ports(record: &Record) -> Result<Vec<Value>> {
    let mut list = Vec::new();
    if record.network_mode == "host" {
        return Ok(list);
    }
    for (port, places) in &record.bindings {
        let (number, protocol) = ports::parse(port)?;
        for place in places {
            let mut one =
                json!({ "containerPort": number, "protocol": protocol, "hostPort": place.port });
            if !place.ip.is_empty() {
                one["hostIP"] = json!(place.ip);
            }
            list.push(one);
        }
    }
    Ok(list)
}

/// `user[:group]`, by number or by the image's own names.
fn user(
    daemon: &Daemon,
    record: &Record,
    wanted: &Wanted,
    spec: &mut Value,
    container: &mut Value,
) -> Result<()> {
    let file = |path: &str| daemon.image_file(&record.image_name, path);
    if !wanted.user.is_empty() {
        let (uid, gid) = accounts::ids(&wanted.user, &file)?;
        merge(
            container,
            "securityContext",
            json!({ "runAsUser": uid, "runAsGroup": gid }),
        );
    }
    let mut more = Vec::new();
    for group in &wanted.host.groups {
        more.push(accounts::group(group, &file)?);
    }
    if !more.is_empty() {
        merge(
            spec,
            "securityContext",
            json!({ "supplementalGroups": more }),
        );
    }
    Ok(())
}

fn hostname(daemon: &Daemon, record: &Record, wanted: &Wanted, spec: &mut Value) -> Result<()> {
    // who has another's network is called as it is
    if let Some(other) = joins::whose_network(daemon, record) {
        let theirs = Wanted::read(&other.record.body)?;
        return own_hostname(&other.record, &theirs, spec);
    }
    own_hostname(record, wanted, spec)
}

fn own_hostname(record: &Record, wanted: &Wanted, spec: &mut Value) -> Result<()> {
    if record.network_mode == "host" {
        return match wanted.hostname.is_empty() {
            true => Ok(()),
            false => Err(Fault::unsupported(
                "a hostname of one's own on the host's network",
            )),
        };
    }
    let asked = match (wanted.hostname.as_str(), wanted.domainname.as_str()) {
        ("", _) => record.short().to_string(),
        (host, "") => host.to_string(),
        (host, domain) => format!("{host}.{domain}"),
    };
    if names::is_dns_label(&asked) {
        spec["hostname"] = json!(asked);
    } else if asked.len() <= 64 && asked.split('.').all(names::is_dns_label) {
        spec["hostnameOverride"] = json!(asked);
    } else {
        return Err(Fault::unsupported(format!(
            "the hostname {asked:?} (lower-case letters, digits and '-' are)"
        )));
    }
    Ok(())
}

/// Lines of its `/etc/hosts`.
fn extra_hosts(daemon: &Daemon, wanted: &Wanted) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in &wanted.host.extra_hosts {
        let bad = || Fault::bad(format!("bad format for add-host: {entry:?}"));
        let (name, address) = entry.split_once(['=', ':']).ok_or_else(bad)?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(bad());
        }
        let address = match address.trim_matches(['[', ']']) {
            "host-gateway" => daemon.gateway().to_string(),
            address => address.to_string(),
        };
        if address.parse::<std::net::IpAddr>().is_err() {
            return Err(Fault::bad(format!(
                "invalid IP address in add-host: {address:?}"
            )));
        }
        lines.push(format!("{address}\t{name}"));
    }
    Ok(lines)
}

/// How the container finds others by name.
fn resolving(wanted: &Wanted, networks: &[Network], spec: &mut Value) -> Result<()> {
    let host = &wanted.host;
    let own = networks.iter().any(Network::is_own);
    if !own && host.dns.is_empty() && host.dns_search.is_empty() && host.dns_options.is_empty() {
        spec["dnsPolicy"] = json!("Default");
    } else {
        let servers = match !own && !host.dns.is_empty() {
            true => host.dns.clone(),
            // which knows the names of a container's networks; see crates/network
            false => vec![RESOLVER.to_string()],
        };
        let mut options: Vec<Value> = match own {
            true => vec![json!({ "name": "ndots", "value": "0" })],
            false => vec![],
        };
        for option in &host.dns_options {
            options.push(match option.split_once(':') {
                Some((name, value)) => json!({ "name": name, "value": value }),
                None => json!({ "name": option }),
            });
        }
        let searches: Vec<&String> = host.dns_search.iter().filter(|s| *s != ".").collect();
        spec["dnsPolicy"] = json!("None");
        spec["dnsConfig"] =
            json!({ "nameservers": servers, "searches": searches, "options": options });
    }
    Ok(())
}

/// Where containers of networks of their own ask for names, as Docker's do; see `knarr-network`.
const RESOLVER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 11);

/// Whole seconds, at least one.
fn seconds(nanos: i64) -> i64 {
    ((nanos + 500_000_000) / 1_000_000_000).max(1)
}

/// SOURCE: moby `daemon/health.go` defaultStartInterval
fn pace(health: &Health) -> Value {
    let ms = |nanos: i64| nanos / 1_000_000;
    let start_interval = match health.start_interval {
        0 => 5_000_000_000,
        given => given,
    };
    json!({
        "intervalMs": ms(health.interval()), "timeoutMs": ms(health.timeout()),
        "startIntervalMs": ms(start_interval), "startPeriodMs": ms(health.start_period),
    })
}

/// Asks first after a second, as a container that is well soon should not wait for a whole interval.
fn probe(health: &Health) -> Option<Value> {
    let command = health.command(&[])?;
    let interval = seconds(health.interval());
    Some(json!({
        "exec": { "command": command },
        "initialDelaySeconds": interval.min(1),
        "periodSeconds": interval,
        "timeoutSeconds": seconds(health.timeout()),
        "failureThreshold": health.retries(),
    }))
}
