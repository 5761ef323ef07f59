//! The networks that ports are opened in: the machine's, and those of its further nodes.

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
};

/// As the standard library has it.
const BACKLOG: i32 = 128;

type Bind<T> = Arc<dyn Fn(SocketAddr) -> io::Result<T> + Send + Sync>;

/// A network; sockets stay in the one that they were opened in, whoever reads them.
#[derive(Clone)]
pub struct Ground {
    /// Of the node; empty for the machine itself.
    name: String,
    tcp: Bind<TcpListener>,
    udp: Bind<UdpSocket>,
}

impl Ground {
    /// The network of node `name`, in which the two open what listens.
    pub fn of_node(
        name: String,
        tcp: impl Fn(SocketAddr) -> io::Result<TcpListener> + Send + Sync + 'static,
        udp: impl Fn(SocketAddr) -> io::Result<UdpSocket> + Send + Sync + 'static,
    ) -> Ground {
        Ground {
            name,
            tcp: Arc::new(tcp),
            udp: Arc::new(udp),
        }
    }

    pub(crate) fn machine() -> Ground {
        Ground::of_node(String::new(), tcp_on_machine, udp_on_machine)
    }

    /// Not blocking, as the runtime wants them.
    pub(crate) fn tcp(&self, at: SocketAddr) -> io::Result<TcpListener> {
        let socket = (self.tcp)(at)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// As [`Ground::tcp`].
    pub(crate) fn udp(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        let socket = (self.udp)(at)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// For messages, behind an address.
    pub(crate) fn said(&self) -> String {
        match self.name.as_str() {
            "" => String::new(),
            name => format!(" of node {name}"),
        }
    }
}

/// The names of the cluster's Services are answered at this port, on an address of its own.
const DNS: u16 = 53;

/// A TCP port of the machine. All addresses' port 53 can be had although the cluster's name server holds one of them:
/// what comes to that one stays with it.
///
/// # Errors
/// When another program holds the port, or the machine hasn't got the address.
pub fn tcp_on_machine(at: SocketAddr) -> io::Result<TcpListener> {
    if !beside_dns(at) {
        return TcpListener::bind(at);
    }
    let socket = shared(at, SocketType::STREAM)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// As [`tcp_on_machine`], for datagrams.
///
/// # Errors
/// As [`tcp_on_machine`].
pub fn udp_on_machine(at: SocketAddr) -> io::Result<UdpSocket> {
    match beside_dns(at) {
        false => UdpSocket::bind(at),
        true => Ok(shared(at, SocketType::DGRAM)?.into()),
    }
}

fn beside_dns(at: SocketAddr) -> bool {
    at.port() == DNS && at.ip().is_unspecified()
}

/// A socket that lets those bind beside it that let it: only the same user's, and the one with an address goes first.
fn shared(at: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    Ok(socket)
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ground").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_beside_one() {
        let one = shared("127.0.0.1:0".parse().unwrap(), SocketType::STREAM).unwrap();
        rustix::net::listen(&one, BACKLOG).unwrap();
        let at = TcpListener::from(one.try_clone().unwrap())
            .local_addr()
            .unwrap();
        let all = SocketAddr::new([0, 0, 0, 0].into(), at.port());
        assert!(TcpListener::bind(all).is_err());
        shared(all, SocketType::STREAM).unwrap();
        for (at, want) in [
            ("0.0.0.0:53", true),
            ("[::]:53", true),
            ("127.0.0.1:53", false),
            ("0.0.0.0:54", false),
        ] {
            assert_eq!(beside_dns(at.parse().unwrap()), want, "{at}");
        }
    }
}
