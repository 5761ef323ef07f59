//! After a power cut: layers' files were written but perhaps not yet on the disk. A file whose data had not arrived is shorter
//! than it should be (ext4's ordered mode, XFS, btrfs), and the recipes know how long each should be.
//!
//! So the store's layers are looked through once after each boot of the machine, by sizes alone. What isn't whole goes, and is
//! unpacked again from its blob, pulled, loaded or built again: it is never mistaken for whole. To flush each layer instead
//! would make every build and pull wait for whatever else is being written to that disk.

use crate::{Error, ImageStore, files::Files, io, recipe};
use std::{fs, path::Path};

/// Changes with each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl ImageStore {
    /// Looks the layers through if the machine was started since the last time. The caller holds the exclusive lock.
    pub(crate) fn check_after_boot(&self) -> Result<(), Error> {
        // without /proc there are no containers either
        let Ok(boot) = fs::read_to_string(BOOT_ID) else {
            return Ok(());
        };
        self.check_since(boot.trim())
    }

    fn check_since(&self, boot: &str) -> Result<(), Error> {
        let note = self.dir().join("boot");
        if fs::read_to_string(&note).is_ok_and(|known| known == boot) {
            return Ok(());
        }
        let layers = self.dir().join("layers");
        for entry in fs::read_dir(&layers).map_err(io(&layers))?.flatten() {
            let name = entry.file_name();
            let id = name.to_string_lossy();
            let recipe = self.recipe(&id);
            let whole = match recipe.exists() {
                true => recipe::is_whole(&recipe, &entry.path()),
                // of such a layer the blob is always kept
                false => false,
            };
            if !whole && self.can_unpack_again(&id, &recipe) {
                fs::remove_dir_all(entry.path()).map_err(io(entry.path()))?;
                let _ = fs::remove_file(&recipe);
            }
        }
        Files::new(self.dir().join("files")).drop_empty()?;
        self.replace(&note, boot.as_bytes())
    }

    /// A layer of an older store has no recipe and may have no blob that we know of: it stays.
    fn can_unpack_again(&self, id: &str, recipe: &Path) -> bool {
        recipe.exists() || self.blob(id).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerOptions;
    use std::io::Write;

    #[test]
    fn what_did_not_reach_the_disk_is_not_taken_for_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("images")).unwrap();
        let commit = |name: &str| {
            let upper = dir.path().join(name);
            fs::create_dir(&upper).unwrap();
            fs::write(upper.join(name), "content").unwrap();
            // the same whenever it is made: times are part of a layer
            for path in [upper.join(name), upper.clone()] {
                let file = fs::File::open(path).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            store.commit_layer(&upper, LayerOptions::default()).unwrap()
        };
        let (whole, cut) = (commit("whole"), commit("cut"));
        let file = store.layer(&cut.diff_id).join("cut");
        fs::OpenOptions::new()
            .write(true)
            .open(file)
            .unwrap()
            .set_len(0)
            .unwrap();
        let check = |boot: &str, want: bool| {
            store.check_since(boot).unwrap();
            assert_eq!(store.layer(&cut.diff_id).exists(), want, "{boot}");
            assert!(store.layer(&whole.diff_id).exists(), "{boot}");
        };
        store.replace(&store.dir().join("boot"), b"same").unwrap();
        check("same", true);
        check("other", false);
        assert!(!store.has_blob(&cut.digest));
        // nor is its shared file given to the next layer
        let again = commit("cut");
        assert_eq!(again.diff_id, cut.diff_id);
        assert_eq!(
            fs::read(store.layer(&cut.diff_id).join("cut")).unwrap(),
            b"content"
        );
        // a recipe that is cut off
        let recipe = store.recipe(&whole.diff_id);
        let bytes = fs::read(&recipe).unwrap();
        fs::File::create(&recipe)
            .unwrap()
            .write_all(&bytes[..bytes.len() - 5])
            .unwrap();
        store.check_since("third").unwrap();
        assert!(!store.layer(&whole.diff_id).exists());
    }
}
