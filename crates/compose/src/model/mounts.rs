//! `volumes:`, `tmpfs:`, and where configs and secrets go.

use super::{Notes, Service, section, values};
use crate::{
    Error,
    read::volume::clean,
    tree::{Node, Value},
    units,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// Where a mount's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A named volume, by its key in the file.
    Named(String),
    Bind {
        path: PathBuf,
        /// It is made when it is not there.
        create: bool,
        /// As Kubernetes calls it: `None`, `HostToContainer`, `Bidirectional`.
        propagation: Option<&'static str>,
    },
    /// Lives as long as the container's Pod.
    Anonymous,
    Tmpfs {
        size_bytes: Option<u64>,
        /// Others, as `mount -t tmpfs -o` takes them: `mode=0700`, `uid=5`, `exec`, …
        options: Vec<String>,
    },
    /// An image's files.
    Image(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: Source,
    pub target: String,
    pub read_only: bool,
    /// What the image has at the target goes into a fresh volume.
    pub copy_up: bool,
    pub subpath: Option<String>,
}

/// A config or secret in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMount {
    /// Its key in the file.
    pub source: String,
    /// Absolute.
    pub target: String,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volume {
    Claim {
        /// What the file calls it with `name:`; None: its key.
        name: Option<String>,
        labels: BTreeMap<String, String>,
        /// Made elsewhere.
        external: bool,
    },
    Host(PathBuf),
    Nfs {
        server: String,
        path: String,
        read_only: bool,
    },
    Tmpfs {
        size_bytes: Option<u64>,
    },
}

pub(super) fn mounts(service: &Node, notes: &mut Notes) -> Result<Vec<Mount>, Error> {
    let mut all = Vec::new();
    for node in service.get("volumes").map(Node::items).unwrap_or_default() {
        all.push(mount(node, notes)?);
    }
    for item in tmpfs_items(service) {
        let text = item.scalar().unwrap_or_default();
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut size_bytes = None;
        let mut read_only = false;
        let mut others = Vec::new();
        for option in options.split(',').filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("size", size)) => {
                    size_bytes = Some(
                        units::bytes(size)
                            .ok_or_else(|| item.error(format!("tmpfs: {size:?} is not a size")))?,
                    );
                }
                Some(("mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks", _)) => {
                    others.push(option.to_string());
                }
                None if option == "ro" => read_only = true,
                None if matches!(
                    option,
                    "rw" | "exec"
                        | "noexec"
                        | "suid"
                        | "nosuid"
                        | "dev"
                        | "nodev"
                        | "noatime"
                        | "relatime"
                        | "async"
                ) =>
                {
                    others.push(option.to_string());
                }
                _ => return Err(item.error(format!("tmpfs: unknown option {option:?}"))),
            }
        }
        all.push(Mount {
            source: Source::Tmpfs {
                size_bytes,
                options: others,
            },
            target: clean(target),
            read_only,
            copy_up: false,
            subpath: None,
        });
    }
    if let Some(size) = values::size(service, "shm_size")? {
        all.push(Mount {
            source: Source::Tmpfs {
                size_bytes: Some(size),
                options: vec!["mode=1777".into()],
            },
            target: "/dev/shm".into(),
            read_only: false,
            copy_up: false,
            subpath: None,
        });
    }
    Ok(all)
}

fn tmpfs_items(service: &Node) -> Vec<&Node> {
    match service.get("tmpfs") {
        Some(n) if n.str().is_some() => vec![n],
        Some(n) => n.items().iter().collect(),
        None => vec![],
    }
}

