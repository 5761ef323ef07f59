//! `--call=outline`: what the build of a target asks for. SOURCE: buildkit `frontend/subrequests/outline`,
//! `dockerfile2llb/outline.go`

use super::{Answer, Location, base64, described, go_json, parsed, table::table};
use crate::{
    error::{Error, Result},
    instruction::{Arg, Command},
    mount::{Mount, MountKind},
    scope::{Build, Scope},
    stages::{Base, Dockerfile},
    words::WordsError,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Serialize)]
struct Parameter {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
    location: Location,
}

#[derive(Serialize)]
struct Credential {
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

#[derive(Serialize)]
struct Outline {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Parameter>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Credential>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Credential>,
    sources: Vec<String>,
}

/// Lines of an instruction.
type Lines = (usize, usize);

/// An argument as a stage knows it.
#[derive(Clone)]
struct Known {
    value: String,
    description: String,
    lines: Lines,
    /// The arguments that its default is made of.
    parts: BTreeSet<String>,
}

/// What a stage asks for.
#[derive(Clone, Default)]
struct Asked {
    known: BTreeMap<String, Known>,
    used: BTreeSet<String>,
    /// By their names: is it required?
    secrets: BTreeMap<String, (bool, Lines)>,
    agents: BTreeMap<String, (bool, Lines)>,
}

/// A stage that was gone through.
#[derive(Default)]
struct Gone {
    asked: Asked,
    scope: Scope,
    base: Option<usize>,
    /// The stages that it takes files from.
    from: BTreeSet<usize>,
}

fn at(lines: Lines) -> impl Fn(WordsError) -> Error {
    move |e| Error::words(lines.0, lines.1, &e)
}

/// The arguments, secrets and agents of the build's target, as far as the Dockerfile alone tells them.
///
/// # Errors
/// A Dockerfile that can't be read, a target that isn't there.
pub fn outline(text: &str, build: &Build) -> Result<Answer> {
    let file = parsed(text)?;
    let target = file.target(build.stage.as_deref());
    let target = target.map_err(|why| Error::new(0, 0, why))?;
    let (global, known) = arguments(&file, build)?;
    crate::bases::named(&file, &global, &[])?;
    let mut gone: Vec<Gone> = vec![];
    for stage in 0..=target {
        let next = go_through(&file, build, &global, &known, &gone, stage)?;
        gone.push(next);
    }
    let needed = needed(&gone, target);
    crate::bases::named(&file, &global, &needed)?;
    Ok(answer(text, &file, &gone, &needed))
}

/// The arguments before the first `FROM`.
fn arguments(file: &Dockerfile, build: &Build) -> Result<(Scope, BTreeMap<String, Known>)> {
    let global = Scope::global(file, build)?;
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    for (number, (line, arg)) in file.global.iter().enumerate() {
        let before = Dockerfile {
            global: file.global[..number].to_vec(),
            ..file.clone()
        };
        let mut parts = BTreeSet::new();
        let mut value = build.args.get(&arg.key).cloned();
        if let (None, Some(default)) = (&value, &arg.default) {
            let so_far = Scope::global(&before, build)?;
            let expanded = so_far.expand(default, file.escape);
            let expanded = expanded.map_err(at((*line, *line)))?;
            parts = expanded.used;
            if parts.remove(&arg.key)
                && let Some(old) = known.get(&arg.key)
            {
                parts.extend(old.parts.iter().cloned());
            }
            value = Some(expanded.text);
        }
        let told = Known {
            value: value.unwrap_or_default(),
            description: described(file, *line, &arg.key),
            lines: file.lines_at(*line),
            parts,
        };
        known.insert(arg.key.clone(), told);
    }
    Ok((global, known))
}

fn go_through(
    file: &Dockerfile,
    build: &Build,
    global: &Scope,
    known: &BTreeMap<String, Known>,
    before: &[Gone],
    number: usize,
) -> Result<Gone> {
    let stage = &file.stages[number];
    let lines = (stage.first, stage.last);
    let base = global.expand(&stage.base, file.escape).map_err(at(lines))?;
    let mut used = base.used;
    if let Some(platform) = &stage.platform {
        let platform = global.expand(platform, file.escape).map_err(at(lines))?;
        used.extend(platform.used);
    }
    let mut gone = Gone::default();
    gone.asked.known = known.clone();
    if let Base::Stage(below) = file.base(&base.text, number) {
        // what its own FROM is made of counts for those on top; the rest is listed with it
        gone.asked.used = before[below].asked.used.clone();
        gone.scope = before[below].scope.clone();
        gone.base = Some(below);
    }
    gone.asked.used.extend(used);
    for instruction in &stage.instructions {
        let lines = (instruction.first, instruction.last);
        match &instruction.command {
            Command::Arg(all) => {
                for arg in all {
                    gone.declare(file, build, global, arg, lines)?;
                }
            }
            Command::Env(pairs) => {
                gone.scope.env(pairs, file.escape).map_err(at(lines))?;
            }
            Command::Copy(copy) => gone.takes(file, copy.from.as_deref(), number),
            Command::Run(run) => {
                let scope = &gone.scope;
                let mut expand = |text: &str| {
                    let expanded = scope.expand(text, file.escape);
                    expanded.map(|e| e.text).map_err(|e| e.to_string())
                };
                let mounts = run.mounts(&mut expand);
                for mount in mounts.map_err(|why| Error::new(lines.0, lines.1, why))? {
                    gone.takes(file, Some(&mount.from), number);
                    gone.asked.lend(&mount, lines);
                }
            }
            _ => {}
        }
    }
    Ok(gone)
}

impl Gone {
    /// SOURCE: dockerfile2llb dispatchArg
    fn declare(
        &mut self,
        file: &Dockerfile,
        build: &Build,
        global: &Scope,
        arg: &Arg,
        lines: Lines,
    ) -> Result<()> {
        use crate::words::Env;
        let inherited = arg.default.is_none()
            && !build.args.contains_key(&arg.key)
            && global.get(&arg.key).is_some();
        let value = self.scope.arg(arg, global, build, file.escape);
        let value = value.map_err(at(lines))?.unwrap_or_default();
        if !inherited {
            let told = Known {
                value,
                description: described(file, lines.0, &arg.key),
                lines,
                parts: BTreeSet::new(),
            };
            self.asked.known.insert(arg.key.clone(), told);
        }
        self.asked.used.insert(arg.key.clone());
        Ok(())
    }

