//! `knarr image tag`, `inspect`, `history`, `prune`.

use crate::{cli::Output, error::Error, image_users, layers_shown::size, paths::Paths};
use knarr_image::{Image, ImageStore};
use serde_json::{Value, json};
use std::path::PathBuf;

pub fn find(store: &ImageStore, name: &str) -> Result<Image, Error> {
    Ok(store
        .resolve(name)?
        .ok_or_else(|| knarr_image::Error::NotFound(name.into()))?)
}

pub fn tag(store: &ImageStore, source: &str, target: &str) -> Result<(), Error> {
    let image = find(store, source)?;
    Ok(store.tag(target, &image.digest)?)
}

/// As `docker image inspect` shows an image, as far as that means something here.
pub fn inspected(store: &ImageStore, image: &Image) -> Result<Value, Error> {
    let mut config = store.raw_config(image)?;
    // templates ask for what isn't set, too
    for (key, unset) in [
        ("Env", json!([])),
        ("Cmd", json!([])),
        ("Entrypoint", json!([])),
        ("Labels", json!({})),
        ("User", json!("")),
        ("WorkingDir", json!("")),
        ("ExposedPorts", json!({})),
        ("Volumes", json!({})),
    ] {
        if config["config"][key].is_null() {
            config["config"][key] = unset;
        }
    }
    let names = store.named()?.into_iter();
    let tags = names
        .filter(|(_, digest)| *digest == image.digest)
        .map(|(name, _)| name);
    let tags: Vec<String> = tags
        .map(|name| crate::image_list::familiar(&name).to_string())
        .collect();
    let (repository, _) = crate::image_list::parts(&image.name);
    let last = config["history"].as_array().and_then(|all| all.last());
    let comment = last
        .and_then(|step| step["comment"].as_str())
        .unwrap_or_default();
    Ok(json!({
        "Id": image.id,
        "RepoTags": tags,
        "RepoDigests": [format!("{}@{}", crate::image_list::familiar(repository), image.digest)],
        "Created": config["created"],
        "Author": config["author"].as_str().unwrap_or_default(),
        "Comment": comment,
        "Parent": "",
        "DockerVersion": "",
        "GraphDriver": { "Data": null, "Name": "overlay2" },
        "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
        "Architecture": config["architecture"],
        "Variant": config["variant"],
        "Os": config["os"],
        "Size": image.size_bytes,
        "Config": config["config"],
        "RootFS": {"Type": "layers", "Layers": config["rootfs"]["diff_ids"]},
        "Descriptor": {"digest": image.digest, "manifest": image.manifest},
        "History": config["history"],
    }))
}

/// Removes images that nothing runs on (`all`) and that the filters fit, and in any case what no name leads to.
pub fn prune(
    paths: &Paths,
    store: &ImageStore,
    all: bool,
    asked: &crate::run::Prune,
    output: Output,
) -> Result<(), Error> {
    let used = image_users::layers(paths);
    let asked = asked.read_with(&["dangling"])?;
    // SOURCE: moby `daemon/images/image_prune.go`: dangling=false is `--all`
    let all = all
        || asked
            .values("dangling")
            .any(|said| matches!(said, "false" | "0"));
    let mut removed = Vec::new();
    if all {
        for image in store.list()? {
            let config = store.raw_config(&image)?;
            let made = config["created"].as_str().and_then(|t| t.parse().ok());
            let labels = serde_json::from_value(config["config"]["Labels"].clone());
            if !asked.fits(made.unwrap_or_default(), &labels.unwrap_or_default()) {
                continue;
            }
            let runs = |layer: &PathBuf| used.contains(layer);
            if image.layers.is_empty() || !image.layers.iter().all(runs) {
                store.untag(&image.name)?;
                removed.push(image.name);
            }
        }
    }
    let mut gone = store.collect(&used)?;
    gone.bytes += store.shrink()?;
    if output == Output::Json {
        let out = json!({"removed": removed, "layers": gone.layers, "blobs": gone.blobs, "bytes": gone.bytes});
        println!("{out}");
        return Ok(());
    }
    for name in removed {
        println!("Untagged: {name}");
    }
    println!("Total reclaimed space: {}", size(gone.bytes));
    Ok(())
}
