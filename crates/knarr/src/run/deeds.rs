//! What else is done with a stand-alone container: named anew, paused, measured, limited, made an image.

use super::{
    life::{self, inner_id},
    options::{self, Port, bytes},
    record::{Home, Record},
    show,
};
use crate::{
    error::{Error, io},
    listing::Shape,
};
use clap::Args;
use knarr_docker::bytes_size;
use knarr_image::ImageStore;
use knarr_runtime::{Resources, State, Usage, User};
use serde_json::json;
use std::{path::Path, process::Stdio, time::Duration};

fn running(home: &Home, record: &Record) -> Result<i32, Error> {
    match show::state(home, record) {
        State::Running { pid, .. } => Ok(pid),
        _ => Err(Error::Failed(format!(
            "container {} is not running",
            record.name
        ))),
    }
}

/// A user of a running container, by its own accounts.
pub fn user_inside(home: &Home, record: &Record, user: &str) -> Result<User, Error> {
    crate::docker::user(running(home, record)?, user).map_err(Error::Failed)
}

/// `exec -d`: the command once more, with these words, by a process of its own that waits for it.
pub fn in_background(home: &Home, record: &Record, words: &[String]) -> Result<u8, Error> {
    use std::os::unix::process::CommandExt;
    running(home, record)?;
    let exe = std::env::current_exe().map_err(io("this program's own path"))?;
    let mut command = std::process::Command::new(exe);
    command
        .arg("--data-dir")
        .arg(&home.data)
        .args(["container", "exec"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command.spawn().map_err(io("starting the command"))?;
    Ok(0)
}

/// `rename`
pub fn rename(home: &Home, name: &str, new: &str) -> Result<u8, Error> {
    let _lock = home.lock()?;
    let mut record = home.find(name)?;
    super::claim::check_name(new)?;
    if let Some(other) = home.all().iter().find(|r| r.name == new) {
        return Err(Error::Failed(format!(
            "Error when allocating new name: Conflict. The container name \"/{new}\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
            other.id
        )));
    }
    record.name = new.to_string();
    home.save(&record)?;
    Ok(0)
}

/// `pause`, `unpause`
pub async fn pause(home: &Home, name: &str, frozen: bool) -> Result<(), Error> {
    let mut record = home.find(name)?;
    running(home, &record)?;
    if record.paused == frozen {
        let told = if frozen { "already" } else { "not" };
        return Err(Error::Failed(format!(
            "Container {} is {told} paused",
            record.id
        )));
    }
    let runtime = life::open(home, &record).await?;
    runtime
        .freeze(&inner_id(&record), frozen)
        .map_err(life::failed)?;
    record.paused = frozen;
    home.save(&record)
}

/// In a second, in what the kernel tells of processes (`USER_HZ`).
const TICKS: u64 = 100;

/// `top`: as `ps -ef` tells it.
pub async fn top(home: &Home, name: &str, options: &[String]) -> Result<u8, Error> {
    let record = home.find(name)?;
    running(home, &record)?;
    let runtime = life::open(home, &record).await?;
    let group = runtime.cgroup(&inner_id(&record)).map_err(life::failed)?;
    let pids = runtime.processes(&group);
    drop(runtime);
    if !options.is_empty() {
        return chosen(&pids, options);
    }
    println!("{:<8} {:<8} {:<8} {:<10} CMD", "UID", "PID", "PPID", "TIME");
    for pid in pids {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
        // it may just have ended
        let (Ok(stat), Ok(status), Ok(line)) = (read("stat"), read("status"), read("cmdline"))
        else {
            continue;
        };
        let of = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key));
            line.and_then(|l| l.split_whitespace().next())
                .unwrap_or("?")
                .to_string()
        };
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|f| f.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let seconds = (ticks(11) + ticks(12)) / TICKS;
        let time = format!(
            "{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        let shown = match line.is_empty() {
            true => format!("[{}]", of("Name:")),
            false => line.trim_end_matches('\0').replace('\0', " "),
        };
        println!(
            "{:<8} {pid:<8} {:<8} {time:<10} {shown}",
            of("Uid:"),
            of("PPid:")
        );
    }
    Ok(0)
}

