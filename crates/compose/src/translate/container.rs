//! A service's container.

use super::{Context, dns_name, names::literal, storage::Volumes};
use crate::{Hook, Mount, PullPolicy, Scope, Service, Source};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn mounts(
    context: &Context<'_>,
    service: &Service,
    volumes: &mut Volumes,
) -> Vec<Value> {
    let mut all: Vec<Value> = service
        .mounts
        .iter()
        .filter(|m| memory_options(context, m).is_none())
        .map(|m| volumes.mount(context, service, m))
        .collect();
    for (from, read_only) in &service.volumes_from {
        let theirs = context.project.services.get(from);
        let theirs = theirs.map_or_else(Vec::new, |s| super::storage::unnamed(context, s));
        for target in theirs {
            let taken = |m: &Value| m["mountPath"] == target.as_str();
            if !all.iter().any(taken) {
                all.push(volumes.of_other(context, from, &target, *read_only));
            }
        }
    }
    for (source, target, _) in &service.settings.devices {
        let mount = Mount {
            source: Source::Bind {
                path: source.into(),
                create: false,
                propagation: None,
            },
            target: target.clone(),
            read_only: false,
            copy_up: false,
            subpath: None,
        };
        all.push(volumes.mount(context, service, &mount));
    }
    if !service.settings.device_rules.is_empty() && context.project.at_home {
        volumes.all_devices();
    }
    for target in super::storage::declared(context, service) {
        let mount = Mount {
            source: Source::Anonymous,
            target,
            read_only: false,
            copy_up: true,
            subpath: None,
        };
        all.push(volumes.mount(context, service, &mount));
    }
    for (files, objects, secret) in [
        (&service.configs, &context.project.configs, false),
        (&service.secrets, &context.project.secrets, true),
    ] {
        for file in files {
            if let Some(object) = objects.get(&file.source) {
                all.push(volumes.file(&file.source, object, file, secret));
            }
        }
    }
    all
}

pub(super) fn container(context: &Context<'_>, service: &Service, mounts: Vec<Value>) -> Value {
    let facts = context.facts(&service.name);
    let image = facts.reference.as_ref().unwrap_or(&service.image);
    let mut c = json!({ "name": dns_name(&service.name), "image": image, "imagePullPolicy": pull_policy(service, &facts) });
    let lists = commands(
        service.entrypoint.as_deref(),
        service.command.as_deref(),
        &facts.entrypoint,
        &facts.command,
    );
    for (key, list) in ["command", "args"].iter().zip([lists.0, lists.1]) {
        if let Some(words) = list {
            let words: Vec<String> = words.iter().map(|w| literal(w)).collect();
            c[*key] = json!(words);
        }
    }
    let mut variables = super::links::environment(context, service);
    variables.extend(service.environment.clone());
    let env = environment(&variables);
    if !env.is_empty() {
        c["env"] = json!(env);
    }
    let mut seen = BTreeSet::new();
    let ports: Vec<Value> = super::services::ports(context, service)
        .into_iter()
        .filter(|p| seen.insert((p.target, p.protocol.clone())))
        .map(|p| json!({ "containerPort": p.target, "protocol": p.protocol }))
        .collect();
    if !ports.is_empty() {
        c["ports"] = json!(ports);
    }
    if !mounts.is_empty() {
        c["volumeMounts"] = json!(mounts);
    }
    if let Some(health) = service.health.resolve(facts.health.as_ref()) {
        let (readiness, startup) = health.probes();
        c["readinessProbe"] = readiness;
        if let Some(startup) = startup {
            c["startupProbe"] = startup;
        }
    }
    if let Some(dir) = &service.working_dir {
        c["workingDir"] = json!(dir);
    }
    if service.tty {
        c["tty"] = json!(true);
    }
    if service.stdin {
        c["stdin"] = json!(true);
    }
    if let Some(resources) = resources(context, service) {
        c["resources"] = resources;
    }
    let security = security(service);
    if !security.is_empty() {
        c["securityContext"] = Value::Object(security);
    }
    let mut lifecycle = Map::new();
    for (key, hooks) in [
        ("postStart", &service.post_start),
        ("preStop", &service.pre_stop),
    ] {
        if !hooks.is_empty() {
            lifecycle.insert(
                key.into(),
                json!({ "exec": { "command": hook_command(hooks) } }),
            );
        }
    }
    if let Some(signal) = &service.stop_signal {
        lifecycle.insert("stopSignal".into(), json!(signal));
    }
    if !lifecycle.is_empty() {
        c["lifecycle"] = Value::Object(lifecycle);
    }
    c
}

