//! The verbs and their flags.

pub mod misread;

use crate::run as alone;
use crate::{
    build_options, builder, compose, config, connect, convert, dockerfile_build, doctor, down,
    error::Error, exec, image, logs, paths::Paths, registries, scale, serve, status, stop, up,
    watch,
};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

#[derive(Parser)]
#[command(
    name = "knarr",
    version,
    about = "Builds, runs, connects, ships and observes microservices on one machine, in the field's own protocols",
    after_help = "A first run:\n  knarr up examples/shop      build and start the example, print its address\n  knarr status                what runs, and what is wrong\n  export KUBECONFIG=$(knarr kubeconfig --path); kubectl get pods -A\n\nExit codes: 0 done; 1 it failed; 2 bad input, nothing was changed (of verbs that Docker has 1, and 125 for a flag); 3 the platform does not run or cannot start; 4 not ready in time. `exec` passes on the command's own code.\n\nDocker's short verbs are there, too: images, rmi, tag, history, save, load, import are `image …`; create, start, restart, kill, rm, cp, wait, attach, commit, diff, export, rename, pause, unpause, port, stats, top, update are `container …`.",
    arg_required_else_help = true,
    args_override_self = true,
    disable_help_subcommand = true
)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args)]
struct Place {
    /// Where knarr keeps everything: API objects, images, volumes, logs
    #[arg(
        long,
        global = true,
        display_order = 1000,
        env = "KNARR_DATA_DIR",
        default_value = "/var/lib/knarr",
        value_name = "DIR"
    )]
    data_dir: PathBuf,
}

/// The command line of `exec` alone: to describe all verbs takes longer than to enter a container.
#[derive(Parser)]
#[command(name = "knarr", args_override_self = true)]
struct ExecAlone {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: ExecVerb,
}

#[derive(Subcommand)]
enum ExecVerb {
    Exec(exec::ExecArguments),
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Subcommand)]
enum Verb {
    /// Build and start the app in a folder, wait until it serves, print its addresses
    ///
    /// Takes a folder with a compose.yaml, a folder with Kubernetes manifests, or one such file. Running it again
    /// changes only what differs. The platform is started when it isn't running.
    Up(Box<up::UpArguments>),
    /// Bring changes of the files named by develop.watch into the running containers
    Watch(watch::WatchArguments),
    /// Print a compose file as Kubernetes manifests, which apply unchanged to any cluster
    Convert(convert::ConvertArguments),
    /// Print the compose files as one, variables filled in and short forms made long
    Config(config::ConfigArguments),
    /// Stop and remove an app; its volumes stay unless --volumes
    Down(down::DownArguments),
    /// The verbs of `docker compose`, for fingers that know them
    Compose(Box<compose::ComposeArguments>),
    /// Show what runs, what is wrong and why
    Status(status::StatusArguments),
    /// Print the log lines of a service's containers
    Logs(logs::LogsArguments),
    /// Run a command in a service's container
    Exec(exec::ExecArguments),
    /// Run a container by itself, as `docker run` does: no platform is needed
    #[command(
        after_help = "Exit codes: the container's own; 125 it could not be made, 126 its command can't be executed, 127 there is no such command."
    )]
    Run(Box<alone::RunArguments>),
    /// List the containers that `run` made
    Ps(alone::PsArguments),
    /// Start, stop, remove and look into the containers that `run` made
    #[command(subcommand)]
    Container(alone::ContainerVerb),
    /// Make, list and remove volumes of the containers that `run` makes
    #[command(subcommand)]
    Volume(alone::VolumeVerb),
    /// Make, list and remove networks of the containers that `run` makes
    #[command(subcommand)]
    Network(alone::NetworkVerb),
    /// All that is known of containers, images, networks and volumes of these names
    Inspect(alone::InspectAny),
    /// Change how many replicas services have: `knarr scale web=3 worker=0`
    Scale(scale::ScaleArguments),
    /// Build an image from a Dockerfile, as `docker build` does; the platform need not run
    Build(Box<build_options::BuildArguments>),
    /// Show and remove what builds keep for the next ones
    #[command(subcommand)]
    Builder(builder::BuilderVerb),
    /// Bring images from their registries
    Pull(registries::PullArguments),
    /// Send images to their registries
    Push(registries::PushArguments),
    /// Keep a login for a registry, where Docker keeps it
    Login(registries::LoginArguments),
    /// Forget the login for a registry
    Logout {
        /// Default: Docker Hub
        registry: Option<String>,
    },
    /// Make, list, load and remove images
    #[command(subcommand)]
    Image(image::ImageVerb),
    /// Print a kubeconfig for kubectl, helm and every other Kubernetes client
    Kubeconfig {
        /// Print the file's path instead
        #[arg(long)]
        path: bool,
    },
    /// Run the platform in the foreground (`up` starts it by itself)
    Serve(serve::ServeArguments),
    /// Stop the platform; containers keep running until --purge
    Stop(stop::StopArguments),
    /// Tell what this machine lacks to run knarr, and how to get it
    Doctor(doctor::DoctorArguments),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

