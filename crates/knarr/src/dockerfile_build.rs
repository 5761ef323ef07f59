//! `knarr build`: an image from a Dockerfile, whether the platform runs or not.

use crate::{
    build_options::BuildArguments,
    build_progress::{BuildProgress, How},
    error::{Error, io},
    paths::Paths,
};
use knarr_build::{BuildRequest, Built, Context, DockerfileFrom, Engine, Limits, Options, build};
use knarr_dockerfile::Check;
use knarr_image::{
    ImageStore,
    client::{ClientConfig, Logins},
};
use std::{
    io::{IsTerminal, Read},
    time::Duration,
};

/// How often the clocks on a terminal move on.
const TICK: Duration = Duration::from_millis(200);
/// No Dockerfile on standard input is longer, in bytes.
const STDIN_MAX: u64 = 16 << 20;

/// An engine in the data directory, with its own runtime. Blocking, quick.
///
/// # Errors
/// When the data directory can't be used.
pub fn engine(paths: &Paths, limits: Limits) -> Result<Engine, Error> {
    engine_with(paths, limits, None, None)
}

/// As [`engine`], for somebody whose logins count before the machine's.
///
/// # Errors
/// As there.
pub fn engine_for(paths: &Paths, logins: Option<Logins>) -> Result<Engine, Error> {
    engine_with(paths, Limits::default(), None, logins)
}

/// As [`engine`], its containers below this cgroup.
fn engine_with(
    paths: &Paths,
    limits: Limits,
    cgroup: Option<&str>,
    logins: Option<Logins>,
) -> Result<Engine, Error> {
    paths.create()?;
    let denied = |e: &std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    let images = ImageStore::open(&paths.images()).map_err(|e| match e {
        knarr_image::Error::Io { source, .. } if denied(&source) => crate::connect::closed(paths),
        other => other.into(),
    })?;
    let pulls = knarr_build::Pulls {
        images: images.clone(),
        config: ClientConfig {
            logins,
            ..crate::registries::config(paths)
        },
    };
    let options = Options {
        images,
        dir: paths.sub("build"),
        exe: std::env::current_exe().map_err(io("finding this program"))?,
        cgroup_parent: match cgroup.map(|c| c.trim_matches('/')) {
            None | Some("") => "/knarr-build".into(),
            Some(parent) => format!("/{parent}/knarr-build"),
        },
        host: Default::default(),
        limits,
        resolver: Some(std::sync::Arc::new(pulls)),
        networks: Some(std::sync::Arc::new(crate::build_network::Networks::new())),
    };
    Engine::open(options).map_err(|e| Error::Failed(e.to_string()))
}

/// Exits with 1 when a step failed, 2 when the Dockerfile or the request is wrong, 130 when it was interrupted.
pub async fn run(paths: &Paths, a: BuildArguments) -> Result<u8, Error> {
    if let Some(call) = a.call() {
        return crate::build_call::run(paths, &a, call);
    }
    let how = if a.quiet { How::Quiet } else { a.progress };
    let memory_max_bytes = a.memory_bytes()?;
    let mut request = a.request()?;
    let held = standard_input(&a, &mut request)?;
    let outputs = request.outputs.clone();
    let limits = Limits {
        memory_max_bytes: memory_max_bytes.or(Limits::default().memory_max_bytes),
        cpu_shares: a.cpu_shares,
        ..Limits::default()
    };
    let engine = engine_with(paths, limits, a.cgroup_parent.as_deref(), None)?;
    let progress = BuildProgress::new(how);
    let outcome = {
        let mut work = std::pin::pin!(build(&engine, request, &progress));
        let mut tick = tokio::time::interval(TICK);
        let mut interrupt = std::pin::pin!(crate::wiring::until_signal());
        loop {
            tokio::select! {
                built = &mut work => break Some(built),
                _ = &mut interrupt => break None,
                _ = tick.tick() => progress.tick(),
            }
        }
    };
    progress.finish();
    let closed = engine.close().await;
    drop(held);
    let Some(outcome) = outcome else {
        eprintln!("interrupted; finished steps are kept for the next build");
        return Ok(130);
    };
    let built = match outcome {
        Ok(built) => built,
        Err(e) => {
            warned(&progress, &progress.found());
            // as BuildKit prints it, with no word before it
            eprintln!("{}", e.report());
            return Ok(if e.is_input() { 2 } else { 1 });
        }
    };
    closed.map_err(|e| Error::Failed(e.to_string()))?;
    warned(&progress, &built.checks);
    if built.image.is_some() {
        if let Some(path) = &a.iidfile {
            std::fs::write(path, id(&built)).map_err(io(path.display().to_string()))?;
        }
        match progress.is_quiet() {
            true => println!("{}", id(&built)),
            false => {
                for tag in a.tag.iter().filter(|_| !progress.is_raw()) {
                    eprintln!("{tag}");
                }
                // standard output may be an archive
                let to_stdout = |o: &knarr_build::Output| o.destination.as_os_str() == "-";
                let taken = outputs.iter().any(to_stdout) && !std::io::stdout().is_terminal();
                if !taken {
                    println!("{}", id(&built));
                }
            }
        }
    }
    if let Some(path) = &a.metadata_file {
        let text = serde_json::to_string_pretty(&built.metadata)
            .map_err(|e| Error::Failed(e.to_string()))?;
        std::fs::write(path, text).map_err(io(path.display().to_string()))?;
    }
    Ok(0)
}

