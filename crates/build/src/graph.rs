//! Which stages a build needs, and what each starts from.

mod outer;

pub(crate) use outer::Outer;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use futures::{FutureExt, future::BoxFuture};
use knarr_dockerfile::{
    Base, Build, Command, Dockerfile, Instruction, Mount, Platform, Scope, Stage,
};
use knarr_image::ImageStore;
use tokio::sync::OnceCell;

use crate::{
    cache::{Cache, Key, Record},
    copy::{StatCache, Tree},
    engine::Inner,
    error::{Error, Excerpt},
    request::{BuildRequest, NoCache},
    shared_cache::Imported,
    state::State,
    told::Told,
};

type Made<T> = OnceCell<Result<Arc<T>, Arc<Error>>>;
type Outers = HashMap<(String, String), Arc<Made<Outer>>>;

/// What a build is made of, before it runs.
pub(crate) struct Parts<'a> {
    pub(crate) engine: &'a Inner,
    pub(crate) request: &'a BuildRequest,
    /// With a lease: what the build adds is not taken for garbage.
    pub(crate) images: ImageStore,
    pub(crate) cache: Arc<Cache>,
    pub(crate) stats: Arc<StatCache>,
    pub(crate) told: &'a Told<'a>,
    pub(crate) file: Dockerfile,
    pub(crate) file_name: String,
    pub(crate) text: String,
    pub(crate) build: Build,
    pub(crate) epoch: Option<i64>,
    /// The build's own context.
    pub(crate) context: Tree,
    pub(crate) shared: Arc<Shared>,
    /// It is one of several platforms'.
    pub(crate) one_of_several: bool,
}

/// A build that runs; its parts are read as its own.
pub(crate) struct Graph<'a> {
    parts: Parts<'a>,
    pub(crate) global: Scope,
    pub(crate) target: usize,
    pub(crate) started: jiff::Timestamp,
    /// Has the context been told of?
    pub(crate) context_told: std::sync::atomic::AtomicBool,
    stages: Vec<Made<State>>,
    /// Images and named contexts, by name and platform.
    outer: Mutex<Outers>,
}

impl<'a> std::ops::Deref for Graph<'a> {
    type Target = Parts<'a>;
    fn deref(&self) -> &Parts<'a> {
        &self.parts
    }
}

/// What the platforms of a build have in common.
#[derive(Default)]
pub(crate) struct Shared {
    /// One of several that want the same step makes it.
    pub(crate) making: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    /// Steps that this build has made.
    pub(crate) fresh: Mutex<BTreeSet<Key>>,
    /// All steps that this build went through.
    pub(crate) used: Mutex<BTreeMap<Key, Record>>,
    /// Steps of other machines' builds.
    pub(crate) imported: Imported,
}

pub(crate) const VARIABLE_FROM: &str = "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround";

/// What `--from` leads to.
#[derive(Clone)]
pub(crate) enum From {
    Stage(Arc<State>),
    Outer(Arc<Outer>),
}

impl From {
    /// Files as they are in a folder of this machine.
    pub(crate) fn folder(&self) -> Option<&Tree> {
        match self {
            From::Outer(outer) => match &**outer {
                Outer::Folder(tree) => Some(tree),
                Outer::State(_) => None,
            },
            From::Stage(_) => None,
        }
    }
    pub(crate) fn state(&self) -> Option<&State> {
        match self {
            From::Stage(state) => Some(state),
            From::Outer(outer) => match &**outer {
                Outer::State(state) => Some(state),
                Outer::Folder(_) => None,
            },
        }
    }
}

