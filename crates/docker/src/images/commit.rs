//! What a container wrote, made an image: `docker commit`, and `knarr container commit` without a daemon.

use super::{changes, files};
use crate::{archive::is_mount_point, http};
use knarr_image::{ImageStore, LayerInfo, LayerOptions};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A container as it is to become an image.
pub struct Snapshot<'a> {
    /// The image it was made of, by a name that stays that image's.
    pub image: &'a str,
    /// What it wrote into its own root file system.
    pub upper: &'a Path,
    /// Of its configuration, in Docker's words, what counts over the image's.
    pub config: Map<String, Value>,
    /// `ENV A=b`, … of `--change`
    pub changes: &'a [String],
    pub author: &'a str,
    pub comment: &'a str,
    /// For what is in between; on the store's file system.
    pub temp: &'a Path,
}

/// What of a container's configuration is an image's, too.
const CONFIG: [&str; 13] = [
    "User",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "ExposedPorts",
    "StopSignal",
    "StopTimeout",
    "Healthcheck",
    "Shell",
    "OnBuild",
];

/// The layers of an image, lowest first, as another image takes them. Blocking.
pub fn layers_of(
    images: &ImageStore,
    manifest: &str,
    raw: &Value,
) -> Result<Vec<LayerInfo>, knarr_image::Error> {
    let bytes = images.read_blob(manifest)?;
    // one that isn't JSON was refused when it came
    let manifest: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let diff_ids = raw["rootfs"]["diff_ids"].as_array();
    let blobs = manifest["layers"].as_array();
    let pairs = (blobs.into_iter().flatten()).zip(diff_ids.into_iter().flatten());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let layers = pairs.map(|(blob, diff_id)| LayerInfo {
        diff_id: text(diff_id),
        digest: text(&blob["digest"]),
        size_bytes: blob["size"].as_u64().unwrap_or(0),
        media_type: text(&blob["mediaType"]),
    });
    Ok(layers.collect())
}

impl Snapshot<'_> {
    fn configured(&self, config: &mut Value) {
        if !config.is_object() {
            *config = json!({});
        }
        let said = self.config.iter();
        let said = said.filter(|(k, v)| CONFIG.contains(&k.as_str()) && !http::is_zero(v));
        for (key, value) in said {
            if key != "Env" {
                config[key] = value.clone();
                continue;
            }
            let list = |value: &Value| -> Vec<String> {
                serde_json::from_value(value.clone()).unwrap_or_default()
            };
            let (mut all, more) = (list(&config["Env"]), list(value));
            let name = |v: &str| v.split('=').next().map(str::to_string);
            all.retain(|v| !more.iter().any(|m| name(m) == name(v)));
            all.extend(more);
            config["Env"] = json!(all);
        }
        // a new entrypoint without a command drops the image's
        let says = |key: &str| self.config.get(key).is_some_and(|v| !http::is_zero(v));
        if says("Entrypoint") && !says("Cmd") {
            config["Cmd"] = Value::Null;
        }
    }

    /// A copy of what was written, without what only is there for mounts.
    fn root(&self) -> std::io::Result<std::path::PathBuf> {
        let root = self.temp.join("root");
        std::fs::create_dir(&root)?;
        if self.upper.exists() {
            files::copy_raw(self.upper, &root)?;
        }
        for path in [
            "/dev",
            "/proc",
            "/sys",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/resolv.conf",
        ] {
            let copied = root.join(&path[1..]);
            let meta = std::fs::symlink_metadata(&copied);
            if meta.is_ok_and(|m| is_mount_point(path.as_ref(), &m)) {
                // a folder with something in it stays
                let _ = std::fs::remove_dir(&copied).or_else(|_| std::fs::remove_file(&copied));
            }
        }
        Ok(root)
    }

    /// Makes the image and gives it a name, if it has one; its id. Blocking.
    ///
    /// # Errors
    /// In Docker's words.
    pub fn commit(&self, images: &ImageStore, name: Option<&str>) -> Result<String, String> {
        let told = |e: &dyn std::fmt::Display| e.to_string();
        let known = images.resolve(self.image).map_err(|e| told(&e))?;
        let known = known.ok_or_else(|| format!("No such image: {}", self.image))?;
        let bytes = images.read_blob(&known.id).map_err(|e| told(&e))?;
        let mut raw: Value = serde_json::from_slice(&bytes).map_err(|e| told(&e))?;
        let mut layers = layers_of(images, &known.manifest, &raw).map_err(|e| told(&e))?;
        let mut config = raw["config"].take();
        self.configured(&mut config);
        let lines: Vec<&str> = self.changes.iter().map(String::as_str).collect();
        changes::change(&mut config, &lines).map_err(|f| f.message)?;
        let root = self.root().map_err(|e| told(&e))?;
        let layer = images.commit_layer(&root, LayerOptions::default());
        layers.push(layer.map_err(|e| told(&e))?);
        let now = jiff::Timestamp::now().to_string();
        raw["config"] = config;
        raw["created"] = json!(now);
        raw["author"] = json!(self.author);
        if !raw["history"].is_array() {
            raw["history"] = json!([]);
        }
        if let Some(history) = raw["history"].as_array_mut() {
            // SOURCE: moby `daemon/images/image_commit.go`: its command line, as one
            let line = self.config.get("Cmd").and_then(Value::as_array);
            let line = line.into_iter().flatten().filter_map(Value::as_str);
            history.push(json!({
                "created": now, "created_by": line.collect::<Vec<_>>().join(" "), "comment": self.comment, "author": self.author,
            }));
        }
        let image = images.put_image(&raw, &layers, &Default::default(), name);
        let image = image.map_err(|e| told(&e))?;
        if name.is_none() {
            super::keep_nameless(images, &image.digest).map_err(|e| told(&e))?;
        }
        Ok(image.id)
    }
}
