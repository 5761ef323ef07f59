//! `knarr up`: files → images → resources → ready.

use crate::{
    apply::{Applied, Applier},
    build, connect,
    error::Error,
    paths::Paths,
    plan::{self, Source},
    progress::Progress,
    ready::{self, Readiness},
};
use clap::Args;
use knarr_compose::{Condition, Dependency};
use knarr_image::ImageStore;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

const CARGO_ANNOTATION: &str = "/metadata/annotations/knarr.dev~1cargo";
const WORKLOADS: &[&str] = &[
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "ReplicaSet",
    "ReplicationController",
    "Pod",
];
/// How long `up` waits for the next event before it looks again by itself.
const LOOK_AGAIN_SECONDS: u64 = 5;

#[derive(Args)]
pub struct UpArguments {
    /// Folder or file: a compose.yaml, or Kubernetes manifests
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Switch on a profile of the compose file; may be repeated
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// The project's name, which becomes its namespace. Default: what the file or folder says
    #[arg(short = 'p', long, value_name = "NAME")]
    project: Option<String>,
    /// Give up when it isn't ready after so many seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Print the time each phase took
    #[arg(long)]
    timings: bool,
    #[arg(long, short, value_enum, default_value = "text")]
    output: crate::cli::Output,
}

/// One workload to bring up.
struct Unit {
    name: String,
    object: Value,
    depends_on: Vec<Dependency>,
}

/// All that will be applied, whichever kind of file it came from.
struct Work {
    namespace: String,
    first: Vec<Value>,
    units: Vec<Unit>,
    published: Vec<(String, Option<String>, u16)>,
    /// Remove workloads and Services of the project that the file no longer has.
    prune: bool,
}

pub async fn run(paths: &Paths, arguments: UpArguments) -> Result<u8, Error> {
    let silent = arguments.output == crate::cli::Output::Json;
    let mut progress = Progress::new(silent);
    let mut phases: Vec<(&str, f64)> = Vec::new();
    let source = plan::read(
        &arguments.path,
        &arguments.profile,
        arguments.project.clone(),
    )?;
    if paths.running().is_none() {
        crate::doctor::require(&paths.data)?;
        check_ports(&draft(&source)?.published)?;
    }
    phases.push(("read", progress.seconds()));

    // The platform starts while cargo builds.
    let images_dir = paths.images();
    let packages = packages(&source)?;
    for (service, _, _) in &packages {
        progress.set(service, "building", false);
    }
    let building = tokio::task::spawn_blocking(move || images(&images_dir, &packages));
    let (client, started) = connect::ensure(paths).await?;
    phases.push(("platform", progress.seconds()));
    let built = building.await.map_err(|e| Error::Failed(e.to_string()))??;
    phases.push(("images", progress.seconds()));

    let work = work(&source, &built)?;
    check_images(paths, &work)?;
    if !started {
        check_ports(&unpublished(&client, &work).await?)?;
    }
    let applier = Applier::new(client.clone()).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(arguments.timeout);
    let changed =
        match tokio::time::timeout_at(deadline, bring_up(&client, &applier, &work, &mut progress))
            .await
        {
            Ok(result) => result?,
            Err(_) => return Err(late(&client, &work, arguments.timeout).await),
        };
    phases.push(("ready", progress.seconds()));
    report(&work, changed, &phases, &arguments, progress.seconds());
    Ok(0)
}

/// Service, folder, (package, image name): what cargo is to build.
type Package = (String, PathBuf, (String, String));

