//! Port-forward and logs: how fast they are beside what they stand for.
//!
//! `cargo bench -p knarr --bench streams` as root, with nginx and kubectl (`KNARR_KUBECTL`); socat has a row when it is here.
//! `KNARR_BENCH_ROUNDS` changes the five.
//!
//! Port-forward: 512 MB of an nginx in a Pod, and small answers each on a connection of its own, by `kubectl port-forward`
//! (its own copying is in it), by the API's WebSocket, by socat, and directly. Logs: 100 MB that a container wrote, in
//! lines of 100 bytes, by the API and by `kubectl logs`, beside `cat` of the file, each through a pipe or socket into the
//! same reader.

mod common;

use common::{
    Platform, Result,
    figures::{Better, Figures},
    isolated,
    ready::Pods,
    setting, web,
};
use futures::AsyncReadExt as _;
use kube::api::LogParams;
use serde_json::json;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Requests on connections of their own, for the latency.
const SMALL: usize = 50;
/// Lines of the log, and the bytes of each.
const LINES: usize = 1_000_000;
const LINE: usize = 100;

fn main() -> Result<()> {
    isolated(bench())
}

async fn bench() -> Result<()> {
    let rounds = setting("KNARR_BENCH_ROUNDS", 5)?;
    let dir = tempfile::tempdir()?;
    // the whole log in one file
    let settings = dir.path().join("kubelet.yaml");
    fs::write(
        &settings,
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncontainerLogMaxSize: 1Gi\n",
    )?;
    let settings = settings.display().to_string();
    let platform = Platform::start_with(&["--kubelet-config", &settings])?;
    platform.pack_busybox()?;
    web::pack(&platform)?;
    let pods = Pods::new(platform.client().await?);
    forwards(&platform, &pods, rounds).await?;
    logs(&platform, &pods, rounds).await
}

async fn forwards(platform: &Platform, pods: &Pods, rounds: u64) -> Result<()> {
    let direct = format!("{}:{}", web::start(platform, pods).await?, web::PORT);
    web::until_there(&direct)?;
    let kubectl = kubectl_forward(platform);
    let socat = socat(&direct);
    let mut large = Figures::new("port-forward: 512 MB", "MB/s", Better::More);
    let mut small = Figures::times("port-forward: a connection and a small answer");
    for round in 0..=rounds {
        for (name, forward) in [
            ("kubectl port-forward", &kubectl),
            ("socat", &socat),
            ("directly", &Ok(Forward::to(&direct))),
        ] {
            let at = || match forward {
                Ok(forward) => Ok(forward.at.clone()),
                Err(e) => Err(e.to_string()),
            };
            large.attempt(name, || web::download(&at()?, "/large"));
            for _ in 0..SMALL {
                small.attempt(name, || {
                    let begin = Instant::now();
                    web::request(&at()?, "/small")?;
                    Ok(common::ms(begin.elapsed()))
                });
            }
        }
        large.add("the API, over a WebSocket", over_api(pods).await?);
        if round == 0 {
            // that warmed
            large.forget();
            small.forget();
        }
    }
    large.print();
    small.print();
    pods.end("web").await
}

/// Something that listens and passes connections on.
struct Forward {
    at: String,
    process: Option<Child>,
}

