//! The system calls that no safe wrapper offers, each with the narrowest safe face.

use std::{
    ffi::CStr,
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; on success returns a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

pub(crate) fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: a live descriptor, an integer, a null siginfo (allowed), no flags.
    unsafe {
        check(libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        ))?;
    }
    Ok(())
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Signalled(i32),
}

impl Ended {
    pub(crate) fn code(self) -> i32 {
        match self {
            Ended::Exited(code) => code,
            Ended::Signalled(signal) => 128 + signal,
        }
    }
}

/// Reaps the child behind a pidfd; None when it still runs. An error of kind ECHILD: it's no child of ours.
pub(crate) fn reap(pidfd: &OwnedFd, block: bool) -> io::Result<Option<Ended>> {
    let flags = libc::WEXITED | libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: info is writable and large enough; waitid fills it or leaves it zeroed.
        let result = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                pidfd.as_raw_fd() as libc::id_t,
                info.as_mut_ptr(),
                flags,
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // SAFETY: zeroed above, so initialised whether or not waitid wrote to it; the accessors read fields that SIGCHLD infos have.
        let (pid, code, status) = unsafe {
            let info = info.assume_init();
            (info.si_pid(), info.si_code, info.si_status())
        };
        if pid == 0 {
            return Ok(None);
        }
        return Ok(Some(if code == libc::CLD_EXITED {
            Ended::Exited(status)
        } else {
            Ended::Signalled(status)
        }));
    }
}

/// Waits until a descriptor can be read or hung up. False: time is over.
pub(crate) fn wait_readable(fd: &impl AsFd, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = timeout.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, millis) > 0 }
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

pub(crate) enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// `fork` with namespaces, a pidfd, and (cgroup v2) a cgroup to be born in.
///
/// # Safety
/// The calling process has one thread only: the child inherits locks as they are.
pub(crate) unsafe fn fork(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: flags as u64 | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork: the child runs on a copy of this stack and memory. args and pidfd outlive the call. One thread only, by the caller's promise.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    Ok(Forked::Parent {
        pid: pid as i32,
        // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
    })
}

/// A sibling of the calling process: its parent is ours, who waits for it.
///
/// # Safety
/// As [`fork`].
pub(crate) unsafe fn fork_sibling(flags: i32) -> io::Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: flags as u64 | libc::CLONE_PIDFD as u64 | libc::CLONE_PARENT as u64,
        pidfd: &raw mut pidfd as u64,
        // the signal at its end is what ours would be
        exit_signal: 0,
        ..CloneArgs::default()
    };
    // SAFETY: as in `fork`.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    Ok(Forked::Parent {
        pid: pid as i32,
        // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
    })
}

/// The number that the process behind a handle has in our PID namespace.
pub(crate) fn pid_of(pidfd: &OwnedFd) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pid:"))?;
    line.trim().parse().ok().filter(|pid| *pid > 0)
}

