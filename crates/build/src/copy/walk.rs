//! A walk over what is copied: ignore file, `--parents` and `--exclude` judged on the way.

use super::{
    error::{Error, io},
    root::{Root, is_dir},
    tree::Tree,
};
use knarr_dockerfile::{Ignore, Judged};
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    fs::{AtFlags, Stat},
};
use std::{
    ffi::{OsStr, OsString},
    io as std_io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Which of a source's entries are meant, by their path below the source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    /// `--parents`: only what fits, with the folders that lead to it.
    pub include: Option<Ignore>,
    /// `--exclude`
    pub exclude: Option<Ignore>,
}

/// Something that the walk came to.
pub(crate) struct Found<'a> {
    pub tree: &'a Tree,
    /// The folder that it is in.
    pub dir: BorrowedFd<'a>,
    /// Its name there; `.` for a tree's root.
    pub name: &'a OsStr,
    /// From the tree's root.
    pub path: &'a Path,
    /// From the source; empty for the source itself.
    pub below: &'a Path,
    pub stat: Stat,
}

/// What is done on the way. Folders that aren't meant themselves are entered as well, for what is in them.
pub(crate) trait Visitor {
    fn enter(&mut self, folder: &Found<'_>, meant: bool) -> Result<(), Error>;
    fn leaf(&mut self, leaf: &Found<'_>) -> Result<(), Error>;
    /// `dir` and `name` are those of `enter` no longer: only paths and `stat` count.
    fn leave(&mut self, tree: &Tree, below: &Path, stat: &Stat, meant: bool) -> Result<(), Error>;
}

/// A folder still to be entered, or one to be left.
enum Step {
    Enter(PathBuf, PathBuf, Judgement, bool),
    Leave(PathBuf, Stat, bool),
}

#[derive(Clone, Default)]
struct Judgement {
    ignore: Judged,
    include: Judged,
    exclude: Judged,
}

/// Names in a folder, in the order of their bytes, with the folder's handle.
pub(crate) fn list(root: &Root, folder: &Path) -> std_io::Result<(OwnedFd, Vec<OsString>)> {
    let fd = root.listed(folder)?;
    let mut names = vec![];
    for entry in rustix::fs::Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok((fd, names))
}

/// Walks from `start`, a path without links, files of a folder first. No more than two handles are open at a time, however
/// deep it is.
pub(crate) fn walk(
    tree: &Tree,
    start: &Path,
    filters: &Filters,
    visitor: &mut dyn Visitor,
) -> Result<(), Error> {
    let root = tree.handle();
    let parent = start.parent().unwrap_or(Path::new(""));
    let name = start.file_name().unwrap_or(OsStr::new("."));
    {
        let fd = root.dir(parent).map_err(io("failed to open", parent))?;
        let stat = stat_at(&fd, name, start)?;
        if !is_dir(&stat) {
            return visitor.leaf(&Found {
                tree,
                dir: rustix::fd::AsFd::as_fd(&fd),
                name,
                path: start,
                below: Path::new(""),
                stat,
            });
        }
    }
    let ignore = match start.as_os_str().is_empty() {
        true => Judged::default(),
        false => tree.judged(start),
    };
    let first = Judgement {
        ignore,
        ..Judgement::default()
    };
    let mut steps = vec![Step::Enter(start.into(), PathBuf::new(), first, true)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Leave(below, stat, meant) => visitor.leave(tree, &below, &stat, meant)?,
            Step::Enter(path, below, judgement, meant) => {
                let folder = (path.as_path(), below.as_path(), meant);
                enter(tree, folder, &judgement, filters, visitor, &mut steps)?;
            }
        }
    }
    Ok(())
}

fn stat_at(dir: impl rustix::fd::AsFd, name: &OsStr, path: &Path) -> Result<Stat, Error> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| io("failed to stat", path)(e.into()))
}

fn enter(
    tree: &Tree,
    (path, below, meant): (&Path, &Path, bool),
    judgement: &Judgement,
    filters: &Filters,
    visitor: &mut dyn Visitor,
    steps: &mut Vec<Step>,
) -> Result<(), Error> {
    let (dir, names) = list(tree.handle(), path).map_err(io("failed to read", path))?;
    let stat = rustix::fs::fstat(&dir).map_err(|e| io("failed to stat", path)(e.into()))?;
    let folder = Found {
        tree,
        dir: rustix::fd::AsFd::as_fd(&dir),
        name: OsStr::new("."),
        path,
        below,
        stat,
    };
    visitor.enter(&folder, meant)?;
    steps.push(Step::Leave(below.into(), stat, meant));
    let first = steps.len();
    for name in &names {
        let (path, below) = (path.join(name), below.join(name));
        let stat = stat_at(&dir, name, &path)?;
        let (there, ignore) = tree.shows(&path, &stat, &judgement.ignore);
        if !there {
            continue;
        }
        let (meant, excluded, mut judged) = filters.judge(&below, judgement);
        judged.ignore = ignore;
        if is_dir(&stat) {
            if meant || filters.may_hold(&below, excluded) {
                steps.push(Step::Enter(path, below, judged, meant));
            }
        } else if meant {
            visitor.leaf(&Found {
                tree,
                dir: rustix::fd::AsFd::as_fd(&dir),
                name,
                path: &path,
                below: &below,
                stat,
            })?;
        }
    }
    // the stack gives them back in their order
    steps[first..].reverse();
    Ok(())
}

impl Filters {
    /// Is it meant, is it excluded, and what its entries are judged with. `own`: what was found of it already.
    fn judge(&self, below: &Path, folder: &Judgement) -> (bool, bool, Judgement) {
        let text = below.to_string_lossy();
        let judge = |which: &Option<Ignore>, folder: &Judged| {
            which.as_ref().map(|i| i.judge(&text, folder))
        };
        let include = judge(&self.include, &folder.include);
        let exclude = judge(&self.exclude, &folder.exclude);
        let included = include.as_ref().is_none_or(|(fits, _)| *fits);
        let excluded = exclude.as_ref().is_some_and(|(fits, _)| *fits);
        let judged = Judgement {
            ignore: Judged::default(),
            include: include.map(|(_, j)| j).unwrap_or_default(),
            exclude: exclude.map(|(_, j)| j).unwrap_or_default(),
        };
        (included && !excluded, excluded, judged)
    }
    /// May a folder that isn't meant hold something that is?
    fn may_hold(&self, below: &Path, excluded: bool) -> bool {
        let text = below.to_string_lossy();
        let kept = |e: &Ignore| e.has_exceptions() && e.may_keep_below(&text);
        if excluded && !self.exclude.as_ref().is_some_and(kept) {
            return false;
        }
        self.include.as_ref().is_none_or(|i| i.may_fit_below(&text))
    }
}
