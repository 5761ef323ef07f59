//! `docker import`: a file system becomes an image.

use super::{changes::change, tagged, transfer::tell};
use crate::{
    daemon::Daemon,
    error::{Fault, Result, blocking},
    http::{Answer, Ask, messages},
};
use serde_json::json;
use std::sync::Arc;

fn named(repo: Option<&str>, tag: Option<&str>) -> Option<String> {
    let repo = repo.filter(|r| !r.is_empty())?;
    Some(match tag {
        Some(tag) => format!("{repo}:{tag}"),
        None => repo.to_string(),
    })
}

/// `POST /images/create?fromSrc=-`: the body is a file system as a tar, compressed or not.
pub async fn import(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    if ask.query.get("fromSrc") != Some("-") {
        return Err(Fault::unsupported(
            "importing from a URL (fetch it, and import the file)",
        ));
    }
    let name = named(ask.query.get("repo"), ask.query.get("tag"));
    let message = ask
        .query
        .get("message")
        .unwrap_or("Imported from -")
        .to_string();
    let mut config = json!({});
    change(&mut config, &ask.query.all("changes"))?;
    let worker = daemon.clone();
    let temp = blocking(move || worker.temp()).await?;
    let archive = temp.path().join("archive");
    super::transfer::spool(ask.body, archive.clone()).await?;
    let worker = daemon.clone();
    let image = blocking(move || {
        let plain = crate::archive::plain(std::fs::File::open(&archive)?);
        let failed =
            |e: &dyn std::fmt::Display| Fault::bad(format!("Error processing tar file: {e}"));
        let history = json!({ "created": jiff::Timestamp::now().to_string(), "comment": message });
        let plain = plain.map_err(|e| failed(&e))?;
        let image = (worker.images)
            .import_told(plain, &config, &history, name.as_deref())
            .map_err(|e| failed(&e))?;
        tell(
            &worker,
            "import",
            &image.id,
            &name.map(|n| tagged(&n)).unwrap_or_default(),
        );
        Ok(image.id)
    })
    .await?;
    Ok(messages(futures::stream::iter([
        json!({ "status": image }),
    ])))
}
