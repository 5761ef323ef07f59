//! The files of a container that doesn't run.

use super::record::{Home, Record};
use crate::error::{Error, io};
use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

/// The files of a container that doesn't run, as it would see them: mounted for a moment, and there as long as the
/// descriptor is. Its lock is held. Blocking.
pub fn mounted(home: &Home, record: &Record) -> Result<OwnedFd, Error> {
    use rustix::{
        fs::{Mode, OFlags},
        mount::{MountFlags, UnmountFlags},
    };
    let (layer, at) = (
        home.layer(&record.id),
        home.container(&record.id).join("tree"),
    );
    let told = |path: &Path| {
        let context = path.display().to_string();
        move |e: rustix::io::Errno| io(context)(e.into())
    };
    for dir in [&layer.join("upper"), &layer.join("work"), &at] {
        fs::create_dir_all(dir).map_err(io(dir.display().to_string()))?;
    }
    // by descriptor: any number of layers fits, and no character of a path is mistaken
    let mut held = Vec::new();
    let mut name = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(told(path))?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        held.push(fd);
        Ok::<_, Error>(name)
    };
    let lower: Vec<String> = record
        .layers
        .iter()
        .map(|l| name(l))
        .collect::<Result<_, _>>()?;
    let data = format!(
        "lowerdir={},upperdir={},workdir={},index=off,redirect_dir=off,metacopy=off",
        lower.join(":"),
        name(&layer.join("upper"))?,
        name(&layer.join("work"))?
    );
    let data = std::ffi::CString::new(data).map_err(|e| Error::Failed(e.to_string()))?;
    rustix::mount::mount(
        "overlay",
        &at,
        "overlay",
        MountFlags::NODEV,
        data.as_c_str(),
    )
    .map_err(told(&at))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&at, flags, Mode::empty()).map_err(told(&at));
    let _ = rustix::mount::unmount(&at, UnmountFlags::DETACH);
    opened
}
