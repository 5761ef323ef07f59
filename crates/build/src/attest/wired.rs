//! The attestations of a build's own image.

use super::{Predicate, SPDX, docker_purl, provenance, sbom, statements};
use crate::{
    copy::Tree,
    error::{Error, blocking},
    graph::Graph,
    overlay::Mounted,
    request::Context,
    state::State,
};
use knarr_dockerfile::Platform;
use knarr_image::Image;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

impl Graph<'_> {
    /// As an image-spec platform.
    pub(crate) fn spelled_platform(&self) -> Value {
        let platform = &self.build.target;
        let mut spelled = json!({"os": platform.os, "architecture": platform.architecture});
        if !platform.variant.is_empty() {
            spelled["variant"] = platform.variant.clone().into();
        }
        spelled
    }

    /// Says what was asked for about the image; gives its entry in an index.
    pub(crate) async fn attested(
        &self,
        state: &State,
        image: &Image,
        names: &[String],
    ) -> Result<Option<Value>, Error> {
        let wanted = self.request.attestations.clone();
        if wanted.is_empty() {
            return Ok(None);
        }
        let spelled = self.spelled_platform();
        let facts = self.facts(image);
        let (mounts, lower) = (self.mounts(), state.lower());
        let (images, image, names) = (self.images.clone(), image.clone(), names.to_vec());
        blocking(move || {
            let mut predicates = vec![];
            if wanted.sbom {
                let root = Mounted::read_only(&mounts, &lower)?;
                let tree = Tree::root("image", root.path())?;
                let name = names.first().map_or("image", |t| t.as_str());
                let value = sbom::document(&tree, name, &image.manifest, &facts.finished)?;
                predicates.push(Predicate {
                    uri: SPDX.into(),
                    value,
                });
            }
            if let Some(wanted) = &wanted.provenance {
                predicates.push(provenance::predicate(wanted, &facts));
            }
            statements(&images, &image, &names, &spelled, &predicates).map(Some)
        })
        .await
    }

    fn facts(&self, image: &Image) -> provenance::Facts {
        let request = self.request;
        let now = jiff::Timestamp::now();
        // the same input gives the same digest, when that is asked for
        let fixed = self
            .epoch
            .and_then(|s| jiff::Timestamp::from_second(s).ok());
        let (started, finished) = (fixed.unwrap_or(self.started), fixed.unwrap_or(now));
        let mut invocation = Sha256::new();
        invocation.update(&image.manifest);
        invocation.update(started.to_string());
        invocation.update(finished.to_string());
        let arguments = request
            .args
            .iter()
            .map(|(k, v)| (format!("build-arg:{k}"), v.clone()));
        let labels = request
            .labels
            .iter()
            .map(|(k, v)| (format!("label:{k}"), v.clone()));
        let target = request
            .target
            .iter()
            .map(|t| ("target".to_owned(), t.clone()));
        let platform = self.build.target.to_string();
        let material = |(name, digest): (String, String)| (docker_purl(&name, &platform), digest);
        provenance::Facts {
            builder_platform: Platform::host().to_string(),
            context: match &request.context {
                Context::Url(url) => Some(crate::source::redacted(url)),
                _ => None,
            },
            dockerfile: (self.file_name.clone(), self.text.clone()),
            arguments: arguments.chain(labels).chain(target).collect(),
            secrets: request.secrets.keys().cloned().collect(),
            ssh: request.ssh.keys().cloned().collect(),
            materials: self.images_used().into_iter().map(material).collect(),
            invocation: hex::encode(&invocation.finalize()[..16]),
            started: started.to_string(),
            finished: seconds(finished),
            // files of local folders and what `RUN` loads are known to nobody
            complete: false,
        }
    }
}

/// SPDX knows no fractions.
fn seconds(time: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}
