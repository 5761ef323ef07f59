//! Whether a container is well: its `HEALTHCHECK`, asked by a process of its own that ends when the container does.
//!
//! SOURCE: moby `daemon/health.go`.

use super::{
    life::{self, inner_id},
    record::{self, Home, Record},
    show,
};
use crate::error::{Error, io};
use clap::Args;
use knarr_docker::Health;
use knarr_image::Healthcheck;
use knarr_runtime::{ExecSpec, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Stdio,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::oneshot,
    time::Instant,
};

/// As many results are shown, and as much of each one's output.
const RESULTS_MAX: usize = 5;
const OUTPUT_MAX: u64 = 4096;
const START_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Args, Clone, Default)]
pub struct HealthOptions {
    /// A command, run by the shell inside, that tells by its exit code whether the container is well
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Between two times that it is asked, e.g. 30s
    #[arg(long, value_parser = nanoseconds, value_name = "DURATION")]
    health_interval: Option<i64>,
    /// How long it may take to answer
    #[arg(long, value_parser = nanoseconds, value_name = "DURATION")]
    health_timeout: Option<i64>,
    /// So many failures one after the other make it unhealthy
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16))]
    health_retries: Option<u16>,
    /// For how long failures don't count, at first
    #[arg(long, value_parser = nanoseconds, value_name = "DURATION")]
    health_start_period: Option<i64>,
    /// Between two times that it is asked, at first
    #[arg(long, value_parser = nanoseconds, value_name = "DURATION")]
    health_start_interval: Option<i64>,
    /// Don't ask, whatever the image says
    #[arg(long)]
    no_healthcheck: bool,
}

/// As Go writes durations, `1m30s`.
fn nanoseconds(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid duration {text:?}: expected e.g. 1m30s");
    let signed: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
    let nanoseconds = i64::try_from(signed.as_nanos()).map_err(|_| bad())?;
    match nanoseconds {
        0 | 1_000_000.. => Ok(nanoseconds),
        _ => Err("cannot be less than 1ms".into()),
    }
}

impl HealthOptions {
    /// What is to be asked; None: nothing.
    ///
    /// # Errors
    /// When it doesn't go together.
    pub fn over(&self, image: Option<&Healthcheck>) -> Result<Option<Health>, String> {
        let mine = Health {
            test: self
                .health_cmd
                .iter()
                .flat_map(|c| ["CMD-SHELL".to_string(), c.clone()])
                .collect(),
            interval: self.health_interval.unwrap_or(0),
            timeout: self.health_timeout.unwrap_or(0),
            retries: self.health_retries.unwrap_or(0).into(),
            start_period: self.health_start_period.unwrap_or(0),
            start_interval: self.health_start_interval.unwrap_or(0),
        };
        if self.no_healthcheck {
            return match mine == Health::default() {
                true => Ok(None),
                false => Err("--no-healthcheck conflicts with --health-* options".into()),
            };
        }
        let image = image.map(|image| Health {
            test: image.test.clone(),
            interval: image.interval_ns,
            timeout: image.timeout_ns,
            retries: image.retries,
            start_period: image.start_period_ns,
            start_interval: image.start_interval_ns,
        });
        let whole = mine.over(image);
        Ok(whole.command(&[]).is_some().then_some(whole))
    }
}

/// What is known of it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    status: Status,
    /// Failures one after the other.
    streak: i64,
    log: Vec<Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    start: SystemTime,
    end: SystemTime,
    /// -1: it did not answer in time.
    code: i32,
    output: String,
}

impl Default for Told {
    fn default() -> Told {
        Told {
            status: Status::Starting,
            streak: 0,
            log: vec![],
        }
    }
}

impl Told {
    /// `forgiven`: it has only just been started.
    fn take(&mut self, asked: Asked, retries: i64, forgiven: bool) {
        match asked.code {
            0 => (self.status, self.streak) = (Status::Healthy, 0),
            _ if forgiven && self.status == Status::Starting => {}
            _ => {
                self.streak += 1;
                if self.streak >= retries {
                    self.status = Status::Unhealthy;
                }
            }
        }
        self.log.push(asked);
        let over = self.log.len().saturating_sub(RESULTS_MAX);
        self.log.drain(..over);
    }
}

