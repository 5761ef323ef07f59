//! `COPY` and `ADD`: which files, from where, and how that is known again. The work itself is `copy`'s.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use knarr_dockerfile::{Command, Sources};

use crate::{
    cache::Key,
    copy::{self, CopyRequest, Source, Tree},
    error::{Error, blocking},
    fetched,
    graph::{From, Graph, VARIABLE_FROM},
    instructions::At,
    overlay::Mounted,
    state::{State, clean},
    step::{Begun, Failure, Step},
};

/// A `COPY` or `ADD` with its variables replaced.
#[derive(Debug, Clone)]
struct Wanted {
    sources: Vec<Source>,
    destination: String,
    workdir: String,
    chown: Option<String>,
    chmod: Option<String>,
    parents: bool,
    exclude: Vec<String>,
    link: bool,
    unpack: bool,
}

impl Wanted {
    fn request<'a>(&self, from: &'a Tree, into: &'a Path) -> CopyRequest<'a> {
        CopyRequest {
            sources: self.sources.clone(),
            from,
            destination: self.destination.clone(),
            workdir: self.workdir.clone(),
            chown: self.chown.clone(),
            chmod: self.chmod.clone(),
            parents: self.parents,
            exclude: self.exclude.clone(),
            link: self.link,
            unpack: self.unpack,
            times: None,
            into,
        }
    }
}

/// What `ADD` alone has.
#[derive(Debug)]
struct Added {
    checksum: Option<String>,
    keep_git: Option<bool>,
    unpack: Option<bool>,
}

/// An instruction before what it names is fetched.
#[derive(Debug)]
pub(crate) struct Spelled {
    wanted: Wanted,
    /// As the history tells it.
    said: String,
    from: Option<String>,
    added: Option<Added>,
    /// And whether they are elsewhere.
    paths: Vec<(String, bool)>,
    inline: Vec<Source>,
}

impl Spelled {
    fn new(wanted: Wanted, from: Option<String>, added: Option<Added>) -> Spelled {
        let said = if added.is_some() { "ADD" } else { "COPY" };
        Spelled {
            wanted,
            said: said.into(),
            from,
            added,
            paths: vec![],
            inline: vec![],
        }
    }
}

/// Where the files are while the step needs them.
#[derive(Clone)]
struct Held {
    tree: Tree,
    _mounted: Option<Arc<Mounted>>,
}