impl Arguments {
    /// The words read, or what is to be said of them.
    pub fn read(words: &[OsString]) -> Result<Arguments, clap::Error> {
        // help and mistakes are told with all verbs in view
        if verb(words) == Some(b"exec")
            && let Ok(ExecAlone { place, verb }) = ExecAlone::try_parse_from(words)
            && let ExecVerb::Exec(arguments) = verb
            && !arguments.name().starts_with('-')
        {
            let verb = Verb::Exec(arguments);
            return Ok(Arguments { place, verb });
        }
        let strictly = Arguments::try_parse_from(words).and_then(Arguments::checked);
        let valued = words.iter().any(|w| {
            let w = w.as_encoded_bytes();
            w.starts_with(b"-") && w.contains(&b'=')
        });
        // `--rm=true`: flags with values, which help is not to show
        if valued && strictly.is_err() {
            let mut words = words.to_vec();
            loop {
                let read = go_flags(Arguments::command()).try_get_matches_from(&words);
                let read = read.and_then(|m| Arguments::from_arg_matches(&m));
                // `-t=false` was taken for what a command follows
                let first = read.as_ref().map_or("", Arguments::first);
                let long = misread::long_form(&words, first);
                let Some((word, long)) = words.iter_mut().find(|w| *w == first).zip(long) else {
                    return read.and_then(Arguments::checked).or(strictly);
                };
                *word = long.into();
            }
        }
        strictly
    }

    /// Of the words that a command follows the first.
    fn first(&self) -> &str {
        match &self.verb {
            Verb::Run(a) => a.image(),
            Verb::Container(alone::ContainerVerb::Create(a)) => a.image(),
            Verb::Exec(a) => a.name(),
            Verb::Container(alone::ContainerVerb::Exec(a)) => a.name(),
            _ => "",
        }
    }

    /// What looks like a flag and is none comes first among the words that a command follows.
    fn checked(self) -> Result<Arguments, clap::Error> {
        match self.first() {
            first if first.starts_with('-') => Err(misread::unknown(first)),
            _ => Ok(self),
        }
    }

    /// It is the platform itself.
    pub fn serves(&self) -> bool {
        matches!(self.verb, Verb::Serve(_))
    }

    /// It makes containers or images: the folders under them are everybody's to pass, whatever the caller's umask.
    pub fn makes_containers(&self) -> bool {
        matches!(
            self.verb,
            Verb::Serve(_)
                | Verb::Up(_)
                | Verb::Watch(_)
                | Verb::Compose(_)
                | Verb::Run(_)
                | Verb::Container(_)
                | Verb::Build(_)
        )
    }
}

/// Flags that most verbs share.
#[derive(Args, Clone)]
pub struct Target {
    /// The app: a project's name, which is its namespace. Default: the one in this folder, or the only one that has what is named
    #[arg(
        short = 'p',
        long,
        short_alias = 'n',
        alias = "namespace",
        value_name = "NAME"
    )]
    pub project: Option<String>,
}

/// `90`, `90s`, `5m`
pub fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number = number.parse().ok().filter(|n| (1..=86_400).contains(n));
    number
        .map(|n: u64| n * unit)
        .ok_or("expected seconds, or a time like 90s or 5m".into())
}

/// The word that is the verb.
fn verb(words: &[OsString]) -> Option<&[u8]> {
    words
        .get(verb_at(words)?)
        .map(|word| word.as_encoded_bytes())
}

