//! `knarr doctor`: what this machine lacks, and the fix for each. `serve` and `up` ask the same questions first.

use crate::{
    cli::Output,
    error::Error,
    netlink,
    paths::{Paths, Settings},
};
use clap::Args;
use serde_json::json;
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
};

/// Free space below which a start is refused: a full disk would only fail later and worse.
const FREE_BYTES_MIN: u64 = 64 << 20;

const DISK_SPACE: &str = "disk space";
/// What is lacking without root, and what helps.
const ROOT: (&str, &str) = (
    "knarr needs root to make namespaces, mounts and network links",
    "run it with sudo",
);

#[derive(Args)]
pub struct DoctorArguments {
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

struct Check {
    name: &'static str,
    /// None = fine; otherwise (what is missing, the fix).
    lack: Option<(String, String)>,
    /// Without it nothing runs.
    vital: bool,
}

pub fn run(paths: &Paths, arguments: DoctorArguments) -> Result<u8, Error> {
    let mut checks = checks(&paths.data);
    checks.extend(ports(paths));
    if arguments.output == Output::Json {
        let list: Vec<_> = checks
            .iter()
            .map(|c| json!({ "check": c.name, "ok": c.lack.is_none(), "vital": c.vital, "lack": c.lack.as_ref().map(|l| &l.0), "fix": c.lack.as_ref().map(|l| &l.1) }))
            .collect();
        println!("{}", json!(list));
    } else {
        for c in &checks {
            match &c.lack {
                None => println!(" ✓ {}", c.name),
                Some((lack, fix)) => println!(
                    " {} {}: {lack}\n     fix: {fix}",
                    if c.vital { "✗" } else { "!" },
                    c.name
                ),
            }
        }
    }
    Ok(u8::from(checks.iter().any(|c| c.vital && c.lack.is_some())))
}

/// The first vital lack as an error.
pub fn require(data: &Path) -> Result<(), Error> {
    match checks(data)
        .into_iter()
        .find(|c| c.vital && c.lack.is_some())
        .and_then(|c| c.lack)
    {
        Some((lack, fix)) => Err(Error::Platform(format!("{lack}: {fix}"))),
        None => Ok(()),
    }
}

/// Before anything is fetched or made that only root could use.
pub fn require_root() -> Result<(), Error> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(Error::Platform(format!("{}: {}", ROOT.0, ROOT.1))),
    }
}

/// A full disk would only fail later and worse.
pub fn require_space(data: &Path) -> Result<(), Error> {
    let lack = checks(data).into_iter().find(|c| c.name == DISK_SPACE);
    match lack.and_then(|c| c.lack) {
        Some((lack, fix)) => Err(Error::Platform(format!("{lack}: {fix}"))),
        None => Ok(()),
    }
}

/// The API's port must be free for a start.
pub fn require_api_port(paths: &Paths) -> Result<(), Error> {
    let lack = ports(paths)
        .into_iter()
        .find(|c| c.vital)
        .and_then(|c| c.lack);
    match lack {
        Some((lack, fix)) => Err(Error::Platform(format!("{lack}: {fix}"))),
        None => Ok(()),
    }
}

/// Ports that knarr will want, while the platform doesn't run (then they are its own).
fn ports(paths: &Paths) -> Vec<Check> {
    if paths.running().is_some() {
        return vec![];
    }
    let api = Settings::load(paths).map_or(crate::serve::API_DEFAULT, |s| s.api);
    let public = |port| SocketAddr::from(([0, 0, 0, 0], port));
    [
        ("API port", true, api, "stop what holds it, or choose another with `knarr --data-dir A-FRESH-FOLDER serve --api ADDRESS:PORT`"),
        ("HTTP port", false, public(80), "only Ingresses need it: stop what holds it, or give `knarr serve --http-port`"),
        ("HTTPS port", false, public(443), "only Ingresses need it: stop what holds it, or give `knarr serve --https-port`"),
    ]
    .into_iter()
    .map(|(name, vital, address, fix)| {
        let error = TcpListener::bind(address).err();
        let lack = error.map(|e| match e.kind() {
            std::io::ErrorKind::AddrInUse => format!("another program holds {address}"),
            _ => format!("{address} can't be used: {e}"),
        });
        Check {
            name,
            vital,
            lack: lack.map(|lack| (lack, fix.to_string())),
        }
    })
    .collect()
}

