//! A project's images: `build`, `pull`, `push`.

use super::Asked;
use crate::{
    compose_build::{self, When},
    error::Error,
    progress::Progress,
};
use clap::Args;
use knarr_compose::{Context, Project};
use knarr_image::{
    ImageStore,
    client::{PullOptions, PushOptions},
};
use serde_json::json;
use std::collections::BTreeSet;

#[derive(Args)]
pub struct BuildArguments {
    services: Vec<String>,
    /// Values of build arguments: KEY=VALUE, or KEY for what the environment has; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    build_arg: Vec<String>,
    /// Take nothing from the cache
    #[arg(long)]
    no_cache: bool,
    /// Ask registries for newer base images
    #[arg(long)]
    pull: bool,
    /// Send the images to their registries
    #[arg(long)]
    push: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// What the services depend on, too
    #[arg(long)]
    with_dependencies: bool,
    /// An agent's socket or key for the builds: default, or ID=PATH; may be repeated
    #[arg(long, value_name = "ID[=PATH]")]
    ssh: Vec<String>,
    /// Say what the Dockerfiles do that should be done otherwise, and build nothing
    #[arg(long)]
    check: bool,
    /// Print the equivalent bake file, and build nothing
    #[arg(long)]
    print: bool,
    /// Attest how it was built: true, false, or mode=max
    #[arg(long, value_name = "VALUE", num_args = 0..=1, default_missing_value = "true")]
    provenance: Option<String>,
    /// Attest what is in it: true or false
    #[arg(long, value_name = "VALUE", num_args = 0..=1, default_missing_value = "true")]
    sbom: Option<String>,
    #[arg(short, long, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true)]
    builder: Option<String>,
}

pub async fn build(asked: &Asked<'_>, a: BuildArguments) -> Result<u8, Error> {
    // A service that is named is switched on, whatever its profile.
    let mut project = match a.services.is_empty() {
        true => asked.read()?,
        false => asked.read_all()?,
    };
    let selected = project.select(&a.services, a.with_dependencies);
    selected.map_err(|name| Error::Input(format!("no such service: {name}")))?;
    for service in project.services.values_mut() {
        let Some(build) = &mut service.build else {
            continue;
        };
        build.no_cache |= a.no_cache;
        build.pull |= a.pull;
        build.provenance = a.provenance.clone().or(build.provenance.take());
        build.sbom = a.sbom.clone().or(build.sbom.take());
        for text in &a.ssh {
            let (id, path) = match text.split_once('=') {
                Some((id, path)) => (id, Some(path.to_string())),
                None => (text.as_str(), None),
            };
            build.ssh.retain(|(known, _)| known != id);
            build.ssh.push((id.to_string(), path));
        }
        for pair in &a.build_arg {
            match pair.split_once('=') {
                Some((key, value)) => drop(build.args.insert(key.into(), value.into())),
                None => {
                    if let Ok(value) = std::env::var(pair) {
                        build.args.insert(pair.clone(), value);
                    }
                }
            }
        }
    }
    if a.check {
        return check(asked, &project);
    }
    if a.print {
        println!("{:#}", bake(&project));
        return Ok(0);
    }
    let store = ImageStore::open(&asked.paths.images())?;
    let names = compose_build::wanted(&project, &store, When::Always)?;
    let progress = Progress::new(a.quiet);
    let built = compose_build::build(asked.paths, &project, &names, &progress).await?;
    if built.is_empty() {
        eprintln!("No services to build");
    }
    for name in built.keys() {
        progress.set(name, "image built", true);
    }
    if a.push {
        return push_images(asked, &project, false, a.quiet).await;
    }
    Ok(0)
}

/// What is to be said of the services' Dockerfiles.
fn check(asked: &Asked<'_>, project: &Project) -> Result<u8, Error> {
    let mut code = 0;
    for service in project.services.values() {
        let Some(build) = service.build.as_ref().filter(|b| b.cargo.is_none()) else {
            continue;
        };
        let Context::Folder(folder) = &build.context else {
            return Err(Error::Input(format!(
                "{}: --check looks at folders: check out its context first",
                service.name
            )));
        };
        if build.dockerfile_inline.is_some() {
            return Err(Error::Input(format!(
                "{}: --check looks at files: its Dockerfile is inline",
                service.name
            )));
        }
        println!("{}:", service.name);
        let own = knarr_dockerfile::Build {
            stage: build.target.clone(),
            args: build.args.clone(),
            ..knarr_dockerfile::Build::default()
        };
        let path = folder.join(&build.dockerfile);
        code = code.max(crate::build_call::check(asked.paths, folder, &path, &own)?);
    }
    Ok(code)
}

