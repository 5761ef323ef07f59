//! Containers without a platform: `knarr run` and what belongs to it.
//!
//! Nothing of this needs `knarr serve`, and nothing of it is the platform's: these containers have a folder, an address
//! range, cgroups and an nf_tables table of their own (see `record`), so both can run side by side. No process stays to
//! watch over them: a container's shim calls `knarr container ended` when it has ended and nobody is attached.

mod at_once;
mod copy;
mod deeds;
pub mod export;
mod foreground;
mod further;
mod health;
mod life;
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
mod template;
mod verbs;
mod volumes;

pub use at_once::named as exec_at_once;
pub use logs::{LogsFlags, moment};
pub use named::{Inspect, InspectAny};
pub use networks::{NetworkVerb, network};
pub use options::RunArguments;
pub use purge::purge;
pub use record::{Home, overlaps, routed};
pub use show::{PsArguments, human, ps};
pub use template::fill as fill_template;
pub use verbs::{ContainerExec, ContainerVerb, container, exec_alone, logs_alone};
pub use volumes::{VolumeVerb, volume};

use crate::{error::Error, paths::Paths};
use knarr_image::{Image, ImageStore};
use knarr_runtime::{Resources, User};
use options::{Network, Pull, Restart, Volume};
use record::Record;
use std::{collections::BTreeMap, io::IsTerminal, path::Path, time::SystemTime};

/// As Docker: the container could not be made or started, for no fault of its command.
pub const NOT_STARTED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const STOP_SECONDS: i64 = 10;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const KEEPER: &str = "run";

pub async fn run(paths: &Paths, arguments: RunArguments) -> Result<u8, Error> {
    match try_run(paths, arguments).await {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("knarr: {error}");
            Ok(code_of(&error))
        }
    }
}

/// SOURCE: docker/cli `cli/command/container/run.go`, which tells them apart by the error's text, too.
fn code_of(error: &Error) -> u8 {
    let text = error.to_string();
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

/// What looks like a flag and is none of ours comes first among the words.
fn check_flags(arguments: &RunArguments) -> Result<(), Error> {
    match arguments.image().starts_with('-') {
        true => Err(Error::Input(format!(
            "unknown flag: {}: `knarr run` doesn't have it",
            arguments.image()
        ))),
        false => Ok(()),
    }
}

async fn try_run(paths: &Paths, arguments: RunArguments) -> Result<u8, Error> {
    check_flags(&arguments)?;
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
        return Err(Error::Input("the input device is not a TTY".into()));
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
    check_flags(&arguments)?;
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
            return Ok(show::inspected(&home, &record, &state));
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
        Err(Error::Failed(format!("no such {kind}: {name}")))
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

/// Gives the container its id and a name that no other has, and its folder.
fn claim(home: &Home, record: &mut Record, name: Option<&str>) -> Result<(), Error> {
    record.id = new_id();
    if record.hostname.is_empty() {
        record.hostname = record.short().to_string();
    }
    if !record.env.iter().any(|v| v.starts_with("HOSTNAME=")) {
        record.env.push(format!("HOSTNAME={}", record.hostname));
    }
    let _lock = home.lock()?;
    let all = match name {
        // a made name has the id's digits at need: nothing to look for
        None => Vec::new(),
        Some(_) => home.all(),
    };
    record.name = match name {
        Some(name) => {
            check_name(name)?;
            if let Some(other) = all.iter().find(|r| r.name == name) {
                return Err(Error::Failed(format!(
                    "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
                    other.id
                )));
            }
            name.to_string()
        }
        None => made_name(&record.id),
    };
    networks::look_up(home, &mut record.networks)?;
    life::make_folder(home, &record.id)?;
    home.save(record)
}

/// 64 hexadecimal digits.
fn new_id() -> String {
    let half = || uuid::Uuid::new_v4().simple();
    format!("{}{}", half(), half())
}

fn check_name(name: &str) -> Result<(), Error> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(word);
    match good {
        true => Ok(()),
        false => Err(Error::Input(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))),
    }
}

/// Two words and some digits, as the id has it.
fn made_name(id: &str) -> String {
    const HOW: [&str; 16] = [
        "brisk", "calm", "deft", "eager", "fair", "glad", "hardy", "keen", "lucid", "merry",
        "noble", "proud", "quick", "sound", "true", "warm",
    ];
    const WHO: [&str; 16] = [
        "otter", "heron", "lynx", "badger", "falcon", "marten", "plover", "raven", "seal", "stoat",
        "swift", "tern", "trout", "walrus", "weasel", "wren",
    ];
    let digit = |at: usize| {
        id.as_bytes()
            .get(at)
            .and_then(|b| char::from(*b).to_digit(16))
            .unwrap_or(0) as usize
    };
    format!("{}_{}_{}", HOW[digit(0)], WHO[digit(1)], &id[2..8])
}

