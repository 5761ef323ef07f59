//! `GET /containers/{id}/json`

use crate::{
    create::{
        health::Health,
        wanted::{Wanted, object},
    },
    daemon::Daemon,
    error::{Result, blocking},
    http::{Answer, Ask, json},
    lifecycle, list,
    machine::Checks,
    volumes,
};
use serde_json::{Map, Value, json as value};
use std::sync::Arc;

pub async fn inspect(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let entry = match daemon.containers.find(reference) {
        Ok(entry) => entry,
        Err(error) => {
            crate::others::awake(daemon).await;
            daemon.others.find(reference).ok_or(error)?
        }
    };
    let size = ask.query.flag("size");
    let worker = daemon.clone();
    let shown = blocking(move || {
        let daemon = &worker;
        let (record, state) = (&entry.record, entry.state());
        let wanted = Wanted::read(&record.body)?;
        let image = daemon.images.resolve(&record.image_name).ok().flatten();
        let image = image.as_ref();
        let config_of_image = image.map(|i| &i.config);
        let line = list::command(&wanted, config_of_image);
        let pid = match lifecycle::active(state.status) {
            true => daemon.machine.pid(&daemon.pod_name(&entry)).unwrap_or(0),
            false => 0,
        };
        let checks = match record.health {
            Some(_) => daemon.machine.checks(&daemon.pod_name(&entry)),
            None => Checks::default(),
        };
        let timeout = record.health.as_ref().map_or(0, Health::timeout);
        let endpoints = list::endpoints(daemon, &entry, &state);
        let mac = record.endpoints.iter().find(|e| !e.mac.is_empty());
        let mac = mac.map(|e| e.mac.as_str()).unwrap_or_default();
        let mut ports = Map::new();
        let published = lifecycle::active(state.status);
        let image_ports = config_of_image
            .into_iter()
            .flat_map(|i| i.exposed_ports.iter());
        for port in wanted.exposed.iter().chain(image_ports) {
            ports.insert(port.clone(), Value::Null);
        }
        for (port, places) in record.bindings.iter().filter(|_| published) {
            let places = places.iter().map(|p| {
                let ip = if p.ip.is_empty() { "0.0.0.0" } else { &p.ip };
                value!({ "HostIp": ip, "HostPort": p.port.to_string() })
            });
            ports.insert(port.clone(), Value::Array(places.collect()));
        }
        let mut shown = value!({
            "Id": record.id,
            "Created": record.created,
            "Path": line.first().cloned().unwrap_or_default(),
            "Args": line.get(1..).unwrap_or_default(),
            "State": state.json(pid, &checks, timeout),
            "Image": record.image_id,
            "ResolvConfPath": "",
            "HostnamePath": "",
            "HostsPath": "",
            "LogPath": "",
            "Name": format!("/{}", record.name),
            "RestartCount": state.restarts,
            "Driver": "overlay2",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": match daemon.execs.of(&record.id) {
                ids if ids.is_empty() => Value::Null,
                ids => value!(ids),
            },
            "HostConfig": host_config(record),
            "GraphDriver": { "Name": "overlay2", "Data": {
                "UpperDir": daemon.machine.layer(crate::NAMESPACE, &record.id),
            } },
            "Mounts": list::mounts(&entry),
            "Config": config(record, &wanted, image),
            "NetworkSettings": {
                "SandboxID": entry.uid(),
                "SandboxKey": "",
                "Ports": ports,
                "Networks": endpoints,
                "Bridge": "",
                "HairpinMode": false,
                "LinkLocalIPv6Address": "",
                "LinkLocalIPv6PrefixLen": 0,
                "SecondaryIPAddresses": null,
                "SecondaryIPv6Addresses": null,
                "EndpointID": "",
                "Gateway": "",
                "GlobalIPv6Address": "",
                "GlobalIPv6PrefixLen": 0,
                "IPAddress": "",
                "IPPrefixLen": 0,
                "IPv6Gateway": "",
                "MacAddress": mac,
            },
        });
        // of the default network, old clients read it at the top
        if let Some(bridge) = shown["NetworkSettings"]["Networks"].get("bridge").cloned() {
            for key in ["EndpointID", "Gateway", "IPAddress", "IPPrefixLen"] {
                shown["NetworkSettings"][key] = bridge[key].clone();
            }
        }
        if size {
            let written = volumes::size(&daemon.machine.layer(crate::NAMESPACE, &record.id));
            shown["SizeRw"] = value!(written);
            shown["SizeRootFs"] = value!(written + image.map_or(0, |i| i.size_bytes));
        }
        Ok(shown)
    });
    Ok(json(&shown.await?))
}

