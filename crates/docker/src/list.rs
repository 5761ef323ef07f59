//! `GET /containers/json`

use crate::{
    containers::Entry,
    create::{ports, wanted::Wanted},
    daemon::Daemon,
    error::{Fault, Result, blocking},
    filters::Filters,
    http::{Answer, Ask, json},
    lifecycle,
    state::{State, Status},
    volumes,
};
use serde_json::{Map, Value, json as value};
use std::sync::Arc;

const KNOWN: [&str; 17] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "label!",
    "until",
];

pub fn endpoints(daemon: &Daemon, entry: &Entry, state: &State) -> Value {
    let runs = matches!(state.status, Status::Running | Status::Paused);
    let range = daemon
        .pod_ranges
        .first()
        .map(String::as_str)
        .unwrap_or_default();
    let bits: u32 = range
        .split_once('/')
        .and_then(|(_, b)| b.parse().ok())
        .unwrap_or(16);
    let mut map = Map::new();
    for endpoint in &entry.record.endpoints {
        let addressed = runs && entry.record.network_mode != "host";
        let names = match matches!(endpoint.network.as_str(), "bridge" | "host" | "none") {
            true => Value::Null,
            false => {
                let mut names = vec![entry.record.name.clone()];
                names.extend(endpoint.aliases.iter().cloned());
                names.push(entry.record.short().to_string());
                value!(names)
            }
        };
        let own = endpoint.address;
        let ip = own.map_or_else(|| state.ip.clone(), |a| a.ip().to_string());
        let gateway = endpoint.gateway.map_or(daemon.gateway(), Into::into);
        map.insert(endpoint.network.clone(), value!({
            "IPAMConfig": endpoint.asked.map(|ip| value!({ "IPv4Address": ip })),
            "Links": if endpoint.links.is_empty() { Value::Null } else { value!(endpoint.links) },
            "Aliases": if endpoint.aliases.is_empty() { Value::Null } else { value!(endpoint.aliases) },
            "DNSNames": names,
            "NetworkID": endpoint.network_id,
            "EndpointID": if runs { endpoint.id.as_str() } else { "" },
            "Gateway": if addressed { gateway.to_string() } else { String::new() },
            "IPAddress": if addressed { ip.as_str() } else { "" },
            "IPPrefixLen": if addressed { own.map_or(bits, |a| a.bits().into()) } else { 0 },
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "MacAddress": endpoint.mac,
            "DriverOpts": null,
        }));
    }
    Value::Object(map)
}

pub fn mounts(entry: &Entry) -> Value {
    // SOURCE: moby: what `--tmpfs` says is shown there alone
    let host = crate::create::wanted::object(&entry.record.body, "HostConfig");
    let memory = crate::create::wanted::object(&host, "Tmpfs");
    let said = |m: &&crate::record::Mounted| {
        let by_flag = memory
            .keys()
            .any(|k| crate::create::mounts::clean(k) == m.target);
        m.kind != "tmpfs" || !by_flag
    };
    let shown = entry.record.mounts.iter().filter(said).map(|m| {
        let mut shown = value!({
            "Type": m.kind,
            "Source": m.source,
            "Destination": m.target,
            "Mode": if m.kind == "volume" && m.mode.is_empty() && binds(&host, &m.target) { "z" } else { m.mode.as_str() },
            "RW": !m.read_only,
            "Propagation": if m.kind == "bind" && m.propagation.is_empty() { "rprivate" } else { m.propagation.as_str() },
        });
        if m.kind == "volume" {
            shown["Name"] = value!(m.name);
            shown["Driver"] = value!("local");
        }
        shown
    });
    Value::Array(shown.collect())
}

/// Whether it's one of `-v`: a volume without a mode is shown with Docker's own.
fn binds(host: &Map<String, Value>, target: &str) -> bool {
    let all = host.get("Binds").and_then(Value::as_array);
    let mut all = all.into_iter().flatten().filter_map(Value::as_str);
    all.any(|bind| {
        bind.split(':')
            .nth(1)
            .is_some_and(|t| crate::create::mounts::clean(t) == target)
    })
}

/// The command line, as one.
pub fn command(wanted: &Wanted, image: Option<&knarr_image::ImageConfig>) -> Vec<String> {
    let of_image = |list: fn(&knarr_image::ImageConfig) -> &Vec<String>| {
        image.map(|i| list(i).clone()).unwrap_or_default()
    };
    let mut all = match &wanted.entrypoint {
        Some(entrypoint) => entrypoint.clone(),
        None => of_image(|i| &i.entrypoint),
    };
    all.extend(match (&wanted.cmd, &wanted.entrypoint) {
        (Some(cmd), _) => cmd.clone(),
        (None, Some(_)) => vec![],
        (None, None) => of_image(|i| &i.cmd),
    });
    all.retain(|part| !part.is_empty());
    all
}

