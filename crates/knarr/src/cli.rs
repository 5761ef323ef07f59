//! The verbs and their flags.

use crate::{
    check, connect, doctor, down, error::Error, exec, image, logs, paths::Paths, scale, serve,
    status, stop, up,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Parser)]
#[command(
    name = "knarr",
    version,
    about = "Builds, runs, connects, ships and observes microservices on one machine, in the field's own protocols",
    after_help = "A first run:\n  knarr up examples/shop      build and start the example, print its address\n  knarr status                what runs, and what is wrong\n  export KUBECONFIG=$(knarr kubeconfig --path); kubectl get pods -A\n\nExit codes: 0 done; 1 it failed; 2 bad input, nothing was changed; 3 the platform does not run or cannot start; 4 not ready in time. `exec` passes on the command's own code.",
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Arguments {
    /// Where knarr keeps everything: API objects, images, volumes, logs
    #[arg(
        long,
        global = true,
        env = "KNARR_DATA_DIR",
        default_value = "/var/lib/knarr",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Verb {
    /// Build and start the app in a folder, wait until it serves, print its addresses
    ///
    /// Takes a folder with a compose.yaml, a folder with Kubernetes manifests, or one such file. Running it again
    /// changes only what differs. The platform is started when it isn't running.
    Up(up::UpArguments),
    /// Stop and remove an app; its volumes stay unless --volumes
    Down(down::DownArguments),
    /// Show what runs, what is wrong and why
    Status(status::StatusArguments),
    /// Print the log lines of a service's containers
    Logs(logs::LogsArguments),
    /// Run a command in a service's container
    Exec(exec::ExecArguments),
    /// Change how many replicas services have: `knarr scale web=3 worker=0`
    Scale(scale::ScaleArguments),
    /// Check a Dockerfile: `knarr build --check`
    Build(check::BuildArguments),
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
    /// It is the platform itself.
    pub fn serves(&self) -> bool {
        matches!(self.verb, Verb::Serve(_))
    }
}

/// Flags that most verbs share.
#[derive(Args, Clone)]
pub struct Target {
    /// The app: a project's name, which is its namespace. Default: the one in this folder, or the only one there is
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

pub fn run(arguments: Arguments) -> Result<u8, Error> {
    let paths = Paths::new(&arguments.data_dir)?;
    if let Verb::Serve(a) = arguments.verb {
        return serve::run(&paths, a);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Failed(e.to_string()))?;
    let outcome = runtime.block_on(async {
        match arguments.verb {
            Verb::Up(a) => up::run(&paths, a).await,
            Verb::Down(a) => down::run(&paths, a).await,
            Verb::Status(a) => status::run(&paths, a).await,
            Verb::Logs(a) => logs::run(&paths, a).await,
            Verb::Exec(a) => exec::run(&paths, a).await,
            Verb::Scale(a) => scale::run(&paths, a).await,
            Verb::Build(a) => check::run(&paths, a),
            Verb::Image(a) => image::run(&paths, a),
            Verb::Kubeconfig { path } => kubeconfig(&paths, path),
            Verb::Stop(a) => stop::run(&paths, a).await,
            Verb::Doctor(a) => doctor::run(&paths, a),
            Verb::Completions { shell } => {
                use clap::CommandFactory;
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
