//! What stand-alone containers there are, and how they do.

use super::{
    health,
    life::{self, inner_id},
    options::{self, Port, VolumeKind},
    record::{Home, Record},
};
use crate::{
    cli::Output,
    error::Error,
    listing::{Filters, Shape, cut},
    paths::Paths,
};
use clap::Args;
use knarr_runtime::{Exit, Runtime, State};
use serde_json::json;
use std::time::SystemTime;

#[derive(Args)]
pub struct PsArguments {
    /// Also those that have ended
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Only those of which this holds: status=exited, name=web, label=NAME=value, ancestor=IMAGE, …; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// The last made, also if they have ended
    #[arg(short = 'n', long, allow_negative_numbers = true, value_name = "N")]
    last: Option<i64>,
    /// The last made
    #[arg(short, long)]
    latest: bool,
    /// With what they wrote into their files, in bytes
    #[arg(short, long)]
    size: bool,
    /// A template like {{.Names}}, `table …` or `json`
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// How it is printed
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// How a container is.
pub fn state(home: &Home, record: &Record) -> State {
    let ended = |exit: &Exit| State::Exited {
        since: None,
        exit: exit.clone(),
    };
    if let Some(exit) = &record.exit {
        return ended(exit);
    }
    if let Some(text) = &record.failed {
        return State::Failed(text.clone());
    }
    let root = home.container(&record.id).join("runtime");
    Runtime::peek(&root, &inner_id(record)).unwrap_or(State::Created)
}

/// All containers, those that ended while nobody looked seen to.
pub async fn settled(home: &Home) -> Vec<(Record, State)> {
    let mut all = Vec::new();
    for record in home.all() {
        let seen = state(home, &record);
        let unseen = record.exit.is_none() && record.failed.is_none();
        if unseen && matches!(seen, State::Exited { .. } | State::Failed(_)) {
            if let Err(error) = life::ended(home, &record.id, None).await {
                eprintln!("knarr: {}: {error}", record.name);
            }
            let Some(record) = home.load(&record.id) else {
                continue; // it was to be removed
            };
            let now = state(home, &record);
            all.push((record, now));
        } else {
            all.push((record, seen));
        }
    }
    all
}

pub async fn ps(paths: &Paths, arguments: PsArguments) -> Result<u8, Error> {
    crate::connect::require_readable(paths)?;
    let home = Home::new(paths);
    let mut all = settled(&home).await;
    let filters = Filters::read(&arguments.filter, &FILTERS)?;
    let last = match arguments.latest {
        true => Some(1),
        false => arguments.last.and_then(|n| usize::try_from(n).ok()),
    };
    if let Some(odd) = filters.values("status").find(|s| !STATES.contains(s)) {
        return Err(Error::Input(format!(
            "invalid filter 'status={odd}': invalid value for state ({odd}): must be one of {}",
            STATES.join(", ")
        )));
    }
    // SOURCE: moby `daemon/list.go`: who asks for a state asks among all
    let ended_too =
        arguments.all || last.is_some() || filters.has("status") || filters.has("exited");
    let made = |said: &str| home.find(said).map(|r| r.created);
    let moments = |key: &str| filters.values(key).map(made).collect::<Result<Vec<_>, _>>();
    let (before, since) = (moments("before")?, moments("since")?);
    all.retain(|(record, state)| {
        (ended_too || matches!(state, State::Running { .. }))
            && before.iter().all(|at| record.created < *at)
            && since.iter().all(|at| record.created > *at)
            && fits(&home, record, state, &filters)
    });
    all.truncate(last.unwrap_or(usize::MAX));
    if arguments.output == Output::Json {
        let all: Vec<_> = all
            .iter()
            .map(|(record, state)| super::inspected::inspected(&home, record, state))
            .collect();
        println!("{:#}", json!(all));
        return Ok(0);
    }
    if arguments.quiet && arguments.format.is_none() {
        for (record, _) in &all {
            println!(
                "{}",
                if arguments.no_trunc {
                    &record.id
                } else {
                    record.short()
                }
            );
        }
        return Ok(0);
    }
    let rows = all
        .iter()
        .map(|(record, state)| row(&home, record, state, &arguments));
    let rows: Vec<serde_json::Value> = rows.collect();
    let shape = match arguments.size {
        true => &WITH_SIZE,
        false => &SHAPE,
    };
    shape.print(&rows, arguments.format.as_deref())?;
    Ok(0)
}

const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];