fn pull_policy(service: &Service, facts: &super::ImageFacts) -> &'static str {
    match service.pull_policy {
        PullPolicy::Never => "Never",
        // What has just been asked for is known by its digest.
        PullPolicy::Always if facts.reference.is_none() => "Always",
        _ => "IfNotPresent",
    }
}

/// Compose: `entrypoint` replaces the image's and drops its command; an empty one drops it; `command` replaces the
/// command. Kubernetes knows no empty ones, so the image's own words stand in.
fn commands<'a>(
    entrypoint: Option<&'a [String]>,
    command: Option<&'a [String]>,
    image_entrypoint: &'a [String],
    image_command: &'a [String],
) -> (Option<&'a [String]>, Option<&'a [String]>) {
    let some = |list: &'a [String]| Some(list).filter(|l| !l.is_empty());
    match (entrypoint, command) {
        (Some([]), Some(command)) => (some(command), None),
        (Some([]), None) => (some(image_command), None),
        (Some(entrypoint), command) => (Some(entrypoint), command.and_then(some)),
        (None, Some([])) => (some(image_entrypoint), None),
        (None, command) => (None, command),
    }
}

fn environment(all: &BTreeMap<String, String>) -> Vec<Value> {
    all.iter()
        .map(|(k, v)| json!({ "name": k, "value": literal(v) }))
        .collect()
}

/// Limits reserve nothing, as with Docker: the machine is shared by all that has work.
fn resources(context: &Context<'_>, service: &Service) -> Option<Value> {
    // At home shares and soft limits are what Docker makes of them, and reserve nothing.
    let own = |key: &str| context.project.at_home && service.settings.limits.contains_key(key);
    let reserved_cpu = service.reservations.0.filter(|_| !own("cpuShares"));
    let reserved_memory = service.reservations.1.filter(|_| !own("memorySoftBytes"));
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for (key, limit, reserved) in [
        (
            "cpu",
            service.limits.0.map(|m| format!("{m}m")),
            reserved_cpu.map(|m| format!("{m}m")),
        ),
        (
            "memory",
            service.limits.1.map(|b| b.to_string()),
            reserved_memory.map(|b| b.to_string()),
        ),
    ] {
        let request = reserved.or(limit.as_ref().map(|_| "0".to_string()));
        limits.extend(limit.map(|l| (key.to_string(), json!(l))));
        requests.extend(request.map(|r| (key.to_string(), json!(r))));
    }
    let mut all = Map::new();
    for (key, value) in [("limits", limits), ("requests", requests)] {
        if !value.is_empty() {
            all.insert(key.into(), Value::Object(value));
        }
    }
    (!all.is_empty()).then_some(Value::Object(all))
}

/// (user, group), where they are numbers, or root.
fn ids(user: &str) -> (Option<i64>, Option<i64>) {
    let id = |text: &str| match text {
        "root" => Some(0),
        n => n.parse().ok(),
    };
    let (user, group) = user
        .split_once(':')
        .map_or((user, None), |(u, g)| (u, Some(g)));
    (id(user), group.and_then(id))
}

fn security(service: &Service) -> Map<String, Value> {
    let said = &service.security;
    let mut s = Map::new();
    if let Some(user) = &said.user {
        let (uid, gid) = ids(user);
        s.extend(uid.map(|u| ("runAsUser".to_string(), json!(u))));
        s.extend(gid.map(|g| ("runAsGroup".to_string(), json!(g))));
    }
    if said.read_only {
        s.insert("readOnlyRootFilesystem".into(), json!(true));
    }
    if said.privileged {
        s.insert("privileged".into(), json!(true));
    }
    let mut capabilities = Map::new();
    for (key, list) in [("add", &said.cap_add), ("drop", &said.cap_drop)] {
        if !list.is_empty() {
            capabilities.insert(key.into(), json!(list));
        }
    }
    if !capabilities.is_empty() {
        s.insert("capabilities".into(), Value::Object(capabilities));
    }
    for (key, value) in &said.options {
        match (key.as_str(), value.as_str()) {
            ("no-new-privileges", "" | "true") if !said.privileged => {
                s.insert("allowPrivilegeEscalation".into(), json!(false));
            }
            ("seccomp", "unconfined") => {
                s.insert("seccompProfile".into(), json!({ "type": "Unconfined" }));
            }
            ("apparmor", "unconfined") => {
                s.insert("appArmorProfile".into(), json!({ "type": "Unconfined" }));
            }
            ("systempaths", "unconfined") => {
                s.insert("procMount".into(), json!("Unmasked"));
            }
            _ => {}
        }
    }
    s
}

