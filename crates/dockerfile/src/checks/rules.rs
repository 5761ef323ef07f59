//! Rules that look at one stage, or at the file as it is written.

use crate::{
    checks::Findings,
    error::{Error, Result},
    ignore::Ignore,
    instruction::{Command, CommandLine},
    lines::Line,
    platform::Platform,
    scope::{Build, Scope},
    stages::{Dockerfile, Stage},
    words::Env,
};

/// Rules that are off unless the file turns them on.
pub(crate) const EXPERIMENTAL: [&str; 1] = ["InvalidDefinitionDescription"];

fn is_lower(s: &str) -> bool {
    s == s.to_lowercase()
}

fn is_upper(s: &str) -> bool {
    s == s.to_uppercase()
}

/// MaintainerDeprecated, StageNameCasing, FromAsCasing, InvalidDefinitionDescription.
pub(crate) fn lines(file: &Dockerfile, found: &mut Findings) {
    for line in &file.source.lines {
        let at = (line.first, line.last);
        match line.name().as_str() {
            "MAINTAINER" => {
                let message = "Maintainer instruction is deprecated in favor of using label";
                found.add(at, "MaintainerDeprecated", message.into());
            }
            "FROM" => from_casing(line, found),
            _ => {}
        }
        description(line, found);
    }
}

fn from_casing(line: &Line, found: &mut Findings) {
    let at = (line.first, line.last);
    let args = crate::split::blanks(&line.rest);
    let [_, keyword, name] = args.as_slice() else {
        return;
    };
    if !is_lower(name) {
        let message = format!("Stage name '{name}' should be lowercase");
        found.add(at, "StageNameCasing", message);
    }
    let word = &line.keyword;
    if (is_lower(word) && !is_lower(keyword)) || (is_upper(word) && !is_upper(keyword)) {
        let message = format!("'{keyword}' and '{word}' keywords' casing do not match");
        found.add(at, "FromAsCasing", message);
    }
}

/// ConsistentInstructionCasing.
pub(crate) fn casing(file: &Dockerfile, found: &mut Findings) {
    let from_first = file.source.lines.iter().skip_while(|l| l.name() != "FROM");
    let lowers = from_first.clone().filter(|l| is_lower(&l.keyword)).count();
    let uppers = from_first.clone().filter(|l| is_upper(&l.keyword)).count();
    let most_lower = lowers > uppers;
    for line in from_first {
        let word = &line.keyword;
        let should = match most_lower {
            true if !is_lower(word) => Some("lowercase"),
            false if !is_upper(word) => Some("uppercase"),
            _ => None,
        };
        if let Some(should) = should {
            let message = format!(
                "Command '{word}' should match the case of the command majority ({should})"
            );
            let at = (line.first, line.last);
            found.add(at, "ConsistentInstructionCasing", message);
        }
    }
}

/// DuplicateStageName, ReservedStageName.
pub(crate) fn stage_names(file: &Dockerfile, found: &mut Findings) {
    for (i, stage) in file.stages.iter().enumerate() {
        let (at, name) = ((stage.first, stage.last), &stage.name);
        if name == "context" || name == "scratch" {
            let message =
                format!("Stage name should not use the same name as reserved stage {name:?}");
            found.add(at, "ReservedStageName", message);
        }
        if !name.is_empty() && file.stages[..i].iter().any(|s| s.name == *name) {
            let message = format!("Duplicate stage name {name:?}, stage names should be unique");
            found.add(at, "DuplicateStageName", message);
        }
    }
}

/// InvalidDefinitionDescription.
fn description(line: &Line, found: &mut Findings) {
    let Some(comment) = line.comments.last() else {
        return;
    };
    let name = line.name();
    let words = crate::split::blanks(&line.rest);
    let defined: Vec<String> = match name.as_str() {
        "FROM" => words.get(2).map(|n| n.to_lowercase()).into_iter().collect(),
        "ARG" => words
            .iter()
            .map(|a| a.split('=').next().unwrap_or_default().to_owned())
            .collect(),
        _ => return,
    };
    let says = comment.split(' ').next().unwrap_or_default();
    if defined.is_empty() || defined.iter().any(|d| d == says) {
        return;
    }
    let example = match defined.as_slice() {
        [one] => one,
        _ => "<arg_key>",
    };
    let message =
        format!("Comment for {name} should follow the format: `# {example} <description>`");
    found.add(
        (line.first, line.last),
        "InvalidDefinitionDescription",
        message,
    );
}

