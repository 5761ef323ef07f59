//! A raw netfilter netlink socket, and the byte builder for its messages.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

pub(crate) const NLM_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const NLM_ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const NLM_CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const NLM_EXCL: u16 = libc::NLM_F_EXCL as u16;
pub(crate) const NLM_APPEND: u16 = libc::NLM_F_APPEND as u16;
pub(crate) const NLM_DUMP: u16 = libc::NLM_F_DUMP as u16;

const NLMSG_HEADER: usize = 16;
const NFGEN_HEADER: usize = 4;
/// How long the kernel may take to answer before we call it an error.
const ANSWER_DEADLINE_SECONDS: i64 = 20;
/// What we ask the kernel to let one batch hold, in bytes.
const SEND_BUFFER_BYTES: i32 = 16 << 20;
/// Room for one datagram of a dump or of answers; the kernel fills at most 32 KiB of it.
const RECEIVE_BYTES: usize = 64 << 10;
const NESTED: u16 = 1 << 15;

/// A failed request: the kernel's errno and, when it gives one, its reason.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn io(doing: &str, error: io::Error) -> Refusal {
        Refusal {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            text: format!("{doing}: {error}"),
        }
    }
}

/// Netlink messages in one buffer, each with its attributes.
#[derive(Default)]
pub(crate) struct Messages {
    pub(crate) bytes: Vec<u8>,
    start: usize,
    last: usize,
    count: u32,
}

impl Messages {
    /// Appends one message of netfilter subsystem type `kind`; `fill` writes its attributes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Messages),
    ) {
        self.start = self.bytes.len();
        self.last = self.start;
        self.count += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        fill(self);
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Messages appended so far.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of attributes in the message being filled.
    pub(crate) fn filled(&self) -> usize {
        self.bytes.len() - self.start - NLMSG_HEADER - NFGEN_HEADER
    }

    fn flag_last(&mut self, flag: u16) {
        let at = self.last + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | flag;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Messages)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = self.bytes.len() - at;
        debug_assert!(
            length <= usize::from(u16::MAX),
            "a netlink attribute holds 64 KiB"
        );
        self.bytes[at..at + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }
}

/// The attributes in `bytes`, as (type without flags, value).
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.len() < 4 {
            return None;
        }
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of type `kind`.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(k, _)| *k == kind)
        .map(|(_, value)| value)
}

/// A NUL-terminated string attribute.
pub(crate) fn text(bytes: &[u8]) -> &str {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or("")
}

