//! Which repository has what: one small file a link, each written whole and durably.
//!
//! ```text
//! <store>/links/registry/repositories/<name>/_blobs/<algorithm>/<hex>        content's sha256 digest
//!                                           /_manifests/<algorithm>/<hex>    the same, and what it is
//!                                           /_tags/<tag>                     digest, and the store's names for it
//!                                           /_gone/<tag>                     a tag that was deleted
//!                                           /_referrers/<algorithm>/<hex>/<algorithm>-<hex>
//! ```
//! A part of a repository's name never begins with `_`. The store keeps the content of every file below `sha256` and
//! `sha512` (see [`ImageStore::links_dir`](knarr_image::ImageStore::links_dir)).

use crate::digest::{Algorithm, Digest};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Repositories nest at most this deep: a name has 255 characters.
const DEPTH_MAX: u32 = 128;
/// A link that was used is marked so at most this often.
const TOUCH_AFTER: Duration = Duration::from_secs(600);

/// How often a file is put whose folder goes just then.
const MAX_TRIES: u32 = 16;

/// What is kept of a manifest beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestLink {
    #[serde(skip)]
    pub content: String,
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// Where a tag leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagLink {
    pub digest: String,
    /// What the image store's names for it (by registry host) led to when both were last put in step.
    #[serde(default)]
    pub named: BTreeMap<String, String>,
}

#[derive(Clone)]
pub struct Links {
    dir: PathBuf,
    temp: PathBuf,
}

