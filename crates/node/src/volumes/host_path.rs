//! hostPath volumes: what is there is checked, what may be missing is made. Blocking.
//!
//! Source: kubernetes `pkg/volume/hostpath/host_path.go`, `pkg/volume/util/hostutil`.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Where drivers and their manifests believe the kubelet's folder to be. A Pod's hostPath below it means ours, so that
/// they run unchanged and all state stays in the data directory.
pub(crate) const KUBELET_ROOT: &str = "/var/lib/kubelet";

/// The path on this machine that a hostPath names.
pub(crate) fn on_machine(kubelet_dir: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix(KUBELET_ROOT) {
        Ok(rest) if rest.as_os_str().is_empty() => kubelet_dir.to_owned(),
        Ok(rest) => kubelet_dir.join(rest),
        Err(_) => path.to_owned(),
    }
}

/// Checks what a hostPath volume names (`shown`), found at `path`; the `…OrCreate` types make what is missing.
/// Without a type nothing is asked, and a missing path becomes a folder, as container runtimes do.
pub(crate) fn check(path: &Path, shown: &str, type_: &str) -> Result<(), String> {
    if Path::new(shown)
        .components()
        .any(|c| c == std::path::Component::ParentDir)
    {
        return Err(format!("invalid HostPath `{shown}`: must not contain '..'"));
    }
    let found = fs::metadata(path);
    let make_dir = || {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|e| format!("mkdir {shown}: {e}"))
    };
    let is = |what: &str, fits: fn(&fs::Metadata) -> bool| match &found {
        Ok(meta) if fits(meta) => Ok(()),
        _ => Err(format!("hostPath type check failed: {shown} is not {what}")),
    };
    match type_ {
        "" | "DirectoryOrCreate" if found.is_err() => make_dir(),
        "" => Ok(()),
        "Directory" | "DirectoryOrCreate" => is("a directory", |m| m.is_dir()),
        "FileOrCreate" if found.is_err() => fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(|e| format!("open {shown}: {e}")),
        "File" | "FileOrCreate" => is("a file", |m| m.is_file()),
        "Socket" => is("a socket file", |m| m.file_type().is_socket()),
        "CharDevice" => is("a character device", |m| m.file_type().is_char_device()),
        "BlockDevice" => is("a block device", |m| m.file_type().is_block_device()),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        fs::write(at("file"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        let not = |path: &str, what: &str| {
            Err(format!(
                "hostPath type check failed: {} is not {what}",
                at(path).display()
            ))
        };
        for (path, type_, want) in [
            ("", "Directory", Ok(())),
            ("file", "Directory", not("file", "a directory")),
            ("no", "Directory", not("no", "a directory")),
            ("a/b", "DirectoryOrCreate", Ok(())),
            ("file", "DirectoryOrCreate", not("file", "a directory")),
            ("file", "File", Ok(())),
            ("link", "File", Ok(())),
            ("", "File", not("", "a file")),
            ("no", "File", not("no", "a file")),
            ("g", "FileOrCreate", Ok(())),
            ("socket", "Socket", Ok(())),
            ("file", "Socket", not("file", "a socket file")),
            ("file", "CharDevice", not("file", "a character device")),
            ("file", "BlockDevice", not("file", "a block device")),
            ("plain", "", Ok(())),
            ("file", "", Ok(())),
            ("file", "Fifo", Err("Fifo is an invalid volume type".into())),
        ] {
            let path = at(path);
            let shown = path.to_str().unwrap();
            assert_eq!(check(&path, shown, type_), want, "{shown} {type_}");
        }
        assert!(at("a/b").is_dir() && at("g").is_file() && at("plain").is_dir());
        assert!(check(Path::new("/dev/null"), "/dev/null", "CharDevice").is_ok());
        assert!(check(&at("a/../x"), "/a/../x", "DirectoryOrCreate").is_err());
        assert!(!at("x").exists());
    }

    #[test]
    fn the_kubelets_folder_is_ours() {
        for (path, want) in [
            ("/var/lib/kubelet", "/data/kubelet"),
            ("/var/lib/kubelet/plugins/x", "/data/kubelet/plugins/x"),
            ("/var/lib/kubelet2", "/var/lib/kubelet2"),
            ("/", "/"),
        ] {
            let got = on_machine(Path::new("/data/kubelet"), Path::new(path));
            assert_eq!(got, Path::new(want), "{path}");
        }
    }
}
