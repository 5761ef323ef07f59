//! `knarr logs`: the lines of a service's containers, several at once told apart by their pod's name.

use crate::{connect, error::Error, paths::Paths};
use clap::Args;
use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
};
use std::io::Write;

#[derive(Args)]
pub struct LogsArguments {
    /// Services or pods; all of the app's when none is named
    names: Vec<String>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines of each container
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// The lines of the run before the last restart
    #[arg(long, conflicts_with = "follow")]
    previous: bool,
    /// Only lines newer than so many seconds
    #[arg(long, value_name = "SECONDS")]
    since: Option<i64>,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    #[command(flatten)]
    target: crate::cli::Target,
}

/// The project asked for, or the only one there is.
pub async fn project(client: &Client, asked: Option<&str>) -> Result<String, Error> {
    if let Some(name) = asked {
        return Ok(name.to_string());
    }
    let mine = ListParams::default().labels("app.kubernetes.io/managed-by=knarr");
    let mut names: Vec<String> = Api::<Namespace>::all(client.clone())
        .list_metadata(&mine)
        .await?
        .iter()
        .map(|n| n.name_any())
        .collect();
    let here = std::env::current_dir()
        .ok()
        .and_then(|d| Some(d.file_name()?.to_string_lossy().to_lowercase()));
    if let Some(here) = here.filter(|h| names.contains(h)) {
        return Ok(here);
    }
    match names.len() {
        1 => Ok(names.remove(0)),
        0 => Ok("default".into()),
        _ => Err(Error::Input(format!(
            "several apps are here: say which with --project: {}",
            names.join(", ")
        ))),
    }
}

/// Pods of a service (by name label or owner) or the pod itself.
pub async fn pods_of(
    client: &Client,
    namespace: &str,
    names: &[String],
) -> Result<Vec<Pod>, Error> {
    let all = Api::<Pod>::namespaced(client.clone(), namespace)
        .list(&ListParams::default())
        .await?
        .items;
    let is = |pod: &Pod, name: &str| {
        pod.name_any() == name
            || has_container(pod, name)
            || pod
                .labels()
                .get("app.kubernetes.io/name")
                .or(pod.labels().get("app"))
                .is_some_and(|l| l == name)
            || pod.owner_references().iter().any(|o| {
                o.name == name
                    || o.name
                        .rsplit_once('-')
                        .is_some_and(|(front, _)| front == name)
            })
    };
    for name in names {
        if !all.iter().any(|p| is(p, name)) {
            return Err(Error::Input(format!(
                "{namespace} has no service or pod {name}; see `knarr status`"
            )));
        }
    }
    Ok(all
        .into_iter()
        .filter(|p| names.is_empty() || names.iter().any(|n| is(p, n)))
        .collect())
}

/// Whether a service of this name has a container in the Pod, perhaps beside that of another.
pub fn has_container(pod: &Pod, service: &str) -> bool {
    let name = service.to_lowercase().replace(['_', '.'], "-");
    let mut containers = pod.spec.iter().flat_map(|s| &s.containers);
    containers.any(|c| c.name == name)
}

pub async fn run(paths: &Paths, arguments: LogsArguments) -> Result<u8, Error> {
    if let ([name], None, false) = (
        arguments.names.as_slice(),
        &arguments.target.project,
        arguments.previous || arguments.since.is_some(),
    ) && !crate::run::in_app(paths, name).await
    {
        let tail = arguments.tail.map(|n| n.to_string());
        let (follow, times) = (arguments.follow, arguments.timestamps);
        if let Some(done) = crate::run::logs_alone(paths, name, follow, tail, times).await {
            return done;
        }
    }
    let client = connect::connect(paths).await?;
    let namespace = project(&client, arguments.target.project.as_deref()).await?;
    let pods = pods_of(&client, &namespace, &arguments.names).await?;
    let containers: Vec<(String, String)> = pods
        .iter()
        .flat_map(|p| {
            p.spec
                .iter()
                .flat_map(|s| &s.containers)
                .map(|c| (p.name_any(), c.name.clone()))
        })
        .collect();
    let prefixed = containers.len() > 1;
    let width = containers.iter().map(|(p, _)| p.len()).max().unwrap_or(0);
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let streams = containers.into_iter().map(|(pod, container)| {
        let (api, arguments) = (api.clone(), &arguments);
        async move {
            let parameters = LogParams {
                container: Some(container),
                follow: arguments.follow,
                tail_lines: arguments.tail,
                timestamps: arguments.timestamps,
                previous: arguments.previous,
                since_seconds: arguments.since,
                ..LogParams::default()
            };
            match api.log_stream(&pod, &parameters).await {
                Ok(stream) => {
                    let mut lines = stream.lines();
                    while let Some(Ok(line)) = lines.next().await {
                        let mut out = std::io::stdout().lock();
                        let written = if prefixed {
                            writeln!(out, "{pod:width$} | {line}")
                        } else {
                            writeln!(out, "{line}")
                        };
                        if written.is_err() {
                            return; // the reader has gone
                        }
                    }
                }
                Err(e) => eprintln!("{pod}: {}", Error::from(e)),
            }
        }
    });
    futures::future::join_all(streams).await;
    Ok(0)
}
