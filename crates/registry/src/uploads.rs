//! Blobs that are still coming: a folder each, so that one goes on where it was after a restart.

use crate::{
    digest::{Algorithm, Digest, Hasher},
    error::Refusal,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// What is rehashed at a time, in bytes.
const REHASH: usize = 1 << 18;

/// All uploads.
pub struct Uploads {
    dir: PathBuf,
    most: usize,
    age: Duration,
    open: Mutex<HashMap<String, Arc<AsyncMutex<Writer>>>>,
}

/// One upload's bytes so far.
pub struct Writer {
    dir: PathBuf,
    file: Option<fs::File>,
    /// Bytes that are here.
    pub len: u64,
    /// Of all bytes so far; none when they must be read again to know.
    hasher: Option<Hasher>,
    /// Where a request began whose end has not been seen.
    began: Option<u64>,
}

impl Uploads {
    /// `most` uploads at once; one that nothing was written to for `age` is dropped.
    pub fn open(dir: PathBuf, most: usize, age: Duration) -> io::Result<Uploads> {
        fs::create_dir_all(&dir)?;
        Ok(Uploads {
            dir,
            most,
            age,
            open: Mutex::default(),
        })
    }

    /// Begins one; gives its id. Blocking.
    pub fn begin(&self, repository: &str, algorithm: Option<Algorithm>) -> Result<String, Refusal> {
        if self.count()? >= self.most {
            self.expire()?;
        }
        if self.count()? >= self.most {
            return Err(Refusal::too_many(format!(
                "{} uploads are under way already: finish or cancel some (DELETE), or try again later",
                self.most
            )));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let dir = self.dir.join(&id);
        fs::create_dir(&dir)?;
        let file = fs::File::create_new(dir.join("data"))?;
        fs::write(dir.join("repository"), repository)?;
        let writer = Writer {
            dir,
            file: Some(file),
            len: 0,
            hasher: Some(Hasher::new(algorithm)),
            began: None,
        };
        let writer = Arc::new(AsyncMutex::new(writer));
        self.open.lock().insert(id.clone(), writer);
        Ok(id)
    }

    fn count(&self) -> io::Result<usize> {
        Ok(fs::read_dir(&self.dir)?.count())
    }

    /// Takes one in hand. Blocking, but doesn't wait for another request that has it.
    ///
    /// # Errors
    /// `BLOB_UPLOAD_UNKNOWN`; 409 while another request writes to it.
    pub fn take(&self, repository: &str, id: &str) -> Result<OwnedMutexGuard<Writer>, Refusal> {
        let unknown = || {
            Refusal::upload_unknown(format!(
                "{repository} has no upload {id}: it was finished, cancelled or too old; begin another"
            ))
        };
        if uuid::Uuid::parse_str(id).is_err_and(|_| true) || id.contains('/') {
            return Err(unknown());
        }
        let dir = self.dir.join(id);
        match fs::read_to_string(dir.join("repository")) {
            Ok(text) if text == repository => {}
            Ok(_) => return Err(unknown()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(unknown()),
            Err(e) => return Err(e.into()),
        }
        let writer = {
            let mut open = self.open.lock();
            match open.get(id) {
                Some(writer) => writer.clone(),
                None => {
                    let writer = match Writer::resume(dir) {
                        // it was ended since we looked
                        Err(e) if e.kind() == ErrorKind::NotFound => return Err(unknown()),
                        writer => Arc::new(AsyncMutex::new(writer?)),
                    };
                    open.insert(id.to_string(), writer.clone());
                    writer
                }
            }
        };
        writer.try_lock_owned().map_err(|_| {
            Refusal::upload_busy(format!(
                "another request writes to upload {id}: wait for its end"
            ))
        })
    }

    /// Forgets one, with its bytes. Blocking.
    pub fn end(&self, id: &str) -> io::Result<()> {
        self.open.lock().remove(id);
        match fs::remove_dir_all(self.dir.join(id)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Drops those that nothing was written to for too long. Blocking.
    pub fn expire(&self) -> io::Result<()> {
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let written = fs::metadata(entry.path().join("data")).and_then(|m| m.modified());
            let written = match written.or_else(|_| entry.metadata()?.modified()) {
                Ok(written) => written,
                // ended since the folder was listed
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let old = now.duration_since(written).is_ok_and(|age| age > self.age);
            let name = entry.file_name();
            let id = name.to_str().unwrap_or_default();
            let busy = {
                let open = self.open.lock();
                open.get(id)
                    .is_some_and(|writer| writer.try_lock().is_err())
            };
            if old && !busy {
                self.end(id)?;
            }
        }
        Ok(())
    }
}

impl Writer {
    fn resume(dir: PathBuf) -> io::Result<Writer> {
        let file = fs::OpenOptions::new().append(true).open(dir.join("data"))?;
        let len = file.metadata()?.len();
        Ok(Writer {
            dir,
            file: None,
            len,
            hasher: (len == 0).then(|| Hasher::new(None)),
            began: None,
        })
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A request's bytes begin. What a request left that never came to its end, and said of no range, is taken back.
    pub fn begin(&mut self, whole: bool) -> io::Result<()> {
        if let Some(began) = self.began.take() {
            self.back_to(began)?;
        }
        if whole {
            self.began = Some(self.len);
        }
        Ok(())
    }

    /// Its bytes were all of it.
    pub fn ended(&mut self) {
        self.began = None;
    }

    /// Forgets what came after the first `len` bytes.
    pub fn back_to(&mut self, len: u64) -> io::Result<()> {
        if len < self.len {
            let file = fs::OpenOptions::new().write(true).open(self.data())?;
            file.set_len(len)?;
            self.file = None;
            self.len = len;
            self.hasher = (len == 0).then(|| Hasher::new(None));
        }
        Ok(())
    }

    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut file = fs::OpenOptions::new().write(true).open(self.data())?;
                file.seek(SeekFrom::Start(self.len))?;
                self.file.insert(file)
            }
        };
        if let Err(e) = file.write_all(bytes) {
            // How much of it came is not known: the bytes before it are what counts.
            let keep = self.len;
            self.len = u64::MAX;
            let _ = self.back_to(keep);
            return Err(e);
        }
        self.len += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }

    /// Digests all of it, and flushes it to the disk: the digests by sha256 and by the algorithm asked for, and the file.
    pub fn finish(&mut self, algorithm: Algorithm) -> io::Result<(Digest, Digest, &Path)> {
        let hasher = self.hasher.take().filter(|h| h.knows(algorithm));
        let hasher = match hasher {
            Some(hasher) => hasher,
            None => {
                let mut hasher = Hasher::new(Some(algorithm));
                let mut file = fs::File::open(self.data())?.take(self.len);
                let mut buffer = vec![0; REHASH];
                loop {
                    match file.read(&mut buffer)? {
                        0 => break hasher,
                        n => hasher.update(&buffer[..n]),
                    }
                }
            }
        };
        let (sha256, sha512) = hasher.finish();
        let asked = match algorithm {
            Algorithm::Sha256 => Some(sha256.clone()),
            Algorithm::Sha512 => sha512,
        };
        let asked =
            asked.ok_or_else(|| io::Error::other("not digested by the algorithm asked for"))?;
        fs::File::open(self.data())?.sync_all()?;
        Ok((sha256, asked, &self.dir))
    }
}
