//! What a source's words lead to: wildcards, `--parents`, `--exclude`.

use super::{
    CopyRequest, Source,
    error::{Error, io},
    glob,
    root::is_dir,
    tree::Tree,
    walk::{Filters, list},
};
use knarr_dockerfile::{Ignore, Judged};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// A file or folder that is copied.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// From the tree's root, without links.
    pub path: PathBuf,
    /// What it's called in a destination that is a folder: the last name before links are followed. Empty for a root.
    pub name: String,
}

/// What one source stands for.
pub(crate) struct Selected {
    tree: Tree,
    /// An inline document's file
    _temp: Option<tempfile::TempDir>,
    pub starts: Vec<Start>,
    pub filters: Filters,
    /// Of a folder only what is in it is copied.
    pub contents: bool,
    pub unpack: bool,
}

impl Selected {
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

pub(crate) fn select(request: &CopyRequest<'_>, source: &Source) -> Result<Selected, Error> {
    let exclude = patterns("excludepatterns", &request.exclude)?;
    match source {
        Source::Path(written) => {
            let mut filters = Filters {
                include: None,
                exclude,
            };
            let starts = match request.parents {
                true => parents(request.from, written, &mut filters)?,
                false => starts(request.from, written)?,
            };
            let starts = without_excluded(request.from, written, starts, &filters);
            Ok(Selected {
                tree: request.from.clone(),
                _temp: None,
                starts,
                filters,
                contents: true,
                unpack: request.unpack,
            })
        }
        Source::Fetched { tree, path } => {
            let path = PathBuf::from(glob::clean(path).trim_start_matches('/'));
            let start = there(tree, &path)?;
            Ok(Selected {
                tree: tree.clone(),
                _temp: None,
                starts: vec![start],
                filters: Filters {
                    include: None,
                    exclude,
                },
                contents: false,
                unpack: request.unpack,
            })
        }
        Source::Inline { name, content } => inline(name, content),
    }
}

fn inline(name: &str, content: &[u8]) -> Result<Selected, Error> {
    let fail = |e| io("failed to write", name)(e);
    let file = name.rsplit('/').next().unwrap_or_default();
    if matches!(file, "" | "." | "..") {
        return Err(Error::Refused(format!(
            "{name:?} is no name for an inline document"
        )));
    }
    let temp = tempfile::tempdir().map_err(fail)?;
    let path = temp.path().join(file);
    let mut out = std::fs::File::create(&path).map_err(fail)?;
    out.write_all(content).map_err(fail)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    out.set_permissions(mode).map_err(fail)?;
    Ok(Selected {
        tree: Tree::context("inline", temp.path(), Ignore::default())?,
        _temp: Some(temp),
        starts: vec![Start {
            path: file.into(),
            name: file.into(),
        }],
        filters: Filters::default(),
        contents: false,
        unpack: false,
    })
}

fn patterns(what: &str, patterns: &[String]) -> Result<Option<Ignore>, Error> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let refused = |e| Error::Refused(format!("invalid {what}: [{}]: {e}", patterns.join(" ")));
    Ignore::of(patterns).map(Some).map_err(refused)
}

/// Files that a wildcard has brought are left out by their names, as the reference says of `--exclude=*.txt hom*`
/// (BuildKit's copy looks only inside folders: moby/buildkit#5489).
fn without_excluded(
    tree: &Tree,
    written: &str,
    mut starts: Vec<Start>,
    filters: &Filters,
) -> Vec<Start> {
    let Some(exclude) = filters
        .exclude
        .as_ref()
        .filter(|_| glob::has_wildcards(written))
    else {
        return starts;
    };
    let is_folder = |start: &Start| {
        let stat = tree.handle().stat(&start.path).ok().flatten();
        stat.as_ref().is_some_and(is_dir)
    };
    starts.retain(|start| is_folder(start) || !exclude.leaves_out(&start.name));
    starts
}

