//! `-v`, `--mount` and `--tmpfs`: what is mounted where.

use crate::{
    error::{Fault, Result},
    http::Fields,
};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path of the machine; made when it's missing, if so wanted.
    Bind { path: String, make: bool },
    /// An empty name: a volume of the container's own.
    Volume {
        name: String,
        copy: bool,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    },
    /// As `mount -o` takes them: `size=64m`, `noexec`, …
    Tmpfs { options: Vec<String> },
    /// What is in another image; to read only.
    Image { name: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: Source,
    pub target: String,
    pub read_only: bool,
    /// `private`, `rslave`, `rshared`
    pub propagation: String,
    /// As given after the second colon, for showing.
    pub mode: String,
    pub sub_path: String,
    /// what is mounted below the source stays writable when the mount isn't
    pub shallow: bool,
}

fn volume(name: &str) -> Source {
    Source::Volume {
        name: name.into(),
        copy: true,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    }
}

/// A volume of the container's own.
pub fn anonymous(target: &str) -> Mount {
    Mount {
        source: volume(""),
        target: clean(target),
        read_only: false,
        propagation: String::new(),
        mode: String::new(),
        sub_path: String::new(),
        shallow: false,
    }
}

/// An absolute path without `.` and `..`, as Go's `filepath.Clean` has it.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn target(path: &str, spec: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Fault::bad(format!(
            "invalid volume specification: '{spec}': invalid mount config for type \"bind\": invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    let cleaned = clean(path);
    if cleaned == "/" {
        return Err(Fault::bad(format!(
            "invalid volume specification: '{spec}': invalid mount config: destination can't be '/'"
        )));
    }
    Ok(cleaned)
}

/// Whether the machine labels its files.
fn selinux() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

/// `source:/target[:options]`
///
/// SOURCE: moby `volume/mounts/linux_parser.go` ParseMountRaw
pub fn bind(spec: &str) -> Result<Mount> {
    let invalid = || Fault::bad(format!("invalid volume specification: '{spec}'"));
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, path, options) = match parts[..] {
        [path] => ("", path, ""),
        [source, path] => (source, path, ""),
        [source, path, options] => (source, path, options),
        _ => return Err(invalid()),
    };
    if path.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(invalid());
    }
    let mut mount = anonymous("/");
    mount.target = target(path, spec)?;
    mount.mode = options.into();
    let mut copy = true;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "nocopy" => copy = false,
            // there is no SELinux here, and nothing to tune
            "z" | "Z" if selinux() => {
                return Err(Fault::unsupported(format!(
                    "relabelling for SELinux (the option {option} of {spec:?})"
                )));
            }
            // without SELinux there is nothing to relabel, and these are for Docker Desktop
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "private" | "rprivate" => mount.propagation = "private".into(),
            "slave" | "rslave" => mount.propagation = "rslave".into(),
            "shared" | "rshared" => mount.propagation = "rshared".into(),
            _ => {
                return Err(Fault::bad(format!("invalid mode: {options}")));
            }
        }
    }
    if source.starts_with('/') {
        mount.source = Source::Bind {
            path: clean(source),
            make: true,
        };
    } else {
        if !source.is_empty() {
            crate::names::volume(source)?;
        }
        mount.source = Source::Volume {
            name: source.into(),
            copy,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        };
    }
    Ok(mount)
}