/// The nice value of this process.
pub(crate) fn niceness() -> i32 {
    // SAFETY: numbers only. -1 is a value, too, so no error is looked for; of the own process there is none.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Sets it, as near as can be. With 10 more than others have, a tenth of the processor's time is left to it where that is scarce.
fn set_niceness(value: i32) {
    // SAFETY: numbers only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value.clamp(-20, 19)) };
}

/// Ranks the process, whose session is its own: with `value` as its nice value, and `session` as that of the session.
///
/// To most distributions' kernels (`kernel.sched_autogroup_enabled`) each session is one among its like, whatever it consists
/// of, and a process's own value only counts within its session. See autogroup in sched(7).
pub(crate) fn rank(value: i32, session: i32) {
    set_niceness(value);
    // a kernel without such groups has no such file
    let _ = std::fs::write("/proc/self/autogroup", session.to_string());
}

pub(crate) fn setns(fd: &impl AsFd, flags: i32) -> io::Result<()> {
    // SAFETY: a live descriptor and flags.
    check(unsafe { libc::setns(fd.as_fd().as_raw_fd(), flags) }.into()).map(drop)
}

pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: flags only; changes the calling thread's namespaces.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr on a mount given by descriptor. `attributes` are `MOUNT_ATTR_…`, `propagation` is `MS_PRIVATE`, … or 0.
pub(crate) fn mount_setattr(
    fd: &impl AsFd,
    attributes: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: attributes,
        propagation,
        ..MountAttr::default()
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: a live descriptor, an empty C string, a struct of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 1;

/// Maps the ids of a mount, and of those below it, as `namespace` does; the mount hangs nowhere yet.
pub(crate) fn mount_idmap(fd: &impl AsFd, namespace: &impl AsFd) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_fd().as_raw_fd() as u64,
        ..MountAttr::default()
    };
    // SAFETY: live descriptors, an empty C string, a struct of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// prctl with integer arguments.
pub(crate) fn prctl(option: i32, a: u64, b: u64) -> io::Result<i32> {
    // SAFETY: only called with options whose arguments are integers (or, for PR_SET_NAME, see `set_name`).
    check(unsafe { libc::prctl(option, a, b, 0u64, 0u64) }.into()).map(|v| v as i32)
}

pub(crate) fn set_name(name: &CStr) {
    // SAFETY: the kernel copies at most 16 bytes up to the NUL.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Closes every descriptor from `first` on.
///
/// # Safety
/// Nothing in the process owns one of them any longer.
pub(crate) unsafe fn close_from(first: u32) {
    // SAFETY: integers only; by the caller's promise nobody uses what gets closed.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Marks every descriptor from `first` on as close-on-exec.
pub(crate) fn cloexec_from(first: u32) {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: integers only; closes nothing now.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// All signals blocked or none.
pub(crate) fn block_signals(blocked: bool) {
    // SAFETY: an initialised set, no old set wanted.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        if blocked {
            libc::sigfillset(set.as_mut_ptr());
        } else {
            libc::sigemptyset(set.as_mut_ptr());
        }
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Every signal's action back to the default: Rust ignores SIGPIPE, and glibc's posix_spawn leaves 32 and 33 (its own) ignored,
/// which would be inherited over exec. By the system call, since glibc's `signal` refuses its own two.
pub(crate) fn reset_signals() {
    /// Longer than any architecture's `struct sigaction` of the kernel; all zero is SIG_DFL without flags, with no signal blocked.
    const DEFAULT: [u64; 8] = [0; 8];
    /// Bytes of the kernel's set of 64 signals.
    const SET: usize = 8;
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours, the kernel only reads `DEFAULT`; SIGKILL and SIGSTOP only give an error.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SET,
            );
        }
    }
}

pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process without running anything else.
    unsafe { libc::_exit(code) }
}

/// Start time in clock ticks since boot: with the pid it names a process for good.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name in parentheses may hold spaces and parentheses
    stat[stat.rfind(')')? + 2..]
        .split(' ')
        .nth(19)?
        .parse()
        .ok()
}

pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

pub(crate) fn c_string(path: &Path) -> io::Result<std::ffi::CString> {
    std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Gives a new pseudo-terminal's other end; `master` is open on /dev/ptmx.
pub(crate) fn pty_peer(master: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: integers in, a new descriptor out.
    unsafe {
        let unlock: libc::c_int = 0;
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock).into())?;
        let fd = check(
            libc::ioctl(
                master.as_raw_fd(),
                libc::TIOCGPTPEER,
                libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
            )
            .into(),
        )?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

pub(crate) fn set_controlling_tty(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: a live descriptor and an integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

pub(crate) fn set_window(fd: &impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: a live descriptor and a struct that outlives the call.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())
        .map(drop)
}

/// Puts a descriptor at a fixed number (not close-on-exec).
pub(crate) fn dup_to(fd: &impl AsFd, number: RawFd) -> io::Result<()> {
    // SAFETY: `number` is one of 0..=2, which nothing in the role processes owns as OwnedFd.
    check(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) }.into()).map(drop)
}

