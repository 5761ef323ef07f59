//! The files of one rule of `develop.watch`: what they are, what has changed, what of it counts.

use crate::error::{Error, io};
use knarr_compose::Watch;
use knarr_dockerfile::Ignore;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};
use tokio::net::unix::pipe::Receiver;

/// Most files and folders below one rule.
const FILES_MAX: usize = 100_000;
/// What editors and version control leave about; Compose leaves it out as well.
const NEVER: &str =
    "**/.git\n**/*~\n**/*.swp\n**/*.swx\n**/.#*\n**/#*#\n**/___jb_*___\n**/.DS_Store\n**/.idea\n";

/// What a file is known by.
type Stamp = (Option<SystemTime>, u64, u32);

/// One rule, and its files as they were last seen.
pub struct Watched {
    pub service: String,
    pub rule: Watch,
    ignore: Ignore,
    include: Option<Ignore>,
    files: BTreeMap<PathBuf, Stamp>,
    folders: BTreeSet<PathBuf>,
}

/// Paths relative to the rule's; empty: the rule's path itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub changed: BTreeSet<PathBuf>,
    pub removed: BTreeSet<PathBuf>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    /// In a few words.
    pub fn told(&self) -> String {
        let all: Vec<String> = self
            .changed
            .iter()
            .chain(&self.removed)
            .map(|p| p.display().to_string())
            .collect();
        match all.len() {
            1..=3 => format!("{} changed", all.join(", ")),
            n => format!("{n} files changed"),
        }
    }
}

impl Watched {
    /// # Errors
    /// When the path is not there, or a pattern is wrong.
    pub fn new(service: &str, rule: &Watch) -> Result<Watched, Error> {
        let wrong = |what: String| Error::Input(format!("{service}: develop.watch: {what}"));
        let patterns = |list: &[String]| {
            Ignore::parse(&list.join("\n")).map_err(|e| wrong(format!("{}: {e}", list.join(", "))))
        };
        if !rule.path.exists() {
            return Err(wrong(format!("{} is not there", rule.path.display())));
        }
        let mut ignored: Vec<String> = NEVER.lines().map(String::from).collect();
        ignored.extend(rule.ignore.iter().cloned());
        let mut watched = Watched {
            service: service.into(),
            ignore: patterns(&ignored)?,
            include: match rule.include.is_empty() {
                true => None,
                false => Some(patterns(&rule.include)?),
            },
            rule: rule.clone(),
            files: BTreeMap::new(),
            folders: BTreeSet::new(),
        };
        watched.changes()?;
        Ok(watched)
    }

    /// All files, as if each had just been written.
    pub fn all(&self) -> Changes {
        Changes {
            changed: self.files.keys().cloned().collect(),
            removed: BTreeSet::new(),
        }
    }

    /// What has changed since the last call.
    pub fn changes(&mut self) -> Result<Changes, Error> {
        let (mut files, mut folders) = (BTreeMap::new(), BTreeSet::new());
        let mut next = vec![PathBuf::new()];
        while let Some(relative) = next.pop() {
            let path = match relative.as_os_str().is_empty() {
                true => self.rule.path.clone(),
                false => self.rule.path.join(&relative),
            };
            // What goes away while it is looked at is gone.
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            let text = relative.to_string_lossy();
            if !text.is_empty() && self.ignore.leaves_out(&text) {
                continue;
            }
            if files.len() + folders.len() > FILES_MAX {
                return Err(Error::Input(format!(
                    "{}: develop.watch: {} holds more than {FILES_MAX} files: ignore some",
                    self.service,
                    self.rule.path.display()
                )));
            }
            if meta.is_dir() {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                next.extend(entries.map(|e| relative.join(e.file_name())));
                folders.insert(path);
            } else if self
                .include
                .as_ref()
                .is_none_or(|i| text.is_empty() || i.leaves_out(&text))
            {
                let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
                files.insert(relative, (meta.modified().ok(), meta.len(), mode));
            }
        }
        let changes = Changes {
            changed: files
                .iter()
                .filter(|(path, stamp)| self.files.get(*path) != Some(stamp))
                .map(|(path, _)| path.clone())
                .collect(),
            removed: self
                .files
                .keys()
                .filter(|p| !files.contains_key(*p))
                .cloned()
                .collect(),
        };
        (self.files, self.folders) = (files, folders);
        Ok(changes)
    }