fn mount(node: &Node, notes: &mut Notes) -> Result<Mount, Error> {
    let source = node.text_of("source");
    let target = node.text_of("target").ok_or_else(|| {
        node.error("volumes: target is missing: say where it goes in the container")
    })?;
    if !target.starts_with('/') {
        return Err(node.error(format!(
            "volumes: invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    let volume = node.get("volume");
    let mut subpath = volume.and_then(|v| v.text_of("subpath"));
    if let Some(labels) = volume.and_then(|v| v.get("labels")) {
        notes.say(
            labels,
            "volume.labels is ignored: give the top-level volume labels",
        );
    }
    let kind = node.text_of("type").unwrap_or_default();
    let source = match (kind.as_str(), source) {
        ("volume", Some(name)) => Source::Named(name),
        ("volume", None) => Source::Anonymous,
        ("bind", Some(path)) => {
            let bind = node.get("bind");
            if let Some(at) = bind.and_then(|b| b.get("selinux")) {
                notes.say(at, "bind.selinux is ignored: knarr labels no files");
            }
            let propagation = match bind.and_then(|b| b.text_of("propagation")).as_deref() {
                None | Some("private" | "rprivate") => None,
                Some("slave" | "rslave") => Some("HostToContainer"),
                Some("shared" | "rshared") => Some("Bidirectional"),
                Some(other) => {
                    return Err(node.error(format!("bind.propagation: unknown {other:?}")));
                }
            };
            if let Some(at) = bind.and_then(|b| b.get("recursive"))
                && !matches!(at.str(), Some("enabled" | "writable"))
            {
                return Err(at.error(
                    "bind.recursive: knarr binds what is mounted below as well: leave it out",
                ));
            }
            Source::Bind {
                path: path.into(),
                create: bind.is_none_or(|b| b.bool_of("create_host_path")),
                propagation,
            }
        }
        ("tmpfs", _) => {
            let options = node.get("tmpfs");
            let mode = options.map_or(Ok(None), |t| values::integer(t, "mode"))?;
            Source::Tmpfs {
                size_bytes: options.map_or(Ok(None), |t| values::size(t, "size"))?,
                options: mode.map(|m| format!("mode={m:o}")).into_iter().collect(),
            }
        }
        ("image", Some(image)) => {
            subpath = node.get("image").and_then(|i| i.text_of("subpath"));
            Source::Image(image)
        }
        (kind @ ("bind" | "image"), None) => {
            return Err(node.error(format!("volumes: source is missing for type {kind:?}")));
        }
        (kind, _) => {
            return Err(node.error(format!(
                "volumes: knarr has no volumes of type {kind:?}: use volume, bind, tmpfs or image"
            )));
        }
    };
    Ok(Mount {
        copy_up: matches!(source, Source::Named(_) | Source::Anonymous)
            && !volume.is_some_and(|v| v.bool_of("nocopy")),
        read_only: node.bool_of("read_only") || kind == "image",
        source,
        target: clean(&target),
        subpath,
    })
}

/// Where the configs or secrets of a service go.
pub(super) fn files(
    service: &Node,
    kind: &str,
    notes: &mut Notes,
) -> Result<Vec<FileMount>, Error> {
    let mut all = Vec::new();
    for node in service.get(kind).map(Node::items).unwrap_or_default() {
        let source = node.text_of("source").unwrap_or_default();
        let target = node.text_of("target").unwrap_or_else(|| match kind {
            "secrets" => format!("/run/secrets/{source}"),
            _ => format!("/{source}"),
        });
        for key in ["uid", "gid"] {
            if let Some(at) = node.get(key).filter(|a| a.scalar().as_deref() != Some("0")) {
                notes.say(at, format!("{kind}.{key} is ignored: the file belongs to root, and its mode lets others read it"));
            }
        }
        let mode = match node.get("mode") {
            None => None,
            Some(at) => {
                let mode = match &at.value {
                    Value::Text(t) => u32::from_str_radix(t.trim_start_matches("0o"), 8).ok(),
                    Value::Int(n) => u32::try_from(*n).ok(),
                    _ => None,
                };
                Some(mode.filter(|m| *m <= 0o7777).ok_or_else(|| {
                    at.error(format!(
                        "{kind}.mode: {} is not a file mode such as 0440",
                        at.value
                    ))
                })?)
            }
        };
        all.push(FileMount {
            source,
            target: match (target.starts_with('/'), kind) {
                (true, _) => clean(&target),
                (false, "secrets") => clean(&format!("/run/secrets/{target}")),
                (false, _) => clean(&format!("/{target}")),
            },
            mode: mode.map(|m| m & 0o777),
        });
    }
    Ok(all)
}

/// `volumes_from`: the other service's mounts, where the service has none of its own.
pub(super) fn volumes_from(
    services: &mut BTreeMap<String, Service>,
    tree: &Node,
) -> Result<(), Error> {
    let names: Vec<String> = services.keys().cloned().collect();
    let mut done = BTreeSet::new();
    for name in names {
        take_over(&name, services, tree, &mut done)?;
    }
    Ok(())
}

/// What a service takes over is what others have after they have taken over theirs.
fn take_over(
    name: &str,
    services: &mut BTreeMap<String, Service>,
    tree: &Node,
    done: &mut BTreeSet<String>,
) -> Result<(), Error> {
    if !done.insert(name.to_string()) {
        return Ok(());
    }
    let node = tree.get("services").and_then(|s| s.get(name));
    let list = node.and_then(|n| n.get("volumes_from"));
    for item in list.map(Node::items).unwrap_or_default() {
        let text = item.scalar().unwrap_or_default();
        let (from, mode) = text.split_once(':').unwrap_or((&text, "rw"));
        if services.contains_key(from) {
            take_over(from, services, tree, done)?;
        }
        let Some(base) = services.get(from) else {
            return Err(item.error(format!(
                "volumes_from: {text:?}: no active service is called {from:?}"
            )));
        };
        let mut taken = base.mounts.clone();
        let mut shared = vec![(from.to_string(), false)];
        shared.extend(base.volumes_from.clone());
        if let Some(service) = services.get_mut(name) {
            // What has no name is found when its image is known.
            taken.retain(|m| {
                m.source != Source::Anonymous
                    && !service.mounts.iter().any(|o| o.target == m.target)
            });
            for mount in &mut taken {
                mount.read_only |= mode == "ro";
            }
            service.mounts.extend(taken);
            let shared = shared.into_iter().map(|(f, ro)| (f, ro || mode == "ro"));
            service.volumes_from.extend(shared);
        }
    }
    Ok(())
}

pub(super) fn volumes(
    tree: &Node,
    services: &BTreeMap<String, Service>,
) -> Result<BTreeMap<String, Volume>, Error> {
    let used: BTreeSet<&String> = services
        .values()
        .flat_map(|s| &s.mounts)
        .filter_map(|m| match &m.source {
            Source::Named(name) => Some(name),
            _ => None,
        })
        .collect();
    let mut all = BTreeMap::new();
    for (name, node) in section(tree, "volumes").filter(|(n, _)| used.contains(n)) {
        let implied = format!("{}_{name}", tree.text_of("name").unwrap_or_default());
        all.insert(name.clone(), volume(name, node, &implied)?);
    }
    Ok(all)
}

/// `implied` is the name that the normal form gives a volume that says none.
fn volume(name: &str, node: &Node, implied: &str) -> Result<Volume, Error> {
    let driver = node.text_of("driver").unwrap_or("local".into());
    if !matches!(driver.as_str(), "local" | "default" | "") {
        return Err(node.get("driver").unwrap_or(node).error(format!(
            "volumes.{name}.driver: knarr has no volume driver {driver:?}: leave it out, or use local with driver_opts"
        )));
    }
    let options: BTreeMap<String, String> =
        values::pairs(node, "driver_opts").into_iter().collect();
    let external = node.bool_of("external");
    let given = node.text_of("name").filter(|n| n != implied);
    if options.is_empty() {
        return Ok(Volume::Claim {
            name: given,
            labels: values::pairs(node, "labels").into_iter().collect(),
            external,
        });
    }
    let at = node.get("driver_opts").unwrap_or(node);
    let get = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let flags: Vec<&str> = get("o").split(',').filter(|o| !o.is_empty()).collect();
    let device = get("device");
    match get("type") {
        "none" | "" if flags.iter().any(|f| matches!(*f, "bind" | "rbind")) => {
            Ok(Volume::Host(device.into()))
        }
        "nfs" | "nfs4" => {
            let server = flags.iter().find_map(|f| f.strip_prefix("addr="));
            let (host, path) = device.split_once(':').unwrap_or(("", device));
            let server = server.unwrap_or(host);
            if server.is_empty() || path.is_empty() {
                return Err(at.error(format!(
                    "volumes.{name}.driver_opts: an nfs volume needs o: addr=SERVER and device: \":/PATH\""
                )));
            }
            Ok(Volume::Nfs {
                server: server.into(),
                path: path.into(),
                read_only: flags.contains(&"ro"),
            })
        }
        "tmpfs" => {
            let size = flags.iter().find_map(|f| f.strip_prefix("size="));
            Ok(Volume::Tmpfs {
                size_bytes: size.and_then(units::bytes),
            })
        }
        other => Err(at.error(format!(
            "volumes.{name}.driver_opts: knarr can't mount type {other:?}: use type none with o: bind, nfs or tmpfs"
        ))),
    }
}
