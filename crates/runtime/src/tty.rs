//! A terminal's master side, for async readers and writers.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

use crate::sys;

/// Hands a descriptor to tokio's event loop.
pub(crate) fn ready_when(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor for all its life, and AsyncFd takes it over.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// What a person's terminal is connected to. Reading ends when the last process inside has let go; clones share the terminal (one to read, one to write, one to resize).
#[derive(Clone)]
pub struct Tty {
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl Tty {
    pub(crate) fn new(master: OwnedFd) -> io::Result<Tty> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let fd = ready_when(master, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Tty { fd: Arc::new(fd) })
    }

    /// Columns and rows; programs inside get SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        // a terminal that has ended has no size
        let _ = sys::set_window(self.fd.get_ref(), columns, rows);
    }
}

impl AsyncRead for Tty {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            match guard.try_io(|fd| rustix::io::read(fd.get_ref(), &mut *room).map_err(Into::into))
            {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // Linux says EIO when the other side is closed
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Tty {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| rustix::io::write(fd.get_ref(), bytes).map_err(Into::into)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    /// A terminal has no half-close: end of input is a typed Ctrl-D.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
