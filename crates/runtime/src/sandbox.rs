//! Sandboxes: namespaces kept alive by bind mounts, made by a thread that enters them and ends.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::{
    cgroup::{Besides, Group, Hierarchies},
    error::{During, Error},
    plan::{Answer, PausePlan, Pins, receive_answer, send_plan},
    role::{Program, Role},
    socket,
    spec::{Config, Sandbox, SandboxSpec},
    state::{self, LOCK, Layout, SPEC},
    sys,
    userns::UsernsPlan,
};

/// cgroup of a sandbox's pause process
fn pause_cgroup(spec: &SandboxSpec) -> String {
    if spec.cgroup.is_empty() {
        format!("pause-{}", spec.id)
    } else {
        format!("{}/pause", spec.cgroup)
    }
}

/// The cgroup above those of its containers, if it has one.
fn group(
    config: &Config,
    hierarchies: &Hierarchies,
    spec: &SandboxSpec,
    besides: Besides,
) -> Option<Group> {
    (!spec.cgroup.is_empty())
        .then(|| hierarchies.group_for(&config.cgroup_parent, &spec.cgroup, besides))
}

/// The sandbox's own namespaces.
pub(crate) fn pins(layout: &Layout, spec: &SandboxSpec) -> Pins {
    let dir = layout.pin(&spec.id);
    let at = |name: &str, own: bool| own.then(|| dir.join(name));
    Pins {
        net: at("net", !spec.host_network),
        ipc: at("ipc", !spec.host_ipc),
        // SOURCE: containerd, a pod on the host's network keeps the host's name
        uts: at("uts", !spec.host_network),
        pid: at("pid", spec.share_pid && !spec.host_pid),
        user: at("user", spec.user_namespace.is_some()),
    }
}

/// The namespaces that its containers join: its own, and the host's where that is not the caller's.
pub(crate) fn joined(layout: &Layout, config: &Config, spec: &SandboxSpec) -> Pins {
    let mut pins = pins(layout, spec);
    if spec.host_network {
        pins.net = config.host.net.clone();
        pins.uts = config.host.uts.clone();
    }
    pins
}

pub(crate) fn describe(layout: &Layout, config: &Config, spec: SandboxSpec) -> Sandbox {
    Sandbox {
        netns: joined(layout, config, &spec).net,
        spec,
    }
}

/// A private mount, so that pins are never copied to other mount namespaces of the host (a copy would keep a namespace alive after its end).
pub(crate) fn prepare_pins(layout: &Layout) -> Result<(), Error> {
    let dir = layout.pins();
    fs::create_dir_all(&dir).during(|| format!("making {}", dir.display()))?;
    if !is_mount(&dir) {
        rustix::mount::mount_bind(&dir, &dir)
            .during(|| format!("mounting {} on itself", dir.display()))?;
    }
    rustix::mount::mount_change(&dir, MountPropagationFlags::PRIVATE)
        .during(|| format!("making {} private", dir.display()))
}

/// Whether something is mounted right here (works for bind mounts within one file system too).
pub(crate) fn is_mount(path: &Path) -> bool {
    const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
    rustix::fs::statx(
        rustix::fs::CWD,
        path,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        rustix::fs::StatxFlags::empty(),
    )
    .is_ok_and(|s| s.stx_attributes.bits() & STATX_ATTR_MOUNT_ROOT != 0)
}

