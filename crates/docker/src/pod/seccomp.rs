//! Profiles that clients send: files where the node looks for them, named by what is in them.

use crate::error::Result;
use sha2::Digest;
use std::{io::Write, path::Path};

/// Below the node's folder of profiles.
pub fn name(text: &str) -> String {
    format!("docker/{}.json", hex::encode(sha2::Sha256::digest(text)))
}

/// Blocking. One that is there already is the same.
pub fn keep(dir: &Path, text: &str) -> Result<()> {
    let path = dir.join(name(text));
    let folder = dir.join("docker");
    if path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(&folder)?;
    let mut file = tempfile::NamedTempFile::new_in(&folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}
