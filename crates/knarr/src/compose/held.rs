//! Containers held where they are (`pause`, `unpause`), and what they have written: `export`, `commit`.
//!
//! All of it is done on the machine they run on, beside the platform: Kubernetes has no words for it.

use super::{
    Asked, Target,
    containers::{Container, State, containers},
    exec::process_of,
    life::ServicesArguments,
};
use crate::{
    error::{Error, io},
    progress::Progress,
    run::export::write_tree,
};
use clap::Args;
use knarr_image::ImageStore;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long it may take to hold a container: a process that forks is stopped with its children in a few rounds.
const HOLDS: Duration = Duration::from_secs(10);
/// As many of them are made though that time is over: on a machine that hardly runs each may take seconds.
const ROUNDS: u32 = 20;
/// Between two rounds.
const STOPS: Duration = Duration::from_millis(2);

/// The living processes of the machine by the last folder of their cgroup, which for a container is its id; and whether each is stopped.
fn processes() -> BTreeMap<String, Vec<(i32, bool)>> {
    let mut all: BTreeMap<String, Vec<(i32, bool)>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let groups = read("cgroup");
        let stat = read("stat");
        // After the name, which may hold anything.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        // What has ended can't be held; its parent, which may be, has not heard of it.
        if state.starts_with(['Z', 'X']) {
            continue;
        }
        let stopped = state.starts_with('T') || is_frozen(&groups);
        let ids: BTreeSet<&str> = groups
            .lines()
            .filter_map(|l| l.rsplit_once('/').map(|(_, id)| id))
            .filter(|id| !id.is_empty())
            .collect();
        for id in ids {
            all.entry(id.to_string()).or_default().push((pid, stopped));
        }
    }
    all
}

/// The file of cgroup v2's freezer for a process with these cgroups.
fn freezer(groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let file = Path::new("/sys/fs/cgroup").join(path).join("cgroup.freeze");
    (!path.is_empty() && file.is_file()).then_some(file)
}

fn is_frozen(groups: &str) -> bool {
    let file = freezer(groups).and_then(|f| fs::read_to_string(f).ok());
    file.is_some_and(|text| text.trim() == "1")
}

/// The ids of the containers whose processes are all held.
pub fn held() -> BTreeSet<String> {
    let all = processes().into_iter();
    let held = all.filter(|(_, processes)| processes.iter().all(|(_, stopped)| *stopped));
    held.map(|(id, _)| id).collect()
}

/// Holds a container's processes, or lets them go on.
fn hold(c: &Container, hold: bool) -> Result<(), Error> {
    let pid = process_of(c).ok_or_else(|| elsewhere(c))?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if let Some(file) = freezer(&groups).filter(|f| f.parent().is_some_and(|p| p.ends_with(c.id())))
    {
        let value = if hold { "1" } else { "0" };
        return fs::write(&file, value).map_err(io(file.display().to_string()));
    }
    let signal = if hold { Signal::STOP } else { Signal::CONT };
    let (mut told, began) = (BTreeSet::new(), Instant::now());
    let mut rounds = 0;
    while began.elapsed() < HOLDS || rounds < ROUNDS {
        rounds += 1;
        let all = processes().remove(&c.id()).unwrap_or_default();
        // Those that were made since the last round are as they should be, when the others go on.
        let mut left = all
            .iter()
            .filter(|(_, stopped)| *stopped != hold)
            .peekable();
        if left.peek().is_none() {
            return Ok(());
        }
        // A process stops when its turn comes to run, not with the signal.
        let fresh = left.map(|(pid, _)| *pid).filter(|p| told.insert(*p));
        for pid in fresh.filter_map(Pid::from_raw) {
            // One that has ended needs no stopping.
            let _ = kill_process(pid, signal);
        }
        std::thread::sleep(STOPS);
    }
    Err(Error::Failed(format!(
        "{} makes processes faster than they can be stopped",
        c.pod_name()
    )))
}

fn elsewhere(c: &Container) -> Error {
    Error::Failed(format!(
        "the process of {} is not found: is this the machine it runs on?",
        c.pod_name()
    ))
}

pub async fn pause(asked: &Asked<'_>, a: ServicesArguments, on: bool) -> Result<u8, Error> {
    let target = asked.target().await?;
    let all = containers(&target, &a.services).await?;
    let held = held();
    let progress = Progress::new(false);
    for c in all.iter().filter(|c| c.is_running()) {
        let is = held.contains(&c.id());
        if is == on && !a.services.is_empty() {
            let told = if on { "already" } else { "not" };
            return Err(Error::Failed(format!(
                "Container {} is {told} paused",
                c.pod_name()
            )));
        }
        hold(c, on)?;
        let word = if on { "paused" } else { "unpaused" };
        progress.set(&c.pod_name(), word, true);
    }
    Ok(0)
}