/// What is mounted: as it is said, as others have it, and the volumes that the image wants.
fn mounted(home: &Home, a: &RunArguments, image: &Image) -> Result<Vec<Volume>, Error> {
    let bad = Error::Input;
    let mut volumes: Vec<Volume> = Vec::new();
    for text in &a.volume {
        volumes.push(options::volume(text).map_err(bad)?);
    }
    for text in &a.mount {
        volumes.push(options::mount(text).map_err(bad)?);
    }
    for text in &a.tmpfs {
        volumes.push(options::tmpfs(text).map_err(bad)?);
    }
    let own_shm = volumes.iter().any(|v| v.target == Path::new("/dev/shm"));
    if let Some(size) = a.more.shm_size.filter(|_| !own_shm) {
        let text = format!("/dev/shm:size={size},mode=1777,nosuid,nodev,noexec");
        volumes.push(options::tmpfs(&text).map_err(bad)?);
    }
    if let Some(twice) = volumes
        .iter()
        .enumerate()
        .find(|(n, v)| volumes[..*n].iter().any(|o| o.target == v.target))
    {
        return Err(bad(format!(
            "Duplicate mount point: {}",
            twice.1.target.display()
        )));
    }
    // SOURCE: moby `daemon/volumes.go` registerMountPoints: what is said counts over what others have
    let mut add = |volume: Volume| {
        if !volumes.iter().any(|v| v.target == volume.target) {
            volumes.push(volume);
        }
    };
    for text in &a.further.volumes_from {
        let (name, mode) = text.split_once(':').unwrap_or((text, ""));
        let read_only = match mode {
            "" | "rw" | "z" | "Z" => false,
            "ro" => true,
            other => return Err(bad(format!("invalid mode: {other}"))),
        };
        for volume in home.find(name)?.volumes {
            if !matches!(volume.kind, options::VolumeKind::Tmpfs(_)) {
                let read_only = volume.read_only || read_only;
                add(Volume {
                    read_only,
                    ..volume
                });
            }
        }
    }
    for place in &image.config.volumes {
        // one that is no place is the image's mistake, which Docker passes over, too
        if let Ok(volume) = options::volume(place) {
            add(volume);
        }
    }
    Ok(volumes)
}

