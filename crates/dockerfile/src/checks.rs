//! The build checks: what works and should be written otherwise (Docker's "Build checks"; BuildKit
//! `frontend/dockerfile/linter`).

mod expose;
mod rules;
mod vars;

pub(crate) use rules::reference;
use std::collections::BTreeSet;

use crate::{
    error::{Error, Result},
    ignore::Ignore,
    lines::Lines,
    scope::{Build, Scope},
    stages::{Base, Dockerfile},
    words::Env,
};

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// First line, from 1.
    pub line: usize,
    /// Last line.
    pub last: usize,
    /// `JSONArgsRecommended`
    pub rule: &'static str,
    /// What is wrong with which part.
    pub message: String,
}

/// What `# check=` says.
#[derive(Debug, Clone, Default)]
struct Wanted {
    skip: BTreeSet<String>,
    skip_all: bool,
    experimental: BTreeSet<String>,
    experimental_all: bool,
    error: bool,
}

impl Wanted {
    fn of(text: &str) -> std::result::Result<Wanted, String> {
        let mut wanted = Wanted::default();
        let set = |v: &str| v.split(',').map(|r| r.trim().to_owned()).collect();
        for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("invalid check option {part:?}"))?;
            let value = value.trim();
            match (key.trim(), value) {
                ("skip", "all") => wanted.skip_all = true,
                ("skip", v) => wanted.skip = set(v),
                ("experimental", "all") => wanted.experimental_all = true,
                ("experimental", v) => wanted.experimental = set(v),
                ("error", v) => {
                    wanted.error = crate::mount::boolean(v)
                        .ok_or_else(|| format!("failed to parse check option {part:?}"))?;
                }
                (other, _) => return Err(format!("invalid check option {other:?}")),
            }
        }
        Ok(wanted)
    }
    /// `# check=` right before an instruction, for it alone. SOURCE: buildkit linter WithMergedConfigFromComments
    fn in_comments(comments: &[String]) -> Option<Wanted> {
        let value = comments.iter().find_map(|comment| {
            let (name, value) = comment.split_once('=')?;
            (name.trim_end() == "check").then(|| value.trim())
        })?;
        Wanted::of(value.split(' ').next().unwrap_or_default()).ok()
    }
    fn with(&self, own: Wanted) -> Wanted {
        let mut all = self.clone();
        all.skip_all |= own.skip_all;
        all.experimental_all |= own.experimental_all;
        all.skip.extend(own.skip);
        all.experimental.extend(own.experimental);
        all
    }
    fn wants(&self, rule: &str) -> bool {
        if rules::EXPERIMENTAL.contains(&rule) {
            self.experimental_all || self.experimental.contains(rule)
        } else {
            !self.skip_all && !self.skip.contains(rule)
        }
    }
}

/// What a stage from nothing begins with. SOURCE: buildkit util/system DefaultPathEnvUnix
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The findings of a file, and whether it asks that they stop the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// By line.
    pub found: Vec<Check>,
    /// `# check=error=true`, and something was found.
    pub stop: bool,
}

/// Where findings go.
pub(crate) struct Findings {
    all: Vec<Check>,
}

impl Findings {
    pub(crate) fn add(&mut self, lines: (usize, usize), rule: &'static str, message: String) {
        self.all.push(Check {
            line: lines.0,
            last: lines.1,
            rule,
            message,
        });
    }
}

