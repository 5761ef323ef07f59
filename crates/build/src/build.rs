//! A whole build: the request's parts found, the graph run, the image made.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use knarr_dockerfile::{Check, Checks, Dockerfile, Ignore, Platform, check};

use crate::{
    cache::Cache,
    copy::{StatCache, Tree},
    engine::Engine,
    error::{Error, blocking, io},
    export, fetched,
    graph::{Graph, Parts, Shared, dockerfile_build, dockerfile_error},
    progress::{Event, Progress},
    request::{BuildRequest, Built, Context, DockerfileFrom},
    shared_cache,
    state::State,
    told::Told,
};

/// No Dockerfile is longer, in bytes.
const DOCKERFILE_MAX: u64 = 16 << 20;

/// Builds an image. Dropped, it ends its containers; what it finished is kept for the next.
///
/// # Errors
/// See [`Error`]; [`Error::report`] is for people.
pub async fn build(
    engine: &Engine,
    mut request: BuildRequest,
    progress: &dyn Progress,
) -> Result<Built, Error> {
    for tag in &request.tags {
        knarr_image::normalize(tag)?; // before anything is built
    }
    let inner = &*engine.inner;
    let dir = inner.options.dir.clone();
    let images = inner.options.images.clone();
    let (cache, _in_use, images) = blocking(move || {
        let cache = Cache::open(&dir)?;
        let in_use = cache.in_use()?;
        Ok((Arc::new(cache), in_use, images.leased()?))
    })
    .await?;
    let told = Told::new(progress);
    let epoch = epoch(&mut request)?;
    let context = context(&request, &told, &cache).await?;
    let telling = told.begin(&format!(
        "[internal] load build definition from {}",
        dockerfile_name(&request.dockerfile)
    ));
    let read = {
        let (from, context) = (request.dockerfile.clone(), context.clone());
        blocking(move || read(&from, &context)).await
    };
    let found = telling.result(read)?;
    let telling = told.begin("[internal] load .dockerignore");
    let opened = {
        let (request, found) = (request.context.clone(), found.clone());
        let (cache, empty) = (cache.clone(), inner.session.dir.join("empty"));
        blocking(move || open_context(&request, &context, &found, &cache, &empty)).await
    };
    let (tree, stats, ignore) = telling.result(opened)?;
    if found.text.is_empty() {
        return Err(Error::Request("the Dockerfile cannot be empty".into()));
    }
    let file = Dockerfile::parse(&found.text)
        .map_err(|e| dockerfile_error(&found.name, &found.text, &e))?;
    let mut platforms = request.platforms.clone();
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    platforms.sort_by_key(Platform::to_string);
    platforms.dedup();
    let imported = shared_cache::import(inner, &request, &images, &told).await;
    let shared = Arc::new(Shared {
        imported,
        ..Shared::default()
    });
    let graph = |platform: &Platform| {
        Graph::new(Parts {
            engine: inner,
            request: &request,
            images: images.clone(),
            cache: cache.clone(),
            stats: stats.clone(),
            told: &told,
            file: file.clone(),
            file_name: found.name.clone(),
            text: found.text.clone(),
            build: dockerfile_build(&request, platform),
            epoch,
            context: tree.clone(),
            shared: shared.clone(),
            one_of_several: platforms.len() > 1,
        })
    };
    let graphs: Vec<Graph> = platforms.iter().map(graph).collect::<Result<_, _>>()?;
    let prepared = async {
        for graph in &graphs {
            graph.sources_are_named()?;
        }
        futures::future::try_join_all(graphs.iter().map(Graph::prepare)).await?;
        for graph in &graphs {
            graph.rehearse().await?;
        }
        Ok(())
    };
    let prepared = prepared.await;
    let checks = {
        let store = &inner.options.images;
        let known = |name: &str| graphs.iter().find_map(|g| g.known_env(name));
        let env = |name: &str| known(name).or_else(|| Some(store.resolve(name).ok()??.config.env));
        let build = dockerfile_build(&request, &platforms[0]);
        // where that can't be told, nothing is prepared either
        let needed = graphs.iter().filter_map(|g| g.needed().ok()).flatten();
        let checks = check(&file, &build, &needed.collect(), ignore.as_ref(), &env);
        checks.map_err(|e| dockerfile_error(&found.name, &found.text, &e))
    };
    // why it failed comes before what else is amiss, which is told all the same
    let failed = |e: Error, found: Vec<Check>| {
        if !found.is_empty() {
            progress.tell(Event::Found { checks: found });
        }
        e
    };
    if let Err(e) = prepared {
        return Err(failed(e, checks.map(|c| c.found).unwrap_or_default()));
    }
    let checks = checks?;
    stop_on(&checks, &found).map_err(|e| failed(e, checks.found.clone()))?;
    let states = futures::future::try_join_all(graphs.iter().map(Graph::run)).await;
    let states = states.map_err(|e| failed(e, checks.found.clone()))?;
    let all: Vec<(&Graph, &State)> = graphs.iter().zip(states.iter().map(|s| &**s)).collect();
    let built = export::export(&all, checks.found).await?;
    drop(_in_use);
    drop(graphs);
    let limits = inner.options.limits.clone();
    if built.steps_run > 0 {
        let images = inner.options.images.clone();
        blocking(move || {
            if let Err(e) = stats.save() {
                tracing::debug!("the files' digests were not kept: {e}");
            }
            if cache.bytes()? > limits.cache_max_bytes {
                let wanted = crate::cache::Prune {
                    unused_s: limits.cache_max_age_s,
                    keep_bytes: limits.cache_max_bytes,
                    both: false,
                    spare_shared: false,
                };
                crate::engine::prune(&cache, &images, &wanted)?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(built)
}

/// `SOURCE_DATE_EPOCH`, of the request or its arguments.
fn epoch(request: &mut BuildRequest) -> Result<Option<i64>, Error> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    if let Some(text) = request.args.get(NAME).filter(|t| !t.is_empty()) {
        let seconds = text.parse().map_err(|_| {
            Error::Request(format!("invalid {NAME}: {text}: it is seconds since 1970"))
        })?;
        request.source_date_epoch = Some(seconds);
    }
    if let Some(seconds) = request.source_date_epoch {
        request.args.insert(NAME.into(), seconds.to_string());
    }
    Ok(request.source_date_epoch)
}

/// The folder that the context is; None for an empty one.
async fn context(
    request: &BuildRequest,
    told: &Told<'_>,
    cache: &Arc<Cache>,
) -> Result<Option<PathBuf>, Error> {
    match &request.context {
        Context::Empty => Ok(None),
        Context::Folder(folder) => match folder.is_dir() {
            true => Ok(Some(folder.clone())),
            false => Err(Error::Request(format!(
                "{}: the build context is no folder",
                folder.display()
            ))),
        },
        Context::Url(url) => {
            let telling = told.begin(&format!("[internal] load remote build context {url}"));
            telling.result(fetched::context(cache, request, url).await.map(Some))
        }
        Context::Archive(path) => {
            let telling = told.begin("[internal] load build context from an archive");
            telling.result(fetched::archive(cache, path).await.map(Some))
        }
    }
}

/// A Dockerfile that was read.
#[derive(Clone)]
struct Found {
    /// As messages call it.
    name: String,
    text: String,
    /// Where it is, for an ignore file beside it.
    path: Option<PathBuf>,
}

fn dockerfile_name(from: &DockerfileFrom) -> String {
    match from {
        DockerfileFrom::Context(path) => path.display().to_string(),
        DockerfileFrom::File(path) => match path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => path.display().to_string(),
        },
        DockerfileFrom::Text(_) => "Dockerfile".into(),
    }
}

fn read(from: &DockerfileFrom, context: &Option<PathBuf>) -> Result<Found, Error> {
    let name = dockerfile_name(from);
    let missing = |path: &Path| {
        Error::Request(format!(
            "failed to read dockerfile: open {}: no such file or directory",
            path.display()
        ))
    };
    let (text, path) = match from {
        DockerfileFrom::Text(text) => (text.clone(), None),
        DockerfileFrom::File(path) => {
            let size = std::fs::metadata(path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => missing(path),
                _ => io(path)(e),
            })?;
            if size.len() > DOCKERFILE_MAX {
                return Err(Error::Request(format!(
                    "{}: a Dockerfile of {} bytes: the most is {DOCKERFILE_MAX}",
                    path.display(),
                    size.len()
                )));
            }
            let text = std::fs::read(path).map_err(io(path))?;
            (
                String::from_utf8_lossy(&text).into_owned(),
                Some(path.clone()),
            )
        }
        DockerfileFrom::Context(path) => {
            let Some(folder) = context else {
                return Err(missing(path));
            };
            // never out of the context, whatever links are in it
            let inside = path.to_string_lossy();
            let text = crate::folder::text(folder, &inside)
                // SOURCE: buildkit frontend/dockerui: the lower-case name is looked for, too
                .or_else(|| match inside == "Dockerfile" {
                    true => crate::folder::text(folder, "dockerfile"),
                    false => None,
                });
            let text = text.ok_or_else(|| missing(path))?;
            (text, Some(folder.join(path)))
        }
    };
    Ok(Found { name, text, path })
}

type Opened = (Tree, Arc<StatCache>, Option<Ignore>);

fn open_context(
    request: &Context,
    folder: &Option<PathBuf>,
    found: &Found,
    cache: &Cache,
    empty: &Path,
) -> Result<Opened, Error> {
    let folder = match folder {
        Some(folder) => folder.clone(),
        None => {
            std::fs::create_dir_all(empty).map_err(io(empty))?;
            empty.to_owned()
        }
    };
    let ignore = ignore(&folder, found)?;
    let name = match request {
        Context::Empty => "an empty context".to_owned(),
        _ => "context".to_owned(),
    };
    let tree = Tree::context(&name, &folder, ignore.clone().unwrap_or_default())?;
    let stats = StatCache::open(&cache.stats(), &folder);
    Ok((tree, Arc::new(stats), ignore))
}

/// `Dockerfile.dockerignore` beside the file, or `.dockerignore` in the context.
fn ignore(context: &Path, found: &Found) -> Result<Option<Ignore>, Error> {
    let own = found.path.as_ref().map(|path| {
        let mut own = path.as_os_str().to_owned();
        own.push(".dockerignore");
        PathBuf::from(own)
    });
    for path in own.into_iter().chain([context.join(".dockerignore")]) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let ignore = Ignore::parse(&text);
                return ignore
                    .map(Some)
                    .map_err(|e| Error::Request(format!("{}: {e}", path.display())));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(path)(e)),
        }
    }
    Ok(None)
}

/// `# check=error=true`
fn stop_on(checks: &Checks, found: &Found) -> Result<(), Error> {
    let Some(first) = checks.found.first().filter(|_| checks.stop) else {
        return Ok(());
    };
    let excerpt = crate::error::Excerpt::new(&found.name, &found.text, first.line, first.last);
    Err(Error::Dockerfile {
        excerpt: Box::new(excerpt),
        why: format!("lint violation found for rules: {}", rules(checks)),
    })
}

fn rules(checks: &Checks) -> String {
    let all: std::collections::BTreeSet<&str> = checks.found.iter().map(|c| c.rule).collect();
    all.into_iter().collect::<Vec<_>>().join(", ")
}
