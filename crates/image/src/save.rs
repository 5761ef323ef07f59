//! Archives of images: an OCI layout that is a `docker save` archive as well, and root file systems brought in as images.
//!
//! Source: OCI image-spec `image-layout.md`, moby `image/tarexport` (`manifest.json`).

use crate::{
    Error, Image, ImageStore, LayerInfo,
    archive::{CONTAINERD_NAME, REF_NAME, bad},
    io, layer,
    manifest::{Descriptor, INDEX, Index, LAYER_TAR, MANIFEST, Platform, architecture},
    store::hex_part,
    tarfile::{Kind, Member, padding, write},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    path::Path,
};

impl ImageStore {
    /// Writes one image to an archive.
    ///
    /// # Errors
    /// As [`ImageStore::save_all`]; the file is whole or not there.
    pub fn save(&self, name: &str, to: &Path) -> Result<(), Error> {
        self.save_file(&[name], to)
    }

    /// Writes images to an archive file.
    ///
    /// # Errors
    /// As [`ImageStore::save_all`]; the file is whole or not there.
    pub fn save_file(&self, names: &[&str], to: &Path) -> Result<(), Error> {
        self.save_found(&self.found(names)?, to)
    }

    /// Writes an image that need not have a name to an archive file.
    ///
    /// # Errors
    /// As [`ImageStore::save_all`]; the file is whole or not there.
    pub fn save_image(&self, image: &Image, to: &Path) -> Result<(), Error> {
        self.save_found(std::slice::from_ref(image), to)
    }

    fn found(&self, names: &[&str]) -> Result<Vec<Image>, Error> {
        let one = |name: &&str| {
            let found = self.resolve(name)?;
            found.ok_or_else(|| Error::NotFound((*name).into()))
        };
        names.iter().map(one).collect()
    }

    pub(crate) fn save_found(&self, images: &[Image], to: &Path) -> Result<(), Error> {
        let mut why = None;
        let written = crate::write_whole(to, |out| {
            self.write_archive(images, out).map_err(|e| {
                why = Some(e);
                std::io::ErrorKind::Other.into()
            })
        });
        match why {
            Some(why) => Err(why),
            None => written.map_err(io(to)),
        }
    }

    /// Writes images as an archive that `docker load`, `podman load`, `skopeo` and `ctr` read. What images have in common is
    /// in it once; an index goes along when all its images are here. The same images give the same bytes.
    ///
    /// # Errors
    /// When an image isn't here, or not whole.
    pub fn save_all(&self, names: &[&str], out: &mut dyn Write) -> Result<(), Error> {
        self.write_archive(&self.found(names)?, out)
    }

    fn write_archive(&self, images: &[Image], out: &mut dyn Write) -> Result<(), Error> {
        let mut blobs = BTreeSet::new();
        let (mut index, mut docker) = (Vec::new(), Vec::new());
        for image in images {
            let mut whole = BTreeSet::new();
            let top = match self.all_of(&image.digest, &mut whole) {
                true => &image.digest,
                false => {
                    whole.clear();
                    self.all_of(&image.manifest, &mut whole);
                    &image.manifest
                }
            };
            blobs.append(&mut whole);
            index.push(self.entry(image, top)?);
            docker.push(self.docker_entry(image)?);
        }
        if let Some(missing) = blobs.iter().find(|d| !self.has_blob(d)) {
            return Err(Error::Corrupt {
                digest: missing.clone(),
                why: "it is not in the store".into(),
            });
        }
        let index = Index {
            schema_version: 2,
            media_type: Some(INDEX.into()),
            manifests: index,
        };
        let json = |value: serde_json::Result<Vec<u8>>| {
            value.map_err(|e| bad(Path::new("archive"), &e.to_string()))
        };
        let told = || io("the archive");
        for folder in ["blobs", "blobs/sha256"] {
            let member = Member {
                mode: 0o755,
                ..Member::new(folder, Kind::Folder)
            };
            out.write_all(&write::header(&member)).map_err(told())?;
        }
        for digest in &blobs {
            let mut blob = self.need_blob(digest)?;
            let name = format!("blobs/sha256/{}", hex_part(digest));
            file(out, &name, blob.size, &mut blob.content).map_err(told())?;
        }
        for (name, bytes) in [
            ("index.json", json(serde_json::to_vec(&index))?),
            ("manifest.json", json(serde_json::to_vec(&docker))?),
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ] {
            file(out, name, bytes.len() as u64, &mut &bytes[..]).map_err(told())?;
        }
        out.write_all(&write::END).map_err(told())?;
        out.flush().map_err(told())
    }