impl Links {
    /// `dir` is the store's folder for links.
    pub fn open(dir: &Path) -> io::Result<Links> {
        let links = Links {
            dir: dir.join("registry/repositories"),
            temp: dir.join("registry/tmp"),
        };
        fs::create_dir_all(&links.dir)?;
        match fs::remove_dir_all(&links.temp) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => fs::create_dir_all(&links.temp)?,
        }
        Ok(links)
    }

    fn blob_path(&self, repository: &str, digest: &Digest) -> PathBuf {
        self.by_digest(repository, "_blobs", digest)
    }

    fn by_digest(&self, repository: &str, kind: &str, digest: &Digest) -> PathBuf {
        let dir = self.dir.join(repository).join(kind);
        dir.join(digest.algorithm.name()).join(&digest.hex)
    }

    fn tag_path(&self, repository: &str, tag: &str) -> PathBuf {
        self.dir.join(repository).join("_tags").join(tag)
    }

    fn gone_path(&self, repository: &str, tag: &str) -> PathBuf {
        self.dir.join(repository).join("_gone").join(tag)
    }

    fn referrers_path(&self, repository: &str, subject: &Digest) -> PathBuf {
        self.by_digest(repository, "_referrers", subject)
    }

    /// Has anything been put there?
    pub fn exists(&self, repository: &str) -> bool {
        let dir = self.dir.join(repository);
        ["_blobs", "_manifests", "_tags", "_gone"]
            .iter()
            .any(|kind| dir.join(kind).is_dir())
    }

    /// The content of a blob that the repository has, as the store's digest.
    pub fn blob(&self, repository: &str, digest: &Digest) -> io::Result<Option<String>> {
        let text = read(&self.blob_path(repository, digest))?;
        Ok(text.map(|text| text.trim_end().to_string()))
    }

    pub fn put_blob(&self, repository: &str, digest: &Digest, content: &str) -> io::Result<()> {
        let path = self.blob_path(repository, digest);
        if path.exists() {
            return touch(&path);
        }
        self.write(&path, format!("{content}\n").as_bytes())
    }

    /// Says that a link was asked for: what a push found here isn't collected before its manifest comes.
    pub fn touch_blob(&self, repository: &str, digest: &Digest) {
        let _ = touch(&self.blob_path(repository, digest));
    }

    pub fn touch_manifest(&self, repository: &str, digest: &Digest) {
        let _ = touch(&self.by_digest(repository, "_manifests", digest));
    }

    /// Was it there?
    pub fn drop_blob(&self, repository: &str, digest: &Digest) -> io::Result<bool> {
        remove(&self.blob_path(repository, digest))
    }

    pub fn manifest(&self, repository: &str, digest: &Digest) -> io::Result<Option<ManifestLink>> {
        let text = read(&self.by_digest(repository, "_manifests", digest))?;
        let Some((content, json)) = text.as_deref().and_then(|t| t.split_once('\n')) else {
            return Ok(None);
        };
        let mut link: ManifestLink = json_of(json)?;
        link.content = content.to_string();
        Ok(Some(link))
    }

    pub fn put_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        link: &ManifestLink,
    ) -> io::Result<()> {
        if let Some(subject) = link.subject.as_deref().and_then(|s| s.parse().ok()) {
            let dir = self.referrers_path(repository, &subject);
            let name = format!("{}-{}", digest.algorithm.name(), digest.hex);
            self.write(&dir.join(name), b"")?;
        }
        let text = format!("{}\n{}\n", link.content, serde_json::to_string(link)?);
        let path = self.by_digest(repository, "_manifests", digest);
        self.write(&path, text.as_bytes())
    }

    /// Takes a manifest out, with its entry among its subject's referrers. Was it there?
    pub fn drop_manifest(&self, repository: &str, digest: &Digest) -> io::Result<bool> {
        let link = self.manifest(repository, digest)?;
        let was = remove(&self.by_digest(repository, "_manifests", digest))?;
        let subject = link.and_then(|link| link.subject?.parse::<Digest>().ok());
        if let Some(subject) = subject {
            let dir = self.referrers_path(repository, &subject);
            remove(&dir.join(format!("{}-{}", digest.algorithm.name(), digest.hex)))?;
            let _ = fs::remove_dir(dir); // when it was the last
        }
        Ok(was)
    }

    /// The digests of all manifests, and when each was last put or asked for.
    pub fn manifests(&self, repository: &str) -> io::Result<Vec<(Digest, SystemTime)>> {
        self.digests(repository, "_manifests")
    }

    /// The digests of all blobs, and when each was last put or asked for.
    pub fn blobs(&self, repository: &str) -> io::Result<Vec<(Digest, SystemTime)>> {
        self.digests(repository, "_blobs")
    }

    fn digests(&self, repository: &str, kind: &str) -> io::Result<Vec<(Digest, SystemTime)>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.dir.join(repository).join(kind).join(algorithm.name());
            for name in list(&dir)? {
                let Ok(digest) = format!("{}:{name}", algorithm.name()).parse() else {
                    continue;
                };
                let modified = fs::metadata(dir.join(&name)).and_then(|m| m.modified());
                found.push((digest, modified.unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        Ok(found)
    }

    /// The manifests whose subject is this one, sorted.
    pub fn referrers(&self, repository: &str, subject: &Digest) -> io::Result<Vec<Digest>> {
        let names = list(&self.referrers_path(repository, subject))?;
        let digests = names.iter().map(|name| name.replacen('-', ":", 1).parse());
        Ok(digests.filter_map(Result::ok).collect())
    }

    pub fn tag(&self, repository: &str, tag: &str) -> io::Result<Option<TagLink>> {
        let text = read(&self.tag_path(repository, tag))?;
        text.map(|text| json_of(&text)).transpose()
    }

    /// A tag that was deleted, as it was.
    pub fn gone(&self, repository: &str, tag: &str) -> io::Result<Option<TagLink>> {
        let text = read(&self.gone_path(repository, tag))?;
        text.map(|text| json_of(&text)).transpose()
    }

    pub fn put_tag(&self, repository: &str, tag: &str, link: &TagLink) -> io::Result<()> {
        let text = serde_json::to_vec(link)?;
        self.write(&self.tag_path(repository, tag), &text)?;
        remove(&self.gone_path(repository, tag)).map(|_| ())
    }

    /// Was it there?
    pub fn drop_tag(&self, repository: &str, tag: &str) -> io::Result<bool> {
        let (path, gone) = (
            self.tag_path(repository, tag),
            self.gone_path(repository, tag),
        );
        let Some(dir) = gone.parent() else {
            return Ok(false);
        };
        fs::create_dir_all(dir)?;
        match fs::rename(&path, &gone) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        }
        sync_dir(dir)?;
        path.parent().map_or(Ok(()), sync_dir)?;
        Ok(true)
    }

    /// All tags, sorted by their bytes.
    pub fn tags(&self, repository: &str) -> io::Result<Vec<String>> {
        list(&self.dir.join(repository).join("_tags"))
    }

    /// All repositories, sorted.
    pub fn repositories(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        below(&self.dir, "", 0, &mut found)?;
        found.sort_unstable();
        Ok(found)
    }

    /// Removes the folders of a repository that has nothing more, and those above it that are empty then. The store's
    /// lock is held for removal: nobody writes.
    pub fn prune(&self, repository: &str) -> io::Result<()> {
        let dir = self.dir.join(repository);
        let empty = |path: PathBuf| Ok::<_, io::Error>(list(&path)?.is_empty());
        for kind in ["_blobs", "_manifests", "_referrers"] {
            for algorithm in ["sha256", "sha512"] {
                let _ = fs::remove_dir(dir.join(kind).join(algorithm));
            }
            let _ = fs::remove_dir(dir.join(kind));
        }
        if !dir.join("_manifests").exists() && empty(dir.join("_tags"))? {
            // What was deleted needs no memory once the store's names are gone, too; that is looked after by the caller.
            let _ = fs::remove_dir(dir.join("_tags"));
            let _ = fs::remove_dir(dir.join("_gone"));
        }
        for dir in dir.ancestors().take_while(|dir| *dir != self.dir) {
            if fs::remove_dir(dir).is_err() {
                break; // it has something
            }
        }
        Ok(())
    }

    /// The tags that were deleted.
    pub fn all_gone(&self, repository: &str) -> io::Result<Vec<String>> {
        list(&self.dir.join(repository).join("_gone"))
    }

    /// Forgets a tag that was deleted.
    pub fn forget(&self, repository: &str, tag: &str) -> io::Result<()> {
        remove(&self.gone_path(repository, tag)).map(|_| ())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = path.parent().unwrap_or(path);
        let mut file = tempfile::NamedTempFile::new_in(&self.temp)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        // A folder of referrers goes with its last entry, which may be between the two steps: then once more.
        let mut tries = 0;
        loop {
            tries += 1;
            match fs::create_dir_all(dir) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists && tries < MAX_TRIES => continue,
                made => made?,
            }
            match file.persist(path) {
                Ok(_) => return sync_dir(dir),
                Err(e) if e.error.kind() == ErrorKind::NotFound && tries < MAX_TRIES => {
                    file = e.file;
                }
                Err(e) => return Err(e.error),
            }
        }
    }
}

