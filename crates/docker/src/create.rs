//! `POST /containers/create`

pub mod devices;
#[cfg(test)]
mod fields;
pub mod health;
pub mod limits;
pub mod mounts;
pub mod ports;
pub mod wanted;

use crate::{
    daemon::Daemon,
    error::{Fault, Result, blocking},
    http::{self, Answer, Ask},
    images, joins, names, networks, pod,
    record::{Mounted, Record},
    volumes,
};
use kube::api::PostParams;
use mounts::{Mount, Source};
use serde_json::json;
use std::{path::Path, sync::Arc};
use wanted::Wanted;

pub async fn create(daemon: &Arc<Daemon>, mut ask: Ask) -> Result<Answer> {
    let mut body = ask.object().await?;
    if body.is_empty() {
        return Err(Fault::bad(
            "config cannot be empty in order to create a container",
        ));
    }
    if let Some(platform) = ask.query.get("platform")
        && !images::fits_machine(platform)
    {
        return Err(Fault::not_found(format!(
            "image with reference {} was found but does not provide the specified platform ({platform})",
            body.get("Image")
                .and_then(|v| v.as_str())
                .unwrap_or_default()
        )));
    }
    joins::by_id(daemon, &mut body);
    let mut wanted = Wanted::read(&body)?;
    wanted.read_bindings(&body)?;
    // SOURCE: moby `api/server/router/container` postContainersCreate
    if !ask.at_least(1, 44) && wanted.endpoints.len() > 1 {
        let names: Vec<&str> = wanted.endpoints.iter().map(|e| &*e.network).collect();
        return Err(Fault::bad(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    joins::check_named(daemon, &wanted)?;
    let asked_name = ask.query.get("name").map(names::container).transpose()?;
    let image = images::need(daemon, &wanted.image).await?;
    if image.command_missing(&wanted) {
        return Err(Fault::bad("no command specified"));
    }
    daemon.namespace().await?;
    let all = networks::all(daemon).await?;
    let (network_mode, mut endpoints, own) =
        networks::settle(&all, &wanted.host.network_mode, &wanted.endpoints)?;
    let main = endpoints.first_mut().filter(|e| e.mac.is_empty());
    if let (Some(main), false) = (main, wanted.mac.is_empty()) {
        main.mac = networks::ipam::mac(&wanted.mac)?;
    }
    let own_macs = endpoints.iter().filter(|e| !e.mac.is_empty()).count();
    if own_macs > 0 && (own_macs > 1 || network_mode == "host") {
        return Err(Fault::unsupported(
            "--mac-address (a container has one link, and on the host's network none)",
        ));
    }
    if let Some(none) = own.iter().find(|n| n.name == "none") {
        networks::ready(daemon, none).await?;
    }
    let mut bindings = wanted.host.bindings.clone();
    if wanted.host.publish_all {
        for port in wanted.exposed.iter().chain(&image.config.exposed_ports) {
            let (number, protocol) = ports::parse(port)?;
            let key = format!("{number}/{}", protocol.to_lowercase());
            let any = ports::Binding {
                ip: String::new(),
                port: 0,
                last: 0,
            };
            bindings.entry(key).or_insert_with(|| vec![any]);
        }
    }
    if network_mode == "host" && !bindings.is_empty() {
        wanted
            .warnings
            .push("Published ports are discarded when using host network mode".into());
        bindings.clear();
    }
    if own.iter().any(networks::Network::is_own) && !wanted.host.dns.is_empty() {
        wanted.warnings.push("the name servers of --dns are not asked in networks of one's own: the platform's answers there".into());
    }
    let health = match (wanted.health.clone(), image.health()) {
        (Some(mine), image) => Some(mine.over(image)),
        (None, image) => image,
    };
    let mut record = Record {
        id: names::id(),
        name: String::new(),
        created: jiff::Timestamp::now().to_string(),
        image: wanted.image.clone(),
        image_name: image.pinned(),
        image_id: image.id.clone(),
        image_digest: image.digest.clone(),
        body,
        run: 1,
        stopped: false,
        error: String::new(),
        mounts: Vec::new(),
        bindings,
        endpoints,
        network_mode,
        restarts: 0,
        health,
    };
    networks::links::check(daemon, &record, &wanted)?;
    // From here on the name is ours until the Pod is there.
    let _one = daemon.changing.lock().await;
    record.name = match asked_name {
        Some(name) => match daemon.containers.named(&name) {
            None => name,
            Some(other) => {
                return Err(Fault::conflict(format!(
                    "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
                    other.record.id
                )));
            }
        },
        None => free_name(daemon),
    };
    let claims = claims(daemon);
    ports::choose(&mut record.bindings, &claims)?;
    record.mounts = settle(daemon, &wanted, &image).await?;
    let made = {
        let (daemon, record, wanted) = (daemon.clone(), record.clone(), wanted.clone());
        blocking(move || pod::build(&daemon, &record, &wanted, &own, true))
    };
    let made = match made.await {
        Ok(pod) => daemon
            .pods()
            .create(&PostParams::default(), &pod)
            .await
            .map_err(refused),
        Err(e) => Err(e),
    };
    let pod = match made {
        Ok(pod) => pod,
        Err(e) => {
            forget_volumes(daemon, &record).await;
            return Err(e);
        }
    };
    daemon.take(pod);
    if let Some(entry) = daemon.containers.get(&record.id) {
        daemon.tell("create", &entry, &[]);
    }
    let mut warnings = wanted.warnings.clone();
    warnings.extend(unresolvable(&record));
    let answer = json!({ "Id": record.id, "Warnings": warnings });
    Ok(http::json_with(::http::StatusCode::CREATED, &answer))
}

/// Aliases that no DNS can answer are told.
fn unresolvable(record: &Record) -> Vec<String> {
    let all = record.endpoints.iter().flat_map(|e| e.aliases.iter());
    let bad = all.filter(|n| names::host_label(n).is_none());
    bad.map(|n| format!("{n:?} is no DNS name: other containers can't find this one by it"))
        .collect()
}

/// What the API says to a Pod is the client's to mend.
fn refused(e: kube::Error) -> Fault {
    match e {
        kube::Error::Api(status) if status.code == 422 || status.code == 403 => {
            Fault::bad(status.message.clone())
        }
        e => e.into(),
    }
}

/// Which ports of the machine containers have, or had.
fn claims(daemon: &Daemon) -> Vec<ports::Claim> {
    let mut claims = Vec::new();
    for entry in daemon.containers.all() {
        let active = crate::lifecycle::active(entry.state().status);
        for (port, places) in &entry.record.bindings {
            let udp = port.ends_with("/udp");
            claims.extend(
                places
                    .iter()
                    .cloned()
                    .map(|place| ports::Claim { place, udp, active }),
            );
        }
    }
    claims
}

fn free_name(daemon: &Daemon) -> String {
    for _ in 0..8 {
        let name = names::invented();
        if daemon.containers.named(&name).is_none() {
            return name;
        }
    }
    format!("{}_{}", names::invented(), &names::id()[..6])
}

/// Volumes made for a container that was not.
async fn forget_volumes(daemon: &Arc<Daemon>, record: &Record) {
    let names: Vec<String> = record
        .mounts
        .iter()
        .filter(|m| m.anonymous)
        .map(|m| m.name.clone())
        .collect();
    let daemon = daemon.clone();
    let _ = blocking(move || {
        names
            .iter()
            .try_for_each(|name| volumes::delete(&daemon, name))
    })
    .await;
}

/// Decides what is mounted where, and makes what is missing.
async fn settle(
    daemon: &Arc<Daemon>,
    wanted: &Wanted,
    image: &images::Known,
) -> Result<Vec<Mounted>> {
    let mut list = wanted.host.mounts.clone();
    let mut settled: Vec<Mounted> = Vec::new();
    for spec in &wanted.host.volumes_from {
        let (name, read_only) = mounts::from(spec);
        let other = daemon.containers.find(name);
        let other = other.map_err(|f| Fault::bad(f.message))?;
        for mount in &other.record.mounts {
            let mut mount = mount.clone();
            mount.read_only |= read_only;
            // it's the other container's
            mount.anonymous = false;
            settled.push(mount);
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for mount in &list {
        if seen.contains(&mount.target.as_str()) {
            return Err(Fault::bad(format!(
                "Duplicate mount point: {}",
                mount.target
            )));
        }
        seen.push(&mount.target);
    }
    settled.retain(|m| !seen.contains(&m.target.as_str()));
    for path in wanted.volumes.iter().chain(&image.config.volumes) {
        let target = mounts::clean(path);
        let taken =
            list.iter().any(|m| m.target == target) || settled.iter().any(|m| m.target == target);
        if !taken {
            list.push(mounts::anonymous(&target));
        }
    }
    let (daemon, layers) = (daemon.clone(), image.layers.clone());
    blocking(move || {
        for mount in list {
            settled.push(one(&daemon, mount, &layers)?);
        }
        Ok(settled)
    })
    .await
}

fn one(daemon: &Daemon, mount: Mount, layers: &[std::path::PathBuf]) -> Result<Mounted> {
    let mut settled = Mounted {
        kind: String::new(),
        name: String::new(),
        source: String::new(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        propagation: mount.propagation,
        mode: mount.mode,
        sub_path: mount.sub_path,
        options: Vec::new(),
        shallow: mount.shallow,
        anonymous: false,
    };
    match mount.source {
        Source::Bind { path, make } => {
            // asked once: a container whose folder has gone since is still listed, and removed
            if !make && !Path::new(&path).exists() {
                return Err(Fault::bad(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {path}"
                )));
            }
            if make && !Path::new(&path).exists() {
                std::fs::create_dir_all(&path).map_err(|e| {
                    Fault::server(format!(
                        "error while creating mount source path '{path}': mkdir {path}: {e}"
                    ))
                })?;
            }
            settled.kind = "bind".into();
            settled.source = path;
        }
        Source::Tmpfs { options } => {
            settled.kind = "tmpfs".into();
            settled.options = options;
        }
        Source::Image { name } => {
            let known = images::find(daemon, &name)?;
            settled.kind = "image".into();
            settled.name = known.pinned();
            settled.source = name;
        }
        Source::Volume {
            name,
            copy,
            labels,
            options,
        } => {
            let asked = Some(name.as_str()).filter(|n| !n.is_empty());
            let volume = volumes::make(daemon, asked, labels, options)?;
            if copy {
                volumes::fill(daemon, &volume, layers, &mount.target)?;
            }
            settled.kind = "volume".into();
            settled.source = volumes::place(daemon, &volume)
                .to_string_lossy()
                .into_owned();
            settled.anonymous = asked.is_none();
            settled.name = volume.name;
        }
    }
    Ok(settled)
}
