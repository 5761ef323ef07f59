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

/// As `docker image inspect` shows images, as far as that means something here.
pub fn inspect(store: &ImageStore, names: &[String]) -> Result<(), Error> {
    let mut all = Vec::new();
    for name in names {
        let image = find(store, name)?;
        let config = store.raw_config(&image)?;
        let tags: Vec<String> = store
            .named()?
            .into_iter()
            .filter(|(_, digest)| *digest == image.digest)
            .map(|(name, _)| name)
            .collect();
        let repository = image.name.split('@').next().unwrap_or(&image.name);
        let repository = match repository.rfind(':') {
            Some(at) if at > repository.rfind('/').unwrap_or(0) => &repository[..at],
            _ => repository,
        };
        all.push(json!({
            "Id": image.id,
            "RepoTags": tags,
            "RepoDigests": [format!("{repository}@{}", image.digest)],
            "Created": config["created"],
            "Author": config["author"],
            "Architecture": config["architecture"],
            "Variant": config["variant"],
            "Os": config["os"],
            "Size": image.size_bytes,
            "Config": config["config"],
            "RootFS": {"Type": "layers", "Layers": config["rootfs"]["diff_ids"]},
            "Descriptor": {"digest": image.digest, "manifest": image.manifest},
            "History": config["history"],
        }));
    }
    let text = serde_json::to_string_pretty(&Value::Array(all));
    println!("{}", text.map_err(|e| Error::Failed(e.to_string()))?);
    Ok(())
}

/// The steps that made the image, the latest first.
pub fn history(store: &ImageStore, name: &str, whole: bool) -> Result<(), Error> {
    let image = find(store, name)?;
    let config = store.raw_config(&image)?;
    let mut sizes = store.layer_infos(&image)?.into_iter().map(|l| l.size_bytes);
    let mut lines = Vec::new();
    for step in config["history"].as_array().into_iter().flatten() {
        let bytes = match step["empty_layer"].as_bool() {
            Some(true) => 0,
            _ => sizes.next().unwrap_or(0),
        };
        lines.push((step.clone(), bytes));
    }
    // images without a history have layers all the same
    lines.extend(sizes.map(|bytes| (json!({}), bytes)));
    println!(
        "{:25}  {:45}  {:>8}  COMMENT",
        "CREATED", "CREATED BY", "SIZE"
    );
    for (step, bytes) in lines.into_iter().rev() {
        let text = |key: &str| step[key].as_str().unwrap_or("").replace(['\n', '\t'], " ");
        let mut by = text("created_by");
        if !whole && by.chars().count() > 45 {
            by = by.chars().take(44).collect::<String>() + "…";
        }
        println!(
            "{:25}  {by:45}  {:>8}  {}",
            text("created"),
            size(bytes),
            text("comment")
        );
    }
    Ok(())
}

/// Removes images that nothing runs on (`all`), and in any case what no name leads to.
pub fn prune(paths: &Paths, store: &ImageStore, all: bool, output: Output) -> Result<(), Error> {
    let used = image_users::layers(paths);
    let mut removed = Vec::new();
    if all {
        for image in store.list()? {
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
