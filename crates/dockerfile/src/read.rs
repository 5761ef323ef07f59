//! A line to what it says; the arguments of each keyword in their own form.

use crate::{
    flags::Flags,
    heredoc::Heredoc,
    instruction::{
        Add, Arg, Command, CommandLine, Copy, Health, KEYWORDS, KeyValue, Network, Run, Security,
        Sources,
    },
    lines::{Json, Line, json},
    mount::Mount,
    split, suggest,
    words::Escape,
};

type Answer<T> = Result<T, String>;

/// `FROM`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct From {
    /// Image or stage, with its variables.
    pub base: String,
    /// Lower case; "" for none.
    pub name: String,
    /// `--platform=`, with its variables.
    pub platform: Option<String>,
}

const ONLY_STRINGS: &str = "when using JSON array syntax, arrays must be comprised of strings only";

/// What one line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    From(From),
    Command(Command),
}

/// What is wrong with an instruction.
pub(crate) struct Wrong {
    pub(crate) why: String,
    /// BuildKit finds it before or after it reads the instruction's arguments, and says it otherwise.
    pub(crate) elsewhere: bool,
}

impl std::convert::From<String> for Wrong {
    fn from(why: String) -> Wrong {
        // SOURCE: buildkit frontend/dockerfile/parser/line_parsers.go: arrays are read before it is known whose they are
        let elsewhere = why == ONLY_STRINGS;
        Wrong { why, elsewhere }
    }
}

fn elsewhere(why: String) -> Wrong {
    Wrong {
        why,
        elsewhere: true,
    }
}

/// Names and values are told apart before the names are looked at.
fn pairs(line: &Line, name: &str, escape: Escape) -> Result<Vec<KeyValue>, Wrong> {
    key_values(line, name, escape).map_err(|why| {
        let early = why.starts_with("Syntax error") || why.ends_with("must have two arguments");
        Wrong {
            why,
            elsewhere: early,
        }
    })
}

/// Reads an instruction's arguments.
pub(crate) fn read(line: &Line, escape: Escape) -> Result<Read, Wrong> {
    let name = line.name();
    let mut flags = Flags::of(&line.flags);
    let command = match name.as_str() {
        "FROM" => {
            let from = from(line, &mut flags)?;
            flags.end()?;
            return Ok(Read::From(from));
        }
        "ADD" => Command::Add(add(line, &mut flags)?),
        "ARG" => Command::Arg(arg(line, escape)?),
        "CMD" => Command::Cmd(command_line(line)?),
        "COPY" => Command::Copy(copy(line, &mut flags)?),
        "ENTRYPOINT" => Command::Entrypoint(command_line(line)?),
        "ENV" => Command::Env(pairs(line, "ENV", escape)?),
        "EXPOSE" => {
            let mut ports = list(line, "EXPOSE")?;
            ports.sort();
            Command::Expose(ports)
        }
        "HEALTHCHECK" => Command::Health(health(line, &mut flags)?),
        "LABEL" => Command::Label(pairs(line, "LABEL", escape)?),
        "MAINTAINER" => Command::Maintainer(one(line, "MAINTAINER")?),
        "ONBUILD" => Command::Onbuild(onbuild(line, escape)?),
        "RUN" => Command::Run(run(line, &mut flags)?),
        "SHELL" => Command::Shell(shell(line)?),
        "STOPSIGNAL" => Command::StopSignal(one(line, "STOPSIGNAL")?),
        "USER" => Command::User(one(line, "USER")?),
        "VOLUME" => Command::Volume(volumes(line)?),
        "WORKDIR" => Command::Workdir(one(line, "WORKDIR")?),
        _ => {
            let hint = suggest::hint(&name, KEYWORDS);
            return Err(format!("unknown instruction: {}{hint}", line.keyword).into());
        }
    };
    flags.end()?;
    Ok(Read::Command(command))
}

fn at_least_one(name: &str) -> String {
    format!("{name} requires at least one argument")
}

fn one(line: &Line, name: &str) -> Answer<String> {
    match line.rest.as_str() {
        "" => Err(format!("{name} requires exactly one argument")),
        rest => Ok(rest.to_owned()),
    }
}

fn list(line: &Line, name: &str) -> Answer<Vec<String>> {
    match line.rest.as_str() {
        "" => Err(at_least_one(name)),
        rest => Ok(split::blanks(rest)),
    }
}

/// A JSON array, or words between blanks.
fn json_or_list(line: &Line) -> Answer<Vec<String>> {
    match json(&line.rest) {
        Json::Strings(all) => Ok(all),
        Json::OtherArray => Err(only_strings()),
        Json::No if line.rest.is_empty() => Ok(vec![]),
        Json::No => Ok(split::blanks(&line.rest)),
    }
}