/// The builds as `docker buildx bake` takes them.
///
/// Source: docker/compose `pkg/compose/build_bake.go`.
fn bake(project: &Project) -> serde_json::Value {
    let mut targets = serde_json::Map::new();
    for service in project.services.values() {
        let Some(build) = &service.build else {
            continue;
        };
        let mut target = json!({ "tags": [service.image], "output": ["type=docker"] });
        let context = match &build.context {
            Context::Folder(path) => path.display().to_string(),
            Context::Remote(text) | Context::Image(text) => text.clone(),
            Context::Service(name) => format!("target:{name}"),
        };
        target["context"] = json!(context);
        match &build.dockerfile_inline {
            Some(text) => target["dockerfile-inline"] = json!(text),
            None => target["dockerfile"] = json!(build.dockerfile),
        }
        for (key, map) in [("args", &build.args), ("labels", &build.labels)] {
            if !map.is_empty() {
                target[key] = json!(map);
            }
        }
        for (key, list) in [
            ("cache-from", &build.cache_from),
            ("cache-to", &build.cache_to),
            ("platforms", &build.platforms),
            ("no-cache-filter", &build.no_cache_filter),
        ] {
            if !list.is_empty() {
                target[key] = json!(list);
            }
        }
        for (key, on) in [("pull", build.pull), ("no-cache", build.no_cache)] {
            if on {
                target[key] = json!(true);
            }
        }
        for (key, text) in [("target", &build.target), ("network", &build.network)] {
            if let Some(text) = text {
                target[key] = json!(text);
            }
        }
        targets.insert(service.name.clone(), target);
    }
    let names: Vec<&String> = targets.keys().collect();
    json!({ "group": { "default": { "targets": names } }, "target": targets })
}

#[derive(Args)]
pub struct PullArguments {
    services: Vec<String>,
    /// Go on when one can't be had
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Leave out what can be built
    #[arg(long)]
    ignore_buildable: bool,
    /// What the services depend on, too
    #[arg(long)]
    include_deps: bool,
    /// missing or always
    #[arg(long, value_name = "POLICY", value_parser = ["missing", "always"])]
    policy: Option<String>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
}

pub async fn pull(asked: &Asked<'_>, a: PullArguments) -> Result<u8, Error> {
    let mut project = asked.read()?;
    let selected = project.select(&a.services, a.include_deps);
    selected.map_err(|name| Error::Input(format!("no such service: {name}")))?;
    let store = ImageStore::open(&asked.paths.images())?;
    let options = PullOptions {
        config: crate::registries::config(asked.paths),
        ..PullOptions::default()
    };
    let mut failed = Vec::new();
    let mut seen = BTreeSet::new();
    for service in project.services.values() {
        let here = || Ok::<_, Error>(store.resolve(&service.image)?.is_some());
        if (service.build.is_some()
            && (a.ignore_buildable || service.pull_policy == knarr_compose::PullPolicy::Build))
            || service.pull_policy == knarr_compose::PullPolicy::Never
            || (a.policy.as_deref() == Some("missing") && here()?)
            || !seen.insert(service.image.clone())
        {
            continue;
        }
        let shown = crate::layers_shown::Shown::new(a.quiet, false);
        let pulled = store.pull(&service.image, &options, &shown).await;
        shown.finish();
        match pulled {
            Ok(image) if !a.quiet => println!("{}  {}", service.name, image.name),
            Ok(_) => {}
            // What is to be built may be nowhere yet.
            Err(_) if service.build.is_some() => {
                eprintln!(
                    "{}: some service image(s) must be built from source by running: knarr compose build {}",
                    service.name, service.name
                );
            }
            Err(e) => failed.push(format!("{}: {e}", service.name)),
        }
    }
    match (failed.is_empty(), a.ignore_pull_failures) {
        (true, _) => Ok(0),
        (_, true) => {
            eprintln!("{}", failed.join("\n"));
            Ok(0)
        }
        _ => Err(Error::Failed(failed.join("\n"))),
    }
}

#[derive(Args)]
pub struct PushArguments {
    services: Vec<String>,
    /// Go on when one can't be sent
    #[arg(long)]
    ignore_push_failures: bool,
    /// What the services depend on, too
    #[arg(long)]
    include_deps: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
}

pub async fn push(asked: &Asked<'_>, a: PushArguments) -> Result<u8, Error> {
    let mut project = asked.read()?;
    let selected = project.select(&a.services, a.include_deps);
    selected.map_err(|name| Error::Input(format!("no such service: {name}")))?;
    push_images(asked, &project, a.ignore_push_failures, a.quiet).await
}

/// As Compose: only what is built here and has a name of its own is sent.
async fn push_images(
    asked: &Asked<'_>,
    project: &knarr_compose::Project,
    go_on: bool,
    quiet: bool,
) -> Result<u8, Error> {
    let store = ImageStore::open(&asked.paths.images())?;
    let options = PushOptions {
        config: crate::registries::config(asked.paths),
        ..PushOptions::default()
    };
    for service in project.services.values().filter(|s| s.build.is_some()) {
        let shown = crate::layers_shown::Shown::new(quiet, true);
        let pushed = store
            .push(&service.image, &service.image, &options, &shown)
            .await;
        shown.finish();
        match pushed {
            Ok(pushed) if !quiet => println!("{}: digest: {}", pushed.reference, pushed.digest),
            Ok(_) => {}
            Err(e) if go_on => eprintln!("{}: {e}", service.name),
            Err(e) => return Err(Error::Failed(format!("{}: {e}", service.name))),
        }
    }
    Ok(0)
}
