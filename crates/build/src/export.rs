//! The target's chains as an image, and as what else was asked for.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use knarr_dockerfile::{Check, Platform};
use knarr_image::{Image, LayerInfo, LayerOptions};
use serde_json::{Value, json};

use crate::{
    attest,
    cache::{Cache, Stored},
    doc::time_text,
    error::{Error, blocking, io},
    graph::Graph,
    output,
    request::{Annotations, BuildRequest, Built, Output, OutputKind, Packing},
    shared_cache::{self, CacheStore},
    state::{LinkOf, State},
};

/// Under which the store keeps the cache's layers.
pub(crate) const KEEPER: &str = "build";

/// What one platform's part of a build became.
struct Part {
    image: Image,
    /// Its entry in an index, and that of what is said about it.
    entry: Value,
    statements: Option<Value>,
}

/// The targets, one for each platform, as images and whatever else was asked for.
pub(crate) async fn export(
    all: &[(&Graph<'_>, &State)],
    checks: Vec<Check>,
) -> Result<Built, Error> {
    let (graph, _) = all
        .first()
        .ok_or_else(|| Error::Bug("a build for no platform".into()))?;
    let request = graph.request;
    let several = all.len() > 1;
    let image = match request.not_stored && !output::any_image(&request.outputs) {
        true => None,
        false => {
            let telling = graph.told.begin("exporting to image");
            Some(telling.result(image(all).await)?)
        }
    };
    for output in &request.outputs {
        if let Some(name) = output::name(output) {
            let telling = graph.told.begin(name);
            let written = write_all(all, output, image.as_ref()).await;
            telling.result(written)?;
        }
    }
    for output in request.outputs.iter().filter(|o| o.push) {
        let image = image
            .as_ref()
            .ok_or_else(|| Error::Bug("no image to push".into()))?;
        push(graph, output, image).await?;
    }
    let chains: Vec<&State> = all.iter().map(|(_, state)| *state).collect();
    graph.export_cache(&chains).await?;
    let metadata = match &image {
        Some(image) => metadata(graph, image, all, several)?,
        None => json!({}),
    };
    Ok(Built {
        image,
        several,
        checks,
        steps_run: graph.told.run.load(Ordering::Relaxed),
        steps_cached: graph.told.cached.load(Ordering::Relaxed),
        metadata,
    })
}

/// The build's names, and those of its outputs.
fn names(request: &BuildRequest) -> Vec<String> {
    let mut all = request.tags.clone();
    for output in request.outputs.iter().filter(|o| o.kind.is_image()) {
        all.extend(output.names.iter().cloned());
    }
    all
}

async fn image(all: &[(&Graph<'_>, &State)]) -> Result<Image, Error> {
    let (graph, _) = all[0];
    let names = names(graph.request);
    let mut annotations = graph.request.annotations.clone();
    for output in &graph.request.outputs {
        annotations.extend(&output.annotations);
    }
    let part = async |graph: &Graph<'_>, state: &State| {
        let image = graph.image_of(state, &annotations).await?;
        let statements = graph.attested(state, &image, &names).await?;
        let (images, platform) = (graph.images.clone(), graph.spelled_platform());
        let (of, own) = (image.clone(), annotations.descriptor.clone());
        let entry = blocking(move || attest::entry(&images, &of, &platform, &own)).await?;
        Ok::<_, Error>(Part {
            image,
            entry,
            statements,
        })
    };
    let parts = all.iter().map(|(graph, state)| part(graph, state));
    let parts = futures::future::try_join_all(parts).await?;
    let indexed = all.len() > 1
        || parts.iter().any(|p| p.statements.is_some())
        || !annotations.index.is_empty();
    let entries = parts.iter().map(|p| p.entry.clone());
    let entries: Vec<Value> = entries
        .chain(parts.iter().filter_map(|p| p.statements.clone()))
        .collect();
    // the machine's own, as everywhere else, or else the first
    let host = Platform::host().to_string();
    let own = all
        .iter()
        .position(|(graph, _)| graph.build.target.to_string() == host);
    let image = parts[own.unwrap_or(0)].image.clone();
    let images = graph.images.clone();
    blocking(move || {
        let digest = match indexed {
            true => attest::index(&images, &entries, &annotations.index)?,
            false => image.digest.clone(),
        };
        for name in &names {
            images.tag(name, &digest)?;
        }
        let name = match names.first() {
            Some(name) => knarr_image::normalize(name)?,
            None => image.name.clone(),
        };
        Ok(Image {
            digest,
            name,
            ..image
        })
    })
    .await
}

async fn write_all(
    all: &[(&Graph<'_>, &State)],
    output: &Output,
    image: Option<&Image>,
) -> Result<(), Error> {
    let (first, state) = all[0];
    if matches!(output.kind, OutputKind::Oci | OutputKind::Docker) {
        if output.kind == OutputKind::Docker && all.len() > 1 {
            return Err(Error::Request(
                "docker exporter does not currently support exporting manifest lists".into(),
            ));
        }
        let image = image.ok_or_else(|| Error::Bug("no image to write".into()))?;
        return first.write_archive(output, image).await;
    }
    // one that is alone is written as it is, unless that is asked for
    if all.len() == 1 {
        return first.write_files(output, state, None).await;
    }
    let folder = |graph: &Graph<'_>| graph.build.target.to_string().replace('/', "_");
    if output.kind == OutputKind::Tar {
        let parts: Vec<_> = all.iter().map(|(g, s)| (folder(g), s.lower())).collect();
        return first.write_tar(output, parts).await;
    }
    for (graph, state) in all {
        let below = (!output.merged).then(|| folder(graph));
        graph.write_files(output, state, below.as_deref()).await?;
    }
    Ok(())
}

async fn push(graph: &Graph<'_>, output: &Output, image: &Image) -> Result<(), Error> {
    let mut names = graph.request.tags.clone();
    names.extend(output.names.iter().cloned());
    if names.is_empty() {
        return Err(Error::Request(
            "tag is needed when pushing to registry".into(),
        ));
    }
    for name in names {
        let full = knarr_image::normalize(&name)?;
        let telling = graph.told.begin(&format!("pushing {full}"));
        let pushed = graph
            .push_image(&full, image, output.push_by_digest, &telling)
            .await;
        telling.result(pushed)?;
    }
    Ok(())
}

/// As buildx has it.
fn metadata(
    graph: &Graph<'_>,
    image: &Image,
    all: &[(&Graph<'_>, &State)],
    several: bool,
) -> Result<Value, Error> {
    let bytes = graph.images.read_blob(&image.digest)?;
    let top: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut descriptor = json!({
        "mediaType": top["mediaType"], "digest": image.digest, "size": bytes.len(),
    });
    if top["manifests"].is_null() {
        descriptor["platform"] = graph.spelled_platform();
    }
    let mut bases = std::collections::BTreeMap::new();
    for (_, state) in all {
        bases.extend(state.bases.iter().cloned());
    }
    let material = |(name, digest): (&String, &String)| {
        json!({
            "uri": attest::docker_purl(name, &graph.build.target.to_string()),
            "digest": {"sha256": digest.trim_start_matches("sha256:")},
        })
    };
    let mut value = json!({
        "buildx.build.provenance": {
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": bases.iter().map(material).collect::<Vec<_>>(),
        },
        "containerimage.descriptor": descriptor,
        "containerimage.digest": image.digest,
    });
    let names = names(graph.request);
    if !names.is_empty() {
        let full: Result<Vec<_>, _> = names.iter().map(|n| knarr_image::normalize(n)).collect();
        value["image.name"] = full?.join(",").into();
    }
    if !several {
        value["containerimage.config.digest"] = image.id.clone().into();
    }
    Ok(value)
}

impl Graph<'_> {
    async fn push_image(
        &self,
        full: &str,
        image: &Image,
        by_digest: bool,
        telling: &crate::told::Telling<'_>,
    ) -> Result<(), Error> {
        let resolver = self.engine.options.resolver.as_ref();
        let resolver = resolver
            .ok_or_else(|| Error::Request("this builder can't speak to registries".into()))?;
        let told = |what: &str, done, total| telling.transfer(what, done, total);
        let repository = full.split('@').next().unwrap_or(full);
        let local = format!("{repository}@{}", image.digest);
        let to = match by_digest {
            true => local.clone(),
            false => full.to_owned(),
        };
        resolver
            .push(&local, &to, &told)
            .await
            .map_err(|why| Error::Registry(format!("failed to push {full}: {why}")))
    }

    async fn image_of(&self, state: &State, annotations: &Annotations) -> Result<Image, Error> {
        let mut doc = state.doc.clone();
        let labels = self.request.labels.iter();
        doc.config
            .labels
            .extend(labels.map(|(k, v)| (k.clone(), v.clone())));
        let epoch = self.epoch.and_then(time_text);
        let times: Vec<String> = state.chain.iter().map(|l| l.created.clone()).collect();
        doc.date(&times, epoch.as_deref(), state.base_entries);
        if !self.request.platforms.is_empty() {
            doc.os.clone_from(&self.build.target.os);
            doc.architecture.clone_from(&self.build.target.architecture);
            doc.variant.clone_from(&self.build.target.variant);
        }
        let mut config = serde_json::to_value(&doc).map_err(|e| Error::Bug(e.to_string()))?;
        let inline = self.request.cache_to.iter();
        let inline = inline.filter(|c| c.store == CacheStore::Inline);
        let steps = match inline.count() {
            0 => None,
            _ => Some(self.steps_of(state)),
        };
        let (images, cache) = (self.images.clone(), self.cache.clone());
        let (chain, epoch) = (state.chain.clone(), self.epoch);
        let annotations = annotations.manifest.clone();
        let packing = packing(self.request);
        blocking(move || {
            let mut layers = vec![];
            for link in &chain {
                let info = match &link.of {
                    LinkOf::Base(info) => info.clone(),
                    LinkOf::Step(snapshot) => commit(&images, &cache, snapshot, &link.dir, epoch)?,
                };
                layers.push(packed(&images, info, packing, &link.of)?);
            }
            if let Some(steps) = steps {
                shared_cache::put_inline(&mut config, &steps, &chain, &layers);
            }
            Ok(images.put_image(&config, &layers, &annotations, None)?)
        })
        .await
    }
}

/// How layers are packed, and whether bases' are, too.
pub(crate) type Wanted = (Packing, bool);

/// Layers in the store are plain tars, and compressed on their way to a registry. Where digests must hold before that (for
/// what is said about an image, or when it is pushed), or it was asked for, they are compressed at once.
fn packing(request: &BuildRequest) -> Wanted {
    let said = request.outputs.iter().find_map(|o| o.compression);
    let needed = request.outputs.iter().any(|o| o.push) || !request.attestations.is_empty();
    let packing = said.unwrap_or(match needed {
        true => Packing::Gzip,
        false => Packing::Plain,
    });
    (packing, request.outputs.iter().any(|o| o.force_compression))
}

pub(crate) fn packed(
    images: &knarr_image::ImageStore,
    layer: LayerInfo,
    (packing, forced): Wanted,
    of: &LinkOf,
) -> Result<LayerInfo, Error> {
    use knarr_image::client::Compression;
    let plain = layer.digest == layer.diff_id;
    if matches!(of, LinkOf::Base(_)) && !plain && !forced {
        return Ok(layer);
    }
    Ok(match packing {
        Packing::Gzip => images.compressed(&layer, Compression::Gzip)?,
        Packing::Zstd => images.compressed(&layer, Compression::Zstd)?,
        Packing::Plain if forced => images.plain(&layer)?,
        Packing::Plain => layer,
    })
}

/// A snapshot as a layer of the store, which takes the folder; the cache then leads there.
pub(crate) fn commit(
    images: &knarr_image::ImageStore,
    cache: &Cache,
    snapshot: &str,
    files: &Path,
    epoch: Option<i64>,
) -> Result<LayerInfo, Error> {
    let how = epoch.map_or(String::new(), |e| format!("@{e}"));
    // other builds, or this one for another platform, may want the same
    let dir = files.parent().unwrap_or(files);
    let _one = fs::File::open(dir).map_err(io(dir))?;
    rustix::fs::flock(&_one, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| io(dir)(e.into()))?;
    if let Some(known) = cache.stored(snapshot, &how)
        && images.layer(&known.diff_id).is_dir()
    {
        images.hold(&known.diff_id)?;
        return Ok(LayerInfo {
            diff_id: known.diff_id,
            digest: known.digest,
            size_bytes: known.size,
            media_type: known.media_type,
        });
    }
    let options = LayerOptions {
        clamp_mtime: epoch,
        ..LayerOptions::default()
    };
    // the store uses the folder up; one that it has already is copied for other times
    let taken = fs::symlink_metadata(files).map_err(io(files))?.is_symlink();
    let temp = cache.temp()?;
    let info = match taken {
        false => images.commit_layer(files, options)?,
        true => {
            let copy = temp.path().join("fs");
            raw_copy(files, &copy)?;
            images.commit_layer(&copy, options)?
        }
    };
    let stored = Stored {
        diff_id: info.diff_id.clone(),
        digest: info.digest.clone(),
        size: info.size_bytes,
        media_type: info.media_type.clone(),
    };
    images.keep(
        KEEPER,
        &format!("{snapshot}{how}"),
        std::slice::from_ref(&info.diff_id),
    )?;
    cache.set_stored(snapshot, &how, &stored)?;
    if !taken {
        let layer = images.layer(&info.diff_id);
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&layer, &link).map_err(io(&link))?;
        if files.is_dir() {
            // the store had a layer of this content, or could only copy
            fs::remove_dir_all(files).map_err(io(files))?;
        }
        fs::rename(&link, files).map_err(io(files))?;
    }
    Ok(info)
}

/// A layer's folder as it is, with whiteouts and marks.
fn raw_copy(from: &Path, to: &Path) -> Result<(), Error> {
    let from: PathBuf = fs::canonicalize(from).map_err(io(from))?;
    let done = std::process::Command::new("cp")
        .args(["-a", "--reflink=auto", "--"])
        .arg(&from)
        .arg(to)
        .output()
        .map_err(io(&from))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(Error::Request(format!(
            "copying the layer {}: {}",
            from.display(),
            String::from_utf8_lossy(&done.stderr).trim()
        ))),
    }
}
