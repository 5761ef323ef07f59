//! What comes from afar: URLs and git repositories, for `ADD` and as contexts; archives as contexts. All of it is kept below
//! the cache's `sources`, each tree under a name made of what it holds, so that it is fetched and unpacked once.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::SystemTime,
};

use knarr_dockerfile::Ignore;
use sha2::{Digest, Sha256};

use crate::{
    cache::Cache,
    copy::{Source, Tree},
    error::{Error, blocking, io},
    graph::Graph,
    request::BuildRequest,
    source::{
        GitRef, SourceError,
        context::{Opened, from_stream},
        git::{Git, Token},
        http::Http,
    },
};

/// A git repository, as `ADD` knows them: what could be a folder is one.
fn git_ref(path: &str) -> Option<Result<GitRef, Error>> {
    match GitRef::parse(path)? {
        Ok(git) if git.like_local => None,
        Ok(git) => Some(Ok(git)),
        Err(e) => Some(Err(Error::Request(e.to_string()))),
    }
}

/// A file behind HTTP(S), no repository.
pub(crate) fn is_url(path: &str) -> bool {
    ["http://", "https://"].iter().any(|p| path.starts_with(p)) && git_ref(path).is_none()
}

pub(crate) fn is_remote(path: &str) -> bool {
    is_url(path) || git_ref(path).is_some()
}

fn failed(e: SourceError) -> Error {
    Error::Request(e.to_string())
}

