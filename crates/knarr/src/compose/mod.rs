//! `knarr compose …`: the verbs that `docker compose` has, for fingers that know them. The same as `knarr up`, `down` and so
//! on where there is one; the others look for the project's containers on the platform.

mod containers;
mod exec;
mod held;
mod images;
mod life;
mod lines;
mod lists;
mod logs;
mod making;
mod oneoff;
mod show;
mod workloads;

pub use logs::time;

use crate::{
    config::{self, ConfigArguments},
    connect, down,
    error::Error,
    paths::Paths,
    plan::{self, Source},
    project::ProjectArguments,
    up, watch,
};
use clap::{Args, Subcommand};
use knarr_compose::Project;
use kube::Client;
use std::path::Path;

#[derive(Args)]
pub struct ComposeArguments {
    #[command(flatten)]
    project: ProjectArguments,
    /// What no service uses, too, where the files are shown
    #[arg(long)]
    all_resources: bool,
    /// Taken for the fingers' sake: progress is what the terminal can show
    #[arg(long, hide = true, value_name = "WHEN")]
    ansi: Option<String>,
    #[arg(long, hide = true, value_name = "KIND")]
    progress: Option<String>,
    #[arg(long, hide = true, value_name = "NUMBER")]
    parallel: Option<i64>,
    #[arg(long, hide = true, global = true)]
    dry_run: bool,
    #[arg(long, hide = true)]
    compatibility: bool,
    #[arg(long, hide = true)]
    verbose: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build, pull, start, wait until all is ready; then show what is said, unless -d
    Up(Box<making::UpArguments>),
    /// Remove the project's containers and networks; with -v its volumes, too
    Down(DownArguments),
    /// Bring changes of files into the running containers
    Watch(watch::WatchArguments),
    /// Print the compose files as one
    #[command(alias = "convert")]
    Config(ConfigArguments),
    /// List containers
    Ps(lists::PsArguments),
    /// Show what containers write
    Logs(logs::LogsArguments),
    /// Run a command in a running container
    Exec(exec::ExecArguments),
    /// Run a command in a container of its own
    Run(Box<oneoff::RunArguments>),
    /// Start what was stopped
    Start(life::ServicesArguments),
    /// Stop containers, and keep what is needed to start them
    Stop(life::StopArguments),
    /// Replace containers by the same anew
    Restart(life::RestartArguments),
    /// End containers by a signal
    Kill(life::KillArguments),
    /// Remove stopped containers
    Rm(life::RmArguments),
    /// Hold containers where they are
    Pause(life::ServicesArguments),
    /// Let held containers go on
    Unpause(life::ServicesArguments),
    /// Write a container's files as a tar archive
    Export(held::ExportArguments),
    /// Make an image of what a container has written
    Commit(held::CommitArguments),
    #[command(hide = true)]
    Publish(Other),
    #[command(hide = true)]
    Bridge(Other),
    /// Set how many containers services have
    Scale(making::ScaleArguments),
    /// Make what is needed to start services, and start nothing
    Create(Box<making::CreateArguments>),
    /// Build images
    Build(images::BuildArguments),
    /// Bring images from their registries
    Pull(images::PullArguments),
    /// Send images to their registries
    Push(images::PushArguments),
    /// Print where a port of a service is published
    Port(lists::PortArguments),
    /// List the processes of containers
    Top(lists::ServicesArguments),
    /// List the images that containers run
    Images(lists::ImagesArguments),
    /// List volumes
    Volumes(lists::VolumesArguments),
    /// List projects
    Ls(lists::LsArguments),
    /// Show what happens to containers
    Events(show::EventsArguments),
    /// Show what containers use
    Stats(show::StatsArguments),
    /// Copy files between containers and here
    Cp(exec::CpArguments),
    /// Wait until containers have ended, and tell their codes
    Wait(show::WaitArguments),
    /// Join a container's input and output
    Attach(exec::AttachArguments),
    /// Print the version
    Version {
        /// Only the number
        #[arg(long)]
        short: bool,
        /// How it is printed
        #[arg(short, long, value_name = "FORMAT")]
        format: Option<String>,
    },
}

impl Verb {
    /// Whether something is otherwise after it.
    fn changes(&self) -> bool {
        !matches!(
            self,
            Verb::Config(_)
                | Verb::Ps(_)
                | Verb::Logs(_)
                | Verb::Port(_)
                | Verb::Top(_)
                | Verb::Images(_)
                | Verb::Volumes(_)
                | Verb::Ls(_)
                | Verb::Events(_)
                | Verb::Stats(_)
                | Verb::Wait(_)
                | Verb::Version { .. }
        )
    }
}

/// What of another verb is not looked at.
#[derive(Args)]
struct Other {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<String>,
}

/// `down`, whose words are services.
#[derive(Args)]
pub struct DownArguments {
    #[command(flatten)]
    rest: down::DownFlags,
    services: Vec<String>,
}

/// The project that verbs are about, as it was asked for.
pub struct Asked<'a> {
    pub paths: &'a Paths,
    pub arguments: ProjectArguments,
}

/// A project on the platform.
pub struct Target {
    pub client: Client,
    pub namespace: String,
    /// None: there is no file, only a name.
    pub project: Option<Box<Project>>,
}

