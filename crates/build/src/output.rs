//! `--output`: what a build gives beside an image in the store.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use knarr_image::Image;

use crate::{
    copy::Tree,
    error::{Error, blocking, io},
    graph::Graph,
    overlay::Mounted,
    request::{Output, OutputKind},
    state::State,
    step::whole,
};

/// How the step is called that writes it; none when nothing is written.
pub(crate) fn name(output: &Output) -> Option<&'static str> {
    Some(match output.kind {
        OutputKind::Oci => "exporting to oci image format",
        OutputKind::Docker => "exporting to docker image format",
        OutputKind::Tar => "exporting to client tarball",
        OutputKind::Local => "exporting to client directory",
        OutputKind::Image | OutputKind::CacheOnly => return None,
    })
}

/// One of them needs an image.
pub(crate) fn any_image(all: &[Output]) -> bool {
    all.iter().any(|o| o.kind.is_image())
}

impl Graph<'_> {
    /// A root's files, in a folder or an archive; in a folder of this name there.
    pub(crate) async fn write_files(
        &self,
        output: &Output,
        state: &State,
        below: Option<&str>,
    ) -> Result<(), Error> {
        let (mounts, lower) = (self.mounts(), state.lower());
        let (output, epoch) = (output.clone(), self.epoch);
        let below = below.map(str::to_owned);
        blocking(move || match output.kind {
            OutputKind::Local => {
                let to = match &below {
                    Some(below) => output.destination.join(below),
                    None => output.destination,
                };
                fs::create_dir_all(&to).map_err(io(&to))?;
                let root = Mounted::read_only(&mounts, &lower)?;
                let tree = Tree::root("stage", root.path())?;
                let mut request = whole(&tree, "/", &to);
                request.times = epoch;
                crate::copy::copy(&request)?;
                Ok(())
            }
            _ => {
                let root = Mounted::read_only(&mounts, &lower)?;
                write(&output.destination, |file| {
                    let mut archive = tar::Builder::new(file);
                    tar(root.path(), Path::new(""), &mut archive, epoch)?;
                    archive.finish()
                })
            }
        })
        .await
    }

    /// Several roots in one archive, each in a folder.
    pub(crate) async fn write_tar(
        &self,
        output: &Output,
        parts: Vec<(String, Vec<PathBuf>)>,
    ) -> Result<(), Error> {
        let (mounts, epoch) = (self.mounts(), self.epoch);
        let output = output.clone();
        blocking(move || {
            let mut roots = vec![];
            for (folder, lower) in parts {
                let folder = match output.merged {
                    true => PathBuf::new(),
                    false => folder.into(),
                };
                roots.push((folder, Mounted::read_only(&mounts, &lower)?));
            }
            write(&output.destination, |file| {
                let mut archive = tar::Builder::new(file);
                for (folder, root) in &roots {
                    tar(root.path(), folder, &mut archive, epoch)?;
                }
                archive.finish()
            })
        })
        .await
    }

    /// An image as archive, or as what would be in it.
    pub(crate) async fn write_archive(&self, output: &Output, image: &Image) -> Result<(), Error> {
        let (images, mut image) = (self.images.clone(), image.clone());
        if output.kind == OutputKind::Docker {
            // `docker load` knows no attestations
            image.digest.clone_from(&image.manifest);
        }
        let mut names = self.request.tags.clone();
        names.extend(output.names.iter().cloned());
        let output = output.clone();
        blocking(move || {
            let mut all = vec![];
            for name in &names {
                all.push(Image {
                    name: knarr_image::normalize(name)?,
                    ..image.clone()
                });
            }
            if all.is_empty() {
                image.name.clone_from(&image.digest);
                all.push(image);
            }
            let dir = images.temp()?;
            let path = dir.path().join("image.tar");
            images.save_images(&all, &path)?;
            if output.unpacked {
                return layout(&path, &output.destination);
            }
            write(&output.destination, |to| {
                let mut from = fs::File::open(&path)?;
                std::io::copy(&mut from, to).map(drop)
            })
        })
        .await
    }
}

