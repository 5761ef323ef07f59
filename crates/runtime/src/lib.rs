//! OCI containers and their shims.
//!
//! It is: create, start, exec, signal, wait for, list and delete containers that outlive the calling process.
//! It is not: an image store, a network, a scheduler.
//! It must never know: Kubernetes.
//!
//! There is no daemon. Each container has a shim, the calling program itself started in another role ([`dispatch_role`]): one thread, no heap to speak of. The shim makes the container's process, which builds its own file tree and gives up its powers before it becomes the container's program. The shim then copies output to the log and at the end writes down the exit. The calling process may be killed at any moment: all there is to know is in files (see `state`), and [`Runtime::open`] finds it again.
//!
//! Nothing here uses a library for making containers: joining a v1 cgroup the way such libraries do costs 14 ms of waiting inside the kernel, which is most of what `crun` needs for a whole container (see `cgroup`), and they install seccomp filters in places where a container that may gain privileges can't have one (see `privileges`).

#![deny(unsafe_op_in_unsafe_fn)]

mod adopt;
mod apparmor;
mod attach;
mod bpf;
mod cgroup;
mod devices;
mod enter;
mod entry;
mod error;
mod exec;
mod exec_role;
mod freeze;
mod init;
mod inner;
mod inside;
mod lean;
mod log;
mod log_files;
mod measure;
mod pause;
mod peek;
mod plan;
mod privileges;
mod rlimit;
mod role;
mod rootfs;
mod runtime;
mod sandbox;
mod seccomp;
mod shim;
mod socket;
mod spec;
mod state;
mod sys;
mod syscalls;
mod tty;
mod usage;
mod userns;
mod watcher;

pub use apparmor::{AppArmor, AppArmorError, DEFAULT_PROFILE as APPARMOR_DEFAULT};
pub use attach::{AttachVoice, Attachment, Output};
pub use enter::EnteredProcess;
pub use error::Error;
pub use exec::ExecProcess;
pub use log_files::{LogFile, LogMoved, OpenedLog, next_log_file, take_log_files};
pub use privileges::CAPABILITIES;
pub use rlimit::Rlimit;
pub use role::dispatch_role;
pub use runtime::Runtime;
pub use spec::{
    Config, Container, ContainerSpec, Device, ExecSpec, Exit, HostNamespaces, Id, IdRange, IoLimit,
    IoLimits, MemoryMount, Mount, Resources, Sandbox, SandboxSpec, Seccomp, State, Stats, User,
};
pub use sys::untaken;
pub use tty::Tty;
pub use usage::{
    CpuUsage, HugePageUsage, IoUsage, MemoryUsage, PidsUsage, Pressure, Pressures, Stall, Usage,
};
