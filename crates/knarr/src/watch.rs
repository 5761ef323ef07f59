//! `knarr watch`: what changes in the folders of `develop.watch` comes into the running containers.
//!
//! inotify says that something changed; what it was is found by comparing the files with what they were, so that no event
//! that is lost or that comes twice does harm.

use crate::{
    connect,
    error::Error,
    logs,
    paths::Paths,
    plan::Source,
    project::ProjectArguments,
    up,
    watch_files::{Changes, Watched},
};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use knarr_compose::{Action, Hook};
use kube::{Api, Client, ResourceExt, api::AttachParams};
use std::{collections::BTreeSet, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// So long nothing must change before something is done about it, and so long at most it is waited for.
const QUIET: Duration = Duration::from_millis(200);
const QUIET_MAX: Duration = Duration::from_secs(2);
/// How long a command in a container may take.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// How much of a command's words on what went wrong is shown, in bytes.
const SAID_MAX: u64 = 4096;

#[derive(Args)]
pub struct WatchArguments {
    /// Folder or file of the compose project (default: this folder), then services to watch instead of all
    #[arg(value_name = "PATH|SERVICE")]
    words: Vec<String>,
    #[command(flatten)]
    project: ProjectArguments,
    /// Don't bring the project up before watching
    #[arg(long)]
    pub no_up: bool,
    /// Taken for the fingers' sake: builds show a line, and images that nothing uses go by themselves
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    prune: Option<Option<bool>>,
    #[arg(long, hide = true)]
    quiet: bool,
}

impl WatchArguments {
    pub fn of(project: &ProjectArguments, words: Vec<String>) -> WatchArguments {
        WatchArguments {
            words,
            project: project.clone(),
            no_up: false,
            prune: None,
            quiet: false,
        }
    }

    pub fn project_mut(&mut self) -> &mut ProjectArguments {
        &mut self.project
    }
}

pub async fn run(paths: &Paths, arguments: WatchArguments) -> Result<u8, Error> {
    let (source, services) = arguments.project.read(&arguments.words)?;
    let Source::Compose(mut project) = source else {
        return Err(Error::Input(
            "these are Kubernetes manifests: only a compose file has develop.watch".into(),
        ));
    };
    project
        .select(&services, false)
        .map_err(|name| Error::Input(format!("no such service: {name}")))?;
    let mut watched = Vec::new();
    for service in project.services.values() {
        for rule in &service.watch {
            if matches!(rule.action, Action::Rebuild | Action::SyncRestart)
                && service.build.is_none()
            {
                return Err(Error::Input(format!(
                    "{}: develop.watch: a new container comes from the image, so rebuild and sync+restart need build",
                    service.name
                )));
            }
            watched.push(Watched::new(&service.name, rule)?);
        }
    }
    if watched.is_empty() {
        return Err(Error::Input(
            "none of the selected services is configured for watch, consider setting a 'develop' section".into(),
        ));
    }
    let (path, _) = arguments.project.split(&arguments.words);
    let path = path.display().to_string();
    let words = |service: Option<&String>| {
        let folder = arguments.project.files.is_empty().then(|| path.clone());
        folder
            .into_iter()
            .chain(service.cloned())
            .collect::<Vec<String>>()
    };
    if !arguments.no_up {
        up::run(
            paths,
            up::UpArguments::of(&arguments.project, words(None), false),
        )
        .await?;
    }
    let client = connect::connect(paths).await?;
    let namespace = project.name.replace('_', "-");
    for one in watched.iter().filter(|w| w.rule.initial_sync) {
        sync(&client, &namespace, one, &one.all()).await;
    }
    eprintln!("watching {} for changes; end with Ctrl-C", list(&watched));
    let notifier = crate::watch_files::Notifier::new(&watched)?;
    let mut interrupt = std::pin::pin!(crate::wiring::until_signal());
    // After each round with changes the files are looked at again: a folder that was new was not watched yet when it was
    // looked at, nor was any before the first round.
    let mut again = true;
    loop {
        if !again {
            tokio::select! {
                changed = notifier.changed() => changed.map_err(crate::error::io("watching files"))?,
                _ = &mut interrupt => return Ok(0),
            }
            let started = tokio::time::Instant::now();
            while started.elapsed() < QUIET_MAX
                && tokio::time::timeout(QUIET, notifier.changed())
                    .await
                    .is_ok()
            {}
        }
        again = false;
        let mut rebuild: BTreeSet<String> = BTreeSet::new();
        let mut restart: BTreeSet<String> = BTreeSet::new();
        for one in &mut watched {
            let changes = one.changes()?;
            notifier.follow(one)?;
            if changes.is_empty() {
                continue;
            }
            again = true;
            eprintln!("{}: {}", one.service, changes.told());
            match one.rule.action {
                Action::Rebuild | Action::SyncRestart => {
                    rebuild.insert(one.service.clone());
                }
                Action::Restart => {
                    restart.insert(one.service.clone());
                }
                Action::Sync => sync(&client, &namespace, one, &changes).await,
                Action::SyncExec => {
                    sync(&client, &namespace, one, &changes).await;
                    if let Some(hook) = &one.rule.exec {
                        run_hook(&client, &namespace, &one.service, hook).await;
                    }
                }
            }
        }
        restart.retain(|s| !rebuild.contains(s));
        for (service, build) in rebuild
            .iter()
            .map(|s| (s, true))
            .chain(restart.iter().map(|s| (s, false)))
        {
            let asked = up::UpArguments::of(&arguments.project, words(Some(service)), build);
            // The next change may mend it.
            if let Err(e) = Box::pin(up::run(paths, asked)).await {
                eprintln!("{service}: {e}");
            }
        }
    }
}

fn list(watched: &[Watched]) -> String {
    let names: BTreeSet<&str> = watched.iter().map(|w| w.service.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Brings files into all containers of the service, and takes away what is gone. What fails is told, and no more.
async fn sync(client: &Client, namespace: &str, watched: &Watched, changes: &Changes) {
    let archive = match watched.archive(changes) {
        Ok(archive) => archive,
        Err(e) => return eprintln!("{}: {e}", watched.service),
    };
    let gone = watched.targets(&changes.removed);
    if !changes.changed.is_empty() {
        let command = ["tar", "-x", "-o", "-f", "-", "-C", "/"].map(String::from);
        in_all(client, namespace, &watched.service, &command, &archive).await;
    }
    if !gone.is_empty() {
        let command: Vec<String> = ["rm", "-rf", "--"]
            .map(String::from)
            .into_iter()
            .chain(gone)
            .collect();
        in_all(client, namespace, &watched.service, &command, &[]).await;
    }
}

async fn run_hook(client: &Client, namespace: &str, service: &str, hook: &Hook) {
    in_all(client, namespace, service, &hook.command, &[]).await;
}

/// Runs a command in each running container of a service.
async fn in_all(client: &Client, namespace: &str, service: &str, command: &[String], input: &[u8]) {
    let names = [service.to_string()];
    let pods = match logs::pods_of(client, namespace, &names).await {
        Ok(pods) => pods,
        Err(e) => return eprintln!("{service}: {e}"),
    };
    for pod in pods
        .iter()
        .filter(|p| p.metadata.deletion_timestamp.is_none())
    {
        let run = in_one(client, namespace, service, pod, command, input);
        match tokio::time::timeout(COMMAND_MAX, run).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => eprintln!("{service}: {} in {}: {e}", command[0], pod.name_any()),
            Err(_) => eprintln!(
                "{service}: {} in {} takes too long",
                command[0],
                pod.name_any()
            ),
        }
    }
}

async fn in_one(
    client: &Client,
    namespace: &str,
    service: &str,
    pod: &Pod,
    command: &[String],
    input: &[u8],
) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = AttachParams::default()
        .container(service.to_lowercase().replace(['_', '.'], "-"))
        .stdin(!input.is_empty())
        .stdout(false)
        .stderr(true);
    let mut process = api.exec(&pod.name_any(), command, &parameters).await?;
    let status = process.take_status();
    let writing = process.stdin().map(|mut to| async move {
        let _ = to.write_all(input).await;
        let _ = to.shutdown().await;
    });
    let mut said = String::new();
    let errors = process.stderr();
    let reading = async {
        if let Some(errors) = errors {
            let _ = errors.take(SAID_MAX).read_to_string(&mut said).await;
        }
    };
    match writing {
        Some(writing) => {
            tokio::join!(writing, reading);
        }
        None => reading.await,
    }
    let ended = match status {
        Some(status) => status.await,
        None => None,
    };
    let failed = ended.is_some_and(|s| s.status.as_deref() == Some("Failure"));
    match failed {
        true => Err(Error::Failed(said.trim().to_string())),
        false => Ok(()),
    }
}