/// Unpacks an archive of an image into a folder: blobs first, what leads to them last. What the folder's index had stays,
/// but for what has the same name.
pub(crate) fn layout(archive: &Path, to: &Path) -> Result<(), Error> {
    let blobs = to.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).map_err(io(&blobs))?;
    let file = fs::File::open(archive).map_err(io(archive))?;
    let mut archive_read = tar::Archive::new(file);
    let mut last = vec![];
    for entry in archive_read.entries().map_err(io(archive))? {
        let mut entry = entry.map_err(io(archive))?;
        let path = entry.path().map_err(io(archive))?.into_owned();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let mut temp = tempfile::NamedTempFile::new_in(to).map_err(io(to))?;
        std::io::copy(&mut entry, &mut temp).map_err(io(to))?;
        let target = to.join(&path);
        if path.starts_with("blobs") {
            keep(temp, &target)?;
        } else if path != Path::new("manifest.json") {
            last.push((temp, target));
        }
    }
    for (temp, target) in last {
        if target.ends_with("index.json") {
            merge_index(temp.path(), &target)?;
        }
        keep(temp, &target)?;
    }
    Ok(())
}

fn keep(temp: tempfile::NamedTempFile, to: &Path) -> Result<(), Error> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temp.as_file().set_permissions(mode).map_err(io(to))?;
    temp.as_file().sync_all().map_err(io(to))?;
    temp.persist(to).map_err(|e| io(to)(e.error))?;
    Ok(())
}

/// Adds to a new index what an older one names otherwise.
fn merge_index(new: &Path, old: &Path) -> Result<(), Error> {
    const NAME: &str = "org.opencontainers.image.ref.name";
    let Ok(bytes) = fs::read(old) else {
        return Ok(());
    };
    let old: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let bytes = fs::read(new).map_err(io(new))?;
    let mut value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| Error::Bug(e.to_string()))?;
    let name = |entry: &serde_json::Value| entry["annotations"][NAME].as_str().map(str::to_owned);
    let mut more: Vec<serde_json::Value> = old["manifests"].as_array().cloned().unwrap_or_default();
    let Some(all) = value["manifests"].as_array_mut() else {
        return Ok(());
    };
    more.retain(|entry| {
        name(entry).is_some_and(|n| all.iter().all(|a| name(a).as_ref() != Some(&n)))
    });
    all.append(&mut more);
    let text = serde_json::to_vec(&value).map_err(|e| Error::Bug(e.to_string()))?;
    fs::write(new, text).map_err(io(new))
}

/// To a file that is whole or not there, or to standard output (`-`).
fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Error> {
    if path == Path::new("-") {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        return fill(&mut out)
            .and_then(|()| out.flush())
            .map_err(io("standard output"));
    }
    knarr_image::write_whole(path, fill).map_err(io(path))
}

/// All files of a root, sorted by name.
fn tar(
    root: &Path,
    below: &Path,
    archive: &mut tar::Builder<&mut dyn Write>,
    epoch: Option<i64>,
) -> std::io::Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    archive.follow_symlinks(false);
    let mut links = std::collections::HashMap::<(u64, u64), PathBuf>::new();
    let mut open = vec![PathBuf::new()];
    let named = |at: &Path| below.join(at);
    while let Some(at) = open.pop() {
        let full = root.join(&at);
        let meta = fs::symlink_metadata(&full)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        if let Some(latest) = epoch {
            header.set_mtime(meta.mtime().min(latest).max(0) as u64);
        }
        if meta.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&full)?
                .map(|e| e.map(|e| at.join(e.file_name())))
                .collect::<Result<_, _>>()?;
            names.sort();
            names.reverse();
            open.extend(names);
            let name = named(&at);
            if !name.as_os_str().is_empty() {
                archive.append_data(&mut header, &name, std::io::empty())?;
            }
            continue;
        }
        let known = (meta.dev(), meta.ino());
        if meta.nlink() > 1
            && let Some(first) = links.get(&known)
        {
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            archive.append_link(&mut header, named(&at), named(first))?;
            continue;
        }
        links.insert(known, at.clone());
        let kind = meta.file_type();
        if kind.is_symlink() {
            header.set_size(0);
            archive.append_link(&mut header, named(&at), fs::read_link(&full)?)?;
        } else if kind.is_file() {
            archive.append_data(&mut header, named(&at), fs::File::open(&full)?)?;
        } else if !kind.is_socket() {
            header.set_size(0);
            if kind.is_char_device() || kind.is_block_device() {
                header.set_device_major(rustix::fs::major(meta.rdev()))?;
                header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
            }
            archive.append_data(&mut header, named(&at), std::io::empty())?;
        }
    }
    Ok(())
}