/// All that cargo is to build.
fn packages(source: &Source) -> Result<Vec<Package>, Error> {
    let mut all = Vec::new();
    match source {
        Source::Compose(project) => {
            for service in project.services.values() {
                if let Some(build) = &service.build
                    && let Some(package) = &build.cargo
                {
                    all.push((
                        service.name.clone(),
                        build::absolute(&build.context)?,
                        (package.clone(), service.image.clone()),
                    ));
                }
            }
        }
        Source::Manifests { folder, objects } => {
            for object in objects {
                if let Some(package) = object.pointer(CARGO_ANNOTATION).and_then(Value::as_str) {
                    let image = object
                        .pointer("/spec/template/spec/containers/0/image")
                        .and_then(Value::as_str);
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    let image = image.ok_or_else(|| {
                        Error::Input(format!(
                            "{name}: knarr.dev/cargo needs a container with an image name"
                        ))
                    })?;
                    all.push((
                        name.to_string(),
                        build::absolute(folder)?,
                        (package.to_string(), image.to_string()),
                    ));
                }
            }
        }
    }
    Ok(all)
}

/// Builds and packs; service → reference with digest.
fn images(
    dir: &std::path::Path,
    packages: &[(String, PathBuf, (String, String))],
) -> Result<BTreeMap<String, String>, Error> {
    let mut references = BTreeMap::new();
    if packages.is_empty() {
        return Ok(references);
    }
    let store = ImageStore::open(dir)?;
    let mut folders: BTreeMap<&PathBuf, BTreeSet<String>> = BTreeMap::new();
    for (_, folder, (package, _)) in packages {
        folders.entry(folder).or_default().insert(package.clone());
    }
    for (folder, wanted) in folders {
        let wanted: Vec<String> = wanted.into_iter().collect();
        let executables = build::cargo(folder, &wanted)?;
        for (service, _, (package, image)) in packages.iter().filter(|p| p.1 == *folder) {
            let made = build::pack(&store, image, executables[package].clone())?;
            references.insert(service.clone(), format!("{}@{}", made.name, made.digest));
        }
    }
    Ok(references)
}

fn draft(source: &Source) -> Result<Work, Error> {
    work(source, &BTreeMap::new())
}

fn work(source: &Source, images: &BTreeMap<String, String>) -> Result<Work, Error> {
    match source {
        Source::Compose(project) => {
            let made = knarr_compose::translate(project, images);
            let published = made
                .workloads
                .iter()
                .flat_map(|w| {
                    w.published
                        .iter()
                        .map(|(ip, p)| (w.service.clone(), ip.clone(), *p))
                })
                .collect();
            let units = made
                .workloads
                .into_iter()
                .map(|w| Unit {
                    name: w.service,
                    object: w.object,
                    depends_on: w.depends_on,
                })
                .collect();
            Ok(Work {
                namespace: made.namespace,
                first: made.shared,
                units,
                published,
                prune: true,
            })
        }
        Source::Manifests { objects, .. } => {
            let mut objects = objects.clone();
            // Namespaces before what lives in them; otherwise the files' order.
            objects.sort_by_key(|o| o["kind"] != "Namespace");
            let (mut first, mut units, mut published) = (vec![], vec![], vec![]);
            let mut namespaces = BTreeSet::new();
            for mut object in objects {
                let name = object["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_string();
                namespaces.extend(
                    object
                        .pointer("/metadata/namespace")
                        .and_then(Value::as_str)
                        .map(String::from),
                );
                if object["kind"] == "Service"
                    && object
                        .pointer("/spec/type")
                        .is_some_and(|t| t == "LoadBalancer")
                {
                    let ports = object
                        .pointer("/spec/ports")
                        .and_then(Value::as_array)
                        .into_iter()
                        .flatten();
                    published.extend(ports.filter_map(|p| {
                        Some((name.clone(), None, u16::try_from(p["port"].as_u64()?).ok()?))
                    }));
                }
                if let Some(reference) = images.get(&name)
                    && object.pointer(CARGO_ANNOTATION).is_some()
                    && let Some(image) =
                        object.pointer_mut("/spec/template/spec/containers/0/image")
                {
                    *image = json!(reference);
                }
                match object["kind"]
                    .as_str()
                    .is_some_and(|k| WORKLOADS.contains(&k))
                {
                    true => units.push(Unit {
                        name,
                        object,
                        depends_on: vec![],
                    }),
                    false => first.push(object),
                }
            }
            let namespace = match namespaces.len() {
                1 => namespaces.pop_first().unwrap_or_default(),
                _ => "default".into(),
            };
            Ok(Work {
                namespace,
                first,
                units,
                published,
                prune: false,
            })
        }
    }
}

/// Every image must be here before anything is changed.
fn check_images(paths: &Paths, work: &Work) -> Result<(), Error> {
    let store = ImageStore::open(&paths.images())?;
    for unit in &work.units {
        let spec = unit
            .object
            .pointer("/spec/template/spec")
            .or(unit.object.get("spec"));
        let Some(spec) = spec else { continue };
        for list in ["initContainers", "containers"] {
            for image in spec[list]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|c| c["image"].as_str())
            {
                if store.resolve(image)?.is_none() {
                    return Err(Error::Input(format!(
                        "{}: image {image} is not on this machine, and pulling is not built yet: load it with `knarr image load`, or make it with `knarr image pack`",
                        unit.name
                    )));
                }
            }
        }
    }
    Ok(())
}