/// Makes the namespaces and pins them. On failure nothing stays.
pub(crate) fn create(
    layout: &Layout,
    config: &Config,
    hierarchies: &Hierarchies,
    program: &Program,
    spec: &SandboxSpec,
) -> Result<(), Error> {
    if spec.user_namespace.is_some() && (spec.net_of.is_some() || spec.ipc_of.is_some()) {
        return Err(Error::Invalid {
            what: "user namespace of sandbox",
            value: spec.id.clone(),
            rule: "namespaces of another sandbox belong to another user namespace",
        });
    }
    let dir = layout.sandbox(&spec.id);
    match fs::create_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::Exists(spec.id.clone()));
        }
        other => other.during(|| format!("making {}", dir.display()))?,
    }
    let made = state::write(&dir, SPEC, spec, false)
        .during(|| format!("writing {}", dir.display()))
        .and_then(
            |()| match group(config, hierarchies, spec, Besides::of(&spec.resources)) {
                Some(group) => group.create(&spec.resources),
                None => Ok(()),
            },
        )
        .and_then(|()| pin_all(layout, program, spec))
        .and_then(|()| {
            if spec.share_pid && !spec.host_pid {
                start_pause(layout, config, hierarchies, program, spec)
            } else {
                Ok(())
            }
        });
    if made.is_err() {
        // the first reason is the one to tell
        let _ = delete(layout, config, hierarchies, &spec.id);
    }
    made
}

fn pin_all(layout: &Layout, program: &Program, spec: &SandboxSpec) -> Result<(), Error> {
    let pins = pins(layout, spec);
    let dir = layout.pin(&spec.id);
    fs::create_dir_all(&dir).during(|| format!("making {}", dir.display()))?;
    // one mount holds all pins and /dev/shm, so that taking it off takes all off. SOURCE: containerd, /dev/shm of a pod is 64 MiB
    let options = format!("mode=755,size={}", spec.shm_bytes.unwrap_or(64 << 20));
    let options = std::ffi::CString::new(options).map_err(|e| Error::Other(e.to_string()))?;
    rustix::mount::mount(
        "sandbox",
        &dir,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        Some(options.as_c_str()),
    )
    .during(|| format!("mounting {}", dir.display()))?;
    let shm = dir.join("shm");
    fs::create_dir(&shm)
        .and_then(|()| fs::set_permissions(&shm, fs::Permissions::from_mode(0o1777)))
        .during(|| format!("making {}", shm.display()))?;
    // pinned here, too, what is another's stays as long as this does
    if let Some(other) = &spec.net_of {
        pin_others(&layout.pin(other).join("net"), &dir.join("net"), false)?;
    }
    if let Some(other) = &spec.ipc_of {
        pin_others(&layout.pin(other).join("ipc"), &dir.join("ipc"), false)?;
        pin_others(&layout.pin(other).join("shm"), &shm, true)?;
    }
    if let Some(ids) = spec.user_namespace {
        let plan = UsernsPlan {
            ids,
            pins: Pins {
                pid: None,
                ..pins.clone()
            },
        };
        run_role(layout, program, Role::Userns, spec, &plan)?;
    }
    let own = Pins {
        net: pins.net.filter(|_| spec.net_of.is_none()),
        ipc: pins.ipc.filter(|_| spec.ipc_of.is_none()),
        ..pins
    };
    let hostname = spec.hostname.clone();
    let sysctls = spec.sysctls.clone();
    // namespaces belong to a thread: this one enters new ones, pins them, and is never used for anything else
    std::thread::Builder::new()
        .name("sandbox".into())
        .spawn(move || enter_and_pin(&own, &hostname, &sysctls))
        .during(|| "starting a thread".into())?
        .join()
        .unwrap_or_else(|_| Err(Error::Other("a bug in making sandboxes".into())))
}

/// Pins what another sandbox has pinned.
fn pin_others(theirs: &Path, ours: &Path, folder: bool) -> Result<(), Error> {
    if !folder {
        File::create(ours).during(|| format!("making {}", ours.display()))?;
    }
    rustix::mount::mount_bind(theirs, ours).during(|| format!("joining {}", theirs.display()))
}

/// What containers may do in a network of their own though they aren't root: listen on any port, and ping.
/// SOURCE: Docker since 20.10; containerd 2, enable_unprivileged_ports and enable_unprivileged_icmp.
const UNPRIVILEGED: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

