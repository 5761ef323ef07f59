//! UndefinedVar, WorkdirRelativePath, ExposeProtoCasing and ExposeInvalidFormat: variables are followed through a stage.

use std::collections::BTreeSet;

use crate::{
    Heredoc,
    checks::{Findings, expose},
    error::{Error, Result},
    instruction::{Command, Instruction},
    scope::{Build, Scope},
    stages::{Dockerfile, Stage},
    words::{Expanded, WordsError},
};

/// What is known at an instruction.
pub(crate) struct Follow<'a> {
    /// All is looked at, so what can't be read is told.
    pub(crate) lint: bool,
    /// All variables of the base image are.
    pub(crate) known: bool,
    /// There was a `WORKDIR`.
    pub(crate) workdir: bool,
    pub(crate) scope: &'a mut Scope,
    pub(crate) found: &'a mut Findings,
}

impl Follow<'_> {
    /// Looks at all words that are expanded, and keeps the scope up to date.
    pub(crate) fn stage(
        &mut self,
        file: &Dockerfile,
        stage: &Stage,
        build: &Build,
        global: &Scope,
    ) -> Result<()> {
        for i in &stage.instructions {
            let wrong = |e: WordsError| Error::words(i.first, i.last, &e);
            // `${x:?…}` of an image's variable may well be set when it is built: what can't be expanded is passed over
            for word in expanded(&i.command) {
                match self.scope.expand(word, file.escape) {
                    Ok(result) => self.unset(i, &result.unset),
                    Err(e) if self.lint && e.is_open() => return Err(wrong(e)),
                    Err(_) => {}
                }
            }
            for document in documents(&i.command) {
                if let Ok(result) = self.scope.expand_heredoc(&document.text()) {
                    self.unset(i, &result.unset);
                }
            }
            match &i.command {
                // each knows those before it
                Command::Arg(all) => {
                    for arg in all {
                        let default = arg.default.as_deref().unwrap_or_default();
                        if let Ok(result) = self.scope.expand(default, file.escape) {
                            self.unset(i, &result.unset);
                        }
                        let set = self.scope.arg(arg, global, build, file.escape);
                        set.map_err(wrong)?;
                    }
                }
                Command::Env(pairs) => {
                    self.scope.env(pairs, file.escape).map_err(wrong)?;
                }
                Command::Workdir(path) => self.relative(i, path, file),
                // a variable that isn't set is no port: BuildKit does not tell of it
                Command::Expose(ports) => {
                    let ports = ports.iter().map(|port| {
                        let expanded = self.scope.expand(port, file.escape).ok();
                        let known = |e: &Expanded| self.known || e.unset.is_empty();
                        expanded.filter(known).map(|e| e.words).unwrap_or_default()
                    });
                    let ports: Vec<String> = ports.flatten().collect();
                    expose::ports((i.first, i.last), &ports, self.found);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the `ONBUILD`s of the stage below set.
    pub(crate) fn triggers(
        &mut self,
        file: &Dockerfile,
        below: &Stage,
        build: &Build,
        global: &Scope,
    ) {
        for i in &below.instructions {
            let Command::Onbuild(text) = &i.command else {
                continue;
            };
            // one that is wrong is told where it is carried out
            let Ok(parsed) = Dockerfile::parse(&format!("FROM scratch\n{text}\n")) else {
                continue;
            };
            for trigger in parsed.stages.iter().flat_map(|s| &s.instructions) {
                match &trigger.command {
                    Command::Arg(all) => all.iter().for_each(|arg| {
                        let _ = self.scope.arg(arg, global, build, file.escape);
                    }),
                    Command::Env(pairs) => drop(self.scope.env(pairs, file.escape)),
                    _ => {}
                }
            }
        }
    }

    fn unset(&mut self, i: &Instruction, names: &BTreeSet<String>) {
        for name in names.iter().filter(|n| !self.scope.knows(n)) {
            let like = super::like(self.scope, name);
            if self.known || like.is_some() {
                undefined(i, name, like, self.found);
            }
        }
    }

    /// Only the first one of a stage is looked at: with it the others are mended, too.
    ///
    /// SOURCE: buildkit dockerfile2llb dispatchWorkdir
    fn relative(&mut self, i: &Instruction, path: &str, file: &Dockerfile) {
        if std::mem::replace(&mut self.workdir, true) {
            return;
        }
        let Ok(expanded) = self.scope.expand(path, file.escape) else {
            return;
        };
        let told = self.known || expanded.unset.is_empty();
        if told && !expanded.text.starts_with('/') {
            let message = format!(
                "Relative workdir {:?} can have unexpected results if the base image changes",
                expanded.text
            );
            self.found
                .add((i.first, i.last), "WorkdirRelativePath", message);
        }
    }
}

fn undefined(i: &Instruction, name: &str, like: Option<String>, found: &mut Findings) {
    let hint = like.map_or_else(String::new, |k| format!(" (did you mean ${k}?)"));
    let message = format!("Usage of undefined variable '${name}'{hint}");
    found.add((i.first, i.last), "UndefinedVar", message);
}

/// Files in the Dockerfile itself, in which variables are replaced.
fn documents(command: &Command) -> impl Iterator<Item = &Heredoc> {
    let all = match command {
        Command::Add(add) => add.sources.inline.as_slice(),
        Command::Copy(copy) => copy.sources.inline.as_slice(),
        _ => &[],
    };
    all.iter().filter(|document| document.expand)
}

/// The words of an instruction in which variables are replaced before it is carried out; the shell does the rest.
fn expanded(command: &Command) -> Vec<&str> {
    match command {
        Command::Add(a) => [&a.chown, &a.chmod, &a.checksum]
            .into_iter()
            .flatten()
            .chain(&a.sources.paths)
            .chain([&a.sources.destination])
            .map(String::as_str)
            .collect(),
        Command::Copy(c) => [&c.chown, &c.chmod]
            .into_iter()
            .flatten()
            .chain(&c.sources.paths)
            .chain([&c.sources.destination])
            .map(String::as_str)
            .collect(),
        Command::Env(pairs) | Command::Label(pairs) => pairs
            .iter()
            .flat_map(|p| [p.key.as_str(), p.value.as_str()])
            .collect(),
        Command::Volume(all) => all.iter().map(String::as_str).collect(),
        Command::StopSignal(one) | Command::User(one) | Command::Workdir(one) => vec![one],
        _ => vec![],
    }
}
