//! The build checks: what works and should be written otherwise (Docker's "Build checks"; BuildKit
//! `frontend/dockerfile/linter`).

mod expose;
mod rules;
mod vars;

use std::collections::BTreeSet;

use crate::{
    error::Result,
    ignore::Ignore,
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
    fn wants(&self, rule: &str) -> bool {
        if rules::EXPERIMENTAL.contains(&rule) {
            self.experimental_all || self.experimental.contains(rule)
        } else {
            !self.skip_all && !self.skip.contains(rule)
        }
    }
}

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
/// only a variable is told of that looks like a slip of the pen, for the image may set the others.
///
/// # Errors
/// A `# check=` that can't be read, an `ARG` or `FROM` that can't be expanded.
pub fn check(
    file: &Dockerfile,
    build: &Build,
    ignore: Option<&Ignore>,
    image: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Result<Checks> {
    let wanted = match &file.source.check {
        Some(text) => Wanted::of(text).map_err(|why| crate::error::Error::new(1, 1, why))?,
        None => Wanted::default(),
    };
    let mut found = Findings { all: vec![] };
    for warning in &file.source.empty_continuations {
        let at = (warning.line, warning.line);
        found.add(at, "NoEmptyContinuation", "Empty continuation line".into());
    }
    rules::casing(file, &mut found);
    rules::stage_names(file, &mut found);
    rules::comments(file, &mut found);
    let global = Scope::global(file, build)?;
    rules::from(file, build, &global, &mut found)?;
    let mut scopes: Vec<(Scope, bool, bool)> = vec![];
    for (at, stage) in file.stages.iter().enumerate() {
        let base = global
            .expand(&stage.base, file.escape)
            .map_err(|e| crate::error::Error::words(stage.first, stage.last, &e))?;
        // what the base gives: variables, whether all of them are known, whether a WORKDIR was set
        let (mut scope, known, mut workdir) = match file.base(&base.text, at) {
            Base::Stage(number) => scopes[number].clone(),
            Base::Scratch => (Scope::default(), true, false),
            Base::Other(name) => {
                let env = image(&name);
                let known = env.is_some();
                (Scope::of_image(&env.unwrap_or_default()), known, false)
            }
        };
        rules::once(stage, &mut found);
        rules::stage(stage, ignore, &mut workdir, &mut found);
        vars::stage(file, stage, build, &global, known, &mut scope, &mut found)?;
        scopes.push((scope, known, workdir));
    }
    let mut all = found.all;
    all.retain(|c| wanted.wants(c.rule));
    all.sort();
    all.dedup();
    let stop = wanted.error && !all.is_empty();
    Ok(Checks { found: all, stop })
}

/// The one of the variables that is most like `name`.
pub(crate) fn like(scope: &Scope, name: &str) -> Option<String> {
    debug_assert!(scope.get(name).is_none());
    crate::suggest::closest(name, scope.names()).map(str::to_owned)
}
