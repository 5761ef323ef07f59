//! What instructions say (Dockerfile reference).

use crate::{heredoc::Heredoc, mount::Mount};

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// First line, from 1.
    pub first: usize,
    /// Last line.
    pub last: usize,
    /// As it is written, continued lines joined.
    pub original: String,
    /// What it says.
    pub command: Command,
}

/// `name=value`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Name.
    pub key: String,
    /// Value, with its quotes and variables.
    pub value: String,
    /// Written `KEY value`, without `=`.
    pub legacy: bool,
}

/// A name that a build may set, and what it is when it is not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Name.
    pub key: String,
    /// Default, with its quotes and variables.
    pub default: Option<String>,
}

/// A command line, or its shell form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// `["a", "b"]`
    Exec(Vec<String>),
    /// One text for the shell.
    Shell(String),
}

/// What `ADD` and `COPY` take from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Paths, patterns, URLs.
    pub paths: Vec<String>,
    /// Files that are written in the Dockerfile itself.
    pub inline: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
}

/// `ADD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// What and where to.
    pub sources: Sources,
    /// `--chown=user:group`
    pub chown: Option<String>,
    /// `--chmod=`
    pub chmod: Option<String>,
    /// `--checksum=sha256:…`
    pub checksum: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--keep-git-dir`, when said
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, when said
    pub unpack: Option<bool>,
    /// `--exclude=`
    pub exclude: Vec<String>,
}

/// `COPY`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What and where to.
    pub sources: Sources,
    /// `--from=stage|image|context`
    pub from: Option<String>,
    /// `--chown=user:group`
    pub chown: Option<String>,
    /// `--chmod=`
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude=`
    pub exclude: Vec<String>,
}

/// `RUN --network=`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

/// `RUN --security=`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    #[default]
    Sandbox,
    Insecure,
}

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What runs.
    pub line: CommandLine,
    /// Here-documents.
    pub heredocs: Vec<Heredoc>,
    /// `--mount=`, as written: variables in it are replaced when it runs ([`Mount::parse`]).
    pub mounts: Vec<String>,
    /// `--network=`
    pub network: Network,
    /// `--security=`
    pub security: Security,
}

impl Run {
    /// Its mounts, variables replaced by `expand`.
    ///
    /// # Errors
    /// A mount that can't be, with what is wrong; what `expand` says.
    pub fn mounts(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Vec<Mount>, String> {
        self.mounts
            .iter()
            .map(|m| Mount::parse(m, expand))
            .collect()
    }
}

/// `HEALTHCHECK`; times in milliseconds, 0 for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// `["NONE"]`, `["CMD", …]`, `["CMD-SHELL", …]`
    pub test: Vec<String>,
    /// Between two.
    pub interval_ms: u64,
    /// For one.
    pub timeout_ms: u64,
    /// Failures that don't count at the start.
    pub start_period_ms: u64,
    /// Between two at the start.
    pub start_interval_ms: u64,
    /// Failures in a row until it is unhealthy.
    pub retries: u32,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Add(Add),
    Arg(Vec<Arg>),
    Cmd(CommandLine),
    Copy(Copy),
    Entrypoint(CommandLine),
    Env(Vec<KeyValue>),
    Expose(Vec<String>),
    Health(Health),
    Label(Vec<KeyValue>),
    Maintainer(String),
    /// The text that the next build from the image runs.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

impl Command {
    /// Its keyword.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Add(_) => "ADD",
            Command::Arg(_) => "ARG",
            Command::Cmd(_) => "CMD",
            Command::Copy(_) => "COPY",
            Command::Entrypoint(_) => "ENTRYPOINT",
            Command::Env(_) => "ENV",
            Command::Expose(_) => "EXPOSE",
            Command::Health(_) => "HEALTHCHECK",
            Command::Label(_) => "LABEL",
            Command::Maintainer(_) => "MAINTAINER",
            Command::Onbuild(_) => "ONBUILD",
            Command::Run(_) => "RUN",
            Command::Shell(_) => "SHELL",
            Command::StopSignal(_) => "STOPSIGNAL",
            Command::User(_) => "USER",
            Command::Volume(_) => "VOLUME",
            Command::Workdir(_) => "WORKDIR",
        }
    }
}

/// All keywords.
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
