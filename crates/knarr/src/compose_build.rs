//! `build:` of a compose file by Dockerfile: all services' images at once.

use crate::{dockerfile_build, error::Error, live, paths::Paths, progress::Progress};
use futures::{StreamExt, stream::FuturesUnordered};
use knarr_build::{
    BuildRequest, CacheFrom, CacheTo, DockerfileFrom, Engine, Entitlement, Event, Limits,
    NamedContext, NoCache, Outcome, Secret,
};
use knarr_compose::{Build, Context, FileSource, Project, PullPolicy, Service};
use knarr_image::ImageStore;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Mutex,
};

/// How many services are built at the same time; each runs its own steps side by side.
const BUILDS_MAX: usize = 4;

/// What `up` was told about builds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// What has no image yet, or is to be built by its `pull_policy`.
    Missing,
    Always,
    Never,
}

/// The services whose image is to be built, in an order in which each finds what it builds on.
pub fn wanted(project: &Project, store: &ImageStore, when: When) -> Result<Vec<String>, Error> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for service in project.services.values() {
        let Some(build) = service.build.as_ref().filter(|b| b.cargo.is_none()) else {
            continue;
        };
        let missing = || Ok::<_, Error>(store.resolve(&service.image)?.is_none());
        let build_it = match when {
            When::Never => false,
            When::Always => true,
            When::Missing => service.pull_policy == PullPolicy::Build || missing()?,
        };
        if build_it {
            names.insert(service.name.clone());
            // What it builds on comes from here as well.
            let mut next = build.bases();
            while let Some(name) = next.pop() {
                let base = service_of(project, &name).and_then(|s| s.build.as_ref());
                if let Some(base) = base.filter(|_| names.insert(name)) {
                    next.extend(base.bases());
                }
            }
        }
    }
    Ok(names.into_iter().collect())
}

/// The service of this name, though it be only built on.
fn service_of<'a>(project: &'a Project, name: &str) -> Option<&'a Service> {
    project.services.get(name).or(project.bases.get(name))
}

/// Builds; service → reference with digest.
///
/// # Errors
/// The first failure, with the service's name.
pub async fn build(
    paths: &Paths,
    project: &Project,
    names: &[String],
    progress: &Progress,
) -> Result<BTreeMap<String, String>, Error> {
    let mut built = BTreeMap::new();
    if names.is_empty() {
        return Ok(built);
    }
    let engine = dockerfile_build::engine(paths, Limits::default())?;
    let outcome = all(&engine, project, names, &mut built, progress).await;
    engine
        .close()
        .await
        .map_err(|e| Error::Failed(e.to_string()))?;
    outcome.map(|()| built)
}

async fn all(
    engine: &Engine,
    project: &Project,
    names: &[String],
    built: &mut BTreeMap<String, String>,
    progress: &Progress,
) -> Result<(), Error> {
    let mut waiting: Vec<&Service> = names
        .iter()
        .filter_map(|n| service_of(project, n))
        .collect();
    let mut running = FuturesUnordered::new();
    loop {
        let mut later = Vec::new();
        for service in waiting {
            let Some(build) = &service.build else {
                continue;
            };
            let mut bases = build.bases().into_iter();
            let ready = bases.all(|b| built.contains_key(&b) || !names.contains(&b));
            if !ready || running.len() >= BUILDS_MAX {
                later.push(service);
                continue;
            }
            progress.set(&service.name, "building", false);
            let request = request(project, service, build, built)?;
            running.push(one(engine, service, request, progress));
        }
        waiting = later;
        match running.next().await {
            None if waiting.is_empty() => return Ok(()),
            None => {
                return Err(Error::Input(format!(
                    "{}: its build needs images that need one another",
                    waiting[0].name
                )));
            }
            Some(done) => {
                let (name, reference) = done?;
                progress.set(&name, "image built", false);
                built.insert(name, reference);
            }
        }
    }
}

async fn one(
    engine: &Engine,
    service: &Service,
    request: BuildRequest,
    progress: &Progress,
) -> Result<(String, String), Error> {
    let warnings = Mutex::new(Vec::new());
    let tell = |event: Event| match event {
        Event::Started { name, .. } => progress.set(&service.name, &live::harmless(&name), false),
        Event::Output { bytes, .. } => {
            if let Some(line) = live::last_line(&String::from_utf8_lossy(&bytes)) {
                progress.tail(&service.name, &line);
            }
        }
        Event::Warning { text } => {
            if let Ok(mut all) = warnings.lock() {
                all.push(text);
            }
        }
        Event::Ended {
            outcome: Outcome::Failed(_) | Outcome::Done | Outcome::Cached | Outcome::Canceled,
            ..
        }
        | Event::Transfer { .. }
        | Event::Found { .. } => {}
    };
    let outcome = knarr_build::build(engine, request, &tell).await;
    for text in warnings.into_inner().unwrap_or_default() {
        progress.say(&format!("{}: {text}", service.name));
    }
    let made = outcome.map_err(|e| {
        progress.fail(&service.name, "its image can't be built");
        let report = e.report();
        let report = report.strip_prefix("ERROR: ").unwrap_or(&report);
        let text = format!("{}: its image can't be built: {report}", service.name);
        match e.is_input() {
            true => Error::Input(text),
            false => Error::Failed(text),
        }
    })?;
    let image = made
        .image
        .ok_or_else(|| Error::Failed(format!("{}: the build made no image", service.name)))?;
    Ok((
        service.name.clone(),
        format!("{}@{}", service.image, image.digest),
    ))
}