/// `top NAME -o pid,comm`: what the machine's `ps` says of the container's processes. SOURCE: moby `daemon/top_unix.go`
fn chosen(pids: &[i32], options: &[String]) -> Result<u8, Error> {
    let output = std::process::Command::new("ps").args(options).output();
    let output = output.map_err(io("ps"))?;
    let told = String::from_utf8_lossy(&output.stdout);
    let mut lines = told.lines();
    let heads = lines.next().unwrap_or_default();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Failed(format!("ps: {}", why.trim())));
    }
    let at = heads.split_whitespace().position(|head| head == "PID");
    let at = at.ok_or_else(|| Error::Input("Couldn't find PID field in ps output".into()))?;
    println!("{heads}");
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(at)
            .and_then(|word| word.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            println!("{line}");
        }
    }
    Ok(0)
}

#[derive(Args)]
pub struct StatsArguments {
    /// Once, and not again and again
    #[arg(long)]
    no_stream: bool,
    /// Also those that have ended, which use nothing
    #[arg(short, long)]
    all: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// A template like {{.Name}}, `table …` or `json`
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Default: all that run
    names: Vec<String>,
}

const STATS: Shape = Shape {
    heads: &[
        ("ID", "CONTAINER ID"),
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("PIDs", "PIDS"),
    ],
    shown: &["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "PIDs"],
};

async fn usage(home: &Home, record: &Record) -> Option<Usage> {
    let runtime = life::open(home, record).await.ok()?;
    let group = runtime.cgroup(&inner_id(record)).ok()?;
    runtime.usage(&group).ok()
}

/// `stats`: a second lies between the two looks that CPU is reckoned from.
pub async fn stats(home: &Home, arguments: &StatsArguments) -> Result<u8, Error> {
    const BETWEEN: Duration = Duration::from_secs(1);
    loop {
        let records: Vec<Record> = match arguments.names.is_empty() {
            true => home.all(),
            false => (arguments.names.iter())
                .map(|name| home.find(name))
                .collect::<Result<_, _>>()?,
        };
        let mut before = Vec::new();
        for record in records {
            if running(home, &record).is_ok()
                && let Some(usage) = usage(home, &record).await
            {
                before.push((record, usage, std::time::Instant::now()));
            }
        }
        tokio::time::sleep(BETWEEN).await;
        let mut rows = Vec::new();
        for (record, first, at) in before {
            let Some(now) = usage(home, &record).await else {
                continue;
            };
            let passed = at.elapsed().as_nanos().max(1) as f64;
            let cpu = now.cpu.total_ns.saturating_sub(first.cpu.total_ns) as f64 / passed * 100.0;
            // as Docker counts: what could be dropped at once isn't used
            let used = now
                .memory
                .usage_bytes
                .saturating_sub(now.memory.inactive_file_bytes);
            let limit = now.memory.limit_bytes.unwrap_or_else(machine_bytes).max(1);
            rows.push(json!({
                "ID": if arguments.no_trunc { record.id.as_str() } else { record.short() },
                "Container": record.name,
                "Name": record.name,
                "CPUPerc": format!("{cpu:.2}%"),
                "MemUsage": format!("{} / {}", bytes_size(used), bytes_size(limit)),
                "MemPerc": format!("{:.2}%", used as f64 / limit as f64 * 100.0),
                "PIDs": now.pids.current.to_string(),
            }));
        }
        STATS.print(&rows, arguments.format.as_deref())?;
        if arguments.no_stream {
            return Ok(0);
        }
    }
}

fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit.max(1))
}

