//! The last steps before exec, the same for a container's first process and for every later one: limits of power, then the program.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags};
use serde::{Deserialize, Serialize};

use crate::{
    apparmor,
    rlimit::{self, Rlimit},
    seccomp::Programs,
    spec::User,
    sys,
};

/// Every capability of Linux 5.9 and later, in the kernel's order (capability.h): the place is the bit.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

pub(crate) fn capability_bit(name: &str) -> Option<u32> {
    CAPABILITIES
        .iter()
        .position(|n| *n == name)
        .map(|i| i as u32)
}

/// A mask of the named capabilities; an unknown name is the error.
pub(crate) fn capability_mask(names: &[String]) -> Result<u64, String> {
    names.iter().try_fold(0, |mask, name| {
        capability_bit(name)
            .map(|bit| mask | 1 << bit)
            .ok_or_else(|| name.clone())
    })
}

/// What to run and as whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) user: User,
    /// bounding, permitted and effective
    pub(crate) capabilities: u64,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: i32,
    pub(crate) tty: bool,
    /// columns and rows
    #[serde(default)]
    pub(crate) tty_size: Option<(u16, u16)>,
    pub(crate) rlimits: Vec<Rlimit>,
    /// empty: none
    #[serde(default)]
    pub(crate) apparmor: String,
}

/// Lowering it below our own needs CAP_SYS_RESOURCE, which some hosts lack: then the closest that is allowed.
pub(crate) fn set_oom_score(value: i32) {
    let write = |v: i32| std::fs::write("/proc/self/oom_score_adj", v.to_string());
    if write(value).is_err() {
        let current = std::fs::read_to_string("/proc/self/oom_score_adj")
            .ok()
            .and_then(|t| t.trim().parse::<i32>().ok())
            .unwrap_or(0);
        let _ = write(value.max(current));
    }
}

/// Gives up all that the container may not have, and becomes its program. Runs inside the container's namespaces and root, one thread only; returns the reason it could not.
pub(crate) fn become_program(process: &Process, seccomp: &Programs) -> String {
    match try_become(process, seccomp) {
        Ok(never) => match never {},
        Err(text) => text,
    }
}

enum Never {}

fn try_become(process: &Process, seccomp: &Programs) -> Result<Never, String> {
    let failed = |what: &'static str| move |e: io::Error| format!("{what}: {}", os_text(&e));
    let env = environment(process);
    let args: Vec<CString> = strings(&process.args)?;
    let env_strings = strings(&env)?;
    if args.is_empty() {
        return Err(
            "no command specified: the image has no entrypoint or command, and none was given"
                .into(),
        );
    }

    // what the role or the platform chose for itself is not for the container
    let _ = sys::prctl(libc::PR_SET_THP_DISABLE, 0, 0);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(
        process.user.umask.unwrap_or(0o022),
    ));
    // while what it's now under lets it: no_new_privs and filters bound which profile can follow
    if !process.apparmor.is_empty() {
        apparmor::apply_on_exec(&process.apparmor)?;
    }
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(failed("setting no_new_privs"))?;
    } else {
        // without no_new_privs a filter needs CAP_SYS_ADMIN, which is about to go
        install(seccomp)?;
    }
    set_rlimits(&process.rlimits)?;
    let as_root = enter_folder(&process.cwd);

    let own = sys::permitted_capabilities().map_err(failed("reading the capabilities"))?;
    let wanted = process.capabilities & own;
    for bit in 0..64 {
        let in_bounds = sys::prctl(libc::PR_CAPBSET_READ, bit, 0);
        match in_bounds {
            // past the last one that the kernel knows
            Err(_) => break,
            Ok(1) if wanted & (1 << bit) == 0 => {
                sys::prctl(libc::PR_CAPBSET_DROP, bit, 0)
                    .map_err(failed("dropping a capability"))?;
            }
            Ok(_) => {}
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(failed("keeping capabilities"))?;
    // SOURCE: containerd `pkg/oci` ensureAdditionalGids: its own group is one of them (CVE-2022-2989)
    let gid = process.user.gid;
    let mut groups = process.user.additional_gids.clone();
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    sys::set_ids(process.user.uid, gid, &groups).map_err(failed("setting user and groups"))?;
    if let Err(first) = as_root {
        // root may lack access that the user has (root-squashed volumes)
        enter_folder(&process.cwd).map_err(|_| {
            format!(
                "chdir to cwd ({:?}) set in config.json failed: {}",
                process.cwd,
                os_text(&first)
            )
        })?;
    }
    let path = find_program(&process.args[0], &env)?;
    sys::set_capabilities(wanted).map_err(failed("setting the capabilities"))?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).map_err(failed("keeping capabilities"))?;
    // kernels before 4.3 have no ambient set
    let _ = sys::prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as u64,
        0,
    );
    if process.no_new_privileges {
        install(seccomp)?;
    }
    sys::cloexec_from(3);
    let path_c = sys::c_string(&path).map_err(failed("the program's path"))?;
    let error = patiently(
        || sys::execve(&path_c, &args, &env_strings),
        || drop(rustix::thread::nanosleep(&BUSY_PAUSE)),
    );
    Err(format!("exec {}: {}", path.display(), os_text(&error)))
}

