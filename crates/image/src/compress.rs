//! Layers compressed for a registry: in blocks of a fixed size by several threads, so that the bytes are the same on every
//! machine, and a blob that was made once can be made again instead of kept.
//!
//! Gzip: one member; each block is a deflate stream of its own that ends in a flush (as `pigz --independent`). Zstandard:
//! one frame a block.

use crate::{
    Error, ImageStore,
    block::{BLOCK_BYTES, Way, block},
    io,
    layer::Hashing,
    recipe,
};
use rustix::fs::FlockOperation::NonBlockingLockShared;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

/// How many blocks may wait for who reads them.
const PIECES_WAITING: usize = 4;

/// How layers are compressed for a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// What every client reads.
    #[default]
    Gzip,
    /// Smaller and faster; clients since 2020 read it.
    Zstd,
}

impl Compression {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// A blob that can be made again from its layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    pub digest: String,
    pub diff_id: String,
    pub size: u64,
    compression: Compression,
    maker: u32,
}

impl Made {
    /// How it is made again; none: a later version made it.
    pub fn way(&self) -> Option<Way> {
        Way::of(self.compression, self.maker)
    }
}

/// Reads all of `from`, compresses it on all processors, and writes it in order.
pub(crate) fn compress(way: Way, mut from: impl Read, mut to: impl Write) -> std::io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        let (work_send, work) = mpsc::sync_channel::<Job>(threads);
        let work = std::sync::Arc::new(std::sync::Mutex::new(work));
        for _ in 0..threads {
            let work = work.clone();
            scope.spawn(move || {
                loop {
                    let Ok(job) = work.lock().map(|jobs| jobs.recv()) else {
                        return;
                    };
                    let Ok(job) = job else { return };
                    let _ = job.done.send(block(way, &job.bytes, job.last));
                }
            });
        }
        drop(work);
        let mut crc = flate2::Crc::new();
        if way.kind == Compression::Gzip {
            // no name, no time, system unknown
            to.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])?;
        }
        let mut waiting: VecDeque<mpsc::Receiver<std::io::Result<Vec<u8>>>> = VecDeque::new();
        let mut next = fill(&mut from)?;
        loop {
            let bytes = std::mem::replace(&mut next, fill(&mut from)?);
            let last = next.is_empty();
            crc.update(&bytes);
            let (done, receive) = mpsc::sync_channel(1);
            let job = Job { bytes, last, done };
            work_send.send(job).map_err(std::io::Error::other)?;
            waiting.push_back(receive);
            while waiting.len() > if last { 0 } else { 2 * threads } {
                if let Some(first) = waiting.pop_front() {
                    to.write_all(&first.recv().map_err(std::io::Error::other)??)?;
                }
            }
            if last {
                break;
            }
        }
        drop(work_send);
        if way.kind == Compression::Gzip {
            to.write_all(&crc.sum().to_le_bytes())?;
            to.write_all(&crc.amount().to_le_bytes())?;
        }
        Ok(())
    })
}

struct Job {
    bytes: Vec<u8>,
    last: bool,
    done: mpsc::SyncSender<std::io::Result<Vec<u8>>>,
}

fn fill(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    from.take(BLOCK_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A reader that counts for somebody else.
struct Counting<'a, R>(R, &'a AtomicU64);

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Writes to who reads in another thread.
struct Pieces(mpsc::SyncSender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.0.send(buf.to_vec()).map_err(gone)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A compressed blob that comes into being as it is read.
pub(crate) struct Growing {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    maker: Option<std::thread::JoinHandle<Result<(), Error>>>,
}

impl Read for Growing {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                // the end, or an error that is told once
                Err(_) => {
                    return match self.maker.take().map(std::thread::JoinHandle::join) {
                        None | Some(Ok(Ok(()))) => Ok(0),
                        Some(Ok(Err(error))) => Err(std::io::Error::other(error)),
                        Some(Err(_)) => Err(std::io::Error::other("the compressor panicked")),
                    };
                }
            }
        }
        let left = &self.piece[self.at..];
        let n = left.len().min(buf.len());
        buf[..n].copy_from_slice(&left[..n]);
        self.at += n;
        Ok(n)
    }
}