fn port_list(wanted: &Wanted, entry: &Entry, state: &State) -> Vec<Value> {
    let mut list = Vec::new();
    if !lifecycle::active(state.status) {
        return list;
    }
    for (port, places) in &entry.record.bindings {
        let Ok((number, protocol)) = ports::parse(port) else {
            continue;
        };
        for place in places {
            let ip = if place.ip.is_empty() {
                "0.0.0.0"
            } else {
                &place.ip
            };
            list.push(value!({
                "IP": ip, "PrivatePort": number, "PublicPort": place.port, "Type": protocol.to_lowercase(),
            }));
        }
    }
    for port in &wanted.exposed {
        if let Ok((number, protocol)) = ports::parse(port)
            && !entry
                .record
                .bindings
                .contains_key(&format!("{number}/{}", protocol.to_lowercase()))
        {
            list.push(value!({ "PrivatePort": number, "Type": protocol.to_lowercase() }));
        }
    }
    list
}

/// The image's own command and labels are read once per image.
struct Images<'a> {
    daemon: &'a Daemon,
    known: std::collections::HashMap<String, Option<knarr_image::ImageConfig>>,
}

impl Images<'_> {
    fn config(&mut self, name: &str) -> Option<&knarr_image::ImageConfig> {
        if !self.known.contains_key(name) {
            let found = self.daemon.images.resolve(name).ok().flatten();
            self.known.insert(name.to_string(), found.map(|i| i.config));
        }
        self.known.get(name)?.as_ref()
    }
}

pub fn labels(
    wanted: &Wanted,
    image: Option<&knarr_image::ImageConfig>,
) -> std::collections::BTreeMap<String, String> {
    let mut labels = image.map(|i| i.labels.clone()).unwrap_or_default();
    labels.extend(wanted.labels.clone());
    labels
}

pub async fn list(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = Filters::read(&ask.query)?;
    filters.only(&KNOWN)?;
    let limit = ask.query.int("limit")?.filter(|n| *n > 0);
    let all = ask.query.flag("all") || limit.is_some();
    let size = ask.query.flag("size");
    crate::others::awake(daemon).await;
    let worker = daemon.clone();
    let shown = blocking(move || collect(&worker, &filters, all, limit, size));
    let mut shown = shown.await?;
    // SOURCE: moby `api/server/router/container/container_routes.go` getContainersJSON
    if !ask.at_least(1, 46) {
        for one in &mut shown {
            if let Some(host) = one["HostConfig"].as_object_mut() {
                host.remove("Annotations");
            }
        }
    }
    Ok(json(&Value::Array(shown)))
}

