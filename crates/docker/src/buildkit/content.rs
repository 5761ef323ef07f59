//! Blobs of a client's own stores: OCI layouts on its side, read and written over its session.
//!
//! SOURCE: containerd `api/services/content/v1`, moby/buildkit `session/content`

use super::session::Session;
use ::http::{HeaderMap, HeaderValue};
use knarr_grpc::{
    Status, code,
    proto::{Fields, Message},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const HEADER: &str = "buildkit-attachable-store-id";
const PIECE: usize = 1 << 20;
/// No manifest is longer, in bytes.
const MANIFEST_MAX: u64 = 4 << 20;
/// No blob is longer, in bytes.
const BLOB_MAX: u64 = 64 << 30;
/// Blobs of one layout.
const BLOBS_MAX: usize = 4096;
/// `WriteAction`
const ACTION_WRITE: i64 = 1;
const ACTION_COMMIT: i64 = 2;

/// One of the client's stores.
pub struct Store {
    session: Arc<Session>,
    id: HeaderValue,
}

/// Of a blob in a layout.
fn path_of(digest: &str) -> Result<String, Status> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    match hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        true => Ok(format!("blobs/sha256/{hex}")),
        false => Err(Status::new(
            code::INVALID_ARGUMENT,
            format!("invalid digest {digest:?}"),
        )),
    }
}

impl Store {
    /// `local:FOLDER` of a cache, `oci:NAME` of a named context, `export` of an output.
    ///
    /// # Errors
    /// When the client offers no stores.
    pub fn new(session: &Arc<Session>, id: &str) -> Result<Store, Status> {
        if !session.offers(READ) {
            return Err(Status::unknown("the client lends no content"));
        }
        Ok(Store {
            session: session.clone(),
            id: id.parse().map_err(Status::unknown)?,
        })
    }

    fn metadata(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(HEADER, self.id.clone());
        map
    }

    /// Brings a blob; false when it's the client's no more. Blocks between pieces.
    async fn read(&self, digest: &str, max: u64, to: &Path) -> Result<(), Status> {
        let (out, mut answers) = self.session.channel.stream(READ, self.metadata()).await?;
        out.send(&Message::default().text(1, digest)).await?;
        drop(out);
        let mut file = std::fs::File::create(to).map_err(Status::unknown)?;
        let (mut sum, mut bytes) = (Sha256::new(), 0);
        while let Some(message) = answers.next().await? {
            for (_, value) in Fields(&message).filter(|(field, _)| *field == 2) {
                bytes += value.bytes().len() as u64;
                if bytes > max {
                    return Err(Status::unknown(format!(
                        "{digest} is longer than {max} bytes"
                    )));
                }
                sum.update(value.bytes());
                file.write_all(value.bytes()).map_err(Status::unknown)?;
            }
        }
        match format!("sha256:{}", hex::encode(sum.finalize())) == digest {
            true => Ok(()),
            false => Err(Status::unknown(format!(
                "{digest}: the client sent something else"
            ))),
        }
    }

