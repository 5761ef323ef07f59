//! The gateway against nginx, before the same backend, in one run; and the backend alone, as the floor.
//!
//! `cargo run --release -p knarr-gateway --example throughput [seconds a turn]`; needs Debian's `wrk`; without
//! `nginx-light` that row is left out. Each side is a process of its own with one thread that carries requests, so the
//! CPU figures are comparable. All on loopback: the machine also runs the load, so only ratios of one run mean much.

use std::{
    error::Error,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, api::PostParams};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CONNECTIONS: &str = "32";
const ROUNDS: usize = 3;
const ANSWER_BYTES: usize = 1024;
/// USER_HZ, which /proc counts CPU time in, is 100 on every Linux that Rust runs on.
const TICKS_A_SECOND: f64 = 100.0;
const START_MAX: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let arguments = arguments.iter().map(String::as_str).collect::<Vec<_>>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match arguments[..] {
        ["backend", port] => runtime.block_on(backend(port.parse()?)),
        ["gateway", port, backend] => runtime.block_on(gateway(port.parse()?, backend.parse()?)),
        [] => compare("5"),
        [seconds] => compare(seconds),
        _ => Err("say nothing, or the seconds of a turn".into()),
    }
}

/// Answers everything with the same text.
async fn backend(port: u16) -> Result<()> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let text = Bytes::from("x".repeat(ANSWER_BYTES));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let text = text.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |_| {
                let response = Response::new(Full::new(text.clone()));
                async { Ok::<_, std::convert::Infallible>(response) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away is not news.
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// The gateway with one published Service; the API server beside it is idle while it serves.
async fn gateway(port: u16, backend: u16) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let api = knarr_api::ApiServer::for_tests_on_loopback(dir.path());
    let client = api.client("admin", &["system:masters"], "throughput");
    let service = serde_json::from_value(
        json!({"metadata":{"name":"web"}, "spec":{"type":"LoadBalancer",
        "allocateLoadBalancerNodePorts":false,"ports":[{"name":"p","port":port,"appProtocol":"http"}]}}),
    )?;
    Api::<Service>::default_namespaced(client.clone())
        .create(&PostParams::default(), &service)
        .await?;
    let slice = serde_json::from_value(json!({"addressType":"IPv4",
        "metadata":{"name":"web-1","labels":{"kubernetes.io/service-name":"web"}},
        "ports":[{"name":"p","port":backend,"protocol":"TCP"}],
        "endpoints":[{"addresses":["127.0.0.1"],"conditions":{"ready":true}}]}))?;
    Api::<EndpointSlice>::default_namespaced(client.clone())
        .create(&PostParams::default(), &slice)
        .await?;
    let loopback = Ipv4Addr::LOCALHOST.into();
    let config = knarr_gateway::Config {
        bind: loopback,
        ingress_http: SocketAddr::new(loopback, 0),
        ingress_https: SocketAddr::new(loopback, 0),
        address: loopback,
        further: Vec::new(),
        neighbour: None,
    };
    knarr_gateway::run(config, client).await;
    Ok(())
}

/// Ends its process with itself.
struct Side {
    name: &'static str,
    port: u16,
    child: Child,
    _dir: Option<tempfile::TempDir>,
}

impl Drop for Side {
    fn drop(&mut self) {
        // SIGTERM, for nginx has a worker to take along.
        let pid = self.child.id().cast_signed();
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

impl Side {
    fn start(
        name: &'static str,
        port: u16,
        command: &mut Command,
        dir: Option<tempfile::TempDir>,
    ) -> Result<Side> {
        let child = command.stdin(Stdio::null()).spawn()?;
        let side = Side {
            name,
            port,
            child,
            _dir: dir,
        };
        let end = Instant::now() + START_MAX;
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > end {
                return Err(format!("{name} did not start within {START_MAX:?}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(side)
    }

    fn nginx(port: u16, backend: u16) -> Result<Side> {
        let dir = tempfile::tempdir()?;
        let at = dir.path().display();
        let file = dir.path().join("nginx.conf");
        let text = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log stderr;
            events {{ worker_connections 1024; }}
            http {{
                access_log off;
                client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c;
                uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;
                keepalive_requests 1000000000;
                upstream web {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 1000000000; }}
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_pass http://web; proxy_http_version 1.1;
                        proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
                        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                        proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
                    }}
                }}
            }}"
        );
        fs::write(&file, text)?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file).arg("-p").arg(dir.path());
        Side::start("nginx", port, &mut command, Some(dir))
    }

    /// CPU seconds of the process and its children.
    fn cpu(&self) -> Result<f64> {
        fn of(pid: u32) -> Result<f64> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // After the name, which may hold spaces: state is field 3, utime 14, stime 15 (proc(5)).
            let rest = stat.rsplit_once(')').ok_or("no name in stat")?.1;
            let ticks = rest
                .split_whitespace()
                .skip(11)
                .take(2)
                .map(str::parse::<f64>);
            let own = ticks.sum::<std::result::Result<f64, _>>()? / TICKS_A_SECOND;
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            children
                .split_whitespace()
                .try_fold(own, |sum, child| Ok(sum + of(child.parse()?)?))
        }
        of(self.child.id())
    }

    fn turn(&self, seconds: &str) -> Result<Figures> {
        let (cpu, start) = (self.cpu()?, Instant::now());
        let url = format!("http://127.0.0.1:{}/", self.port);
        let output = Command::new("wrk")
            .args([
                "-t",
                "1",
                "-c",
                CONNECTIONS,
                "-d",
                &format!("{seconds}s"),
                "--latency",
                &url,
            ])
            .output()
            .map_err(|e| format!("wrk: {e}; apt-get install wrk"))?;
        let (took, cpu) = (start.elapsed().as_secs_f64(), self.cpu()? - cpu);
        let text = String::from_utf8_lossy(&output.stdout);
        for bad in ["Non-2xx", "Socket errors"] {
            if let Some(line) = text.lines().find(|line| line.contains(bad)) {
                return Err(format!("{}: {}", self.name, line.trim()).into());
            }
        }
        let word = |key: &str| {
            let line = text.lines().find(|l| l.trim_start().starts_with(key));
            line.and_then(|l| l.split_whitespace().last())
                .ok_or(format!("wrk said no {key}: {text}"))
        };
        let rate = word("Requests/sec:")?.parse::<f64>()?;
        Ok(Figures {
            rate,
            p50: millis(word("50%")?)?,
            p99: millis(word("99%")?)?,
            cpu: cpu * 1e6 / (rate * took),
        })
    }
}

