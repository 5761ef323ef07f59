//! One step: looked up, or made and kept.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::Ordering},
};

use crate::{
    cache::{Cache, Key, Record, size, unique},
    copy::Tree,
    error::{Error, blocking, io},
    graph::Graph,
    instructions::At,
    overlay::Mounted,
    state::State,
    told::Telling,
};

/// What a step is, and how it is known again.
pub(crate) struct Step {
    /// `[build 2/5] RUN make`
    pub(crate) name: String,
    /// Of all that its result depends on.
    pub(crate) key: Key,
    /// As in the history.
    pub(crate) description: String,
    /// What is there is not taken.
    pub(crate) no_cache: bool,
    /// The same inputs may give another result.
    pub(crate) varies: bool,
    /// Where it stands in the Dockerfile; 0 for nowhere.
    pub(crate) lines: (usize, usize),
}

/// A finished step and where its files are.
pub(crate) type Kept = (Record, PathBuf);

/// A step that was begun.
pub(crate) enum Begun<'g> {
    Found(Kept),
    Make(Box<Making<'g>>),
}

/// A step being made: `files` is to be filled.
pub(crate) struct Making<'g> {
    pub(crate) telling: Telling<'g>,
    pub(crate) temp: tempfile::TempDir,
    /// An upper layer; what else is beside it in `temp` goes at the end.
    pub(crate) files: PathBuf,
    step: Step,
    _turn: tokio::sync::SemaphorePermit<'g>,
    _one: tokio::sync::OwnedMutexGuard<()>,
}

/// Why a step failed, with the end of its log.
pub(crate) struct Failure {
    pub(crate) why: Error,
    pub(crate) log: Vec<String>,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(why: E) -> Failure {
        Failure {
            why: why.into(),
            log: vec![],
        }
    }
}

impl Making<'_> {
    fn keep(
        step: Step,
        temp: tempfile::TempDir,
        files: &Path,
        cache: &Cache,
    ) -> Result<(Key, Kept), Error> {
        // beside the files: the work folder of an overlay, logs
        for entry in fs::read_dir(temp.path())
            .map_err(io(temp.path()))?
            .flatten()
        {
            let path = entry.path();
            if path != files {
                let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            }
        }
        let empty = fs::read_dir(files).map_err(io(files))?.next().is_none();
        let snapshot = unique();
        let result = match step.varies || step.no_cache {
            true => Key::new("result", [step.key.text(), &snapshot]),
            false => step.key.clone(),
        };
        let record = Record {
            result,
            empty,
            created: jiff::Timestamp::now().to_string(),
            description: step.description,
            bytes: size(files),
            snapshot,
            boot: String::new(),
        };
        cache.keep(&step.key, temp, &record)?;
        let files = cache.files(&record);
        Ok((step.key, (record, files)))
    }
}