const FILTERS: [&str; 14] = [
    "ancestor", "before", "exited", "expose", "health", "id", "label", "label!", "name", "network",
    "publish", "since", "status", "volume",
];

/// SOURCE: docker/cli `cli/command/formatter/container.go`
const HEADS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];
/// The last only with `--size`.
const SHOWN: &[&str] = &[
    "ID",
    "Image",
    "Command",
    "RunningFor",
    "Status",
    "Ports",
    "Names",
    "Size",
];
const SHAPE: Shape = Shape {
    heads: HEADS,
    shown: SHOWN.split_at(SHOWN.len() - 1).0,
};
const WITH_SIZE: Shape = Shape {
    heads: HEADS,
    shown: SHOWN,
};

/// Does all that the filters say hold? SOURCE: moby `daemon/list.go`
fn fits(home: &Home, record: &Record, state: &State, filters: &Filters) -> bool {
    let image = |said: &str| {
        let plain = record.image_digest.trim_start_matches("sha256:");
        let full = |name: &str| knarr_image::normalize(name).ok();
        said.trim_start_matches("sha256:").len() >= 4
            && plain.starts_with(said.trim_start_matches("sha256:"))
            || full(said).is_some_and(|said| full(&record.image) == Some(said))
    };
    let volume = |said: &str| {
        record.volumes.iter().any(|v| {
            v.target == std::path::Path::new(said)
                || matches!(&v.kind, VolumeKind::Named(name) if name == said)
                || matches!(&v.kind, VolumeKind::Bind(path, _) if path == std::path::Path::new(said))
        })
    };
    let port = |said: &str| {
        let said = options::ports(said).unwrap_or_default();
        said.iter().any(|a| {
            let same = |b: &Port| a.container == b.container && a.protocol == b.protocol;
            record.ports.iter().any(same)
        })
    };
    let code = match state {
        State::Exited { exit, .. } => Some(exit.code.to_string()),
        _ => None,
    };
    let health = health::in_words(home, record);
    filters.name(&record.name)
        && filters.any("id", |said| record.id.starts_with(said))
        && filters.labels(&record.labels)
        && filters.any("status", |said| said == word(record, state))
        && filters.any("exited", |said| code.as_deref() == Some(said))
        && filters.any("ancestor", image)
        && filters.any("network", |said| networks(record).iter().any(|n| n == said))
        && filters.any("health", |said| match said {
            "none" => health.is_empty(),
            said => {
                health
                    .trim_matches([' ', '(', ')'])
                    .trim_start_matches("health: ")
                    == said
            }
        })
        && filters.any("volume", volume)
        && filters.any("publish", port)
        && filters.any("expose", port)
}