fn enter_and_pin(
    pins: &Pins,
    hostname: &str,
    sysctls: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let all = [
        (&pins.net, libc::CLONE_NEWNET, "net"),
        (&pins.ipc, libc::CLONE_NEWIPC, "ipc"),
        (&pins.uts, libc::CLONE_NEWUTS, "uts"),
    ];
    let flags = all
        .iter()
        .filter(|(path, ..)| path.is_some())
        .fold(0, |f, (_, flag, _)| f | flag);
    if flags == 0 {
        return Ok(());
    }
    if pins.user.is_some() {
        // made and pinned already, by who could make the user namespace
        for (path, flag, name) in &all {
            if let Some(path) = path {
                let told = || format!("entering the sandbox's namespace {name}");
                let namespace = File::open(path).during(told)?;
                sys::setns(&namespace, *flag).during(told)?;
            }
        }
    } else {
        sys::unshare(flags).during(|| "making the sandbox's namespaces".into())?;
    }
    if pins.net.is_some() {
        sys::loopback_up().during(|| "bringing up the sandbox's loopback device".into())?;
    }
    if pins.uts.is_some() && !hostname.is_empty() {
        rustix::system::sethostname(hostname.as_bytes())
            .during(|| format!("setting the host name {hostname:?}"))?;
    }
    if pins.net.is_some() {
        for (name, value) in UNPRIVILEGED {
            // Where it can't be had (a user namespace has not all groups), those who aren't root do without.
            let _ = fs::write(sysctl_path(name, pins)?, value);
        }
    }
    for (name, value) in sysctls {
        let path = sysctl_path(name, pins)?;
        fs::write(&path, value).during(|| format!("setting the kernel parameter {name}"))?;
    }
    for (path, _, name) in all {
        if let (Some(path), None) = (path, &pins.user) {
            File::create(path).during(|| format!("making {}", path.display()))?;
            rustix::mount::mount_bind(format!("/proc/thread-self/ns/{name}"), path)
                .during(|| format!("pinning {}", path.display()))?;
        }
    }
    Ok(())
}

/// Only parameters that belong to a namespace the sandbox owns: others would change the host. A `/` stands for a dot inside a part. SOURCE: k8s.io/component-helpers node/util/sysctl.
fn sysctl_path(name: &str, pins: &Pins) -> Result<PathBuf, Error> {
    let parts: Vec<String> = name.split('.').map(|p| p.replace('/', ".")).collect();
    let ipc = name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|p| name.starts_with(p));
    let allowed = (ipc && pins.ipc.is_some()) || (name.starts_with("net.") && pins.net.is_some());
    if !allowed || parts.iter().any(|p| matches!(p.as_str(), "" | "." | "..")) {
        return Err(Error::Invalid {
            what: "kernel parameter",
            value: name.into(),
            rule: "it must belong to a namespace of the sandbox's own: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*",
        });
    }
    Ok(Path::new("/proc/sys").join(parts.join("/")))
}

fn start_pause(
    layout: &Layout,
    config: &Config,
    hierarchies: &Hierarchies,
    program: &Program,
    spec: &SandboxSpec,
) -> Result<(), Error> {
    let dir = layout.sandbox(&spec.id);
    let empty = dir.join("empty");
    fs::create_dir(&empty).during(|| format!("making {}", empty.display()))?;
    let plan = PausePlan {
        cgroups: hierarchies.group(&config.cgroup_parent, &pause_cgroup(spec)),
        pin: layout.pin(&spec.id).join("pid"),
        empty,
        user: pins(layout, spec).user,
    };
    run_role(layout, program, Role::Pause, spec, &plan)
}

