//! Attestations of an image: what is in it (SBOM) and how it was made (provenance), as in-toto statements in a manifest
//! beside the image's, in one index (buildkit docs/attestations/attestation-storage.md).

mod binaries;
mod options;
mod packages;
pub(crate) mod provenance;
mod sbom;
mod wired;

pub use options::{Attestations, AttestationsError, Provenance};
pub use packages::{Kind, Package};
pub use sbom::{document, packages};

use std::collections::BTreeMap;

use knarr_image::{Image, ImageStore};
use serde_json::{Value, json};

use crate::error::Error;

pub(crate) const SPDX: &str = "https://spdx.dev/Document";
const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What is said of an image: a predicate and its type's URI.
#[derive(Debug, Clone)]
pub struct Predicate {
    pub uri: String,
    pub value: Value,
}

/// A package URL of an image (`pkg:docker/NAME@TAG?platform=…`), as BuildKit names subjects and materials.
pub(crate) fn docker_purl(name: &str, platform: &str) -> String {
    let name = name.split('@').next().unwrap_or(name);
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    };
    let short = repository.strip_prefix("docker.io/").unwrap_or(repository);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let platform = platform.replace('/', "%2F");
    format!("pkg:docker/{short}@{tag}?platform={platform}")
}

fn put(store: &ImageStore, value: &Value) -> Result<(String, usize), Error> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::Bug(e.to_string()))?;
    let digest = store.put_bytes(&bytes)?;
    store.hold(&digest)?;
    Ok((digest, bytes.len()))
}

/// Puts statements about an image into the store, and gives their manifest's entry in an index. Blocking; the blobs are
/// held by the store's lease.
///
/// # Errors
/// When the store can't be written.
pub fn statements(
    store: &ImageStore,
    image: &Image,
    names: &[String],
    platform: &Value,
    predicates: &[Predicate],
) -> Result<Value, Error> {
    let text = |key: &str| platform[key].as_str().unwrap_or("unknown").to_owned();
    let mut spelled = format!("{}/{}", text("os"), text("architecture"));
    if let Some(variant) = platform["variant"].as_str() {
        spelled += &format!("/{variant}");
    }
    let hex = image.manifest.trim_start_matches("sha256:");
    let subject = |name: String| json!({"name": name, "digest": {"sha256": hex}});
    let subjects: Vec<Value> = match names.is_empty() {
        true => vec![subject("_".into())],
        false => {
            let purl = |name: &String| {
                let full = knarr_image::normalize(name).unwrap_or_else(|_| name.clone());
                subject(docker_purl(&full, &spelled))
            };
            names.iter().map(purl).collect()
        }
    };
    let mut layers = vec![];
    let mut ids = vec![];
    for predicate in predicates {
        let (digest, size) = put(
            store,
            &json!({
                "_type": STATEMENT,
                "predicateType": predicate.uri,
                "subject": subjects,
                "predicate": predicate.value,
            }),
        )?;
        layers.push(json!({
            "mediaType": IN_TOTO,
            "digest": digest,
            "size": size,
            "annotations": {"in-toto.io/predicate-type": predicate.uri},
        }));
        ids.push(digest);
    }
    let (config, config_size) = put(
        store,
        &json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": ids},
        }),
    )?;
    let (digest, size) = put(
        store,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": config_size},
            "layers": layers,
        }),
    )?;
    Ok(json!({
        "mediaType": MANIFEST,
        "digest": digest,
        "size": size,
        "annotations": {
            "vnd.docker.reference.digest": image.manifest,
            "vnd.docker.reference.type": "attestation-manifest",
        },
        "platform": {"architecture": "unknown", "os": "unknown"},
    }))
}

/// An image's entry in an index.
pub(crate) fn entry(
    store: &ImageStore,
    image: &Image,
    platform: &Value,
    annotations: &BTreeMap<String, String>,
) -> Result<Value, Error> {
    let mut entry = json!({
        "mediaType": MANIFEST,
        "digest": image.manifest,
        "size": store.read_blob(&image.manifest)?.len(),
        "platform": platform,
    });
    if !annotations.is_empty() {
        entry["annotations"] = json!(annotations);
    }
    Ok(entry)
}

/// Puts an index of these entries into the store; gives its digest.
pub(crate) fn index(
    store: &ImageStore,
    entries: &[Value],
    annotations: &BTreeMap<String, String>,
) -> Result<String, Error> {
    let mut value = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": entries,
    });
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
    put(store, &value).map(|(digest, _)| digest)
}