    /// Brings an image or index, with all that belongs to it, as a layout in a new folder, under a tag.
    ///
    /// # Errors
    /// The client's; that it is no image of ours to read; that something is missing.
    pub async fn layout(
        &self,
        digest: &str,
        tag: &str,
        platforms: &[knarr_dockerfile::Platform],
        to: &Path,
    ) -> Result<(), Status> {
        std::fs::create_dir_all(to.join("blobs/sha256")).map_err(Status::unknown)?;
        let mut open = vec![(digest.to_string(), true)];
        let (mut top, mut count) = (Value::Null, 0);
        while let Some((digest, manifest)) = open.pop() {
            let path = to.join(path_of(&digest)?);
            if path.exists() {
                continue;
            }
            count += 1;
            if count > BLOBS_MAX {
                return Err(Status::unknown("the layout has too many blobs"));
            }
            let max = if manifest { MANIFEST_MAX } else { BLOB_MAX };
            self.read(&digest, max, &path).await?;
            if !manifest {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(Status::unknown)?;
            let value: Value = serde_json::from_slice(&bytes).map_err(Status::unknown)?;
            open.extend(referred(&value, platforms));
            if top.is_null() {
                top = json!({
                    "mediaType": media_type(&value), "digest": digest, "size": bytes.len(),
                    "annotations": {"org.opencontainers.image.ref.name": tag},
                });
            }
        }
        let write = |name: &str, value: Value| {
            std::fs::write(to.join(name), value.to_string()).map_err(Status::unknown)
        };
        write("oci-layout", json!({"imageLayoutVersion": "1.0.0"}))?;
        write(
            "index.json",
            json!({"schemaVersion": 2, "manifests": [top]}),
        )
    }

    /// Gives all of a layout to the client: its index's one entry comes back, as the client's index shall have it.
    ///
    /// # Errors
    /// The client's, or that the layout can't be read.
    pub async fn give(&self, layout: &Path) -> Result<Value, Status> {
        let index = std::fs::read(layout.join("index.json")).map_err(Status::unknown)?;
        let index: Value = serde_json::from_slice(&index).map_err(Status::unknown)?;
        let mut top = index["manifests"][0].clone();
        let digest = top["digest"].as_str().unwrap_or_default().to_string();
        let mut open = vec![(digest, true)];
        let mut all = Vec::new();
        while let Some((digest, manifest)) = open.pop() {
            if all.contains(&digest) {
                continue;
            }
            if manifest {
                let bytes =
                    std::fs::read(layout.join(path_of(&digest)?)).map_err(Status::unknown)?;
                let value: Value = serde_json::from_slice(&bytes).map_err(Status::unknown)?;
                open.extend(referred(&value, &[]));
            }
            all.push(digest);
        }
        // what leads to others comes last
        for digest in all.iter().rev() {
            self.write(digest, &layout.join(path_of(digest)?)).await?;
        }
        if let Some(top) = top.as_object_mut() {
            top.remove("annotations");
        }
        Ok(top)
    }

    /// One blob. Blocks between pieces.
    async fn write(&self, digest: &str, from: &Path) -> Result<(), Status> {
        let mut file = std::fs::File::open(from).map_err(Status::unknown)?;
        let size = file.metadata().map_err(Status::unknown)?.len();
        let total = i64::try_from(size).map_err(Status::unknown)?;
        let (out, mut answers) = self.session.channel.stream(WRITE, self.metadata()).await?;
        let reference = format!("knarr-{digest}");
        let first = Message::default()
            .text(2, &reference)
            .number(3, total)
            .text(4, digest);
        let sent = async {
            // where an earlier try ended
            out.send(&first).await?;
            let mut offset = match answers.next().await? {
                Some(message) => {
                    let field = Fields(&message).find(|(field, _)| *field == 4);
                    field.map_or(0, |(_, value)| value.number())
                }
                None => return Err(Status::unavailable("the client ended the write")),
            };
            use std::io::Seek;
            let at = u64::try_from(offset).map_err(Status::unknown)?;
            file.seek(std::io::SeekFrom::Start(at))
                .map_err(Status::unknown)?;
            let mut piece = vec![0; PIECE];
            loop {
                let n = file.read(&mut piece).map_err(Status::unknown)?;
                if n == 0 {
                    break;
                }
                let message = Message::default()
                    .number(1, ACTION_WRITE)
                    .number(5, offset)
                    .data(6, &piece[..n]);
                out.send(&message).await?;
                answers.next().await?;
                offset += n as i64;
            }
            let commit = Message::default()
                .number(1, ACTION_COMMIT)
                .number(3, total)
                .text(4, digest)
                .number(5, offset);
            out.send(&commit).await?;
            answers.next().await?;
            drop(out);
            while answers.next().await?.is_some() {}
            Ok(())
        };
        match sent.await {
            Err(status) if status.code == code::ALREADY_EXISTS => Ok(()),
            other => other,
        }
    }
}

fn media_type(value: &Value) -> Value {
    match value["mediaType"].as_str() {
        Some(known) => known.into(),
        None if value["manifests"].is_array() => "application/vnd.oci.image.index.v1+json".into(),
        None => "application/vnd.oci.image.manifest.v1+json".into(),
    }
}

/// The digests in a manifest or index, and whether they are manifests themselves. Of an index those for other platforms
/// than these are left out; none: all are wanted.
fn referred(value: &Value, platforms: &[knarr_dockerfile::Platform]) -> Vec<(String, bool)> {
    let digest = |entry: &Value| entry["digest"].as_str().unwrap_or_default().to_string();
    let mut all = Vec::new();
    for entry in value["manifests"].as_array().into_iter().flatten() {
        let platform = &entry["platform"];
        let fits = platform.is_null()
            || platforms.is_empty()
            || platforms.iter().any(|p| {
                platform["os"] == p.os.as_str()
                    && platform["architecture"] == p.architecture.as_str()
            });
        if fits {
            all.push((digest(entry), true));
        }
    }
    all.extend(
        value["config"]
            .is_object()
            .then(|| (digest(&value["config"]), false)),
    );
    let layers = value["layers"].as_array().into_iter().flatten();
    all.extend(layers.map(|layer| (digest(layer), false)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_become_paths() {
        let hex = "a".repeat(64);
        assert_eq!(
            path_of(&format!("sha256:{hex}")).unwrap(),
            format!("blobs/sha256/{hex}")
        );
        for bad in ["", "sha256:", "sha256:../../x", "sha512:aa", &hex] {
            assert!(path_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_refers_to_its_parts() {
        let manifest = json!({"config": {"digest": "c"}, "layers": [{"digest": "l"}]});
        assert_eq!(
            referred(&manifest, &[]),
            [("c".into(), false), ("l".into(), false)]
        );
        let index = json!({"manifests": [
            {"digest": "a", "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": "b", "platform": {"os": "linux", "architecture": "arm64"}},
            {"digest": "x"},
        ]});
        let amd = [knarr_dockerfile::Platform::parse("linux/amd64").unwrap()];
        assert_eq!(
            referred(&index, &amd),
            [("a".into(), true), ("x".into(), true)]
        );
        assert_eq!(referred(&index, &[]).len(), 3);
    }
}
