//! Tar as layers need it: ustar, PAX and GNU read with bounds; PAX written one way only, so that the same input gives the same bytes.
//!
//! Source: POSIX.1-2017 pax, GNU tar's manual ("Basic Tar Format"), Go `archive/tar` (which wrote most layers there are).

mod fields;
pub(crate) mod read;
pub(crate) mod write;

/// Bytes of a block: everything in an archive is a multiple of it.
pub(crate) const BLOCK: usize = 512;

/// The bytes that fill up the last block of a member with `size` bytes of content.
pub(crate) fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

/// What a member of an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    SymLink,
    CharDevice,
    BlockDevice,
    Folder,
    Fifo,
}

/// Extended attributes: names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One member of an archive, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As the archive has it, without a slash at its end.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Below a second.
    pub mtime_nanos: u32,
    /// Bytes of content that follow (of a sparse file: what it is once expanded).
    pub size: u64,
    /// Of links: where to.
    pub target: Vec<u8>,
    /// Of devices: major and minor number.
    pub device: (u32, u32),
    /// By name, in order.
    pub xattrs: Xattrs,
}

impl Member {
    /// A member of this kind with nothing but a name.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Member {
        Member {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanos: 0,
            size: 0,
            target: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }
}
