//! The registry's tags and the image store's names, kept in step.
//!
//! `localhost:5000/app:1` names the same image on this machine and in this registry. What is pushed gets the name in the
//! store, so that it runs without being pulled; what is built, packed or loaded under such a name gets the tag. Each tag
//! remembers what the names led to when both were last put in step: a name that leads elsewhere was changed since, and
//! wins. A name that goes away (images are collected when the disk is short) takes no tag with it, and a tag that is
//! deleted no name: containers may run on it.

use crate::{
    digest::Digest,
    error::Refusal,
    links::{Links, ManifestLink, TagLink},
    manifest::{self, Manifest},
};
use knarr_image::ImageStore;
use parking_lot::Mutex;
use std::{
    fs,
    time::{Duration, SystemTime},
};

/// How deep an index may nest in an index.
pub const DEPTH_MAX: u32 = 4;
/// A folder changed so lately may change again without another time stamp.
const STAMP: Duration = Duration::from_millis(50);

pub struct Names {
    pub store: ImageStore,
    pub links: Links,
    /// The hosts that stand for this registry in images' names; the first is the one that pushes are named by.
    pub hosts: Vec<String>,
    /// When the names were last changed that have been looked at.
    pub seen: Mutex<Option<SystemTime>>,
}

impl Names {
    /// Takes up what was given names of this registry elsewhere. Blocking; quick when nothing was.
    pub fn follow(&self) -> Result<(), Refusal> {
        let mut seen = self.seen.lock();
        let modified = fs::metadata(self.store.names_dir())?.modified()?;
        if *seen == Some(modified) {
            return Ok(());
        }
        // before the names are read: what changes them from now on then changes the time, too
        let age = SystemTime::now().duration_since(modified);
        for (name, digest) in self.store.named()? {
            let mut found = None;
            for host in &self.hosts {
                let rest = name
                    .strip_prefix(host)
                    .and_then(|rest| rest.strip_prefix('/'));
                found = found.or(rest.map(|rest| (host, rest)));
            }
            let Some((host, rest)) = found else { continue };
            let Some((repository, tag)) = rest.split_once(':').filter(|_| !rest.contains('@'))
            else {
                continue;
            };
            if let Err(refusal) = self.take_up(host, repository, tag, &digest) {
                tracing::debug!(%name, error = %refusal.message, "an image with the registry's name is not served by it");
            }
        }
        *seen = age.is_ok_and(|age| age > STAMP).then_some(modified);
        Ok(())
    }

    fn take_up(
        &self,
        host: &str,
        repository: &str,
        tag: &str,
        digest: &str,
    ) -> Result<(), Refusal> {
        let known = match self.links.tag(repository, tag)? {
            Some(link) => Some(link),
            None => self.links.gone(repository, tag)?,
        };
        let mut named = known.map(|link| link.named).unwrap_or_default();
        if named.get(host).is_some_and(|was| was == digest) {
            return Ok(());
        }
        let _lock = self.store.lock(false)?;
        let parsed: Digest = digest.parse().map_err(Refusal::digest_invalid)?;
        self.link_all(repository, &parsed, 0)?;
        named.insert(host.to_string(), digest.to_string());
        let link = TagLink {
            digest: digest.to_string(),
            named,
        };
        Ok(self.links.put_tag(repository, tag, &link)?)
    }

    /// Gives the repository a manifest that the store has, with all that it is made of.
    fn link_all(&self, repository: &str, digest: &Digest, depth: u32) -> Result<(), Refusal> {
        let content = digest.to_string();
        let bytes = self.store.read_blob(&content)?;
        let (manifest, media_type) = Manifest::parse(&bytes, None)?;
        for blob in manifest.blobs()? {
            let content = blob.digest.to_string();
            if self.store.has_blob(&content) {
                self.links.put_blob(repository, &blob.digest, &content)?;
            }
        }
        for child in manifest.children()? {
            if depth < DEPTH_MAX && self.store.has_blob(&child.digest.to_string()) {
                self.link_all(repository, &child.digest, depth + 1)?;
            }
        }
        let link = ManifestLink {
            content,
            media_type,
            size: bytes.len() as u64,
            subject: manifest.subject()?.map(|digest| digest.to_string()),
            artifact_type: manifest.kind_of_artifact(),
        };
        Ok(self.links.put_manifest(repository, digest, &link)?)
    }

    /// Points a tag at a manifest that the repository has, and the store's names with it. `host` is the one that the
    /// client pushed to. The store's lock is held.
    pub fn tag(
        &self,
        repository: &str,
        tag: &str,
        digest: &Digest,
        host: Option<&str>,
    ) -> Result<(), Refusal> {
        let mut named = match self.links.tag(repository, tag)? {
            Some(link) => link.named,
            None => self
                .links
                .gone(repository, tag)?
                .map(|l| l.named)
                .unwrap_or_default(),
        };
        // An index is named as such: the store takes this machine's image out of it.
        let runs = self
            .runs_here(repository, digest, 0)?
            .then(|| digest.to_string());
        let known = self.store.named()?;
        let name = |host: &str| format!("{host}/{repository}:{tag}");
        let mut hosts: Vec<&String> = self.hosts.iter().take(1).collect();
        for one in &self.hosts {
            let pushed_to = host == Some(one.as_str());
            let has = || known.iter().any(|(known, _)| *known == name(one));
            if !hosts.contains(&one) && (pushed_to || has()) {
                hosts.push(one);
            }
        }
        for host in &hosts {
            match &runs {
                Some(image) => named.insert(host.to_string(), image.clone()),
                // Nothing that the store could name: what it has under the name was there before.
                None => known
                    .iter()
                    .find(|(known, _)| *known == name(host))
                    .and_then(|(_, was)| named.insert(host.to_string(), was.clone())),
            };
        }
        let link = TagLink {
            digest: digest.to_string(),
            named,
        };
        self.links.put_tag(repository, tag, &link)?;
        for host in hosts {
            if let Some(image) = &runs
                && let Err(error) = self.store.tag(&name(host), image)
            {
                tracing::warn!(%error, name = name(host), "a pushed image has no name on this machine");
            }
        }
        Ok(())
    }

    /// Is it an image that runs on this machine, or an index of one?
    fn runs_here(&self, repository: &str, digest: &Digest, depth: u32) -> Result<bool, Refusal> {
        let Some(link) = self.links.manifest(repository, digest)? else {
            return Ok(false);
        };
        // The store names content by sha256 alone.
        if link.content != digest.to_string() {
            return Ok(false);
        }
        let bytes = self.store.read_blob(&link.content)?;
        let (manifest, media_type) = Manifest::parse(&bytes, Some(&link.media_type))?;
        if manifest::is_index(&media_type) {
            let here = manifest::here();
            let fits = |r: &&manifest::Reference| r.descriptor.platform.as_ref() == Some(&here);
            let children = manifest.children()?;
            let Some(child) = children.iter().find(fits).filter(|_| depth < DEPTH_MAX) else {
                return Ok(false);
            };
            return self.runs_here(repository, &child.digest, depth + 1);
        }
        let Some((config, layers)) = manifest.runs() else {
            return Ok(false);
        };
        let blobs = manifest.blobs()?;
        let complete = blobs
            .iter()
            .all(|blob| self.store.has_blob(&blob.digest.to_string()));
        let runs = complete && manifest::config_runs_here(&self.store.read_blob(config)?, layers);
        Ok(runs)
    }
}