impl<'a> Graph<'a> {
    pub(crate) fn new(parts: Parts<'a>) -> Result<Graph<'a>, Error> {
        let target = parts.file.target(parts.build.stage.as_deref());
        let target = target.map_err(Error::Request)?;
        let global = Scope::global(&parts.file, &parts.build)
            .map_err(|e| dockerfile_error(&parts.file_name, &parts.text, &e))?;
        let stages = parts.file.stages.iter().map(|_| OnceCell::new()).collect();
        Ok(Graph {
            parts,
            global,
            target,
            started: jiff::Timestamp::now(),
            context_told: false.into(),
            stages,
            outer: Mutex::default(),
        })
    }

    /// The stages that the target needs.
    pub(crate) fn needed(&self) -> Result<BTreeSet<usize>, Error> {
        let mut needed = BTreeSet::new();
        let mut open = vec![self.target];
        while let Some(at) = open.pop() {
            if needed.insert(at) {
                open.extend(self.needs(at)?);
            }
        }
        Ok(needed)
    }

    /// No stage, needed or not, copies from what can't be.
    /// SOURCE: dockerfile2llb toCommand
    pub(crate) fn sources_are_named(&self) -> Result<(), Error> {
        for (at, stage) in self.file.stages.iter().enumerate() {
            for instruction in &stage.instructions {
                let Command::Copy(copy) = &instruction.command else {
                    continue;
                };
                let Some(from) = &copy.from else {
                    continue;
                };
                let why = match from.contains('$') {
                    true => Some(VARIABLE_FROM.to_owned()),
                    false => self.file.from(from, at).err(),
                };
                if let Some(why) = why {
                    return Err(self.wrong(instruction.first, instruction.last, why));
                }
            }
        }
        Ok(())
    }

    /// Finds the images that the target needs, before anything is run: what isn't there is told at once.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        let needed = self.needed()?;
        let all = needed.iter().map(|at| self.find_base(*at));
        futures::future::try_join_all(all).await.map(drop)
    }

    async fn find_base(&self, at: usize) -> Result<(), Error> {
        let stage = &self.file.stages[at];
        if self.context_named(&stage.name).is_some() {
            return Ok(());
        }
        let name = self.base_name(stage)?;
        match self.file.base(&name, at) {
            Base::Other(name) if self.context_named(&name).is_none() => {
                let found = self.outer(&name, &self.platform(stage)?).await;
                found.map(drop).map_err(|e| self.no_base(stage, &name, e))
            }
            _ => Ok(()),
        }
    }

    /// Why a stage can't begin, at its `FROM`.
    pub(crate) fn no_base(&self, stage: &Stage, name: &str, e: Error) -> Error {
        match e.root() {
            Error::Step { .. } | Error::Dockerfile { .. } => e,
            _ => self.step_failed(
                stage.first,
                stage.last,
                &format!("FROM {name}"),
                e.to_string(),
            ),
        }
    }

    /// The target, made with all that it needs: stages run side by side.
    pub(crate) async fn run(&self) -> Result<Arc<State>, Error> {
        let needed = self.needed()?;
        let all = needed.iter().map(|at| self.stage(*at));
        futures::future::try_join_all(all).await?;
        self.stage(self.target).await
    }

    /// The stages that a stage names, as far as its own text tells.
    fn needs(&self, at: usize) -> Result<Vec<usize>, Error> {
        let stage = &self.file.stages[at];
        if self.context_named(&stage.name).is_some() {
            return Ok(vec![]);
        }
        let base = self.base_name(stage)?;
        let mut all = vec![];
        let mut add = |base: Result<Base, String>| {
            if let Ok(Base::Stage(number)) = base {
                all.push(number);
            }
        };
        add(Ok(self.file.base(&base, at)));
        for instruction in &stage.instructions {
            for from in froms(&instruction.command) {
                let itself = !stage.name.is_empty() && from.eq_ignore_ascii_case(&stage.name);
                let base = self.file.from(&from, at);
                if itself
                    && matches!(base, Ok(Base::Other(_)))
                    && self.context_named(&from).is_none()
                {
                    let why = format!("circular dependency detected on stage: {}", stage.name);
                    return Err(self.wrong(instruction.first, instruction.last, why));
                }
                add(base);
            }
        }
        Ok(all)
    }

