//! What nobody needs any more goes: uploads that came to no end, blobs that no manifest came for, manifests that no tag
//! leads to and nobody asked for in a long time, and then their content.
//!
//! A push is safe from it: what a push puts or finds in a repository is marked as used then, and goes only when it was
//! not used for as long as an upload may take. Links are made and dropped under the store's lock.

use crate::{Error, digest::Digest, error::Refusal, manifest::Manifest, server::Registry};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Something was deleted: more is likely to follow at once.
const SETTLE: Duration = Duration::from_secs(60);
const DAILY: Duration = Duration::from_secs(24 * 3600);

/// What a collection took away.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    pub manifests: usize,
    /// Blobs' links, not their content.
    pub blobs: usize,
    pub bytes: u64,
}

impl Registry {
    /// Collects when something was deleted, and daily. Ends never.
    pub async fn collect_when_needed(self: Arc<Self>) {
        loop {
            let _ = tokio::time::timeout(DAILY, self.stale.notified()).await;
            tokio::time::sleep(SETTLE).await;
            match self.blocking(|registry| registry.collect_all()).await {
                Ok(done) if done != Collected::default() => {
                    tracing::info!(
                        manifests = done.manifests,
                        blobs = done.blobs,
                        bytes = done.bytes,
                        "the registry dropped what nobody needs"
                    );
                }
                Ok(_) => {}
                Err(refusal) => {
                    tracing::warn!(error = %refusal.message, "the registry could not drop what nobody needs");
                }
            }
        }
    }

    /// Collects now. Blocking: waits for what is being added to the store.
    ///
    /// # Errors
    /// When the links can't be read or dropped.
    pub fn collect(&self) -> Result<Collected, Error> {
        self.collect_all()
            .map_err(|refusal| Error::Collect(refusal.message))
    }

    fn collect_all(&self) -> Result<Collected, Refusal> {
        self.uploads.expire()?;
        self.names.follow()?;
        let mut done = Collected::default();
        {
            let _lock = self.names.store.lock(true)?;
            let known: HashSet<String> = self
                .names
                .store
                .named()?
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            for name in self.names.links.repositories()? {
                self.collect_one(&name, &known, &mut done)?;
            }
        }
        done.bytes = self.names.store.sweep_blobs()?;
        Ok(done)
    }

    fn collect_one(
        &self,
        name: &str,
        known: &HashSet<String>,
        done: &mut Collected,
    ) -> Result<(), Refusal> {
        let links = &self.names.links;
        let now = SystemTime::now();
        let older =
            |at: SystemTime, than: Duration| now.duration_since(at).is_ok_and(|age| age > than);
        let mut manifests = HashMap::new();
        for (digest, used) in links.manifests(name)? {
            let Some(link) = links.manifest(name, &digest)? else {
                continue;
            };
            // What can't be read is left alone, with all that it may refer to.
            let bytes = self.names.store.read_blob(&link.content)?;
            let (manifest, _) = Manifest::parse(&bytes, Some(&link.media_type))?;
            manifests.insert(digest, (manifest, used));
        }
        let mut keep: HashSet<Digest> = HashSet::new();
        let mut follow: Vec<Digest> = Vec::new();
        for tag in links.tags(name)? {
            let digest = links
                .tag(name, &tag)?
                .and_then(|link| link.digest.parse().ok());
            follow.extend(digest);
        }
        for (digest, (_, used)) in &manifests {
            if self
                .options
                .untagged_age
                .is_none_or(|age| !older(*used, age))
            {
                follow.push(digest.clone());
            }
        }
        let mut referrers: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for (digest, (manifest, _)) in &manifests {
            if let Some(subject) = manifest.subject()? {
                referrers.entry(subject).or_default().push(digest.clone());
            }
        }
        while let Some(digest) = follow.pop() {
            if let Some((manifest, _)) = manifests.get(&digest)
                && keep.insert(digest.clone())
            {
                follow.extend(manifest.children()?.into_iter().map(|child| child.digest));
                follow.extend(referrers.get(&digest).into_iter().flatten().cloned());
            }
        }
        let mut needed = HashSet::new();
        for (digest, (manifest, _)) in &manifests {
            if keep.contains(digest) {
                needed.extend(manifest.blobs()?.into_iter().map(|blob| blob.digest));
            } else if links.drop_manifest(name, digest)? {
                done.manifests += 1;
            }
        }
        for (digest, used) in links.blobs(name)? {
            if !needed.contains(&digest)
                && older(used, self.options.upload_age)
                && links.drop_blob(name, &digest)?
            {
                done.blobs += 1;
            }
        }
        for tag in links.all_gone(name)? {
            let named = links
                .gone(name, &tag)?
                .map(|link| link.named)
                .unwrap_or_default();
            let still = |host: &String| known.contains(&format!("{host}/{name}:{tag}"));
            if !named.keys().any(still) {
                links.forget(name, &tag)?;
            }
        }
        Ok(links.prune(name)?)
    }
}
