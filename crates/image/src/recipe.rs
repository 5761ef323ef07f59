//! How to write a layer's tar again, bit for bit, from its unpacked folder: the archive's own bytes (headers, fillings)
//! and, for each content, the file that has it. So no layer is on the disk twice.
//!
//! ```text
//! "knarr-recipe-1\n"  bytes of the tar (u64, little endian)  zstd:
//!   0  length (u32)  bytes                         the archive's own
//!   1  length (u32)  path  bytes of content (u64)  a file of the folder
//! ```

use crate::{Error, io, unpack::inside};
use rustix::{fd::OwnedFd, fs::OFlags};
use std::{
    ffi::OsStr,
    fs,
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

const MAGIC: &[u8] = b"knarr-recipe-1\n";
/// The most bytes in one record: more of the archive's own are several.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// A recipe being written.
pub(crate) struct Writer {
    out: zstd::Encoder<'static, BufWriter<fs::File>>,
    own: Vec<u8>,
    tar_bytes: u64,
    path: PathBuf,
}

impl Writer {
    /// Begins one in a new file.
    pub fn create(path: &Path) -> Result<Writer, Error> {
        let mut file = BufWriter::new(fs::File::create_new(path).map_err(io(path))?);
        file.write_all(MAGIC)
            .and_then(|()| file.write_all(&0u64.to_le_bytes()))
            .map_err(io(path))?;
        Ok(Writer {
            out: zstd::Encoder::new(file, 3).map_err(io(path))?,
            own: Vec::new(),
            tar_bytes: 0,
            path: path.to_path_buf(),
        })
    }

    /// Bytes of the archive that are no file's.
    pub fn own(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.tar_bytes += bytes.len() as u64;
        self.own.extend_from_slice(bytes);
        if self.own.len() >= RECORD_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        for part in self.own.chunks(RECORD_BYTES_MAX) {
            self.out
                .write_all(&[0])
                .and_then(|()| self.out.write_all(&(part.len() as u32).to_le_bytes()))
                .and_then(|()| self.out.write_all(part))
                .map_err(io(&self.path))?;
        }
        self.own.clear();
        Ok(())
    }

    /// The whole content of a file, by its path in the folder.
    pub fn file(&mut self, path: &[u8], size: u64) -> Result<(), Error> {
        self.flush()?;
        self.tar_bytes += size;
        self.out
            .write_all(&[1])
            .and_then(|()| self.out.write_all(&(path.len() as u32).to_le_bytes()))
            .and_then(|()| self.out.write_all(path))
            .and_then(|()| self.out.write_all(&size.to_le_bytes()))
            .map_err(io(&self.path))
    }

    /// Ends it; gives the bytes of the tar.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.flush()?;
        let finish = || -> std::io::Result<u64> {
            let file = self.out.finish()?;
            let mut file = file
                .into_inner()
                .map_err(std::io::IntoInnerError::into_error)?;
            file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
            file.write_all(&self.tar_bytes.to_le_bytes())?;
            Ok(self.tar_bytes)
        };
        finish().map_err(io(&self.path))
    }
}

/// The tar of a layer, read as if it were a file.
pub(crate) struct Rebuilt {
    recipe: BufReader<zstd::Decoder<'static, BufReader<fs::File>>>,
    path: PathBuf,
    root: PathBuf,
    root_fd: OwnedFd,
    tar_bytes: u64,
    /// Bytes read so far.
    at: u64,
    now: Part,
}

enum Part {
    None,
    Own(u64),
    File(fs::File, u64),
}

/// The bytes of the tar that a recipe makes; None when it is no recipe.
pub(crate) fn tar_bytes(recipe: &Path) -> Option<u64> {
    head(&mut fs::File::open(recipe).ok()?).ok()
}

fn head(file: &mut impl Read) -> std::io::Result<u64> {
    let mut head = [0u8; 23];
    file.read_exact(&mut head)?;
    match head.strip_prefix(MAGIC) {
        Some(size) => Ok(u64::from_le_bytes(size.try_into().unwrap_or_default())),
        None => Err(std::io::Error::other("it is no recipe of a layer")),
    }
}

