//! What containers use, and which processes are in them.

use crate::{
    containers::Entry,
    daemon::Daemon,
    error::{Fault, Result, blocking},
    events::tokio_stream,
    http::{self, Answer, Ask, messages},
    lifecycle,
    machine::Usage,
    state::NEVER,
};
use serde_json::{Map, Value, json};
use std::{collections::HashSet, process::Stdio, sync::Arc, time::Duration};

/// SOURCE: moby `daemon/stats/collector.go`
const EVERY: Duration = Duration::from_secs(1);
/// How long `ps` may take.
const PS: Duration = Duration::from_secs(10);

/// Nanoseconds that all CPUs of the machine were busy or not.
fn system_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    // SOURCE: moby `daemon/stats_unix.go` getSystemCPUUsage: the first seven columns; ticks are hundredths
    let ticks: u64 = first
        .split_whitespace()
        .skip(1)
        .take(7)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    ticks * 10_000_000
}

fn memory_of_machine() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kb = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kb.unwrap_or(0) << 10
}

fn cpu(usage: &Usage, system: u64) -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    json!({
        "cpu_usage": { "total_usage": usage.cpu_nanos, "usage_in_kernelmode": 0, "usage_in_usermode": usage.cpu_nanos },
        "system_cpu_usage": system,
        "online_cpus": cpus,
        "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
    })
}

/// A sample with the one before it.
fn sample(
    entry: &Entry,
    now: Option<(&Usage, u64)>,
    before: Option<&(Usage, u64, String)>,
) -> Value {
    let read = jiff::Timestamp::now().to_string();
    let mut value = json!({
        "name": format!("/{}", entry.record.name),
        "id": entry.record.id,
        "read": if now.is_some() { read.as_str() } else { NEVER },
        "preread": before.map_or(NEVER, |(.., at)| at.as_str()),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": {},
        "blkio_stats": { "io_service_bytes_recursive": null },
        "cpu_stats": { "cpu_usage": { "total_usage": 0 }, "throttling_data": {} },
        "precpu_stats": { "cpu_usage": { "total_usage": 0 }, "throttling_data": {} },
        "memory_stats": {},
    });
    if let Some((usage, system, _)) = before {
        value["precpu_stats"] = cpu(usage, *system);
    }
    let Some((usage, system)) = now else {
        return value;
    };
    let limit = match usage.memory_limit_bytes {
        0 => memory_of_machine(),
        limit => limit.min(memory_of_machine()),
    };
    value["cpu_stats"] = cpu(usage, system);
    value["pids_stats"] = json!({ "current": usage.pids });
    // both names: of cgroup v1 and v2
    let file = usage.inactive_file_bytes;
    value["memory_stats"] = json!({
        "usage": usage.memory_bytes,
        "limit": limit,
        "stats": { "inactive_file": file, "total_inactive_file": file },
    });
    value["blkio_stats"] = json!({ "io_service_bytes_recursive": [
        { "major": 0, "minor": 0, "op": "read", "value": usage.read_bytes },
        { "major": 0, "minor": 0, "op": "write", "value": usage.write_bytes },
    ] });
    let mut networks = Map::new();
    for (name, n) in &usage.networks {
        networks.insert(
            name.clone(),
            json!({
                "rx_bytes": n[0], "rx_packets": n[1], "rx_errors": n[2], "rx_dropped": n[3],
                "tx_bytes": n[4], "tx_packets": n[5], "tx_errors": n[6], "tx_dropped": n[7],
            }),
        );
    }
    value["networks"] = Value::Object(networks);
    value
}

async fn measure(daemon: &Arc<Daemon>, entry: &Entry) -> Option<(Usage, u64)> {
    let (daemon, pod) = (daemon.clone(), daemon.pod_name(entry));
    let measured = blocking(move || Ok(daemon.machine.usage(&pod).map(|u| (u, system_nanos()))));
    measured.await.ok().flatten()
}