/// Lets all go on that is to end: a held process hears of no signal but the last.
pub async fn release(target: &Target, services: &[String]) -> Result<(), Error> {
    let held = held();
    let all = containers(target, services).await?;
    for c in all.iter().filter(|c| held.contains(&c.id())) {
        hold(c, false)?;
    }
    Ok(())
}

#[derive(Args)]
pub struct ExportArguments {
    /// Which container of the service
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    index: usize,
    /// Write to a file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    service: String,
}

#[derive(Args)]
pub struct CommitArguments {
    /// Who made it, e.g. "A B <a@b.c>"
    #[arg(short, long, default_value = "")]
    author: String,
    /// An instruction of a Dockerfile, e.g. 'ENV A=b'; may be repeated
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What was changed
    #[arg(short, long, default_value = "")]
    message: String,
    /// Hold the container meanwhile
    #[arg(short, long, default_value = "true", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pause: bool,
    /// Which container of the service
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    index: usize,
    service: String,
    /// The image's name
    image: Option<String>,
}

/// The container of a service, whether it runs or has ended.
async fn one(target: &Target, service: &str, index: usize) -> Result<Container, Error> {
    let mut all = containers(target, &[service.to_string()]).await?;
    all.retain(|c| !c.one_off && c.state != State::Created && (index == 0 || c.index == index));
    let found = all.iter().find(|c| c.is_running()).or(all.first());
    found
        .cloned()
        .ok_or_else(|| Error::Failed(format!("no container found for service \"{service}\"")))
}

/// The image that a container was made of, and what it has written over it.
fn layers(asked: &Asked<'_>, c: &Container) -> Result<(knarr_image::Image, PathBuf), Error> {
    let store = ImageStore::open(&asked.paths.images())?;
    let image = store
        .resolve(&c.image())?
        .ok_or_else(|| Error::Failed(format!("image {} is no longer here", c.image())))?;
    let container = asked.paths.sub("runtime").join("containers").join(c.id());
    match container.is_dir() {
        true => Ok((image, container.join("upper"))),
        false => Err(elsewhere(c)),
    }
}

pub async fn export(asked: &Asked<'_>, a: ExportArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let c = one(&target, &a.service, a.index).await?;
    let (image, upper) = layers(asked, &c)?;
    let mut all = image.layers;
    all.insert(0, upper);
    write_tree(all, std::env::temp_dir(), a.output).await?;
    Ok(0)
}

pub async fn commit(asked: &Asked<'_>, a: CommitArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let c = one(&target, &a.service, a.index).await?;
    let (image, upper) = layers(asked, &c)?;
    let pauses = a.pause && c.is_running() && !held().contains(&c.id());
    if pauses {
        hold(&c, true)?;
    }
    let made = snapshot(asked, &c, &image, &upper, &a);
    if pauses {
        hold(&c, false)?;
    }
    println!("{}", made?);
    Ok(0)
}

fn snapshot(
    asked: &Asked<'_>,
    c: &Container,
    image: &knarr_image::Image,
    upper: &Path,
    a: &CommitArguments,
) -> Result<String, Error> {
    let store = ImageStore::open(&asked.paths.images())?;
    let temp = store.temp()?;
    let name = image.name.split_once('@').map_or(&*image.name, |(n, _)| n);
    let image = format!("{name}@{}", image.digest);
    let snapshot = knarr_docker::Snapshot {
        image: &image,
        upper,
        config: config(c),
        changes: &a.change,
        author: &a.author,
        comment: &a.message,
        temp: temp.path(),
    };
    let made = snapshot.commit(&store, a.image.as_deref());
    made.map_err(Error::Failed)
}

/// What the file says of the container, in the words of an image's configuration.
fn config(c: &Container) -> Map<String, Value> {
    let mut all = Map::new();
    let spec = c.pod.spec.iter().flat_map(|s| &s.containers);
    let Some(own) = spec.into_iter().find(|s| s.name == c.name) else {
        return all;
    };
    let env: Vec<String> = own
        .env
        .iter()
        .flatten()
        .filter_map(|e| Some(format!("{}={}", e.name, e.value.as_ref()?)))
        .collect();
    for (key, value) in [
        ("Env", Some(json!(env)).filter(|_| !env.is_empty())),
        ("Entrypoint", own.command.as_ref().map(|c| json!(c))),
        ("Cmd", own.args.as_ref().map(|a| json!(a))),
        ("WorkingDir", own.working_dir.as_ref().map(|d| json!(d))),
    ] {
        if let Some(value) = value {
            all.insert(key.into(), value);
        }
    }
    all
}