fn request(
    project: &Project,
    service: &Service,
    build: &Build,
    built: &BTreeMap<String, String>,
) -> Result<BuildRequest, Error> {
    let wrong = |what: String| Error::Input(format!("{}: build: {what}", service.name));
    let context = match &build.context {
        Context::Folder(path) => knarr_build::Context::Folder(path.clone()),
        Context::Remote(url) => knarr_build::Context::Url(url.clone()),
        Context::Image(_) | Context::Service(_) => {
            return Err(wrong(
                "an image is no context: name it below additional_contexts".into(),
            ));
        }
    };
    let dockerfile = match &build.dockerfile_inline {
        Some(text) => DockerfileFrom::Text(text.clone()),
        None if build.dockerfile.starts_with('/') => {
            DockerfileFrom::File(PathBuf::from(&build.dockerfile))
        }
        None => DockerfileFrom::Context(PathBuf::from(&build.dockerfile)),
    };
    let mut contexts = BTreeMap::new();
    for (name, context) in &build.additional_contexts {
        let named = match context {
            Context::Folder(path) => NamedContext::Folder(path.clone()),
            Context::Remote(text) => match text.strip_prefix("target:") {
                Some(stage) => NamedContext::Stage(stage.into()),
                None => NamedContext::Url(text.clone()),
            },
            Context::Service(other) => {
                let image = || service_of(project, other).map(|s| s.image.clone());
                let image = built.get(other).cloned().or_else(image);
                NamedContext::Image(image.ok_or_else(|| {
                    wrong(format!(
                        "additional_contexts: no service is called {other:?}"
                    ))
                })?)
            }
            Context::Image(text) => match text.strip_prefix("oci-layout://") {
                Some(folder) => NamedContext::Layout {
                    folder: folder.into(),
                    reference: None,
                },
                None => NamedContext::Image(text.trim_start_matches("docker-image://").into()),
            },
        };
        contexts.insert(name.clone(), named);
    }
    let mut secrets = BTreeMap::new();
    for secret in &build.secrets {
        let value = match project.secrets.get(&secret.secret).map(|s| &s.source) {
            Some(FileSource::Content(bytes)) => Secret::Bytes(bytes.clone()),
            Some(FileSource::Path(path)) => Secret::File(path.clone()),
            _ => {
                return Err(wrong(format!(
                    "secret {:?} is made elsewhere, and a build can't read it: give it a file",
                    secret.secret
                )));
            }
        };
        secrets.insert(secret.id.clone(), value);
    }
    let mut ssh = BTreeMap::new();
    for (id, path) in &build.ssh {
        let agent = || std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
        let socket = path
            .clone()
            .map(PathBuf::from)
            .or_else(agent)
            .ok_or_else(|| {
                wrong(format!(
                    "ssh {id}: SSH_AUTH_SOCK is not set: start an agent, or name its socket"
                ))
            })?;
        ssh.insert(id.clone(), socket);
    }
    let mut allow = BTreeSet::new();
    for name in &build.entitlements {
        let known = Entitlement::parse(name)
            .ok_or_else(|| wrong(format!("unknown entitlement {name:?}")))?;
        allow.insert(known);
    }
    if build.privileged {
        allow.insert(Entitlement::SecurityInsecure);
    }
    let network = match build.network.as_deref() {
        Some("host") => {
            allow.insert(Entitlement::NetworkHost);
            knarr_dockerfile::Network::Host
        }
        Some("none") => knarr_dockerfile::Network::None,
        _ => knarr_dockerfile::Network::Default,
    };
    let mut attestations = knarr_build::attest::Attestations::default();
    for (kind, value) in [("provenance", &build.provenance), ("sbom", &build.sbom)] {
        if let Some(value) = value {
            let added = attestations.add(kind, value);
            added.map_err(|e| wrong(format!("{kind}: {e}")))?;
        }
    }
    // What runs here is built here; the others are for who builds elsewhere.
    let host = knarr_dockerfile::Platform::host();
    let own = |text: &String| {
        let known = knarr_dockerfile::Platform::parse(text);
        known.is_ok_and(|p| (p.os, p.architecture) == (host.os.clone(), host.architecture.clone()))
    };
    if !build.platforms.is_empty() && !build.platforms.iter().any(own) {
        return Err(wrong(format!(
            "platforms: this machine runs {}/{}, which is none of {}",
            host.os,
            host.architecture,
            build.platforms.join(", ")
        )));
    }
    let ulimit = |n: i64| u64::try_from(n).ok();
    let ulimits = build
        .ulimits
        .iter()
        .map(|(name, (soft, hard))| knarr_runtime::Rlimit {
            name: name.clone(),
            soft: ulimit(*soft),
            hard: ulimit(*hard),
        });
    let from = build.cache_from.iter().map(|t| CacheFrom::parse(t));
    let to = build.cache_to.iter().map(|t| CacheTo::parse(t));
    let mut tags = vec![service.image.clone()];
    tags.extend(build.tags.iter().filter(|t| **t != service.image).cloned());
    Ok(BuildRequest {
        context,
        dockerfile,
        target: build.target.clone(),
        args: build.args.clone(),
        labels: build.labels.clone(),
        contexts,
        secrets,
        ssh,
        no_cache: match (build.no_cache, build.no_cache_filter.is_empty()) {
            (true, _) => NoCache::Always,
            (false, false) => NoCache::Stages(build.no_cache_filter.clone()),
            (false, true) => NoCache::Never,
        },
        pull: build.pull,
        tags,
        network,
        add_hosts: build.extra_hosts.clone(),
        allow,
        cache_from: from.collect::<Result<_, _>>().map_err(wrong)?,
        cache_to: to.collect::<Result<_, _>>().map_err(wrong)?,
        shm_size: build.shm_size_bytes.unwrap_or(0),
        ulimits: ulimits.collect(),
        attestations,
        ..BuildRequest::default()
    })
}