fn path(home: &Home, id: &str) -> PathBuf {
    home.container(id).join("health.json")
}

fn told(home: &Home, record: &Record) -> Option<Told> {
    record.health.as_ref()?;
    Some(record::read(&path(home, &record.id)).unwrap_or_default())
}

/// As `docker ps` puts it behind the state.
pub fn in_words(home: &Home, record: &Record) -> &'static str {
    match told(home, record).map(|told| told.status) {
        None => "",
        Some(Status::Starting) => " (health: starting)",
        Some(Status::Healthy) => " (healthy)",
        Some(Status::Unhealthy) => " (unhealthy)",
    }
}

/// As `docker inspect` shows it: `State.Health`.
pub fn shown(home: &Home, record: &Record) -> Value {
    let Some(told) = told(home, record) else {
        return Value::Null;
    };
    let time =
        |at: SystemTime| jiff::Timestamp::try_from(at).map_or(String::new(), |t| t.to_string());
    let log = told.log.iter().map(|asked| {
        json!({
            "Start": time(asked.start), "End": time(asked.end), "ExitCode": asked.code, "Output": asked.output,
        })
    });
    let log: Vec<Value> = log.collect();
    json!({ "Status": told.status, "FailingStreak": told.streak, "Log": log })
}

/// The container has just been started: whether it's well is unknown, and somebody is to ask.
pub fn begin(home: &Home, record: &Record) -> Result<(), Error> {
    if record.health.is_none() {
        return Ok(());
    }
    record::write(&path(home, &record.id), &Told::default())?;
    let exe = std::env::current_exe().map_err(io("this program's own path"))?;
    std::process::Command::new(exe)
        .arg("--data-dir")
        .arg(&home.data)
        .args(["container", "health", &record.id])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map(drop)
        .map_err(io("starting the health check"))
}

/// `knarr container health`: asks until the container has ended.
pub async fn watch(home: &Home, id: &str) -> Result<(), Error> {
    let Some(record) = home.load(id) else {
        return Ok(());
    };
    let (Some(health), State::Running { pid, .. }) =
        (record.health.clone(), show::state(home, &record))
    else {
        return Ok(());
    };
    let Some(command) = health.command(&[]) else {
        return Ok(());
    };
    let Some(end) = end_of(pid) else {
        return Ok(());
    };
    // that it's still the one whose number that was
    if !matches!(show::state(home, &record), State::Running { pid: now, .. } if now == pid) {
        return Ok(());
    }
    let asking = ask_on(home, &record, &health, &command);
    tokio::select! {
        _ = end => Ok(()),
        done = asking => done,
    }
}

/// Told when the process has ended.
fn end_of(pid: i32) -> Option<oneshot::Receiver<()>> {
    use rustix::{
        event::{PollFd, PollFlags, poll},
        process::{Pid, PidfdFlags, pidfd_open},
    };
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let (ended, told) = oneshot::channel();
    // this process ends with what the thread waits for
    std::thread::spawn(move || {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
        let _ = ended.send(());
    });
    Some(told)
}

async fn ask_on(
    home: &Home,
    record: &Record,
    health: &Health,
    command: &[String],
) -> Result<(), Error> {
    let time = |nanoseconds: i64| Duration::from_nanos(nanoseconds.max(0).unsigned_abs());
    let period = time(health.start_period);
    let often = match health.start_interval {
        0 => START_INTERVAL,
        set => time(set),
    };
    let begun = Instant::now();
    let mut told = Told::default();
    loop {
        let young = begun.elapsed() < period && told.status == Status::Starting;
        let pause = match young {
            true => often,
            false => time(health.interval()),
        };
        tokio::time::sleep(pause).await;
        // one that is paused can't answer
        if home.load(&record.id).is_some_and(|now| now.paused) {
            continue;
        }
        let asked = ask(home, record, command, time(health.timeout())).await?;
        told.take(asked, health.retries(), begun.elapsed() < period);
        record::write(&path(home, &record.id), &told)?;
    }
}