/// UndefinedArgInFrom, InvalidDefaultArgInFrom, RedundantTargetPlatform, FromPlatformFlagConstDisallowed.
pub(crate) fn from(
    file: &Dockerfile,
    build: &Build,
    global: &Scope,
    found: &mut Findings,
) -> Result<()> {
    let plain = Build {
        args: Default::default(),
        ..build.clone()
    };
    let defaults = Scope::global(file, &plain)?;
    for stage in &file.stages {
        let wrong = |e| Error::words(stage.first, stage.last, &e);
        let base = defaults.expand(&stage.base, file.escape).map_err(wrong)?;
        if !reference(&base.text) {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.base
            );
            found.add(
                (stage.first, stage.last),
                "InvalidDefaultArgInFrom",
                message,
            );
        }
    }
    for stage in &file.stages {
        let at = (stage.first, stage.last);
        let wrong = |e| Error::words(stage.first, stage.last, &e);
        let mut unset = global
            .expand(&stage.base, file.escape)
            .map_err(wrong)?
            .unset;
        if let Some(platform) = &stage.platform {
            let expanded = global.expand(platform, file.escape).map_err(wrong)?;
            let only_target =
                expanded.used.iter().eq(["TARGETPLATFORM"]) && expanded.unset.is_empty();
            if only_target && global.get("TARGETPLATFORM") == Some(&expanded.text) {
                let message = format!(
                    "Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
                );
                found.add(at, "RedundantTargetPlatform", message);
            }
            let constant = expanded.used.is_empty() && expanded.unset.is_empty();
            if constant
                && let Ok(p) = Platform::parse(&expanded.text)
                && !stage.name.contains(&p.os)
                && !stage.name.contains(&p.architecture)
            {
                let message = format!(
                    "FROM --platform flag should not use constant value {:?}",
                    expanded.text
                );
                found.add(at, "FromPlatformFlagConstDisallowed", message);
            }
            unset.extend(expanded.unset);
        }
        for name in unset.iter().filter(|n| !global.knows(n)) {
            let hint = super::like(global, name)
                .map_or_else(String::new, |k| format!(" (did you mean {k}?)"));
            let message = format!("FROM argument '{name}' is not declared{hint}");
            found.add(at, "UndefinedArgInFrom", message);
        }
    }
    Ok(())
}

/// Could it name an image (distribution's reference grammar, without its finer points)?
pub(crate) fn reference(text: &str) -> bool {
    let (name, _digest) = text.split_once('@').unwrap_or((text, ""));
    let last = name.rsplit('/').next().unwrap_or_default();
    let (name, tag) = match last.split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let mut parts = name.split('/').peekable();
    let host = |p: &str| p.contains('.') || p.contains(':') || p == "localhost";
    if let Some(first) = parts.peek().copied()
        && name.contains('/')
        && host(first)
    {
        parts.next();
    }
    let part = |p: &str| {
        !p.is_empty()
            && p.chars().all(of)
            && p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    parts.all(part)
        && tag.is_none_or(|t| {
            !t.is_empty()
                && t.len() <= 128
                && !t.starts_with(['.', '-'])
                && t.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        })
}

/// MultipleInstructionsDisallowed: the earlier ones count for nothing.
pub(crate) fn once(stage: &Stage, found: &mut Findings) {
    for name in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
        let mut last = None;
        for i in stage
            .instructions
            .iter()
            .filter(|i| i.command.name() == name)
        {
            if let Some(at) = last.replace((i.first, i.last)) {
                let message = format!(
                    "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
                );
                found.add(at, "MultipleInstructionsDisallowed", message);
            }
        }
    }
}

/// JSONArgsRecommended, LegacyKeyValueFormat, SecretsUsedInArgOrEnv, CopyIgnoredFile.
pub(crate) fn stage(stage: &Stage, ignore: Option<&Ignore>, found: &mut Findings) {
    let mut shell = false;
    for i in &stage.instructions {
        let at = (i.first, i.last);
        let name = i.command.name();
        match &i.command {
            Command::Shell(_) => shell = true,
            Command::Cmd(CommandLine::Shell(_)) | Command::Entrypoint(CommandLine::Shell(_))
                if !shell =>
            {
                let message = format!(
                    "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
                );
                found.add(at, "JSONArgsRecommended", message);
            }
            Command::Env(pairs) | Command::Label(pairs) => {
                if pairs.iter().any(|p| p.legacy) {
                    // as it is written
                    let name = i.original.split_whitespace().next().unwrap_or(name);
                    let message = format!(
                        "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                    );
                    found.add(at, "LegacyKeyValueFormat", message);
                }
                if name == "ENV" {
                    pairs.iter().for_each(|p| secret(at, name, &p.key, found));
                }
            }
            Command::Arg(all) => all.iter().for_each(|a| secret(at, name, &a.key, found)),
            Command::Copy(copy) if copy.from.is_none() => {
                ignored(at, "Copy", &copy.sources.paths, ignore, found);
            }
            Command::Add(add) => {
                let local = |p: &&String| !p.contains("://") && !p.starts_with("git@");
                let paths: Vec<String> = add.sources.paths.iter().filter(local).cloned().collect();
                ignored(at, "Add", &paths, ignore, found);
            }
            _ => {}
        }
    }
}

fn secret(at: (usize, usize), instruction: &str, key: &str, found: &mut Findings) {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    let low = key.to_lowercase();
    let has = |words: &[&str]| low.split('_').any(|part| words.contains(&part));
    if has(&SECRET) && !has(&["public", "file", "version"]) {
        let message = format!(
            "Do not use ARG or ENV instructions for sensitive data ({instruction} {key:?})"
        );
        found.add(at, "SecretsUsedInArgOrEnv", message);
    }
}

fn ignored(
    at: (usize, usize),
    verb: &str,
    paths: &[String],
    ignore: Option<&Ignore>,
    found: &mut Findings,
) {
    // which files an exception keeps can't be told without looking
    let Some(ignore) = ignore.filter(|i| !i.has_exceptions()) else {
        return;
    };
    for path in paths {
        let mut parts = vec![];
        for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
            if part == ".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        let clean = parts.join("/");
        let out = if clean.is_empty() {
            ignore.leaves_out_all()
        } else {
            ignore.leaves_out(&clean)
        };
        if out {
            let shown = if clean.is_empty() { "." } else { &clean };
            let message =
                format!("Attempting to {verb} file {shown:?} that is excluded by .dockerignore");
            found.add(at, "CopyIgnoredFile", message);
        }
    }
}
