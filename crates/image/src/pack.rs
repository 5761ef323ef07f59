//! `pack`: a minimal image from executables on this machine, the same digest for the same input.
//!
//! Three layers, so that images share what they have in common: the base (accounts, CA certificates, time zones),
//! the libraries, and what was asked for. Times are 0, owners root, names sorted. A layer whose files have the
//! same paths, sizes, times and inodes as before is not read again (`<store>/pack/<key>`).

use crate::{
    Error, ImageStore, PackSpec, archive, elf, io,
    manifest::{CONFIG, ConfigFile, Descriptor, LAYER_TAR, RootFs, architecture},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Version of the layout made here: part of every cache key.
const RECIPE: u32 = 1;
/// How deep a folder that is added may nest.
const DEPTH_MAX: u32 = 64;
const CA_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const ZONEINFO: &str = "/usr/share/zoneinfo";

/// What one path of a layer holds.
#[derive(Clone)]
enum Node {
    Dir { mode: u32 },
    File { source: PathBuf, mode: u32 },
    Text { bytes: &'static [u8], mode: u32 },
    Link { target: PathBuf },
}

/// Paths inside the image, without the leading `/`, in order.
type Tree = BTreeMap<PathBuf, Node>;

pub(crate) fn pack(store: &ImageStore, spec: &PackSpec) -> Result<String, Error> {
    let first = spec
        .executables
        .first()
        .or(spec.add.first().map(|(s, _)| s));
    let first = first.ok_or_else(|| Error::Pack {
        path: spec.name.clone().into(),
        why: "no executable given".into(),
    })?;
    crate::normalize(&spec.name)?;

    let mut trees = Vec::new();
    if !spec.bare {
        trees.push(base()?);
    }
    let (mut libraries, mut own) = (Tree::new(), Tree::new());
    for executable in &spec.executables {
        let path = std::path::absolute(executable).map_err(io(executable))?;
        add(&mut own, &path, &place_of(&path), 0)?;
        for library in elf::closure(&path)? {
            add(&mut libraries, &library, &inside(&library)?, 0)?;
        }
    }
    for (source, destination) in &spec.add {
        let source = std::path::absolute(source).map_err(io(source))?;
        add(&mut own, &source, &inside(destination)?, 0)?;
        if source.is_file() {
            for library in elf::closure(&source)? {
                add(&mut libraries, &library, &inside(&library)?, 0)?;
            }
        }
    }
    own.retain(|path, _| !libraries.contains_key(path));
    for tree in [libraries, own] {
        if !tree.is_empty() {
            trees.push(tree);
        }
    }

    let mut layers = Vec::new();
    for tree in &mut trees {
        add_parents(tree);
        layers.push(layer(store, tree)?);
    }
    let mut config = spec.config.clone();
    if config.entrypoint.is_empty() && config.cmd.is_empty() && !spec.executables.is_empty() {
        let path = std::path::absolute(first).map_err(io(first))?;
        config.entrypoint = vec![format!("/{}", place_of(&path).display())];
    }
    if !config.env.iter().any(|e| e.starts_with("PATH=")) {
        config.env.insert(
            0,
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        );
    }
    let file = ConfigFile {
        created: Some("1970-01-01T00:00:00Z".into()),
        architecture: architecture().into(),
        os: "linux".into(),
        config: Some((&config).into()),
        rootfs: RootFs {
            r#type: "layers".into(),
            diff_ids: layers.iter().map(|l| l.digest.clone()).collect(),
        },
    };
    let bytes = serde_json::to_vec(&file).map_err(|e| Error::Pack {
        path: first.clone(),
        why: e.to_string(),
    })?;
    let digest = store.put_bytes(&bytes)?;
    let descriptor = Descriptor {
        media_type: CONFIG.into(),
        digest,
        size: bytes.len() as u64,
        platform: None,
        annotations: BTreeMap::new(),
    };
    archive::put_manifest(store, descriptor, layers, &BTreeMap::new())
}

/// A system path stays where it is; what lies elsewhere (a build folder, a home) goes to /usr/local/bin,
/// so that the image does not depend on where it was built.
fn place_of(path: &Path) -> PathBuf {
    let system = ["/usr/", "/bin/", "/sbin/", "/opt/", "/lib"];
    let text = path.to_string_lossy();
    match (system.iter().any(|s| text.starts_with(s)), path.file_name()) {
        (false, Some(name)) => Path::new("usr/local/bin").join(name),
        _ => path.strip_prefix("/").unwrap_or(path).to_path_buf(),
    }
}

/// The path inside the image; `..` is refused.
fn inside(path: &Path) -> Result<PathBuf, Error> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(p) => clean.push(p),
            Component::RootDir | Component::CurDir => {}
            _ => {
                return Err(Error::Pack {
                    path: path.to_path_buf(),
                    why: "the path leaves the image".into(),
                });
            }
        }
    }
    Ok(clean)
}

