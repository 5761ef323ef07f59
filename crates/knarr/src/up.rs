//! `knarr up`: files → images → resources → ready.

use crate::{
    apply::Applier,
    build, cli, connect, doctor,
    error::Error,
    paths::Paths,
    plan::{self, Source},
    progress::Progress,
    rollout,
    work::{self, CARGO_ANNOTATION, Work},
};
use clap::Args;
use knarr_image::ImageStore;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

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
    /// Give up when it isn't ready after this time: seconds, or 90s, 5m
    #[arg(long, default_value = "120", value_name = "TIME", value_parser = cli::seconds)]
    timeout: u64,
    /// Print the time each phase took
    #[arg(long)]
    timings: bool,
    #[arg(long, short, value_enum, default_value = "text")]
    output: cli::Output,
}

pub async fn run(paths: &Paths, arguments: UpArguments) -> Result<u8, Error> {
    let silent = arguments.output == cli::Output::Json;
    let mut progress = Progress::new(silent);
    let mut phases: Vec<(&str, f64)> = Vec::new();
    let source = plan::read(
        &arguments.path,
        &arguments.profile,
        arguments.project.clone(),
    )?;
    let packages = packages(&source)?;
    let draft = Work::new(&source, &BTreeMap::new());
    if paths.running().is_none() {
        doctor::require(&paths.data)?;
        doctor::require_api_port(paths)?;
        work::check_ports(&draft.published)?;
        progress.set("platform", "starting", false);
    } else {
        doctor::require_space(&paths.data)?;
    }
    phases.push(("read", progress.seconds()));

    // The platform starts while cargo builds.
    let images_dir = paths.images();
    for (service, _, _) in &packages {
        progress.set(service, "building", false);
    }
    let building = tokio::task::spawn_blocking(move || images(&images_dir, &packages));
    let (client, started) = connect::ensure(paths).await?;
    if started {
        progress.set("platform", "ready", true);
    }
    phases.push(("platform", progress.seconds()));
    let applier = Applier::new(client.clone()).await?;
    if matches!(source, Source::Manifests { .. }) {
        rollout::check(&applier, &draft).await?;
    }
    let built = building.await.map_err(|e| Error::Failed(e.to_string()))??;
    for service in built.keys() {
        progress.set(service, "image packed", false);
    }
    phases.push(("images", progress.seconds()));

    let work = Work::new(&source, &built);
    work::check_images(paths, &work)?;
    if !started {
        work::check_ports(&work::unpublished(&client, &work).await?)?;
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(arguments.timeout);
    let up = rollout::bring_up(&client, &applier, &work, &mut progress);
    let changed = match tokio::time::timeout_at(deadline, up).await {
        Ok(result) => result?,
        Err(_) => return Err(rollout::late(&client, &work, arguments.timeout).await),
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
        Source::Manifests { folder, documents } => {
            for plan::Document { object, place } in documents {
                if let Some(package) = object.pointer(CARGO_ANNOTATION).and_then(Value::as_str) {
                    let image = object
                        .pointer("/spec/template/spec/containers/0/image")
                        .and_then(Value::as_str);
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    let image = image.ok_or_else(|| {
                        Error::Input(format!(
                            "{place}: {name}: knarr.dev/cargo needs a container with an image name"
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
        .map(|p| {
            let ip = p.ip.as_deref().filter(|i| *i != "0.0.0.0");
            let host = ip.unwrap_or("localhost");
            (p.service.clone(), format!("http://{host}:{}", p.port))
        })
        .collect();
    if arguments.output == cli::Output::Json {
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
