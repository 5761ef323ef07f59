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

/// Of each thread. Only what is touched is memory, unless the kernel can back it with a huge page of 2 MiB: so less than that. Without
/// the compiler's optimizations a call takes several times as much.
const STACK_BYTES: usize = if cfg!(debug_assertions) {
    4 << 20
} else {
    3 << 19
};

/// Where the Kubernetes API listens when nothing else is asked for.
pub const API_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);
/// Addresses for Pods and for Services when no others are asked for.
const POD_CIDR: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 42, 0, 0), 16);
const SERVICE_CIDR: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 43, 0, 0), 16);

#[derive(Args, Clone)]
pub struct ServeArguments {
    /// Where the Kubernetes API listens. Kept from the first start; 127.0.0.1:6443 at first
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub api: Option<SocketAddr>,
    /// Addresses for Pods. Kept from the first start; 10.42.0.0/16 at first
    #[arg(long, value_parser = parse_cidr, value_name = "CIDR")]
    pub pod_cidr: Option<(Ipv4Addr, u8)>,
    /// Addresses for Services. Kept from the first start; 10.43.0.0/16 at first
    #[arg(long, value_parser = parse_cidr, value_name = "CIDR")]
    pub service_cidr: Option<(Ipv4Addr, u8)>,
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
    /// Where Docker's API is served (`DOCKER_HOST=unix://PATH`); `none`: nowhere. Default: docker.sock in the data directory
    #[arg(long, value_name = "PATH|none")]
    pub docker_socket: Option<PathBuf>,
    #[command(flatten)]
    pub audit: AuditArguments,
    #[command(flatten)]
    pub registry: crate::registry::RegistryArguments,
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
    /// Names and values of the flags, for `/flagz`, with what is kept of those of the first start.
    pub fn flags(&self, kept: &Settings) -> std::collections::BTreeMap<String, String> {
        let path = |p: &Option<PathBuf>| {
            p.as_ref()
                .map_or_else(String::new, |p| p.display().to_string())
        };
        let cidr = |(base, bits): (Ipv4Addr, u8)| format!("{base}/{bits}");
        [
            ("api", kept.api.to_string()),
            ("pod-cidr", cidr(kept.pod_cidr)),
            ("service-cidr", cidr(kept.service_cidr)),
            (
                "nodes",
                self.nodes.map_or_else(String::new, |n| n.to_string()),
            ),
            ("bind", self.bind.to_string()),
            ("http-port", self.http_port.to_string()),
            ("https-port", self.https_port.to_string()),
            (
                "encryption-provider-config",
                path(&self.encryption_provider_config),
            ),
            ("kubelet-config", path(&self.kubelet_config)),
            ("docker-socket", path(&self.docker_socket)),
            ("audit-log-path", path(&self.audit.audit_log_path)),
            ("audit-policy-file", path(&self.audit.audit_policy_file)),
            (
                "audit-log-maxsize",
                self.audit.audit_log_maxsize.to_string(),
            ),
            (
                "audit-log-maxbackup",
                self.audit.audit_log_maxbackup.to_string(),
            ),
            ("audit-log-maxage", self.audit.audit_log_maxage.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// What is set of the node; blocking.
    pub fn node_settings(&self) -> Result<knarr_node::Settings, Error> {
        let Some(file) = &self.kubelet_config else {
            return Ok(knarr_node::Settings::default());
        };
        let bad = |e: &dyn std::fmt::Display| {
            Error::Input(format!("--kubelet-config {}: {e}", file.display()))
        };
        let text = std::fs::read_to_string(file).map_err(|e| bad(&e))?;
        knarr_node::Settings::parse(&text).map_err(|e| bad(&e))
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
                let bad = |e: &dyn std::fmt::Display| {
                    Error::Input(format!("--audit-policy-file {}: {e}", file.display()))
                };
                let text = std::fs::read_to_string(file).map_err(|e| bad(&e))?;
                knarr_api::AuditPolicy::parse(&text).map_err(|e| bad(&e))?
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
        .thread_stack_size(STACK_BYTES)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(io("starting the platform"))?;
    let mut started = false;
    let result = runtime.block_on(async {
        let platform = wiring::start(paths, &settings, &arguments).await?;
        started = true;
        write_private(&paths.kubeconfig(), platform.kubeconfig.as_bytes())?;
        match ready.take() {
            Some(mut pipe) => drop(pipe.write_all(b"ready\n")),
            None => eprintln!(
                "knarr: ready; the API listens on https://{}, export KUBECONFIG={}",
                settings.api,
                paths.kubeconfig().display()
            ),
        }
        tokio::select! {
            () = wiring::until_signal() => {}
            () = crate::lean::stay_lean() => {}
        }
        platform.stop().await;
        Ok::<_, Error>(())
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    if first && !started {
        take_back(paths, &settings);
    }
    result.map(|()| 0)
}

/// What was chosen for a first start did not work: what it made on the machine goes, and the next start may choose again.
fn take_back(paths: &Paths, settings: &Settings) {
    let work = async {
        for number in crate::nodes::known(paths) {
            let which = crate::nodes::Which {
                paths,
                settings,
                number,
            };
            which.purge().await?;
        }
        Ok::<_, Error>(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(io("taking back what was begun"))
        .and_then(|runtime| runtime.block_on(work));
    match done {
        Ok(()) => drop(std::fs::remove_file(paths.settings())),
        // with the settings `stop --purge` still knows what to remove
        Err(error) => tracing::warn!(%error, "what was begun stays until `knarr stop --purge`"),
    }
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

/// What is kept from the first start is not another now.
fn differs<T: PartialEq + Copy>(
    flag: &str,
    asked: Option<T>,
    kept: T,
    shown: impl Fn(T) -> String,
) -> Result<(), Error> {
    match asked.filter(|asked| *asked != kept) {
        Some(asked) => Err(Error::Input(format!(
            "--{flag} {}: this platform was first started with {}, which stays: leave the flag out, give another --data-dir, or begin anew after `knarr stop --purge`",
            shown(asked),
            shown(kept)
        ))),
        None => Ok(()),
    }
}

fn settings(paths: &Paths, arguments: &ServeArguments) -> Result<Settings, Error> {
    if let Some(mut settings) = Settings::load(paths) {
        differs("api", arguments.api, settings.api, |a| a.to_string())?;
        let cidr = |(base, bits): (Ipv4Addr, u8)| format!("{base}/{bits}");
        differs("pod-cidr", arguments.pod_cidr, settings.pod_cidr, cidr)?;
        differs(
            "service-cidr",
            arguments.service_cidr,
            settings.service_cidr,
            cidr,
        )?;
        if let Some(nodes) = arguments.nodes.filter(|nodes| *nodes != settings.nodes) {
            settings.nodes = nodes;
            settings.save(paths)?;
        }
        return Ok(settings);
    }
    let settings = fresh(paths, arguments);
    settings.save(paths)?;
    Ok(settings)
}

/// What a first start without arguments would choose: what such a start has made before it failed goes by it.
pub fn by_default(paths: &Paths) -> Option<Settings> {
    use clap::FromArgMatches;
    let command = ServeArguments::augment_args(clap::Command::new("serve"));
    let matches = command.try_get_matches_from(["serve"]).ok()?;
    let arguments = ServeArguments::from_arg_matches(&matches).ok()?;
    Some(fresh(paths, &arguments))
}

fn fresh(paths: &Paths, arguments: &ServeArguments) -> Settings {
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
    Settings {
        instance,
        api: arguments.api.unwrap_or(API_DEFAULT),
        pod_cidr: arguments.pod_cidr.unwrap_or(POD_CIDR),
        service_cidr: arguments.service_cidr.unwrap_or(SERVICE_CIDR),
        cluster_domain: "cluster.local".into(),
        nodes: arguments.nodes.unwrap_or(1),
        node: if node.is_empty() {
            "localhost".into()
        } else {
            node
        },
    }
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

#[cfg(test)]
mod kept_tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: ServeArguments,
    }

    #[test]
    fn what_is_kept_from_the_first_start_is_not_changed_silently() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path()).unwrap();
        let check = |flags: &[&str], wanted: Result<&str, &str>| {
            let line = Line::parse_from(["serve"].iter().chain(flags));
            let got = settings(&paths, &line.arguments);
            match (got, wanted) {
                (Ok(settings), Ok(api)) => assert_eq!(settings.api.to_string(), api, "{flags:?}"),
                (Err(e), Err(part)) => {
                    assert_eq!(e.exit_code(), 2);
                    assert!(e.to_string().contains(part), "{flags:?}: {e}");
                }
                (got, _) => panic!("{flags:?}: {:?}", got.map(|s| s.api)),
            }
        };
        check(&["--api", "127.0.0.1:7000"], Ok("127.0.0.1:7000"));
        check(&[], Ok("127.0.0.1:7000"));
        check(
            &["--api", "127.0.0.1:7000", "--pod-cidr", "10.42.0.0/16"],
            Ok("127.0.0.1:7000"),
        );
        check(
            &["--api", "0.0.0.0:7000"],
            Err("first started with 127.0.0.1:7000"),
        );
        check(
            &["--service-cidr", "10.99.0.0/16"],
            Err("first started with 10.43.0.0/16"),
        );
    }
}
