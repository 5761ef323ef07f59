//! Files behind HTTP(S) (`source/http` of BuildKit): kept with their ETag, asked for again only when they have changed.

use super::{SourceError, io, redacted};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use knarr_image::client::{Proxies, Web};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::io::AsyncWriteExt;

/// To a connection, and to an answer's head.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Between two pieces of a body.
const STALL_MAX: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 10;
/// A connection that breaks is tried so many times in all.
const TRIES: u32 = 3;
/// No body is larger.
const BODY_MAX: u64 = 64 << 30;
/// What is kept of files that were fetched, in bytes; the oldest go.
const KEPT_MAX: u64 = 4 << 30;

/// Fetches files.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where they are kept.
    pub dir: PathBuf,
}

/// A fetched file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// A folder with nothing but it.
    pub folder: PathBuf,
    /// Its name there: the last of the URL's path; mode 0600, its time is `Last-Modified`.
    pub name: String,
    /// `sha256:…`
    pub digest: String,
}

/// What is written down of a URL.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    digest: String,
    etag: Option<String>,
    modified: Option<String>,
}

impl Http {
    /// Fetches a URL, or takes what is kept when the server says that it is still the same. `wanted`: the digest that it has
    /// to have, `sha256:…`; a kept file with that digest is taken without asking.
    ///
    /// # Errors
    /// An answer other than 200, another digest, a server that stalls.
    pub async fn fetch(&self, url: &str, wanted: Option<&str>) -> Result<Fetched, SourceError> {
        if let Some(wanted) = wanted {
            // SOURCE: opencontainers/go-digest Validate
            let (kind, _) = wanted.split_once(':').unwrap_or_default();
            if !matches!(kind, "" | "sha256" | "sha384" | "sha512") {
                return Err(SourceError::Refused("unsupported digest algorithm".into()));
            }
            let hex = wanted.strip_prefix("sha256:").unwrap_or_default();
            if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(SourceError::Refused(format!(
                    "invalid checksum digest format: {wanted:?}: use sha256: and 64 hexadecimal digits"
                )));
            }
        }
        std::fs::create_dir_all(&self.dir).map_err(io(&self.dir))?;
        let kept = self.kept(url);
        if let Some(found) = kept.as_ref().and_then(|k| self.found(url, k))
            && Some(found.digest.as_str()) == wanted
        {
            return Ok(found);
        }
        let fail = |why: String| SourceError::Http {
            url: redacted(url),
            why,
        };
        let mut tries = 1;
        loop {
            match self.once(url, kept.as_ref()).await {
                Ok(found) => {
                    return match wanted {
                        Some(wanted) if wanted != found.digest => Err(SourceError::Digest {
                            url: redacted(url),
                            found: found.digest,
                            wanted: wanted.into(),
                        }),
                        _ => Ok(found),
                    };
                }
                Err(Trouble::Passing(_)) if tries < TRIES => {
                    tokio::time::sleep(Duration::from_millis(200 << tries)).await;
                    tries += 1;
                }
                Err(Trouble::Passing(why) | Trouble::Lasting(why)) => return Err(fail(why)),
            }
        }
    }

    fn note(&self, url: &str) -> PathBuf {
        let key = hex::encode(&Sha256::digest(url)[..16]);
        self.dir.join(format!("{key}.json"))
    }

    fn folder(&self, url: &str, digest: &str) -> PathBuf {
        let key = Sha256::digest(format!("{url} {digest}"));
        self.dir.join(hex::encode(&key[..16]))
    }

    fn kept(&self, url: &str) -> Option<Kept> {
        let kept: Kept = serde_json::from_slice(&std::fs::read(self.note(url)).ok()?).ok()?;
        self.found(url, &kept).map(|_| kept)
    }

    fn found(&self, url: &str, kept: &Kept) -> Option<Fetched> {
        let folder = self.folder(url, &kept.digest);
        folder.join(&kept.name).is_file().then(|| Fetched {
            folder,
            name: kept.name.clone(),
            digest: kept.digest.clone(),
        })
    }

    async fn once(&self, url: &str, kept: Option<&Kept>) -> Result<Fetched, Trouble> {
        let answer = get(url, kept).await?;
        if answer.status() == StatusCode::NOT_MODIFIED
            && let Some(found) = kept.and_then(|k| self.found(url, k))
        {
            return Ok(found);
        }
        if !answer.status().is_success() {
            let why = format!("invalid response status {}", answer.status().as_u16());
            return Err(match answer.status().is_server_error() {
                true => Trouble::Passing(why),
                false => Trouble::Lasting(why),
            });
        }
        let text = |name| {
            let value = answer.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let name = name(url, answer.headers());
        let (etag, modified) = (text(header::ETAG), text(header::LAST_MODIFIED));
        let broken = |e: std::io::Error| Trouble::Lasting(e.to_string());
        let temp = tempfile::tempdir_in(&self.dir).map_err(broken)?;
        let path = temp.path().join(&name);
        let digest = body(answer, &path).await?;
        if let Some(time) = modified
            .as_deref()
            .and_then(|m| httpdate::parse_http_date(m).ok())
        {
            let file = std::fs::File::options().write(true).open(&path);
            file.and_then(|f| f.set_modified(time)).map_err(broken)?;
        }
        let folder = self.folder(url, &digest);
        place(temp, &folder, &name).map_err(broken)?;
        let kept = Kept {
            name,
            digest,
            etag,
            modified,
        };
        let note = serde_json::to_vec(&kept).map_err(|e| Trouble::Lasting(e.to_string()))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.dir).map_err(broken)?;
        file.write_all(&note).map_err(broken)?;
        file.persist(self.note(url)).map_err(|e| broken(e.error))?;
        self.prune(&folder);
        self.found(url, &kept)
            .ok_or_else(|| Trouble::Passing("the file was removed meanwhile".into()))
    }

    /// Removes the oldest kept files above the bound, but for the newest.
    fn prune(&self, newest: &Path) {
        let mut all: Vec<(SystemTime, u64, PathBuf)> = vec![];
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let size = |f: std::fs::DirEntry| f.metadata().map_or(0, |m| m.len());
            let files = std::fs::read_dir(entry.path())
                .into_iter()
                .flatten()
                .flatten();
            if meta.is_dir() && entry.path() != newest {
                let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                all.push((changed, files.map(size).sum(), entry.path()));
            }
        }
        all.sort();
        let mut sum: u64 = all.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in all {
            if sum <= KEPT_MAX {
                break;
            }
            let _ = std::fs::remove_dir_all(path);
            sum -= size;
        }
    }
}