impl Asked<'_> {
    /// The project's file, with all of its services.
    ///
    /// # Errors
    /// When there is none, or it is wrong.
    pub fn read(&self) -> Result<Box<Project>, Error> {
        match plan::read(Path::new("."), &self.arguments)? {
            Source::Compose(project) => Ok(project),
            Source::Manifests { .. } => Err(Error::Input(
                "no compose file here: name one with -f, or the project with -p".into(),
            )),
        }
    }

    /// As [`Asked::read`], whatever the services' profiles: what was started with one is meant, too.
    pub fn read_all(&self) -> Result<Box<Project>, Error> {
        let mut all = self.arguments.clone();
        all.profile = vec!["*".into()];
        let paths = self.paths;
        Asked {
            paths,
            arguments: all,
        }
        .read()
    }

    /// Finds the project on the platform.
    ///
    /// # Errors
    /// As [`Asked::read`], if no name was given; when the platform doesn't run.
    pub async fn target(&self) -> Result<Target, Error> {
        let project = match (self.read_all(), &self.arguments.project) {
            (Ok(project), _) => Some(project),
            (Err(_), Some(_)) => None,
            (Err(error), None) => return Err(error),
        };
        let name = match (&project, &self.arguments.project) {
            (Some(project), _) => project.name.clone(),
            (None, name) => name.clone().unwrap_or_default(),
        };
        Ok(Target {
            client: connect::connect(self.paths).await?,
            namespace: knarr_compose::namespace(&name),
            project,
        })
    }
}

impl Target {
    /// The service whose objects have this name.
    pub fn service_of(&self, object: &str) -> String {
        let all = self.project.iter().flat_map(|p| p.services.keys());
        let mut its = all.filter(|s| knarr_compose::object_name(s) == object);
        its.next().map_or_else(|| object.to_string(), String::clone)
    }

    /// Refuses names that no service has.
    pub fn known(&self, services: &[String]) -> Result<(), Error> {
        let Some(project) = &self.project else {
            return Ok(());
        };
        match services.iter().find(|s| !project.services.contains_key(*s)) {
            Some(name) => Err(Error::Input(format!("no such service: {name}"))),
            None => Ok(()),
        }
    }
}

pub async fn run(paths: &Paths, arguments: ComposeArguments) -> Result<u8, Error> {
    let project = arguments.project;
    let asked = Asked {
        paths,
        arguments: project.clone(),
    };
    if arguments.dry_run && arguments.verb.changes() {
        return Err(Error::Input(
            "--dry-run: knarr tries nothing out: `knarr compose config` prints what would be brought up, `knarr convert` as Kubernetes resources".into(),
        ));
    }
    match arguments.verb {
        Verb::Up(a) => making::up(&asked, *a).await,
        Verb::Down(a) if a.services.is_empty() => down::run(paths, a.rest.of(project)).await,
        Verb::Down(a) => life::remove(&asked, &a.services, a.rest.volumes).await,
        Verb::Watch(mut a) => {
            a.project_mut().fill(&project);
            watch::run(paths, a).await
        }
        Verb::Config(mut a) => {
            a.project_mut().fill(&project);
            a.all_resources |= arguments.all_resources;
            config::run(a)
        }
        Verb::Ps(a) => lists::ps(&asked, a).await,
        Verb::Logs(a) => logs::logs(&asked, a).await,
        Verb::Exec(a) => exec::exec(&asked, a).await,
        Verb::Run(a) => oneoff::run(&asked, *a).await,
        Verb::Start(a) => life::start(&asked, a).await,
        Verb::Stop(a) => life::stop(&asked, a).await,
        Verb::Restart(a) => life::restart(&asked, a).await,
        Verb::Kill(a) => life::kill(&asked, a).await,
        Verb::Rm(a) => life::rm(&asked, a).await,
        Verb::Pause(a) => held::pause(&asked, a, true).await,
        Verb::Unpause(a) => held::pause(&asked, a, false).await,
        Verb::Export(a) => held::export(&asked, a).await,
        Verb::Commit(a) => held::commit(&asked, a).await,
        Verb::Publish(_) => Err(Error::Input(
            "knarr publishes no projects to registries: `knarr compose push` sends their images; keep the files in git"
                .into(),
        )),
        Verb::Bridge(_) => Err(Error::Input(
            "knarr has no bridge: `knarr convert` prints the project as Kubernetes resources".into(),
        )),
        Verb::Scale(a) => making::scale(&asked, a).await,
        Verb::Create(a) => making::create(&asked, *a).await,
        Verb::Build(a) => images::build(&asked, a).await,
        Verb::Pull(a) => images::pull(&asked, a).await,
        Verb::Push(a) => images::push(&asked, a).await,
        Verb::Port(a) => lists::port(&asked, a).await,
        Verb::Top(a) => lists::top(&asked, a).await,
        Verb::Images(a) => lists::images(&asked, a).await,
        Verb::Volumes(a) => lists::volumes(&asked, a).await,
        Verb::Ls(a) => lists::ls(paths, a).await,
        Verb::Events(a) => show::events(&asked, a).await,
        Verb::Stats(a) => show::stats(&asked, a).await,
        Verb::Cp(a) => exec::cp(&asked, a).await,
        Verb::Wait(a) => show::wait(&asked, a).await,
        Verb::Attach(a) => exec::attach(&asked, a).await,
        Verb::Version { short, format } => version(short, format.as_deref()),
    }
}

fn version(short: bool, format: Option<&str>) -> Result<u8, Error> {
    let number = env!("CARGO_PKG_VERSION");
    match (short, format) {
        (true, _) => println!("{number}"),
        (_, Some("json")) => println!("{}", serde_json::json!({ "version": number })),
        _ => println!("knarr compose version {number}"),
    }
    Ok(0)
}

/// What `up` of this program takes, from the words of this one.
fn words(arguments: &ProjectArguments, services: &[String]) -> Vec<String> {
    // Without a path in front, the first service could be taken for one.
    let here = arguments.files.is_empty().then(|| ".".to_string());
    here.into_iter().chain(services.iter().cloned()).collect()
}

pub(crate) use up::UpArguments as PlainUp;
