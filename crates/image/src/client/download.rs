//! Blobs brought here: into a file that a later try, or a later pull, goes on with.

use super::{
    Error, Event, Progress, Step,
    session::{Call, Session, Tries},
};
use crate::{ImageStore, io, manifest::Descriptor};
use ::http::{HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use rustix::fs::FlockOperation::LockExclusive;
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

/// Pieces of a body that may wait for the disk.
const PIECES_WAITING: usize = 16;
/// How many bytes pass between two reports.
const REPORT_BYTES: u64 = 512 << 10;

/// The file that a blob is gathered in, ours alone while this lives.
struct Partial {
    file: fs::File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
}

impl Partial {
    /// Opens what an earlier try left, or begins. Blocks while another process brings the same blob.
    fn open(store: &ImageStore, digest: &str) -> Result<Partial, crate::Error> {
        let dir = store.partial_dir();
        fs::create_dir_all(&dir).map_err(io(&dir))?;
        let path = dir.join(digest.strip_prefix("sha256:").unwrap_or(digest));
        loop {
            let file = fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(io(&path))?;
            rustix::fs::flock(&file, LockExclusive).map_err(|e| io(&path)(e.into()))?;
            // who held it may have finished and moved it away
            use std::os::unix::fs::MetadataExt;
            let (ours, there) = (file.metadata(), fs::metadata(&path));
            if !matches!((&ours, &there), (Ok(a), Ok(b)) if a.ino() == b.ino()) {
                continue;
            }
            let mut partial = Partial {
                file,
                path,
                hash: Sha256::new(),
                bytes: 0,
            };
            partial.read_again().map_err(io(&partial.path))?;
            return Ok(partial);
        }
    }

    fn read_again(&mut self) -> std::io::Result<()> {
        let mut buf = vec![0u8; 1 << 18];
        loop {
            match self.file.read(&mut buf)? {
                0 => return Ok(()),
                n => {
                    self.hash.update(&buf[..n]);
                    self.bytes += n as u64;
                }
            }
        }
    }

    fn write(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.file.write_all(piece)?;
        self.hash.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    /// The file under its digest, durably; emptied when it is another's content.
    fn finish(&mut self, store: &ImageStore, digest: &str, url: &str) -> Result<(), Error> {
        let got = format!("sha256:{}", hex::encode(self.hash.clone().finalize()));
        if got != digest {
            // a next try would go on with it
            self.restart().map_err(io(&self.path))?;
            return Err(Error::wrong(
                url,
                format!("the blob {digest} has content with digest {got}"),
            ));
        }
        self.file.sync_all().map_err(io(&self.path))?;
        store.adopt_blob(&self.path, digest)?;
        Ok(())
    }
}

/// Brings a blob into the store, unless it is there.
pub(super) async fn blob(
    session: &Session,
    store: &ImageStore,
    wanted: &Descriptor,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let digest = &wanted.digest;
    let tell = |step| {
        progress.event(Event::Blob {
            digest: digest.clone(),
            step,
        });
    };
    let size_of = {
        let (store, digest) = (store.clone(), digest.clone());
        move || store.blob_size(&digest)
    };
    let there = |size: u64| match size == wanted.size {
        true => Ok(()),
        false => Err(Error::wrong(
            format!("{}/{}", session.registry, session.repository),
            format!(
                "the manifest says {} bytes of {digest}, which has {size}",
                wanted.size
            ),
        )),
    };
    if let Some(size) = blocking(size_of.clone()).await? {
        tell(Step::Exists);
        return there(size);
    }
    let mut partial = {
        let (store, digest) = (store.clone(), digest.clone());
        blocking(move || Partial::open(&store, &digest)).await??
    };
    // another process may have brought it while we waited for the file
    if let Some(size) = blocking(size_of).await? {
        let path = partial.path.clone();
        let _ = blocking(move || fs::remove_file(path)).await?;
        tell(Step::Exists);
        return there(size);
    }
    if partial.bytes > wanted.size {
        partial.restart().map_err(io(&partial.path))?;
    }
    let begun_by_another = partial.bytes > 0;
    let mut slot = Some(partial);
    match whole(session, store, wanted, &mut slot, &tell).await {
        // what was left here may have been wrong, and not what came now
        Err(Error::Wrong { .. }) if begun_by_another => {
            whole(session, store, wanted, &mut slot, &tell).await
        }
        other => other,
    }
}

/// Gathers the rest, with as many tries as are allowed, and puts it into the store.
async fn whole(
    session: &Session,
    store: &ImageStore,
    wanted: &Descriptor,
    slot: &mut Option<Partial>,
    tell: &(dyn Fn(Step) + Send + Sync),
) -> Result<(), Error> {
    let digest = &wanted.digest;
    let scopes = session.scope("pull");
    let mut tries = Tries::new(session.config.attempts);
    let url = loop {
        let from = slot.as_ref().map_or(0, |p| p.bytes);
        if from == wanted.size {
            break session.repository.clone();
        }
        match rest(session, wanted, &scopes, slot, tell).await {
            Ok(url) => break url,
            Err(error) => tries.after(error).await?,
        }
        tell(Step::Retrying {
            attempt: tries.attempt,
        });
    };
    let Some(mut partial) = slot.take() else {
        return Err(Error::network(url, "the file was lost"));
    };
    let (store, digest) = (store.clone(), digest.clone());
    let (partial, done) = blocking(move || {
        let done = partial.finish(&store, &digest, &url);
        (partial, done)
    })
    .await?;
    *slot = Some(partial);
    done
}

/// Asks for what is missing and writes it as it comes.
async fn rest(
    session: &Session,
    wanted: &Descriptor,
    scopes: &[String],
    slot: &mut Option<Partial>,
    tell: &(dyn Fn(Step) + Send + Sync),
) -> Result<String, Error> {
    let path = format!("/{}/blobs/{}", session.repository, wanted.digest);
    let mut call = Call::new(Method::GET, path, scopes);
    let from = slot.as_ref().map_or(0, |p| p.bytes);
    if from > 0
        && let Ok(range) = HeaderValue::try_from(format!("bytes={from}-"))
    {
        call.headers.insert(header::RANGE, range);
    }
    let good = |status: StatusCode| matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    let (_, answer) = session.ask_any(|h| h.pull, &call, good).await?;
    let url = answer.url.clone();
    let begins = match answer.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = answer.header("content-range").unwrap_or_default();
            let first = range.strip_prefix("bytes ").and_then(|r| r.split_once('-'));
            let first = first.and_then(|(first, _)| first.parse::<u64>().ok());
            first.ok_or_else(|| Error::wrong(&url, format!("a part with the range {range:?}")))?
        }
        _ => 0,
    };
    let mut partial = slot
        .take()
        .ok_or_else(|| Error::network(&url, "the file was lost"))?;
    if begins != partial.bytes {
        // it has no parts: from the beginning
        let again = partial.restart();
        if begins != 0 {
            *slot = Some(partial);
            return Err(Error::wrong(&url, "it sent another part than asked for"));
        }
        again.map_err(io(&partial.path))?;
    }
    let mut at = partial.bytes;
    tell(Step::Transferring {
        at,
        of: wanted.size,
    });
    let (send, mut receive) = tokio::sync::mpsc::channel::<Bytes>(PIECES_WAITING);
    let writer = crate::priority::spawn_blocking(move || {
        while let Some(piece) = receive.blocking_recv() {
            if let Err(e) = partial.write(&piece) {
                return (partial, Some(e));
            }
        }
        (partial, None)
    });
    let (http, mut body) = (answer.http, answer.response.into_body());
    let mut told = at;
    let got = loop {
        match http.piece(&url, &mut body).await {
            Ok(Some(piece)) => {
                at += piece.len() as u64;
                if at > wanted.size {
                    let why = format!("more than the {} bytes of {}", wanted.size, wanted.digest);
                    break Err(Error::wrong(&url, why));
                }
                if send.send(piece).await.is_err() {
                    break Ok(());
                }
                if at - told >= REPORT_BYTES {
                    told = at;
                    tell(Step::Transferring {
                        at,
                        of: wanted.size,
                    });
                }
            }
            Ok(None) if at < wanted.size => {
                let why = format!("it ended after {at} of {} bytes", wanted.size);
                break Err(Error::network(&url, why));
            }
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    drop(send);
    let (mut partial, failed) = writer
        .await
        .map_err(|e| Error::network(&url, format!("writing: {e}")))?;
    if let Some(e) = failed {
        return Err(io(&partial.path)(e).into());
    }
    if matches!(got, Err(Error::Wrong { .. })) {
        partial.restart().map_err(io(&partial.path))?;
    }
    *slot = Some(partial);
    got.map(|()| url)
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = crate::priority::spawn_blocking(work).await;
    done.map_err(|e| Error::network("this machine", e))
}
