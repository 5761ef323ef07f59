//! Members read from a stream: ustar, PAX, GNU, and old V7 headers, with a bound on everything that is kept.

use super::{
    BLOCK, Kind, Member,
    fields::{SPARSE_PARTS_MAX, Sparse, bad, check_sum, id, list, number, pax, signed, text, time},
    padding,
};
use std::io::{self, Read};

/// The most bytes of names and attributes that come before one member.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Told of every byte that is read, in order; which are a member's content is known by the call.
pub(crate) trait Tap {
    /// Bytes that belong to the archive: headers, fillings, the end.
    fn own(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Nobody wants to know.
impl Tap for () {
    fn own(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Reader<R, T> {
    from: R,
    pub tap: T,
    /// Bytes of the current member's content that were not read yet, and of its filling.
    left: u64,
    fill: usize,
    /// What a global PAX header says.
    global: Vec<(Vec<u8>, Vec<u8>)>,
    ended: bool,
}

/// A member, and what is in the stream for it.
pub(crate) struct Found {
    pub member: Member,
    /// Bytes of content in the stream.
    pub stored: u64,
    /// Of a file with holes: its parts.
    pub sparse: Option<Sparse>,
}

impl<R: Read, T: Tap> Reader<R, T> {
    pub fn new(from: R, tap: T) -> Self {
        Reader {
            from,
            tap,
            left: 0,
            fill: 0,
            global: Vec::new(),
            ended: false,
        }
    }

    /// The next member; what was not read of the last one's content is passed over, as the archive's own bytes.
    pub fn next(&mut self) -> io::Result<Option<Found>> {
        self.pass_over()?;
        if self.ended {
            return Ok(None);
        }
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(block) = self.header()? else {
                if !records.is_empty() || long_name.is_some() || long_link.is_some() {
                    return Err(bad("it ends after a header that announces a member"));
                }
                return Ok(None);
            };
            let size = number(&block[124..136])?;
            match block[156] {
                b'x' => records.extend(pax(&self.extension(size)?)?),
                b'g' => {
                    self.global = pax(&self.extension(size)?)?;
                }
                b'L' => long_name = Some(text(&self.extension(size)?).to_vec()),
                b'K' => long_link = Some(text(&self.extension(size)?).to_vec()),
                _ => return self.member(&block, records, long_name, long_link).map(Some),
            }
        }
    }

    /// Content of the current member, from the stream.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = buf
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let n = self.from.read(&mut buf[..room])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends in the middle of a file",
            ));
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// What comes after the end; the archive's own.
    pub fn rest(&mut self) -> io::Result<()> {
        self.pass_over()?;
        let mut buf = vec![0u8; 1 << 16];
        loop {
            let n = self.from.read(&mut buf)?;
            if n == 0 {
                return Ok(());
            }
            self.tap.own(&buf[..n])?;
        }
    }

    fn pass_over(&mut self) -> io::Result<()> {
        let mut buf = [0u8; 1 << 12];
        while self.left > 0 {
            let n = self.read(&mut buf)?;
            self.tap.own(&buf[..n])?;
        }
        if self.fill > 0 {
            let n = std::mem::take(&mut self.fill);
            self.own(n as u64)?;
        }
        Ok(())
    }

    /// Reads bytes of the archive's own, of which there must be so many.
    fn own(&mut self, n: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.from).take(n).read_to_end(&mut bytes)?;
        self.tap.own(&bytes)?;
        match bytes.len() as u64 == n {
            true => Ok(bytes),
            false => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut off",
            )),
        }
    }

    /// A header's block; none at the end. An archive may end without its two empty blocks.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0u8; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.from.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                Ok(0) => return Err(bad("a header is cut off")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.tap.own(&block)?;
        if block.iter().all(|b| *b == 0) {
            self.ended = true;
            return Ok(None);
        }
        check_sum(&block)?;
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(bad(format!("a header of {size} bytes")));
        }
        let bytes = self.own(size)?;
        self.own(padding(size) as u64)?;
        Ok(bytes)
    }

    fn member(
        &mut self,
        block: &[u8; BLOCK],
        records: Vec<(Vec<u8>, Vec<u8>)>,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Found> {
        let ustar = &block[257..263] == b"ustar\0";
        let gnu = &block[257..265] == b"ustar  \0";
        let mut path = text(&block[..100]).to_vec();
        let prefix = text(&block[345..500]);
        if ustar && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let mut folder = path.ends_with(b"/");
        let mut member = Member {
            mode: (number(&block[100..108])? & 0o7777) as u32,
            uid: id(number(&block[108..116])?)?,
            gid: id(number(&block[116..124])?)?,
            mtime: signed(&block[136..148])?,
            target: text(&block[157..257]).to_vec(),
            ..Member::new(path, Kind::File)
        };
        let mut stored = number(&block[124..136])?;
        let mut real = None;
        let mut map = Vec::new();
        let mut version = (0, 0);
        let global = self.global.clone();
        for (key, value) in global.into_iter().chain(records) {
            let decimal = || {
                let text = std::str::from_utf8(&value)
                    .ok()
                    .and_then(|t| t.parse::<u64>().ok());
                text.ok_or_else(|| bad("a PAX number that is none"))
            };
            match key.as_slice() {
                b"path" => member.path = value,
                b"linkpath" => member.target = value,
                b"size" => stored = decimal()?,
                b"uid" => member.uid = id(decimal()?)?,
                b"gid" => member.gid = id(decimal()?)?,
                b"mtime" => (member.mtime, member.mtime_nanos) = time(&value)?,
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => real = Some(decimal()?),
                b"GNU.sparse.major" => version.0 = decimal()?,
                b"GNU.sparse.minor" => version.1 = decimal()?,
                b"GNU.sparse.name" => member.path = value,
                b"GNU.sparse.map" => map = list(&value)?,
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        member.xattrs.retain(|(n, _)| n != name);
                        member.xattrs.push((name.to_vec(), value));
                    }
                }
            }
        }
        if let Some(name) = long_name {
            member.path = name;
        }
        if let Some(link) = long_link {
            member.target = link;
        }
        folder |= member.path.ends_with(b"/");
        while member.path.ends_with(b"/") && member.path.len() > 1 {
            member.path.pop();
        }
        member.xattrs.sort();
        member.kind = match block[156] {
            0 | b'0' | b'7' | b'S' if folder && stored == 0 => Kind::Folder,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymLink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => return Err(bad(format!("a member of kind {:?}", char::from(other)))),
        };
        if matches!(member.kind, Kind::CharDevice | Kind::BlockDevice) {
            let part = |bytes: &[u8]| number(bytes).map(|n| n as u32);
            member.device = (part(&block[329..337])?, part(&block[337..345])?);
        }
        // links and devices have no content, whatever their size says (POSIX: hard links may say their file's)
        if !matches!(member.kind, Kind::File) {
            stored = if matches!(member.kind, Kind::HardLink | Kind::SymLink) {
                0
            } else {
                stored
            };
        }
        if stored > i64::MAX as u64 {
            return Err(bad("a file of more bytes than can be"));
        }
        (self.left, self.fill) = (stored, padding(stored));
        member.size = stored;
        let sparse = if block[156] == b'S' && gnu {
            let (parts, size) = self.old_sparse(block)?;
            member.size = size;
            Some(parts)
        } else if version == (1, 0) && real.is_some() {
            Some(self.map_in_content()?)
        } else if real.is_some() && !map.is_empty() {
            Some(map)
        } else {
            None
        };
        if let (Some(_), Some(real)) = (&sparse, real) {
            member.size = real;
        }
        if let Some(parts) = &sparse {
            let mut end = 0;
            let mut bytes = 0u64;
            for (at, n) in parts {
                let next = at
                    .checked_add(*n)
                    .filter(|e| *at >= end && *e <= member.size);
                end =
                    next.ok_or_else(|| bad("the parts of a sparse file overlap or lie outside"))?;
                bytes += n;
            }
            if bytes != self.left {
                return Err(bad("the parts of a sparse file are not its content"));
            }
            stored = bytes;
        }
        Ok(Found {
            member,
            stored,
            sparse,
        })
    }

    /// GNU's old form: four parts in the header, more in blocks after it.
    fn old_sparse(&mut self, block: &[u8; BLOCK]) -> io::Result<(Sparse, u64)> {
        let mut parts = Vec::new();
        let size = number(&block[483..495])?;
        let mut take = |bytes: &[u8]| -> io::Result<()> {
            for part in bytes.chunks_exact(24) {
                if part[0] == 0 {
                    break;
                }
                parts.push((number(&part[..12])?, number(&part[12..])?));
            }
            Ok(())
        };
        take(&block[386..482])?;
        let mut more = block[482] != 0;
        let mut blocks = 0;
        while more {
            let next = self.own(BLOCK as u64)?;
            take(&next[..504])?;
            more = next[504] != 0;
            blocks += 1;
            if blocks * 21 > SPARSE_PARTS_MAX {
                return Err(bad("a sparse file of too many parts"));
            }
        }
        // a part without bytes marks the end
        parts.retain(|(_, n)| *n > 0);
        Ok((parts, size))
    }

    /// PAX 1.0: the parts as lines at the content's beginning, filled up to a block.
    fn map_in_content(&mut self) -> io::Result<Sparse> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut want = 1;
        let mut line = Vec::new();
        while numbers.len() < want {
            if self.left < BLOCK as u64 {
                return Err(bad("the map of a sparse file is cut off"));
            }
            self.left -= BLOCK as u64;
            let block = self.own(BLOCK as u64)?;
            for byte in block {
                if numbers.len() == want {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let text = std::str::from_utf8(&line).ok().and_then(|t| t.parse().ok());
                numbers.push(text.ok_or_else(|| bad("the map of a sparse file is none"))?);
                line.clear();
                if numbers.len() == 1 {
                    want = usize::try_from(numbers[0])
                        .unwrap_or(usize::MAX)
                        .saturating_mul(2)
                        .saturating_add(1);
                    if want > 2 * SPARSE_PARTS_MAX {
                        return Err(bad("a sparse file of too many parts"));
                    }
                }
            }
        }
        let parts = numbers[1..].chunks_exact(2).map(|p| (p[0], p[1]));
        Ok(parts.filter(|(_, n)| *n > 0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::write, *};

    fn all(bytes: &[u8]) -> io::Result<Vec<(Member, Vec<u8>)>> {
        let mut reader = Reader::new(bytes, ());
        let mut found = Vec::new();
        while let Some(next) = reader.next()? {
            let mut content = Vec::new();
            let mut buf = [0u8; 300];
            loop {
                match reader.read(&mut buf)? {
                    0 => break,
                    n => content.extend_from_slice(&buf[..n]),
                }
            }
            found.push((next.member, content));
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = vec![b'x'; 300];
        let members = vec![
            Member {
                mode: 0o4755,
                uid: 5,
                gid: 3_000_000,
                mtime: 1_700_000_000,
                size: 5,
                ..Member::new("a/b", Kind::File)
            },
            Member {
                mtime: -5,
                ..Member::new([&long[..], b"/y"].concat(), Kind::Folder)
            },
            Member {
                target: long.clone(),
                mode: 0o777,
                ..Member::new("ü", Kind::SymLink)
            },
            Member {
                target: b"a/b".to_vec(),
                ..Member::new("h", Kind::HardLink)
            },
            Member {
                device: (8, 300),
                ..Member::new("d", Kind::BlockDevice)
            },
            Member {
                xattrs: vec![(
                    b"security.capability".to_vec(),
                    vec![0, 1, b'\n', b'=', 255],
                )],
                ..Member::new("x", Kind::File)
            },
            Member::new("f", Kind::Fifo),
        ];
        let mut tar = Vec::new();
        for member in &members {
            tar.extend(write::header(member));
            if member.size > 0 {
                tar.extend(b"hello");
                tar.extend(vec![0; padding(5)]);
            }
        }
        tar.extend(write::END);
        let found = all(&tar).unwrap();
        let read: Vec<&Member> = found.iter().map(|(m, _)| m).collect();
        assert_eq!(read, members.iter().collect::<Vec<_>>());
        assert_eq!(found[0].1, b"hello");
        // the same from an archive that lacks its end
        assert_eq!(all(&tar[..tar.len() - 1024]).unwrap().len(), members.len());
    }

    #[test]
    fn broken_archives_are_refused() {
        let good = write::header(&Member {
            size: 600,
            ..Member::new("a", Kind::File)
        });
        let mut sum = good.clone();
        sum[0] = b'b';
        let mut kind = Member::new("a", Kind::File);
        kind.size = 0;
        let mut odd = write::header(&kind);
        odd[156] = b'V';
        let fresh: u32 = odd
            .iter()
            .enumerate()
            .map(|(i, b)| {
                if (148..156).contains(&i) {
                    32
                } else {
                    u32::from(*b)
                }
            })
            .sum();
        odd[148..156].copy_from_slice(format!("{fresh:06o}\0 ").as_bytes());
        for (name, bytes) in [
            ("check sum", sum),
            ("cut off header", good[..100].to_vec()),
            ("cut off content", [good.clone(), vec![0; 512]].concat()),
            ("kind", odd),
            ("text", b"hello ".repeat(100)),
        ] {
            assert!(all(&bytes).is_err(), "{name}");
        }
    }
}