fn row(home: &Home, record: &Record, state: &State, asked: &PsArguments) -> serde_json::Value {
    let whole = asked.no_trunc;
    let ports = match state {
        State::Running { .. } => shown_ports(record),
        _ => Vec::new(),
    };
    let labels = record.labels.iter().map(|(k, v)| format!("{k}={v}"));
    let mounts = record.volumes.iter().filter_map(|v| match &v.kind {
        VolumeKind::Bind(path, _) => Some(path.display().to_string()),
        VolumeKind::Named(name) => Some(name.clone()),
        VolumeKind::Tmpfs(_) => None,
    });
    let mounts: Vec<String> = mounts.map(|m| cut(&m, 15, whole)).collect();
    let named = record
        .volumes
        .iter()
        .filter(|v| matches!(v.kind, VolumeKind::Named(_)));
    let created = jiff::Timestamp::try_from(record.created).unwrap_or_default();
    json!({
        "ID": if whole { record.id.as_str() } else { record.short() },
        "Names": record.name,
        "Image": record.image,
        "Command": format!("\"{}\"", cut(&record.args.join(" "), 20, whole)),
        "CreatedAt": crate::listing::moment(created),
        "RunningFor": format!("{} ago", since(record.created)),
        "Status": status_of(home, record, state),
        "State": word(record, state),
        "Ports": ports.join(", "),
        "Labels": labels.collect::<Vec<_>>().join(","),
        "Mounts": mounts.join(","),
        "LocalVolumes": named.count().to_string(),
        "Networks": networks(record).join(","),
        "Platform": null,
        "Size": if asked.size { written(home, record) } else { "0B".into() },
    })
}

/// Those that are published, and those that only the image or `--expose` tells of.
fn shown_ports(record: &Record) -> Vec<String> {
    let published = |port: &&String| {
        let same = |p: &Port| format!("{}/{}", p.container, p.protocol) == **port;
        !record.ports.iter().any(same)
    };
    let alone = record.said.exposed.iter().filter(published).cloned();
    alone
        .chain(record.ports.iter().map(Port::to_string))
        .collect()
}

/// What it wrote into its own files.
fn written(home: &Home, record: &Record) -> String {
    knarr_docker::human_size(bytes_written(home, record), 3)
}

/// The same as a number.
pub fn bytes_written(home: &Home, record: &Record) -> u64 {
    bytes_below(&home.layer(&record.id).join("upper"))
}

/// What the files below a folder have; no link is followed.
pub fn bytes_below(folder: &std::path::Path) -> u64 {
    let mut bytes = 0;
    let linked = folder.symlink_metadata().is_ok_and(|m| m.is_symlink());
    let mut folders = match linked {
        true => Vec::new(),
        false => vec![folder.to_path_buf()],
    };
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(about) = entry.metadata() else {
                continue;
            };
            match about.is_dir() {
                true => folders.push(entry.path()),
                false => bytes += about.len(),
            }
        }
    }
    bytes
}

/// The names of its networks.
pub fn networks(record: &Record) -> Vec<String> {
    match record.networks.is_empty() {
        true if record.network == options::Network::Container => vec![],
        true => vec![format!("{:?}", record.network).to_lowercase()],
        false => record.networks.iter().map(|n| n.name.clone()).collect(),
    }
}

fn word(record: &Record, state: &State) -> &'static str {
    match state {
        State::Running { .. } if record.paused => "paused",
        State::Running { .. } => "running",
        State::Exited { .. } => "exited",
        State::Created | State::Failed(_) => "created",
    }
}

fn status_of(home: &Home, record: &Record, state: &State) -> String {
    match (record.paused, state) {
        (true, State::Running { .. }) => format!("{} (Paused)", status(state)),
        (false, State::Running { .. }) => status(state) + health::in_words(home, record),
        _ => status(state),
    }
}

pub fn status(state: &State) -> String {
    match state {
        State::Created => "Created".into(),
        State::Running { since: at, .. } => format!("Up {}", since(*at)),
        State::Exited { exit, .. } => format!("Exited ({}) {} ago", exit.code, since(exit.at)),
        State::Failed(_) => "Failed".into(),
    }
}

/// SOURCE: docker/go-units `HumanDuration`.
fn since(at: SystemTime) -> String {
    human(
        SystemTime::now()
            .duration_since(at)
            .map_or(0, |d| d.as_secs()),
    )
}

pub fn human(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

pub fn time(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at);
    at.map_or(String::new(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_docker_says_them() {
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 21, "3 weeks"),
            (86_400 * 90, "3 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(human(seconds), want, "{seconds}");
        }
    }
}