/// A big-endian number attribute.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A NETLINK_NETFILTER socket, used by one thread at a time.
pub(crate) struct Socket {
    fd: OwnedFd,
    batch_bytes_max: usize,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Socket> {
        // SAFETY: plain syscall without pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_NETFILTER,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut socket = Socket {
            fd,
            batch_bytes_max: 0,
            buffer: vec![0; RECEIVE_BYTES],
        };
        let deadline = libc::timeval {
            tv_sec: ANSWER_DEADLINE_SECONDS,
            tv_usec: 0,
        };
        socket.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &deadline)?;
        socket.set(libc::SOL_SOCKET, libc::SO_SNDTIMEO, &deadline)?;
        // In a user namespace the force variants are refused: there `wmem_max` caps a batch.
        for (force, plain) in [
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        ] {
            if socket
                .set(libc::SOL_SOCKET, force, &SEND_BUFFER_BYTES)
                .is_err()
            {
                socket.set(libc::SOL_SOCKET, plain, &SEND_BUFFER_BYTES)?;
            }
        }
        socket.set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, &1i32)?;
        socket.set(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, &1i32)?;
        socket.batch_bytes_max = (socket.send_buffer()? - 4096) as usize;
        Ok(socket)
    }

    /// The longest batch the kernel takes on this socket, in bytes.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max
    }

    fn set<T: Copy>(&self, level: i32, option: i32, value: &T) -> io::Result<()> {
        // SAFETY: `value` is a live T, and the length given is its size.
        let answer = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if answer < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn send_buffer(&self) -> io::Result<i32> {
        let mut value = 0i32;
        let mut length = size_of::<i32>() as libc::socklen_t;
        // SAFETY: both pointers are to live locals of the sizes given.
        let answer = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                std::ptr::from_mut(&mut value).cast(),
                &mut length,
            )
        };
        if answer < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(value)
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: pointer and length are those of a live slice.
            let sent =
                unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            // SAFETY: pointer and length are those of our own buffer.
            let got = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    0,
                )
            };
            if got >= 0 {
                return Ok(got as usize);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Throws away what is left of a former, failed exchange.
    fn drain(&mut self) {
        // SAFETY: pointer and length are those of our own buffer.
        while unsafe {
            libc::recv(
                self.fd.as_raw_fd(),
                self.buffer.as_mut_ptr().cast(),
                self.buffer.len(),
                libc::MSG_DONTWAIT,
            )
        } > 0
        {}
    }

    /// Sends `messages` and waits for the answer to the last one; the first refusal wins.
    pub(crate) fn ask(&mut self, mut messages: Messages) -> Result<(), Refusal> {
        messages.flag_last(NLM_ACK);
        self.ask_for_sequence(&messages.bytes, messages.count)
    }

    /// Sends a transaction: `messages` between batch begin and batch end, all or nothing.
    pub(crate) fn commit(
        &mut self,
        subsystem: u16,
        fill: impl FnOnce(&mut Messages),
    ) -> Result<(), Refusal> {
        let mut batch = Messages::default();
        batch.message(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, 0, subsystem, |_| {});
        fill(&mut batch);
        if batch.count() == 1 {
            return Ok(());
        }
        let last = batch.count();
        batch.flag_last(NLM_ACK);
        batch.message(libc::NFNL_MSG_BATCH_END as u16, 0, 0, subsystem, |_| {});
        self.ask_for_sequence(&batch.bytes, last)
    }

    fn ask_for_sequence(&mut self, bytes: &[u8], sequence: u32) -> Result<(), Refusal> {
        self.drain();
        self.send(bytes)
            .map_err(|error| Refusal::io("send", error))?;
        let mut refusal = None;
        loop {
            let got = self
                .receive()
                .map_err(|error| Refusal::io("receive", error))?;
            for message in split(&self.buffer[..got]) {
                if message.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                if let Some(found) = refused(&message) {
                    let fatal = message.sequence == sequence || message.sequence == 1;
                    let first = refusal.get_or_insert(found);
                    if fatal {
                        return Err(first.clone());
                    }
                } else if message.sequence == sequence {
                    return refusal.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends one dump request and gives each answer (type, attributes) to `each`.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        family: u8,
        fill: impl FnOnce(&mut Messages),
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Refusal> {
        let mut request = Messages::default();
        request.message(kind, NLM_DUMP, family, 0, fill);
        self.drain();
        self.send(&request.bytes)
            .map_err(|error| Refusal::io("send", error))?;
        loop {
            let got = self
                .receive()
                .map_err(|error| Refusal::io("receive", error))?;
            for message in split(&self.buffer[..got]) {
                if message.flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
                    return Err(Refusal {
                        errno: libc::EINTR,
                        text: "changed while being read".into(),
                    });
                }
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return refused(&message).map_or(Ok(()), Err);
                    }
                    _ => each(
                        message.kind,
                        message.body.get(NFGEN_HEADER..).unwrap_or_default(),
                    ),
                }
            }
        }
    }
}

struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn split(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..NLMSG_HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let body = bytes.get(NLMSG_HEADER..length)?;
        let message = Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            body,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The refusal in an error (or done) message; None for a plain acknowledgement.
fn refused(message: &Received<'_>) -> Option<Refusal> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = message.body.get(..4).map_or(0, |bytes| {
        i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    });
    if code == 0 {
        return None;
    }
    // With NETLINK_CAP_ACK the error holds only the header of the request; attributes follow it.
    let reason = message
        .body
        .get(4 + NLMSG_HEADER..)
        .and_then(|rest| attribute(rest, NLMSGERR_ATTR_MSG))
        .map(text);
    let error = io::Error::from_raw_os_error(-code);
    let text = match reason {
        Some(reason) if !reason.is_empty() => format!("{error}: {reason}"),
        _ => error.to_string(),
    };
    Some(Refusal {
        errno: -code,
        text: format!("message {}: {text}", message.sequence),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_pad() {
        let mut messages = Messages::default();
        messages.message(7, 0, 2, 0, |m| {
            m.string(1, "abc");
            m.nest(2, |m| m.number(3, 0x0102_0304));
        });
        let all = split(&messages.bytes).collect::<Vec<_>>();
        assert_eq!(all.len(), 1);
        let body = &all[0].body[NFGEN_HEADER..];
        assert_eq!(attribute(body, 1).map(text), Some("abc"));
        let inner = attribute(body, 2).expect("nested");
        assert_eq!(attribute(inner, 3).and_then(number), Some(0x0102_0304));
    }

    #[test]
    fn cut_messages_end_the_walk() {
        let mut messages = Messages::default();
        messages.message(7, 0, 2, 0, |m| m.number(1, 5));
        for cut in 0..messages.bytes.len() {
            assert_eq!(split(&messages.bytes[..cut]).count(), 0);
        }
        assert_eq!(attributes(&[8, 0, 1]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0, 0]).count(), 0);
    }
}