/// Blocking.
pub fn collect(
    daemon: &Daemon,
    filters: &Filters,
    all: bool,
    limit: Option<i64>,
    size: bool,
) -> Result<Vec<Value>> {
    for status in filters.get("status") {
        if !matches!(
            status.as_str(),
            "created" | "restarting" | "running" | "removing" | "paused" | "exited" | "dead"
        ) {
            return Err(Fault::bad(format!(
                "invalid filter 'status={status}': invalid value for state ({status}): must be one of created, running, paused, restarting, removing, exited, dead"
            )));
        }
    }
    for health in filters.get("health") {
        if !matches!(
            health.as_str(),
            "" | "none" | "starting" | "healthy" | "unhealthy"
        ) {
            return Err(Fault::bad(format!(
                "invalid filter 'health={health}': invalid value for health ({health}): must be one of none, starting, healthy, unhealthy"
            )));
        }
    }
    for key in ["publish", "expose"] {
        filters
            .get(key)
            .iter()
            .try_for_each(|v| port_filter(key, v).map(drop))?;
    }
    let exited = filters.get("exited").iter().map(|v| {
        v.parse::<i32>().map_err(|_| {
            Fault::bad(format!(
                "invalid filter 'exited={v}': strconv.Atoi: parsing {v:?}: invalid syntax"
            ))
        })
    });
    let exited: Vec<i32> = exited.collect::<Result<_>>()?;
    let made = |key: &str| {
        let entry = filters.get(key).first().map(|r| daemon.containers.find(r));
        entry
            .transpose()
            .map(|e| e.map(|e| e.record.created.clone()))
    };
    let (before, since) = (made("before")?, made("since")?);
    let ancestors: Vec<Option<String>> = filters
        .get("ancestor")
        .iter()
        .map(|name| crate::images::find(daemon, name).ok().map(|k| k.id))
        .collect();
    // Asking for a state or an end is asking for those that don't run, too.
    let all =
        all || filters.has("status") || !exited.is_empty() || before.is_some() || since.is_some();
    let mut images = Images {
        daemon,
        known: Default::default(),
    };
    let mut shown = Vec::new();
    // Docker's own come first.
    let entries = daemon.containers.all().into_iter();
    for entry in entries.chain(daemon.others.all()) {
        let (record, state) = (&entry.record, entry.state());
        let wanted = Wanted::read(&record.body)?;
        let image = images.config(&record.image_name);
        let labels = labels(&wanted, image);
        let networks = |v: &str| {
            record.endpoints.iter().any(|e| {
                e.network == v
                    || e.network_id == v
                    || (v.len() >= 12 && e.network_id.starts_with(v))
            })
        };
        let health = state.health.unwrap_or("none");
        let port = |v: &str, published: bool| {
            let Ok((numbers, protocol)) = port_filter("", v) else {
                return false;
            };
            let exposed = |key: &String| match key.split_once('/') {
                Some((number, of)) => {
                    of == protocol && number.parse().is_ok_and(|n| numbers.contains(&n))
                }
                None => false,
            };
            match published {
                true => record.bindings.iter().any(|(p, list)| {
                    p.ends_with(&protocol) && list.iter().any(|b| numbers.contains(&b.port))
                }),
                false => wanted.exposed.iter().any(exposed) || record.bindings.keys().any(exposed),
            }
        };
        let fits = (all || lifecycle::active(state.status))
            && filters.any("status", |v| v == state.status.text())
            && filters.any("id", |v| record.id.starts_with(v))
            && filters.any("name", |v| name_fits(&record.name, v))
            && filters.labels("label", &labels)
            && filters.any("network", networks)
            && filters.any("health", |v| v == health)
            && filters.any("volume", |v| {
                record
                    .mounts
                    .iter()
                    .any(|m| m.name == v || m.target == v || m.source == v)
            })
            && filters.any("is-task", |v| !matches!(v, "true" | "1"))
            && filters.any("expose", |v| port(v, false))
            && filters.any("publish", |v| port(v, true))
            && (exited.is_empty()
                || (state.status == Status::Exited && exited.contains(&state.exit_code)))
            && (ancestors.is_empty()
                || ancestors.iter().flatten().any(|id| *id == record.image_id))
            && before.as_ref().is_none_or(|b| record.created < *b)
            && since.as_ref().is_none_or(|s| record.created > *s);
        if !fits {
            continue;
        }
        let created = record
            .created
            .parse::<jiff::Timestamp>()
            .map_or(0, |t| t.as_second());
        let mut host_config = value!({ "NetworkMode": record.network_mode });
        let annotations = record.body.get("HostConfig").map(|h| &h["Annotations"]);
        if let Some(annotations) = annotations.filter(|a| !a.is_null()) {
            host_config["Annotations"] = annotations.clone();
        }
        let mut one = value!({
            "Id": record.id,
            "Names": [format!("/{}", record.name)],
            "Image": record.image,
            "ImageID": record.image_id,
            "Command": command(&wanted, image).join(" "),
            "Created": created,
            "Ports": port_list(&wanted, &entry, &state),
            "Labels": labels,
            "State": state.status.text(),
            "Status": state.sentence(),
            "HostConfig": host_config,
            "NetworkSettings": { "Networks": endpoints(daemon, &entry, &state) },
            "Mounts": mounts(&entry),
        });
        if size {
            let written = volumes::size(&daemon.machine.layer(crate::NAMESPACE, &record.id));
            let image = daemon.images.resolve(&record.image_name).ok().flatten();
            one["SizeRw"] = value!(written);
            one["SizeRootFs"] = value!(written + image.map_or(0, |i| i.size_bytes));
        }
        shown.push(one);
        if limit.is_some_and(|l| i64::try_from(shown.len()).is_ok_and(|n| n >= l)) {
            break;
        }
    }
    Ok(shown)
}

/// `80`, `80/udp`, `8000-8010`: the numbers, and the protocol.
///
/// SOURCE: moby `daemon/list.go` portOp
fn port_filter(key: &str, value: &str) -> Result<(std::ops::RangeInclusive<u16>, String)> {
    if value.contains(':') {
        return Err(Fault::server(format!(
            "filter for '{key}' should not contain ':': {value}"
        )));
    }
    let (ports, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| {
        text.parse::<u16>().map_err(|_| {
            Fault::server(format!(
                "error while looking up for {key} {value}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        })
    };
    Ok((number(first)?..=number(last)?, protocol.to_lowercase()))
}

/// As a regular expression that clients send: `^/web$`, `web`.
fn name_fits(name: &str, pattern: &str) -> bool {
    let (start, rest) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (end, rest) = match rest.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let (start_ok, end_ok) = (name.starts_with(rest), name.ends_with(rest));
    match (start, end) {
        (true, true) => name == rest,
        (true, false) => start_ok,
        (false, true) => end_ok,
        (false, false) => name.contains(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::name_fits;

    #[test]
    fn names_are_filtered() {
        for (name, pattern, wanted) in [
            ("web", "web", true),
            ("my-web-1", "web", true),
            ("my-web-1", "^web", false),
            ("web", "^/web$", true),
            ("web1", "^/web$", false),
            ("web", "b$", true),
        ] {
            assert_eq!(name_fits(name, pattern), wanted, "{name} {pattern}");
        }
    }
}