/// Gives a folder with a file in it its name, unless another with that file has it: who uses that keeps it.
fn place(temp: tempfile::TempDir, folder: &Path, name: &str) -> std::io::Result<()> {
    let there = || folder.join(name).is_file();
    if there() {
        return Ok(());
    }
    match std::fs::rename(temp.path(), folder) {
        // another was quicker
        Err(_) if there() => Ok(()),
        // what is there is not it
        Err(_) => {
            let _ = std::fs::remove_dir_all(folder);
            std::fs::rename(temp.path(), folder)
        }
        Ok(()) => Ok(()),
    }
}

enum Trouble {
    /// May go by itself.
    Passing(String),
    Lasting(String),
}

fn passing(e: impl std::error::Error) -> Trouble {
    let mut why = e.to_string();
    let mut below = e.source();
    while let Some(e) = below {
        why = format!("{why}: {e}");
        below = e.source();
    }
    Trouble::Passing(why)
}

/// Streams a body into a new file of mode 0600. Gives its digest.
async fn body(answer: Response<Incoming>, path: &Path) -> Result<String, Trouble> {
    use std::os::unix::fs::OpenOptionsExt;
    let announced = answer.headers().get(header::CONTENT_LENGTH);
    let announced: Option<u64> = announced.and_then(|l| l.to_str().ok()?.parse().ok());
    let broken = |e: std::io::Error| Trouble::Lasting(e.to_string());
    let mut options = std::fs::File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = tokio::fs::File::from_std(file.map_err(broken)?);
    let (mut hash, mut size) = (Sha256::new(), 0_u64);
    let mut body = answer.into_body();
    loop {
        let piece = tokio::time::timeout(STALL_MAX, body.frame()).await;
        let piece = piece
            .map_err(|_| Trouble::Passing(format!("nothing came for {} s", STALL_MAX.as_secs())))?;
        let Some(piece) = piece else { break };
        let Ok(data) = piece.map_err(passing)?.into_data() else {
            continue;
        };
        hash.update(&data);
        size += data.len() as u64;
        if size > BODY_MAX {
            return Err(Trouble::Lasting(format!(
                "it is larger than {BODY_MAX} bytes"
            )));
        }
        file.write_all(&data).await.map_err(broken)?;
    }
    if announced.is_some_and(|announced| announced != size) {
        return Err(Trouble::Passing(format!(
            "the connection ended after {size} bytes"
        )));
    }
    file.flush().await.map_err(broken)?;
    file.sync_all().await.map_err(broken)?;
    Ok(format!("sha256:{}", hex::encode(hash.finalize())))
}