/// `port`
pub fn port(home: &Home, name: &str, asked: Option<&str>) -> Result<u8, Error> {
    let record = home.find(name)?;
    if let Some(asked) = asked {
        let wanted = options::ports(asked).map_err(Error::Input)?;
        let wanted = wanted
            .first()
            .ok_or_else(|| Error::Input("a port is needed".into()))?;
        let same = |p: &&Port| (p.container, &p.protocol) == (wanted.container, &wanted.protocol);
        let found: Vec<&Port> = match running(home, &record) {
            Ok(_) => record.ports.iter().filter(same).collect(),
            Err(_) => Vec::new(),
        };
        if found.is_empty() {
            return Err(Error::Failed(format!(
                "No public port '{asked}' published for {name}"
            )));
        }
        for port in found {
            let ip = port.ip.map_or("0.0.0.0".into(), |ip| ip.to_string());
            println!("{ip}:{}", port.host);
        }
        return Ok(0);
    }
    if running(home, &record).is_err() {
        return Ok(0);
    }
    for port in &record.ports {
        let ip = port.ip.map_or("0.0.0.0".into(), |ip| ip.to_string());
        println!("{}/{} -> {ip}:{}", port.container, port.protocol, port.host);
    }
    Ok(0)
}

#[derive(Args)]
pub struct UpdateArguments {
    /// Most memory, e.g. 512m
    #[arg(short, long, value_parser = bytes, value_name = "BYTES")]
    memory: Option<u64>,
    /// Most memory and swap together; -1 = no limit
    #[arg(long, allow_hyphen_values = true, value_name = "BYTES")]
    memory_swap: Option<String>,
    /// How many CPUs, e.g. 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// Share of the CPUs when they are short; 1024 is usual
    #[arg(short, long, value_name = "N")]
    cpu_shares: Option<u64>,
    /// Most processes; -1 = no limit
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pids_limit: Option<i64>,
    /// When to start it again
    #[arg(long, value_name = "POLICY")]
    restart: Option<super::options::Restart>,
    /// Which CPUs it may use, e.g. 0-2,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Which memory nodes it may use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Microseconds of CPU in each --cpu-period
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    cpu_quota: Option<i64>,
    /// In microseconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..=1_000_000))]
    cpu_period: Option<u64>,
    /// What it has when the machine is short of memory
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    memory_reservation: Option<u64>,
    /// Its share of the disks when they are short, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    #[arg(required = true)]
    names: Vec<String>,
}

/// `update`
pub async fn update(home: &Home, arguments: &UpdateArguments) -> Result<u8, Error> {
    const PERIOD_US: u64 = 100_000;
    let swap = match arguments.memory_swap.as_deref() {
        None => None,
        Some("-1") => Some(-1),
        Some(text) => Some(bytes(text).map_err(Error::Input)? as i64),
    };
    if arguments.cpus.is_some() && (arguments.cpu_quota.is_some() || arguments.cpu_period.is_some())
    {
        return Err(Error::Input(
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set.".into(),
        ));
    }
    let cpus_quota = arguments.cpus.map(|cpus| (cpus * PERIOD_US as f64) as i64);
    let weight = arguments.blkio_weight.filter(|weight| *weight != 0);
    if weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
        return Err(Error::Input(
            "Range of blkio weight is from 10 to 1000".into(),
        ));
    }
    let newer = Resources {
        cpu_shares: arguments.cpu_shares,
        cpu_quota_us: arguments.cpu_quota.or(cpus_quota),
        cpu_period_us: arguments.cpu_period.or(arguments.cpus.map(|_| PERIOD_US)),
        cpuset_cpus: arguments.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: arguments.cpuset_mems.clone().unwrap_or_default(),
        memory_soft_bytes: arguments.memory_reservation.map(|bytes| bytes as i64),
        io: knarr_runtime::IoLimits {
            weight,
            ..Default::default()
        },
        memory_limit_bytes: arguments.memory.map(|bytes| bytes as i64),
        memory_swap_bytes: swap.or(arguments.memory.map(|bytes| bytes.saturating_mul(2) as i64)),
        pids_limit: arguments.pids_limit,
        ..Resources::default()
    };
    if newer == Resources::default() && arguments.restart.is_none() {
        return Err(Error::Input(
            "you must provide one or more flags when using this command".into(),
        ));
    }
    for name in &arguments.names {
        let mut record = home.find(name)?;
        if arguments.cpus.is_some() {
            record.said.cpus = arguments.cpus;
        }
        record.resources = record.resources.overlaid(&newer);
        let both = (
            record.resources.memory_limit_bytes,
            record.resources.memory_swap_bytes,
        );
        if let (Some(memory), Some(swap @ 0..)) = both
            && swap < memory
        {
            return Err(Error::Input(
                "memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time".into(),
            ));
        }
        if let Some(restart) = arguments.restart {
            record.restart = restart;
        }
        if running(home, &record).is_ok() {
            let runtime = life::open(home, &record).await?;
            let mut limits = newer.clone();
            // the one is set together with the other
            if limits.memory_swap_bytes.is_some() && limits.memory_limit_bytes.is_none() {
                limits.memory_limit_bytes = record.resources.memory_limit_bytes;
            }
            let done = runtime.update_resources(&inner_id(&record), limits).await;
            done.map_err(life::failed)?;
        }
        home.save(&record)?;
        println!("{name}");
    }
    Ok(0)
}