/// SOURCE: moby `oci/defaults.go`
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// As asked for, with what was filled in.
fn host_config(record: &crate::record::Record) -> Value {
    let mut host = object(&record.body, "HostConfig");
    host.insert("NetworkMode".into(), value!(record.network_mode));
    // as the daemon keeps them: `/other:/this/alias`
    if let Some(Value::Array(links)) = host.get_mut("Links") {
        for link in links.iter_mut() {
            let (target, alias) = crate::networks::links::split(link.as_str().unwrap_or_default());
            *link = value!(format!("/{target}:/{}/{alias}", record.name));
        }
    }
    let says = |p: &Value| p["Name"].as_str().is_some_and(|n| !n.is_empty());
    if host.get("RestartPolicy").is_none_or(|p| !says(p)) {
        host.insert(
            "RestartPolicy".into(),
            value!({ "Name": "no", "MaximumRetryCount": 0 }),
        );
    }
    let log = host.entry("LogConfig").or_insert_with(|| value!({}));
    if log["Type"].as_str().unwrap_or_default().is_empty() {
        let config = log["Config"].take();
        let config = if config.is_object() {
            config
        } else {
            value!({})
        };
        *log = value!({ "Type": "json-file", "Config": config });
    }
    for (key, default) in [
        ("PortBindings", value!({})),
        ("IpcMode", value!("private")),
        ("ShmSize", value!(64 << 20)),
        ("Runtime", value!("runc")),
        ("ConsoleSize", value!([0, 0])),
        ("CgroupnsMode", value!("private")),
    ] {
        let missing = host.get(key).is_none_or(crate::http::is_zero);
        if missing {
            host.insert(key.into(), default);
        }
    }
    let privileged = host.get("Privileged").and_then(Value::as_bool) == Some(true);
    for (key, usual) in [
        ("MaskedPaths", &MASKED[..]),
        ("ReadonlyPaths", &READ_ONLY[..]),
    ] {
        match host.get(key) {
            Some(Value::Array(_)) => {}
            _ if privileged => drop(host.insert(key.into(), Value::Null)),
            _ => drop(host.insert(key.into(), value!(usual))),
        }
    }
    Value::Object(host)
}

fn config(
    record: &crate::record::Record,
    wanted: &Wanted,
    image: Option<&knarr_image::Image>,
) -> Value {
    let mut config = record.body.clone();
    config.remove("HostConfig");
    config.remove("NetworkingConfig");
    let image = image.map(|i| i.config.clone()).unwrap_or_default();
    let mut env = wanted.env.clone();
    for variable in &image.env {
        let name = variable.split('=').next().unwrap_or_default();
        if !wanted.env.iter().any(|v| v.split('=').next() == Some(name)) {
            env.push(variable.clone());
        }
    }
    let labels = list::labels(wanted, Some(&image));
    let or = |mine: &str, image: &str| {
        if mine.is_empty() {
            image.to_string()
        } else {
            mine.to_string()
        }
    };
    let cmd = match (&wanted.cmd, &wanted.entrypoint) {
        (Some(cmd), _) => Some(cmd.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(image.cmd.clone()).filter(|c| !c.is_empty()),
    };
    let entrypoint = wanted
        .entrypoint
        .clone()
        .or(Some(image.entrypoint.clone()).filter(|e| !e.is_empty()));
    let mut set = |key: &str, value: Value| drop(config.insert(key.into(), value));
    set("Env", value!(env));
    set("Labels", value!(labels));
    set("Cmd", value!(cmd));
    set("Entrypoint", value!(entrypoint));
    set("Image", value!(record.image));
    set("User", value!(or(&wanted.user, &image.user)));
    set(
        "WorkingDir",
        value!(or(&wanted.workdir, &image.working_dir)),
    );
    let hostname = match wanted.hostname.is_empty() {
        true => record.short().to_string(),
        false => wanted.hostname.clone(),
    };
    set("Hostname", value!(hostname));
    if let Some(health) = &record.health {
        set(
            "Healthcheck",
            value!({
                "Test": health.test, "Interval": health.interval, "Timeout": health.timeout,
                "Retries": health.retries, "StartPeriod": health.start_period, "StartInterval": health.start_interval,
            }),
        );
    }
    if wanted.stop_signal.is_none()
        && let Some(signal) = &image.stop_signal
    {
        set("StopSignal", value!(signal));
    }
    for (key, more) in [
        ("ExposedPorts", &image.exposed_ports),
        ("Volumes", &image.volumes),
    ] {
        let mut all = object(&record.body, key);
        for one in more {
            all.entry(one.clone()).or_insert(value!({}));
        }
        if !all.is_empty() {
            config.insert(key.into(), Value::Object(all));
        }
    }
    Value::Object(config)
}