/// Between two tries of a program that somebody writes, and how many there are: half a second in all.
const BUSY_PAUSE: rustix::thread::Timespec = rustix::thread::Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
const BUSY_TRIES: u32 = 50;

/// Tries again for a while where the program is open for writing: a process that was forked while its writer had it open
/// has that descriptor, too, until it becomes another program (<https://github.com/golang/go/issues/22315>).
fn patiently(mut exec: impl FnMut() -> io::Error, mut pause: impl FnMut()) -> io::Error {
    let busy = |e: &io::Error| e.raw_os_error() == Some(libc::ETXTBSY);
    let mut error = exec();
    for _ in 1..BUSY_TRIES {
        if !busy(&error) {
            break;
        }
        pause();
        error = exec();
    }
    error
}

/// SOURCE: runc `libcontainer`, the limits are set before powers are given up, since raising one needs CAP_SYS_RESOURCE. Where the
/// machine doesn't have that (in another's container), the closest that is allowed.
fn set_rlimits(limits: &[Rlimit]) -> Result<(), String> {
    for limit in limits {
        let resource = rlimit::resource(&limit.name)
            .ok_or_else(|| format!("there is no resource limit called {:?}", limit.name))?;
        let wanted = rustix::process::Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        rustix::process::setrlimit(resource, wanted)
            .or_else(|e| match e {
                rustix::io::Errno::PERM => {
                    let most = rustix::process::getrlimit(resource).maximum;
                    rustix::process::setrlimit(resource, rlimit::at_most(wanted, most))
                }
                e => Err(e),
            })
            .map_err(|e| format!("setting the limit {}: {}", limit.name, os_text(&e.into())))?;
    }
    Ok(())
}

/// Makes it the working directory, and sees that it is one of the container's: a name like `/proc/self/fd/7` could lead out through a descriptor that is open until exec (CVE-2024-21626).
fn enter_folder(path: &Path) -> io::Result<()> {
    rustix::process::chdir(path)?;
    let reached = rustix::process::getcwd(Vec::new());
    if reached.is_ok_and(|at| at.as_bytes().starts_with(b"/")) {
        return Ok(());
    }
    rustix::process::chdir("/")?;
    Err(io::Error::other(
        "current working directory is outside of container mount namespace root -- possible container breakout detected",
    ))
}

fn install(seccomp: &Programs) -> Result<(), String> {
    for program in seccomp {
        sys::install_seccomp(program)
            .map_err(|e| format!("installing the seccomp filter: {}", os_text(&e)))?;
    }
    Ok(())
}

fn strings(all: &[String]) -> Result<Vec<CString>, String> {
    all.iter()
        .map(|s| {
            CString::new(s.as_bytes()).map_err(|_| {
                format!("{s:?} has a NUL byte, which no argument or variable can have")
            })
        })
        .collect()
}

const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().rev().find_map(|v| {
        v.split_once('=')
            .filter(|(k, _)| *k == name)
            .map(|(_, v)| v)
    })
}

/// The given variables plus HOME from the container's own /etc/passwd, and TERM for terminals. SOURCE: runc libcontainer/env.go, containerd internal/cri (TERM).
fn environment(process: &Process) -> Vec<String> {
    let mut env = process.env.clone();
    if variable(&env, "HOME").is_none_or(str::is_empty) {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        env.push(format!("HOME={}", home_of(&passwd, process.user.uid)));
    }
    if process.tty && variable(&env, "TERM").is_none() {
        env.push("TERM=xterm".into());
    }
    env
}

