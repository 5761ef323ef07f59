//! What containers do while one looks: `events`, `stats`, `wait`.

use super::{
    Asked,
    containers::{State, containers},
    lists,
    logs::{time, title},
};
use crate::error::Error;
use clap::Args;
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Event, Pod},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use std::io::IsTerminal;

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