/// `GET /containers/{id}/stats`
pub async fn stats(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    let stream = ask.query.get("stream").is_none() || ask.query.flag("stream");
    let one_shot = ask.query.flag("one-shot");
    if stream && one_shot {
        return Err(Fault::bad("cannot have stream=true and one-shot=true"));
    }
    let daemon = daemon.clone();
    let id = entry.record.id.clone();
    let (send, receive) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut before: Option<(Usage, u64, String)> = None;
        let mut first = !one_shot && !stream;
        while let Some(entry) = daemon.containers.get(&id) {
            let now = measure(&daemon, &entry).await;
            let value = sample(&entry, now.as_ref().map(|(u, s)| (u, *s)), before.as_ref());
            let stopped = now.is_none();
            before = now.map(|(u, s)| (u, s, jiff::Timestamp::now().to_string()));
            // a single sample is told with the one before it
            if first && !stopped {
                first = false;
            } else if send.send(value).await.is_err() || !stream {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = send.closed() => return,
            }
        }
    });
    Ok(messages(tokio_stream(receive)))
}

/// `GET /containers/{id}/top`: the machine's `ps`, of it the container's processes.
///
/// SOURCE: moby `daemon/top_unix.go`
pub async fn top(daemon: &Arc<Daemon>, reference: &str, ask: Ask) -> Result<Answer> {
    let entry = daemon.containers.find(reference)?;
    if !lifecycle::active(entry.state().status) {
        return Err(Fault::conflict(format!(
            "container {} is not running",
            entry.record.id
        )));
    }
    let arguments = ask.query.get("ps_args").unwrap_or("-ef").to_string();
    let fine = |c: char| c.is_ascii_alphanumeric() || " -_,=%+:".contains(c);
    if !arguments.chars().all(fine) {
        return Err(Fault::bad(format!(
            "ps arguments may be letters, digits and '-_,=%+:': {arguments:?}"
        )));
    }
    let (worker, pod) = (daemon.clone(), daemon.pod_name(&entry));
    let mine = blocking(move || {
        Ok(worker
            .machine
            .processes(&pod)
            .into_iter()
            .collect::<HashSet<i32>>())
    })
    .await?;
    let ps = tokio::process::Command::new("ps")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PS, ps)
        .await
        .map_err(|_| Fault::server("ps did not end in time"))?;
    let output = output.map_err(|e| {
        Fault::server(format!(
            "ps can't be run: {e}: install it on the machine (procps)"
        ))
    })?;
    if !output.status.success() {
        return Err(Fault::server(format!(
            "error running ps: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    let (titles, rows) = parse(&String::from_utf8_lossy(&output.stdout), &mine)?;
    daemon.tell("top", &entry, &[]);
    Ok(http::json(&json!({ "Titles": titles, "Processes": rows })))
}

/// The lines of these processes; the last column may have spaces.
fn parse(text: &str, mine: &HashSet<i32>) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_string)
        .collect();
    let pid_at = titles
        .iter()
        .position(|t| t == "PID")
        .ok_or_else(|| Fault::server("Couldn't find PID field in ps output"))?;
    let mut rows = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let pid = fields.get(pid_at).and_then(|p| p.parse::<i32>().ok());
        if !pid.is_some_and(|p| mine.contains(&p)) || fields.len() < titles.len() {
            continue;
        }
        let (head, tail) = fields.split_at(titles.len() - 1);
        let mut row: Vec<String> = head.iter().map(|f| f.to_string()).collect();
        row.push(tail.join(" "));
        rows.push(row);
    }
    Ok((titles, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_told() {
        let text = "UID PID CMD\nroot 1 init\nroot 12 sleep 1 2\nnobody 13 x\n";
        let (titles, rows) = parse(text, &HashSet::from([12])).unwrap();
        assert_eq!(titles, ["UID", "PID", "CMD"]);
        assert_eq!(rows, [["root", "12", "sleep 1 2"]]);
        assert!(parse("UID CMD\n", &HashSet::new()).is_err());
    }
}