/// One of `HostConfig.Mounts`.
pub fn mount(value: Value) -> Result<Mount> {
    let Value::Object(map) = value else {
        return Err(Fault::bad("invalid JSON: a mount must be an object"));
    };
    let mut f = Fields::new(map, "Mount");
    let kind = f.text("Type")?.unwrap_or_default();
    let (source, path) = (f.text("Source")?.unwrap_or_default(), f.text("Target")?);
    let path = path.unwrap_or_default();
    let wrong =
        |why: String| Fault::bad(format!("invalid mount config for type \"{kind}\": {why}"));
    if path.is_empty() {
        return Err(wrong("field Target must not be empty".into()));
    }
    if !path.starts_with('/') {
        return Err(wrong(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    let mut mount = anonymous(&path);
    if mount.target == "/" {
        return Err(wrong(
            "invalid specification: destination can't be '/'".into(),
        ));
    }
    mount.read_only = f.flag("ReadOnly")?;
    f.take("Consistency");
    let mut options = |key: &str| f.object(key);
    match kind.as_str() {
        "bind" => {
            let mut o = Fields::new(options("BindOptions")?, "BindOptions");
            mount.propagation = match o.text("Propagation")?.unwrap_or_default().as_str() {
                "" => String::new(),
                "private" | "rprivate" => "private".into(),
                "slave" | "rslave" => "rslave".into(),
                "shared" | "rshared" => "rshared".into(),
                other => return Err(wrong(format!("invalid propagation mode: {other}"))),
            };
            let make = o.flag("CreateMountpoint")?;
            if o.flag("NonRecursive")? {
                return Err(Fault::unsupported(
                    "--mount bind-recursive=disabled (BindOptions.NonRecursive)",
                ));
            }
            let (shallow, deep) = (
                o.flag("ReadOnlyNonRecursive")?,
                o.flag("ReadOnlyForceRecursive")?,
            );
            if (shallow || deep) && !mount.read_only {
                return Err(wrong(
                    "mount must be set to read-only for its recursion to count".into(),
                ));
            }
            mount.shallow = shallow;
            o.finish()?;
            if source.is_empty() {
                return Err(wrong("field Source must not be empty".into()));
            }
            if !source.starts_with('/') {
                return Err(wrong(format!(
                    "invalid mount path: '{source}' mount path must be absolute"
                )));
            }
            mount.source = Source::Bind {
                path: clean(&source),
                make,
            };
        }
        "volume" => {
            let mut o = Fields::new(options("VolumeOptions")?, "VolumeOptions");
            if !source.is_empty() {
                crate::names::volume(&source)?;
            }
            let mut driver = Fields::new(o.object("DriverConfig")?, "DriverConfig");
            if let Some(name) = driver.text("Name")?.filter(|d| d != "local") {
                return Err(Fault::not_found(format!(
                    "error looking up volume plugin {name}: plugin \"{name}\" not found"
                )));
            }
            mount.sub_path = o.text("Subpath")?.unwrap_or_default();
            mount.source = Source::Volume {
                name: source,
                copy: !o.flag("NoCopy")?,
                labels: o.strings("Labels")?,
                options: driver.strings("Options")?,
            };
            o.finish()?;
        }
        "tmpfs" => {
            let mut o = Fields::new(options("TmpfsOptions")?, "TmpfsOptions");
            let mut options = Vec::new();
            if let Some(bytes) = o.int("SizeBytes")? {
                if bytes < 0 {
                    return Err(wrong("must not have a negative size".into()));
                }
                options.push(format!("size={bytes}"));
            }
            if let Some(mode) = o.int("Mode")? {
                options.push(format!("mode={mode:o}"));
            }
            for pair in o.list("Options")? {
                let words: Vec<&str> = (pair.as_array().into_iter().flatten())
                    .filter_map(Value::as_str)
                    .collect();
                options.push(tmpfs_option(&words.join("="))?);
            }
            if mount.read_only {
                options.push("ro".into());
            }
            o.finish()?;
            if !source.is_empty() {
                return Err(wrong("field Source must not be specified".into()));
            }
            mount.source = Source::Tmpfs { options };
        }
        "image" => {
            let mut o = Fields::new(options("ImageOptions")?, "ImageOptions");
            mount.sub_path = o.text("Subpath")?.unwrap_or_default();
            o.finish()?;
            if source.is_empty() {
                return Err(wrong("field Source must not be empty".into()));
            }
            mount.read_only = true;
            mount.source = Source::Image { name: source };
        }
        other => return Err(Fault::unsupported(format!("a mount of type {other:?}"))),
    }
    f.finish()?;
    Ok(mount)
}

/// `--tmpfs /run:size=64m`
pub fn tmpfs(path: &str, options: &str) -> Result<Mount> {
    let all = options.split(',').filter(|o| !o.is_empty());
    let all: Vec<String> = all.map(tmpfs_option).collect::<Result<_>>()?;
    let mut mount = anonymous("/");
    mount.target = target(path, path)?;
    mount.mode = options.into();
    mount.source = Source::Tmpfs { options: all };
    Ok(mount)
}

/// SOURCE: moby/sys `mount/flags.go` MergeTmpfsOptions
fn tmpfs_option(option: &str) -> Result<String> {
    const FLAGS: [&str; 25] = [
        "defaults",
        "ro",
        "rw",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "sync",
        "async",
        "dirsync",
        "remount",
        "mand",
        "nomand",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "bind",
        "rbind",
    ];
    // what they would do cannot be had with a file system in memory, or here
    const NOT_HERE: [&str; 6] = ["dirsync", "remount", "mand", "nomand", "bind", "rbind"];
    const VALUES: [&str; 7] = [
        "mode",
        "uid",
        "gid",
        "size",
        "nr_blocks",
        "nr_inodes",
        "mpol",
    ];
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    if NOT_HERE.contains(&option) {
        return Err(Fault::unsupported(format!("the tmpfs option {option}")));
    }
    match FLAGS.contains(&option) || (VALUES.contains(&name) && !value.is_empty()) {
        true => Ok(option.to_string()),
        false => Err(Fault::bad(format!("invalid tmpfs option {option:?}"))),
    }
}

/// `VolumesFrom` of a container: `name[:ro]`
pub fn from(spec: &str) -> (&str, bool) {
    match spec.split_once(':') {
        Some((name, mode)) => (name, mode == "ro"),
        None => (spec, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_read() {
        let check = |spec: &str, wanted: Result<(&str, &str, bool), &str>| {
            let got = bind(spec).map_err(|f| f.message).map(|m| {
                let source = match m.source {
                    Source::Bind { path, .. } => path,
                    Source::Volume { name, .. } => format!("volume {name}"),
                    Source::Tmpfs { options } => format!("tmpfs {}", options.join(",")),
                    Source::Image { name } => format!("image {name}"),
                };
                (source, m.target, m.read_only)
            });
            let wanted = wanted
                .map(|(a, b, c)| (a.to_string(), b.to_string(), c))
                .map_err(str::to_string);
            assert_eq!(got, wanted, "{spec}");
        };
        let root = serde_json::json!({"Type": "volume", "Target": "/a/.."});
        assert_eq!(
            super::mount(root).unwrap_err().message,
            "invalid mount config for type \"volume\": invalid specification: destination can't be '/'"
        );
        let memory = |path: &str, options: &str| tmpfs(path, options).map(|m| m.source);
        for (options, wanted) in [
            ("", Some("")),
            (
                "size=64m,mode=0700,uid=5,exec",
                Some("size=64m,mode=0700,uid=5,exec"),
            ),
            ("odd", None),
            ("remount", None),
            ("size", None),
        ] {
            let got = memory("/t", options).ok();
            let wanted = wanted.map(|o| Source::Tmpfs {
                options: o
                    .split(',')
                    .filter(|o| !o.is_empty())
                    .map(str::to_string)
                    .collect(),
            });
            assert_eq!(got, wanted, "{options}");
        }
        check("/a:/b", Ok(("/a", "/b", false)));
        check("/a/../x//:/b/:ro,z", Ok(("/x", "/b", true)));
        check("/../a/./b:/c/../../d", Ok(("/a/b", "/d", false)));
        check("data:/b", Ok(("volume data", "/b", false)));
        check("/b", Ok(("volume ", "/b", false)));
        check("a:/b:x", Err("invalid mode: x"));
        check(":/b", Err("invalid volume specification: ':/b'"));
        check(
            "a:/b/..",
            Err(
                "invalid volume specification: 'a:/b/..': invalid mount config: destination can't be '/'",
            ),
        );
        check(
            "a:/",
            Err(
                "invalid volume specification: 'a:/': invalid mount config: destination can't be '/'",
            ),
        );
    }
}
