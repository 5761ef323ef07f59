//! `knarr down`: the reverse of `up`.

use crate::{
    apply::Applier,
    connect,
    error::Error,
    paths::Paths,
    plan::{self, Source},
    project::ProjectArguments,
};
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use serde_json::json;
use std::{path::PathBuf, time::Duration};

/// How long to wait for containers to end; each has its own grace period before it is killed.
const WAIT_SECONDS_MAX: u64 = 90;

#[derive(Args)]
pub struct DownArguments {
    /// The folder or file that was given to `up`
    #[arg(default_value = ".")]
    path: PathBuf,
    #[command(flatten)]
    project: ProjectArguments,
    #[command(flatten)]
    flags: DownFlags,
}

/// What all forms of `down` take.
#[derive(Args, Default)]
pub struct DownFlags {
    /// Remove images too: those that were built here (local), or all that the services use
    #[arg(long, value_name = "WHICH", value_parser = ["local", "all"])]
    rmi: Option<String>,
    /// As every `down` does: remove what the file no longer has
    #[arg(long, hide = true)]
    remove_orphans: bool,
    /// Remove its volumes, with all their data, too
    #[arg(short = 'v', long)]
    pub volumes: bool,
    /// Seconds until what does not end is killed. Default: as the file says
    #[arg(short = 't', long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    output: crate::cli::Output,
}

impl DownFlags {
    /// `down` of a project that was asked for elsewhere.
    pub fn of(self, project: ProjectArguments) -> DownArguments {
        DownArguments {
            path: ".".into(),
            project,
            flags: self,
        }
    }
}

pub async fn run(paths: &Paths, arguments: DownArguments) -> Result<u8, Error> {
    // Every profile: what was started with one is to go as well.
    let mut asked = arguments.project.clone();
    asked.profile = vec!["*".into()];
    let named = arguments.project.project.clone();
    let source = match (&named, arguments.path.exists()) {
        (Some(_), false) => None,
        (Some(_), true) => plan::read(&arguments.path, &asked).ok(),
        (None, _) => Some(plan::read(&arguments.path, &asked)?),
    };
    let images = match (&source, arguments.flags.rmi.as_deref()) {
        (Some(Source::Compose(project)), Some(which)) => images(project, which),
        _ => vec![],
    };
    let client = connect::connect(paths).await?;
    let project = match (source, named) {
        (Some(Source::Manifests { documents, .. }), None) => {
            let applier = Applier::new(client.clone()).await?;
            let kept = |kind: &str| {
                !arguments.flags.volumes
                    && matches!(
                        kind,
                        "PersistentVolumeClaim" | "PersistentVolume" | "Namespace"
                    )
            };
            let mut gone = 0;
            let mut namespaces = std::collections::BTreeSet::new();
            for object in documents.iter().rev().map(|d| &d.object) {
                let (kind, name) = (
                    object["kind"].as_str().unwrap_or_default(),
                    object["metadata"]["name"].as_str().unwrap_or_default(),
                );
                namespaces.extend(
                    object
                        .pointer("/metadata/namespace")
                        .and_then(|n| n.as_str())
                        .map(String::from),
                );
                // Of a kind that is gone nothing is left.
                if kept(kind) || !applier.knows(object) {
                    continue;
                }
                match applier
                    .api(object, "default")?
                    .delete(name, &DeleteParams::background())
                    .await
                {
                    Ok(_) => gone += 1,
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(e) => return Err(e.into()),
                }
            }
            for namespace in namespaces {
                pods_gone(&client, &namespace).await?;
            }
            return done(&arguments.flags.output, "the manifests' objects", gone > 0);
        }
        (Some(Source::Compose(project)), None) => project.name.replace('_', "-"),
        (_, Some(name)) => name,
        (None, None) => return Err(Error::Input("name a folder or a project".into())),
    };
    let mut changed = remove_project(&client, &project, &arguments.flags).await?;
    if !images.is_empty() {
        let store = knarr_image::ImageStore::open(&paths.images())?;
        for image in images {
            if store.resolve(&image)?.is_some() {
                store.remove(&image)?;
                changed = true;
            }
        }
    }
    done(&arguments.flags.output, &project, changed)
}