fn home_of(passwd: &str, uid: u32) -> &str {
    passwd
        .lines()
        .filter_map(|l| {
            let mut fields = l.split(':');
            let id = fields.nth(2)?.parse::<u32>().ok()?;
            (id == uid).then(|| fields.nth(2)).flatten()
        })
        .find(|h| !h.is_empty())
        .unwrap_or("/")
}

/// The file that a command names. Texts as Go's exec.LookPath, which users of kubectl know.
fn find_program(name: &str, env: &[String]) -> Result<PathBuf, String> {
    let usable = |path: &Path| -> Result<(), String> {
        let stat = rustix::fs::stat(path)
            .map_err(|e| format!("stat {}: {}", path.display(), os_text(&e.into())))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
            return Err("is a directory".into());
        }
        rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|e| os_text(&e.into()))
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return usable(&path)
            .map(|()| path)
            .map_err(|text| format!("exec: {name:?}: {text}"));
    }
    let search = variable(env, "PATH").unwrap_or(PATH_DEFAULT);
    let mut refused = None;
    if !name.is_empty() {
        for dir in search.split(':') {
            let path = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
            match usable(&path) {
                Ok(()) => return Ok(path),
                Err(text) if text == "permission denied" => refused = Some(text),
                Err(_) => {}
            }
        }
    }
    let text = refused.unwrap_or_else(|| "executable file not found in $PATH".into());
    Err(format!("exec: {name:?}: {text}"))
}

/// The kernel's text as C and Go print it: lower case, without a number.
pub(crate) fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_written_is_tried_again_for_a_while() {
        for (name, busy_for, then, want_tries) in [
            ("at once another fault", 0, libc::ENOENT, 1),
            ("busy for a moment", 3, libc::ENOENT, 4),
            ("busy for good", u32::MAX, libc::ENOENT, BUSY_TRIES),
        ] {
            let (mut tries, mut pauses) = (0, 0);
            let error = patiently(
                || {
                    tries += 1;
                    let busy = tries <= busy_for;
                    io::Error::from_raw_os_error(if busy { libc::ETXTBSY } else { then })
                },
                || pauses += 1,
            );
            let last = if busy_for == u32::MAX {
                libc::ETXTBSY
            } else {
                then
            };
            assert_eq!(error.raw_os_error(), Some(last), "{name}");
            assert_eq!((tries, pauses), (want_tries, want_tries - 1), "{name}");
        }
    }

    #[test]
    fn capabilities_by_name() {
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(capability_mask(&names(&["CAP_CHOWN", "CAP_KILL"])), Ok(33));
        assert_eq!(
            capability_mask(&names(&["CAP_CHECKPOINT_RESTORE"])),
            Ok(1 << 40)
        );
        assert_eq!(capability_mask(&names(&["CAP_NO"])), Err("CAP_NO".into()));
    }

    #[test]
    fn home_comes_from_passwd() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbad\nweb:x:33:33::/srv:/bin/false\nx:x:7:7:::\n";
        for (uid, want) in [(0, "/root"), (33, "/srv"), (7, "/"), (1000, "/")] {
            assert_eq!(home_of(passwd, uid), want);
        }
    }

    #[test]
    fn programs_are_found_as_a_shell_would() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
        };
        make("yes", 0o755);
        make("no", 0o644);
        let at = dir.path().display();
        let env = vec![format!("PATH=/nonexistent:{at}")];
        let check = |name: &str, want: Result<String, String>| {
            let got = find_program(name, &env).map(|p| p.display().to_string());
            assert_eq!(got, want, "{name}");
        };
        check("yes", Ok(format!("{at}/yes")));
        check(
            "foo",
            Err("exec: \"foo\": executable file not found in $PATH".into()),
        );
        check("no", Err("exec: \"no\": permission denied".into()));
        check("/", Err("exec: \"/\": is a directory".into()));
        check(
            "/nonexistent/foo",
            Err(
                "exec: \"/nonexistent/foo\": stat /nonexistent/foo: no such file or directory"
                    .into(),
            ),
        );
    }
}
