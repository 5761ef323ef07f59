//! A Pod's template: the containers of a service, and of those that share its namespaces.

use super::{Context, container, dns_name, names, names::digest, policies, storage::Volumes};
use crate::Service;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Docker's default.
const GRACE_SECONDS: i64 = 10;
/// Labels that no annotation can be called, as JSON.
const LABELS: &str = "knarr.dev/labels";
/// What the configs and secrets hold, so that a change of them replaces the Pod.
const CONTENTS: &str = "knarr.dev/contents";

/// On knarr: volumes whose claim is of many Pods, each of which has a folder of its own. Their names, with spaces between.
pub const OWN_FOLDERS: &str = "knarr.dev/own-folders";
/// On knarr: a host's name that Kubernetes would not take.
const HOSTNAME: &str = "knarr.dev/hostname";

/// On knarr: the hardware address of the Pod's interface, and its name.
const MAC: &str = "knarr.dev/mac-address";
const INTERFACE: &str = "knarr.dev/interface-name";

/// On knarr: when a container starts again.
const RESTART: &str = "restart.knarr.dev/";

fn restart(service: &Service) -> String {
    let own = service.restart;
    let mut said = match own.on_failure {
        true => "on-failure".to_string(),
        false => "always".into(),
    };
    if let Some(most) = own.most {
        said += &format!(":{most}");
    }
    for (key, time) in [("delay", own.delay), ("window", own.window)] {
        if let Some(time) = time {
            said += &format!(" {key}={}", time.as_secs_f64());
        }
    }
    said
}

