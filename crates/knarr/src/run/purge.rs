//! `knarr stop --purge`: nothing of stand-alone containers stays.

use super::{life, network, record::Home};
use crate::{
    error::{Error, io},
    paths::Paths,
};

const TRIES: u32 = 20;

/// Ends and removes them all, with their network, volumes and records.
pub async fn purge(paths: &Paths) -> Result<(), Error> {
    let home = Home::new(paths);
    if !home.dir.exists() {
        return Ok(());
    }
    for record in home.all() {
        life::remove(&home, &record, None).await?;
    }
    if home.network().exists() {
        super::resolver::gone(&home).await;
        network::purge(&home).await?;
    }
    // who was about to see to a container's end may just be locking it, to find that it's gone
    let mut left = TRIES;
    loop {
        match std::fs::remove_dir_all(&home.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty && left > 0 => left -= 1,
            done => return done.map_err(io(home.dir.display().to_string())),
        }
    }
}
