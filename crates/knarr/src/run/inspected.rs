//! What `inspect` tells of a container, in the shape that Docker's clients know.
//!
//! SOURCE: moby `api/types/container` (InspectResponse, Config, HostConfig), Docker 28

use super::{
    health, network,
    options::{Network, Port, Restart, VolumeKind},
    record::{Home, Joined, Record},
    show::{networks, time},
};
use knarr_runtime::State;
use serde_json::{Map, Value, json};

/// Of what has not been yet.
const NEVER: &str = "0001-01-01T00:00:00Z";

pub fn inspected(home: &Home, record: &Record, state: &State) -> Value {
    let (program, arguments) = record
        .args
        .split_first()
        .map_or((String::new(), vec![]), |(p, a)| (p.clone(), a.to_vec()));
    let etc = |name: &str| home.container(&record.id).join("etc").join(name);
    let image = match record.said.image_id.is_empty() {
        true => &record.image_digest,
        false => &record.said.image_id,
    };
    json!({
        "Id": record.id,
        "Created": time(record.created),
        "Path": program,
        "Args": arguments,
        "State": shown_state(home, record, state),
        "Image": image,
        "ResolvConfPath": etc("resolv.conf"),
        "HostnamePath": etc("hostname"),
        "HostsPath": etc("hosts"),
        "LogPath": if record.no_log { Value::from("") } else { json!(home.log(&record.id)) },
        "Name": format!("/{}", record.name),
        "RestartCount": record.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": record.apparmor,
        "ExecIDs": null,
        "HostConfig": host_config(record),
        "GraphDriver": { "Data": { "UpperDir": home.layer(&record.id).join("upper") }, "Name": "overlay2" },
        "Mounts": mounts(home, record),
        "Config": config(record),
        "NetworkSettings": network_settings(home, record, matches!(state, State::Running { .. })),
    })
}

fn shown_state(home: &Home, record: &Record, state: &State) -> Value {
    let running = matches!(state, State::Running { .. });
    let (status, pid, started, code, finished, error) = match state {
        State::Created => ("created", 0, None, 0, None, ""),
        State::Running { pid, since } => ("running", *pid, Some(*since), 0, None, ""),
        State::Exited { since, exit } => ("exited", 0, *since, exit.code, Some(exit.at), ""),
        State::Failed(text) => ("created", 0, None, 128, None, text.as_str()),
    };
    let mut shown = json!({
        "Status": if running && record.paused { "paused" } else { status },
        "Running": running,
        "Paused": running && record.paused,
        "Restarting": false,
        "OOMKilled": matches!(state, State::Exited { exit, .. } if exit.oom_killed),
        "Dead": false,
        "Pid": pid,
        "ExitCode": code,
        "Error": error,
        "StartedAt": started.map_or(NEVER.into(), time),
        "FinishedAt": finished.map_or(NEVER.into(), time),
    });
    let health = health::shown(home, record);
    if !health.is_null() {
        shown["Health"] = health;
    }
    shown
}

fn config(record: &Record) -> Value {
    let said = &record.said;
    let (entrypoint, command) = record.args.split_at(said.entrypoint.min(record.args.len()));
    let attached = |stream: bool| !said.detached && stream;
    let mut shown = json!({
        "Hostname": record.hostname,
        "Domainname": said.domain,
        "User": said.user,
        "AttachStdin": attached(record.interactive),
        "AttachStdout": attached(true),
        "AttachStderr": attached(true),
        "Tty": record.tty,
        "OpenStdin": record.interactive,
        "StdinOnce": attached(record.interactive),
        "Env": record.env,
        "Cmd": if command.is_empty() { Value::Null } else { json!(command) },
        "Image": record.image,
        "Volumes": null,
        "WorkingDir": record.cwd,
        "Entrypoint": if entrypoint.is_empty() { Value::Null } else { json!(entrypoint) },
        "OnBuild": null,
        "Labels": record.labels,
    });
    let exposed = said.exposed.iter().map(|port| (port.clone(), json!({})));
    let published = record.ports.iter().map(|p| (name(p), json!({})));
    let exposed: Map<String, Value> = exposed.chain(published).collect();
    if !exposed.is_empty() {
        shown["ExposedPorts"] = exposed.into();
    }
    if let Some(signal) = &said.stop_signal {
        shown["StopSignal"] = json!(signal);
    }
    if let Some(seconds) = said.stop_timeout {
        shown["StopTimeout"] = json!(seconds);
    }
    if let Some(health) = &record.health {
        shown["Healthcheck"] = json!({
            "Test": health.test, "Interval": health.interval, "Timeout": health.timeout, "Retries": health.retries,
            "StartPeriod": health.start_period, "StartInterval": health.start_interval,
        });
    }
    shown
}

fn name(port: &Port) -> String {
    format!("{}/{}", port.container, port.protocol)
}

fn or_null<T: serde::Serialize>(list: &[T]) -> Value {
    match list.is_empty() {
        true => Value::Null,
        false => json!(list),
    }
}

