//! `knarr up`: files → images → resources → ready.

use crate::{
    apply::Applier,
    build, cli,
    compose_build::{self, When},
    connect, doctor,
    error::Error,
    facts,
    paths::Paths,
    plan::{self, Source},
    port_ranges,
    progress::Progress,
    project::ProjectArguments,
    pulls, rollout, turns, unnamed, wiring,
    work::{self, CARGO_ANNOTATION, Replace, Work},
};
use clap::Args;
use knarr_compose::{Context, Mode};
use knarr_image::ImageStore;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

#[derive(Args)]
pub struct UpArguments {
    /// Folder or file (a compose.yaml, or Kubernetes manifests; default: this folder), then services to bring up
    /// instead of all, with what they depend on
    #[arg(value_name = "PATH|SERVICE")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub project: ProjectArguments,
    /// Build images anew though they are here; unchanged steps are taken from the cache
    #[arg(long)]
    pub build: bool,
    /// Build nothing
    #[arg(long, conflicts_with = "build")]
    pub no_build: bool,
    /// Replace containers though nothing has changed
    #[arg(long)]
    pub force_recreate: bool,
    /// Replace what the named services depend on, too, though nothing has changed
    #[arg(long, conflicts_with = "no_recreate")]
    pub always_recreate_deps: bool,
    /// Leave containers that are there as they are, though the file has changed
    #[arg(long, conflicts_with_all = ["force_recreate", "renew_anon_volumes"])]
    pub no_recreate: bool,
    /// Begin volumes without a name anew, instead of handing them on
    #[arg(short = 'V', long)]
    pub renew_anon_volumes: bool,
    /// So many replicas of a service, whatever the file says; may be repeated
    #[arg(long, value_name = "SERVICE=NUMBER", value_parser = scaled)]
    pub scale: Vec<(String, i64)>,
    /// Bring up the named services without what they depend on
    #[arg(long)]
    pub no_deps: bool,
    /// Ask registries for images: always, missing (the default) or never
    #[arg(long, value_name = "POLICY", value_parser = ["always", "missing", "never"])]
    pub pull: Option<String>,
    /// Give up when it isn't ready after this time: seconds, or 90s, 5m
    #[arg(long, alias = "wait-timeout", default_value = "120", value_name = "TIME", value_parser = cli::seconds)]
    pub timeout: u64,
    /// As every `up` does: return when all is up. Taken for the fingers' sake
    #[arg(short, long, hide = true)]
    detach: bool,
    /// As every `up` does: wait until all is ready
    #[arg(long, hide = true)]
    wait: bool,
    /// As every `up` does: remove what the file no longer has
    #[arg(long, hide = true)]
    remove_orphans: bool,
    /// Print the time each phase took
    #[arg(long)]
    timings: bool,
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: cli::Output,
    /// Make everything, and start nothing.
    #[arg(long)]
    pub no_start: bool,
    /// Say nothing of how it goes.
    #[arg(skip)]
    pub quiet: bool,
}

/// The code of a program that was ended by SIGINT.
const INTERRUPTED: u8 = 130;

impl UpArguments {
    /// What `watch` asks for: everything, or one service anew.
    pub fn of(project: &ProjectArguments, words: Vec<String>, build: bool) -> UpArguments {
        UpArguments {
            force_recreate: !build && words.len() > usize::from(project.files.is_empty()),
            no_deps: true,
            always_recreate_deps: false,
            no_recreate: false,
            renew_anon_volumes: false,
            project: project.clone(),
            words,
            build,
            no_build: false,
            scale: vec![],
            pull: None,
            timeout: 120,
            detach: true,
            wait: true,
            remove_orphans: false,
            timings: false,
            output: cli::Output::Text,
            no_start: false,
            quiet: false,
        }
    }
}

/// `web=3`
pub fn scaled(text: &str) -> Result<(String, i64), String> {
    let (service, number) = text.split_once('=').ok_or("expected SERVICE=NUMBER")?;
    let number = number.parse().ok().filter(|n| (0..=1000).contains(n));
    Ok((
        service.to_string(),
        number.ok_or("expected a number of replicas from 0 to 1000")?,
    ))
}