async fn ask(
    home: &Home,
    record: &Record,
    command: &[String],
    patience: Duration,
) -> Result<Asked, Error> {
    let start = SystemTime::now();
    let runtime = life::open(home, record).await?;
    let spec = ExecSpec {
        args: command.to_vec(),
        ..ExecSpec::default()
    };
    let started = runtime.exec(&inner_id(record), spec).await;
    drop(runtime);
    let (code, output) = match started {
        Err(
            error @ (knarr_runtime::Error::NotRunning(_) | knarr_runtime::Error::NoContainer(_)),
        ) => {
            return Err(life::failed(error));
        }
        Err(error) => (1, error.to_string()),
        Ok(mut process) => {
            let (out, err) = (process.stdout.take(), process.stderr.take());
            let whole = async {
                let (mut out, err) = tokio::join!(some(out), some(err));
                out.push_str(&err);
                (process.wait().await, out)
            };
            let done = tokio::time::timeout(patience, whole).await;
            // with its handle goes what doesn't answer
            done.unwrap_or_else(|_| (-1, format!("Health check exceeded timeout ({patience:?})")))
        }
    };
    Ok(Asked {
        start,
        end: SystemTime::now(),
        code,
        output,
    })
}

/// The beginning of what it says; the rest is read and dropped.
async fn some(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let _ = (&mut from).take(OUTPUT_MAX).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_make_a_state() {
        use Status::{Healthy, Starting, Unhealthy};
        let check = |codes: &[(i32, bool)], status: Status, streak: i64| {
            let mut told = Told::default();
            for (code, forgiven) in codes {
                let at = SystemTime::UNIX_EPOCH;
                let asked = Asked {
                    start: at,
                    end: at,
                    code: *code,
                    output: String::new(),
                };
                told.take(asked, 3, *forgiven);
            }
            assert_eq!((told.status, told.streak), (status, streak), "{codes:?}");
            assert_eq!(told.log.len(), codes.len().min(RESULTS_MAX));
        };
        check(&[], Starting, 0);
        check(&[(1, false), (1, false)], Starting, 2);
        check(&[(1, false), (-1, false), (2, false)], Unhealthy, 3);
        check(&[(1, true), (1, true), (1, true), (1, true)], Starting, 0);
        check(&[(0, true), (1, true), (1, true), (1, true)], Unhealthy, 3);
        check(
            &[(1, false), (1, false), (1, false), (0, false)],
            Healthy,
            0,
        );
        check(
            &[
                (0, false),
                (1, false),
                (0, false),
                (1, false),
                (1, false),
                (0, false),
            ],
            Healthy,
            0,
        );
    }

    #[test]
    fn options_go_over_the_images() {
        let image = Healthcheck {
            test: vec!["CMD".into(), "well".into()],
            interval_ns: 7_000_000_000,
            ..Healthcheck::default()
        };
        let mine = HealthOptions {
            health_timeout: Some(nanoseconds("1m30s").unwrap()),
            ..HealthOptions::default()
        };
        let whole = mine.over(Some(&image)).unwrap().unwrap();
        assert_eq!(whole.command(&[]).unwrap(), ["well"]);
        assert_eq!(
            (whole.interval, whole.timeout),
            (7_000_000_000, 90_000_000_000)
        );
        assert_eq!(mine.over(None), Ok(None));
        let none = HealthOptions {
            no_healthcheck: true,
            ..HealthOptions::default()
        };
        assert_eq!(none.over(Some(&image)), Ok(None));
        let both = HealthOptions {
            no_healthcheck: true,
            ..mine
        };
        assert!(both.over(Some(&image)).is_err());
        assert!(
            nanoseconds("1us").is_err() && nanoseconds("x").is_err() && nanoseconds("-1s").is_err()
        );
    }
}
