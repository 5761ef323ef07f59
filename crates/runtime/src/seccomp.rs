//! Seccomp filters: the default list that Docker and containerd ship, and profiles in Docker's JSON format.
//!
//! SOURCE: moby/profiles seccomp/default.json. A filter of `seccompiler` knows two actions, so a profile becomes one filter per action other than "allow", stacked; the kernel takes the strictest answer.

mod dispatch;

use std::collections::BTreeMap;

use dispatch::Verdict;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde::Deserialize;

use crate::{
    error::{During, Error},
    privileges::capability_bit,
    spec::Seccomp,
    sys::Instruction,
    syscalls::number,
};

/// Filters to install in this order.
pub(crate) type Programs = Vec<Vec<Instruction>>;

/// Always allowed by the default profile.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat
    fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr
    fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat
    getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list
    getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getxattr
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_pgetevents uretprobe io_cancel ioctl
    io_destroy io_getevents ioprio_get ioprio_set io_setup io_submit kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listmount
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
    mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap
    mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
    pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease
    pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg
    recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall
    rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam
    sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid
    setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit
    set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setxattr setxattrat
    shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat
    utimes vfork vmsplice wait4 waitid write writev
    process_vm_readv process_vm_writev ptrace arch_prctl modify_ldt riscv_flush_icache";

/// Allowed with a capability.
const ALLOWED_WITH: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// CLONE_NEW*: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters for a container with these capabilities (a mask). None at all for `Unconfined`.
pub(crate) fn compile(profile: &Seccomp, capabilities: u64) -> Result<Programs, Error> {
    match profile {
        Seccomp::Unconfined => Ok(Vec::new()),
        Seccomp::RuntimeDefault => default_profile(capabilities),
        Seccomp::Profile(path) => {
            let text = std::fs::read(path)
                .during(|| format!("reading the seccomp profile {}", path.display()))?;
            let profile: Profile = serde_json::from_slice(&text).map_err(|e| {
                Error::Other(format!(
                    "the seccomp profile {} is not in Docker's format: {e}",
                    path.display()
                ))
            })?;
            profile.compile(capabilities)
        }
    }
}

fn default_profile(capabilities: u64) -> Result<Programs, Error> {
    let mut rules = Rules::new();
    let mut allow = |names: &str| {
        for name in names.split_whitespace() {
            if let Some(number) = number(name) {
                rules.insert(number, Vec::new());
            }
        }
    };
    allow(ALLOWED);
    for (capability, names) in ALLOWED_WITH {
        if has(capabilities, capability) {
            allow(names);
        }
    }
    let admin = has(capabilities, "CAP_SYS_ADMIN");
    if !admin {
        // clone3 hides its flags from the filter: ENOSYS makes C libraries fall back to clone (second filter)
        allow("clone3");
        insert(
            &mut rules,
            "clone",
            vec![condition(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)?],
        )?;
    }
    // every socket but AF_VSOCK (40) and AF_ALG (38)
    for (op, family) in [
        (SeccompCmpOp::Lt, 38),
        (SeccompCmpOp::Eq, 39),
        (SeccompCmpOp::Gt, 40),
    ] {
        insert(&mut rules, "socket", vec![condition(0, op, family)?])?;
    }
    for persona in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
        insert(
            &mut rules,
            "personality",
            vec![condition(0, SeccompCmpOp::Eq, persona)?],
        )?;
    }
    let mut programs = vec![program(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
    )?];
    if !admin && let Some(clone3) = number("clone3") {
        programs.push(program(
            Rules::from([(clone3, Vec::new())]),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::ENOSYS as u32),
        )?);
    }
    Ok(programs)
}

fn has(capabilities: u64, name: &str) -> bool {
    capability_bit(name).is_some_and(|bit| capabilities & (1 << bit) != 0)
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    let length = if value > u64::from(u32::MAX) {
        SeccompCmpArgLen::Qword
    } else {
        SeccompCmpArgLen::Dword
    };
    SeccompCondition::new(argument, length, op, value).map_err(bad)
}

