//! `knarr stop --purge`: nothing of stand-alone containers stays.

use super::{life, network, record::Home};
use crate::{
    error::{Error, io},
    paths::Paths,
};

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
    std::fs::remove_dir_all(&home.dir).map_err(io(home.dir.display().to_string()))
}
