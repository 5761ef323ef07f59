//! Containers without a platform: `knarr run` and what belongs to it.
//!
//! Nothing of this needs `knarr serve`, and nothing of it is the platform's: these containers have a folder, an address
//! range, cgroups and an nf_tables table of their own (see `record`), so both can run side by side. No process stays to
//! watch over them: a container's shim calls `knarr container ended` when it has ended and nobody is attached.

mod at_once;
mod claim;
mod copy;
mod deeds;
mod describe;
mod exec;
pub mod export;
mod foreground;
mod further;
mod health;
mod inspected;
mod life;
mod lifecycle;
mod links;
mod logs;
mod more;
mod named;
mod network;
mod networks;
mod options;
mod purge;
pub mod record;
mod resolver;
mod show;
mod spec;
mod subnets;
mod template;
mod tree;
mod variables;
mod verbs;
mod volumes;

pub use at_once::named as exec_at_once;
pub use exec::{ContainerExec, exec_alone};
pub use foreground::{Raw, size};
pub use lifecycle::StopArguments;
pub use logs::{LogsFlags, moment};
pub use named::{Inspect, InspectAny, Prune};
pub use networks::{NetworkVerb, network};
pub use options::RunArguments;
pub use purge::purge;
pub use record::{Home, overlaps, routed};
pub use show::{PsArguments, human, ps};
pub use template::fill as fill_template;
pub use verbs::{ContainerVerb, container, logs_alone};
pub use volumes::{VolumeVerb, volume};

use crate::{error::Error, paths::Paths};
use claim::claim;
use describe::describe;
use knarr_image::{Image, ImageStore};
use options::{Pull, Restart};
use record::Record;
use std::io::IsTerminal;

/// As Docker: the container could not be made or started, for no fault of its command.
pub const NOT_STARTED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// What Docker's command line finds wrong by itself.
const FAILED: u8 = 1;
const NO_TERMINAL: &str = "the input device is not a TTY";
const BOTH_ATTACHED: &str = "conflicting options: cannot specify both --attach and --detach";
const KEEPER: &str = "run";

pub async fn run(paths: &Paths, arguments: RunArguments) -> Result<u8, Error> {
    match try_run(paths, arguments).await {
        Ok(code) => Ok(code),
        Err(error) => {
            let code = code_of(&error);
            match code {
                FAILED => eprintln!("knarr: {error}"),
                // SOURCE: docker/cli `cli/command/container/run.go` toStatusError
                _ => eprintln!("knarr: {error}\n\nRun 'knarr run --help' for more information"),
            }
            Ok(code)
        }
    }
}

/// SOURCE: docker/cli `cli/command/container/run.go`, which tells them apart by the error's text, too.
fn code_of(error: &Error) -> u8 {
    let text = error.to_string();
    if matches!(&*text, NO_TERMINAL | BOTH_ATTACHED) {
        return FAILED;
    }
    let about_command = text.contains("exec");
    if about_command && (text.contains("not found") || text.contains("no such file or directory")) {
        NOT_FOUND
    } else if about_command
        && (text.contains("permission denied") || text.contains("is a directory"))
    {
        NOT_EXECUTABLE
    } else {
        NOT_STARTED
    }
}

async fn try_run(paths: &Paths, arguments: RunArguments) -> Result<u8, Error> {
    arguments.further.check(arguments.detach)?;
    let pull = arguments.pull().map_err(Error::Input)?;
    if arguments.rm && arguments.restart != Restart::No {
        return Err(Error::Input(
            "conflicting options: cannot specify both --restart and --rm".into(),
        ));
    }
    if arguments.tty
        && arguments.interactive
        && !arguments.detach
        && !std::io::stdin().is_terminal()
    {
        return Err(Error::Input(NO_TERMINAL.into()));
    }
    if let Some(platform) = &arguments.more.platform
        && !knarr_docker::fits_machine(platform)
    {
        return Err(Error::Failed(format!(
            "this machine can't run images of the platform {platform}"
        )));
    }
    free_cidfile(&arguments)?;
    crate::doctor::require_root()?;
    paths.create()?;
    let home = Home::new(paths);
    let images = paths.images();
    let store = tokio::task::spawn_blocking(move || ImageStore::open(&images));
    let store = store.await.map_err(|e| Error::Failed(e.to_string()))??;
    let image = image(&store, arguments.image(), pull, arguments.further.quiet).await?;
    let mut record = describe(&home, &arguments, &image)?;
    claim(&home, &mut record, arguments.name.as_deref())?;
    let begun = begin(&home, &store, &image, &mut record, &arguments).await;
    if begun.is_err() {
        let _ = life::remove(&home, &record, None).await;
    }
    begun
}