impl ImageStore {
    fn made_dir(&self) -> std::path::PathBuf {
        self.dir().join("made")
    }

    /// What is known of a compressed blob that can be made again.
    pub(crate) fn made(&self, digest: &str) -> Option<Made> {
        let path = self.made_dir().join(crate::store::hex_part(digest));
        let made: Made = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (made.way().is_some() && self.layer(&made.diff_id).exists()).then_some(made)
    }

    /// The blob that a layer became when it was compressed this way before.
    pub(crate) fn made_of(&self, diff_id: &str, kind: Compression) -> Option<Made> {
        let name = format!("{}.{}", crate::store::hex_part(diff_id), kind.word());
        let digest = fs::read_to_string(self.made_dir().join(name)).ok()?;
        self.made(digest.trim())
    }

    /// Compresses a layer's tar into a file without a name; what it became is remembered.
    pub(crate) fn make(&self, diff_id: &str, way: Way) -> Result<(Made, fs::File), Error> {
        let mut file = tempfile::tempfile_in(self.dir().join("tmp")).map_err(io(self.dir()))?;
        rustix::fs::flock(&file, NonBlockingLockShared).map_err(|e| io(self.dir())(e.into()))?;
        let made = self.make_into(diff_id, way, &mut file, &AtomicU64::new(0))?;
        file.seek(SeekFrom::Start(0)).map_err(io(self.dir()))?;
        Ok((made, file))
    }

    /// Compresses a layer's tar; what it became is remembered. `read` counts the tar's bytes.
    fn make_into(
        &self,
        diff_id: &str,
        way: Way,
        to: impl Write,
        read: &AtomicU64,
    ) -> Result<Made, Error> {
        let tar = self.need_blob(diff_id)?;
        let mut to = Hashing::new(to);
        let from = Counting(tar.content, read);
        compress(way, from, &mut to).map_err(io(self.layer(diff_id)))?;
        let size = to.count;
        let made = Made {
            digest: to.digest(),
            diff_id: diff_id.into(),
            size,
            compression: way.kind,
            maker: way.maker,
        };
        self.remember(&made)?;
        Ok(made)
    }

    /// A layer's compressed blob, to be read while it is made in another thread. `made`: what it became, once it was read to
    /// its end; `read` counts the tar's bytes.
    pub(crate) fn grow(
        &self,
        diff_id: &str,
        way: Way,
        made: Arc<OnceLock<Made>>,
        read: Arc<AtomicU64>,
    ) -> std::io::Result<Growing> {
        let (send, pieces) = mpsc::sync_channel(PIECES_WAITING);
        let (store, id) = (self.clone(), diff_id.to_owned());
        let work = move || {
            read.store(0, Ordering::Relaxed);
            let to = Pieces(send);
            let told = store.make_into(&id, way, to, &read);
            told.map(|told| {
                let _ = made.set(told);
            })
        };
        let maker = std::thread::Builder::new().name("compress".into());
        Ok(Growing {
            pieces,
            piece: Vec::new(),
            at: 0,
            maker: Some(maker.spawn(work)?),
        })
    }

    fn remember(&self, made: &Made) -> Result<(), Error> {
        let dir = self.made_dir();
        fs::create_dir_all(&dir).map_err(io(&dir))?;
        let hex = crate::store::hex_part;
        let text = serde_json::to_vec(made).map_err(|e| io(&dir)(e.into()))?;
        self.note(&dir.join(hex(&made.digest)), &text)?;
        let name = format!("{}.{}", hex(&made.diff_id), made.compression.word());
        self.note(&dir.join(name), made.digest.as_bytes())
    }

