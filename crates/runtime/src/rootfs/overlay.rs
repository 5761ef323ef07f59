//! The layers as one tree.

use std::{
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MountFlags, OpenTreeFlags},
};

use super::{Told, Tree, move_onto, open_path};
use crate::{privileges::os_text, spec::ContainerSpec, userns::Mapping};

/// The layers with their ids mapped, on a file system that goes with the mount namespace: older kernels take only layers that hang somewhere.
fn mapped_layers(
    tree: &Tree,
    layers: &[PathBuf],
    mapping: &Mapping,
) -> Result<Vec<PathBuf>, String> {
    let told = || "mapping the layers' ids".to_owned();
    let dir = tree.dir.join("lower");
    std::fs::create_dir(&dir).told(told)?;
    rustix::mount::mount("lower", &dir, "tmpfs", MountFlags::NODEV, None).told(told)?;
    let one = |(number, layer): (usize, &PathBuf)| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let told = || format!("the layer {}", layer.display());
        let fd = rustix::mount::open_tree(CWD, layer, flags).told(told)?;
        mapping.apply(&fd, layer)?;
        let at = dir.join(number.to_string());
        std::fs::create_dir(&at).told(told)?;
        let target = open_path(&at).told(told)?;
        move_onto(&fd, &target).told(told)?;
        Ok(at)
    };
    layers.iter().enumerate().map(one).collect()
}

/// The layers, each once: of one that is there several times (under whatever name) only the topmost has an effect, and
/// overlayfs refuses it twice (ELOOP). SOURCE: the kernel's ovl_setup_trap.
fn distinct(layers: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::with_capacity(layers.len());
    for layer in layers {
        let told = || format!("the layer {}", layer.display());
        let meta = std::fs::metadata(layer).told(told)?;
        if seen.insert((meta.dev(), meta.ino())) {
            kept.push(layer.clone());
        }
    }
    Ok(kept)
}

/// The layers are named by descriptor: any number that fits in a page (more than 150), and no character in a path can be mistaken for a separator.
pub(super) fn mount_overlay(
    tree: &Tree,
    spec: &ContainerSpec,
    mapping: Option<&Mapping>,
) -> Result<(), String> {
    if spec.lower.is_empty() {
        return Err("the container has no image layers: give at least one lower folder".into());
    }
    let lower = distinct(&spec.lower)?;
    let layers = match mapping {
        Some(mapping) => {
            let id = Some(mapping.ids.first);
            std::os::unix::fs::chown(spec.writable(&tree.dir).join("upper"), id, id)
                .told(|| "giving the root to its owner".into())?;
            mapped_layers(tree, &lower, mapping)?
        }
        None => lower,
    };
    let mut held = Vec::with_capacity(layers.len() + 2);
    let mut name = |path: &Path| -> Result<String, String> {
        let fd = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .told(|| format!("the layer {}", path.display()))?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        held.push(fd);
        Ok(name)
    };
    let lower = layers
        .iter()
        .map(|p| name(p))
        .collect::<Result<Vec<_>, _>>()?
        .join(":");
    let upper = name(&spec.writable(&tree.dir).join("upper"))?;
    let work = name(&spec.writable(&tree.dir).join("work"))?;
    let target = tree.dir.join("rootfs");
    // Files of layers are hard links that layers share: with an index, a write to one name would show under others. And an
    // upper folder must be whole in itself, so that it can become a layer.
    let base = format!(
        "lowerdir={lower},upperdir={upper},workdir={work},index=off,redirect_dir=off,metacopy=off"
    );
    // Devices may stand in it, as with containerd and Docker (debootstrap, chroots with a /dev of their own): which of them
    // can be opened is the control group's to say, where it can.
    let flags = match tree.no_devices {
        true => MountFlags::NODEV,
        false => MountFlags::empty(),
    };
    let mount = |data: String| -> io::Result<()> {
        let data = std::ffi::CString::new(data)?;
        rustix::mount::mount("overlay", &target, "overlay", flags, &*data)?;
        Ok(())
    };
    let mounted = match spec.kept_upper {
        // one that was volatile once can't be mounted again
        Some(_) => mount(base.clone()),
        // volatile: nothing of the upper layer outlives a power cut anyway, so sync may be skipped
        None => match mount(format!("{base},volatile")) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => mount(base.clone()),
            other => other,
        },
    };
    mounted.map_err(|e| {
        let hint = if e.raw_os_error() == Some(libc::EINVAL) {
            format!(
                " (the file system of {} may not be fit for overlay upper layers: put the data directory on ext4, xfs, btrfs or tmpfs)",
                tree.dir.display()
            )
        } else {
            String::new()
        };
        format!("mounting the root from {} layers: {}{hint}", spec.lower.len(), os_text(&e))
    })
}