/// Checks a file for a build. `image` gives the environment (`NAME=value`) of an image that is at hand; of one that isn't
/// only a variable is told of that looks like a slip of the pen, for the image may set the others. `needed` are the stages that
/// the build makes: what others say is not gone into, only how the file is written.
///
/// # Errors
/// A `# check=` that can't be read, an `ARG` or `FROM` that can't be expanded.
pub fn check(
    file: &Dockerfile,
    build: &Build,
    needed: &BTreeSet<usize>,
    ignore: Option<&Ignore>,
    image: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Result<Checks> {
    let wanted = wanted(file.source.check.as_deref())?;
    let mut found = Findings { all: vec![] };
    found.of_lines(&file.source);
    found.of_file(Some(needed), file, build, ignore, image)?;
    let mut found = found.wanted(&wanted, &file.source);
    found.sort_by_key(|c| c.line);
    let stop = wanted.error && !found.is_empty();
    Ok(Checks { found, stop })
}

/// What is found in a text, and why no more is.
pub(crate) fn gathered(
    text: &str,
    build: &Build,
    ignore: Option<&Ignore>,
    image: &dyn Fn(&str) -> Option<Vec<String>>,
) -> (Vec<Check>, Option<Error>) {
    if text.is_empty() {
        return (vec![], Some(Error::empty()));
    }
    let mut found = Findings { all: vec![] };
    let (mut rules, mut lines) = (Wanted::default(), None);
    let mut gather = || -> Result<()> {
        let source = lines.insert(crate::lines::lines(text)?);
        rules = wanted(source.check.as_deref())?;
        found.of_lines(source);
        let file = Dockerfile::parse(text)?;
        let known = file.target(build.stage.as_deref());
        found.of_file(None, &file, build, ignore, image)?;
        known.map(drop).map_err(|why| Error::new(0, 0, why))
    };
    let error = gather().err();
    let found = lines.map(|lines| found.wanted(&rules, &lines));
    (found.unwrap_or_default(), error)
}

fn wanted(directive: Option<&str>) -> Result<Wanted> {
    match directive {
        Some(text) => Wanted::of(text).map_err(|why| Error::new(1, 1, why)),
        None => Ok(Wanted::default()),
    }
}

impl Findings {
    fn of_lines(&mut self, source: &Lines) {
        for warning in &source.empty_continuations {
            let at = (warning.line, warning.line);
            self.add(at, "NoEmptyContinuation", "Empty continuation line".into());
        }
    }

    /// Without `needed` it is a lint; without a target that is of all stages, and all have to be right.
    fn of_file(
        &mut self,
        needed: Option<&BTreeSet<usize>>,
        file: &Dockerfile,
        build: &Build,
        ignore: Option<&Ignore>,
        image: &dyn Fn(&str) -> Option<Vec<String>>,
    ) -> Result<()> {
        let lint = needed.is_none();
        // in BuildKit's order
        rules::lines(file, self);
        rules::stage_names(file, self);
        rules::casing(file, self);
        let global = Scope::global(file, build)?;
        rules::from(file, build, &global, self)?;
        if lint {
            let all = (0..file.stages.len()).filter(|_| build.stage.is_none());
            crate::bases::named(file, &global, &all.collect::<Vec<_>>())?;
        }
        let mut scopes: Vec<(Scope, bool, bool)> = vec![];
        for (at, stage) in file.stages.iter().enumerate() {
            if needed.is_some_and(|needed| !needed.contains(&at)) {
                // no stage that is needed begins with it
                scopes.push((Scope::of_image(&[]), false, false));
                continue;
            }
            let base = global
                .expand(&stage.base, file.escape)
                .map_err(|e| Error::words(stage.first, stage.last, &e))?;
            // what the base gives: variables, whether all of them are known, whether a WORKDIR was set
            let mut below = None;
            let (mut scope, known, workdir) = match file.base(&base.text, at) {
                Base::Stage(number) => {
                    below = Some(&file.stages[number]);
                    scopes[number].clone()
                }
                Base::Scratch => (Scope::of_image(&[PATH.into()]), true, false),
                Base::Other(name) => {
                    let env = image(&name);
                    let known = env.is_some();
                    (Scope::of_image(&env.unwrap_or_default()), known, false)
                }
            };
            rules::once(stage, self);
            rules::stage(stage, ignore, self);
            let mut follow = vars::Follow {
                lint,
                known,
                workdir,
                scope: &mut scope,
                found: self,
            };
            if let Some(below) = below {
                follow.triggers(file, below, build, &global);
            }
            follow.stage(file, stage, build, &global)?;
            let workdir = follow.workdir;
            scopes.push((scope, known, workdir));
        }
        Ok(())
    }

    /// Those that were asked for, in the order in which they were found, each once.
    fn wanted(self, wanted: &Wanted, source: &Lines) -> Vec<Check> {
        let mut all = self.all;
        all.retain(|c| {
            let line = source
                .lines
                .iter()
                .find(|l| l.first <= c.line && c.line <= l.last);
            match line.and_then(|line| Wanted::in_comments(&line.comments)) {
                Some(own) => wanted.with(own).wants(c.rule),
                None => wanted.wants(c.rule),
            }
        });
        let mut told = BTreeSet::new();
        all.retain(|c| told.insert(c.clone()));
        all
    }
}

/// The one of the variables that is most like `name`.
pub(crate) fn like(scope: &Scope, name: &str) -> Option<String> {
    debug_assert!(scope.get(name).is_none());
    crate::suggest::closest(name, scope.names()).map(str::to_owned)
}