    /// Adds a manifest or index and all that it leads to; false when something of it isn't here.
    fn all_of(&self, digest: &str, found: &mut BTreeSet<String>) -> bool {
        found.insert(digest.into());
        let Ok(bytes) = self.read_blob(digest) else {
            return false;
        };
        if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
            let mut manifests = index.manifests.iter();
            return manifests
                .all(|m| crate::reference::is_digest(&m.digest) && self.all_of(&m.digest, found));
        }
        let Ok(manifest) = serde_json::from_slice::<crate::manifest::Manifest>(&bytes) else {
            return false;
        };
        let parts = manifest.layers.iter().chain([&manifest.config]);
        let digests: Vec<String> = parts.map(|d| d.digest.clone()).collect();
        let all = digests.iter().all(|d| self.has_blob(d));
        found.extend(digests);
        all
    }

    fn entry(&self, image: &Image, top: &str) -> Result<Descriptor, Error> {
        let bytes = self.read_blob(top)?;
        let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let is_index = parsed["manifests"].is_array();
        let kind = parsed["mediaType"].as_str();
        let kind = kind.unwrap_or(if is_index { INDEX } else { MANIFEST });
        let config = self.raw_config(image)?;
        let text = |key: &str| {
            config[key]
                .as_str()
                .filter(|t| !t.is_empty())
                .map(String::from)
        };
        let platform = Platform {
            architecture: text("architecture").unwrap_or_default(),
            os: text("os").unwrap_or_default(),
            variant: text("variant"),
            os_version: None,
        };
        let mut annotations = BTreeMap::new();
        if let Some(tag) = tag_of(&image.name) {
            annotations.insert(CONTAINERD_NAME.to_string(), image.name.clone());
            annotations.insert(REF_NAME.to_string(), tag.to_string());
        }
        Ok(Descriptor {
            size: bytes.len() as u64,
            platform: (!is_index).then_some(platform),
            annotations,
            ..Descriptor::new(kind, top.to_string())
        })
    }

    fn docker_entry(&self, image: &Image) -> Result<serde_json::Value, Error> {
        let path = |digest: &str| format!("blobs/sha256/{}", hex_part(digest));
        let layers = self.layer_infos(image)?;
        let layers: Vec<String> = layers.iter().map(|l| path(&l.digest)).collect();
        let tags: Vec<String> = tag_of(&image.name)
            .map(|_| familiar(&image.name))
            .into_iter()
            .collect();
        Ok(json!({ "Config": path(&image.id), "RepoTags": tags, "Layers": layers }))
    }

    /// Makes an image of one layer from the tar of a root file system (plain, gzip or zstd). `config` is the OCI image
    /// configuration's inner object (`Cmd`, `Env`, …).
    ///
    /// # Errors
    /// When it is no tar, or the name is none.
    pub fn import(
        &self,
        tar: impl Read,
        config: &serde_json::Value,
        name: Option<&str>,
    ) -> Result<Image, Error> {
        let history = json!({ "created_by": "knarr image import" });
        self.import_told(tar, config, &history, name)
    }

    /// As [`ImageStore::import`]; the image's history is this one entry, and it was made when that was (`created`).
    ///
    /// # Errors
    /// When it is no tar, or the name is none.
    pub fn import_told(
        &self,
        mut tar: impl Read,
        config: &serde_json::Value,
        history: &serde_json::Value,
        name: Option<&str>,
    ) -> Result<Image, Error> {
        let leased = self.leased()?;
        let temp = leased.temp()?;
        let path = temp.path().join("import.tar");
        let mut file = fs::File::create(&path).map_err(io(&path))?;
        std::io::copy(&mut tar, &mut file).map_err(io(&path))?;
        drop(file);
        let (digest, size) = leased.put_stream(layer::open(&path)?, None)?;
        leased.unpack_layer(&digest, &digest)?;
        let info = LayerInfo {
            diff_id: digest.clone(),
            digest,
            size_bytes: size,
            media_type: LAYER_TAR.into(),
        };
        let mut whole = json!({
            "architecture": architecture(), "os": "linux", "config": config, "history": [history],
        });
        if let Some(created) = history.get("created") {
            whole["created"] = created.clone();
        }
        leased.put_image(&whole, &[info], &BTreeMap::new(), name)
    }
}

/// The tag, when the name has one.
fn tag_of(name: &str) -> Option<&str> {
    if crate::reference::is_digest(name) {
        return None;
    }
    let (_, last) = name.rsplit_once('/').unwrap_or(("", name));
    let (_, tag) = last.split('@').next()?.rsplit_once(':')?;
    Some(tag)
}

/// As Docker shows names.
fn familiar(name: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    short.strip_prefix("library/").unwrap_or(short).to_string()
}

fn file(out: &mut dyn Write, name: &str, size: u64, from: &mut dyn Read) -> std::io::Result<()> {
    let member = Member {
        mode: 0o644,
        size,
        ..Member::new(name, Kind::File)
    };
    out.write_all(&write::header(&member))?;
    let copied = std::io::copy(&mut from.take(size), out)?;
    if copied != size {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    out.write_all(&[0u8; 512][..padding(size)])
}
