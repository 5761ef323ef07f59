//! What is copied from.

use super::{
    error::{Error, io},
    root::{Root, is_dir},
};
use knarr_dockerfile::{Ignore, Judged};
use rustix::fs::Stat;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// A folder that files are copied from: a build context, or the root of an image or stage. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Tree {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    root: Root,
    ignore: Ignore,
    rooted: bool,
    /// Folders that the ignore file leaves out but for something in them.
    kept: Mutex<HashMap<PathBuf, bool>>,
}

impl Tree {
    /// A build context: what the ignore file leaves out isn't there, and all belongs to root, as when a client sends it.
    ///
    /// # Errors
    /// When the folder can't be opened.
    pub fn context(name: &str, path: &Path, ignore: Ignore) -> Result<Tree, Error> {
        Tree::open(name, path, ignore, true)
    }
    /// The root of an image or stage (mounted, if it has several layers): all is as it is.
    ///
    /// # Errors
    /// When the folder can't be opened.
    pub fn root(name: &str, path: &Path) -> Result<Tree, Error> {
        Tree::open(name, path, Ignore::default(), false)
    }
    fn open(name: &str, path: &Path, ignore: Ignore, rooted: bool) -> Result<Tree, Error> {
        let root = Root::open(path).map_err(io("failed to open the folder", path))?;
        let path = path.canonicalize().unwrap_or_else(|_| path.into());
        let inner = Inner {
            name: name.into(),
            path,
            root,
            ignore,
            rooted,
            kept: Mutex::default(),
        };
        Ok(Tree {
            inner: Arc::new(inner),
        })
    }
    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }
    /// Where it is on this machine.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }
    /// Opens a regular file, its links followed inside the tree.
    pub(crate) fn open_file(&self, path: &Path) -> std::io::Result<std::fs::File> {
        let root = &self.inner.root;
        root.file(&root.resolve(path, true, &|_, _| true)?.path)
    }
    pub(crate) fn handle(&self) -> &Root {
        &self.inner.root
    }
    /// Who owns a file of it, user and group.
    pub(crate) fn owner(&self, stat: &Stat) -> (u32, u32) {
        match self.inner.rooted {
            true => (0, 0),
            false => (stat.st_uid, stat.st_gid),
        }
    }
    /// What the entries of a folder are judged with.
    pub(crate) fn judged(&self, folder: &Path) -> Judged {
        let mut judged = Judged::default();
        if self.inner.ignore.is_empty() {
            return judged;
        }
        let mut at = PathBuf::new();
        for part in folder {
            at.push(part);
            judged = self.inner.ignore.judge(&at.to_string_lossy(), &judged).1;
        }
        judged
    }
    /// Is it there, as far as the ignore file goes? And what its entries are judged with.
    pub(crate) fn shows(&self, path: &Path, stat: &Stat, folder: &Judged) -> (bool, Judged) {
        let ignore = &self.inner.ignore;
        if ignore.is_empty() {
            return (true, Judged::default());
        }
        let text = path.to_string_lossy();
        let (out, judged) = ignore.judge(&text, folder);
        let there = !out
            || (is_dir(stat)
                && ignore.has_exceptions()
                && ignore.may_keep_below(&text)
                && self.keeps_below(path, &judged));
        (there, judged)
    }
    /// Does a folder that is left out hold something that isn't?
    fn keeps_below(&self, folder: &Path, judged: &Judged) -> bool {
        let known = |kept: &HashMap<PathBuf, bool>| kept.get(folder).copied();
        if let Some(known) = self.inner.kept.lock().ok().and_then(|k| known(&k)) {
            return known;
        }
        let found = super::walk::list(&self.inner.root, folder)
            .map(|(fd, names)| {
                let mut found = false;
                for name in names {
                    let path = folder.join(&name);
                    let Ok(stat) =
                        rustix::fs::statat(&fd, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    else {
                        continue;
                    };
                    found = self.shows(&path, &stat, judged).0;
                    if found {
                        break;
                    }
                }
                found
            })
            .unwrap_or(false);
        if let Ok(mut kept) = self.inner.kept.lock() {
            kept.insert(folder.into(), found);
        }
        found
    }
    /// Follows a path's links; what the ignore file leaves out isn't there.
    pub(crate) fn resolve(&self, path: &Path) -> Result<super::root::Resolved, Error> {
        let seen = |path: &Path, stat: &Stat| {
            let folder = self.judged(path.parent().unwrap_or(Path::new("")));
            self.shows(path, stat, &folder).0
        };
        self.inner
            .root
            .resolve(path, true, &seen)
            .map_err(io("failed to follow", path))
    }
    /// Is there something at a path that leads through no link?
    pub(crate) fn holds(&self, path: &Path) -> bool {
        let folder = self.judged(path.parent().unwrap_or(Path::new("")));
        let stat = self.inner.root.stat(path).ok().flatten();
        stat.is_some_and(|stat| self.shows(path, &stat, &folder).0)
    }
}
