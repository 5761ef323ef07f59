//! What a manifest says and refers to (image-spec manifest.md and image-index.md; Docker's schema 2 has the same shape).

use crate::{digest::Digest, error::Refusal};
use base64::Engine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
/// Kinds of configs that make a manifest an image that runs.
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// Points at content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing)]
    urls: Option<Vec<String>>,
    #[serde(default, skip_serializing)]
    data: Option<String>,
    #[serde(default, skip_serializing)]
    pub platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
}

impl Descriptor {
    pub fn of(
        media_type: String,
        digest: String,
        size: u64,
        artifact_type: Option<String>,
        annotations: Option<BTreeMap<String, String>>,
    ) -> Descriptor {
        Descriptor {
            media_type,
            digest,
            size,
            artifact_type,
            annotations,
            urls: None,
            data: None,
            platform: None,
        }
    }

    /// Its content may be elsewhere only: a layer that must not be distributed, or one with addresses of its own.
    fn foreign(&self) -> bool {
        let kind = &self.media_type;
        kind.contains(".nondistributable.")
            || kind.contains(".foreign.")
            || self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }
}

/// What the registry reads of a manifest; the bytes are kept as they came.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: Option<u64>,
    media_type: Option<String>,
    pub artifact_type: Option<String>,
    pub config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    pub subject: Option<Descriptor>,
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A descriptor and its digest, which is one.
pub struct Reference<'a> {
    pub descriptor: &'a Descriptor,
    pub digest: Digest,
}

impl Manifest {
    /// Reads one that was pushed as `content_type`; gives its media type, too.
    ///
    /// # Errors
    /// `MANIFEST_INVALID` with what is wrong.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<(Manifest, String), Refusal> {
        let invalid = Refusal::manifest_invalid;
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|e| invalid(format!("the manifest is not readable: {e}")))?;
        let generic =
            |kind: &&str| !matches!(*kind, "" | "application/json" | "application/octet-stream");
        let sent = content_type
            .map(|kind| kind.split(';').next().unwrap_or("").trim())
            .filter(generic);
        if sent.is_some_and(|kind| SCHEMA_1.contains(&kind)) || manifest.schema_version == Some(1) {
            return Err(invalid(
                "manifests of schema 1 are not taken any more: push the image with a newer client"
                    .into(),
            ));
        }
        if manifest.schema_version != Some(2) {
            return Err(invalid("schemaVersion must be 2".into()));
        }
        let said = manifest
            .media_type
            .as_deref()
            .filter(|kind| !kind.is_empty());
        let kind = match (sent, said) {
            (Some(sent), Some(said)) if sent != said => {
                return Err(invalid(format!(
                    "it was sent as {sent}, but its mediaType is {said}"
                )));
            }
            (Some(kind), _) | (None, Some(kind)) => kind.to_string(),
            (None, None) if manifest.manifests.is_some() => OCI_INDEX.to_string(),
            (None, None) => OCI_IMAGE.to_string(),
        };
        let (index, image) = (
            is_index(&kind),
            matches!(kind.as_str(), OCI_IMAGE | DOCKER_IMAGE),
        );
        // A document that is both could be read as either (CVE-2021-41190).
        let ambiguous = manifest.manifests.is_some()
            && (manifest.config.is_some() || manifest.layers.is_some() || manifest.blobs.is_some());
        match () {
            () if ambiguous => Err(invalid(
                "it has both manifests and config or layers: it is either an index or an image"
                    .into(),
            )),
            () if index && manifest.manifests.is_none() => {
                Err(invalid("an index must have manifests".into()))
            }
            () if image && manifest.config.is_none() => {
                Err(invalid("an image's manifest must have a config".into()))
            }
            () if image && manifest.layers.is_none() => {
                Err(invalid("an image's manifest must have layers".into()))
            }
            () => Ok((manifest, kind)),
        }
    }

    /// The blobs it is made of, but for what may be elsewhere.
    ///
    /// # Errors
    /// When a digest is none, or embedded data are not what the digest says.
    pub fn blobs(&self) -> Result<Vec<Reference<'_>>, Refusal> {
        let lists = [&self.layers, &self.blobs];
        let layers = lists.into_iter().flatten().flatten();
        let all = self.config.iter().chain(layers);
        all.filter(|d| !d.foreign()).map(checked).collect()
    }

    /// The manifests of an index.
    pub fn children(&self) -> Result<Vec<Reference<'_>>, Refusal> {
        let all = self.manifests.iter().flatten();
        all.map(checked).collect()
    }

    pub fn subject(&self) -> Result<Option<Digest>, Refusal> {
        let subject = self.subject.as_ref().map(checked).transpose()?;
        Ok(subject.map(|reference| reference.digest))
    }

    /// What its referrers' list calls it: its own type, or its config's where it is an image.
    pub fn kind_of_artifact(&self) -> Option<String> {
        let own = self.artifact_type.clone().filter(|kind| !kind.is_empty());
        own.or_else(|| Some(self.config.as_ref()?.media_type.clone()))
            .filter(|kind| !kind.is_empty())
    }

    /// The config's digest when this is an image that a machine could run, with the number of its layers.
    pub fn runs(&self) -> Option<(&str, usize)> {
        let config = self.config.as_ref()?;
        let layers = self.layers.as_ref()?;
        let kinds = layers
            .iter()
            .all(|l| l.media_type.contains("tar") && !l.foreign());
        (CONFIGS.contains(&config.media_type.as_str()) && kinds)
            .then_some((config.digest.as_str(), layers.len()))
    }
}