fn host_config(record: &Record) -> Value {
    let (said, limits) = (&record.said, &record.resources);
    let mut bindings = Map::new();
    for port in &record.ports {
        let asked = match port.range {
            Some((from, to)) => format!("{from}-{to}"),
            None if port.chosen || port.host == 0 => String::new(),
            None => port.host.to_string(),
        };
        let ip = port.ip.map_or(String::new(), |ip| ip.to_string());
        let list = bindings.entry(name(port)).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!({ "HostIp": ip, "HostPort": asked }));
        }
    }
    let mode = match &record.network_of {
        Some(id) => format!("container:{id}"),
        None => networks(record).into_iter().next().unwrap_or_default(),
    };
    let (policy, most) = match record.restart {
        Restart::No => ("no", 0),
        Restart::OnFailure(most) => ("on-failure", most),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
    };
    let devices = record.devices.iter().map(|d| {
        json!({ "PathOnHost": d.source, "PathInContainer": d.target, "CgroupPermissions": d.access })
    });
    let devices: Vec<Value> = devices.collect();
    let rlimits = record
        .rlimits
        .iter()
        .map(|l| json!({ "Name": l.name, "Soft": l.soft, "Hard": l.hard }));
    let hosts: Vec<String> = (record.extra_hosts.iter())
        .map(|(name, ip)| format!("{name}:{ip}"))
        .collect();
    let options: Map<String, Value> = said
        .log_options
        .iter()
        .map(|(k, v)| (k.clone(), json!(v)))
        .collect();
    let nano_cpus = said.cpus.map_or(0, |cpus| (cpus * 1e9).round() as i64);
    let quota = |unset: bool, value: Option<i64>| match unset {
        true => 0,
        false => value.unwrap_or(0),
    };
    let (host_pid, host_ipc) = (record.host_pid, record.host_ipc);
    let mut shown = json!({
        "Binds": or_null(&said.binds),
        "ContainerIDFile": "",
        "LogConfig": { "Type": if record.no_log { "none" } else { said.log_driver.as_deref().unwrap_or("json-file") }, "Config": options },
        "NetworkMode": mode,
        "PortBindings": bindings,
        "RestartPolicy": { "Name": policy, "MaximumRetryCount": most },
        "AutoRemove": record.remove,
        "VolumeDriver": "",
        "VolumesFrom": or_null(&said.volumes_from),
        "ConsoleSize": [0, 0],
        "CapAdd": or_null(&said.cap_add),
        "CapDrop": or_null(&said.cap_drop),
        "CgroupnsMode": if record.host_cgroups { "host" } else { "private" },
        "Dns": record.dns,
        "DnsOptions": record.dns_options,
        "DnsSearch": record.dns_search,
        "ExtraHosts": or_null(&hosts),
        "GroupAdd": or_null(&said.groups),
        "IpcMode": if host_ipc { "host" } else { "private" },
        "Cgroup": "",
        "Links": or_null(&record.links.iter().map(|l| format!("/{}:/{}/{}", l.name, record.name, l.alias)).collect::<Vec<_>>()),
        "OomScoreAdj": record.oom_score_adj,
        "PidMode": match &record.pid_of { Some(id) => format!("container:{id}"), None if host_pid => "host".into(), None => String::new() },
        "Privileged": record.privileged,
    });
    let further = json!({
        "PublishAllPorts": said.publish_all,
        "ReadonlyRootfs": record.read_only,
        "SecurityOpt": or_null(&said.security),
        "UTSMode": "",
        "UsernsMode": "",
        "ShmSize": said.shm_size.unwrap_or(64 << 20),
        "Runtime": "runc",
        "Isolation": "",
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "Memory": limits.memory_limit_bytes.unwrap_or(0),
        "NanoCpus": nano_cpus,
        "CgroupParent": "",
        "BlkioWeight": limits.io.weight.unwrap_or(0),
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [],
    });
    let more = json!({
        "CpuPeriod": quota(said.cpus.is_some(), limits.cpu_period_us.and_then(|n| i64::try_from(n).ok())),
        "CpuQuota": quota(said.cpus.is_some(), limits.cpu_quota_us),
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "Devices": devices,
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
        "MemoryReservation": limits.memory_soft_bytes.unwrap_or(0),
        "MemorySwap": limits.memory_swap_bytes.or(limits.memory_limit_bytes.map(|n| n.saturating_mul(2))).unwrap_or(0),
        "MemorySwappiness": limits.memory_swappiness,
        "OomKillDisable": null,
        "PidsLimit": limits.pids_limit,
        "Ulimits": rlimits.collect::<Vec<_>>(),
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    });
    if let (Value::Object(shown), Value::Object(further), Value::Object(more)) =
        (&mut shown, further, more)
    {
        shown.extend(further);
        shown.extend(more);
        if !record.sysctls.is_empty() {
            shown.insert("Sysctls".into(), json!(record.sysctls));
        }
        if record.init {
            shown.insert("Init".into(), true.into());
        }
        let tmpfs = record.volumes.iter().filter_map(|v| match &v.kind {
            VolumeKind::Tmpfs(options)
                if said
                    .tmpfs
                    .iter()
                    .any(|t| std::path::Path::new(t) == v.target) =>
            {
                Some((v.target.display().to_string(), json!(options)))
            }
            _ => None,
        });
        let tmpfs: Map<String, Value> = tmpfs.collect();
        if !tmpfs.is_empty() {
            shown.insert("Tmpfs".into(), tmpfs.into());
        }
    }
    shown
}

