//! `knarr logs`: the lines of a service's containers, several at once told apart by their pod's name.

use crate::{app, connect, error::Error, paths::Paths};
use clap::Args;
use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{SignedDuration, Timestamp},
};
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
    #[arg(short = 'n', long, allow_negative_numbers = true, value_name = "LINES")]
    tail: Option<String>,
    /// The lines of the run before the last restart
    #[arg(long, conflicts_with = "follow")]
    previous: bool,
    /// Only lines since then: so many seconds ago, 42m for so long ago, or 2026-01-02T13:23:37Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Only lines before that; of containers of `run` alone
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// There for scripts
    #[arg(long, hide = true)]
    details: bool,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// The app: a project's name, which is its namespace. Default: the one in this folder, or the only one that has what is named
    #[arg(short, long, alias = "namespace", value_name = "NAME")]
    project: Option<String>,
}

/// A whole number is of seconds ago; all else as Compose reads it.
fn since(text: &str) -> Result<Timestamp, String> {
    match text.parse::<i32>() {
        Ok(seconds) => Ok(Timestamp::now() - SignedDuration::from_secs(seconds.into())),
        Err(_) => crate::compose::time(text),
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

/// A container whose lines are asked for.
#[derive(Debug, PartialEq)]
struct Source {
    pod: String,
    container: String,
    /// What stands before its lines where there are several: the Pod's name, and the container's if the Pod has more.
    title: String,
}

/// The containers of a Pod that `names` mean: all of them, but only its own where a name is that of a service which shares
/// the Pod with others.
fn sources(pod: &Pod, names: &[String]) -> Vec<Source> {
    let all: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|s| &s.containers)
        .map(|c| c.name.as_str())
        .collect();
    // What a compose file's service became carries a note of its own, and so does the service that the Pod is called by; a
    // manifest may note something of any container.
    let noted = |container: &String| {
        pod.annotations()
            .contains_key(&format!("knarr.dev/container.{container}"))
    };
    let leads = pod
        .labels()
        .get("app.kubernetes.io/name")
        .is_some_and(noted);
    let is_service = |container: &String| leads && noted(container);
    let own: Vec<String> = names
        .iter()
        .map(|n| knarr_compose::object_name(n))
        .filter(|n| all.contains(&n.as_str()) && is_service(n))
        .collect();
    let whole = own.is_empty() || names.contains(&pod.name_any());
    all.iter()
        .filter(|c| whole || own.iter().any(|o| o == *c))
        .map(|c| Source {
            pod: pod.name_any(),
            container: (*c).to_string(),
            title: match all.len() {
                1 => pod.name_any(),
                _ => format!("{}/{c}", pod.name_any()),
            },
        })
        .collect()
}

pub async fn run(paths: &Paths, arguments: LogsArguments) -> Result<u8, Error> {
    let named = match arguments.names.as_slice() {
        [name] if arguments.project.is_none() && !arguments.previous => Some(name),
        _ => None,
    };
    if let Some(name) = named
        && !in_app(paths, name).await
    {
        let flags = crate::run::LogsFlags {
            follow: arguments.follow,
            tail: arguments.tail.clone(),
            timestamps: arguments.timestamps,
            since: arguments.since.map(|at| at.to_string()),
            until: arguments.until.clone(),
            details: false,
        };
        if let Some(done) = crate::run::logs_alone(paths, name, flags).await {
            return done;
        }
        if paths.running().is_none() {
            return Err(Error::Failed(format!(
                "No such container: {name}, and no app runs; `knarr ps -a` lists containers"
            )));
        }
    }
    if arguments.until.is_some() {
        return Err(Error::Input(
            "--until: only of a container of `knarr run`".into(),
        ));
    }
    // Docker's `all`, as everything that is no number of lines
    let tail = arguments
        .tail
        .as_deref()
        .and_then(|n| n.parse::<i64>().ok());
    let tail = tail.filter(|n| *n >= 0);
    let client = connect::connect(paths).await?;
    let namespace = app::of(&client, arguments.project.as_deref(), &arguments.names).await?;
    let pods = pods_of(&client, &namespace, &arguments.names).await?;
    let containers: Vec<Source> = pods
        .iter()
        .flat_map(|p| sources(p, &arguments.names))
        .collect();
    let prefixed = containers.len() > 1;
    let width = containers.iter().map(|c| c.title.len()).max().unwrap_or(0);
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let streams = containers.into_iter().map(|source| {
        let (api, arguments) = (api.clone(), &arguments);
        async move {
            let Source {
                pod,
                container,
                title,
            } = source;
            let parameters = LogParams {
                container: Some(container),
                follow: arguments.follow,
                tail_lines: tail,
                timestamps: arguments.timestamps,
                previous: arguments.previous,
                since_time: arguments.since,
                ..LogParams::default()
            };
            match api.log_stream(&pod, &parameters).await {
                Ok(stream) => {
                    let mut lines = stream.lines();
                    while let Some(Ok(line)) = lines.next().await {
                        let mut out = std::io::stdout().lock();
                        let written = if prefixed {
                            writeln!(out, "{title:width$} | {line}")
                        } else {
                            writeln!(out, "{line}")
                        };
                        if written.is_err() {
                            return; // the reader has gone
                        }
                    }
                }
                Err(e) => eprintln!("{title}: {}", Error::from(e)),
            }
        }
    });
    futures::future::join_all(streams).await;
    Ok(0)
}

/// Is it a name of the platform's apps? Then their verbs are about that.
pub async fn in_app(paths: &Paths, name: &str) -> bool {
    if paths.running().is_none() {
        return false;
    }
    let Ok(client) = connect::connect(paths).await else {
        return false;
    };
    let names = [name.to_string()];
    let Ok(namespace) = app::of(&client, None, &names).await else {
        return false;
    };
    let pods = pods_of(&client, &namespace, &names).await;
    pods.is_ok_and(|pods| !pods.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, containers: &[&str], services: &[&str]) -> Pod {
        let notes: serde_json::Map<String, serde_json::Value> = services
            .iter()
            .map(|s| (format!("knarr.dev/container.{s}"), json!("{}")))
            .collect();
        let containers: Vec<_> = containers.iter().map(|c| json!({ "name": c })).collect();
        let pod = json!({
            "metadata": { "name": name, "annotations": notes, "labels": { "app.kubernetes.io/name": "web" } },
            "spec": { "containers": containers }
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_services_lines_are_its_own_containers() {
        let check = |case: &str, pod: &Pod, names: &[&str], expected: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_string()).collect();
            let titles: Vec<String> = sources(pod, &names).into_iter().map(|s| s.title).collect();
            assert_eq!(titles, expected, "{case}");
        };
        let one = pod("web-1", &["web"], &["web"]);
        let shared = pod("web-1", &["web", "my-side"], &["web", "my-side"]);
        let sidecar = pod("web-1", &["web", "proxy"], &[]);
        let noted = pod("web-1", &["main", "proxy"], &["proxy"]);
        check("one container", &one, &["web"], &["web-1"]);
        check("all", &shared, &[], &["web-1/web", "web-1/my-side"]);
        check("the first", &shared, &["web"], &["web-1/web"]);
        check("the other", &shared, &["my_side"], &["web-1/my-side"]);
        check(
            "one and another Pod's",
            &shared,
            &["my_side", "db"],
            &["web-1/my-side"],
        );
        check(
            "the Pod",
            &shared,
            &["web-1"],
            &["web-1/web", "web-1/my-side"],
        );
        check(
            "a manifest's container that something is noted of",
            &noted,
            &["web", "proxy"],
            &["web-1/main", "web-1/proxy"],
        );
        check(
            "a Pod of a manifest",
            &sidecar,
            &["web"],
            &["web-1/web", "web-1/proxy"],
        );
    }
}
