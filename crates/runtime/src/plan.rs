//! What the calling process hands to one of its roles, and what the role answers.
//!
//! A role starts with one socket as its standard input. The plan comes first: a memory file in a message with whatever other descriptors are needed. Answers are one message each, a letter and its data.

use std::{
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cgroup::Group,
    privileges::Process,
    rootfs::Tree,
    seccomp::Programs,
    socket,
    spec::{ContainerSpec, Exit, IdRange},
    state::Started,
    sys::Instruction,
};

/// Longest answer, in bytes; texts are cut to fit.
pub(crate) const ANSWER_MAX: usize = 8 * 1024;

/// Namespaces to join by path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Pins {
    pub(crate) net: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) pid: Option<PathBuf>,
    pub(crate) user: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShimPlan {
    pub(crate) spec: ContainerSpec,
    pub(crate) process: Process,
    pub(crate) pins: Pins,
    /// a PID namespace of its own, made by whoever makes the process
    pub(crate) own_pids: bool,
    /// with a user namespace (`pins.user`) only
    pub(crate) ids: Option<IdRange>,
    pub(crate) tree: Tree,
    /// a mount namespace to start from comes along
    pub(crate) lean: bool,
    pub(crate) cgroups: Group,
    pub(crate) boot: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecPlan {
    pub(crate) process: Process,
    pub(crate) cgroups: Group,
    /// of the container's user namespace, if it has one of its own
    pub(crate) ids: Option<IdRange>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PausePlan {
    pub(crate) cgroups: Group,
    pub(crate) pin: PathBuf,
    pub(crate) empty: PathBuf,
    pub(crate) user: Option<PathBuf>,
}

pub(crate) enum Answer {
    /// the program runs
    Started(Started),
    /// it could not be started
    Failed(String),
    Exited(Exit),
    /// a terminal's master
    Tty(OwnedFd),
}

fn raw_bytes(program: &[Instruction]) -> Vec<u8> {
    program
        .iter()
        .flat_map(|i| {
            let mut b = [0u8; 8];
            b[0..2].copy_from_slice(&i.code.to_ne_bytes());
            b[2] = i.jt;
            b[3] = i.jf;
            b[4..8].copy_from_slice(&i.k.to_ne_bytes());
            b
        })
        .collect()
}

fn from_raw_bytes(bytes: &[u8]) -> Vec<Instruction> {
    bytes
        .chunks_exact(8)
        .map(|b| Instruction {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect()
}

/// Puts the plan into the socket; the role may start later.
pub(crate) fn send_plan<T: Serialize>(
    socket: &OwnedFd,
    plan: &T,
    seccomp: &Programs,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let memory = rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    let json = serde_json::to_vec(plan)?;
    let mut all = Vec::with_capacity(json.len() + 1024);
    let mut part = |bytes: &[u8]| {
        all.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
        all.extend_from_slice(bytes);
    };
    part(&json);
    for program in seccomp {
        part(&raw_bytes(program));
    }
    file.write_all(&all)?;
    let mut with_plan = vec![file.as_fd()];
    with_plan.extend_from_slice(fds);
    socket::send(socket, b"P", &with_plan)
}

/// The role's side of [`send_plan`].
pub(crate) fn receive_plan<T: DeserializeOwned>(
    socket: &OwnedFd,
) -> io::Result<(T, Programs, Vec<OwnedFd>)> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let (bytes, mut fds) = socket::receive(socket, 8, true)?;
    if bytes != b"P" || fds.is_empty() {
        return Err(broken());
    }
    let mut file = std::fs::File::from(fds.remove(0));
    file.rewind()?;
    let mut all = Vec::new();
    file.read_to_end(&mut all)?;
    let mut rest = all.as_slice();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (len, tail) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        let len = u32::from_ne_bytes(*len) as usize;
        let (part, tail) = tail.split_at_checked(len).ok_or_else(broken)?;
        parts.push(part);
        rest = tail;
    }
    let (json, programs) = parts.split_first().ok_or_else(broken)?;
    let plan = serde_json::from_slice(json)?;
    Ok((
        plan,
        programs.iter().map(|p| from_raw_bytes(p)).collect(),
        fds,
    ))
}

/// Tells the caller something. It may be gone, which is no error: false.
pub(crate) fn answer(socket: &impl AsFd, answer: &Answer) -> bool {
    let (letter, data, fds): (u8, Vec<u8>, Vec<BorrowedFd<'_>>) = match answer {
        Answer::Started(s) => (b'S', serde_json::to_vec(s).unwrap_or_default(), vec![]),
        Answer::Failed(text) => (b'E', text.clone().into_bytes(), vec![]),
        Answer::Exited(exit) => (b'X', serde_json::to_vec(exit).unwrap_or_default(), vec![]),
        Answer::Tty(fd) => (b'T', Vec::new(), vec![fd.as_fd()]),
    };
    let mut message = vec![letter];
    message.extend_from_slice(&data[..data.len().min(ANSWER_MAX - 1)]);
    socket::send(socket, &message, &fds).is_ok()
}

/// One answer; None when the role is gone.
pub(crate) fn receive_answer(socket: &impl AsFd, block: bool) -> io::Result<Option<Answer>> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let (bytes, mut fds) = match socket::receive(socket, ANSWER_MAX, block) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        other => other?,
    };
    let Some((letter, data)) = bytes.split_first() else {
        return Ok(None);
    };
    Ok(Some(match letter {
        b'S' => Answer::Started(serde_json::from_slice(data)?),
        b'E' => Answer::Failed(String::from_utf8_lossy(data).into_owned()),
        b'X' => Answer::Exited(serde_json::from_slice(data)?),
        b'T' => Answer::Tty(fds.pop().ok_or_else(broken)?),
        _ => return Err(broken()),
    }))
}