/// Brings the loopback device of the calling thread's network namespace up.
/// How many bytes written to a Unix stream socket its other end has not taken yet, counted as the kernel holds them: more
/// than there are, and 0 when there are none.
///
/// # Errors
/// What the kernel says of other files.
pub fn untaken(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (TIOCOUTQ) writes one int.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    check(done.into())?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: a socket of our own; ifreq is plain data with a NUL-terminated name, as SIOCGIFFLAGS/SIOCSIFFLAGS want.
    unsafe {
        let socket = OwnedFd::from_raw_fd(check(
            libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into(),
        )? as RawFd);
        let mut request: libc::ifreq = MaybeUninit::zeroed().assume_init();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        check(
            libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCGIFFLAGS as _,
                &raw mut request,
            )
            .into(),
        )?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(
            libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCSIFFLAGS as _,
                &raw mut request,
            )
            .into(),
        )?;
    }
    Ok(())
}

/// One message from the kernel's user database is more than we need: ids are numbers here.
pub(crate) fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: raw system calls on the calling (only) thread; `groups` outlives the call.
    unsafe {
        check(libc::syscall(
            libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr(),
        ))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
const CAP_VERSION_3: u32 = 0x2008_0522;

pub(crate) fn permitted_capabilities() -> io::Result<u64> {
    let mut header = CapHeader {
        version: CAP_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes a header and two data structs.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(data[0].permitted as u64 | (data[1].permitted as u64) << 32)
}

/// Effective and permitted become `mask`; nothing is inheritable.
pub(crate) fn set_capabilities(mask: u64) -> io::Result<()> {
    let mut header = CapHeader {
        version: CAP_VERSION_3,
        pid: 0,
    };
    let half = |bits: u64| CapData {
        effective: bits as u32,
        permitted: bits as u32,
        inheritable: 0,
    };
    let data = [half(mask), half(mask >> 32)];
    // SAFETY: version 3 takes a header and two data structs.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Leaves the session keyring that came from whoever started us for an empty one. SOURCE: runc libcontainer/keys.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: integers and a null name only.
    let joined = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    });
    match joined {
        // a kernel without keyrings
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(drop),
    }
}

/// One instruction of a seccomp filter, as the kernel lays it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// Puts a filter on the calling thread. Needs no_new_privs or CAP_SYS_ADMIN.
pub(crate) fn install_seccomp(program: &[Instruction]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let program = Program {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr(),
    };
    // SAFETY: same layout as struct sock_fprog; the kernel copies it and the instructions.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })
    .map(drop)
}

/// Replaces the process; returns only to tell why not.
pub(crate) fn execve(
    path: &CStr,
    args: &[std::ffi::CString],
    env: &[std::ffi::CString],
) -> io::Error {
    let pointers = |strings: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: NULL-terminated arrays of C strings that live until exec replaces the memory.
    unsafe {
        libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr());
    }
    io::Error::last_os_error()
}

/// Gives free heap pages back: the shim lives long and needs next to nothing.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: an ordinary call of the C allocator, one thread only.
    unsafe {
        libc::malloc_trim(0);
    }
}

unsafe extern "C" {
    /// Where the program's read-only part begins. Set by the linker.
    static __executable_start: u8;
    /// Where its code ends. Set by the linker.
    static etext: u8;
}

/// Lets go of the program's pages that were needed so far; what is needed again is mapped again from the page cache. A shim
/// runs next to nothing of a large program for as long as it lives, and the kernel maps sixteen pages around each it touches.
pub(crate) fn forget_program() {
    let (from, to) = (&raw const __executable_start, &raw const etext);
    // SAFETY: asks for a number that never changes.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize;
    let (from, to) = (
        from as usize / page * page,
        (to as usize).next_multiple_of(page),
    );
    // SAFETY: nothing is written there, so each page is what the program's file holds, and comes back from it.
    let _ = unsafe {
        libc::madvise(
            from as *mut libc::c_void,
            to.saturating_sub(from),
            libc::MADV_DONTNEED,
        )
    };
}
