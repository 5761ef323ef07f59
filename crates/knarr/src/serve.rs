//! `knarr serve`: the platform in the foreground.

use crate::{
    connect::READY_FD,
    error::{Error, io},
    paths::{NODES_MAX, Paths, Settings, parse_cidr, write_private},
    wiring,
};
use clap::Args;
use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Where the Kubernetes API listens when nothing else is asked for.
pub const API_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);

/// How long after its start the platform no longer needs what only the start did.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(Args, Clone)]
pub struct ServeArguments {
    /// Where the Kubernetes API listens. Kept from the first start
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = API_DEFAULT)]
    pub api: SocketAddr,
    /// Addresses for Pods. Kept from the first start
    #[arg(long, value_parser = parse_cidr, default_value = "10.42.0.0/16", value_name = "CIDR")]
    pub pod_cidr: (Ipv4Addr, u8),
    /// Addresses for Services. Kept from the first start
    #[arg(long, value_parser = parse_cidr, default_value = "10.43.0.0/16", value_name = "CIDR")]
    pub service_cidr: (Ipv4Addr, u8),
    /// How many nodes the machine is. Each after the first has a network, cgroups and a folder of its own. Kept until
    /// another number is given; 1 at first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
    pub nodes: Option<u8>,
    /// Address on which published ports and Ingresses listen
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    pub bind: IpAddr,
    /// Port for plain HTTP of Ingresses; opened while there is an Ingress
    #[arg(long, default_value_t = 80, value_name = "PORT")]
    pub http_port: u16,
    /// Port for TLS of Ingresses; opened while there is an Ingress
    #[arg(long, default_value_t = 443, value_name = "PORT")]
    pub https_port: u16,
    /// What is encrypted on disk, and how: an apiserver.config.k8s.io/v1 EncryptionConfiguration. Without it: Secrets, with
    /// a key that is made at the first start
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// What is set of the node: a kubelet.config.k8s.io/v1beta1 KubeletConfiguration (see docs/node.md). Without it: its
    /// defaults
    #[arg(long, value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    #[command(flatten)]
    pub audit: AuditArguments,
}

/// Named as kube-apiserver's.
#[derive(Args, Clone)]
#[command(next_help_heading = "Audit log")]
pub struct AuditArguments {
    /// Write API requests to this file; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// What is written: an audit.k8s.io/v1 Policy. Without it: who did what, never a body
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// Megabytes after which a new file is begun; 0 = never
    #[arg(long, default_value_t = 100, value_name = "MB")]
    pub audit_log_maxsize: u64,
    /// Old files to keep; 0 = all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub audit_log_maxbackup: usize,
    /// Days to keep old files; 0 = for ever
    #[arg(long, default_value_t = 366, value_name = "DAYS")]
    pub audit_log_maxage: u64,
}

impl ServeArguments {
    /// What is set of the node; blocking.
    pub fn node_settings(&self) -> Result<knarr_node::Settings, Error> {
        let Some(file) = &self.kubelet_config else {
            return Ok(knarr_node::Settings::default());
        };
        let text = std::fs::read_to_string(file).map_err(io(file.display().to_string()))?;
        knarr_node::Settings::parse(&text)
            .map_err(|e| Error::Platform(format!("{}: {e}", file.display())))
    }
}

impl AuditArguments {
    /// The log as asked for, if it is; blocking.
    pub fn open(&self) -> Result<Option<knarr_api::Audit>, Error> {
        let Some(path) = &self.audit_log_path else {
            return Ok(None);
        };
        let policy = match &self.audit_policy_file {
            None => knarr_api::AuditPolicy::metadata_only(),
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(io(file.display().to_string()))?;
                knarr_api::AuditPolicy::parse(&text)
                    .map_err(|e| Error::Platform(format!("{}: {e}", file.display())))?
            }
        };
        let options = knarr_api::LogOptions {
            path: path.clone(),
            max_megabytes: self.audit_log_maxsize,
            max_backups: self.audit_log_maxbackup,
            max_age_days: self.audit_log_maxage,
        };
        knarr_api::Audit::open(policy, options)
            .map(Some)
            .map_err(|e| Error::Platform(e.to_string()))
    }
}