/// The ports that are not served by an existing Service already.
async fn unpublished(
    client: &Client,
    work: &Work,
) -> Result<Vec<(String, Option<String>, u16)>, Error> {
    use k8s_openapi::api::core::v1::Service;
    let services = Api::<Service>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let mut held: BTreeMap<i32, String> = BTreeMap::new();
    for service in services {
        let spec = service.spec.unwrap_or_default();
        if spec.type_.as_deref() == Some("LoadBalancer") {
            let namespace = service.metadata.namespace.unwrap_or_default();
            held.extend(
                spec.ports
                    .unwrap_or_default()
                    .into_iter()
                    .map(|p| (p.port, namespace.clone())),
            );
        }
    }
    let mut free = Vec::new();
    for published in &work.published {
        match held.get(&i32::from(published.2)) {
            Some(namespace) if *namespace == work.namespace => {}
            Some(namespace) => {
                return Err(Error::Input(format!(
                    "port {} of {} is already published by the app {namespace}: choose another port, or `knarr down -p {namespace}`",
                    published.2, published.0
                )));
            }
            None => free.push(published.clone()),
        }
    }
    Ok(free)
}

/// Fails when another program holds a port, and changes nothing.
fn check_ports(published: &[(String, Option<String>, u16)]) -> Result<(), Error> {
    for (service, ip, port) in published {
        let address = ip
            .as_ref()
            .and_then(|i| i.parse().ok())
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        if let Err(e) = std::net::TcpListener::bind(SocketAddr::new(address, *port)) {
            let why = match e.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another program holds it: stop that program, or change `ports`".to_string()
                }
                _ => e.to_string(),
            };
            return Err(Error::Input(format!(
                "{service}: port {port} can't be published: {why}"
            )));
        }
    }
    Ok(())
}

