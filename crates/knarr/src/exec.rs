//! `knarr exec`: a command in a running container, with or without a terminal.

use crate::{app, connect, error::Error, logs, paths::Paths, run::Raw};
use clap::Args;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, ResourceExt,
    api::{AttachParams, AttachedProcess, TerminalSize},
};
use std::io::IsTerminal;
use tokio::io::AsyncWriteExt;

#[derive(Args)]
pub struct ExecArguments {
    /// The container, in a pod of several
    #[arg(short, long)]
    container: Option<String>,
    #[command(flatten)]
    target: crate::cli::Target,
    #[command(flatten)]
    command: crate::run::ContainerExec,
}

impl ExecArguments {
    /// Of whom.
    pub fn name(&self) -> &str {
        self.command.name()
    }

    /// Of whom, and which command.
    #[cfg(test)]
    pub fn command_line(&self) -> Result<(&str, &[String]), Error> {
        self.command.split()
    }
}

/// The usual command in a stand-alone container, before anything is set up that others need; its exit code. None: nothing was
/// done.
pub fn at_once(paths: &Paths, a: &ExecArguments) -> Option<u8> {
    // whether a platform's app has the name is asked by the long way
    let usual = a.command.is_plain() && a.target.project.is_none() && paths.running().is_none();
    let (name, command) = usual.then(|| a.command.split().ok()).flatten()?;
    crate::run::exec_at_once(paths, name, command)
}

pub async fn run(paths: &Paths, arguments: ExecArguments) -> Result<u8, Error> {
    let a = &arguments.command;
    let (name, command) = a.split()?;
    if arguments.target.project.is_none() && !logs::in_app(paths, name).await {
        if let Some(done) = crate::run::exec_alone(paths, a.clone()).await {
            return done;
        }
        if paths.running().is_none() {
            return Err(Error::Failed(format!(
                "No such container: {name}, and no app runs; `knarr ps -a` lists containers"
            )));
        }
    }
    if a.beyond_kubernetes() {
        return Err(Error::Input(format!(
            "{name} is an app's: `knarr compose exec` has --env, --user, --workdir, --privileged and --detach for its services"
        )));
    }
    let client = connect::connect(paths).await?;
    let namespace = app::of(
        &client,
        arguments.target.project.as_deref(),
        std::slice::from_ref(&name.to_string()),
    )
    .await?;
    let pods = logs::pods_of(&client, &namespace, std::slice::from_ref(&name.to_string())).await?;
    let runs = |p: &&Pod| {
        p.metadata.deletion_timestamp.is_none()
            && p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
    };
    let pod = pods
        .iter()
        .find(runs)
        .ok_or_else(|| Error::Failed(format!("no pod of {name} runs; see `knarr status`")))?;
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let mut parameters = AttachParams::default()
        .stdin(a.interactive)
        .stdout(true)
        .stderr(!a.tty)
        .tty(a.tty);
    let own = logs::has_container(pod, name).then(|| name.to_lowercase().replace(['_', '.'], "-"));
    if let Some(container) = arguments.container.clone().or(own) {
        parameters = parameters.container(container);
    }
    let process = api.exec(&pod.name_any(), command, &parameters).await?;
    join(process, a.tty).await
}

/// Passes this program's input and output on until the process has ended; its code.
///
/// # Errors
/// When the connection breaks, or the process can't be run.
pub async fn join(mut process: AttachedProcess, tty: bool) -> Result<u8, Error> {
    let _raw = (tty && std::io::stdin().is_terminal())
        .then(Raw::enter)
        .flatten();
    let mut outputs = tokio::task::JoinSet::new();
    if let Some(mut from) = process.stdout() {
        outputs
            .spawn(async move { drop(tokio::io::copy(&mut from, &mut tokio::io::stdout()).await) });
    }
    if let Some(mut from) = process.stderr() {
        outputs
            .spawn(async move { drop(tokio::io::copy(&mut from, &mut tokio::io::stderr()).await) });
    }
    if let Some(mut to) = process.stdin() {
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
            // The command is to see the end of its input.
            let _ = to.shutdown().await;
        });
    }
    if tty && let Some(mut sizes) = process.terminal_size() {
        use futures::SinkExt;
        tokio::spawn(async move {
            let Ok(mut changed) =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())
            else {
                return;
            };
            loop {
                if let Some((width, height)) = crate::run::size()
                    && sizes.send(TerminalSize { width, height }).await.is_err()
                {
                    break;
                }
                if changed.recv().await.is_none() {
                    break;
                }
            }
        });
    }
    let status = process.take_status();
    while outputs.join_next().await.is_some() {}
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), process.join()).await;
    Ok(u8::try_from(code(status)? & 0xff).unwrap_or(1))
}

/// The code that a process ended with.
///
/// # Errors
/// When there is none.
pub fn code(status: Option<Status>) -> Result<i32, Error> {
    let Some(status) = status else {
        return Err(Error::Failed(
            "the connection broke before the command ended".into(),
        ));
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.and_then(|d| d.causes).unwrap_or_default();
    let code = causes
        .iter()
        .find(|c| c.reason.as_deref() == Some("ExitCode"))
        .and_then(|c| c.message.as_deref()?.parse::<i32>().ok());
    match code {
        Some(code) => Ok(code),
        None => Err(Error::Failed(status.message.unwrap_or_default())),
    }
}