fn insert(rules: &mut Rules, name: &str, conditions: Vec<SeccompCondition>) -> Result<(), Error> {
    let Some(number) = number(name) else {
        return Ok(());
    };
    match rules.get_mut(&number) {
        // allowed without conditions already
        Some(chain) if chain.is_empty() => {}
        Some(chain) => chain.push(SeccompRule::new(conditions).map_err(bad)?),
        None => {
            let rule = SeccompRule::new(conditions).map_err(bad)?;
            rules.insert(number, vec![rule]);
        }
    }
    Ok(())
}

/// Numbers without conditions are found by halves; only those whose arguments decide are left to the library, which asks
/// one after the other.
fn program(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<Vec<Instruction>, Error> {
    let (plain, asked): (Rules, Rules) = rules.into_iter().partition(|(_, rule)| rule.is_empty());
    let numbers = |rules: &Rules, verdict: Verdict| {
        let known = rules.keys().map(|n| u32::try_from(*n).map_err(bad));
        let known = known.collect::<Result<Vec<u32>, Error>>();
        known.map(|known| known.into_iter().map(move |n| (n, verdict)))
    };
    let known: BTreeMap<u32, Verdict> = numbers(&plain, Verdict::Return(matched.clone().into()))?
        .chain(numbers(&asked, Verdict::Ask)?)
        .collect();
    let tail = match asked.is_empty() {
        true => Vec::new(),
        false => linear(asked, otherwise.clone(), matched)?,
    };
    Ok(dispatch::program(ARCH, &known, otherwise.into(), &tail))
}

/// `AUDIT_ARCH_…` of the calls that containers may make.
const ARCH: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else {
    0xc000_00b7
};

fn linear(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<Vec<Instruction>, Error> {
    let arch = std::env::consts::ARCH.try_into().map_err(bad)?;
    let filter = SeccompFilter::new(rules, otherwise, matched, arch).map_err(bad)?;
    let program: BpfProgram = filter.try_into().map_err(bad)?;
    Ok(program
        .iter()
        .map(|i| Instruction {
            code: i.code,
            jt: i.jt,
            jf: i.jf,
            k: i.k,
        })
        .collect())
}

fn bad(error: impl std::fmt::Display) -> Error {
    Error::Other(format!("the seccomp profile can't be compiled: {error}"))
}

/// Docker's (and the OCI's) JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

impl Entry {
    fn applies(&self, capabilities: u64) -> bool {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let included = self.includes.as_ref().is_none_or(|f| {
            f.caps.iter().all(|c| has(capabilities, c))
                && (f.arches.is_empty() || f.arches.iter().any(|a| a == arch))
        });
        let excluded = self.excludes.as_ref().is_some_and(|f| {
            f.caps.iter().any(|c| has(capabilities, c)) || f.arches.iter().any(|a| a == arch)
        });
        included && !excluded
    }

    fn conditions(&self) -> Result<Vec<SeccompCondition>, Error> {
        self.args
            .iter()
            .flatten()
            .map(|a| {
                let (op, value) = match a.op.as_str() {
                    "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, a.value),
                    "SCMP_CMP_NE" => (SeccompCmpOp::Ne, a.value),
                    "SCMP_CMP_LT" => (SeccompCmpOp::Lt, a.value),
                    "SCMP_CMP_LE" => (SeccompCmpOp::Le, a.value),
                    "SCMP_CMP_GT" => (SeccompCmpOp::Gt, a.value),
                    "SCMP_CMP_GE" => (SeccompCmpOp::Ge, a.value),
                    "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(a.value), a.value_two),
                    other => return Err(bad(format!("unknown comparison {other:?}"))),
                };
                condition(a.index, op, value)
            })
            .collect()
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, Error> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        other => return Err(bad(format!("unknown action {other:?}"))),
    })
}

impl Profile {
    /// One filter per action: the default one lets everything through that has an entry of any kind; each further one gives its action for its entries.
    fn compile(&self, capabilities: u64) -> Result<Programs, Error> {
        let default = action(&self.default_action, self.default_errno_ret)?;
        let mut named = Rules::new();
        let mut others: Vec<(SeccompAction, Rules)> = Vec::new();
        for entry in self.syscalls.iter().filter(|e| e.applies(capabilities)) {
            let act = action(&entry.action, entry.errno_ret)?;
            for name in &entry.names {
                let Some(number) = number(name) else {
                    continue;
                };
                let conditions = entry.conditions()?;
                if act == default {
                    continue;
                }
                add(&mut named, number, conditions.clone())?;
                if act != SeccompAction::Allow {
                    let at = match others.iter().position(|(a, _)| *a == act) {
                        Some(at) => at,
                        None => {
                            others.push((act.clone(), Rules::new()));
                            others.len() - 1
                        }
                    };
                    add(&mut others[at].1, number, conditions)?;
                }
            }
        }
        let mut programs = Vec::new();
        if default != SeccompAction::Allow {
            programs.push(program(named, default, SeccompAction::Allow)?);
        }
        for (act, rules) in others {
            programs.push(program(rules, SeccompAction::Allow, act)?);
        }
        Ok(programs)
    }
}

fn add(rules: &mut Rules, number: i64, conditions: Vec<SeccompCondition>) -> Result<(), Error> {
    if conditions.is_empty() {
        rules.insert(number, Vec::new());
        return Ok(());
    }
    let rule = SeccompRule::new(conditions).map_err(bad)?;
    match rules.get_mut(&number) {
        Some(chain) if chain.is_empty() => {}
        Some(chain) => chain.push(rule),
        None => {
            rules.insert(number, vec![rule]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the stacked programs as the kernel would and gives the strictest answer.
    fn run(programs: &Programs, name: &str, first_argument: u64) -> &'static str {
        let number = number(name).unwrap_or_else(|| panic!("{name}")) as u32;
        let arch: u32 = if cfg!(target_arch = "x86_64") {
            0xc000_003e
        } else {
            0xc000_00b7
        };
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        data[16..24].copy_from_slice(&first_argument.to_ne_bytes());
        let answers: Vec<u32> = programs.iter().map(|p| interpret(p, &data)).collect();
        // kill < errno < allow in strictness order
        match answers.iter().min_by_key(|a| (*a & 0xffff_0000) as i32) {
            None => "allow",
            Some(0x7fff_0000) => "allow",
            Some(0x0005_0001) => "EPERM",
            Some(0x0005_0026) => "ENOSYS",
            Some(0x8000_0000) => "kill",
            Some(other) => panic!("{other:x}"),
        }
    }

    fn interpret(program: &[Instruction], data: &[u8; 64]) -> u32 {
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let jump = |yes: bool| if yes { i.jt } else { i.jf } as usize;
            match i.code {
                0x20 => {
                    let k = i.k as usize;
                    a = u32::from_ne_bytes(data[k..k + 4].try_into().unwrap());
                }
                0x54 => a &= i.k,
                0x15 => at += jump(a == i.k),
                0x25 => at += jump(a > i.k),
                0x35 => at += jump(a >= i.k),
                0x05 => at += i.k as usize,
                0x06 => return i.k,
                other => panic!("instruction {other:x}"),
            }
        }
    }

    #[test]
    fn default_profile_answers() {
        let admin = 1 << capability_bit("CAP_SYS_ADMIN").unwrap();
        let plain = compile(&Seccomp::RuntimeDefault, 0).unwrap();
        let powerful = compile(&Seccomp::RuntimeDefault, admin).unwrap();
        for (name, argument, want, want_admin) in [
            ("read", 0, "allow", "allow"),
            ("execve", 0, "allow", "allow"),
            ("mount", 0, "EPERM", "allow"),
            ("reboot", 0, "EPERM", "EPERM"),
            ("kexec_load", 0, "EPERM", "EPERM"),
            ("keyctl", 0, "EPERM", "EPERM"),
            ("clone3", 0, "ENOSYS", "allow"),
            ("clone", libc::SIGCHLD as u64, "allow", "allow"),
            ("clone", libc::CLONE_NEWUSER as u64, "EPERM", "allow"),
            ("socket", libc::AF_INET as u64, "allow", "allow"),
            ("socket", libc::AF_ALG as u64, "EPERM", "EPERM"),
            ("socket", libc::AF_VSOCK as u64, "EPERM", "EPERM"),
            ("personality", 0, "allow", "allow"),
            ("personality", 0x4_0000, "EPERM", "EPERM"),
        ] {
            assert_eq!(run(&plain, name, argument), want, "{name} {argument}");
            assert_eq!(
                run(&powerful, name, argument),
                want_admin,
                "{name} {argument} with CAP_SYS_ADMIN"
            );
        }
        assert!(compile(&Seccomp::Unconfined, 0).unwrap().is_empty());
    }

    #[test]
    fn what_is_found_by_halves_is_what_all_comparisons_say() {
        let mut rules = Rules::new();
        for name in ALLOWED.split_whitespace() {
            if let Some(number) = number(name) {
                rules.insert(number, Vec::new());
            }
        }
        for family in [1, 2] {
            let only = condition(0, SeccompCmpOp::Eq, family).unwrap();
            insert(&mut rules, "socket", vec![only]).unwrap();
        }
        let (no, yes) = (SeccompAction::Errno(1), SeccompAction::Allow);
        let whole = linear(rules.clone(), no.clone(), yes.clone()).unwrap();
        let halves = program(rules, no, yes).unwrap();
        assert!(
            halves.len() * 3 < whole.len(),
            "{} and {}",
            halves.len(),
            whole.len()
        );
        let strange = [u32::MAX, 1 << 30, (1 << 30) + 1, 1 << 31];
        for arch in [ARCH, 0x4000_0003] {
            for number in (0..600).chain(strange) {
                for argument in [0u64, 1, 2, 3] {
                    let mut data = [0u8; 64];
                    data[0..4].copy_from_slice(&number.to_ne_bytes());
                    data[4..8].copy_from_slice(&arch.to_ne_bytes());
                    data[16..24].copy_from_slice(&argument.to_ne_bytes());
                    let (got, want) = (interpret(&halves, &data), interpret(&whole, &data));
                    assert_eq!(got, want, "{number} {argument} of {arch:x}");
                }
            }
        }
    }

    #[test]
    fn profiles_in_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        let check = |text: &str, cases: &[(&str, u64, &str)]| {
            std::fs::write(&path, text).unwrap();
            let programs = compile(&Seccomp::Profile(path.clone()), 0).unwrap();
            for (name, argument, want) in cases {
                assert_eq!(run(&programs, name, *argument), *want, "{name} of {text}");
            }
        };
        check(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","chmod"],"action":"SCMP_ACT_ERRNO"},{"names":["chown"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
            &[
                ("read", 0, "allow"),
                ("mkdir", 0, "EPERM"),
                ("chown", 0, "ENOSYS"),
            ],
        );
        check(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},{"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#,
            &[
                ("read", 0, "allow"),
                ("write", 0, "EPERM"),
                ("socket", 2, "allow"),
                ("socket", 3, "EPERM"),
                ("mount", 0, "EPERM"),
            ],
        );
        std::fs::write(&path, "{}").unwrap();
        let error = compile(&Seccomp::Profile(path.clone()), 0).unwrap_err();
        assert!(error.to_string().contains("Docker's format"), "{error}");
    }
}