/// Adds a file, folder or link. A top-level symbolic link to a file is followed: the name gets the content.
fn add(tree: &mut Tree, source: &Path, place: &Path, depth: u32) -> Result<(), Error> {
    let fail = |why: &str| Error::Pack {
        path: source.to_path_buf(),
        why: why.into(),
    };
    if depth > DEPTH_MAX {
        return Err(fail("folders nest too deep"));
    }
    let meta = if depth == 0 {
        fs::metadata(source)
    } else {
        fs::symlink_metadata(source)
    }
    .map_err(io(source))?;
    if meta.is_symlink() {
        tree.insert(
            place.to_path_buf(),
            Node::Link {
                target: fs::read_link(source).map_err(io(source))?,
            },
        );
    } else if meta.is_file() {
        let mode = if meta.mode() & 0o111 != 0 {
            0o755
        } else {
            0o644
        };
        tree.insert(
            place.to_path_buf(),
            Node::File {
                source: source.to_path_buf(),
                mode,
            },
        );
    } else if meta.is_dir() {
        if !place.as_os_str().is_empty() {
            tree.insert(place.to_path_buf(), Node::Dir { mode: 0o755 });
        }
        for entry in fs::read_dir(source).map_err(io(source))? {
            let entry = entry.map_err(io(source))?;
            add(
                tree,
                &entry.path(),
                &place.join(entry.file_name()),
                depth + 1,
            )?;
        }
    } else {
        return Err(fail("only files, folders and symbolic links can be packed"));
    }
    Ok(())
}

fn base() -> Result<Tree, Error> {
    let mut tree = Tree::new();
    let text = |bytes: &'static str| Node::Text {
        bytes: bytes.as_bytes(),
        mode: 0o644,
    };
    tree.insert("etc/passwd".into(), text("root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"));
    tree.insert("etc/group".into(), text("root:x:0:\nnogroup:x:65534:\n"));
    tree.insert("etc/nsswitch.conf".into(), text("hosts: files dns\n"));
    tree.insert("tmp".into(), Node::Dir { mode: 0o1777 });
    tree.insert("root".into(), Node::Dir { mode: 0o700 });
    if Path::new(CA_CERTIFICATES).exists() {
        add(
            &mut tree,
            Path::new(CA_CERTIFICATES),
            &inside(Path::new(CA_CERTIFICATES))?,
            0,
        )?;
    }
    if Path::new(ZONEINFO).exists() {
        add(
            &mut tree,
            Path::new(ZONEINFO),
            &inside(Path::new(ZONEINFO))?,
            0,
        )?;
        // Doubles of the zones in other time scales, and links out of the tree.
        tree.retain(|p, n| {
            !p.starts_with("usr/share/zoneinfo/right")
                && !p.starts_with("usr/share/zoneinfo/posix")
                && !matches!(n, Node::Link { target } if target.is_absolute())
        });
    }
    Ok(tree)
}

fn add_parents(tree: &mut Tree) {
    let parents: Vec<PathBuf> = tree
        .keys()
        .flat_map(|p| p.ancestors().skip(1).map(Path::to_path_buf))
        .collect();
    for parent in parents {
        if !parent.as_os_str().is_empty() {
            tree.entry(parent).or_insert(Node::Dir { mode: 0o755 });
        }
    }
}

/// The layer of a tree, from the cache when no file of it has changed.
fn layer(store: &ImageStore, tree: &Tree) -> Result<Descriptor, Error> {
    let key = fingerprint(tree)?;
    let remembered = fs::read_to_string(store.pack_key(&key))
        .ok()
        .and_then(|line| {
            let (digest, size) = line.trim().split_once(' ')?;
            Some((digest.to_string(), size.parse().ok()?))
        });
    let (digest, size) = match remembered {
        Some((digest, size)) if store.has_blob(&digest) => (digest, size),
        _ => {
            let temp = store.temp()?;
            let path = temp.path().join("layer.tar");
            write_tar(tree, &path)?;
            let (digest, size) =
                store.put_stream(fs::File::open(&path).map_err(io(&path))?, None)?;
            store.replace(
                &store.pack_key(&key),
                format!("{digest} {size}\n").as_bytes(),
            )?;
            (digest, size)
        }
    };
    Ok(Descriptor {
        media_type: LAYER_TAR.into(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    })
}

fn fingerprint(tree: &Tree) -> Result<String, Error> {
    let mut hash = Sha256::new();
    hash.update(RECIPE.to_le_bytes());
    for (path, node) in tree {
        let line = match node {
            Node::Dir { mode } => format!("d {mode}"),
            Node::Text { bytes, mode } => {
                format!("t {mode} {}", hex::encode(Sha256::digest(bytes)))
            }
            Node::Link { target } => format!("l {target:?}"),
            Node::File { source, mode } => {
                let m = fs::metadata(source).map_err(io(source))?;
                format!(
                    "f {mode} {source:?} {} {} {} {} {}",
                    m.ino(),
                    m.size(),
                    m.mtime(),
                    m.mtime_nsec(),
                    m.ctime_nsec()
                )
            }
        };
        hash.update(format!("{path:?} {line}\n"));
    }
    Ok(hex::encode(hash.finalize()))
}

fn write_tar(tree: &Tree, to: &Path) -> Result<(), Error> {
    let file = fs::File::create(to).map_err(io(to))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::with_capacity(1 << 18, file));
    for (path, node) in tree {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match node {
            Node::Dir { mode } => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                tar.append_data(&mut header, path, std::io::empty())
            }
            Node::Link { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target)
            }
            Node::Text { bytes, mode } => {
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, *bytes)
            }
            Node::File { source, mode } => {
                let file = fs::File::open(source).map_err(io(source))?;
                header.set_mode(*mode);
                header.set_size(file.metadata().map_err(io(source))?.len());
                tar.append_data(&mut header, path, file)
            }
        }
        .map_err(io(path))?;
    }
    tar.into_inner()
        .and_then(|mut w| std::io::Write::flush(&mut w))
        .map_err(io(to))
}