    /// Where files go in the container.
    pub fn targets(&self, files: &BTreeSet<PathBuf>) -> Vec<String> {
        files.iter().map(|f| self.target(f)).collect()
    }

    fn target(&self, file: &Path) -> String {
        let target = self.rule.target.trim_end_matches('/');
        match file.as_os_str().is_empty() {
            true => target.to_string(),
            false => format!("{target}/{}", file.display()),
        }
    }

    /// The changed files as an archive of the container's root.
    pub fn archive(&self, changes: &Changes) -> Result<Vec<u8>, Error> {
        let failed = || io(self.rule.path.display().to_string());
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        for file in &changes.changed {
            let path = match file.as_os_str().is_empty() {
                true => self.rule.path.clone(),
                false => self.rule.path.join(file),
            };
            let name = self.target(file);
            match archive.append_path_with_name(&path, name.trim_start_matches('/')) {
                Ok(()) => {}
                // It went away again: the next look will tell.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed()(e)),
            }
        }
        archive.into_inner().map_err(failed())
    }
}

/// Tells that something may have changed. An inotify descriptor is read like a pipe.
pub struct Notifier(Receiver);

impl Notifier {
    /// Watches the folders of all rules.
    pub fn new(watched: &[Watched]) -> Result<Notifier, Error> {
        let failed = || io("watching files");
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|e| failed()(e.into()))?;
        let receiver = Receiver::from_owned_fd_unchecked(fd).map_err(failed())?;
        let notifier = Notifier(receiver);
        for one in watched.iter() {
            notifier.follow(one)?;
        }
        Ok(notifier)
    }

    /// Watches folders that are new; those it knows stay as they are.
    pub fn follow(&self, watched: &Watched) -> Result<(), Error> {
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB;
        let file = watched
            .rule
            .path
            .parent()
            .filter(|_| watched.rule.path.is_file());
        for folder in watched.folders.iter().map(PathBuf::as_path).chain(file) {
            match inotify::add_watch(&self.0, folder, flags) {
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(rustix::io::Errno::NOSPC) => {
                    return Err(Error::Failed(
                        "too many folders to watch: raise fs.inotify.max_user_watches, or ignore some".into(),
                    ));
                }
                Err(e) => return Err(io(folder.display().to_string())(e.into())),
            }
        }
        Ok(())
    }

    /// Resolves when something has happened since the last call. Cancel-safe.
    pub async fn changed(&self) -> std::io::Result<()> {
        let mut buffer = [0u8; 4096];
        let mut any = false;
        loop {
            if !any {
                self.0.readable().await?;
            }
            match self.0.try_read(&mut buffer) {
                Ok(_) => any = true,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && any => return Ok(()),
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_compose::Action;

    #[test]
    fn changes_are_found_and_others_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a.js", "1");
        write("node_modules/x.js", "1");
        let rule = Watch {
            path: dir.path().into(),
            action: Action::Sync,
            target: "/app/".into(),
            ignore: vec!["node_modules/".into()],
            include: vec!["**/*.js".into()],
            exec: None,
            initial_sync: false,
        };
        let mut watched = Watched::new("web", &rule).unwrap();
        assert!(watched.changes().unwrap().is_empty());
        write("a.js", "12");
        write("new/b.js", "1");
        for ignored in ["node_modules/x.js", "readme.md", ".git/x.js", "a.js~"] {
            write(ignored, "123");
        }
        let changes = watched.changes().unwrap();
        let named = |names: &[&str]| names.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        assert_eq!(changes.changed, named(&["a.js", "new/b.js"]));
        assert_eq!(
            watched.targets(&changes.changed),
            ["/app/a.js", "/app/new/b.js"]
        );
        let bytes = watched.archive(&changes).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let names: Vec<PathBuf> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().into())
            .collect();
        assert_eq!(names, [PathBuf::from("app/a.js"), "app/new/b.js".into()]);
        fs::remove_file(dir.path().join("a.js")).unwrap();
        let changes = watched.changes().unwrap();
        assert_eq!(
            (changes.changed, changes.removed),
            (named(&[]), named(&["a.js"]))
        );
    }
}