/// Whether the recipe is complete, and the folder has all files that it speaks of, with as many bytes.
pub(crate) fn is_whole(recipe: &Path, root: &Path) -> bool {
    let walk = || -> std::io::Result<bool> {
        let mut tar = Rebuilt::begin(recipe, root)?;
        let mut bytes = 0;
        while tar.next()? {
            bytes += match tar.now {
                Part::Own(n) => {
                    let own = (&mut tar.recipe).take(n);
                    std::io::copy(&mut { own }, &mut std::io::sink())?
                }
                Part::File(_, n) => n,
                Part::None => 0,
            };
        }
        Ok(bytes == tar.tar_bytes)
    };
    walk().unwrap_or(false)
}

impl Rebuilt {
    /// The tar of the layer in folder `root`.
    pub fn open(path: &Path, root: &Path) -> Result<Rebuilt, Error> {
        Self::begin(path, root).map_err(io(path))
    }

    fn begin(path: &Path, root: &Path) -> std::io::Result<Rebuilt> {
        let mut file = BufReader::new(fs::File::open(path)?);
        let tar_bytes = head(&mut file)?;
        let recipe = zstd::Decoder::with_buffer(file)?;
        Ok(Rebuilt {
            recipe: BufReader::with_capacity(1 << 16, recipe),
            path: path.to_path_buf(),
            root: root.to_path_buf(),
            root_fd: fs::File::open(root)?.into(),
            tar_bytes,
            at: 0,
            now: Part::None,
        })
    }

    /// Bytes of the whole tar.
    pub fn tar_bytes(&self) -> u64 {
        self.tar_bytes
    }

    fn length(&mut self) -> std::io::Result<u64> {
        let mut length = [0u8; 4];
        self.recipe.read_exact(&mut length)?;
        Ok(u64::from(u32::from_le_bytes(length)))
    }

    /// Goes to the next part; false at the end.
    fn next(&mut self) -> std::io::Result<bool> {
        let mut kind = [0u8];
        if self.recipe.read(&mut kind)? == 0 {
            return Ok(false);
        }
        let length = self.length()?;
        if length > RECORD_BYTES_MAX as u64 {
            return Err(std::io::Error::other("a damaged recipe of a layer"));
        }
        if kind[0] == 0 {
            self.now = Part::Own(length);
            return Ok(true);
        }
        let mut path = vec![0u8; length as usize];
        self.recipe.read_exact(&mut path)?;
        let mut size = [0u8; 8];
        self.recipe.read_exact(&mut size)?;
        let relative = OsStr::from_bytes(&path);
        let path = self.root.join(relative);
        let size = u64::from_le_bytes(size);
        let named =
            |e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        // links on the way lead where they led when it was unpacked: never out of the folder
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = inside(&self.root_fd, relative, flags).map_err(|e| named(e.into()))?;
        let file = fs::File::from(file);
        if file.metadata().map_err(named)?.len() != size {
            return Err(named(std::io::Error::other("the file was changed")));
        }
        self.now = Part::File(file, size);
        Ok(true)
    }
}

impl Read for Rebuilt {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let (n, left) = match &mut self.now {
                Part::Own(left) if *left > 0 => {
                    let room = buf.len().min(*left as usize);
                    (self.recipe.read(&mut buf[..room])?, left)
                }
                Part::File(file, left) if *left > 0 => {
                    let room = buf.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    (file.read(&mut buf[..room])?, left)
                }
                _ => {
                    if !self.next()? {
                        return Ok(0);
                    }
                    continue;
                }
            };
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            *left -= n as u64;
            self.at += n as u64;
            return Ok(n);
        }
    }
}

impl Seek for Rebuilt {
    /// Forward by reading, back by beginning again.
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.tar_bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let target = target.ok_or_else(invalid)?;
        if target < self.at {
            *self = Self::begin(&self.path, &self.root)?;
        }
        let left = target - self.at;
        std::io::copy(&mut self.by_ref().take(left), &mut std::io::sink())?;
        Ok(target)
    }
}