fn verb_at(words: &[OsString]) -> Option<usize> {
    let mut all = words.iter().enumerate().skip(1);
    loop {
        match all.next()? {
            (_, word) if word == "--data-dir" => drop(all.next()),
            (_, word) if word.as_encoded_bytes().starts_with(b"-") => {}
            (at, _) => return Some(at),
        }
    }
}

/// Every flag that is said or not may have a value, as Go's programs read them: `--rm=true`, `-t=false`.
fn go_flags(command: clap::Command) -> clap::Command {
    let flag = |arg: clap::Arg| match arg.get_action() {
        clap::ArgAction::SetTrue => arg
            .action(clap::ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(go_bool),
        _ => arg,
    };
    command.mut_args(flag).mut_subcommands(go_flags)
}

/// SOURCE: Go `strconv.ParseBool`
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("invalid syntax".into()),
    }
}

/// The command line; called `docker-compose`, this program is `knarr compose`.
pub fn words(all: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = all.collect();
    let called = all.first().and_then(|a| Path::new(a).file_name());
    if called.is_some_and(|name| name == "docker-compose") {
        all.insert(1, "compose".into());
    }
    longer(&mut all);
    all
}

/// Docker's short verbs, and what they are short for.
const SHORT: [(&str, &[&str]); 28] = [
    ("attach", &["container", "attach"]),
    ("commit", &["container", "commit"]),
    ("cp", &["container", "cp"]),
    ("create", &["container", "create"]),
    ("diff", &["container", "diff"]),
    ("export", &["container", "export"]),
    ("history", &["image", "history"]),
    ("images", &["image", "ls"]),
    ("import", &["image", "import"]),
    ("kill", &["container", "kill"]),
    ("load", &["image", "load"]),
    ("pause", &["container", "pause"]),
    ("port", &["container", "port"]),
    ("rename", &["container", "rename"]),
    ("restart", &["container", "restart"]),
    ("rm", &["container", "rm"]),
    ("rmi", &["image", "rm"]),
    ("save", &["image", "save"]),
    ("start", &["container", "start"]),
    ("stats", &["container", "stats"]),
    ("tag", &["image", "tag"]),
    ("top", &["container", "top"]),
    ("unpause", &["container", "unpause"]),
    ("update", &["container", "update"]),
    ("version", &["--version"]),
    ("wait", &["container", "wait"]),
    ("container run", &["run"]),
    ("image build", &["build"]),
];

/// Writes a short verb out.
fn longer(words: &mut Vec<OsString>) {
    let Some(at) = verb_at(words) else { return };
    let word = |at: usize| words.get(at).and_then(|w| w.to_str()).unwrap_or_default();
    let (one, two) = (
        word(at).to_string(),
        format!("{} {}", word(at), word(at + 1)),
    );
    for (short, long) in SHORT {
        let replaced = match short {
            short if short == one => 1,
            short if short == two => 2,
            _ => continue,
        };
        words.splice(at..at + replaced, long.iter().map(OsString::from));
        return;
    }
}