/// A path without wildcards, its links followed.
fn there(tree: &Tree, path: &Path) -> Result<Start, Error> {
    let found = tree.resolve(path)?;
    if found.stat.is_none() {
        return Err(missing(tree, path));
    }
    let name = path.file_name().unwrap_or_default();
    Ok(Start {
        path: found.path,
        name: name.to_string_lossy().into_owned(),
    })
}

fn missing(tree: &Tree, path: &Path) -> Error {
    Error::NotFound {
        tree: tree.name().into(),
        path: glob::clean(&path.to_string_lossy()),
    }
}

fn starts(tree: &Tree, written: &str) -> Result<Vec<Start>, Error> {
    let (folder, pattern) = glob::split(written);
    let folder = PathBuf::from(folder.trim_start_matches('/'));
    if pattern.is_empty() {
        return Ok(vec![there(tree, &folder)?]);
    }
    let base = there(tree, &folder)?.path;
    let Some(parsed) = glob::Pattern::parse(&pattern) else {
        let clean = glob::clean(written);
        let written = clean.trim_start_matches('/');
        return Err(Error::Refused(format!(
            "invalid includepatterns: [{written}]: syntax error in pattern"
        )));
    };
    let mut found = vec![];
    let search = Search {
        tree,
        pattern: &parsed,
        depth: pattern.matches('/').count(),
    };
    search.folder(&base, "", &tree.judged(&base), &mut found)?;
    // a match may be a link
    found.iter().map(|path| there(tree, path)).collect()
}

struct Search<'a> {
    tree: &'a Tree,
    pattern: &'a glob::Pattern,
    /// How many slashes a match has: a star takes none.
    depth: usize,
}

impl Search<'_> {
    fn folder(
        &self,
        folder: &Path,
        below: &str,
        judged: &Judged,
        found: &mut Vec<PathBuf>,
    ) -> Result<(), Error> {
        let root = self.tree.handle();
        let Some(stat) = root.stat(folder).map_err(io("failed to stat", folder))? else {
            return Err(missing(self.tree, folder));
        };
        if !is_dir(&stat) {
            return Ok(());
        }
        let (dir, names) = list(root, folder).map_err(io("failed to read", folder))?;
        let mut folders = vec![];
        for name in names {
            let path = folder.join(&name);
            let text = format!("{below}{}", name.to_string_lossy());
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let stat = rustix::fs::statat(&dir, &name, flags)
                .map_err(|e| io("failed to stat", &path)(e.into()))?;
            let (there, judged) = self.tree.shows(&path, &stat, judged);
            if !there {
                continue;
            }
            if self.pattern.fits(&text) {
                found.push(path);
            } else if is_dir(&stat) && text.matches('/').count() < self.depth {
                folders.push((path, text, judged));
            }
        }
        drop(dir);
        for (path, text, judged) in folders {
            self.folder(&path, &format!("{text}/"), &judged, found)?;
        }
        Ok(())
    }
}

/// `--parents`: all from the root, or from before `/./`, that fits the rest.
fn parents(tree: &Tree, written: &str, filters: &mut Filters) -> Result<Vec<Start>, Error> {
    let (from, pattern) = written.split_once("/./").unwrap_or(("/", written));
    let pattern = glob::clean(pattern).trim_start_matches('/').to_owned();
    let found = starts(tree, from)?;
    if pattern.is_empty() {
        // the whole of it
        return Ok(found);
    }
    if !glob::has_wildcards(from) && !glob::has_wildcards(&pattern) {
        let excluded = filters.exclude.as_ref();
        let there = |start: &Start| tree.holds(&start.path.join(&pattern));
        if excluded.is_some_and(|e| e.leaves_out(&pattern)) || !found.iter().any(there) {
            return Err(missing(tree, &Path::new(from).join(&pattern)));
        }
    }
    filters.include = patterns("includepatterns", &[pattern])?;
    Ok(found)
}