/// As wrk writes times.
fn millis(text: &str) -> Result<f64> {
    let number = text.trim_end_matches(char::is_alphabetic);
    let scale = match &text[number.len()..] {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        unit => return Err(format!("unknown unit {unit}").into()),
    };
    Ok(number.parse::<f64>()? * scale)
}

struct Figures {
    /// Requests a second.
    rate: f64,
    /// Milliseconds.
    p50: f64,
    p99: f64,
    /// Microseconds of CPU a request.
    cpu: f64,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn compare(seconds: &str) -> Result<()> {
    let exe = std::env::current_exe()?;
    let (at, gate, other) = (free_port()?, free_port()?, free_port()?);
    let mut command = Command::new(&exe);
    let backend = Side::start(
        "backend",
        at,
        command.args(["backend", &at.to_string()]),
        None,
    )?;
    let mut command = Command::new(&exe);
    command.args(["gateway", &gate.to_string(), &at.to_string()]);
    let mut sides = vec![backend, Side::start("knarr", gate, &mut command, None)?];
    match Side::nginx(other, at) {
        Ok(nginx) => sides.push(nginx),
        Err(error) => println!("no nginx ({error}): apt-get install nginx-light"),
    }
    for side in &sides {
        side.turn("1")?;
    }
    // In turns, so that what else the machine does falls upon all.
    let mut all = sides.iter().map(|_| Vec::new()).collect::<Vec<_>>();
    for _ in 0..ROUNDS {
        for (side, figures) in sides.iter().zip(&mut all) {
            figures.push(side.turn(seconds)?);
        }
    }
    println!(
        "{:8} {:>11} {:>9} {:>9} {:>15} {:>20}",
        "", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "cores at 2,000/s"
    );
    let mut rows = Vec::new();
    for (side, figures) in sides.iter().zip(&all) {
        let of = |what: fn(&Figures) -> f64| median(figures.iter().map(what).collect());
        let row = Figures {
            rate: of(|f| f.rate),
            p50: of(|f| f.p50),
            p99: of(|f| f.p99),
            cpu: of(|f| f.cpu),
        };
        println!(
            "{:8} {:>11.0} {:>9.2} {:>9.2} {:>15.1} {:>20.2}",
            side.name,
            row.rate,
            row.p50,
            row.p99,
            row.cpu,
            row.cpu * 2000.0 / 1e6
        );
        rows.push(row);
    }
    if let [_, ours, theirs] = &rows[..] {
        println!(
            "knarr : nginx   requests/s {:.2}   p99 {:.2}   CPU a request {:.2}",
            ours.rate / theirs.rate,
            ours.p99 / theirs.p99,
            ours.cpu / theirs.cpu
        );
    }
    // The backend last: its end would be news to the others.
    while sides.pop().is_some() {}
    Ok(())
}