/// Adds what a file says of labels as annotations: their values may be anything, a label's may not.
pub(super) fn annotate(metadata: &mut Value, labels: &BTreeMap<String, String>) {
    if labels.is_empty() {
        return;
    }
    let (good, others): (Vec<_>, Vec<_>) = labels.iter().partition(|(k, _)| names::is_qualified(k));
    let mut all = metadata["annotations"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    all.extend(good.into_iter().map(|(k, v)| (k.clone(), json!(v))));
    if !others.is_empty() {
        let others: BTreeMap<_, _> = others.into_iter().collect();
        all.insert(LABELS.into(), json!(json!(others).to_string()));
    }
    metadata["annotations"] = Value::Object(all);
}

pub(super) fn template(context: &Context<'_>, lead: &Service, members: &[&Service]) -> Value {
    let mut volumes = Volumes::default();
    let (mut containers, mut preludes) = (Vec::new(), Vec::new());
    let mut metadata = json!({ "labels": context.selector(lead) });
    for service in members {
        let mounts = container::mounts(context, service, &mut volumes);
        preludes.extend(container::preludes(context, service, &mounts));
        containers.push(container::container(context, service, mounts));
        annotate(&mut metadata, &service.labels);
        annotate(&mut metadata, &service.annotations);
        if context.project.at_home && !matches!(lead.mode, crate::Mode::Job(..)) {
            let key = format!("{RESTART}{}", dns_name(&service.name));
            let own = BTreeMap::from([(key, restart(service))]);
            annotate(&mut metadata, &own);
        }
        if let Some(settings) = container::settings(context, service) {
            let key = format!("knarr.dev/container.{}", dns_name(&service.name));
            annotate(
                &mut metadata,
                &BTreeMap::from([(key, settings.to_string())]),
            );
        }
    }
    if !volumes.contents.is_empty() {
        let all = digest(volumes.contents.join(" ").as_bytes(), 16);
        annotate(&mut metadata, &BTreeMap::from([(CONTENTS.into(), all)]));
    }
    if !volumes.own_folders.is_empty() {
        let all = volumes.own_folders.join(" ");
        annotate(&mut metadata, &BTreeMap::from([(OWN_FOLDERS.into(), all)]));
    }
    for label in policies::labels(context, members) {
        metadata["labels"][label] = json!("true");
    }
    let mut spec = json!({ "containers": containers, "enableServiceLinks": false, "automountServiceAccountToken": false });
    if !preludes.is_empty() {
        spec["initContainers"] = json!(preludes);
    }
    if !volumes.all.is_empty() {
        spec["volumes"] = json!(volumes.all.into_values().collect::<Vec<_>>());
    }
    let grace = members.iter().filter_map(|m| m.stop_grace).max();
    spec["terminationGracePeriodSeconds"] =
        json!(grace.map_or(GRACE_SECONDS, |g| g.as_secs_f64().ceil() as i64));
    if members.iter().any(|m| m.stop_signal.is_some()) {
        // Signals have numbers of their own on each system.
        spec["os"] = json!({ "name": "linux" });
    }
    let any = |f: fn(&Service) -> bool| members.iter().any(|m| f(m));
    for (key, on) in [
        ("hostNetwork", any(|m| m.namespaces.host_network)),
        ("hostPID", any(|m| m.namespaces.host_pid)),
        ("hostIPC", any(|m| m.namespaces.host_ipc)),
    ] {
        if on {
            spec[key] = json!(true);
        }
    }
    if any(|m| m.namespaces.share_pid || m.init) && !any(|m| m.namespaces.host_pid) {
        spec["shareProcessNamespace"] = json!(true);
    }
    if any(|m| m.namespaces.host_network) {
        // Names of the project are still found.
        spec["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    }
    hostname(lead, &mut spec);
    if let Some(name) = own_hostname(lead, &spec).filter(|_| context.project.at_home) {
        annotate(&mut metadata, &BTreeMap::from([(HOSTNAME.into(), name)]));
    }
    for (key, said) in [(MAC, &lead.mac), (INTERFACE, &lead.interface)] {
        if let Some(said) = said.as_ref().filter(|_| context.project.at_home) {
            annotate(&mut metadata, &BTreeMap::from([(key.into(), said.clone())]));
        }
    }
    hosts(context, members, &mut spec);
    dns(members, &mut spec);
    security(members, &mut spec);
    affinity(lead, context.project.at_home, &mut spec);
    json!({ "metadata": metadata, "spec": spec })
}

fn hostname(lead: &Service, spec: &mut Value) {
    let label = |text: &str| {
        let kept = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
        kept.collect::<String>()
            .to_lowercase()
            .trim_matches('-')
            .to_string()
    };
    let Some(name) = &lead.hostname else {
        return;
    };
    let full = match &lead.domainname {
        Some(domain) => format!("{name}.{domain}"),
        None => name.clone(),
    };
    let labels: Vec<String> = full
        .split('.')
        .map(label)
        .filter(|l| !l.is_empty())
        .collect();
    match &labels[..] {
        [one] => spec["hostname"] = json!(&one[..one.len().min(63)]),
        [] => {}
        _ if lead.namespaces.host_network => {}
        _ => {
            let joined = labels.join(".");
            spec["hostnameOverride"] = json!(joined[..joined.len().min(64)].trim_end_matches('.'));
        }
    }
}

/// The name as it is written (`my_db`, `MyHost`), where Kubernetes has to call it otherwise and Linux does not.
fn own_hostname(lead: &Service, spec: &Value) -> Option<String> {
    let name = lead.hostname.as_ref()?;
    let full = match &lead.domainname {
        Some(domain) => format!("{name}.{domain}"),
        None => name.clone(),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let said = spec.get("hostname").or(spec.get("hostnameOverride"));
    (full.len() <= 64 && full.bytes().all(plain) && said.is_some_and(|s| *s != full.as_str()))
        .then_some(full)
}

/// `extra_hosts`; `host-gateway` is the machine itself.
fn hosts(context: &Context<'_>, members: &[&Service], spec: &mut Value) {
    let mut by_ip: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let gateway = context.project.host_gateway.as_deref();
    for (host, ip) in members.iter().flat_map(|m| &m.extra_hosts) {
        let ip = match ip.as_str() {
            "host-gateway" => gateway,
            ip => Some(ip),
        };
        if let Some(ip) = ip {
            by_ip.entry(ip).or_default().insert(host);
        }
    }
    let aliases: Vec<Value> = by_ip
        .iter()
        .map(|(ip, hosts)| json!({ "ip": ip, "hostnames": hosts }))
        .collect();
    if !aliases.is_empty() {
        spec["hostAliases"] = json!(aliases);
    }
}

fn dns(members: &[&Service], spec: &mut Value) {
    let mut config = Map::new();
    let all = |f: fn(&Service) -> &Vec<String>| -> Vec<&String> {
        members.iter().flat_map(|m| f(m)).collect()
    };
    // The project's own names are asked for first, as with Docker's resolver, and others of the servers given.
    for (key, list) in [
        ("nameservers", all(|m| &m.dns)),
        ("searches", all(|m| &m.dns_search)),
    ] {
        if !list.is_empty() {
            config.insert(key.into(), json!(list));
        }
    }
    let options: Vec<Value> = all(|m| &m.dns_options)
        .into_iter()
        .map(|o| match o.split_once(':') {
            Some((name, value)) => json!({ "name": name, "value": value }),
            None => json!({ "name": o }),
        })
        .collect();
    if !options.is_empty() {
        config.insert("options".into(), json!(options));
    }
    if !config.is_empty() {
        spec["dnsConfig"] = Value::Object(config);
    }
}

fn security(members: &[&Service], spec: &mut Value) {
    let mut context = Map::new();
    let sysctls: BTreeMap<&String, &String> = members
        .iter()
        .flat_map(|m| &m.sysctls)
        .map(|(k, v)| (k, v))
        .collect();
    if !sysctls.is_empty() {
        let list: Vec<Value> = sysctls
            .iter()
            .map(|(k, v)| json!({ "name": k, "value": v }))
            .collect();
        context.insert("sysctls".into(), json!(list));
    }
    let groups: BTreeSet<i64> = members
        .iter()
        .flat_map(|m| &m.security.groups)
        .filter_map(|g| g.parse().ok())
        .collect();
    if !groups.is_empty() {
        context.insert("supplementalGroups".into(), json!(groups));
    }
    if !context.is_empty() {
        spec["securityContext"] = Value::Object(context);
    }
}

/// Which nodes it is for. At home they are only preferred: where Docker Compose runs it, nobody asks for labels.
fn affinity(lead: &Service, at_home: bool, spec: &mut Value) {
    if lead.placement.is_empty() {
        return;
    }
    let rules: Vec<Value> = lead
        .placement
        .iter()
        .map(|(key, value, is)| {
            json!({ "key": key, "operator": if *is { "In" } else { "NotIn" }, "values": [value] })
        })
        .collect();
    let nodes = json!({ "matchExpressions": rules });
    let affinity = match at_home {
        true => {
            json!({ "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "preference": nodes }] })
        }
        false => {
            json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [nodes] } })
        }
    };
    spec["affinity"] = json!({ "nodeAffinity": affinity });
}