/// A folder that is gone by now needs no more.
fn sync_dir(dir: &Path) -> io::Result<()> {
    match fs::File::open(dir) {
        Ok(dir) => dir.sync_all(),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn json_of<T: DeserializeOwned>(text: &str) -> io::Result<T> {
    Ok(serde_json::from_str(text)?)
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => {
            path.parent().map_or(Ok(()), sync_dir)?;
            Ok(true)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn touch(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    let now = SystemTime::now();
    let fresh = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age < TOUCH_AFTER);
    match file.metadata()?.modified().is_ok_and(fresh) {
        true => Ok(()),
        false => file.set_modified(now),
    }
}

/// The names of a folder's files, sorted; none when there is no folder.
fn list(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let mut names: Vec<String> = names
        .filter_map(Result::transpose)
        .collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

fn below(dir: &Path, name: &str, depth: u32, found: &mut Vec<String>) -> io::Result<()> {
    let mut is_one = false;
    for entry in list(dir)? {
        if entry.starts_with('_') {
            is_one |= !name.is_empty();
        } else if depth < DEPTH_MAX {
            let slash = if name.is_empty() { "" } else { "/" };
            let inner = format!("{name}{slash}{entry}");
            below(&dir.join(&entry), &inner, depth + 1, found)?;
        }
    }
    if is_one {
        found.push(name.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(c: char) -> Digest {
        format!("sha256:{}", c.to_string().repeat(64))
            .parse()
            .unwrap()
    }

    #[test]
    fn referrers_come_while_the_last_goes() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path()).unwrap();
        let subject = digest('a');
        let link = ManifestLink {
            content: digest('0').to_string(),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            size: 2,
            subject: Some(subject.to_string()),
            artifact_type: None,
        };
        let folder = links.referrers_path("app", &subject);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = fs::remove_dir(&folder); // as one who has just taken the last out
                    std::thread::sleep(Duration::from_micros(20));
                }
            });
            let failed = (0..60).find_map(|_| {
                let put = links.put_manifest("app", &digest('b'), &link);
                put.and_then(|()| links.drop_manifest("app", &digest('b')))
                    .err()
            });
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
        assert_eq!(links.referrers("app", &subject).unwrap(), []);
    }
}