/// The last part of the URL's path, else what the server calls it.
fn name(url: &str, headers: &HeaderMap) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let decoded = percent_encoding::percent_decode_str(path.split_once('/').map_or("", |(_, p)| p));
    let decoded = decoded.decode_utf8_lossy();
    let plain = |name: &str| {
        let name = name.rsplit('/').next().unwrap_or_default();
        let fits = !matches!(name, "" | "." | "..") && !name.contains('\0') && name.len() <= 255;
        fits.then(|| name.to_owned())
    };
    let disposition = headers.get(header::CONTENT_DISPOSITION);
    let disposition = disposition
        .and_then(|d| d.to_str().ok())
        .unwrap_or_default();
    let given = disposition.split(';').find_map(|part| {
        let name = part.trim().strip_prefix("filename=")?;
        plain(name.trim_matches('"'))
    });
    plain(decoded.trim_end_matches('/'))
        .or(given)
        .unwrap_or_else(|| "__unnamed__".into())
}

/// The answer at the end of all redirections.
async fn get(url: &str, kept: Option<&Kept>) -> Result<Response<Incoming>, Trouble> {
    let web = Web {
        proxies: Arc::new(Proxies::from_environment()),
        connect: ANSWER_MAX,
    };
    let mut url = url.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let sent = tokio::time::timeout(ANSWER_MAX, send(&web, &url, kept)).await;
        let late = |_| Trouble::Passing(format!("no answer in {} s", ANSWER_MAX.as_secs()));
        let answer = sent.map_err(late)??;
        if !answer.status().is_redirection() || answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(answer);
        }
        let location = answer.headers().get(header::LOCATION);
        let location = location.and_then(|l| l.to_str().ok());
        let location =
            location.ok_or_else(|| Trouble::Lasting("a redirection to nowhere".into()))?;
        url = join(&url, location);
    }
    Err(Trouble::Lasting(format!(
        "stopped after {REDIRECTS_MAX} redirects"
    )))
}