fn only_strings() -> String {
    ONLY_STRINGS.into()
}

fn command_of(rest: &str) -> Answer<CommandLine> {
    Ok(match json(rest) {
        Json::Strings(all) => CommandLine::Exec(all),
        Json::OtherArray => return Err(only_strings()),
        Json::No => CommandLine::Shell(rest.to_owned()),
    })
}

fn command_line(line: &Line) -> Answer<CommandLine> {
    command_of(&line.rest)
}

fn from(line: &Line, flags: &mut Flags<'_>) -> Answer<From> {
    let args = match line.rest.as_str() {
        "" => vec![],
        rest => split::blanks(rest),
    };
    let name = match args.as_slice() {
        [_] => String::new(),
        [_, word, name] if word.eq_ignore_ascii_case("as") => {
            let low = name.to_lowercase();
            let starts = low.starts_with(|c: char| c.is_ascii_lowercase());
            let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
            if !starts || !low.chars().all(of) {
                return Err(format!(
                    "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
                ));
            }
            low
        }
        _ => return Err("FROM requires either one or three arguments".into()),
    };
    Ok(From {
        base: args[0].clone(),
        name,
        platform: flags.text("platform")?,
    })
}

fn sources(line: &Line, name: &str) -> Answer<Sources> {
    let mut args = json_or_list(line)?;
    let destination = match args.pop() {
        Some(destination) if !args.is_empty() => destination,
        _ => {
            return Err(format!(
                "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
            ));
        }
    };
    if matches!(Heredoc::start(&destination), Ok(Some(_))) {
        return Err(format!("{name} cannot accept a heredoc as a destination"));
    }
    let mut found = Sources {
        paths: vec![],
        inline: vec![],
        destination,
    };
    for arg in args {
        match Heredoc::start(&arg) {
            Ok(Some(start)) => found
                .inline
                .extend(line.heredocs.iter().find(|h| h.name == start.name).cloned()),
            _ => found.paths.push(arg),
        }
    }
    Ok(found)
}

fn add(line: &Line, flags: &mut Flags<'_>) -> Answer<Add> {
    Ok(Add {
        sources: sources(line, "ADD")?,
        chown: flags.text("chown")?,
        chmod: flags.text("chmod")?,
        checksum: flags.text("checksum")?,
        link: flags.switch("link")?.unwrap_or(false),
        keep_git_dir: flags.switch("keep-git-dir")?,
        unpack: flags.switch("unpack")?,
        exclude: flags.all("exclude")?,
    })
}

fn copy(line: &Line, flags: &mut Flags<'_>) -> Answer<Copy> {
    Ok(Copy {
        sources: sources(line, "COPY")?,
        from: flags.text("from")?,
        chown: flags.text("chown")?,
        chmod: flags.text("chmod")?,
        link: flags.switch("link")?.unwrap_or(false),
        parents: flags.switch("parents")?.unwrap_or(false),
        exclude: flags.all("exclude")?,
    })
}

fn arg(line: &Line, escape: Escape) -> Answer<Vec<Arg>> {
    let words = split::words(&line.rest, escape);
    if words.is_empty() {
        return Err(at_least_one("ARG"));
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err("ARG names can not be blank".into()),
            Some((key, value)) => Ok(Arg {
                key: key.to_owned(),
                default: Some(value.to_owned()),
            }),
            None => Ok(Arg {
                key: word,
                default: None,
            }),
        })
        .collect()
}

/// `a=b c=d`, or the old `a b`.
pub(crate) fn key_values(line: &Line, name: &str, escape: Escape) -> Answer<Vec<KeyValue>> {
    let words = split::words(&line.rest, escape);
    let Some(first) = words.first() else {
        return Err(at_least_one(name));
    };
    if !first.contains('=') {
        let (key, value) = split::first(&line.rest);
        let value = value.ok_or_else(|| format!("{name} must have two arguments"))?;
        return Ok(vec![KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            legacy: true,
        }]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("{name} names can not be blank")),
            Some((key, value)) => Ok(KeyValue {
                key: key.to_owned(),
                value: value.to_owned(),
                legacy: false,
            }),
            None => Err(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            )),
        })
        .collect()
}