/// Is this media type an index's?
pub fn is_index(kind: &str) -> bool {
    matches!(kind, OCI_INDEX | DOCKER_LIST)
}

fn checked(descriptor: &Descriptor) -> Result<Reference<'_>, Refusal> {
    let digest: Digest = descriptor
        .digest
        .parse()
        .map_err(|e| Refusal::manifest_invalid(format!("a descriptor's digest: {e}")))?;
    if let Some(data) = &descriptor.data {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data)
            .map_err(|e| Refusal::manifest_invalid(format!("data of {digest}: {e}")))?;
        if bytes.len() as u64 != descriptor.size || Digest::of(digest.algorithm, &bytes) != digest {
            return Err(Refusal::manifest_invalid(format!(
                "the data embedded for {digest} are not what its digest and size say"
            )));
        }
    }
    Ok(Reference { descriptor, digest })
}

/// What decides whether an image runs here.
#[derive(Deserialize)]
struct Config {
    architecture: String,
    os: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// This machine, as images call it.
pub fn here() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform {
        architecture: architecture.into(),
        os: "linux".into(),
    }
}

/// Is this config one of an image with so many layers for this machine?
pub fn config_runs_here(config: &[u8], layers: usize) -> bool {
    let here = here();
    serde_json::from_slice::<Config>(config).is_ok_and(|config| {
        config.os == here.os
            && config.architecture == here.architecture
            && config.rootfs.diff_ids.len() == layers
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_manifest_is_refused() {
        for (name, kind, body, want) in [
            ("not JSON", None, "{", "not readable"),
            ("schema 1", None, r#"{"schemaVersion":1}"#, "schema 1"),
            ("no schema", None, r#"{}"#, "schemaVersion must be 2"),
            (
                "two types",
                Some(OCI_IMAGE),
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
                "but its mediaType is",
            ),
            (
                "both",
                None,
                r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
                "either an index or an image",
            ),
            (
                "index of nothing",
                Some(OCI_INDEX),
                r#"{"schemaVersion":2}"#,
                "must have manifests",
            ),
            (
                "no config",
                Some(OCI_IMAGE),
                r#"{"schemaVersion":2,"layers":[]}"#,
                "must have a config",
            ),
        ] {
            let got = Manifest::parse(body.as_bytes(), kind).map(|(_, kind)| kind);
            let message = got.expect_err(name).message;
            assert!(message.contains(want), "{name}: {message}");
        }
    }

    #[test]
    fn types_are_found_where_they_are_said() {
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let typed = r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}"#;
        for (kind, body, want) in [
            (
                Some("application/vnd.oci.image.index.v1+json; charset=utf-8"),
                index,
                OCI_INDEX,
            ),
            (None, index, OCI_INDEX),
            (Some("application/json"), typed, DOCKER_LIST),
            (None, typed, DOCKER_LIST),
        ] {
            let (_, got) = Manifest::parse(body.as_bytes(), kind).unwrap();
            assert_eq!(got, want, "{kind:?} {body}");
        }
    }
}