pub async fn run(paths: &Paths, arguments: UpArguments) -> Result<u8, Error> {
    let silent = arguments.output == cli::Output::Json || arguments.quiet;
    let progress = Progress::new(silent);
    let mut phases: Vec<(&str, f64)> = Vec::new();
    let mut source = read(&arguments)?;
    let packages = packages(&source)?;
    let draft = Work::new(&source, &BTreeMap::new());
    if paths.running().is_none() {
        doctor::require(&paths.data)?;
        doctor::require_api_port(paths)?;
        work::check_ports(&draft.published, None)?;
        progress.set("platform", "starting", false);
    } else {
        doctor::require_space(&paths.data)?;
    }
    let deadline = Duration::from_secs(arguments.timeout);
    let _turn = turns::turn(paths, &draft.namespace, deadline).await?;
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
    if let Source::Compose(project) = &mut source {
        project.host_gateway = work::machine_address(&client).await?;
        work::own_docker_socket(project, &paths.sub("docker.sock"));
        project.at_home = true;
        let renewed = arguments.renew_anon_volumes.then_some(&[][..]);
        unnamed::remember(&client, project, renewed).await?;
        port_ranges::choose(&client, project).await?;
    }
    if matches!(source, Source::Manifests { .. }) {
        rollout::check(&applier, &draft).await?;
    }
    let built = building.await.map_err(|e| Error::Failed(e.to_string()))??;
    for service in built.keys() {
        progress.set(service, "image packed", false);
    }
    let mut work = images_of(paths, &source, built, &arguments, &progress).await?;
    phases.push(("images", progress.seconds()));
    work.prune &= !is_part(&arguments, &source);
    replace(&mut work, &arguments);
    if arguments.no_start {
        work.hold();
    }
    if !started {
        let published = work::unpublished(&client, &work).await?;
        work::check_ports(&published, crate::registry::gives_way(paths))?;
    }
    work::check_external(&client, &work).await?;
    work::check_namespace(&client, &work).await?;
    let changed = tokio::select! {
        changed = rollout::bring_up(&client, &applier, &work, &progress, deadline) => changed?,
        () = wiring::until_signal() => {
            progress.finish();
            eprintln!(
                "interrupted: what has begun goes on, see `knarr status`; the next `knarr up` does the rest"
            );
            return Ok(INTERRUPTED);
        }
    };
    phases.push(("ready", progress.seconds()));
    progress.finish();
    report(&work, changed, &phases, &arguments, progress.seconds());
    Ok(0)
}

/// Which workloads are replaced.
fn replace(work: &mut Work, arguments: &UpArguments) {
    let (_, named) = arguments.project.split(&arguments.words);
    for unit in &mut work.units {
        let deps =
            arguments.always_recreate_deps && !named.is_empty() && !named.contains(&unit.name);
        unit.replace = match arguments.force_recreate || deps {
            true => Replace::Always,
            false if arguments.no_recreate => Replace::Never,
            false => Replace::Changed,
        };
    }
}

/// The source, with what the flags change of it.
fn read(arguments: &UpArguments) -> Result<Source, Error> {
    let (path, services) = arguments.project.split(&arguments.words);
    let mut asked = arguments.project.clone();
    if !services.is_empty() {
        // A service that is named is switched on, whatever its profile.
        asked.profile.push("*".into());
    }
    let mut source = plan::read(&path, &asked)?;
    let Source::Compose(project) = &mut source else {
        return match services.is_empty() && arguments.scale.is_empty() {
            true => Ok(source),
            false => Err(Error::Input(
                "these are Kubernetes manifests: they have no services to choose from".into(),
            )),
        };
    };
    for warning in &project.warnings {
        eprintln!("warning: {warning}");
    }
    for (service, replicas) in &arguments.scale {
        let known = project.services.get_mut(service);
        let service = known.ok_or_else(|| Error::Input(format!("no such service: {service}")))?;
        service.mode = match service.mode {
            Mode::Job(_, retries) => Mode::Job(*replicas, retries),
            _ => Mode::Replicated(*replicas),
        };
    }
    project
        .select(services, !arguments.no_deps)
        .map_err(|name| Error::Input(format!("no such service: {name}")))?;
    work::find_devices(project)?;
    Ok(source)
}

/// Only some of the project's services are brought up.
fn is_part(arguments: &UpArguments, source: &Source) -> bool {
    matches!(source, Source::Compose(_)) && !arguments.project.split(&arguments.words).1.is_empty()
}

/// Builds and pulls what is needed, and gives all that is to be applied.
async fn images_of(
    paths: &Paths,
    source: &Source,
    mut built: BTreeMap<String, String>,
    arguments: &UpArguments,
    progress: &Progress,
) -> Result<Work, Error> {
    let Source::Compose(project) = source else {
        let work = Work::new(source, &facts::pinned(&built));
        pulls::bring_images(paths, &work, progress).await?;
        return Ok(work);
    };
    let store = ImageStore::open(&paths.images())?;
    let when = match (arguments.build, arguments.no_build) {
        (true, _) => When::Always,
        (_, true) => When::Never,
        _ => When::Missing,
    };
    let names = compose_build::wanted(project, &store, when)?;
    built.extend(compose_build::build(paths, project, &names, progress).await?);
    let mut draft = Work::new(source, &facts::pinned(&built));
    draft.pull(arguments.pull.as_deref());
    pulls::bring_images(paths, &draft, progress).await?;
    work::make_bound_folders(project)?;
    Ok(Work::new(source, &facts::facts(project, &store, &built)?))
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
                    let Context::Folder(folder) = &build.context else {
                        return Err(Error::Input(format!(
                            "{}: x-knarr.cargo builds a folder: name one as the context",
                            service.name
                        )));
                    };
                    all.push((
                        service.name.clone(),
                        build::absolute(folder)?,
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
            "project": work.title, "changed": changed, "seconds": seconds,
            "services": work.units.iter().map(|u| &u.name).collect::<Vec<_>>(),
            "addresses": addresses.iter().map(|(s, a)| json!({ "service": s, "address": a })).collect::<Vec<_>>(),
            "phases": phases.iter().map(|(n, s)| json!({ "phase": n, "at_seconds": s })).collect::<Vec<_>>(),
        });
        println!("{out}");
        return;
    }
    match changed {
        true => println!("{} is up after {seconds:.2} s", work.title),
        false => println!("{} is up; nothing had changed", work.title),
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