/// Several hooks in one command, each with its folder and environment.
fn hook_command(hooks: &[Hook]) -> Vec<String> {
    if let [hook] = hooks
        && hook.working_dir.is_none()
        && hook.environment.is_empty()
    {
        return hook.command.iter().map(|w| literal(w)).collect();
    }
    let quote = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let line = |hook: &Hook| {
        let mut line = String::new();
        if let Some(dir) = &hook.working_dir {
            line += &format!("cd {} && ", quote(dir));
        }
        for (key, value) in &hook.environment {
            line += &format!("export {key}={} && ", quote(value));
        }
        let words: Vec<String> = hook.command.iter().map(|w| quote(w)).collect();
        format!("( {line}{} )", words.join(" "))
    };
    let all: Vec<String> = hooks.iter().map(line).collect();
    vec!["/bin/sh".into(), "-c".into(), literal(&all.join(" && "))]
}

/// `pre_start`: containers that run before.
pub(super) fn preludes(context: &Context<'_>, service: &Service, mounts: &[Value]) -> Vec<Value> {
    let facts = context.facts(&service.name);
    let own = facts.reference.as_ref().unwrap_or(&service.image);
    let one = |(i, hook): (usize, &crate::Prelude)| {
        let name = dns_name(&format!("{}-pre-{i}", service.name));
        let image = hook.image.as_ref().unwrap_or(own);
        let mut c = json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent" });
        let (command, args) = commands(
            hook.entrypoint.as_deref(),
            hook.command.as_deref(),
            &[],
            &[],
        );
        for (key, list) in [("command", command), ("args", args)] {
            if let Some(words) = list {
                c[key] = json!(words.iter().map(|w| literal(w)).collect::<Vec<_>>());
            }
        }
        let mut all = service.environment.clone();
        all.extend(hook.environment.clone());
        if !all.is_empty() {
            c["env"] = json!(environment(&all));
        }
        if !mounts.is_empty() {
            c["volumeMounts"] = json!(mounts);
        }
        if let Some(dir) = hook.working_dir.as_ref().or(service.working_dir.as_ref()) {
            c["workingDir"] = json!(dir);
        }
        let mut security = security(service);
        if let Some((Some(uid), gid)) = hook.user.as_deref().map(ids) {
            security.insert("runAsUser".into(), json!(uid));
            security.extend(gid.map(|g| ("runAsGroup".to_string(), json!(g))));
        }
        if !security.is_empty() {
            c["securityContext"] = Value::Object(security);
        }
        c
    };
    service.preludes.iter().enumerate().map(one).collect()
}

/// Of a file system in memory that knarr's node mounts as Docker does: empty at each start of the container, with the mode and
/// owner that the file says. None: any other mount, or another cluster, where it is a volume.
fn memory_options(context: &Context<'_>, mount: &Mount) -> Option<Vec<String>> {
    match &mount.source {
        Source::Tmpfs {
            size_bytes,
            options,
        } if context.project.at_home => {
            let size = size_bytes.map(|n| format!("size={n}"));
            let read_only = mount.read_only.then(|| "ro".to_string());
            Some(
                options
                    .iter()
                    .cloned()
                    .chain(size)
                    .chain(read_only)
                    .collect(),
            )
        }
        _ => None,
    }
}

