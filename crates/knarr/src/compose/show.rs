//! What containers say and do while one looks: `logs`, `events`, `stats`, `wait`.

use super::{
    Asked, Target,
    containers::{Container, State, containers},
    lists,
};
use crate::error::Error;
use clap::Args;
use futures::{AsyncBufReadExt, StreamExt, stream::FuturesUnordered};
use k8s_openapi::{
    api::core::v1::{Event, Pod},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Write},
};

pub use crate::run::human as duration;

/// A process as `ps -ef` shows it; None: it has ended.
pub fn process(pid: i32) -> Option<Vec<String>> {
    let folder = std::path::PathBuf::from(format!("/proc/{pid}"));
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().next().map(String::from)
    };
    let words = std::fs::read(folder.join("cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words)
        .trim_end_matches('\0')
        .replace('\0', " ");
    let name = field("Name:")?;
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // utime and stime, fields 14 and 15 of proc(5), in hundredths of a second.
    let ticks = |i: usize| rest.get(i).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    let seconds = (ticks(11) + ticks(12)) / 100;
    let began = Timestamp::now() - SignedDuration::from_secs(age(ticks(19)));
    let began = began.to_zoned(k8s_openapi::jiff::tz::TimeZone::system());
    Some(vec![
        field("Uid:")?,
        pid.to_string(),
        field("PPid:")?,
        "0".into(),
        began.strftime("%H:%M").to_string(),
        "?".into(),
        format!(
            "{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        ),
        if words.is_empty() {
            format!("[{name}]")
        } else {
            words
        },
    ])
}

/// How many seconds ago a process began, of its start in hundredths of a second after the machine's.
fn age(began: u64) -> i64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up: f64 = uptime
        .split(' ')
        .next()
        .and_then(|t| t.parse().ok())
        .unwrap_or(0.0);
    (up as i64 - (began / 100) as i64).max(0)
}

/// When an attached `up` ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Until {
    /// When all have ended that ever do.
    #[default]
    Interrupted,
    AnyEnds,
    AnyFails,
}

/// How lines are shown.
#[derive(Debug, Clone, Default)]
pub struct Follow {
    pub prefix: bool,
    pub color: bool,
    pub timestamps: bool,
    pub tail: Option<i64>,
    pub since: Option<Timestamp>,
    pub before: Option<Timestamp>,
    pub until: Until,
    /// Say with what code each ends.
    pub exits: bool,
    /// Containers (by id) that have ended before it began.
    pub old: BTreeSet<String>,
    /// While it is true, further containers are made.
    pub coming: Option<tokio::sync::watch::Receiver<bool>>,
}

const COLORS: [u8; 12] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94, 31, 91];

fn prefix(options: &Follow, name: &str, width: usize, number: usize) -> String {
    match (
        options.prefix,
        options.color && std::io::stdout().is_terminal(),
    ) {
        (false, _) => String::new(),
        (true, true) => format!(
            "\x1b[{}m{name:width$}  | \x1b[0m",
            COLORS[number % COLORS.len()]
        ),
        (true, false) => format!("{name:width$}  | "),
    }
}

/// Prints a container's lines until its log ends.
async fn lines(api: Api<Pod>, c: Container, options: &Follow, follow: bool, prefix: String) {
    let parameters = LogParams {
        container: Some(c.name.clone()),
        follow,
        tail_lines: options.tail,
        timestamps: options.timestamps || options.before.is_some(),
        since_time: options.since,
        ..LogParams::default()
    };
    let Ok(stream) = api.log_stream(&c.pod_name(), &parameters).await else {
        return; // it has not begun
    };
    let mut lines = stream.lines();
    while let Some(Ok(line)) = lines.next().await {
        let mut shown = line.as_str();
        if let Some(before) = options.before
            && let Some((time, rest)) = line.split_once(' ')
        {
            if time.parse::<Timestamp>().is_ok_and(|t| t > before) {
                return;
            }
            shown = if options.timestamps { &line } else { rest };
        }
        if writeln!(std::io::stdout().lock(), "{prefix}{shown}").is_err() {
            return; // the reader has gone
        }
    }
}