fn checks(data: &Path) -> Vec<Check> {
    let check = |name, vital, ok: bool, lack: &str, fix: &str| Check {
        name,
        vital,
        lack: (!ok).then(|| (lack.to_string(), fix.to_string())),
    };
    let root = rustix::process::geteuid().is_root();
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |name: &str| {
        filesystems
            .lines()
            .any(|l| l.ends_with(&format!("\t{name}")))
    };
    let free = free_bytes(data);
    vec![
        check("root", true, root, ROOT.0, ROOT.1),
        check(
            "overlayfs",
            true,
            has("overlay") || module("overlay"),
            "the kernel has no overlay file system",
            "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS",
        ),
        check(
            "cgroups",
            true,
            cgroups(),
            "no cgroup hierarchy with the memory, cpu and pids controllers is mounted",
            "mount cgroup2 on /sys/fs/cgroup",
        ),
        check(
            "nftables",
            true,
            !root || netlink::nftables(),
            "the kernel has no nf_tables, which Service addresses need",
            "modprobe nf_tables, or a kernel with CONFIG_NF_TABLES",
        ),
        check(
            "veth",
            true,
            !root || netlink::veth(),
            "the kernel has no veth links, which connect Pods",
            "modprobe veth, or a kernel with CONFIG_VETH",
        ),
        check(
            "namespaces",
            true,
            Path::new("/proc/self/ns/net").exists(),
            "the kernel has no network namespaces",
            "a kernel with CONFIG_NET_NS",
        ),
        check(
            "seccomp",
            true,
            fs::read_to_string("/proc/self/status").is_ok_and(|s| s.contains("Seccomp:")),
            "the kernel has no seccomp",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
        check(
            DISK_SPACE,
            true,
            free.is_none_or(|f| f > FREE_BYTES_MIN),
            &format!(
                "the disk of {} is full ({} MB free)",
                data.display(),
                free.unwrap_or(0) >> 20
            ),
            "free some space, or give a --data-dir on another disk",
        ),
        check(
            "cargo",
            false,
            std::env::var_os("CARGO").is_some() || on_path("cargo"),
            "there is no cargo on the PATH, so services with `x-knarr: {cargo: …}` cannot be built",
            "install Rust: https://rustup.rs",
        ),
        check(
            "CA certificates",
            false,
            Path::new("/etc/ssl/certs/ca-certificates.crt").exists(),
            "packed images will have no CA certificates, so TLS to the outside fails in them",
            "apt-get install ca-certificates",
        ),
        check(
            "time zones",
            false,
            Path::new("/usr/share/zoneinfo/UTC").exists(),
            "packed images will know no time zones",
            "apt-get install tzdata",
        ),
        check(
            "kubectl",
            false,
            on_path("kubectl"),
            "there is no kubectl on the PATH (knarr itself does not need it)",
            "apt-get install kubernetes-client",
        ),
    ]
}

fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|p| p.exists())?;
    let s = rustix::fs::statvfs(there).ok()?;
    Some(s.f_bavail * s.f_frsize)
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).is_file()))
}

/// A module that is there to be loaded.
fn module(name: &str) -> bool {
    let release = rustix::system::uname();
    let list = format!(
        "/lib/modules/{}/modules.dep",
        release.release().to_string_lossy()
    );
    fs::read_to_string(list).is_ok_and(|l| {
        l.lines().any(|l| {
            l.split(':')
                .next()
                .is_some_and(|p| p.contains(&format!("/{name}.ko")))
        })
    })
}

/// v2 with its controllers, or v1 (also hybrid) with each mounted.
fn cgroups() -> bool {
    let wanted = ["memory", "cpu", "pids"];
    if let Ok(unified) = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        return wanted
            .iter()
            .all(|w| unified.split_whitespace().any(|c| c == *w));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    wanted.iter().all(|w| {
        mounts.lines().any(|l| {
            let mut fields = l.split(' ');
            let (kind, options) = (
                fields.nth(2).unwrap_or_default(),
                fields.next().unwrap_or_default(),
            );
            kind == "cgroup" && options.split(',').any(|o| o == *w)
        })
    })
}