impl Forward {
    fn to(at: &str) -> Forward {
        Forward {
            at: at.into(),
            process: None,
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn kubectl(platform: &Platform) -> Command {
    let program = std::env::var_os("KNARR_KUBECTL").unwrap_or_else(|| "kubectl".into());
    let mut command = Command::new(program);
    command
        .arg("--kubeconfig")
        .arg(platform.data.path().join("kubeconfig"));
    command
}

fn kubectl_forward(platform: &Platform) -> Result<Forward> {
    let mut process = kubectl(platform)
        .args(["port-forward", "--address=127.0.0.1", "pod/web"])
        .arg(format!(":{}", web::PORT))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("kubectl (KNARR_KUBECTL): {e}"))?;
    let mut out = BufReader::new(process.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    // "Forwarding from 127.0.0.1:PORT -> 8080"; it goes on to tell of each connection
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let at = line.split(' ').nth(2).unwrap_or_default().to_owned();
    let forward = Forward {
        at,
        process: Some(process),
    };
    web::until_there(&forward.at)?;
    Ok(forward)
}

fn socat(to: &str) -> Result<Forward> {
    // this network is the benchmark's own
    let at = "127.0.0.1:18080";
    let process = Command::new("socat")
        .args([
            "-b",
            "262144",
            "TCP-LISTEN:18080,bind=127.0.0.1,reuseaddr,fork",
        ])
        .arg(format!("TCP:{to}"))
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("socat: {e}"))?;
    let forward = Forward {
        at: at.into(),
        process: Some(process),
    };
    web::until_there(at)?;
    Ok(forward)
}

/// The large answer by a port-forward session without kubectl.
async fn over_api(pods: &Pods) -> Result<f64> {
    let begin = Instant::now();
    let mut session = pods.api.portforward("web", &[web::PORT]).await?;
    let mut stream = session.take_stream(web::PORT).ok_or("no stream")?;
    stream
        .write_all(b"GET /large HTTP/1.0\r\nHost: web\r\n\r\n")
        .await?;
    let mut buf = vec![0u8; 1 << 20];
    let mut total = 0;
    while total < web::LARGE {
        match stream.read(&mut buf).await? {
            0 => return Err(format!("only {total} bytes came").into()),
            n => total += n,
        }
    }
    drop(stream);
    session.abort();
    Ok(total as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

async fn logs(platform: &Platform, pods: &Pods, rounds: u64) -> Result<()> {
    let line = "x".repeat(LINE - 1);
    let script = format!(
        "/bin/busybox yes {line} | /bin/busybox head -n {LINES}; exec /bin/busybox sleep 1000000"
    );
    let mut spec = common::ready::sleeping();
    spec["containers"][0]["command"] = json!(["/bin/busybox", "sh", "-c", script]);
    pods.start("talker", spec).await?;
    let bytes = (LINES * LINE) as u64;
    let params = LogParams::default();
    let begin = Instant::now();
    while read_log(pods, &params).await?.0 < bytes {
        if begin.elapsed() > Duration::from_secs(120) {
            return Err("the log isn't whole after two minutes".into());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let file = largest(&platform.data.path().join("logs"))
        .or_else(|| largest(Path::new("/var/log/pods")))
        .or_else(|| largest(platform.data.path()))
        .ok_or("the log's file isn't found")?;
    let size = fs::metadata(&file)?.len();
    let mut figures = Figures::new("log of 100 MB", "MB/s", Better::More);
    for round in 0..=rounds {
        let (read, took) = read_log(pods, &params).await?;
        figures.add("the API", read as f64 / 1e6 / took.as_secs_f64());
        figures.attempt("kubectl logs", || {
            let mut command = kubectl(platform);
            command.args(["logs", "talker"]);
            Ok(bytes as f64 / 1e6 / piped(command, bytes)?.as_secs_f64())
        });
        figures.attempt("cat of the file (with its times and tags)", || {
            let mut command = Command::new("cat");
            command.arg(&file);
            Ok(size as f64 / 1e6 / piped(command, size)?.as_secs_f64())
        });
        if round == 0 {
            figures.forget();
        }
    }
    println!(
        "\nthe log's file has {:.0} MB for {:.0} MB of lines",
        size as f64 / 1e6,
        bytes as f64 / 1e6
    );
    figures.print();
    pods.end("talker").await
}

/// Bytes of the log, and how long they took.
async fn read_log(pods: &Pods, params: &LogParams) -> Result<(u64, Duration)> {
    let begin = Instant::now();
    let stream = pods.api.log_stream("talker", params).await?;
    let mut stream = std::pin::pin!(stream);
    let mut buf = vec![0u8; 1 << 20];
    let mut total = 0;
    loop {
        match stream.read(&mut buf).await? {
            0 => return Ok((total, begin.elapsed())),
            n => total += n as u64,
        }
    }
}

/// How long a command takes to say so many bytes into a pipe.
fn piped(mut command: Command, bytes: u64) -> Result<Duration> {
    let begin = Instant::now();
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut out = process.stdout.take().ok_or("no output")?;
    let mut buf = vec![0u8; 1 << 20];
    let mut total = 0;
    loop {
        match out.read(&mut buf)? {
            0 => break,
            n => total += n as u64,
        }
    }
    process.wait()?;
    match total >= bytes {
        true => Ok(begin.elapsed()),
        false => Err(format!("it said {total} of {bytes} bytes").into()),
    }
}

/// The largest `*.log` below a folder: the talker's.
fn largest(folder: &Path) -> Option<PathBuf> {
    let mut open = vec![folder.to_owned()];
    let mut best: Option<(u64, PathBuf)> = None;
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else {
                continue;
            };
            if meta.is_dir() {
                open.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "log")
                && meta.len() > best.as_ref().map_or((LINES * LINE) as u64, |b| b.0)
            {
                best = Some((meta.len(), entry.path()));
            }
        }
    }
    best.map(|(_, path)| path)
}
