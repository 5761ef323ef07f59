//! `knarr container export`: a container's root file system as a tar, whether it runs or not, without what is mounted in it.

use super::{
    life::{self, inner_id},
    record::{Home, Record},
};
use crate::error::{Error, io};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags},
};
use std::{
    fs,
    io::{BufWriter, IsTerminal},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Writes it to `output`, or to standard output, which must not be a terminal.
///
/// # Errors
/// When it can't be read or written; a file of that name then isn't there, or is the one from before.
pub async fn export(home: &Home, record: &Record, output: Option<PathBuf>) -> Result<(), Error> {
    let mut layers = record.layers.clone();
    // one that goes when it ends has what it changed in the runtime's own folder
    let upper = match record.remove {
        true => life::open(home, record).await?.upper(&inner_id(record)),
        false => home.layer(&record.id).join("upper"),
    };
    // none was made until the first start
    if upper.exists() {
        layers.insert(0, upper);
    }
    write_tree(layers, home.container(&record.id), output).await
}

/// Writes what layers make, the topmost first, as a tar; as [`export`]. `place`: a folder for what is in between.
///
/// # Errors
/// As [`export`].
pub async fn write_tree(
    layers: Vec<PathBuf>,
    place: PathBuf,
    output: Option<PathBuf>,
) -> Result<(), Error> {
    if output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::Input(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect".into(),
        ));
    }
    let work = move || {
        let (root, _lowest) = merged(&layers, &place)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        match output {
            None => Ok(knarr_image::export_tree(
                &path,
                BufWriter::new(std::io::stdout().lock()),
            )?),
            Some(output) => {
                let told = || io(output.display().to_string());
                let mut why = None;
                let written = knarr_image::write_whole(&output, |out| {
                    knarr_image::export_tree(&path, out).map_err(|e| {
                        why = Some(e);
                        std::io::ErrorKind::Other.into()
                    })
                });
                match why {
                    Some(why) => Err(why.into()),
                    None => written.map_err(told()),
                }
            }
        }
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Failed(e.to_string()))?
}

/// The layers, topmost first, as one tree to read. It is mounted for as long as it takes to open it, and then without a place.
/// The empty folder at the bottom must stay for as long: with one that is gone, folders seem to have nothing in them.
fn merged(layers: &[PathBuf], place: &Path) -> Result<(OwnedFd, tempfile::TempDir), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| {
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| io(path.display().to_string())(e.into()))
    };
    let mut opened = layers
        .iter()
        .map(|l| open(l))
        .collect::<Result<Vec<_>, _>>()?;
    // overlayfs wants two at least
    let empty = tempfile::tempdir_in(place).map_err(io(place.display().to_string()))?;
    opened.push(open(empty.path())?);
    // a mount's options have one page: names that are short, whatever the layers' are
    let names: Vec<String> = opened
        .iter()
        .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .collect();
    let at = tempfile::tempdir_in(place).map_err(io(place.display().to_string()))?;
    let options = std::ffi::CString::new(format!("lowerdir={}", names.join(":")))
        .map_err(|e| Error::Failed(e.to_string()))?;
    let failed = |e: rustix::io::Errno| io(at.path().display().to_string())(e.into());
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("overlay", at.path(), "overlay", flags, options.as_c_str())
        .map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(at.path(), flags, Mode::empty());
    rustix::mount::unmount(at.path(), UnmountFlags::DETACH).map_err(failed)?;
    let root = root.map_err(failed)?;
    let _ = fs::remove_dir(at.path());
    Ok((root, empty))
}