pub fn run(paths: &Paths, arguments: ServeArguments) -> Result<u8, Error> {
    let mut ready = ready_pipe();
    let outcome = serve(paths, arguments, &mut ready);
    if let (Err(error), Some(pipe)) = (&outcome, &mut ready) {
        let _ = writeln!(pipe, "{}", error.to_string().replace('\n', "; "));
    }
    outcome
}

/// The pipe on which `up` waits, when `up` started us.
fn ready_pipe() -> Option<std::fs::File> {
    let fd: i32 = std::env::var(READY_FD).ok()?.parse().ok()?;
    std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{fd}"))
        .ok()
}

fn serve(
    paths: &Paths,
    arguments: ServeArguments,
    ready: &mut Option<std::fs::File>,
) -> Result<u8, Error> {
    crate::doctor::require(&paths.data)?;
    paths.create()?;
    let _lock = lock(paths)?;
    let first = Settings::load(paths).is_none();
    let settings = settings(paths, &arguments)?;
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("KNARR_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_target(true)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .thread_stack_size(1 << 20)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(io("starting the platform"))?;
    let result = runtime.block_on(async {
        let platform = wiring::start(paths, &settings, &arguments).await;
        if platform.is_err() && first {
            // What was chosen did not work: the next start may choose again.
            let _ = std::fs::remove_file(paths.settings());
        }
        let platform = platform?;
        write_private(&paths.kubeconfig(), platform.kubeconfig.as_bytes())?;
        match ready.take() {
            Some(mut pipe) => drop(pipe.write_all(b"ready\n")),
            None => eprintln!(
                "knarr: ready; the API listens on https://{}, export KUBECONFIG={}",
                settings.api,
                paths.kubeconfig().display()
            ),
        }
        let settled = async {
            tokio::time::sleep(SETTLED).await;
            let _ = tokio::task::spawn_blocking(crate::lean::forget_the_start).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = wiring::until_signal() => {}
            () = settled => {}
        }
        platform.stop().await;
        Ok::<_, Error>(())
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result.map(|()| 0)
}

/// One platform a data directory: the lock is the proof of life.
fn lock(paths: &Paths) -> Result<std::fs::File, Error> {
    let path = paths.pid();
    let context = path.display().to_string();
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io(&context))?;
    // A client looks for an instant whether the lock is held (see `Paths::running`), so one try is not enough; and a
    // platform that was killed while it started a child leaves its lock with that child until it execs.
    let since = std::time::Instant::now();
    loop {
        let patience = if alive(&mut file) { 200 } else { 3000 };
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(_) if since.elapsed() < std::time::Duration::from_millis(patience) => {
                std::thread::sleep(std::time::Duration::from_millis(10))
            }
            Err(_) => {
                return Err(Error::Platform(format!(
                    "a platform already runs on {}: stop it with `knarr stop`, or give another --data-dir",
                    paths.data.display()
                )));
            }
        }
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io(context))?;
    Ok(file)
}

/// Does the process live that last held the lock?
fn alive(file: &mut std::fs::File) -> bool {
    use std::io::{Read, Seek};
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.read_to_string(&mut text))
        .and_then(|_| file.rewind());
    let pid = read.ok().and_then(|()| text.trim().parse().ok());
    let pid = pid.and_then(rustix::process::Pid::from_raw);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid).is_ok())
}

fn settings(paths: &Paths, arguments: &ServeArguments) -> Result<Settings, Error> {
    if let Some(mut settings) = Settings::load(paths) {
        if let Some(nodes) = arguments.nodes.filter(|nodes| *nodes != settings.nodes) {
            settings.nodes = nodes;
            settings.save(paths)?;
        }
        return Ok(settings);
    }
    use sha2::Digest;
    let instance = hex::encode(sha2::Sha256::digest(
        paths.data.as_os_str().as_encoded_bytes(),
    ))[..6]
        .to_string();
    let node = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    let node: String = node
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let node = node.trim_matches(['-', '.']).to_string();
    let settings = Settings {
        instance,
        api: arguments.api,
        pod_cidr: arguments.pod_cidr,
        service_cidr: arguments.service_cidr,
        cluster_domain: "cluster.local".into(),
        nodes: arguments.nodes.unwrap_or(1),
        node: if node.is_empty() {
            "localhost".into()
        } else {
            node
        },
    };
    settings.save(paths)?;
    Ok(settings)
}

/// Many watches and connections: take the hard limit.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