/// The record of what is asked for, the image's settings filled in.
fn describe(home: &Home, a: &RunArguments, image: &Image) -> Result<Record, Error> {
    let bad = Error::Input;
    let config = &image.config;
    let args = match (&a.entrypoint, a.command().is_empty()) {
        (Some(program), _) => {
            let program = (!program.is_empty()).then(|| program.clone());
            program
                .into_iter()
                .chain(a.command().iter().cloned())
                .collect()
        }
        (None, true) => [config.entrypoint.clone(), config.cmd.clone()].concat(),
        (None, false) => [config.entrypoint.clone(), a.command().to_vec()].concat(),
    };
    if args.is_empty() {
        return Err(Error::Failed("no command specified".into()));
    }
    let who = a.user.clone().unwrap_or_else(|| config.user.clone());
    let mut user = knarr_node::image_user(&who, &image.layers).map_err(Error::Failed)?;
    for group in &a.more.group_add {
        // as a user's group it is looked up by name, too
        let found = knarr_node::image_user(&format!("0:{group}"), &image.layers);
        user.additional_gids.push(found.map_err(Error::Failed)?.gid);
    }
    let mut env = variables(a, config)?;
    let mut default = |name: &str, value: &str| {
        if !env.contains_key(name) {
            env.insert(name.into(), value.into());
        }
    };
    default("PATH", DEFAULT_PATH);
    default("HOME", user.home.as_deref().unwrap_or("/"));
    if a.tty {
        default("TERM", "xterm");
    }
    let volumes = mounted(home, a, image)?;
    let other = |name: &str| home.find(name).map(|record| record.id);
    let pid_of = a
        .more
        .pid
        .as_deref()
        .and_then(|m| m.strip_prefix("container:"));
    let log = a.further.log().map_err(bad)?;
    let workdir = a
        .workdir
        .clone()
        .unwrap_or_else(|| config.working_dir.clone());
    if !workdir.is_empty() && !workdir.starts_with('/') {
        return Err(Error::Failed(format!(
            "the working directory '{workdir}' is invalid, it needs to be an absolute path"
        )));
    }
    let (network, networks) = a.networks().map_err(bad)?;
    for text in &a.more.expose {
        if text.contains(':') || options::ports(text).is_err() {
            return Err(bad(format!("invalid range format for --expose: {text}")));
        }
    }
    let mut ports = Vec::new();
    for text in &a.publish {
        ports.extend(options::ports(text).map_err(bad)?);
    }
    if a.more.publish_all {
        let exposed = config.exposed_ports.iter().chain(&a.more.expose);
        for port in exposed.flat_map(|text| options::ports(text)).flatten() {
            let same =
                |p: &options::Port| (p.container, &p.protocol) == (port.container, &port.protocol);
            if !ports.iter().any(same) {
                ports.push(port);
            }
        }
    }
    if !ports.is_empty() && network != Network::Bridge {
        eprintln!(
            "WARNING: Published ports are discarded when using {} network mode",
            if network == Network::Host {
                "host"
            } else {
                "none"
            }
        );
        ports.clear();
    }
    let (no_new_privileges, seccomp, apparmor, open_paths) = security(&a.security_opt)?;
    let stop = a.stop_signal.clone().or_else(|| config.stop_signal.clone());
    Ok(Record {
        id: String::new(),
        name: String::new(),
        image: a.image().to_string(),
        image_digest: image.digest.clone(),
        created: SystemTime::now(),
        layers: image.layers.clone(),
        args,
        env: env
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        cwd: workdir.into(),
        user: User {
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.additional_gids,
            umask: None,
        },
        hostname: match (&a.hostname, network) {
            (Some(name), _) => name.clone(),
            (None, _) if network == Network::Host || a.further.host_uts() => {
                rustix::system::uname()
                    .nodename()
                    .to_string_lossy()
                    .into_owned()
            }
            _ => String::new(),
        },
        network,
        networks,
        ports,
        volumes,
        labels: labels(a)?,
        resources: resources(a)?,
        devices: a.more.device.clone(),
        oom_score_adj: a.more.oom_score_adj.unwrap_or(0),
        host_pid: a.more.pid.as_deref() == Some("host"),
        host_ipc: a.more.ipc.as_deref() == Some("host"),
        pid_of: pid_of.map(other).transpose()?,
        network_of: a.network_of().map(other).transpose()?,
        host_cgroups: a.further.host_cgroups(),
        no_log: log.none,
        log_bounds: (log.bytes != life::LOG_BYTES_MAX || log.files != life::LOG_FILES_MAX)
            .then_some((log.bytes, log.files)),
        open_paths,
        dns_options: a.further.dns_option.clone(),
        paused: false,
        rlimits: a.ulimit.clone(),
        sysctls: pairs(&a.sysctl),
        capabilities: knarr_node::capabilities(&a.cap_add, &a.cap_drop).map_err(bad)?,
        privileged: a.privileged,
        no_new_privileges,
        seccomp,
        apparmor,
        read_only: a.read_only,
        init: a.init,
        tty: a.tty,
        interactive: a.interactive,
        extra_hosts: a
            .add_host
            .iter()
            .map(|text| extra_host(text))
            .collect::<Result<_, _>>()?,
        dns: a.dns.clone(),
        dns_search: a.dns_search.clone(),
        stop_signal: stop
            .map_or(Ok(15), |text| options::signal(&text))
            .map_err(Error::Input)?,
        stop_timeout: a.stop_timeout.unwrap_or(STOP_SECONDS),
        remove: a.rm,
        restart: a.restart,
        health: a.health.over(config.healthcheck.as_ref()).map_err(bad)?,
        restarts: 0,
        stopped: false,
        address: None,
        exit: None,
        failed: None,
    })
}

/// The image's, the files', and the command line's variables, later ones first to count.
fn variables(
    a: &RunArguments,
    config: &knarr_image::ImageConfig,
) -> Result<BTreeMap<String, String>, Error> {
    gathered(&config.env, &a.env_file, &a.env)
}

/// Those of a command in a container, from files and the command line.
fn exec_variables(said: &[String], files: &[std::path::PathBuf]) -> Result<Vec<String>, Error> {
    let all = gathered(&[], files, said)?;
    Ok(all.into_iter().map(|(k, v)| format!("{k}={v}")).collect())
}

fn gathered(
    before: &[String],
    files: &[std::path::PathBuf],
    said: &[String],
) -> Result<BTreeMap<String, String>, Error> {
    let mut env = BTreeMap::new();
    let mut set = |line: &str| match line.split_once('=') {
        Some((name, value)) => drop(env.insert(name.to_string(), value.to_string())),
        // a name alone: this shell's value, if it has one
        None => match std::env::var(line) {
            Ok(value) => drop(env.insert(line.to_string(), value)),
            Err(_) => drop(env.remove(line)),
        },
    };
    before.iter().for_each(|line| set(line));
    for file in files {
        let text = read_text(file)?;
        for line in text.lines().map(str::trim_start) {
            if !line.is_empty() && !line.starts_with('#') {
                if line
                    .split('=')
                    .next()
                    .unwrap_or("")
                    .contains(char::is_whitespace)
                {
                    return Err(Error::Input(format!(
                        "{}: variable '{line}' contains whitespaces",
                        file.display()
                    )));
                }
                set(line);
            }
        }
    }
    for line in said {
        if line.is_empty() || line.starts_with('=') {
            return Err(Error::Input(format!(
                "invalid environment variable: {line}"
            )));
        }
        set(line);
    }
    Ok(env)
}