pub fn run(arguments: Arguments) -> Result<u8, Error> {
    let paths = Paths::new(&arguments.place.data_dir)?;
    if let Verb::Exec(a) = &arguments.verb
        && let Some(code) = exec::at_once(&paths, a)
    {
        return Ok(code);
    }
    // Fails only when a provider is set already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Verb::Serve(a) = arguments.verb {
        return serve::run(&paths, a);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Failed(e.to_string()))?;
    let outcome = runtime.block_on(async {
        match arguments.verb {
            Verb::Up(a) => up::run(&paths, *a).await,
            Verb::Watch(a) => watch::run(&paths, a).await,
            Verb::Convert(a) => convert::convert(&paths, a),
            Verb::Config(a) => config::run(a),
            Verb::Down(a) => down::run(&paths, a).await,
            Verb::Compose(a) => compose::run(&paths, *a).await,
            Verb::Status(a) => status::run(&paths, a).await,
            Verb::Logs(a) => logs::run(&paths, a).await,
            Verb::Exec(a) => exec::run(&paths, a).await,
            Verb::Run(a) => alone::run(&paths, *a).await,
            Verb::Ps(a) => alone::ps(&paths, a).await,
            Verb::Container(a) => alone::container(&paths, a).await,
            Verb::Volume(a) => alone::volume(&paths, a).await,
            Verb::Network(a) => alone::network(&paths, a).await,
            Verb::Inspect(a) => alone::inspect_any(&paths, &a),
            Verb::Scale(a) => scale::run(&paths, a).await,
            Verb::Build(a) => dockerfile_build::run(&paths, *a).await,
            Verb::Builder(a) => builder::run(&paths, a).await,
            Verb::Pull(a) => registries::pull(&paths, a).await,
            Verb::Push(a) => registries::push(&paths, a).await,
            Verb::Login(a) => registries::login(&paths, a).await,
            Verb::Logout { registry } => registries::logout(registry),
            Verb::Image(a) => image::run(&paths, a).await,
            Verb::Kubeconfig { path } => kubeconfig(&paths, path),
            Verb::Stop(a) => stop::run(&paths, a).await,
            Verb::Doctor(a) => doctor::run(&paths, a),
            Verb::Completions { shell } => {
                clap_complete::generate(
                    shell,
                    &mut Arguments::command(),
                    "knarr",
                    &mut std::io::stdout(),
                );
                Ok(0)
            }
            Verb::Serve(_) => Ok(0), // taken above
        }
    });
    // Not waited for: a read of a terminal's input ends with the next key only.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod docker_tests;

fn kubeconfig(paths: &Paths, path: bool) -> Result<u8, Error> {
    let file = paths.kubeconfig();
    let text = std::fs::read_to_string(&file).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => connect::closed(paths),
        _ => Error::Platform(
            "the platform has not been started yet: run `knarr up` or `knarr serve` first".into(),
        ),
    })?;
    match path {
        true => println!("{}", file.display()),
        false => print!("{text}"),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn each(command: &clap::Command, path: &str, look: &mut impl FnMut(&clap::Command, &str)) {
        look(command, path);
        for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            each(inner, &format!("{path} {}", inner.get_name()), look);
        }
    }

    #[test]
    fn every_verb_and_flag_says_what_it_is() {
        let mut command = Arguments::command();
        command.build();
        command.clone().debug_assert();
        let mut lacks = Vec::new();
        each(&command, "knarr", &mut |command, path| {
            if command.get_about().is_none() {
                lacks.push(path.to_string());
            }
            for flag in command.get_opts().filter(|flag| !flag.is_hide_set()) {
                if flag
                    .get_help()
                    .is_none_or(|help| help.to_string().is_empty())
                {
                    lacks.push(format!("{path} --{}", flag.get_id()));
                }
            }
        });
        assert_eq!(lacks, [""; 0]);
    }

    #[test]
    fn exec_is_read_alone_as_among_all_verbs() {
        for line in [
            "knarr exec web ls",
            "knarr --data-dir d exec -it web sh -c exec",
            "knarr exec --data-dir=d -p shop -c app web run --rm",
            "knarr exec web -- ls -l",
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let shown = |command: clap::Command| {
                let matches = command.try_get_matches_from(&words).unwrap();
                let (verb, of_it) = matches.subcommand().unwrap();
                let dir = of_it.get_one::<PathBuf>("data_dir").cloned();
                let words: Vec<_> = of_it.get_many::<String>("words").unwrap().collect();
                let text = |id| of_it.get_one::<String>(id).cloned();
                let told = (text("container"), text("project"));
                let flags = (of_it.get_flag("interactive"), of_it.get_flag("tty"));
                format!("{verb} {dir:?} {words:?} {told:?} {flags:?}")
            };
            let all = shown(Arguments::command());
            assert_eq!(shown(ExecAlone::command()), all, "{line}");
            let read = Arguments::read(&words).unwrap_or_else(|e| panic!("{line}: {e}"));
            match read.verb {
                // kubectl's fingers put two dashes before the command
                Verb::Exec(a) => assert_ne!(a.command_line().unwrap().1[0], "--", "{line}"),
                _ => panic!("{line}: another verb"),
            }
        }
        // what is said of a mistake, and help, is the whole program's
        let words = ["knarr", "exec", "--help"].map(OsString::from);
        let said = Arguments::read(&words).err().unwrap().to_string();
        assert!(said.contains("knarr exec"), "{said}");
    }
}
