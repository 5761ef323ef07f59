//! A stage's instructions, one after the other.

use knarr_dockerfile::{Base, Command, CommandLine, Instruction, KeyValue, Network, Words};

use crate::{
    doc::{PATH, go_list},
    error::Error,
    graph::Graph,
    ports,
    request::Entitlement,
    state::{State, clean},
};

/// One instruction where it stands.
pub(crate) struct At<'i> {
    pub(crate) instruction: &'i Instruction,
    /// The stage's number.
    pub(crate) stage: usize,
    /// `[build 2/5] `
    pub(crate) prefix: String,
    pub(crate) no_cache: bool,
}

impl At<'_> {
    pub(crate) fn lines(&self) -> (usize, usize) {
        (self.instruction.first, self.instruction.last)
    }
}

/// Counts towards the `2/5` of the steps' names.
fn counts(command: &Command) -> bool {
    matches!(
        command,
        Command::Add(_) | Command::Copy(_) | Command::Run(_) | Command::Workdir(_)
    )
}

impl Graph<'_> {
    /// Runs them; (instruction, comes from an `ONBUILD`).
    pub(crate) async fn instructions(
        &self,
        stage: usize,
        base: &Base,
        mut state: State,
        all: Vec<(Instruction, bool)>,
    ) -> Result<State, Error> {
        let declared = &self.file.stages[stage];
        self.with_path(&mut state)?;
        let image = matches!(base, Base::Other(_));
        let total = all.iter().filter(|(i, _)| counts(&i.command)).count() + usize::from(image);
        let name = match (declared.name.as_str(), self.file.stages.len()) {
            (_, 1) => String::new(),
            ("", _) => format!("stage-{stage} "),
            (name, _) => format!("{name} "),
        };
        let width = total.to_string().len();
        let mut index = 0;
        let prefix = |index: usize, state: &State| {
            let platform = self.shown_platform(state);
            format!("[{platform}{name}{index:>width$}/{total}] ")
        };
        if let (Base::Other(base), true) = (base, image) {
            index += 1;
            let shown = match state.bases.last() {
                Some((name, digest)) => format!("{name}@{digest}"),
                None => base.clone(),
            };
            self.told
                .begin(&format!("{}FROM {shown}", prefix(index, &state)))
                .cached();
        }
        let mut has_cmd = false;
        for (instruction, trigger) in &all {
            if counts(&instruction.command) {
                index += 1;
            }
            let at = At {
                instruction,
                stage,
                prefix: format!(
                    "{}{}",
                    prefix(index, &state),
                    if *trigger { "ONBUILD " } else { "" }
                ),
                no_cache: self.ignores_cache(declared),
            };
            self.instruction(&at, &mut state, &mut has_cmd).await?;
        }
        Ok(state)
    }

    /// Every stage has a search path.
    pub(crate) fn with_path(&self, state: &mut State) -> Result<(), Error> {
        let env = state.scope.image_env();
        if !env.iter().any(|e| e.starts_with("PATH=")) {
            let path = KeyValue {
                key: "PATH".into(),
                value: PATH.into(),
                legacy: false,
            };
            let set = state.scope.env(&[path], self.file.escape);
            set.map_err(|e| Error::Bug(e.to_string()))?;
        }
        state.doc.config.env = state.scope.image_env();
        Ok(())
    }

    /// What a step is for, when a build is for several platforms. SOURCE: dockerfile2llb prefixCommand
    fn shown_platform(&self, state: &State) -> String {
        if !self.one_of_several {
            return String::new();
        }
        let own = &state.platform;
        let declared = |name: &str| state.scope.run_env().any(|(k, _)| k == name);
        let names = ["TARGETPLATFORM", "TARGETOS", "TARGETARCH"];
        let target = &self.build.target;
        let across = match names.iter().any(|name| declared(name)) {
            true if target.os != own.os => format!("->{target}"),
            true if target.architecture != own.architecture => match target.variant.as_str() {
                "" => format!("->{}", target.architecture),
                variant => format!("->{}/{variant}", target.architecture),
            },
            _ => String::new(),
        };
        format!("{own}{across} ")
    }

    async fn instruction(
        &self,
        at: &At<'_>,
        state: &mut State,
        has_cmd: &mut bool,
    ) -> Result<(), Error> {
        match &at.instruction.command {
            Command::Workdir(path) => self.workdir(at, state, path).await,
            Command::Run(run) => self.run_step(at, state, run).await,
            Command::Copy(_) | Command::Add(_) => self.copy_step(at, state).await,
            _ => self.said(at, state, has_cmd),
        }
    }

    /// What changes the configuration alone.
    pub(crate) fn said(
        &self,
        at: &At<'_>,
        state: &mut State,
        has_cmd: &mut bool,
    ) -> Result<(), Error> {
        let expand = |state: &State, text: &str| self.expanded(at, state, text);
        match &at.instruction.command {
            Command::Arg(args) => {
                let mut said = vec![];
                for arg in args {
                    let value = state
                        .scope
                        .arg(arg, &self.global, &self.build, self.file.escape)
                        .map_err(|e| self.wrong_at(at, e.to_string()))?;
                    said.push(match &value {
                        Some(value) => format!("{}={value}", arg.key),
                        None => arg.key.clone(),
                    });
                    state.args.push((arg.key.clone(), value));
                }
                state.doc.history(format!("ARG {}", said.join(" ")), false);
            }
            Command::Env(pairs) => {
                let set = state.scope.env(pairs, self.file.escape);
                let set = set.map_err(|e| self.wrong_at(at, e.to_string()))?;
                let said: Vec<String> = set.iter().map(|(k, v)| format!(" {k}={v}")).collect();
                state.doc.config.env = state.scope.image_env();
                state.doc.history(format!("ENV{}", said.concat()), false);
            }
            Command::Label(pairs) => {
                let mut said = String::from("LABEL");
                for pair in pairs {
                    let key = expand(state, &pair.key)?;
                    let value = expand(state, &pair.value)?;
                    said += &format!(" {key}={value}");
                    state.doc.config.labels.insert(key, value);
                }
                state.doc.history(said, false);
            }
            Command::Maintainer(who) => {
                state.doc.author.clone_from(who);
                state.doc.history(format!("MAINTAINER {who}"), false);
            }
            Command::Cmd(line) => {
                let args = command_line(state, line);
                state.doc.history(format!("CMD {}", go_list(&args)), false);
                state.doc.config.cmd = args;
                state.doc.config.args_escaped = true;
                *has_cmd = true;
            }
            Command::Entrypoint(line) => {
                let args = command_line(state, line);
                let said = format!("ENTRYPOINT {}", go_list(&args));
                state.doc.history(said, false);
                state.doc.config.entrypoint = args;
                if !*has_cmd {
                    state.doc.config.cmd.clear();
                }
            }
            Command::Shell(words) => {
                let said = format!("SHELL [{}]", words.join(" "));
                state.doc.config.shell.clone_from(words);
                state.doc.history(said, false);
            }
            Command::Health(health) => state.doc.health(health),
            Command::StopSignal(signal) => {
                let signal = expand(state, signal)?;
                if !is_signal(&signal) {
                    return Err(self.wrong_at(at, format!("invalid signal: {signal}")));
                }
                state.doc.history(format!("STOPSIGNAL {signal}"), false);
                state.doc.config.stop_signal = signal;
            }
            Command::User(user) => {
                let user = expand(state, user)?;
                state.doc.history(format!("USER {user}"), false);
                state.doc.config.user = user;
            }
            Command::Volume(volumes) => {
                let mut said = vec![];
                for volume in volumes {
                    let volume = expand(state, volume)?;
                    if volume.is_empty() {
                        let why = "VOLUME specified can not be an empty string";
                        return Err(self.wrong_at(at, why.into()));
                    }
                    state
                        .doc
                        .config
                        .volumes
                        .insert(volume.clone(), Default::default());
                    said.push(volume);
                }
                let said = format!("VOLUME [{}]", said.join(" "));
                state.doc.history(said, false);
            }
            Command::Expose(words) => {
                let mut said = vec![];
                for word in words {
                    let expanded = state.scope.expand(word, self.file.escape);
                    let expanded = expanded.map_err(|e| self.wrong_at(at, e.to_string()))?;
                    for port in &expanded.words {
                        said.extend(ports::parse(port).map_err(|why| self.wrong_at(at, why))?);
                    }
                }
                for port in &said {
                    let ports = &mut state.doc.config.exposed_ports;
                    ports.insert(port.clone(), Default::default());
                }
                let said = format!("EXPOSE [{}]", said.join(" "));
                state.doc.history(said, false);
            }
            Command::Onbuild(text) => {
                state.doc.config.on_build.push(text.clone());
            }
            // steps
            Command::Workdir(_) | Command::Run(_) | Command::Copy(_) | Command::Add(_) => {}
        }
        Ok(())
    }

    /// `WORKDIR`'s folder, made absolute, which the state then has; and as the history tells it.
    pub(crate) fn workdir_of(
        &self,
        at: &At<'_>,
        state: &mut State,
        path: &str,
    ) -> Result<(String, String), Error> {
        let path = self.expanded(at, state, path)?;
        // SOURCE: buildkit util/system NormalizePath: an absolute one stays as it is written
        let said = match path.as_str() {
            "" => state.workdir().to_owned(),
            absolute if absolute.starts_with('/') => path,
            relative => clean(&format!("{}/{relative}", state.workdir())),
        };
        state.doc.config.working_dir.clone_from(&said);
        Ok((clean(&said), said))
    }

    async fn workdir(&self, at: &At<'_>, state: &mut State, path: &str) -> Result<(), Error> {
        let (dir, said) = self.workdir_of(at, state, path)?;
        let layer = said != "/";
        if layer {
            self.make_folder(at, state, &dir).await?;
        }
        state.doc.history(format!("WORKDIR {said}"), layer);
        Ok(())
    }

    /// One word with its variables.
    pub(crate) fn expanded(&self, at: &At<'_>, state: &State, text: &str) -> Result<String, Error> {
        let expanded = state.scope.expand(text, self.file.escape);
        Ok(expanded.map_err(|e| self.wrong_at(at, e.to_string()))?.text)
    }
    pub(crate) fn wrong_at(&self, at: &At<'_>, why: String) -> Error {
        let (first, last) = at.lines();
        self.wrong(first, last, why)
    }
    /// How a step is called: as it is written, its variables replaced where they are set.
    pub(crate) fn step_name(&self, at: &At<'_>, state: &State) -> String {
        let words = Words::new(self.file.escape).raw_quotes().keep_unset();
        let text = at.instruction.original.trim();
        let text = words
            .expand(text, &state.scope)
            .map_or_else(|_| text.to_owned(), |e| e.text);
        // the keyword in upper case
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let mut name = format!("{}{} {}", at.prefix, word.to_uppercase(), rest.trim_start());
        if let Command::Run(run) = &at.instruction.command
            && let Some(document) = run.heredocs.first()
        {
            name += &format!(" ({})", summary(&document.content));
        }
        name
    }
    /// What is asked for and needs leave.
    pub(crate) fn allowed(&self, at: &At<'_>, what: Entitlement, name: &str) -> Result<(), Error> {
        if self.request.allow.contains(&what) {
            return Ok(());
        }
        Err(self.wrong_at(
            at,
            format!("entitlement {name} is not allowed: allow it with `--allow {name}`"),
        ))
    }
    pub(crate) fn network(&self, at: &At<'_>, said: Network) -> Result<Network, Error> {
        let network = match said {
            Network::Default => self.request.network,
            other => other,
        };
        if said == Network::Host && self.request.network != Network::Host {
            self.allowed(at, Entitlement::NetworkHost, "network.host")?;
        }
        Ok(network)
    }
}

/// SOURCE: dockerfile2llb summarizeHeredoc
fn summary(text: &str) -> String {
    let text = text.trim();
    match text.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end()),
        None => text.to_owned(),
    }
}

pub(crate) fn command_line(state: &State, line: &CommandLine) -> Vec<String> {
    match line {
        CommandLine::Exec(words) => words.clone(),
        CommandLine::Shell(text) => state.doc.shell(text),
    }
}

/// SOURCE: moby/sys/signal ParseSignal
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 34] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |prefix: &str, sign: char| {
        let rest = name.strip_prefix(prefix)?;
        let number = rest.strip_prefix(sign);
        Some(rest.is_empty() || number.is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n <= 15)))
    };
    NAMES.contains(&name)
        || realtime("RTMIN", '+').unwrap_or(false)
        || realtime("RTMAX", '-').unwrap_or(false)
}
