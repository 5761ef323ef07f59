//! What containers say while one looks: `logs`, and an attached `up`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Write},
};

use clap::Args;
use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};

use super::{
    Asked, Target,
    containers::{Container, State, containers},
    lines::{Places, lines},
};
use crate::error::Error;

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
    pub places: Places,
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

/// How long after its last line a container's code may take to be known.
const CODE_COMES: std::time::Duration = std::time::Duration::from_secs(20);

/// Prints a container's lines, and with what code it has ended; its title when that was said.
async fn lines_and_end(
    client: &Client,
    api: Api<Pod>,
    c: Container,
    options: &Follow,
    prefix: String,
) -> Option<String> {
    let (id, pod) = (c.id(), c.pod_name());
    let title = title(&c);
    lines(client, &api, &c, options, true, &prefix).await;
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
pub(super) fn title(c: &Container) -> String {
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
            reading.push(lines_and_end(
                &target.client,
                api.clone(),
                c.clone(),
                options,
                prefix,
            ));
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
        places: Places::One,
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
        lines(&target.client, &api, &c, &options, a.follow, &prefix).await;
    }
    Ok(0)
}
