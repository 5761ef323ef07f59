//! `COPY` and `ADD`: files from a tree (a context, or the root of an image or stage) into another root, as BuildKit's file
//! operations do it (`solver/llbsolver/file`, `fsutil/copy`), and the checksum of what would be copied, for the cache.
//!
//! All of it is blocking file work: call it from `spawn_blocking`. No path leads out of its root, whatever links are in it:
//! they are followed by hand, and what is opened is opened below the root without following any (`openat2`).

mod batch;
mod checksum;
mod error;
mod glob;
mod guard;
mod mode;
mod owner;
mod root;
mod select;
mod stat_cache;
mod tree;
mod unpack;
mod walk;
mod write;

pub use checksum::checksum;
pub use error::Error;
pub use mode::{Mode, ModeError};
pub(crate) use owner::is_numeric;
pub use stat_cache::StatCache;
pub use tree::Tree;
pub use unpack::is_archive;

use std::path::{Path, PathBuf};

/// One thing that is copied.
#[derive(Debug, Clone)]
pub enum Source {
    /// A path in [`CopyRequest::from`] as it is written: wildcards, `/./` with `parents`.
    Path(String),
    /// `COPY <<NAME /x`: a file of mode 0644.
    Inline {
        /// The heredoc's name: the file's, when the destination is a folder.
        name: String,
        /// Expanded already.
        content: Vec<u8>,
    },
    /// What `ADD` fetched: taken as it is, without wildcards.
    Fetched {
        /// The folder that it was fetched into.
        tree: Tree,
        /// The file's name in it, or `/` for all (git).
        path: String,
    },
}

/// A `COPY` or an `ADD`. Options are as they are written, with their variables expanded.
#[derive(Debug, Clone)]
pub struct CopyRequest<'a> {
    /// In order; a later one overwrites an earlier one.
    pub sources: Vec<Source>,
    /// Where [`Source::Path`] is looked up.
    pub from: &'a Tree,
    /// As written: relative to `workdir`, a slash at its end makes it a folder.
    pub destination: String,
    /// The image's working folder, absolute.
    pub workdir: String,
    /// `--chown`: `user[:group]`, names or numbers.
    pub chown: Option<String>,
    /// `--chmod`: octal or symbolic.
    pub chmod: Option<String>,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<String>,
    /// `--link`: `into` is an empty folder that becomes a layer of its own; names in `chown` can't be looked up then.
    pub link: bool,
    /// Archives among [`Source::Path`] are unpacked (`ADD` without `--unpack=false`), and fetched ones (`ADD --unpack`).
    pub unpack: bool,
    /// The times of all that is written, in seconds since 1970, instead of the sources' own.
    pub times: Option<i64>,
    /// The root that is copied into, e.g. a mounted overlay.
    pub into: &'a Path,
}

/// What a copy did.
#[derive(Debug, Clone, Default)]
pub struct Copied {
    /// What a person should hear of, e.g. a user that isn't in the image.
    pub warnings: Vec<String>,
}

/// Does what the request says.
///
/// # Errors
/// In BuildKit's words: a source that isn't there, a file where a folder has to be, what the kernel refuses.
/// `into` is left half-written then.
pub fn copy(request: &CopyRequest<'_>) -> Result<Copied, Error> {
    let mut warnings = vec![];
    let owner = match &request.chown {
        Some(_) if request.link && !request.chown.as_deref().is_some_and(owner::is_numeric) => {
            return Err(Error::Refused(
                "invalid user index: -1: --chown takes numbers only together with --link, for the image's accounts aren't read"
                    .into(),
            ));
        }
        Some(text) => Some(owner::look_up(text, request.into, &mut warnings)?),
        None => None,
    };
    let mode = request.chmod.as_deref().map(Mode::parse).transpose()?;
    let destination = destination(&request.workdir, &request.destination);
    let writer = write::Writer::new(request.into, &destination, owner, mode, request.times)?;
    for source in &request.sources {
        let one = select::select(request, source)?;
        for start in &one.starts {
            if one.unpack && unpack::unpack(&writer, one.tree(), start)? {
                continue;
            }
            writer.copy(one.tree(), start, &one.filters, one.contents)?;
        }
    }
    Ok(Copied { warnings })
}

/// The destination as an absolute path that keeps what its end says (`pathRelativeToWorkingDir`, `cleanPath`).
fn destination(workdir: &str, written: &str) -> String {
    let written = if written.is_empty() || written == "." {
        "./"
    } else {
        written
    };
    let joined: PathBuf = Path::new("/").join(workdir).join(written);
    let clean = glob::clean(&joined.to_string_lossy());
    match clean.as_str() {
        "/" => clean,
        _ if written.ends_with('/') || written.ends_with("/.") => format!("{clean}/"),
        _ => clean,
    }
}

/// `filepath.Clean` of `/` and the path.
pub(crate) fn clean(path: &str) -> String {
    glob::clean(path)
}

/// Where a path below a folder leads when its links are followed inside of it.
pub(crate) fn inside(folder: &Path, path: &Path) -> std::io::Result<PathBuf> {
    let found = root::Root::open(folder)?.resolve(path, true, &|_, _| true)?;
    Ok(folder.join(found.path))
}

/// Unpacks a plain tar stream below a folder that nothing in it leads out of.
pub(crate) fn unpack_plain(stream: impl std::io::Read, into: &Path) -> std::io::Result<()> {
    unpack::unpack_into(stream, root::Root::open(into)?, None)
}

/// Calls `seen` for each regular file of a tree: its path from the root, whether anybody may execute it, and how to open it.
/// Links are not followed.
///
/// # Errors
/// When a folder can't be read.
pub(crate) fn each_file(tree: &Tree, seen: &mut Seen<'_>) -> Result<(), Error> {
    struct Files<'a>(&'a mut Seen<'a>);
    impl walk::Visitor for Files<'_> {
        fn enter(&mut self, _: &walk::Found<'_>, _: bool) -> Result<(), Error> {
            Ok(())
        }
        fn leaf(&mut self, found: &walk::Found<'_>) -> Result<(), Error> {
            if root::kind(&found.stat) == rustix::fs::FileType::RegularFile {
                let open = || root::open_regular(found.dir, Path::new(found.name));
                let executable = found.stat.st_mode & 0o111 != 0;
                (self.0)(&found.path.to_string_lossy(), executable, &open);
            }
            Ok(())
        }
        fn leave(
            &mut self,
            _: &Tree,
            _: &Path,
            _: &rustix::fs::Stat,
            _: bool,
        ) -> Result<(), Error> {
            Ok(())
        }
    }
    walk::walk(
        tree,
        Path::new(""),
        &walk::Filters::default(),
        &mut Files(seen),
    )
}

/// Path, whether it is executable, and how to open it.
type Seen<'a> = dyn FnMut(&str, bool, &dyn Fn() -> std::io::Result<std::fs::File>) + 'a;