    fn takes(&mut self, file: &Dockerfile, from: Option<&str>, number: usize) {
        let named = from.filter(|name| !name.is_empty());
        if let Some(Ok(Base::Stage(other))) = named.map(|name| file.from(name, number)) {
            self.from.insert(other);
        }
    }
}

impl Asked {
    /// SOURCE: dockerfile2llb dispatchSecret, dispatchSSH: the first place counts
    fn lend(&mut self, mount: &Mount, lines: Lines) {
        let (all, name) = match mount.kind {
            MountKind::Secret => {
                let last = mount.target.rsplit('/').next().unwrap_or_default();
                let named = [mount.source.as_str(), &mount.id, last];
                let name = named.into_iter().find(|name| !name.is_empty());
                (&mut self.secrets, name.unwrap_or_default())
            }
            MountKind::Ssh if mount.id.is_empty() => (&mut self.agents, "default"),
            MountKind::Ssh => (&mut self.agents, mount.id.as_str()),
            _ => return,
        };
        let told = all.entry(name.to_owned());
        told.or_insert((mount.required, lines));
    }

    /// The used arguments with what they are made of.
    fn whole(&self) -> BTreeSet<&str> {
        let mut all = BTreeSet::new();
        let mut open: Vec<&str> = self.used.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            if all.insert(name)
                && let Some(known) = self.known.get(name)
            {
                open.extend(known.parts.iter().map(String::as_str));
            }
        }
        all
    }
}

/// The target, then what it is made of: who comes first tells a name's value.
fn needed(gone: &[Gone], target: usize) -> Vec<usize> {
    let (mut order, mut open) = (vec![], vec![target]);
    while let Some(next) = open.pop() {
        if order.contains(&next) {
            continue;
        }
        order.push(next);
        open.extend(gone[next].from.iter().rev());
        open.extend(gone[next].base);
    }
    order
}

/// `needed` begins with the target.
fn answer(text: &str, file: &Dockerfile, gone: &[Gone], needed: &[usize]) -> Answer {
    let mut args: BTreeMap<&str, &Known> = BTreeMap::new();
    let mut secrets: BTreeMap<&str, (bool, Lines)> = BTreeMap::new();
    let mut agents = secrets.clone();
    for asked in needed.iter().map(|stage| &gone[*stage].asked) {
        for name in asked.whole() {
            if let Some(known) = asked.known.get(name) {
                args.entry(name).or_insert(known);
            }
        }
        for (into, of) in [(&mut secrets, &asked.secrets), (&mut agents, &asked.agents)] {
            for (name, told) in of {
                into.entry(name).or_insert(*told);
            }
        }
    }
    let mut args: Vec<Parameter> = args
        .into_iter()
        .map(|(name, known)| Parameter {
            name: name.to_owned(),
            description: known.description.clone(),
            value: known.value.clone(),
            location: Location::of(known.lines.0, known.lines.1),
        })
        .collect();
    args.sort_by_key(|arg| arg.location.line());
    let stage = &file.stages[needed[0]];
    let outline = Outline {
        name: stage.name.clone(),
        description: described(file, stage.first, &stage.name),
        args,
        secrets: credentials(secrets),
        ssh: credentials(agents),
        sources: vec![base64(text)],
    };
    Answer {
        json: go_json(&outline),
        text: outline.text(),
        warnings: 0,
        status: 0,
        error: None,
    }
}

fn credentials(all: BTreeMap<&str, (bool, Lines)>) -> Vec<Credential> {
    let all = all.into_iter().map(|(name, (required, lines))| Credential {
        name: name.to_owned(),
        required,
        location: Location::of(lines.0, lines.1),
    });
    let mut all: Vec<Credential> = all.collect();
    all.sort_by_key(|one| one.location.line());
    all
}

impl Outline {
    fn text(&self) -> String {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let mut text = String::new();
        if !self.name.is_empty() {
            let mut rows = vec![row(&["TARGET:", &self.name])];
            if !self.description.is_empty() {
                rows.push(row(&["DESCRIPTION:", &self.description]));
            }
            text += &format!("{}\n", table(1, &rows));
        }
        if !self.args.is_empty() {
            let mut rows = vec![row(&["BUILD ARG", "VALUE", "DESCRIPTION"])];
            let args = self.args.iter();
            rows.extend(args.map(|a| row(&[&a.name, &a.value, &a.description])));
            text += &format!("{}\n", table(3, &rows));
        }
        for (head, all) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if all.is_empty() {
                continue;
            }
            let mut rows = vec![row(&[head, "REQUIRED"])];
            let said = |one: &Credential| if one.required { "true" } else { "" };
            rows.extend(all.iter().map(|one| row(&[&one.name, said(one)])));
            text += &format!("{}\n", table(3, &rows));
        }
        text
    }
}