/// Tells what the Dockerfile should say otherwise.
fn warned(progress: &BuildProgress, checks: &[Check]) {
    if checks.is_empty() || progress.is_quiet() || progress.is_raw() {
        return;
    }
    let s = if checks.len() == 1 { "" } else { "s" };
    eprintln!(
        "\n {} warning{s} found (use --check to expand):",
        checks.len()
    );
    for c in checks {
        eprintln!(" - {}: {} (line {})", c.rule, c.message, c.line);
    }
}

/// What Docker calls the image: its configuration's digest, of several platforms' the index's.
fn id(built: &Built) -> &str {
    match &built.image {
        Some(image) if built.several => &image.digest,
        Some(image) => &image.id,
        None => "",
    }
}

/// A Dockerfile or an archive on standard input. What it returns holds the archive.
fn standard_input(
    a: &BuildArguments,
    request: &mut BuildRequest,
) -> Result<Option<tempfile::NamedTempFile>, Error> {
    let dockerfile = a.file.as_deref().is_some_and(|f| f.as_os_str() == "-");
    if a.context != "-" {
        if dockerfile {
            request.dockerfile = DockerfileFrom::Text(text(std::io::stdin().lock())?);
        }
        return Ok(None);
    }
    if dockerfile {
        return Err(Error::Input(
            "invalid argument: can't use stdin for both build context and dockerfile".into(),
        ));
    }
    // SOURCE: docker/cli build.DetectContextReader: an archive by its first bytes, else a Dockerfile
    let mut stdin = std::io::stdin().lock();
    let mut start = Vec::new();
    let read = stdin.by_ref().take(512).read_to_end(&mut start);
    read.map_err(io("standard input"))?;
    let archive = start.get(257..262) == Some(b"ustar")
        || [
            &[0x1f, 0x8b][..],
            b"BZh",
            b"\xfd7zXZ\0",
            &[0x28, 0xb5, 0x2f, 0xfd],
        ]
        .iter()
        .any(|magic| start.starts_with(magic));
    let mut all = std::io::Cursor::new(start).chain(stdin);
    if !archive {
        request.dockerfile = DockerfileFrom::Text(text(all)?);
        return Ok(None);
    }
    let mut file = tempfile::NamedTempFile::new().map_err(io("a temporary file"))?;
    std::io::copy(&mut all, &mut file).map_err(io("standard input"))?;
    request.context = Context::Archive(file.path().into());
    request.dockerfile = match &a.file {
        Some(inside) => DockerfileFrom::Context(inside.clone()),
        None => DockerfileFrom::default(),
    };
    Ok(Some(file))
}

fn text(from: impl Read) -> Result<String, Error> {
    let mut bytes = vec![];
    let read = from.take(STDIN_MAX + 1).read_to_end(&mut bytes);
    read.map_err(io("standard input"))?;
    if bytes.len() as u64 > STDIN_MAX {
        return Err(Error::Input(format!(
            "standard input is no Dockerfile: it has more than {STDIN_MAX} bytes"
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