fn mounts(home: &Home, record: &Record) -> Vec<Value> {
    let one = |volume: &super::options::Volume| {
        let (kind, source) = match &volume.kind {
            VolumeKind::Bind(path, _) => ("bind", path.display().to_string()),
            VolumeKind::Named(name) => ("volume", home.volume(name).display().to_string()),
            VolumeKind::Tmpfs(_) => ("tmpfs", String::new()),
        };
        let mut shown = json!({
            "Type": kind, "Source": source, "Destination": volume.target,
            "Mode": if volume.read_only { "ro" } else { "" }, "RW": !volume.read_only,
            "Propagation": if kind == "bind" { volume.propagation.as_str() } else { "" },
        });
        if let VolumeKind::Named(name) = &volume.kind {
            shown["Name"] = json!(name);
            shown["Driver"] = json!("local");
        }
        shown
    };
    record.volumes.iter().map(one).collect()
}

fn network_settings(home: &Home, record: &Record, running: bool) -> Value {
    let mut ports = Map::new();
    if running {
        for port in &record.said.exposed {
            ports.insert(port.clone(), Value::Null);
        }
        for port in &record.ports {
            let ip = port.ip.map_or("0.0.0.0".into(), |ip| ip.to_string());
            let shown = json!({ "HostIp": ip, "HostPort": port.host.to_string() });
            match ports.get_mut(&name(port)).and_then(Value::as_array_mut) {
                Some(list) => list.push(shown),
                None => drop(ports.insert(name(port), json!([shown]))),
            }
        }
    }
    let places = places(record);
    // those of the default network stand at the top, too
    let (address, gateway, bits, mac) = match places.get("bridge") {
        Some(p) => (
            &p["IPAddress"],
            &p["Gateway"],
            &p["IPPrefixLen"],
            &p["MacAddress"],
        ),
        None => (&Value::Null, &Value::Null, &Value::Null, &Value::Null),
    };
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let address = match (address, record.address) {
        // what has asked there before networks were shown goes on finding it
        (Value::Null, Some(first)) => first.to_string(),
        (address, _) => text(address),
    };
    let pin = home.container(&record.id).join("runtime/pins");
    json!({
        "Bridge": "",
        "SandboxID": if running { record.id.as_str() } else { "" },
        "SandboxKey": if running { json!(pin.join(super::life::inner_id(record)).join("net")) } else { json!("") },
        "Ports": ports,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": if running && places.contains_key("bridge") { record.id.as_str() } else { "" },
        "Gateway": text(gateway),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": address,
        "IPPrefixLen": bits.as_u64().unwrap_or(0),
        "IPv6Gateway": "",
        "MacAddress": text(mac),
        "Networks": places,
    })
}

/// Its place in each of its networks.
fn places(record: &Record) -> Map<String, Value> {
    let mut all = Map::new();
    if record.network_of.is_some() {
        return all;
    }
    let link = record
        .links
        .iter()
        .map(|l| format!("{}:{}", l.name, l.alias));
    let links = or_null(&link.collect::<Vec<_>>());
    let one = |joined: &Joined, names: Value| {
        let held = record
            .address
            .filter(|_| joined.subnet.is_none() || joined.address.is_some());
        let (ip, bits, gateway) = match (held, joined.address, &joined.subnet) {
            (None, ..) => (String::new(), 0, String::new()),
            (Some(_), Some(ip), Some((bits, gateway))) => {
                (ip.to_string(), *bits, gateway.to_string())
            }
            (Some(first), ..) => (first.to_string(), 32, network::gateway().to_string()),
        };
        let asked = joined.asked.map(|ip| json!({ "IPv4Address": ip }));
        json!({
            "IPAMConfig": asked,
            "Links": if record.networks.is_empty() { Value::Null } else { links.clone() },
            "Aliases": or_null(&joined.aliases),
            "MacAddress": if record.address.is_some() { record.mac.clone().unwrap_or_default() } else { String::new() },
            "DriverOpts": null,
            "GwPriority": 0,
            "NetworkID": joined.id,
            "EndpointID": if record.address.is_some() { record.id.as_str() } else { "" },
            "Gateway": gateway,
            "IPAddress": ip,
            "IPPrefixLen": bits,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "DNSNames": names,
        })
    };
    for joined in &record.networks {
        let mut names = vec![record.name.clone(), record.short().to_string()];
        names.extend(joined.aliases.iter().cloned());
        all.insert(joined.name.clone(), one(joined, json!(names)));
    }
    if record.networks.is_empty() && record.network != Network::Container {
        let name = networks(record).concat();
        all.insert(name, one(&Joined::default(), Value::Null));
    }
    all
}