fn read_text(file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|e| Error::Failed(go_words(file, &e)))
}

/// What is wrong with opening a file, in Go's words, that scripts look for.
fn go_words(file: &Path, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_string(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => error.to_string(),
    };
    format!("open {}: {why}", file.display())
}

fn labels(a: &RunArguments) -> Result<BTreeMap<String, String>, Error> {
    let mut all = BTreeMap::new();
    for file in &a.more.label_file {
        let text = read_text(file)?;
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'));
        all.extend(pairs(&lines.map(str::to_string).collect::<Vec<_>>()));
    }
    all.extend(pairs(&a.label));
    Ok(all)
}

fn pairs(all: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_string(), value.to_string())
    };
    all.iter().map(pair).collect()
}

fn resources(a: &RunArguments) -> Result<Resources, Error> {
    const PERIOD_US: u64 = 100_000;
    let mut limits = Resources {
        cpu_shares: a.cpu_shares,
        cpu_quota_us: a.cpus.map(|cpus| (cpus * PERIOD_US as f64) as i64),
        cpu_period_us: a.cpus.map(|_| PERIOD_US),
        memory_limit_bytes: a.memory.map(|bytes| bytes as i64),
        pids_limit: a.pids_limit,
        ..Resources::default()
    };
    a.more.limit(&mut limits).map_err(Error::Input)?;
    limits.io = a.further.io().map_err(Error::Input)?;
    Ok(limits)
}

/// Whether privileges may grow, and the profiles of seccomp and AppArmor.
fn security(all: &[String]) -> Result<(bool, String, String, bool), Error> {
    let (mut no_new_privileges, mut seccomp, mut apparmor) = (false, String::new(), String::new());
    let mut open_paths = false;
    for option in all {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, "true"));
        match (name, value) {
            ("no-new-privileges", value) => no_new_privileges = value != "false",
            ("seccomp", "unconfined") => seccomp = "unconfined".into(),
            ("seccomp", "builtin") => seccomp.clear(),
            ("seccomp", file) => {
                let path = std::path::absolute(file).map_err(crate::error::io(file.to_string()))?;
                std::fs::read_to_string(&path).map_err(|e| {
                    let why = go_words(&path, &e);
                    Error::Failed(format!("opening seccomp profile ({file}) failed: {why}"))
                })?;
                seccomp = path.display().to_string();
            }
            ("systempaths", "unconfined") => open_paths = true,
            ("apparmor", profile) => apparmor = profile.into(),
            ("label", _) => {} // nothing is confined by labels here
            _ => {
                return Err(Error::Input(format!(
                    "invalid --security-opt 2: {option:?}"
                )));
            }
        }
    }
    Ok((no_new_privileges, seccomp, apparmor, open_paths))
}

fn extra_host(text: &str) -> Result<(String, String), Error> {
    let bad = || {
        Error::Input(format!(
            "bad format for add-host: \"{text}\": expected NAME:ADDRESS"
        ))
    };
    let (name, address) = text.split_once(['=', ':']).ok_or_else(bad)?;
    if address == "host-gateway" {
        let first = crate::links::host_addresses(false);
        let ip = first.first().ok_or_else(bad)?;
        return Ok((name.into(), ip.to_string()));
    }
    let plain = address.trim_start_matches('[').trim_end_matches(']');
    let ip: std::net::IpAddr = plain.parse().map_err(|_| bad())?;
    Ok((name.into(), ip.to_string()))
}

#[cfg(test)]
fn test_record() -> serde_json::Value {
    serde_json::json!({
        "id": "0", "name": "n", "image": "i", "image_digest": "", "created": { "secs_since_epoch": 0, "nanos_since_epoch": 0 },
        "layers": [], "args": [], "env": [], "cwd": "", "user": { "uid": 0, "gid": 0, "additional_gids": [], "umask": null },
        "hostname": "h", "network": "Bridge", "ports": [], "volumes": [], "labels": {}, "resources": {}, "rlimits": [],
        "sysctls": {}, "capabilities": [], "privileged": false, "no_new_privileges": false, "seccomp": "", "read_only": false,
        "init": false, "tty": false, "interactive": false, "extra_hosts": [], "dns": [], "dns_search": [], "stop_signal": 15,
        "stop_timeout": 10, "remove": false, "restart": "No", "restarts": 0, "stopped": false, "address": null, "exit": null,
        "failed": null,
    })
}