/// What another cluster makes otherwise of these mounts.
pub(super) fn differences(service: &Service) -> Vec<String> {
    let told = |mount: &Mount| match &mount.source {
        Source::Tmpfs { options, .. } if mount.target != "/dev/shm" => {
            let kept = options.iter().filter(|o| o.contains('='));
            let kept: Vec<&str> = kept.map(String::as_str).collect();
            (!kept.is_empty()).then(|| {
                format!(
                    "services.{}: tmpfs {}: {} is lost: every user may write to it there",
                    service.name,
                    mount.target,
                    kept.join(",")
                )
            })
        }
        _ => None,
    };
    let cgroups = service.settings.host_cgroups.then(|| {
        format!(
            "services.{}: cgroup: host is lost: it sees its own cgroups only",
            service.name
        )
    });
    let limits = service.settings.own_keys.iter().filter(|k| {
        // Others have a request for it.
        !matches!(k.as_str(), "cpu_shares" | "mem_reservation")
    });
    let limits = limits.map(|key| {
        let name = &service.name;
        format!("services.{name}.{key} is lost: other clusters have nothing for it")
    });
    let links = [
        ("mac_address", &service.mac),
        ("interface_name", &service.interface),
    ];
    let links = links.into_iter().filter(|(_, said)| said.is_some());
    let outer = (!service.external_links.is_empty()).then(|| {
        let name = &service.name;
        format!("services.{name}.external_links is lost: on other clusters another project's service is SERVICE.PROJECT")
    });
    let links = links.map(|(key, _)| {
        let name = &service.name;
        format!("services.{name}.{key} is lost: other clusters have nothing for it")
    });
    let mounts = service.mounts.iter().filter_map(told);
    mounts
        .chain(cgroups)
        .chain(limits)
        .chain(links)
        .chain(outer)
        .collect()
}

/// The names by which a service's only container (it has a `container_name`) means itself: a Service's address can't be
/// listened on, and many a server binds what its own name says.
fn own_names(service: &Service) -> BTreeSet<&str> {
    let only = service.names.iter().all(|n| n.said);
    let names = service.names.iter().filter(|n| {
        // For all who are in a network with it.
        only && matches!(n.scope, Scope::Networks(_))
    });
    names.map(|n| n.name.as_str()).collect()
}

/// What Kubernetes has no fields for, for knarr's node; None: nothing.
pub(super) fn settings(context: &Context<'_>, service: &Service) -> Option<Value> {
    let said = &service.settings;
    let mut all = said.limits.clone();
    if context.project.at_home {
        // The environment tells of no Service, not even the API server's, as in Docker.
        all.insert("noServices".into(), json!(true));
        let own = own_names(service);
        if !own.is_empty() {
            all.insert("ownNames".into(), json!(own));
        }
    }
    if let Some(user) = &service.security.user {
        let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
        let (uid, gid) = ids(user);
        if (uid.is_none() && !user_part.is_empty()) || (gid.is_none() && !group_part.is_empty()) {
            all.insert("user".into(), json!(user));
        }
    }
    let groups: Vec<&String> = service
        .security
        .groups
        .iter()
        .filter(|g| g.parse::<i64>().is_err())
        .collect();
    if !groups.is_empty() {
        all.insert("groups".into(), json!(groups));
    }
    for (key, value) in [
        ("pidsLimit", said.pids_limit),
        ("oomScoreAdj", said.oom_score_adj),
        ("umask", said.umask),
    ] {
        all.extend(value.map(|v| (key.to_string(), json!(v))));
    }
    if let Some(signal) = &service.stop_signal {
        all.insert("stopSignal".into(), json!(signal));
    }
    if said.host_cgroups {
        all.insert("hostCgroups".into(), json!(true));
    }
    // Of a Pod's first container, for all.
    let asks = |s: &Service| !s.sysctls.is_empty();
    if service.namespaces.joins.is_none() && context.members(service).into_iter().any(asks) {
        all.insert("ownSysctls".into(), json!(true));
    }
    if !said.devices.is_empty() {
        let list: Vec<Value> = said
            .devices
            .iter()
            .map(|(from, to, access)| json!({ "source": from, "target": to, "access": access }))
            .collect();
        all.insert("devices".into(), json!(list));
    }
    if !said.device_rules.is_empty() {
        all.insert("deviceRules".into(), json!(said.device_rules));
    }
    if !said.ulimits.is_empty() {
        let list: Vec<Value> = said
            .ulimits
            .iter()
            .map(|(name, (soft, hard))| json!({ "name": name, "soft": soft, "hard": hard }))
            .collect();
        all.insert("ulimits".into(), json!(list));
    }
    let memory: Vec<Value> = service
        .mounts
        .iter()
        .filter_map(|m| {
            Some(json!({ "destination": m.target, "options": memory_options(context, m)? }))
        })
        .collect();
    if !memory.is_empty() {
        all.insert("tmpfs".into(), json!(memory));
    }
    let own = service
        .mounts
        .iter()
        .filter(|m| m.copy_up && m.subpath.is_none());
    let mut copied: BTreeSet<String> = own.map(|m| m.target.clone()).collect();
    copied.extend(super::storage::declared(context, service));
    if !copied.is_empty() {
        all.insert("copyUp".into(), json!(copied));
    }
    (!all.is_empty()).then_some(Value::Object(all))
}
