//! The directories behind local-path volumes.

use std::{
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use crate::error::{Error, Result};

/// Name of a volume's directory.
pub fn name(volume: &str, namespace: &str, claim: &str) -> String {
    format!("{volume}_{namespace}_{claim}")
}

/// Makes the directory `name` below `root`: writable for any user of the container, and out of reach for users of the machine because `root` is.
pub async fn make(root: PathBuf, name: String) -> Result<PathBuf> {
    blocking(move || {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(|e| failed("made", &root, e))?;
        let path = root.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed("made", &path, e)),
        }
        // not by the mode of creation: the umask would cut it
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
            .map_err(|e| failed("opened to containers", &path, e))?;
        Ok(path)
    })
    .await
}

/// Makes the directory `name` below `root` as a copy of `from`, which must be there, too. Files share their blocks where
/// the file system can; what is written meanwhile may or may not be in the copy.
pub async fn copy(root: PathBuf, from: PathBuf, name: String) -> Result<PathBuf> {
    blocking(move || {
        if from.parent() != Some(&root) {
            return Err(Error::Other(format!(
                "{} isn't below {}: it can't be copied",
                from.display(),
                root.display()
            )));
        }
        let path = root.join(&name);
        if path.exists() {
            return Ok(path);
        }
        // an interrupted copy is never taken for a whole one
        let part = root.join(format!(".{name}.part"));
        match std::fs::remove_dir_all(&part) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("removed", &part, e));
            }
            _ => {}
        }
        super::copy::tree(&from, &part).map_err(|e| failed("copied", &from, e))?;
        std::fs::rename(&part, &path).map_err(|e| failed("made", &path, e))?;
        Ok(path)
    })
    .await
}

/// Removes a volume's directory with all in it; refuses anything but a direct child of `root`.
pub async fn remove(root: PathBuf, path: PathBuf) -> Result<()> {
    blocking(move || {
        let inside = path.parent() == Some(&root)
            && path
                .components()
                .all(|c| !matches!(c, Component::ParentDir));
        if !inside {
            return Err(Error::Other(format!(
                "{} isn't below {}, where local-path volumes are: remove it yourself, then delete the volume",
                path.display(),
                root.display()
            )));
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed("removed", &path, e)),
        }
    })
    .await
}

fn failed(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::Other(format!("{} can't be {what}: {e}", path.display()))
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f)
        .await
        .unwrap_or_else(|e| Err(Error::Other(format!("a bug in file work: {e}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn made_removed_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("volumes");
        let path = make(root.clone(), name("pv", "n", "c")).await.unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o777
        );
        assert_eq!(
            std::fs::metadata(&root).unwrap().permissions().mode() & 0o777,
            0o700
        );
        std::fs::write(path.join("file"), "x").unwrap();
        // again: it stays as it is
        make(root.clone(), name("pv", "n", "c")).await.unwrap();
        assert!(path.join("file").exists());
        for other in [
            root.clone(),
            temp.path().to_owned(),
            root.join("../volumes/pv_n_c"),
            "/".into(),
        ] {
            assert!(
                remove(root.clone(), other.clone()).await.is_err(),
                "{other:?}"
            );
        }
        assert!(path.join("file").exists());
        remove(root.clone(), path.clone()).await.unwrap();
        remove(root, path.clone()).await.unwrap();
        assert!(!path.exists());
    }
}