/// A redirection's target, which may be relative.
fn join(base: &str, location: &str) -> String {
    let (scheme, rest) = base.split_once("://").unwrap_or(("http", base));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    if location.contains("://") {
        return location.to_owned();
    }
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    if location.starts_with('/') {
        return format!("{scheme}://{host}{location}");
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{host}{folder}/{location}")
}

async fn send(web: &Web, url: &str, kept: Option<&Kept>) -> Result<Response<Incoming>, Trouble> {
    let lasting = |why: &str| Trouble::Lasting(why.to_owned());
    let plain = url.split('#').next().unwrap_or_default();
    let uri: Uri = plain.parse().map_err(|_| lasting("it is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(lasting("only http and https are known"));
    }
    let authority = uri.authority().map_or("", |a| a.as_str());
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login), host),
        None => (None, authority),
    };
    // without the login, which is a header
    let to = Uri::builder()
        .scheme(uri.scheme_str().unwrap_or_default())
        .authority(host)
        .path_and_query(uri.path_and_query().map_or("/", |p| p.as_str()));
    let mut request = Request::get(to.build().map_err(|_| lasting("it has no host"))?)
        .header(header::ACCEPT, "*/*")
        // what is fetched is the file, not a packed one
        .header(header::ACCEPT_ENCODING, "identity")
        .header(
            header::USER_AGENT,
            concat!("knarr/", env!("CARGO_PKG_VERSION")),
        );
    if let Some(login) = login {
        use base64::Engine as _;
        let login = percent_encoding::percent_decode_str(login).collect::<Vec<u8>>();
        let login = base64::engine::general_purpose::STANDARD.encode(login);
        request = request.header(header::AUTHORIZATION, format!("Basic {login}"));
    }
    match kept {
        Some(Kept {
            etag: Some(etag), ..
        }) => {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        Some(Kept {
            modified: Some(modified),
            ..
        }) => {
            request = request.header(header::IF_MODIFIED_SINCE, modified);
        }
        _ => {}
    }
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|e| Trouble::Lasting(e.to_string()))?;
    web.send(request).await.map_err(|e| match e.is_transient() {
        true => Trouble::Passing(e.to_string()),
        false => Trouble::Lasting(e.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_bring_at_once_is_there_for_all() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let folder = dir.path().join(format!("{round}"));
            if round % 2 == 1 {
                // left by something else
                std::fs::create_dir(&folder).unwrap();
            }
            let begin = std::sync::Barrier::new(4);
            let bring = || {
                let temp = tempfile::tempdir_in(dir.path()).unwrap();
                std::fs::write(temp.path().join("file"), "content").unwrap();
                begin.wait();
                place(temp, &folder, "file").map(|()| std::fs::read(folder.join("file")))
            };
            std::thread::scope(|scope| {
                for one in [(); 4].map(|()| scope.spawn(bring)) {
                    let read = one.join().unwrap().unwrap();
                    assert_eq!(read.unwrap(), b"content", "round {round}");
                }
            });
        }
    }

    #[test]
    fn redirections() {
        let table = [
            ("http://h/a/b?q", "c", "http://h/a/c"),
            ("http://h/a/b", "/c", "http://h/c"),
            ("https://h", "c", "https://h/c"),
            ("https://h/a", "//other/c", "https://other/c"),
            ("https://h/a", "http://x/y", "http://x/y"),
        ];
        for (base, location, want) in table {
            assert_eq!(join(base, location), want);
        }
    }

    #[test]
    fn names() {
        let table = [
            ("http://h/a/b.tar.gz?x=/y", "", "b.tar.gz"),
            ("http://h/a%20b", "", "a b"),
            ("http://h/a/..", "", "__unnamed__"),
            ("http://h/%2e%2e%2f", "", "__unnamed__"),
            ("http://h/", "attachment; filename=\"f.txt\"", "f.txt"),
            (
                "http://h",
                "attachment; filename=../../etc/passwd",
                "passwd",
            ),
            ("http://h", "", "__unnamed__"),
        ];
        for (url, disposition, want) in table {
            let mut headers = HeaderMap::new();
            if !disposition.is_empty() {
                headers.insert(header::CONTENT_DISPOSITION, disposition.parse().unwrap());
            }
            assert_eq!(name(url, &headers), want, "{url} {disposition}");
        }
    }
}