/// Applies everything and waits; true when anything changed.
async fn bring_up(
    client: &Client,
    applier: &Applier,
    work: &Work,
    progress: &mut Progress,
) -> Result<bool, Error> {
    let mut changed = false;
    for object in &work.first {
        changed |= applier.apply(object, &work.namespace, false).await?.changed;
    }
    if work.prune {
        changed |= prune(client, work).await?;
    }
    // `state`: None = waits for its dependencies; Some = applied, with its newest object.
    let mut state: BTreeMap<String, Value> = BTreeMap::new();
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut events = Box::pin(changes(client, work));
    loop {
        for unit in &work.units {
            if state.contains_key(&unit.name) {
                continue;
            }
            if let Some(blocker) = unit
                .depends_on
                .iter()
                .find(|d| !satisfied(d, &state, &done))
            {
                progress.set(&unit.name, &format!("waits for {}", blocker.service), false);
                continue;
            }
            let Applied {
                object,
                changed: new,
            } = applier.apply(&unit.object, &work.namespace, false).await?;
            changed |= new;
            progress.set(&unit.name, "starting", false);
            state.insert(unit.name.clone(), object);
        }
        let mut finished_one = false;
        for unit in &work.units {
            let Some(object) = state.get(&unit.name) else {
                continue;
            };
            match ready::readiness(object) {
                Readiness::Ready(text) => {
                    finished_one |= done.insert(unit.name.clone());
                    progress.set(&unit.name, &text, true);
                }
                Readiness::Waiting(text) => {
                    done.remove(&unit.name);
                    progress.set(&unit.name, &text, false);
                }
            }
        }
        if done.len() == work.units.len() {
            return Ok(changed);
        }
        if finished_one {
            continue; // somebody may have waited for it
        }
        use futures::StreamExt;
        match tokio::time::timeout(Duration::from_secs(LOOK_AGAIN_SECONDS), events.next()).await {
            Ok(Some(Change::Workload(object))) => {
                let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
                if let Some(unit) = work
                    .units
                    .iter()
                    .find(|u| u.object["kind"] == *kind && u.object["metadata"]["name"] == *name)
                    && let Some(known) = state.get_mut(&unit.name)
                {
                    *known = object;
                }
            }
            Ok(Some(Change::Pod)) | Err(_) => {
                give_up_on_trouble(client, work, &state, &done).await?
            }
            Ok(None) => {
                return Err(Error::Platform(
                    "the platform ended while it was watched".into(),
                ));
            }
        }
    }
}

fn satisfied(
    dependency: &Dependency,
    state: &BTreeMap<String, Value>,
    done: &BTreeSet<String>,
) -> bool {
    match dependency.condition {
        Condition::Started => state.contains_key(&dependency.service),
        Condition::Healthy | Condition::CompletedSuccessfully => done.contains(&dependency.service),
    }
}

enum Change {
    Workload(Value),
    Pod,
}

/// Changes of the namespace's workloads and pods.
fn changes(client: &Client, work: &Work) -> impl futures::Stream<Item = Change> + use<> {
    use futures::StreamExt;
    let kinds: BTreeSet<(String, String)> = work
        .units
        .iter()
        .map(|u| {
            (
                u.object["apiVersion"]
                    .as_str()
                    .unwrap_or_default()
                    .to_string(),
                u.object["kind"].as_str().unwrap_or_default().to_string(),
            )
        })
        .chain([("v1".to_string(), "Pod".to_string())])
        .collect();
    let streams = kinds.into_iter().map(|(api_version, kind)| {
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &work.namespace, &resource);
        let is_pod = kind == "Pod";
        watcher(api, watcher::Config::default())
            .default_backoff()
            .touched_objects()
            .filter_map(move |event| {
                let kind = kind.clone();
                let api_version = api_version.clone();
                async move {
                    let object = event.ok()?;
                    if is_pod {
                        return Some(Change::Pod);
                    }
                    let mut value = serde_json::to_value(&object).ok()?;
                    value["kind"] = json!(kind);
                    value["apiVersion"] = json!(api_version);
                    Some(Change::Workload(value))
                }
            })
            .boxed()
    });
    futures::stream::select_all(streams.collect::<Vec<_>>())
}

/// Fails with the reason and the last log lines when a container of this rollout will not come right.
async fn give_up_on_trouble(
    client: &Client,
    work: &Work,
    state: &BTreeMap<String, Value>,
    done: &BTreeSet<String>,
) -> Result<(), Error> {
    for unit in work
        .units
        .iter()
        .filter(|u| state.contains_key(&u.name) && !done.contains(&u.name))
    {
        if let Some(text) = explain(client, work, unit, true).await? {
            return Err(Error::Failed(text));
        }
    }
    Ok(())
}