fn health(line: &Line, flags: &mut Flags<'_>) -> Answer<Health> {
    let (kind, rest) = match line.rest.find(char::is_whitespace) {
        Some(at) => (&line.rest[..at], line.rest[at..].trim_start()),
        None => (line.rest.as_str(), ""),
    };
    match kind.to_ascii_uppercase().as_str() {
        "" => Err(at_least_one("HEALTHCHECK")),
        "NONE" if !rest.is_empty() => Err("HEALTHCHECK NONE takes no arguments".into()),
        "NONE" => Ok(Health {
            test: vec!["NONE".into()],
            ..Health::default()
        }),
        "CMD" => {
            let test = match command_of(rest)? {
                CommandLine::Exec(all) if all.is_empty() => None,
                CommandLine::Exec(all) => Some([vec!["CMD".to_owned()], all].concat()),
                CommandLine::Shell(text) if text.is_empty() => None,
                CommandLine::Shell(text) => Some(vec!["CMD-SHELL".into(), text]),
            };
            let mut time = |name| -> Answer<u64> {
                let text = flags.text(name)?.unwrap_or_default();
                interval(&text, name)
            };
            Ok(Health {
                test: test.ok_or("Missing command after HEALTHCHECK CMD")?,
                interval_ms: time("interval")?,
                timeout_ms: time("timeout")?,
                start_period_ms: time("start-period")?,
                start_interval_ms: time("start-interval")?,
                retries: match flags.text("retries")? {
                    None => 0,
                    Some(text) => match text.parse::<i32>() {
                        Ok(n) => u32::try_from(n)
                            .map_err(|_| format!("--retries cannot be negative ({n})"))?,
                        Err(_) => return Err(format!("--retries is a number, not {text:?}")),
                    },
                },
            })
        }
        other => Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    }
}

/// A duration as Go writes it, in milliseconds.
fn interval(text: &str, flag: &str) -> Answer<u64> {
    if text.is_empty() || text == "0" {
        return Ok(0);
    }
    let bad = || format!("time: invalid duration {text:?}");
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                .len();
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let units = [
            ("ns", 1e-6),
            ("us", 1e-3),
            ("µs", 1e-3),
            ("ms", 1.0),
            ("s", 1e3),
            ("m", 6e4),
            ("h", 3.6e6),
        ];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (unit, after) = rest.split_at(unit);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let (_, worth) = units
            .into_iter()
            .find(|(known, _)| *known == unit)
            .ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        rest = after;
        total += number * worth;
    }
    if total > 0.0 && total < 1.0 {
        return Err(format!("Interval {flag:?} cannot be less than 1ms"));
    }
    Ok(total as u64)
}

fn onbuild(line: &Line, escape: Escape) -> Answer<String> {
    if line.rest.is_empty() {
        return Err(at_least_one("ONBUILD"));
    }
    let inner = line.inner(escape);
    match inner.name().as_str() {
        "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
        name @ ("MAINTAINER" | "FROM") => {
            return Err(format!("{name} isn't allowed as an ONBUILD trigger"));
        }
        _ => {}
    }
    let mut text = line.rest.clone();
    for h in &line.heredocs {
        text.push('\n');
        text.push_str(&h.content);
        text.push_str(&h.name);
    }
    Ok(text)
}

fn run(line: &Line, flags: &mut Flags<'_>) -> Result<Run, Wrong> {
    let mounts = flags.all("mount")?;
    for mount in &mounts {
        // Variables have no values yet: what is wrong without them is wrong.
        if !mount.contains('$') {
            Mount::parse(mount, &mut |v| Ok(v.to_owned())).map_err(elsewhere)?;
        }
    }
    if !flags.all("device")?.is_empty() {
        // SOURCE: dockerfile2llb dispatchRun, of a frontend that is not of the labs channel
        let why = "device feature is only supported in Dockerfile frontend 1.14.0-labs or later";
        return Err(elsewhere(why.to_owned()));
    }
    let network = match flags.text("network")?.as_deref() {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => {
            return Err(format!("invalid network mode {other:?}").into());
        }
    };
    let security = match flags.text("security")?.as_deref() {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => {
            let hint = suggest::hint(other, ["sandbox", "insecure"]);
            return Err(format!("security {other:?} is not valid{hint}").into());
        }
    };
    Ok(Run {
        line: command_line(line)?,
        heredocs: line.heredocs.clone(),
        mounts,
        network,
        security,
    })
}

fn shell(line: &Line) -> Answer<Vec<String>> {
    match json(&line.rest) {
        Json::Strings(all) if all.is_empty() => Err(at_least_one("SHELL")),
        Json::Strings(all) => Ok(all),
        Json::OtherArray => Err(only_strings()),
        Json::No if line.rest.is_empty() => Err(at_least_one("SHELL")),
        Json::No => Err("SHELL requires the arguments to be in JSON form".into()),
    }
}

fn volumes(line: &Line) -> Answer<Vec<String>> {
    let all = json_or_list(line)?;
    if all.is_empty() {
        return Err(at_least_one("VOLUME"));
    }
    all.iter()
        .map(|v| match v.trim() {
            "" => Err("VOLUME specified can not be an empty string".into()),
            v => Ok(v.to_owned()),
        })
        .collect()
}
