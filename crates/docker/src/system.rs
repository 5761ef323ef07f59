//! What the daemon is, and what it holds.

use crate::{
    API_VERSION, API_VERSION_MIN,
    daemon::Daemon,
    error::{Fault, Result, blocking},
    filters::Filters,
    http::{self, Answer, Ask, Fields, json},
    images, list,
    state::Status,
    volumes,
};
use ::http::{Method, StatusCode, header};
use axum::body::Body;
use serde_json::{Value, json as value};
use std::sync::Arc;

/// Docker's version that speaks our newest API.
const LIKE: &str = "28.5.2";

fn machine() -> (&'static str, &'static str) {
    let go = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    (go, std::env::consts::ARCH)
}

fn dotted((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// `GET /_ping`, `HEAD /_ping`
pub fn ping(ask: &Ask) -> Answer {
    let head = http::answer(StatusCode::OK)
        .header(header::CACHE_CONTROL, "no-cache, no-store, must-revalidate")
        .header(header::PRAGMA, "no-cache")
        .header("builder-version", "1")
        .header("swarm", "inactive")
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    match ask.method == Method::HEAD {
        true => http::with(head.header(header::CONTENT_LENGTH, "0"), Body::empty()),
        false => http::with(head, "OK"),
    }
}

/// `GET /version`
pub fn version(daemon: &Daemon) -> Answer {
    let (go_arch, _) = machine();
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy().into_owned();
    json(&value!({
        "Platform": { "Name": "knarr" },
        "Components": [{
            "Name": "Engine",
            "Version": LIKE,
            "Details": {
                "ApiVersion": dotted(API_VERSION),
                "MinAPIVersion": dotted(API_VERSION_MIN),
                "Arch": go_arch,
                "Os": "linux",
                "KernelVersion": kernel,
                "Experimental": "false",
                "GitCommit": "",
                "GoVersion": "",
                "BuildTime": "",
            },
        }, {
            "Name": "knarr", "Version": daemon.version, "Details": {},
        }],
        "Version": LIKE,
        "ApiVersion": dotted(API_VERSION),
        "MinAPIVersion": dotted(API_VERSION_MIN),
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": go_arch,
        "KernelVersion": kernel,
        "BuildTime": "",
    }))
}

fn meminfo() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kb = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kb.unwrap_or(0) << 10
}

fn os_name() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux".into(), |n| n.trim_matches('"').to_string())
}

/// `GET /info`
pub async fn info(daemon: &Arc<Daemon>) -> Result<Answer> {
    let count = |status: &[Status]| {
        let all = daemon.containers.all();
        all.iter()
            .filter(|e| status.contains(&e.state().status))
            .count()
    };
    let uname = rustix::system::uname();
    let (_, arch) = machine();
    let worker = daemon.clone();
    let images = blocking(move || {
        let mut ids: Vec<String> = worker.images.list()?.into_iter().map(|i| i.id).collect();
        ids.sort();
        ids.dedup();
        Ok(ids.len())
    });
    let cgroups = match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => "2",
        false => "1",
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(json(&value!({
        "ID": format!("knarr-{}", daemon.node),
        "Containers": daemon.containers.all().len(),
        "ContainersRunning": count(&[Status::Running, Status::Restarting]),
        "ContainersPaused": count(&[Status::Paused]),
        "ContainersStopped": count(&[Status::Exited, Status::Created]),
        "Images": images.await?,
        "Driver": "overlay2",
        "DriverStatus": [["Backing", "knarr image store"]],
        "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null, "Log": ["json-file"] },
        "MemoryLimit": true,
        "SwapLimit": false,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": false,
        "PidsLimit": true,
        "IPv4Forwarding": true,
        "Debug": false,
        "NFd": 0,
        "OomKillDisable": false,
        "NGoroutines": 0,
        "SystemTime": jiff::Timestamp::now().to_string(),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroups,
        "NEventsListener": 0,
        "KernelVersion": uname.release().to_string_lossy(),
        "OperatingSystem": os_name(),
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": arch,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": { "IndexConfigs": {}, "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"], "Mirrors": null },
        "NCPU": cpus,
        "MemTotal": meminfo(),
        "GenericResources": null,
        "DockerRootDir": daemon.data_dir,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": daemon.node,
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": LIKE,
        "Runtimes": { "runc": { "path": "knarr" } },
        "DefaultRuntime": "runc",
        "Swarm": {
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "knarr",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "CDISpecDirs": [],
        "Warnings": null,
    })))
}

/// `GET /system/df`
pub async fn disk_usage(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let kinds: Vec<String> = ask
        .query
        .all("type")
        .into_iter()
        .map(str::to_string)
        .collect();
    if let Some(kind) = kinds
        .iter()
        .find(|k| !matches!(k.as_str(), "container" | "image" | "volume" | "build-cache"))
    {
        return Err(Fault::bad(format!("unknown object type: {kind}")));
    }
    let worker = daemon.clone();
    let shown = blocking(move || {
        let wants = |kind: &str| kinds.is_empty() || kinds.iter().any(|k| k == kind);
        let none = Filters::default();
        let mut shown = value!({ "BuildCache": [], "BuilderSize": 0 });
        if wants("build-cache") {
            let (all, sum) = crate::build::usage(&worker)?;
            shown["BuildCache"] = Value::Array(all);
            shown["BuilderSize"] = value!(sum);
        }
        if wants("image") {
            let all = images::summaries(&worker, &none)?;
            let sum: u64 = all.iter().filter_map(|i| i["Size"].as_u64()).sum();
            shown["LayersSize"] = value!(sum);
            shown["Images"] = Value::Array(
                all.into_iter()
                    .map(|mut i| {
                        i["SharedSize"] = value!(0);
                        i
                    })
                    .collect(),
            );
        }
        if wants("container") {
            shown["Containers"] = Value::Array(list::collect(&worker, &none, true, None, true)?);
        }
        if wants("volume") {
            shown["Volumes"] = Value::Array(volumes::usage(&worker));
        }
        Ok(shown)
    });
    Ok(json(&shown.await?))
}

/// `POST /auth`: whether the registry takes a login; nothing is kept here, the client has it.
///
/// SOURCE: moby `daemon/pkg/registry/auth.go` loginV2
pub async fn auth(mut ask: Ask) -> Result<Answer> {
    let asked = Value::Object(ask.object().await?);
    let mut f = Fields::new(asked.as_object().cloned().unwrap_or_default(), "AuthConfig");
    let server = f.text("serveraddress")?.unwrap_or_default();
    let bare = server.split_once("://").map_or(server.as_str(), |(_, s)| s);
    let registry = match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    let Some(credential) = images::credential(&asked) else {
        return Err(Fault::bad("a login needs a username and a password"));
    };
    let config = knarr_image::client::ClientConfig::default();
    use knarr_image::client::Error;
    match knarr_image::client::check_login(&config, registry, credential).await {
        Ok(()) => {}
        Err(Error::Denied { .. }) => {
            return Err(Fault::unauthorized(format!(
                "login attempt to https://{registry}/v2/ failed with status: 401 Unauthorized"
            )));
        }
        Err(e) => return Err(Fault::server(e)),
    }
    Ok(json(
        &value!({ "Status": "Login Succeeded", "IdentityToken": "" }),
    ))
}

/// What belongs to a swarm, which this is not.
pub fn swarm() -> Fault {
    Fault::unavailable(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
    )
}
