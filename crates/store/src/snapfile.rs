//! The whole state at one revision, in one file: what lets old segments go.

use crate::disk::{Disk, TMP_SUFFIX};
use crate::error::OpenError;
use crate::frame::{crc, u32_at, u64_at};
use crate::seal::{self, Opener, Sealer};
use crate::segment::{FORMAT_VERSION, check_magic_and_version};
use crate::state::State;
use crate::types::Entry;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"KNARRSNP";
const END: [u8; 8] = *b"KNARREND";
const HEADER_BYTES: usize = 32;
const BLOCK_HEADER_BYTES: usize = 8;
const ENTRY_HEADER_BYTES: usize = 24;
/// A block is closed at this size; one large entry may take it further.
const BLOCK_BYTES: usize = 64 << 10;
/// No block we write is larger, so a larger length is damage: don't allocate it.
const BLOCK_BYTES_MAX: u32 = 16 << 20;

/// Writes the state durably under its final name, or leaves nothing. `Ok(None)`: stopped by `cancelled`.
pub(crate) fn write(
    disk: &Disk,
    state: &State,
    sealer: Option<&dyn Sealer>,
    cancelled: impl Fn() -> bool,
) -> io::Result<Option<u64>> {
    let tmp = disk.path(&format!("snap{TMP_SUFFIX}"));
    let written = write_tmp(&tmp, disk, state, sealer, cancelled);
    match written {
        Ok(Some(bytes)) => {
            disk.publish(&tmp, &disk.snapshot_path(state.revision))?;
            Ok(Some(bytes))
        }
        other => {
            // give the space back; the next open would, too
            let _ = fs::remove_file(&tmp);
            other
        }
    }
}

fn write_tmp(
    tmp: &Path,
    disk: &Disk,
    state: &State,
    sealer: Option<&dyn Sealer>,
    cancelled: impl Fn() -> bool,
) -> io::Result<Option<u64>> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(tmp)?;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&state.revision.to_le_bytes());
    header[24..32].copy_from_slice(&(state.len() as u64).to_le_bytes());
    let header_crc = crc(0, &header);
    header[12..16].copy_from_slice(&header_crc.to_le_bytes());
    file.write_all(&header)?;

    // every block's checksum begins with the revision: blocks of an older snapshot don't fit
    let salt = state.revision;
    let mut bytes = HEADER_BYTES as u64;
    let mut block = vec![0; BLOCK_HEADER_BYTES];
    let mut flush = |block: &mut Vec<u8>| -> io::Result<()> {
        if block.len() > BLOCK_HEADER_BYTES {
            let payload_bytes = (block.len() - BLOCK_HEADER_BYTES) as u32;
            let payload_crc = crc(salt, &block[BLOCK_HEADER_BYTES..]);
            block[..4].copy_from_slice(&payload_bytes.to_le_bytes());
            block[4..8].copy_from_slice(&payload_crc.to_le_bytes());
            file.write_all(block)?;
            bytes += block.len() as u64;
            block.truncate(BLOCK_HEADER_BYTES);
        }
        Ok(())
    };
    for entry in state.iter() {
        let value = seal::seal(sealer, &entry.key, &entry.value).map_err(io::Error::other)?;
        block.extend_from_slice(&(entry.key.len() as u32).to_le_bytes());
        block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        block.extend_from_slice(&entry.create_revision.to_le_bytes());
        block.extend_from_slice(&entry.mod_revision.to_le_bytes());
        block.extend_from_slice(entry.key.as_bytes());
        block.extend_from_slice(&value);
        if block.len() >= BLOCK_BYTES {
            flush(&mut block)?;
            if cancelled() {
                return Ok(None);
            }
        }
    }
    flush(&mut block)?;
    file.write_all(&END)?;
    bytes += END.len() as u64;
    disk.faults.before_sync()?;
    file.sync_all()?;
    Ok(Some(bytes))
}

/// Reads a snapshot back; refuses anything but exactly what was written.
pub(crate) fn read(
    disk: &Disk,
    revision: u64,
    opener: &mut Opener<'_>,
) -> Result<State, OpenError> {
    let path = disk.snapshot_path(revision);
    let file = File::open(&path).map_err(OpenError::io("open", &path))?;
    let mut reader = Reader {
        input: BufReader::with_capacity(BLOCK_BYTES, file),
        path: &path,
        offset: 0,
    };
    let mut header = [0; HEADER_BYTES];
    reader.fill(&mut header)?;
    check_magic_and_version(&path, &header, MAGIC)?;
    let header_crc = u32_at(&header, 12);
    header[12..16].fill(0);
    if crc(0, &header) != header_crc {
        return Err(OpenError::corrupt(
            &path,
            0,
            "the snapshot header's checksum does not match",
        ));
    }
    if u64_at(&header, 16) != revision {
        return Err(OpenError::corrupt(
            &path,
            16,
            "the header has another revision than the file's name",
        ));
    }
    let keys = u64_at(&header, 24);

    let mut state = State::default();
    let mut block = Vec::new();
    while (state.len() as u64) < keys {
        let at = reader.offset;
        let mut block_header = [0; BLOCK_HEADER_BYTES];
        reader.fill(&mut block_header)?;
        let payload_bytes = u32_at(&block_header, 0);
        if payload_bytes == 0 || payload_bytes > BLOCK_BYTES_MAX {
            return Err(OpenError::corrupt(
                &path,
                at,
                "a block has an impossible length",
            ));
        }
        block.resize(payload_bytes as usize, 0);
        reader.fill(&mut block)?;
        if crc(revision, &block) != u32_at(&block_header, 4) {
            return Err(OpenError::corrupt(
                &path,
                at,
                "a block's checksum does not match",
            ));
        }
        let mut rest = &block[..];
        while !rest.is_empty() {
            let mut entry = decode_entry(&mut rest)
                .ok_or_else(|| OpenError::corrupt(&path, at, "an entry does not fit its block"))?;
            entry.value = opener
                .open(&entry.key, &entry.value)
                .map_err(|what| OpenError::sealed(&path, what))?;
            if state.insert(Arc::new(entry)).is_some() {
                return Err(OpenError::corrupt(&path, at, "a key is there twice"));
            }
        }
    }
    let mut end = [0; END.len()];
    let at = reader.offset;
    reader.fill(&mut end)?;
    if end != END || state.len() as u64 != keys {
        return Err(OpenError::corrupt(
            &path,
            at,
            "the end mark is not where it belongs",
        ));
    }
    state.revision = revision;
    Ok(state)
}

struct Reader<'a> {
    input: BufReader<File>,
    path: &'a Path,
    offset: u64,
}

impl Reader<'_> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), OpenError> {
        match self.input.read_exact(buf) {
            Ok(()) => {
                self.offset += buf.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(OpenError::corrupt(
                self.path,
                self.offset,
                "the snapshot ends too early",
            )),
            Err(error) => Err(OpenError::io("read", self.path)(error)),
        }
    }
}

fn decode_entry(rest: &mut &[u8]) -> Option<Entry> {
    let (header, tail) = rest.split_at_checked(ENTRY_HEADER_BYTES)?;
    let (key, tail) = tail.split_at_checked(u32_at(header, 0) as usize)?;
    let (value, tail) = tail.split_at_checked(u32_at(header, 4) as usize)?;
    *rest = tail;
    Some(Entry {
        key: std::str::from_utf8(key).ok()?.into(),
        value: Bytes::copy_from_slice(value),
        create_revision: u64_at(header, 8),
        mod_revision: u64_at(header, 16),
    })
}
