//! A tar stream whose long names and extended headers are bounded: its reader holds each of them in memory whole.

use std::io::Read;

const BLOCK: usize = 512;
/// No name, link target or extended header is longer, in bytes.
const EXTENSION_MAX: u64 = 1 << 20;

/// Passes a tar stream on, and stops it at an extension that is too long. What is no tar passes as it is.
pub(crate) struct Guard<R> {
    inner: R,
    header: [u8; BLOCK],
    filled: usize,
    state: State,
    /// A file's size by the extended header before it, which counts more than its own.
    size: Option<u64>,
}

enum State {
    /// A header comes.
    Header,
    /// The rest of an old sparse file's map comes; so many bytes of content follow it.
    Sparse(u64),
    /// Content to be passed.
    Skip(u64),
    /// An extended header's records, so many bytes, then padding.
    Records(Vec<u8>, u64, u64),
    /// It isn't understood: its reader will say what is wrong.
    Lost,
}

impl<R: Read> Guard<R> {
    pub fn new(inner: R) -> Guard<R> {
        Guard {
            inner,
            header: [0; BLOCK],
            filled: 0,
            state: State::Header,
            size: None,
        }
    }

    fn watch(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return Ok(()),
                State::Skip(left) => {
                    let n = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= n as u64;
                    bytes = &bytes[n..];
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::Records(records, left, padding) => {
                    let n = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    records.extend_from_slice(&bytes[..n]);
                    *left -= n as u64;
                    bytes = &bytes[n..];
                    if *left == 0 {
                        self.size = size_of(records);
                        let padding = *padding;
                        self.skip(padding);
                    }
                }
                State::Header | State::Sparse(_) => {
                    let n = bytes.len().min(BLOCK - self.filled);
                    self.header[self.filled..][..n].copy_from_slice(&bytes[..n]);
                    self.filled += n;
                    bytes = &bytes[n..];
                    if self.filled == BLOCK {
                        self.filled = 0;
                        self.block()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) {
        self.state = match bytes {
            0 => State::Header,
            bytes => State::Skip(bytes),
        };
    }

    /// A header, or a block of a sparse file's map, is whole.
    fn block(&mut self) -> std::io::Result<()> {
        if let State::Sparse(size) = self.state {
            if self.header[504] == 0 {
                self.skip(padded(size));
            }
            return Ok(());
        }
        if self.header.iter().all(|b| *b == 0) {
            return Ok(());
        }
        let header = tar::Header::from_byte_slice(&self.header);
        let Ok(own) = header.entry_size() else {
            self.state = State::Lost;
            return Ok(());
        };
        match self.header[156] {
            kind @ (b'L' | b'K' | b'x' | b'g' | b'X') => {
                if own > EXTENSION_MAX {
                    return Err(std::io::Error::other(format!(
                        "an extended header of {own} bytes, more than {EXTENSION_MAX}"
                    )));
                }
                match kind {
                    b'x' if own > 0 => {
                        self.state = State::Records(vec![], own, padded(own) - own);
                    }
                    _ => self.skip(padded(own)),
                }
            }
            kind => {
                let size = self.size.take().unwrap_or(own);
                match kind == b'S' && self.header[482] != 0 {
                    true => self.state = State::Sparse(size),
                    false => self.skip(padded(size)),
                }
            }
        }
        Ok(())
    }
}

fn padded(size: u64) -> u64 {
    size.saturating_add(BLOCK as u64 - 1) / BLOCK as u64 * BLOCK as u64
}

/// `LENGTH size=NUMBER\n` among the records.
fn size_of(records: &[u8]) -> Option<u64> {
    let mut found = None;
    for record in tar::PaxExtensions::new(records).flatten() {
        if record.key_bytes() == b"size" {
            found = record.value().ok()?.parse().ok();
        }
    }
    found
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.watch(&buffer[..n])?;
        Ok(n)
    }
}