/// The newest pods' trouble, with log lines.
async fn explain(
    client: &Client,
    work: &Work,
    unit: &Unit,
    fatal_only: bool,
) -> Result<Option<String>, Error> {
    let mut pods = ready::pods(client, &work.namespace, &unit.object).await?;
    pods.retain(|p| p.metadata.deletion_timestamp.is_none());
    pods.sort_by_key(|p| std::cmp::Reverse(p.metadata.creation_timestamp.clone().map(|t| t.0)));
    for pod in &pods {
        if let Some(trouble) = ready::trouble(pod, fatal_only) {
            let mut text = format!("{}: {} ({})", unit.name, trouble.why, trouble.pod);
            if trouble.ran {
                let lines = ready::last_lines(client, &work.namespace, &trouble).await;
                if !lines.is_empty() {
                    text.push_str("\n  its last log lines:\n    ");
                    text.push_str(&lines.join("\n    "));
                }
            }
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// What to say when the deadline has passed.
async fn late(client: &Client, work: &Work, seconds: u64) -> Error {
    let mut reasons = Vec::new();
    for unit in &work.units {
        if let Ok(Some(text)) = explain(client, work, unit, false).await {
            reasons.push(text);
        }
    }
    let tail = if reasons.is_empty() {
        "; see `knarr status`".to_string()
    } else {
        format!(":\n{}", reasons.join("\n"))
    };
    Error::TimedOut(format!("not ready after {seconds} s{tail}"))
}

/// Removes what an earlier version of the file had: Deployments, Jobs and Services. Volumes stay.
async fn prune(client: &Client, work: &Work) -> Result<bool, Error> {
    let keep: BTreeSet<(&str, &str)> = work
        .first
        .iter()
        .chain(work.units.iter().map(|u| &u.object))
        .filter_map(|o| Some((o["kind"].as_str()?, o["metadata"]["name"].as_str()?)))
        .collect();
    let mine = ListParams::default().labels(&format!(
        "app.kubernetes.io/managed-by=knarr,app.kubernetes.io/part-of={}",
        work.namespace
    ));
    let mut changed = false;
    for (group, kind) in [("apps", "Deployment"), ("batch", "Job"), ("", "Service")] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &work.namespace, &resource);
        for object in api.list_metadata(&mine).await? {
            let name = object.metadata.name.unwrap_or_default();
            if !keep.contains(&(kind, name.as_str())) {
                api.delete(&name, &DeleteParams::background()).await?;
                changed = true;
            }
        }
    }
    Ok(changed)
}

fn report(
    work: &Work,
    changed: bool,
    phases: &[(&str, f64)],
    arguments: &UpArguments,
    seconds: f64,
) {
    let addresses: Vec<(String, String)> = work
        .published
        .iter()
        .map(|(service, ip, port)| {
            (
                service.clone(),
                format!(
                    "http://{}:{port}",
                    ip.as_deref()
                        .filter(|i| *i != "0.0.0.0")
                        .unwrap_or("localhost")
                ),
            )
        })
        .collect();
    if arguments.output == crate::cli::Output::Json {
        let out = json!({
            "project": work.namespace, "changed": changed, "seconds": seconds,
            "services": work.units.iter().map(|u| &u.name).collect::<Vec<_>>(),
            "addresses": addresses.iter().map(|(s, a)| json!({ "service": s, "address": a })).collect::<Vec<_>>(),
            "phases": phases.iter().map(|(n, s)| json!({ "phase": n, "at_seconds": s })).collect::<Vec<_>>(),
        });
        println!("{out}");
        return;
    }
    match changed {
        true => println!("{} is up after {seconds:.2} s", work.namespace),
        false => println!("{} is up; nothing had changed", work.namespace),
    }
    for (service, address) in addresses {
        println!("  {service}  {address}");
    }
    if arguments.timings {
        let mut before = 0.0;
        for (name, at) in phases {
            println!("  {name:10} {:6.0} ms", (at - before) * 1000.0);
            before = *at;
        }
    }
}