/// `knarr container create`
pub async fn create(paths: &Paths, arguments: RunArguments) -> Result<u8, Error> {
    arguments.further.check(false)?;
    let pull = arguments.pull().map_err(Error::Input)?;
    free_cidfile(&arguments)?;
    crate::doctor::require_root()?;
    paths.create()?;
    let home = Home::new(paths);
    let store = ImageStore::open(&paths.images())?;
    let image = image(&store, arguments.image(), pull, arguments.further.quiet).await?;
    let mut record = describe(&home, &arguments, &image)?;
    claim(&home, &mut record, arguments.name.as_deref())?;
    store.keep(KEEPER, &record.id, std::slice::from_ref(&image.digest))?;
    write_cidfile(&arguments, &record)?;
    println!("{}", record.id);
    Ok(0)
}

async fn begin(
    home: &Home,
    store: &ImageStore,
    image: &Image,
    record: &mut Record,
    arguments: &RunArguments,
) -> Result<u8, Error> {
    store.keep(KEEPER, &record.id, std::slice::from_ref(&image.digest))?;
    network::allocated(home, record)?;
    write_cidfile(arguments, record)?;
    if arguments.detach {
        life::start(home, record, false, None).await?;
        println!("{}", record.id);
        return Ok(0);
    }
    let how = arguments.further.how(arguments.interactive)?;
    let signals = arguments.further.keys.signals();
    let runtime = life::start(home, record, true, None).await?;
    let attachment = runtime
        .attach(&life::inner_id(record))
        .await
        .map_err(life::failed)?;
    foreground::follow(home, record, signals, Some(runtime), attachment, &how).await
}

/// SOURCE: docker/cli `cli/command/container/create.go` newCIDFile
fn free_cidfile(arguments: &RunArguments) -> Result<(), Error> {
    match &arguments.cidfile {
        Some(file) if file.exists() => Err(Error::Failed(format!(
            "container ID file found, make sure the other container isn't running or delete {}",
            file.display()
        ))),
        _ => Ok(()),
    }
}

fn write_cidfile(arguments: &RunArguments, record: &Record) -> Result<(), Error> {
    let Some(file) = &arguments.cidfile else {
        return Ok(());
    };
    std::fs::File::create_new(file)
        .and_then(|mut f| std::io::Write::write_all(&mut f, record.id.as_bytes()))
        .map_err(crate::error::io(file.display().to_string()))
}

/// All that is known of a name, as whatever there is of it.
pub fn inspect_any(paths: &Paths, any: &InspectAny) -> Result<u8, Error> {
    crate::connect::require_readable(paths)?;
    let home = Home::new(paths);
    let images = paths
        .images()
        .is_dir()
        .then(|| crate::image::open(paths))
        .transpose()?;
    let wanted = |kind: &str| any.kind.as_deref().is_none_or(|k| k == kind);
    any.asked.print(|name| {
        if wanted("container")
            && let Ok(record) = home.find(name)
        {
            let state = show::state(&home, &record);
            return Ok(inspected::inspected(&home, &record, &state));
        }
        if let Some(store) = images.as_ref().filter(|_| wanted("image"))
            && let Ok(Some(image)) = store.resolve(name)
        {
            return crate::image_more::inspected(store, &image);
        }
        if wanted("network")
            && let Ok(network) = networks::known(&home, name)
        {
            return Ok(network);
        }
        if wanted("volume")
            && let Ok(volume) = volumes::inspected(&home, name)
        {
            return Ok(volume);
        }
        let kind = any.kind.as_deref().unwrap_or("object");
        Err(Error::Failed(format!("No such {kind}: {name}")))
    })
}

/// Lets an image go that a removed container had.
fn release_image(home: &Home, record: &Record) -> Result<(), Error> {
    let store = ImageStore::open(&home.data.join("images"))?;
    Ok(store.unkeep(KEEPER, &record.id)?)
}

async fn image(store: &ImageStore, name: &str, pull: Pull, quiet: bool) -> Result<Image, Error> {
    let here = || {
        let (store, name) = (store.clone(), name.to_string());
        tokio::task::spawn_blocking(move || store.resolve(&name))
    };
    let joined = |e: tokio::task::JoinError| Error::Failed(e.to_string());
    if pull != Pull::Always
        && let Some(image) = here().await.map_err(joined)??
    {
        return Ok(image);
    }
    if pull == Pull::Never {
        return Err(Error::Failed(format!("No such image: {name}")));
    }
    if pull == Pull::Missing && !quiet {
        eprintln!("Unable to find image '{name}' locally");
    }
    let options = knarr_image::client::PullOptions::default();
    Ok(store
        .pull(name, &options, &knarr_image::client::Silent)
        .await?)
}