    pub(crate) fn base_name(&self, stage: &Stage) -> Result<String, Error> {
        let expanded = self.global.expand(&stage.base, self.file.escape);
        let base = expanded.map_err(|e| self.wrong(stage.first, stage.last, e.to_string()))?;
        if base.text.is_empty() {
            let why = format!("base name ({}) should not be blank", stage.base);
            return Err(self.wrong(stage.first, stage.last, why));
        }
        Ok(base.text)
    }

    /// A stage, made by whoever asks first.
    pub(crate) fn stage(&self, at: usize) -> BoxFuture<'_, Result<Arc<State>, Error>> {
        let make = move || async move {
            match self.make_stage(at).await {
                Ok(state) => Ok(Arc::new(state)),
                Err(e) => Err(Arc::new(e)),
            }
        };
        async move {
            let made = self.stages[at].get_or_init(make).await.clone();
            made.map_err(Error::Shared)
        }
        .boxed()
    }

    async fn make_stage(&self, at: usize) -> Result<State, Error> {
        let stage = &self.file.stages[at];
        if let Some(named) = self.context_named(&stage.name) {
            return match &*self.named(&stage.name, named, &self.build.target).await? {
                Outer::State(state) => Ok((**state).clone()),
                Outer::Folder(tree) => self.folder_state(tree, &self.build.target).await,
            };
        }
        let name = self.base_name(stage)?;
        let base = self.file.base(&name, at);
        let platform = match base {
            // SOURCE: dockerfile2llb: nothing is for the build's own platform, whatever is said
            Base::Scratch => self.build.target.clone(),
            _ => self.platform(stage)?,
        };
        let mut state = match &base {
            Base::Scratch => State::scratch(&platform),
            Base::Stage(number) => (*self.stage(*number).await?).clone(),
            Base::Other(name) => {
                let found = self.outer(name, &platform).await;
                match &*found.map_err(|e| self.no_base(stage, name, e))? {
                    Outer::State(state) => (**state).clone(),
                    Outer::Folder(tree) => self.folder_state(tree, &platform).await?,
                }
            }
        };
        let instructions = self.with_triggers(at, &mut state)?;
        self.instructions(at, &base, state, instructions).await
    }

    /// A stage's instructions after those that its base left for it; (instruction, comes from an `ONBUILD`).
    pub(crate) fn with_triggers(
        &self,
        at: usize,
        state: &mut State,
    ) -> Result<Vec<(Instruction, bool)>, Error> {
        let stage = &self.file.stages[at];
        let mut onbuild = std::mem::take(&mut state.doc.config.on_build);
        onbuild.append(&mut state.triggers);
        let mut instructions = vec![];
        for trigger in &onbuild {
            instructions.extend(self.trigger(stage, trigger)?.into_iter().map(|i| (i, true)));
        }
        // a stage keeps the triggers of its own text for the stages on top of it
        instructions.extend(stage.instructions.iter().cloned().map(|i| (i, false)));
        Ok(instructions)
    }

    /// One `ONBUILD` as instructions, at the place of the stage's `FROM`.
    fn trigger(&self, stage: &Stage, text: &str) -> Result<Vec<Instruction>, Error> {
        let wrong = |why: String| self.wrong(stage.first, stage.last, why);
        let parsed = Dockerfile::parse(&format!("FROM scratch\n{text}\n"))
            .map_err(|e| wrong(format!("ONBUILD {text}: {}", e.why)))?;
        let [only] = parsed.stages.as_slice() else {
            return Err(wrong(
                "onbuild trigger should be a single expression".into(),
            ));
        };
        if only.instructions.len() != 1 {
            return Err(wrong(
                "onbuild trigger should be a single expression".into(),
            ));
        }
        let mut all = only.instructions.clone();
        for instruction in &mut all {
            (instruction.first, instruction.last) = (stage.first, stage.last);
        }
        Ok(all)
    }

    pub(crate) fn platform(&self, stage: &Stage) -> Result<Platform, Error> {
        let Some(text) = &stage.platform else {
            return Ok(self.build.target.clone());
        };
        let wrong = |why: String| self.wrong(stage.first, stage.last, why);
        let expanded = self.global.expand(text, self.file.escape);
        let expanded = expanded.map_err(|e| wrong(e.to_string()))?.text;
        if expanded.is_empty() {
            return Err(wrong(format!(
                "empty platform value from expression {text}"
            )));
        }
        Platform::parse(&expanded).map_err(|_| {
            wrong(format!(
                "failed to parse platform {text}: {expanded:?}: cannot parse platform specifier: invalid argument"
            ))
        })
    }

    /// What a `--from` in a stage leads to.
    pub(crate) async fn from(
        &self,
        name: &str,
        at: usize,
        platform: &Platform,
    ) -> Result<From, Error> {
        match self.file.from(name, at).map_err(Error::Request)? {
            Base::Stage(number) => Ok(From::Stage(self.stage(number).await?)),
            Base::Scratch => Ok(From::Stage(Arc::new(State::scratch(platform)))),
            Base::Other(name) => Ok(From::Outer(self.outer(&name, platform).await?)),
        }
    }

    /// A stage that is a folder's files.
    async fn folder_state(&self, tree: &Tree, platform: &Platform) -> Result<State, Error> {
        let mut state = State::scratch(platform);
        self.copy_all(&mut state, tree).await?;
        // others read an image's history only if each layer has an entry
        state
            .doc
            .history(format!("[context {}]", tree.name()), true);
        Ok(state)
    }

    /// `--no-cache` is meant for this stage.
    pub(crate) fn ignores_cache(&self, stage: &Stage) -> bool {
        match &self.request.no_cache {
            NoCache::Never => false,
            NoCache::Always => true,
            NoCache::Stages(names) => names.iter().any(|n| n.eq_ignore_ascii_case(&stage.name)),
        }
    }

    pub(crate) fn excerpt(&self, first: usize, last: usize) -> Box<Excerpt> {
        Box::new(Excerpt::new(&self.file_name, &self.text, first, last))
    }
    /// A mistake in the Dockerfile.
    pub(crate) fn wrong(&self, first: usize, last: usize, why: String) -> Error {
        Error::Dockerfile {
            excerpt: self.excerpt(first, last),
            why,
        }
    }
    pub(crate) fn step_failed(&self, first: usize, last: usize, step: &str, why: String) -> Error {
        Error::Step {
            excerpt: self.excerpt(first, last),
            step: step.to_owned(),
            why,
            log: vec![],
        }
    }
}

pub(crate) fn dockerfile_error(file: &str, text: &str, e: &knarr_dockerfile::Error) -> Error {
    Error::Dockerfile {
        excerpt: Box::new(Excerpt::new(file, text, e.line, e.last)),
        why: e.said(),
    }
}

/// What an instruction copies or mounts from.
fn froms(command: &Command) -> Vec<String> {
    match command {
        Command::Copy(copy) => copy.from.iter().cloned().collect(),
        Command::Run(run) => {
            // a mount whose values can't be known yet names its source all the same
            let plain = |text: &str| Ok(text.to_owned());
            let mounts = run.mounts.iter();
            mounts
                .filter_map(|m| Mount::parse(m, &mut { plain }).ok())
                .map(|m| m.from)
                .filter(|from| !from.is_empty())
                .collect()
        }
        _ => vec![],
    }
}

/// Build arguments as they count for the global scope.
pub(crate) fn dockerfile_build(request: &BuildRequest, target: &Platform) -> Build {
    let args: BTreeMap<String, String> = request.args.clone();
    Build {
        args,
        target: target.clone(),
        host: Platform::host(),
        stage: request.target.clone(),
    }
}
