//! What the runtime is told of a container: mounts, devices and all else.

use super::{
    life::{LOG_BYTES_MAX, LOG_FILES_MAX, inner_id, process_of},
    network,
    options::VolumeKind,
    record::{Home, Record},
};
use crate::error::{Error, io};
use knarr_runtime::{AppArmor, ContainerSpec, Device, MemoryMount, Mount, Seccomp};
use std::{fs, path::Path};

pub fn spec(home: &Home, record: &Record, hold: bool) -> Result<ContainerSpec, Error> {
    let id = inner_id(record);
    let exe = std::env::current_exe().map_err(io("this program's own path"))?;
    let words = [
        "--data-dir",
        &home.data.display().to_string(),
        "container",
        "ended",
        &record.id,
    ]
    .map(str::to_string);
    let afterwards = std::iter::once(exe.display().to_string())
        .chain(words)
        .collect();
    Ok(ContainerSpec {
        id: id.clone(),
        sandbox: id.clone(),
        labels: record.labels.clone(),
        lower: record.layers.clone(),
        // one that goes with its end has nothing to keep
        kept_upper: (!record.remove).then(|| home.layer(&record.id)),
        read_only_rootfs: record.read_only,
        args: record.args.clone(),
        env: environment(home, record)?,
        cwd: record.cwd.clone(),
        user: record.user.clone(),
        mounts: mounts(home, record)?,
        resources: record.resources.clone(),
        cgroup: "c".into(),
        privileged: record.privileged,
        capabilities: record.capabilities.clone(),
        no_new_privileges: record.no_new_privileges,
        seccomp: match record.seccomp.as_str() {
            "" => Seccomp::RuntimeDefault,
            "unconfined" => Seccomp::Unconfined,
            path => Seccomp::Profile(path.into()),
        },
        apparmor: AppArmor::default()
            .profile_for(&record.apparmor, record.privileged)
            .map_err(|error| Error::Input(error.to_string()))?,
        tty: record.tty,
        tty_size: super::foreground::size().filter(|_| hold && record.tty),
        stdin: record.interactive,
        stdin_once: record.interactive && !record.tty,
        log_path: match record.no_log {
            true => Default::default(),
            false => home.log(&record.id),
        },
        log_max_bytes: record.log_bounds.map_or(LOG_BYTES_MAX, |(bytes, _)| bytes),
        log_files_max: record.log_bounds.map_or(LOG_FILES_MAX, |(_, files)| files),
        host_cgroups: record.host_cgroups,
        masked_paths: record.open_paths.then(Vec::new),
        readonly_paths: record.open_paths.then(Vec::new),
        pid_of_process: match &record.pid_of {
            Some(other) => Some(process_of(home, other, "PID")?),
            None => None,
        },
        rlimits: record.rlimits.clone(),
        memory_mounts: memory_mounts(record),
        devices: devices(record)?,
        oom_score_adj: record.oom_score_adj,
        hold_output: hold,
        afterwards,
        ..ContainerSpec::default()
    })
}

/// Its variables, and before them those that tell of whom it links to.
fn environment(home: &Home, record: &Record) -> Result<Vec<String>, Error> {
    let own = |name: &str| {
        let mut all = record.env.iter().filter_map(|v| v.split_once('='));
        all.any(|(n, _)| n == name)
    };
    let links = super::links::variables(home, record)?;
    let mut all: Vec<String> = links
        .into_iter()
        .filter(|(name, _)| !own(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    all.extend(record.env.iter().cloned());
    Ok(all)
}

fn mounts(home: &Home, record: &Record) -> Result<Vec<Mount>, Error> {
    let mut all = Vec::new();
    for volume in &record.volumes {
        let made = |path: &Path| fs::create_dir_all(path).map_err(io(path.display().to_string()));
        let source = match &volume.kind {
            VolumeKind::Bind(path, make) => {
                if *make {
                    made_unless_there(path)?;
                }
                if !path.exists() {
                    return Err(Error::Input(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {}",
                        path.display()
                    )));
                }
                path.clone()
            }
            VolumeKind::Named(name) => {
                let path = home.volume(name);
                made(&path)?;
                if !volume.no_copy {
                    knarr_node::fill_volume(&record.layers, &volume.target, &path)
                        .map_err(io(path.display().to_string()))?;
                }
                match &volume.subpath {
                    None => path,
                    Some(below) => subpath(&path, below)?,
                }
            }
            VolumeKind::Tmpfs(_) => continue,
        };
        all.push(Mount {
            source,
            destination: volume.target.clone(),
            read_only: volume.read_only,
            propagation: volume.propagation.clone(),
            recursive_read_only: volume.recursive_read_only,
        });
    }
    for device in record.devices.iter().filter(|_| !record.privileged) {
        all.push(Mount {
            source: device.source.clone(),
            destination: device.target.clone(),
            read_only: false,
            propagation: "private".into(),
            recursive_read_only: false,
        });
    }
    for (name, text) in network::files(home, record) {
        let destination = Path::new("/etc").join(name);
        if all.iter().any(|m| m.destination == destination) {
            continue;
        }
        let of = |id: &str| home.container(id).join("etc").join(name);
        let lent = record
            .network_of
            .as_deref()
            .map(of)
            .filter(|file| file.exists());
        let source = lent.clone().unwrap_or_else(|| of(&record.id));
        if lent.is_none() {
            let dir = home.container(&record.id).join("etc");
            fs::create_dir_all(&dir)
                .and_then(|()| fs::write(&source, text))
                .map_err(io(source.display().to_string()))?;
        }
        all.push(Mount {
            source,
            destination,
            read_only: false,
            propagation: "private".into(),
            recursive_read_only: false,
        });
    }
    Ok(all)
}

/// A folder of a volume, with no link in between.
fn subpath(volume: &Path, below: &Path) -> Result<std::path::PathBuf, Error> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let whole = volume.join(below);
    let root = fs::File::open(volume).map_err(io(volume.display().to_string()))?;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat2(&root, below, flags, Mode::empty(), how) {
        Ok(_) => Ok(whole),
        Err(error) => Err(Error::Failed(format!(
            "cannot access path {}: {}",
            whole.display(),
            std::io::Error::from(error)
        ))),
    }
}

fn made_unless_there(path: &Path) -> Result<(), Error> {
    match path.exists() {
        true => Ok(()),
        false => fs::create_dir_all(path).map_err(io(path.display().to_string())),
    }
}

/// File systems in memory, each run's own.
fn memory_mounts(record: &Record) -> Vec<MemoryMount> {
    let one = |volume: &super::options::Volume| {
        let VolumeKind::Tmpfs(options) = &volume.kind else {
            return None;
        };
        let mut options: Vec<String> = options
            .split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_string)
            .collect();
        if volume.read_only {
            options.push("ro".into());
        }
        Some(MemoryMount {
            destination: volume.target.clone(),
            options,
        })
    };
    record.volumes.iter().filter_map(one).collect()
}

fn devices(record: &Record) -> Result<Vec<Device>, Error> {
    // one that may do all has them anyway
    let given = record.devices.iter().filter(|_| !record.privileged);
    given
        .map(|given| given.device().map_err(Error::Input))
        .collect()
}