/// How this build reaches repositories: with its agent, and the token that is its secret.
async fn git_of(cache: &Cache, request: &BuildRequest, remote: &str) -> Result<Git, Error> {
    let host = remote.split_once("://").map_or("", |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let own = format!("GIT_AUTH_TOKEN.{host}");
    let mut token = request.secret(&own).await?;
    if token.is_none() {
        token = request.secret("GIT_AUTH_TOKEN").await?;
    }
    let token = token.map(|t| String::from_utf8_lossy(&t).trim().to_owned());
    Ok(Git {
        dir: cache.sources().join("git"),
        ssh_agent: request.ssh.get("default").cloned(),
        token: (token.filter(|t| !t.is_empty())).map(|t| Token::new(remote, t)),
    })
}

/// The folder of a tree under its key, made if it isn't there. What is half-made never has the name.
struct Place {
    path: PathBuf,
    temp: PathBuf,
}

impl Place {
    fn new(cache: &Cache, parts: &[&str]) -> Place {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let key = hex::encode(&hash.finalize()[..16]);
        let path = cache.sources().join(format!("tree-{key}"));
        let unique = format!(".making-{key}-{}", uuid());
        Place {
            path,
            temp: cache.sources().join(unique),
        }
    }

    /// It is there; marks it as used, for the next prune.
    fn there(&self) -> bool {
        let now = SystemTime::now();
        let touch = || fs::File::open(&self.path)?.set_modified(now);
        self.path.is_dir() && touch().is_ok()
    }

    /// Gives what is in `temp` its name; another build may have been faster.
    fn done(self) -> Result<PathBuf, Error> {
        match fs::rename(&self.temp, &self.path) {
            Ok(()) => Ok(self.path.clone()),
            Err(_) if self.path.is_dir() => Ok(self.path.clone()),
            Err(e) => Err(io(&self.path)(e)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temp);
    }
}

/// A name that no other build uses.
fn uuid() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{next}", std::process::id())
}

/// A commit's files.
async fn repository(
    cache: &Cache,
    request: &BuildRequest,
    git: &GitRef,
    keep: bool,
) -> Result<PathBuf, Error> {
    let tool = git_of(cache, request, &git.remote).await?;
    let commit = tool.resolve(git).await.map_err(failed)?;
    let place = Place::new(
        cache,
        &[
            "git",
            &git.remote,
            &commit.id,
            git.subdir.as_deref().unwrap_or_default(),
            if keep { "kept" } else { "" },
            if git.submodules == Some(false) {
                "bare"
            } else {
                ""
            },
        ],
    );
    if place.there() {
        return Ok(place.path.clone());
    }
    let checked = tool.check_out(git, &commit, keep, &place.temp);
    checked.await.map_err(failed)?;
    place.done()
}

/// What an `ADD` of something remote brings.
pub(crate) async fn source(
    graph: &Graph<'_>,
    path: &str,
    checksum: Option<&str>,
    keep_git: Option<bool>,
) -> Result<Source, Error> {
    let refused = |why: String| Err(Error::Request(why));
    if let Some(git) = git_ref(path) {
        let mut git = git?;
        if let (Some(a), Some(b)) = (keep_git, git.keep_git_dir)
            && a != b
        {
            return refused("inconsistent keep-git-dir configuration".into());
        }
        if let (Some(a), Some(b)) = (checksum, &git.checksum)
            && a != b
        {
            return refused(format!("checksum mismatch {a:?} != {b:?}"));
        }
        git.checksum = git.checksum.or_else(|| checksum.map(str::to_owned));
        let keep = keep_git.or(git.keep_git_dir).unwrap_or(false);
        let folder = repository(&graph.cache, graph.request, &git, keep).await?;
        return blocking(move || {
            let tree = Tree::context("git", &folder, Ignore::default())?;
            Ok(Source::Fetched {
                tree,
                path: "/".into(),
            })
        })
        .await;
    }
    let http = Http {
        dir: graph.cache.sources().join("http"),
    };
    let got = http.fetch(path, checksum).await.map_err(failed)?;
    blocking(move || {
        let tree = Tree::context("http", &got.folder, Ignore::default())?;
        Ok(Source::Fetched {
            tree,
            path: got.name,
        })
    })
    .await
}

/// A context behind a URL: a repository, an archive, or a Dockerfile alone.
pub(crate) async fn context(
    cache: &Cache,
    request: &BuildRequest,
    url: &str,
) -> Result<PathBuf, Error> {
    if let Some(git) = GitRef::parse(url) {
        let git = git.map_err(|e| Error::Request(e.to_string()))?;
        let keep = git.keep_git_dir.unwrap_or(false);
        return repository(cache, request, &git, keep).await;
    }
    let http = Http {
        dir: cache.sources().join("http"),
    };
    let got = http.fetch(url, None).await.map_err(failed)?;
    let place = Place::new(cache, &["archive", &got.digest]);
    let file = got.folder.join(&got.name);
    blocking(move || unpacked(place, &file)).await
}

/// A context that is an archive: a file, or `-` for standard input.
pub(crate) async fn archive(cache: &Cache, path: &Path) -> Result<PathBuf, Error> {
    let (path, sources) = (path.to_owned(), cache.sources());
    let copied = blocking(move || {
        // read once only: it may be a pipe
        let mut file = tempfile::NamedTempFile::new_in(&sources).map_err(io(&sources))?;
        let mut from: Box<dyn Read> = match path.as_os_str() == "-" {
            true => Box::new(std::io::stdin()),
            false => Box::new(fs::File::open(&path).map_err(io(&path))?),
        };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = from.read(&mut buffer).map_err(io(&path))?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            std::io::Write::write_all(&mut file, &buffer[..n]).map_err(io(&sources))?;
        }
        Ok((file, format!("sha256:{}", hex::encode(hash.finalize()))))
    });
    let (file, digest) = copied.await?;
    let place = Place::new(cache, &["archive", &digest]);
    blocking(move || unpacked(place, file.path())).await
}

fn unpacked(place: Place, archive: &Path) -> Result<PathBuf, Error> {
    if place.there() {
        return Ok(place.path.clone());
    }
    let file = fs::File::open(archive).map_err(io(archive))?;
    let opened = from_stream(file, &place.temp).map_err(failed)?;
    if let Opened::Dockerfile(text) = opened {
        fs::create_dir_all(&place.temp).map_err(io(&place.temp))?;
        let path = place.temp.join("Dockerfile");
        fs::write(&path, text).map_err(io(&path))?;
    }
    place.done()
}
