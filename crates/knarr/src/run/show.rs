//! What stand-alone containers there are, and how they do.

use super::{
    health,
    life::{self, inner_id},
    options::{Port, VolumeKind},
    record::{Home, Record},
};
use crate::{cli::Output, error::Error, paths::Paths};
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
    all.retain(|(_, state)| arguments.all || matches!(state, State::Running { .. }));
    if arguments.output == Output::Json {
        let all: Vec<_> = all
            .iter()
            .map(|(record, state)| inspected(&home, record, state))
            .collect();
        println!("{:#}", json!(all));
        return Ok(0);
    }
    if let Some(format) = &arguments.format {
        return formatted(&home, &all, format, arguments.no_trunc);
    }
    let cut = |text: &str, most: usize| match arguments.no_trunc || text.chars().count() <= most {
        true => text.to_string(),
        false => text.chars().take(most - 1).chain(['…']).collect(),
    };
    let mut rows = vec![
        [
            "CONTAINER ID",
            "IMAGE",
            "COMMAND",
            "CREATED",
            "STATUS",
            "PORTS",
            "NAMES",
        ]
        .map(str::to_string),
    ];
    for (record, state) in &all {
        let id = if arguments.no_trunc {
            record.id.as_str()
        } else {
            record.short()
        };
        if arguments.quiet {
            println!("{id}");
            continue;
        }
        let ports = match state {
            State::Running { .. } => record
                .ports
                .iter()
                .map(Port::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            _ => String::new(),
        };
        rows.push([
            id.to_string(),
            record.image.clone(),
            cut(&format!("\"{}\"", record.args.join(" ")), 20),
            format!("{} ago", since(record.created)),
            status_of(&home, record, state),
            ports,
            record.name.clone(),
        ]);
    }
    if !arguments.quiet {
        print!("{}", table(&rows));
    }
    Ok(0)
}

/// `--format`: a line each.
fn formatted(home: &Home, all: &[(Record, State)], format: &str, whole: bool) -> Result<u8, Error> {
    let (heads, template) = match format.strip_prefix("table ") {
        Some(template) => (true, template),
        None => (false, format),
    };
    let template = template.replace("\\t", "\t");
    if heads {
        let words = template.split("{{").filter_map(|part| {
            let (word, _) = part.split_once("}}")?;
            Some(word.trim().trim_start_matches('.').to_uppercase())
        });
        println!("{}", words.collect::<Vec<_>>().join("\t"));
    }
    for (record, state) in all {
        let row = json!({
            "ID": if whole { record.id.as_str() } else { record.short() },
            "Names": record.name,
            "Image": record.image,
            "Command": format!("\"{}\"", record.args.join(" ")),
            "CreatedAt": time(record.created),
            "RunningFor": format!("{} ago", since(record.created)),
            "Status": status_of(home, record, state),
            "State": word(record, state),
            "Ports": record.ports.iter().map(Port::to_string).collect::<Vec<_>>().join(", "),
            "Labels": record.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
            "Networks": networks(record).join(","),
        });
        match format {
            "json" => println!("{row}"),
            _ => println!(
                "{}",
                super::template::fill(&template, &row).map_err(Error::Input)?
            ),
        }
    }
    Ok(0)
}

/// The names of its networks.
fn networks(record: &Record) -> Vec<String> {
    match record.networks.is_empty() {
        true => vec![format!("{:?}", record.network).to_lowercase()],
        false => record.networks.iter().map(|n| n.name.clone()).collect(),
    }
}

fn places(record: &Record) -> serde_json::Value {
    let own = record.networks.iter().map(|n| {
        let shown = json!({ "NetworkID": n.id, "Aliases": n.aliases, "IPAddress": record.address });
        (n.name.clone(), shown)
    });
    let plain = (
        networks(record).concat(),
        json!({ "IPAddress": record.address }),
    );
    let plain = record.networks.is_empty().then_some(plain);
    own.chain(plain).collect::<serde_json::Map<_, _>>().into()
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

fn table(rows: &[[String; 7]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
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

fn time(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at);
    at.map_or(String::new(), |at| at.to_string())
}

/// What `docker inspect` tells, as far as there is anything to tell.
pub fn inspected(home: &Home, record: &Record, state: &State) -> serde_json::Value {
    let running = matches!(state, State::Running { .. });
    let (status, pid, started, code, finished, error) = match state {
        State::Created => ("created", 0, None, 0, None, String::new()),
        State::Running { pid, since } => ("running", *pid, Some(*since), 0, None, String::new()),
        State::Exited { since, exit } => {
            ("exited", 0, *since, exit.code, Some(exit.at), String::new())
        }
        State::Failed(text) => ("created", 0, None, 128, None, text.clone()),
    };
    let oom = matches!(state, State::Exited { exit, .. } if exit.oom_killed);
    let mounts = record.volumes.iter().map(|volume| {
        let (kind, source) = match &volume.kind {
            VolumeKind::Bind(path, _) => ("bind", path.display().to_string()),
            VolumeKind::Named(name) => ("volume", home.volume(name).display().to_string()),
            VolumeKind::Tmpfs(_) => ("tmpfs", String::new()),
        };
        json!({ "Type": kind, "Source": source, "Destination": volume.target, "RW": !volume.read_only })
    });
    let mounts: Vec<_> = mounts.collect();
    let ports: serde_json::Map<String, serde_json::Value> = record
        .ports
        .iter()
        .filter(|_| running)
        .map(|port| {
            let ip = port.ip.map_or("0.0.0.0".into(), |ip| ip.to_string());
            (
                format!("{}/{}", port.container, port.protocol),
                json!([{ "HostIp": ip, "HostPort": port.host.to_string() }]),
            )
        })
        .collect();
    let (program, arguments) = record
        .args
        .split_first()
        .map_or((String::new(), vec![]), |(p, a)| (p.clone(), a.to_vec()));
    json!({
        "Id": record.id,
        "Name": format!("/{}", record.name),
        "Created": time(record.created),
        "Path": program,
        "Args": arguments,
        "Image": record.image_digest,
        "LogPath": home.log(&record.id),
        "RestartCount": record.restarts,
        "State": {
            "Status": if running && record.paused { "paused" } else { status }, "Running": running, "Paused": record.paused, "Pid": pid, "ExitCode": code, "OOMKilled": oom, "Error": error,
            "StartedAt": started.map(time), "FinishedAt": finished.map(time), "Health": health::shown(home, record),
        },
        "Config": {
            "Image": record.image, "Hostname": record.hostname, "Env": record.env, "Cmd": record.args, "WorkingDir": record.cwd,
            "User": format!("{}:{}", record.user.uid, record.user.gid), "Tty": record.tty, "OpenStdin": record.interactive,
            "Labels": record.labels, "StopTimeout": record.stop_timeout,
        },
        "HostConfig": {
            "NetworkMode": networks(record).first(), "AutoRemove": record.remove,
            "Privileged": record.privileged, "ReadonlyRootfs": record.read_only, "CapAdd": record.capabilities,
            "Memory": record.resources.memory_limit_bytes, "PidsLimit": record.resources.pids_limit, "Init": record.init,
        },
        "Mounts": mounts,
        "NetworkSettings": { "IPAddress": record.address, "Ports": ports, "Networks": places(record) },
    })
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