    /// Whether the blob is what we make of this layer: then it needs no file.
    pub(crate) fn is_ours(
        &self,
        digest: &str,
        diff_id: &str,
        kind: Compression,
    ) -> Result<bool, Error> {
        if self.made(digest).is_some() {
            return Ok(true);
        }
        // only ours begins like this and has these lengths: trying costs as much as compressing
        let mut head = [0u8; 10];
        let path = self.blob(digest);
        let mut file = fs::File::open(&path).map_err(io(&path))?;
        if file.read_exact(&mut head).is_err() || head != [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff] {
            return Ok(false);
        }
        let first = self.need_blob(diff_id)?;
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        let mut content = first.content.take(BLOCK_BYTES as u64);
        content.read_to_end(&mut bytes).map_err(io(&path))?;
        let mut theirs = Vec::new();
        for way in Way::all(kind) {
            let ours = block(way, &bytes, bytes.len() as u64 == first.size).map_err(io(&path))?;
            if theirs.len() < ours.len() {
                let more = (ours.len() - theirs.len()) as u64;
                let read = Read::take(&mut file, more).read_to_end(&mut theirs);
                read.map_err(io(&path))?;
            }
            if theirs.starts_with(&ours) && self.make(diff_id, way)?.0.digest == digest {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the blobs of layers that another machine's store compressed to the same bytes as this one would. Trying costs
    /// a compression of each layer whose first block is the same. Gives the bytes that it freed.
    ///
    /// # Errors
    /// When an image or layer can't be read, or a blob not be removed.
    pub fn shrink(&self) -> Result<u64, Error> {
        let _lock = self.lock(false)?;
        let mut freed = 0;
        for image in self.list()? {
            for layer in self.layer_infos(&image)? {
                let path = self.blob(&layer.digest);
                if layer.digest == layer.diff_id || !path.exists() || !self.has_blob(&layer.diff_id)
                {
                    continue;
                }
                if self.is_ours(&layer.digest, &layer.diff_id, Compression::Gzip)? {
                    freed += fs::metadata(&path).map_or(0, |m| m.len());
                    match fs::remove_file(&path) {
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                        gone => gone.map_err(io(path))?,
                    }
                }
            }
        }
        Ok(freed)
    }

    /// Removes a layer's blob when the store can give it without: plain tars, and what it compressed itself. Others stay,
    /// since no one else's compressor can be repeated.
    pub(crate) fn drop_blob(&self, digest: &str, diff_id: &str) -> Result<(), Error> {
        let path = self.blob(digest);
        let again = match digest == diff_id {
            true => {
                let tar = recipe::Rebuilt::open(&self.recipe(diff_id), &self.layer(diff_id))?;
                let mut tar = Hashing::new(tar);
                let read = std::io::copy(&mut tar, &mut std::io::sink());
                read.is_ok() && tar.digest() == digest
            }
            // whether it is ours without a note of it costs a compression: that is for later
            false => self.made(digest).is_some(),
        };
        match again {
            true => match fs::remove_file(&path) {
                // another that unpacked the same was quicker
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                gone => gone.map_err(io(path)),
            },
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_read_by_others_and_always_the_same() {
        let mut noise = vec![0u8; 3 * BLOCK_BYTES + 17];
        let mut state = 1u32;
        for byte in noise.iter_mut().take(BLOCK_BYTES * 2) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        for (name, bytes) in [
            ("nothing", &noise[..0]),
            ("a little", &b"hello"[..]),
            ("a block", &noise[..BLOCK_BYTES]),
            ("blocks", &noise[..]),
            ("zeros", &noise[2 * BLOCK_BYTES..]),
        ] {
            for kind in [Compression::Gzip, Compression::Zstd] {
                let (mut a, mut b) = (Vec::new(), Vec::new());
                compress(Way::now(kind), bytes, &mut a).unwrap();
                compress(Way::now(kind), bytes, &mut b).unwrap();
                assert!(a == b, "{name}");
                let mut back = Vec::new();
                match kind {
                    // one member only: readers that stop after the first read it whole
                    Compression::Gzip => {
                        flate2::read::GzDecoder::new(&a[..]).read_to_end(&mut back)
                    }
                    Compression::Zstd => zstd::Decoder::new(&a[..]).unwrap().read_to_end(&mut back),
                }
                .unwrap();
                assert!(back == bytes, "{name} {kind:?}");
            }
        }
    }
}