impl Graph<'_> {
    /// Looks a step up.
    pub(crate) async fn begin(&self, step: Step) -> Result<Begun<'_>, Error> {
        let lock = {
            let making = &self.shared.making;
            let mut making = making.lock().unwrap_or_else(PoisonError::into_inner);
            making.entry(step.key.clone()).or_default().clone()
        };
        let one = lock.lock_owned().await;
        // made in this very build: good enough even for those who want nothing old
        let made_now = {
            let fresh = &self.shared.fresh;
            let fresh = fresh.lock().unwrap_or_else(PoisonError::into_inner);
            fresh.contains(&step.key)
        };
        if !step.no_cache || made_now {
            let (cache, key) = (self.cache.clone(), step.key.clone());
            let found = blocking(move || {
                Ok(cache.find(&key).map(|record| {
                    let files = cache.files(&record);
                    (record, files)
                }))
            });
            let found = match found.await? {
                Some(found) => Some(found),
                None => self.import_step(&step.key).await?,
            };
            if let Some(found) = found {
                self.passed(&step.key, &found.0);
                self.told.cached.fetch_add(1, Ordering::Relaxed);
                self.told.begin(&step.name).cached();
                return Ok(Begun::Found(found));
            }
        }
        let turn = self.engine.turns.acquire().await;
        let turn = turn.map_err(|_| Error::Canceled)?;
        let temp = self.engine.session.temp()?;
        let files = temp.path().join("fs");
        fs::create_dir(&files).map_err(io(&files))?;
        // whatever the umask: this is the root's own mode
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&files, mode).map_err(io(&files))?;
        Ok(Begun::Make(Box::new(Making {
            telling: self.told.begin(&step.name),
            temp,
            files,
            step,
            _turn: turn,
            _one: one,
        })))
    }

    /// Notes a step for who exports the cache.
    pub(crate) fn passed(&self, key: &Key, record: &Record) {
        if !self.request.cache_to.is_empty() {
            let used = &self.shared.used;
            let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
            used.insert(key.clone(), record.clone());
        }
    }

    /// Keeps what was made, or tells why nothing was.
    pub(crate) async fn finish(
        &self,
        making: Box<Making<'_>>,
        made: Result<(), Failure>,
    ) -> Result<Kept, Error> {
        let Making {
            telling,
            temp,
            files,
            step,
            _turn,
            _one,
        } = *making;
        self.told.run.fetch_add(1, Ordering::Relaxed);
        if let Err(failure) = made {
            let (first, last) = step.lines;
            let why = match failure.why {
                // it knows its place already
                why @ (Error::Dockerfile { .. } | Error::Step { .. } | Error::Shared(_)) => why,
                Error::Canceled => return Err(Error::Canceled),
                why => Error::Step {
                    excerpt: self.excerpt(first, last),
                    step: step.name,
                    why: why.to_string(),
                    log: failure.log,
                },
            };
            match &why {
                Error::Step { why, .. } => telling.failed(why),
                other => telling.failed(&other.to_string()),
            }
            return Err(why);
        }
        let cache = self.cache.clone();
        let kept = blocking(move || Making::keep(step, temp, &files, &cache)).await;
        let (key, kept) = telling.result(kept)?;
        self.passed(&key, &kept.0);
        let fresh = &self.shared.fresh;
        let mut fresh = fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.insert(key);
        Ok(kept)
    }

    /// A step that is blocking work on its files alone.
    pub(crate) async fn blocking_step(
        &self,
        step: Step,
        work: impl FnOnce(&Path) -> Result<Vec<String>, Error> + Send + 'static,
    ) -> Result<Kept, Error> {
        let making = match self.begin(step).await? {
            Begun::Found(kept) => return Ok(kept),
            Begun::Make(making) => making,
        };
        let files = making.files.clone();
        let made = blocking(move || work(&files)).await;
        let made = made.map(|warnings| {
            for text in warnings {
                self.told.warn(text);
            }
        });
        self.finish(making, made.map_err(Failure::from)).await
    }

    /// The chain's layers with a new one on top, mounted.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.engine.session.dir.join("mounts")
    }

    /// `WORKDIR`: the folder, with those above it, belongs to the image's user.
    pub(crate) async fn make_folder(
        &self,
        at: &At<'_>,
        state: &mut State,
        dir: &str,
    ) -> Result<(), Error> {
        let user = state.doc.config.user.clone();
        let (lower, mounts) = (state.lower(), self.mounts());
        let (dir, times) = (dir.to_owned(), self.epoch);
        let step = Step {
            name: self.step_name(at, state),
            key: Key::new("mkdir", [state.key.text(), &dir, &user]),
            description: format!("WORKDIR {dir}"),
            no_cache: at.no_cache,
            varies: false,
            lines: at.lines(),
        };
        let work = move |files: &Path| {
            let root = Mounted::writable(&mounts, &lower, files)?;
            crate::folder::make(root.path(), &dir, &user, times)?;
            Ok(vec![])
        };
        let (record, files) = self.blocking_step(step, work).await?;
        state.push(&record, files);
        Ok(())
    }

    /// The whole of a folder as a layer.
    pub(crate) async fn copy_all(&self, state: &mut State, tree: &Tree) -> Result<(), Error> {
        let (key, tree) = self.folder_key(tree, "/").await?;
        let step = Step {
            name: format!("[context {}] copy", tree.name()),
            key: Key::new("folder", [state.key.text(), key.text()]),
            description: format!("COPY {}", tree.name()),
            no_cache: false,
            varies: false,
            lines: (0, 0),
        };
        let work = move |files: &Path| copy_folder(&tree, "/", files).map(|()| vec![]);
        let (record, files) = self.blocking_step(step, work).await?;
        state.push(&record, files);
        Ok(())
    }

    /// Of what is at a path of a folder.
    pub(crate) async fn folder_key(&self, tree: &Tree, path: &str) -> Result<(Key, Tree), Error> {
        let (tree, path) = (tree.clone(), path.to_owned());
        let stats = self.stats_for(&tree);
        blocking(move || {
            let sum =
                crate::copy::checksum(&whole(&tree, &path, Path::new("/")), stats.as_deref())?;
            Ok((Key::new("files", [sum.as_str()]), tree))
        })
        .await
    }

    /// What is known of the context's files; of others nothing is kept.
    pub(crate) fn stats_for(&self, tree: &Tree) -> Option<Arc<crate::copy::StatCache>> {
        (tree.path() == self.context.path()).then(|| self.stats.clone())
    }
}

/// A copy of a folder, or of one file of it, into an empty folder.
pub(crate) fn whole<'a>(
    tree: &'a Tree,
    path: &str,
    into: &'a Path,
) -> crate::copy::CopyRequest<'a> {
    crate::copy::CopyRequest {
        sources: vec![crate::copy::Source::Path(path.to_owned())],
        from: tree,
        destination: "/".into(),
        workdir: "/".into(),
        chown: None,
        chmod: None,
        parents: false,
        exclude: vec![],
        link: true,
        unpack: false,
        times: None,
        into,
    }
}

pub(crate) fn copy_folder(tree: &Tree, path: &str, into: &Path) -> Result<(), Error> {
    crate::copy::copy(&whole(tree, path, into))?;
    Ok(())
}