/// Has a role make something of the sandbox, and waits until it's made.
fn run_role<T: serde::Serialize>(
    layout: &Layout,
    program: &Program,
    role: Role,
    spec: &SandboxSpec,
    plan: &T,
) -> Result<(), Error> {
    let dir = layout.sandbox(&spec.id);
    // goes with the plan: whoever removes the sandbox waits until nobody makes it any more
    let making = File::create(dir.join(LOCK)).during(|| format!("making {}", dir.display()))?;
    // another process that is being started can hold it until it execs
    state::take_lock(&making, Duration::from_secs(10))
        .during(|| format!("locking {}", dir.display()))?;
    let (ours, theirs) = socket::pair().during(|| "making a socket".into())?;
    send_plan(&ours, plan, &Vec::new(), &[making.as_fd()]).during(|| "sending the plan".into())?;
    drop(making);
    let pid = program
        .start(role, &spec.id, theirs)
        .during(|| format!("starting the role {role:?}"))?;
    let answer = receive_answer(&ours, true);
    if let Ok(pidfd) = sys::pidfd_open(pid) {
        let _ = sys::reap(&pidfd, true);
    }
    match answer.during(|| format!("waiting for the role {role:?}"))? {
        Some(Answer::Started(_)) => Ok(()),
        Some(Answer::Failed(text)) => Err(Error::Other(text)),
        _ => Err(Error::Other(format!(
            "the role {role:?} ended before it was ready"
        ))),
    }
}

/// Takes everything of a sandbox away, however much of it there is.
pub(crate) fn delete(
    layout: &Layout,
    config: &Config,
    hierarchies: &Hierarchies,
    id: &str,
) -> Result<(), Error> {
    let dir = layout.sandbox(id);
    // the first file written: without it nothing was made that it names
    let spec = state::read::<SandboxSpec>(&dir, SPEC);
    if let Ok(making) = File::open(dir.join(LOCK)) {
        // a stuck maker is killed with its cgroup below
        let _ = state::take_lock(&making, Duration::from_secs(10));
    }
    if let (Some(spec), true) = (&spec, dir.join("empty").exists()) {
        let group = hierarchies.group(&config.cgroup_parent, &pause_cgroup(spec));
        clear(&group, id)?;
    }
    // its containers may have been in hierarchies that it was not
    if let Some(group) = spec.and_then(|spec| group(config, hierarchies, &spec, Besides::ALL)) {
        clear(&group, id)?;
    }
    unpin(&layout.pin(id))?;
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).during(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Killed processes can take a moment to leave.
fn clear(group: &Group, id: &str) -> Result<(), Error> {
    let mut left = 100;
    loop {
        group.kill(Duration::from_secs(5));
        match group.remove() {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && left > 0 => {
                left -= 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other.during(|| format!("removing the cgroup of sandbox {id}")),
        }
    }
}

fn unpin(dir: &Path) -> Result<(), Error> {
    // never more than one, but a second would cost nothing to look for
    while is_mount(dir) {
        rustix::mount::unmount(dir, UnmountFlags::DETACH)
            .during(|| format!("unmounting {}", dir.display()))?;
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).during(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Takes off what [`prepare_pins`] put there.
pub(crate) fn remove_pins(layout: &Layout) -> Result<(), Error> {
    let dir = layout.pins();
    if is_mount(&dir) {
        rustix::mount::unmount(&dir, UnmountFlags::DETACH)
            .during(|| format!("unmounting {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaced_kernel_parameters() {
        let own = Pins {
            net: Some("/n".into()),
            ipc: Some("/i".into()),
            ..Pins::default()
        };
        let host = Pins::default();
        for (name, want) in [
            ("net.core.somaxconn", Some("/proc/sys/net/core/somaxconn")),
            (
                "net.ipv4.conf.eno2/100.forwarding",
                Some("/proc/sys/net/ipv4/conf/eno2.100/forwarding"),
            ),
            ("kernel.shmmax", Some("/proc/sys/kernel/shmmax")),
            ("kernel.sem", Some("/proc/sys/kernel/sem")),
            ("kernel.hostname", None),
            ("vm.swappiness", None),
            ("net.../../vm.swappiness", None),
            ("net.//.//.vm.swappiness", None),
        ] {
            let got = sysctl_path(name, &own).ok();
            assert_eq!(got.as_deref(), want.map(Path::new), "{name}");
            assert!(sysctl_path(name, &host).is_err(), "{name} on the host");
        }
    }
}