fn kept(home: &Home, record: &Record) -> Result<std::path::PathBuf, Error> {
    match record.remove {
        false => Ok(home.layer(&record.id).join("upper")),
        true => Err(Error::Failed(format!(
            "{} was made with --rm: what it writes is nowhere else",
            record.name
        ))),
    }
}

/// `diff`
pub fn diff(home: &Home, name: &str) -> Result<u8, Error> {
    let record = home.find(name)?;
    let changes = knarr_docker::changes_of(&kept(home, &record)?, &record.layers);
    for change in changes.map_err(io(record.name.clone()))? {
        let letter = match change["Kind"].as_i64() {
            Some(0) => 'C',
            Some(1) => 'A',
            _ => 'D',
        };
        println!("{letter} {}", change["Path"].as_str().unwrap_or_default());
    }
    Ok(0)
}

#[derive(Args)]
pub struct CommitArguments {
    /// Who made it
    #[arg(short, long, default_value = "")]
    author: String,
    /// What was changed
    #[arg(short, long, default_value = "")]
    message: String,
    /// There for scripts: a container isn't paused for it
    #[arg(short, long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pause: Option<String>,
    /// An instruction of a Dockerfile, e.g. 'ENV A=b'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    name: String,
    /// The image's name
    image: Option<String>,
}

/// `commit`
pub fn commit(home: &Home, arguments: &CommitArguments) -> Result<u8, Error> {
    let record = home.find(&arguments.name)?;
    let images = ImageStore::open(&home.data.join("images"))?;
    let upper = kept(home, &record)?;
    let temp = home.container(&record.id).join("commit");
    let context = temp.display().to_string();
    // of one that was killed in the middle
    let _ = std::fs::remove_dir_all(&temp);
    std::fs::create_dir_all(&temp).map_err(io(&context))?;
    let config = json!({
        "Env": record.env.iter().filter(|v| !v.starts_with("HOSTNAME=")).collect::<Vec<_>>(),
        "Cmd": record.args, "Labels": record.labels, "WorkingDir": record.cwd,
    });
    let snapshot = knarr_docker::Snapshot {
        image: &record.image_digest,
        upper: Path::new(&upper),
        config: config.as_object().cloned().unwrap_or_default(),
        changes: &arguments.change,
        author: &arguments.author,
        comment: &arguments.message,
        temp: &temp,
    };
    let made = snapshot.commit(&images, arguments.image.as_deref());
    let _ = std::fs::remove_dir_all(&temp);
    println!("{}", made.map_err(Error::Failed)?);
    Ok(0)
}