/// How long after its last line a container's code may take to be known.
const CODE_COMES: std::time::Duration = std::time::Duration::from_secs(20);

/// Prints a container's lines, and with what code it has ended; its title when that was said.
async fn lines_and_end(
    api: Api<Pod>,
    c: Container,
    options: &Follow,
    prefix: String,
) -> Option<String> {
    let (id, pod) = (c.id(), c.pod_name());
    let title = title(&c);
    lines(api.clone(), c, options, true, prefix).await;
    if !options.exits {
        return None;
    }
    let code = |pod: &Pod| {
        let all = pod.status.as_ref()?.container_statuses.as_ref()?;
        let states = all.iter().flat_map(|s| [&s.state, &s.last_state]);
        let mut ended = states.filter_map(|s| s.as_ref()?.terminated.as_ref());
        let same = |t: &&k8s_openapi::api::core::v1::ContainerStateTerminated| {
            t.container_id.as_ref().is_some_and(|i| i.ends_with(&id))
        };
        ended.find(same).map(|t| t.exit_code)
    };
    // One that has been started twice since then is told of no more.
    let forgotten = |pod: &Pod| {
        let all = pod.status.iter().flat_map(|s| &s.container_statuses);
        !all.flatten().any(|s| {
            let last = s.last_state.as_ref().and_then(|l| l.terminated.as_ref());
            let ids = [
                s.container_id.as_ref(),
                last.and_then(|t| t.container_id.as_ref()),
            ];
            ids.into_iter().flatten().any(|i| i.ends_with(&id))
        })
    };
    let known = |pod: Option<&Pod>| pod.is_none_or(|p| code(p).is_some() || forgotten(p));
    let ended = kube::runtime::wait::await_condition(api, &pod, known);
    let pod = tokio::time::timeout(CODE_COMES, ended).await.ok()?.ok()??;
    say_end(&title, code(&pod)?);
    Some(title)
}

fn say_end(title: &str, code: i32) {
    let _ = writeln!(std::io::stdout().lock(), "{title} exited with code {code}");
}

/// `web-1`
fn title(c: &Container) -> String {
    match c.one_off {
        true => c.pod_name(),
        false => format!("{}-{}", c.service, c.index),
    }
}

