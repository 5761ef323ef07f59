//! UndefinedVar: variables are followed through a stage.

use crate::{
    checks::Findings,
    error::{Error, Result},
    instruction::{Command, Instruction},
    scope::{Build, Scope},
    stages::{Dockerfile, Stage},
    words::WordsError,
};

/// Looks at all words that are expanded, and keeps `scope` up to date.
pub(crate) fn stage(
    file: &Dockerfile,
    stage: &Stage,
    build: &Build,
    global: &Scope,
    known: bool,
    scope: &mut Scope,
    found: &mut Findings,
) -> Result<()> {
    for i in &stage.instructions {
        let wrong = |e: WordsError| Error::words(i.first, i.last, &e);
        for word in expanded(&i.command) {
            // `${x:?…}` of an image's variable may well be set when it is built
            let Ok(result) = scope.expand(word, file.escape) else {
                continue;
            };
            for name in result.unset.iter().filter(|n| !scope.knows(n)) {
                let like = super::like(scope, name);
                if known || like.is_some() {
                    undefined(i, name, like, found);
                }
            }
        }
        match &i.command {
            Command::Arg(all) => {
                for arg in all {
                    scope.arg(arg, global, build, file.escape).map_err(wrong)?;
                }
            }
            Command::Env(pairs) => {
                scope.env(pairs, file.escape).map_err(wrong)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn undefined(i: &Instruction, name: &str, like: Option<String>, found: &mut Findings) {
    let hint = like.map_or_else(String::new, |k| format!(" (did you mean ${k}?)"));
    let message = format!("Usage of undefined variable '${name}'{hint}");
    found.add((i.first, i.last), "UndefinedVar", message);
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
        Command::Arg(all) => all.iter().filter_map(|a| a.default.as_deref()).collect(),
        Command::Env(pairs) | Command::Label(pairs) => pairs
            .iter()
            .flat_map(|p| [p.key.as_str(), p.value.as_str()])
            .collect(),
        Command::Expose(all) | Command::Volume(all) => all.iter().map(String::as_str).collect(),
        Command::StopSignal(one) | Command::User(one) | Command::Workdir(one) => vec![one],
        _ => vec![],
    }
}