/// The images that `--rmi` takes away.
fn images(project: &knarr_compose::Project, which: &str) -> Vec<String> {
    let services = project.services.values();
    services
        .filter(|s| which == "all" || s.build.is_some())
        .map(|s| s.image.clone())
        .collect()
}

fn done(output: &crate::cli::Output, what: &str, changed: bool) -> Result<u8, Error> {
    match (output, changed) {
        (crate::cli::Output::Json, _) => {
            println!("{}", json!({ "project": what, "changed": changed }))
        }
        (_, true) => println!("{what}: stopped and removed"),
        (_, false) => println!("{what}: nothing was running"),
    }
    Ok(0)
}

async fn remove_project(client: &Client, project: &str, flags: &DownFlags) -> Result<bool, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(namespace) = namespaces.get_opt(project).await? else {
        return Ok(false);
    };
    if namespace
        .meta()
        .labels
        .as_ref()
        .and_then(|l| l.get("app.kubernetes.io/managed-by"))
        .is_none_or(|m| m != "knarr")
    {
        return Err(Error::Input(format!(
            "namespace {project} was not made by `knarr up`: delete what is in it with kubectl"
        )));
    }
    let mine = ListParams::default().labels("app.kubernetes.io/managed-by=knarr");
    let mut changed = false;
    for (group, kind) in crate::rollout::KINDS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), project, &resource);
        for object in api.list_metadata(&mine).await? {
            let name = object.metadata.name.unwrap_or_default();
            match api.delete(&name, &DeleteParams::background()).await {
                Ok(_) => changed = true,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    if let Some(seconds) = flags.timeout {
        let pods: Api<Pod> = Api::namespaced(client.clone(), project);
        let parameters = DeleteParams::default().grace_period(seconds);
        for pod in pods.list_metadata(&ListParams::default()).await? {
            match pods.delete(&pod.name_any(), &parameters).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
        }
    }
    pods_gone(client, project).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), project);
    if flags.volumes
        || claims
            .list_metadata(&ListParams::default())
            .await?
            .items
            .is_empty()
    {
        namespaces
            .delete(project, &DeleteParams::background())
            .await?;
        wait("namespace", project, namespace_gone(&namespaces, project)).await?;
        changed = true;
    }
    Ok(changed)
}

async fn wait(
    what: &str,
    name: &str,
    gone: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    tokio::time::timeout(Duration::from_secs(WAIT_SECONDS_MAX), gone)
        .await
        .map_err(|_| {
            Error::TimedOut(format!(
                "{what} {name} is still there after {WAIT_SECONDS_MAX} s; see `knarr status`"
            ))
        })?
}

async fn namespace_gone(api: &Api<Namespace>, name: &str) -> Result<(), Error> {
    kube::runtime::wait::await_condition(api.clone(), name, |o: Option<&Namespace>| o.is_none())
        .await
        .map(|_| ())
        .map_err(|e| Error::Failed(e.to_string()))
}

/// Waits until the namespace has no Pod any more.
async fn pods_gone(client: &Client, namespace: &str) -> Result<(), Error> {
    use futures::StreamExt;
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let watched = async {
        let slim: Api<kube::core::PartialObjectMeta<Pod>> =
            Api::namespaced(client.clone(), namespace);
        let mut changes = Box::pin(kube::runtime::watcher(
            slim,
            kube::runtime::watcher::Config::default(),
        ));
        while changes.next().await.is_some() {
            if api
                .list_metadata(&ListParams::default())
                .await?
                .items
                .is_empty()
            {
                return Ok(());
            }
        }
        Ok(())
    };
    if api
        .list_metadata(&ListParams::default())
        .await?
        .items
        .is_empty()
    {
        return Ok(());
    }
    wait("a pod of", namespace, watched).await
}
