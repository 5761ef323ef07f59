//! Edits of a container that a driver has written to a file and names: the Container Device Interface.
//!
//! Source: github.com/cncf-tags/container-device-interface, `SPEC.md` (v1.0.0) and `pkg/cdi`.

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use knarr_runtime::{ContainerSpec, Device, Mount};
use serde::Deserialize;

/// Where the files are on every machine.
pub(crate) const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// A longer file isn't one.
const FILE_BYTES_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 4096;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    kind: String,
    devices: Vec<Named>,
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    net_devices: Vec<serde_json::Value>,
    hooks: Vec<Hook>,
    mounts: Vec<Bind>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeviceNode {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: String,
    major: i64,
    minor: i64,
    file_mode: Option<u32>,
    permissions: String,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hook {
    hook_name: String,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bind {
    host_path: PathBuf,
    container_path: PathBuf,
    options: Vec<String>,
}

/// Puts the edits that are named into the container. Blocking.
///
/// # Errors
/// When one isn't known, or is of a kind that isn't supported; nothing is to be started then.
pub(super) fn inject(
    folders: &[PathBuf],
    spec: &mut ContainerSpec,
    names: &[String],
) -> Result<(), String> {
    resolve(folders, spec, names).map_err(|why| format!("CDI device injection failed: {why}"))
}

fn resolve(folders: &[PathBuf], spec: &mut ContainerSpec, names: &[String]) -> Result<(), String> {
    let files = read_all(folders);
    let mut unknown = Vec::new();
    let mut edits: Vec<&Edits> = Vec::new();
    let mut whole: Vec<usize> = Vec::new();
    for name in names {
        let found = name.split_once('=').and_then(|(kind, device)| {
            let of_kind = files.iter().enumerate().rev();
            let mut of_kind = of_kind.filter(|(_, f)| f.kind == kind);
            of_kind.find_map(|(i, f)| Some((i, f.devices.iter().find(|d| d.name == device)?)))
        });
        let Some((file, device)) = found else {
            unknown.push(name.as_str());
            continue;
        };
        // what a file says of all its devices comes once, and first
        if !whole.contains(&file) {
            whole.push(file);
            edits.push(&files[file].container_edits);
        }
        edits.push(&device.container_edits);
    }
    if !unknown.is_empty() {
        return Err(format!("unresolvable CDI devices {}", unknown.join(", ")));
    }
    edits.into_iter().try_for_each(|e| apply(e, spec))
}

/// Of several files that name a device, the last counts.
fn read_all(folders: &[PathBuf]) -> Vec<File> {
    let mut all = Vec::new();
    for folder in folders {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.take(FILES_MAX).map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            let kind = path.extension().and_then(|e| e.to_str());
            if !matches!(kind, Some("json" | "yaml")) {
                continue;
            }
            match read(&path) {
                Ok(file) => all.push(file),
                Err(why) => tracing::warn!(file = %path.display(), %why, "its devices are unknown"),
            }
        }
    }
    all
}

fn read(path: &Path) -> Result<File, String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return Err(format!("it is no file of at most {FILE_BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|e| e.to_string()),
        _ => serde_saphyr::from_str(&text).map_err(|e| e.to_string()),
    }
}

fn apply(edits: &Edits, spec: &mut ContainerSpec) -> Result<(), String> {
    if let Some(hook) = edits.hooks.first() {
        return Err(format!(
            "a {} hook is asked for, and this runtime runs none: use a driver that does without",
            hook.hook_name
        ));
    }
    if !edits.net_devices.is_empty() {
        return Err("network devices can't be moved into containers by this runtime".into());
    }
    let mut env: BTreeMap<&str, &str> = BTreeMap::new();
    for line in &edits.env {
        let (name, _) = line
            .split_once('=')
            .ok_or_else(|| format!("invalid environment variable {line:?}"))?;
        env.insert(name, line);
    }
    spec.env.retain(|line| {
        let name = line.split('=').next().unwrap_or_default();
        !env.contains_key(name)
    });
    spec.env.extend(env.into_values().map(str::to_owned));
    // runtimes work out HOME when all else is there, so it comes last
    if let Some(at) = spec.env.iter().position(|line| line.starts_with("HOME=")) {
        let home = spec.env.remove(at);
        spec.env.push(home);
    }
    for wanted in &edits.device_nodes {
        let device = node(wanted)?;
        spec.devices.retain(|d| d.path != device.path);
        spec.devices.push(device);
    }
    for wanted in &edits.mounts {
        spec.mounts
            .retain(|m| m.destination != wanted.container_path);
        spec.mounts.push(bind(wanted));
    }
    if !edits.mounts.is_empty() {
        // one may be inside of another
        spec.mounts
            .sort_by_key(|m| m.destination.components().count());
    }
    for gid in &edits.additional_gids {
        let groups = &mut spec.user.additional_gids;
        if *gid != 0 && !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    Ok(())
}

fn bind(wanted: &Bind) -> Mount {
    let has = |option: &str| wanted.options.iter().any(|o| o == option);
    let shared = ["rshared", "shared"].into_iter().any(has);
    let slave = ["rslave", "slave"].into_iter().any(has);
    Mount {
        source: wanted.host_path.clone(),
        destination: wanted.container_path.clone(),
        read_only: has("ro"),
        propagation: match (shared, slave) {
            (true, _) => "rshared",
            (_, true) => "rslave",
            _ => "private",
        }
        .into(),
        recursive_read_only: has("rro"),
    }
}

fn node(wanted: &DeviceNode) -> Result<Device, String> {
    let source = wanted.host_path.as_ref().unwrap_or(&wanted.path);
    let number = |n: i64| u32::try_from(n).map_err(|_| format!("invalid device number {n}"));
    let (mut block, mut major, mut minor) = (
        wanted.kind == "b",
        number(wanted.major)?,
        number(wanted.minor)?,
    );
    let mut mode = wanted.file_mode;
    if wanted.kind.is_empty() || (major == 0 && wanted.kind != "p") {
        let failed = |e: std::io::Error| {
            format!("failed to stat CDI host device {:?}: {e}", source.display())
        };
        let meta = std::fs::metadata(source).map_err(failed)?;
        let kind = meta.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(format!("{} is no device", source.display()));
        }
        block = kind.is_block_device();
        major = rustix::fs::major(meta.rdev());
        minor = rustix::fs::minor(meta.rdev());
        mode = mode.or(Some(meta.mode() & 0o7777));
    }
    Ok(Device {
        path: wanted.path.clone(),
        block,
        major,
        minor,
        mode: mode.unwrap_or(0o666) & 0o7777,
        access: match wanted.permissions.as_str() {
            "" => "rwm".into(),
            some => some.into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injected(files: &[(&str, &str)], names: &[&str]) -> Result<ContainerSpec, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let mut spec = ContainerSpec {
            env: vec!["A=1".into(), "B=2".into()],
            ..ContainerSpec::default()
        };
        let names: Vec<String> = names.iter().map(|n| (*n).into()).collect();
        resolve(&[dir.path().to_owned()], &mut spec, &names).map(|()| spec)
    }

    const CARD: &str = r#"{"cdiVersion": "0.6.0", "kind": "example.com/card",
        "containerEdits": {"env": ["ALL=yes"]},
        "devices": [
            {"name": "0", "containerEdits": {"env": ["A=card"],
                "deviceNodes": [{"path": "/dev/card0", "hostPath": "/dev/null", "permissions": "rw"}],
                "mounts": [{"hostPath": "/usr", "containerPath": "/card/lib", "options": ["ro", "bind"]}],
                "additionalGids": [44, 0]}},
            {"name": "1", "containerEdits": {"env": ["ONE=yes"]}}]}"#;

    #[test]
    fn edits_come_into_the_container() {
        let spec = injected(
            &[("a.json", CARD), ("notes.txt", "no")],
            &["example.com/card=0", "example.com/card=1"],
        );
        let spec = spec.unwrap();
        assert_eq!(spec.env, ["B=2", "ALL=yes", "A=card", "ONE=yes"]);
        let device = &spec.devices[0];
        assert_eq!((device.major, device.minor, device.block), (1, 3, false));
        assert_eq!(
            (&*device.access, device.path.to_str()),
            ("rw", Some("/dev/card0"))
        );
        assert!(spec.mounts[0].read_only && spec.mounts[0].destination == Path::new("/card/lib"));
        assert_eq!(spec.user.additional_gids, [44]);
    }

    #[test]
    fn the_last_file_counts_and_yaml_is_read() {
        let again = "cdiVersion: 0.6.0\nkind: example.com/card\ndevices:\n- name: \"1\"\n  containerEdits:\n    env: [ONE=other]\n";
        let spec = injected(
            &[("a.json", CARD), ("b.yaml", again)],
            &["example.com/card=1"],
        );
        assert_eq!(spec.unwrap().env, ["A=1", "B=2", "ONE=other"]);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let hook = r#"{"kind": "example.com/hook", "devices": [{"name": "0",
            "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}}]}"#;
        for (names, want) in [
            (
                &["example.com/card=7", "other", "example.com/card=0"][..],
                "unresolvable CDI devices example.com/card=7, other",
            ),
            (
                &["example.com/hook=0"][..],
                "a createContainer hook is asked for, and this runtime runs none: use a driver that does without",
            ),
        ] {
            let files = [("a.json", CARD), ("broken.json", "{"), ("h.json", hook)];
            assert_eq!(injected(&files, names).unwrap_err(), want);
        }
    }
}