impl Graph<'_> {
    pub(crate) async fn copy_step(&self, at: &At<'_>, state: &mut State) -> Result<(), Error> {
        let name = self.step_name(at, state);
        let (wanted, said, from) = self.wanted(at, state).await?;
        let named = wanted
            .chown
            .as_deref()
            .is_some_and(|c| !copy::is_numeric(c));
        if named && state.chain.is_empty() {
            // SOURCE: buildkit solver/llbsolver/ops/file.go: nothing is there to look a name up in
            let (first, last) = at.lines();
            return Err(self.step_failed(first, last, &name, "invalid user index: -1".into()));
        }
        let from = match from {
            Some(from) => {
                let found = self.from(&from, at.stage, &state.platform).await;
                Some(found.map_err(|e| self.placed(at, &name, e))?)
            }
            None => None,
        };
        let parent = if wanted.link {
            "link"
        } else {
            state.key.text()
        };
        // of a stage: known by the stage's key alone, before its files are looked at
        let quick = from.as_ref().and_then(From::state).map(|source| {
            let parts = [parent, source.key.text(), &format!("{wanted:?}")];
            Key::new("copy of a stage", parts)
        });
        if let (Some(quick), false) = (&quick, at.no_cache) {
            let (cache, key) = (self.cache.clone(), quick.clone());
            let found = blocking(move || {
                Ok(cache.find(&key).map(|record| {
                    let files = cache.files(&record);
                    (record, files)
                }))
            });
            let found = match found.await? {
                Some(found) => Some(found),
                None => self.import_step(quick).await?,
            };
            if let Some((record, files)) = found {
                self.passed(quick, &record);
                self.told.cached.fetch_add(1, Ordering::Relaxed);
                self.told.begin(&name).cached();
                return self.copied(state, &wanted, &said, &record, files);
            }
        }
        let held = self.held(from.as_ref()).await?;
        let sum = {
            let (held, wanted) = (held.clone(), wanted.clone());
            let stats = self.stats_for(&held.tree);
            blocking(move || {
                let request = wanted.request(&held.tree, Path::new("/"));
                Ok(copy::checksum(&request, stats.as_deref())?)
            })
            .await
            .map_err(|e| self.placed(at, &name, e))?
        };
        let step = Step {
            name,
            key: Key::new("copy", [parent, &sum]),
            description: said.clone(),
            no_cache: at.no_cache,
            varies: false,
            lines: at.lines(),
        };
        let (lower, mounts) = (state.lower(), self.mounts());
        let work = {
            let wanted = wanted.clone();
            move |files: &Path| {
                let root = match wanted.link {
                    true => None,
                    false => Some(Mounted::writable(&mounts, &lower, files)?),
                };
                let into = root.as_ref().map_or(files, Mounted::path);
                let copied = copy::copy(&wanted.request(&held.tree, into))?;
                Ok(copied.warnings)
            }
        };
        let (record, files) = match self.begin(step).await? {
            Begun::Found(kept) => kept,
            Begun::Make(making) => {
                let files = making.files.clone();
                let made = blocking(move || work(&files)).await.map(|warnings| {
                    warnings.into_iter().for_each(|text| self.told.warn(text));
                });
                self.finish(making, made.map_err(Failure::from)).await?
            }
        };
        if let Some(quick) = quick {
            self.passed(&quick, &record);
            let (cache, record) = (self.cache.clone(), record.clone());
            blocking(move || cache.note(&quick, &record)).await?;
        }
        self.copied(state, &wanted, &said, &record, files)
    }

    fn copied(
        &self,
        state: &mut State,
        wanted: &Wanted,
        said: &str,
        record: &crate::cache::Record,
        files: PathBuf,
    ) -> Result<(), Error> {
        let before = state.key.clone();
        state.push(record, files);
        if wanted.link {
            state.key = Key::new("link", [before.text(), record.result.text()]);
        }
        state.doc.history(said.to_owned(), true);
        Ok(())
    }

    /// An error without a place gets the step's.
    fn placed(&self, at: &At<'_>, step: &str, e: Error) -> Error {
        match e.root() {
            Error::Dockerfile { .. } | Error::Step { .. } | Error::Canceled => e,
            _ => {
                let (first, last) = at.lines();
                self.step_failed(first, last, step, e.to_string())
            }
        }
    }

    /// An instruction with its variables replaced; nothing is fetched.
    pub(crate) fn spelled(&self, at: &At<'_>, state: &State) -> Result<Spelled, Error> {
        let expand = |text: &str| self.expanded(at, state, text);
        let option = |text: &Option<String>| text.as_deref().map(expand).transpose();
        let wanted = |sources: &Sources, chown, chmod, exclude: &[String], link: bool| {
            let chown = option(chown)?;
            // a name is looked up in what is below: such a layer can't be linked, so it is an ordinary one, as with dockerd
            let named = chown.as_deref().is_some_and(|c| !copy::is_numeric(c));
            Ok::<_, Error>(Wanted {
                sources: vec![],
                destination: expand(&sources.destination)?,
                workdir: clean(state.workdir()),
                chown,
                chmod: option(chmod)?,
                parents: false,
                // SOURCE: instructions/commands.go Expand: not of these
                exclude: exclude.to_vec(),
                link: link && !named,
                unpack: false,
            })
        };
        let (sources, mut spelled) = match &at.instruction.command {
            Command::Copy(c) => {
                // one that an ONBUILD brought
                if c.from.as_ref().is_some_and(|from| from.contains('$')) {
                    return Err(self.wrong_at(at, VARIABLE_FROM.into()));
                }
                let mut wanted = wanted(&c.sources, &c.chown, &c.chmod, &c.exclude, c.link)?;
                wanted.parents = c.parents;
                let from = c.from.clone();
                (&c.sources, Spelled::new(wanted, from, None))
            }
            Command::Add(a) => {
                let wanted = wanted(&a.sources, &a.chown, &a.chmod, &a.exclude, a.link)?;
                let added = Added {
                    checksum: option(&a.checksum)?,
                    keep_git: a.keep_git_dir,
                    unpack: a.unpack,
                };
                (&a.sources, Spelled::new(wanted, None, Some(added)))
            }
            _ => return Err(Error::Bug("neither COPY nor ADD".into())),
        };
        let Spelled { wanted, said, .. } = &mut spelled;
        if wanted.parents {
            *said += " --parents";
        }
        for (name, value) in [("chown", &wanted.chown), ("chmod", &wanted.chmod)] {
            if let Some(value) = value {
                *said += &format!(" --{name}={value}");
            }
        }
        let Sources { paths, inline, .. } = sources;
        let checked = (spelled.added.as_ref()).is_some_and(|a| a.checksum.is_some());
        if checked && paths.len() + inline.len() != 1 {
            let why = "checksum can't be specified for multiple sources";
            return Err(self.wrong_at(at, why.into()));
        }
        for path in paths {
            let path = expand(path)?;
            spelled.said += &format!(" {path}");
            let remote = fetched::is_remote(&path);
            if remote && spelled.added.is_none() {
                let what = if fetched::is_url(&path) {
                    "URL"
                } else {
                    "git ref"
                };
                return Err(self.wrong_at(at, format!("source can't be a {what} for COPY")));
            }
            if checked && !remote {
                let why = "checksum requires HTTP(S) or Git sources";
                return Err(self.wrong_at(at, why.into()));
            }
            spelled.paths.push((path, remote));
        }
        for document in inline {
            spelled.said += &format!(" <<{}", document.name);
            let text = document.text();
            let content = match document.expand {
                true => {
                    let expanded = state.scope.expand_heredoc(&text);
                    expanded.map_err(|e| self.wrong_at(at, e.to_string()))?.text
                }
                false => text,
            };
            spelled.inline.push(Source::Inline {
                name: document.name.clone(),
                content: content.into_bytes(),
            });
        }
        spelled.said += &format!(" {} # buildkit", spelled.wanted.destination);
        Ok(spelled)
    }

    /// The request, what the history says of it, and `--from`.
    async fn wanted(
        &self,
        at: &At<'_>,
        state: &State,
    ) -> Result<(Wanted, String, Option<String>), Error> {
        let Spelled {
            mut wanted,
            said,
            from,
            added,
            paths,
            inline,
        } = self.spelled(at, state)?;
        let mut afar = false;
        for (path, remote) in paths {
            wanted.sources.push(match (remote, &added) {
                (true, Some(added)) => {
                    let name = self.step_name(at, state);
                    let checksum = added.checksum.as_deref();
                    let got = fetched::source(self, &path, checksum, added.keep_git).await;
                    afar = true;
                    got.map_err(|e| self.placed(at, &name, e))?
                }
                _ => Source::Path(path),
            });
        }
        // what comes from afar is unpacked only when that is said
        wanted.unpack = added.is_some_and(|a| a.unpack.unwrap_or(!afar));
        wanted.sources.extend(inline);
        Ok((wanted, said, from))
    }

    /// What is at a path of a stage, whatever else is in the stage; found out once for each stage.
    pub(crate) async fn content_key(&self, source: &State, path: &str) -> Result<Key, Error> {
        let of = Key::new("content", [source.key.text(), path]);
        let (cache, mounts) = (self.cache.clone(), self.mounts());
        let (lower, path) = (source.lower(), path.to_owned());
        blocking(move || {
            if let Some(known) = cache.sum(&of) {
                return Ok(Key::new("files", [known.as_str()]));
            }
            let mounted = Mounted::read_only(&mounts, &lower)?;
            let tree = Tree::root("stage", mounted.path())?;
            let request = crate::step::whole(&tree, &path, Path::new("/"));
            let sum = copy::checksum(&request, None)?;
            cache.set_sum(&of, &sum)?;
            Ok(Key::new("files", [sum.as_str()]))
        })
        .await
    }

    /// The tree to copy from, mounted if it has several layers.
    async fn held(&self, from: Option<&From>) -> Result<Held, Error> {
        let Some(from) = from else {
            if !self.context_told.swap(true, Ordering::Relaxed) {
                self.told.begin("[internal] load build context").done();
            }
            return Ok(Held {
                tree: self.context.clone(),
                _mounted: None,
            });
        };
        if let Some(tree) = from.folder() {
            return Ok(Held {
                tree: tree.clone(),
                _mounted: None,
            });
        }
        let lower = from.state().map(State::lower).unwrap_or_default();
        let mounts = self.mounts();
        blocking(move || {
            let mounted = Mounted::read_only(&mounts, &lower)?;
            Ok(Held {
                tree: Tree::root("stage", mounted.path())?,
                _mounted: Some(Arc::new(mounted)),
            })
        })
        .await
    }
}