/// Shows what containers write, new ones as they come, until all have ended for good or `until` says so; answers the code of
/// the one that ended it.
pub async fn follow(target: &Target, services: &[String], options: &Follow) -> Result<u8, Error> {
    if services.is_empty() {
        return Ok(std::future::pending().await);
    }
    let api: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let mut changes = Box::pin(watcher(api.clone(), watcher::Config::default()).default_backoff());
    // (container's id) whose lines are shown or have been.
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut reading = FuturesUnordered::new();
    let mut ended: Option<(String, i32)> = None;
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut coming = options.coming.clone();
    loop {
        let mut all = containers(target, services).await?;
        all.retain(|c| !options.old.contains(&c.id()) || c.is_running());
        let width = all.iter().map(|c| title(c).len()).max().unwrap_or(0);
        for c in &all {
            let id = c.id();
            if id.is_empty() || !seen.insert(id) {
                continue;
            }
            let count = numbers.len();
            let number = *numbers.entry(title(c)).or_insert(count);
            let prefix = prefix(options, &title(c), width, number);
            reading.push(lines_and_end(api.clone(), c.clone(), options, prefix));
        }
        if ended.is_none() {
            ended = end(&all, options.until);
        }
        let for_good = |c: &Container| matches!(c.state, State::Exited(_));
        let more = coming.as_ref().is_some_and(|c| *c.borrow());
        let over = ended.is_some() || (!more && !all.is_empty() && all.iter().all(for_good));
        if over {
            // What they have written is through first.
            let ender = ended.as_ref().map(|(title, _)| title);
            let rest = async {
                while let Some(one) = reading.next().await {
                    told.extend(one);
                    if ender.is_some_and(|e| told.contains(e)) {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(CODE_COMES, rest).await;
            let Some((title, code)) = ended else {
                return Ok(0);
            };
            if options.exits && !told.contains(&title) {
                say_end(&title, code);
            }
            return Ok(u8::try_from(code & 0xff).unwrap_or(1));
        }
        tokio::select! {
            Some(one) = reading.next() => told.extend(one),
            () = all_made(&mut coming), if more => {}
            change = changes.next() => if change.is_none() {
                return Ok(0);
            },
        }
    }
}

/// Waits until no further containers are made.
async fn all_made(coming: &mut Option<tokio::sync::watch::Receiver<bool>>) {
    if let Some(coming) = coming {
        let _ = coming.wait_for(|more| !more).await;
    }
}

/// The title and code of the first container that has ended, if that ends it all.
pub(super) fn end(all: &[Container], until: Until) -> Option<(String, i32)> {
    let code = |c: &Container| -> Option<i32> {
        if let State::Exited(code) = c.state {
            return Some(code);
        }
        let status = c.status()?;
        let last = status.state.as_ref().and_then(|s| s.terminated.as_ref());
        let before = status
            .last_state
            .as_ref()
            .and_then(|s| s.terminated.as_ref());
        last.or(before).map(|t| t.exit_code)
    };
    let mut codes = all.iter().filter_map(|c| Some((title(c), code(c)?)));
    match until {
        Until::Interrupted => None,
        Until::AnyEnds => codes.next(),
        Until::AnyFails => codes.find(|(_, code)| *code != 0),
    }
}

#[derive(Args)]
pub struct LogsArguments {
    services: Vec<String>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines of each container, or all
    #[arg(short = 'n', long, default_value = "all", value_name = "LINES")]
    tail: String,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Only lines since then: 2026-01-02T13:23:37Z, or 42m for so long ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only lines before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Only this container of the service
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    index: usize,
    /// Without colours
    #[arg(long)]
    no_color: bool,
    /// Without the containers' names
    #[arg(long)]
    no_log_prefix: bool,
}

/// A time, seconds since 1970, or how long ago.
pub fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<k8s_openapi::jiff::civil::DateTime>()
        && let Ok(zoned) = date.to_zoned(k8s_openapi::jiff::tz::TimeZone::system())
    {
        return Ok(zoned.timestamp());
    }
    if let Ok(seconds) = text.parse::<f64>() {
        let time = Timestamp::from_millisecond((seconds * 1000.0) as i64);
        return time.map_err(|e| e.to_string());
    }
    let ago = text.parse::<SignedDuration>();
    ago.map(|ago| Timestamp::now() - ago)
        .map_err(|_| format!("{text:?} is no time: say 2026-01-02T13:23:37Z, or 42m"))
}

pub async fn logs(asked: &Asked<'_>, a: LogsArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let options = Follow {
        prefix: !a.no_log_prefix,
        color: !a.no_color,
        timestamps: a.timestamps,
        since: a.since,
        before: a.until,
        tail: match a.tail.as_str() {
            "all" | "-1" => None,
            n => Some(
                n.parse()
                    .map_err(|_| Error::Input(format!("--tail {n}: say a number, or all")))?,
            ),
        },
        until: Until::Interrupted,
        exits: false,
        old: BTreeSet::new(),
        coming: None,
    };
    if a.follow && a.index == 0 {
        let mut services = a.services.clone();
        if services.is_empty() {
            let all = containers(&target, &[]).await?;
            services = all.iter().map(|c| c.service.clone()).collect();
            let declared = target
                .project
                .iter()
                .flat_map(|p| p.services.keys().cloned());
            services.extend(declared);
        }
        target.known(&a.services)?;
        return follow(&target, &services, &options).await;
    }
    let api: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let mut all = containers(&target, &a.services).await?;
    all.retain(|c| a.index == 0 || c.index == a.index);
    let width = all.iter().map(|c| title(c).len()).max().unwrap_or(0);
    for (number, c) in all.into_iter().enumerate() {
        let prefix = prefix(&options, &title(&c), width, number);
        lines(api.clone(), c, &options, a.follow, prefix).await;
    }
    Ok(0)
}

/// How long what has happened may take to be told.
const TOLD: std::time::Duration = std::time::Duration::from_millis(500);

#[derive(Args)]
pub struct EventsArguments {
    services: Vec<String>,
    /// An object a line
    #[arg(long)]
    json: bool,
    /// What has happened since this time, too: a time, or how long ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// What happens until this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

pub async fn events(asked: &Asked<'_>, a: EventsArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    target.known(&a.services)?;
    let api: Api<Event> = Api::namespaced(target.client.clone(), &target.namespace);
    let now = Timestamp::now();
    let began = a.since.unwrap_or(now - SignedDuration::from_secs(1));
    let ends = async {
        match a.until {
            Some(until) => {
                let left = until.duration_since(now);
                tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                // What has been told is still on its way.
                tokio::time::sleep(TOLD).await;
            }
            None => std::future::pending().await,
        }
    };
    let mut ends = std::pin::pin!(ends);
    let mut all = Box::pin(
        watcher(api, watcher::Config::default())
            .default_backoff()
            .applied_objects(),
    );
    let mut interrupt = std::pin::pin!(crate::wiring::until_signal());
    loop {
        let event = tokio::select! {
            Some(event) = all.next() => event,
            () = &mut interrupt => return Ok(0),
            () = &mut ends => return Ok(0),
            else => return Ok(0),
        };
        let Ok(event) = event else { continue };
        let created = event.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let last = event.last_timestamp.as_ref().map(|t| t.0).or(created);
        let time = event.event_time.as_ref().map(|t| t.0).or(last);
        let Some(time) = time.filter(|t| *t >= began && a.until.is_none_or(|u| *t <= u)) else {
            continue;
        };
        let about = &event.involved_object;
        let name = about.name.clone().unwrap_or_default();
        let ours = |s: &String| {
            let object = knarr_compose::object_name(s);
            name == object || name.starts_with(&format!("{object}-"))
        };
        if !(a.services.is_empty() || a.services.iter().any(ours)) {
            continue;
        }
        let (kind, action) = (
            about.kind.clone().unwrap_or_default().to_lowercase(),
            event.reason.clone().unwrap_or_default(),
        );
        let message = event.message.clone().unwrap_or_default();
        match a.json {
            true => println!(
                "{}",
                json!({ "time": time.to_string(), "type": kind, "action": action, "name": name, "message": message, "project": target.namespace })
            ),
            false => println!("{time} {kind} {} {name} ({message})", action.to_lowercase()),
        }
    }
}

#[derive(Args)]
pub struct StatsArguments {
    services: Vec<String>,
    /// Only once
    #[arg(long)]
    no_stream: bool,
    /// Those that don't run, too
    #[arg(short, long, hide = true)]
    all: bool,
    /// table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    #[arg(long, hide = true)]
    no_trunc: bool,
}

/// How long between two looks.
const STATS_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

pub async fn stats(asked: &Asked<'_>, a: StatsArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics"),
        "pods",
    );
    let api: Api<DynamicObject> =
        Api::namespaced_with(target.client.clone(), &target.namespace, &resource);
    let mut interrupt = std::pin::pin!(crate::wiring::until_signal());
    loop {
        let all = containers(&target, &a.services).await?;
        let used = api.list(&ListParams::default()).await?.items;
        let (mut rows, mut objects) = (Vec::new(), Vec::new());
        for c in all.iter().filter(|c| c.is_running()) {
            let own = used.iter().find(|p| p.name_any() == c.pod_name());
            let of = own.and_then(|p| p.data["containers"].as_array());
            let of = of.and_then(|all| all.iter().find(|m| m["name"] == c.name.as_str()));
            let cpu = of.and_then(|m| millis(&m["usage"]["cpu"]));
            let memory = of.and_then(|m| bytes(&m["usage"]["memory"]));
            let percent = cpu.map_or("--".into(), |c| format!("{:.2}%", c / 10.0));
            let memory = memory.map_or("--".into(), knarr_docker::bytes_size);
            let id: String = c.id().chars().take(12).collect();
            objects.push(
                json!({ "ID": id, "Name": c.pod_name(), "CPUPerc": percent, "MemUsage": memory }),
            );
            rows.push(vec![id, c.pod_name(), percent, memory]);
        }
        match a.format.as_str() {
            "json" => objects.iter().for_each(|o| println!("{o}")),
            _ => {
                if !a.no_stream && std::io::stdout().is_terminal() {
                    print!("\x1b[2J\x1b[H");
                }
                lists::table(&["CONTAINER ID", "NAME", "CPU %", "MEM USAGE"], &rows);
            }
        }
        if a.no_stream {
            return Ok(0);
        }
        tokio::select! {
            () = tokio::time::sleep(STATS_EVERY) => {}
            () = &mut interrupt => return Ok(0),
        }
    }
}

fn millis(value: &Value) -> Option<f64> {
    let text = value.as_str()?;
    let (digits, per) = match text.chars().last()? {
        'n' => (&text[..text.len() - 1], 1e6),
        'u' => (&text[..text.len() - 1], 1e3),
        'm' => (&text[..text.len() - 1], 1.0),
        _ => (text, 1e-3),
    };
    digits.parse::<f64>().ok().map(|n| n / per)
}

fn bytes(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    for (unit, factor) in [("Ki", 1u64 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<u64>().ok().map(|n| n * factor);
        }
    }
    text.parse().ok()
}

#[derive(Args)]
pub struct WaitArguments {
    #[arg(required = true)]
    services: Vec<String>,
    /// Remove the project when the first has ended
    #[arg(long)]
    down_project: bool,
}

pub async fn wait(asked: &Asked<'_>, a: WaitArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let api: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let mut changes = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
    loop {
        let all = containers(&target, &a.services).await?;
        if all.is_empty() {
            return Err(Error::Failed(format!(
                "no containers of {} run",
                a.services.join(", ")
            )));
        }
        let ended = all.iter().filter_map(|c| match c.state {
            State::Exited(code) => Some((c, code)),
            _ => None,
        });
        let ended: Vec<_> = ended.collect();
        if ended.len() == all.len() || (a.down_project && !ended.is_empty()) {
            let mut worst = 0;
            for (c, code) in ended {
                println!("{}: {code}", title(c));
                worst = worst.max(u8::try_from(code & 0xff).unwrap_or(1));
            }
            if a.down_project {
                let flags = crate::down::DownFlags::default();
                crate::down::run(asked.paths, flags.of(asked.arguments.clone())).await?;
            }
            return Ok(worst);
        }
        tokio::select! {
            Some(_) = changes.next() => {}
            () = crate::wiring::until_signal() => return Ok(130),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times() {
        assert_eq!(millis(&json!("250m")), Some(250.0));
        assert_eq!(millis(&json!("1500000n")), Some(1.5));
        assert_eq!(millis(&json!("2")), Some(2000.0));
        assert_eq!(bytes(&json!("3Ki")), Some(3072));
        assert_eq!(
            time("2026-01-02T13:23:37Z").unwrap().to_string(),
            "2026-01-02T13:23:37Z"
        );
        assert_eq!(time("5").unwrap().as_second(), 5);
        let then = time("42m").unwrap();
        let ago = Timestamp::now().duration_since(then).as_secs();
        assert!((2520..2530).contains(&ago), "{ago}");
        assert!(time("soon").is_err());
    }
}
