//! Listening ports: what comes in is told apart, and goes to HTTP or is spliced.

use std::{
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use crate::{
    body::Body,
    clients::Clients,
    ingress::Routes,
    pool::Group,
    proxy::{self, Client},
    tls::Certificates,
};

/// Connections of one port.
const CONNECTIONS_MAX: usize = 16384;
/// A client that says nothing for so long is of a protocol where the server speaks first.
const SNIFF: Duration = Duration::from_millis(100);
/// A request's head has to come within; also how long an idle connection is kept.
const HEAD: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a spliced connection looks for an endpoint.
const ENDPOINT: Duration = Duration::from_secs(5);

/// How the endpoints of a port are spoken to (`appProtocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    H2c,
    Tcp,
    /// Not said: by what the client says first.
    Unknown,
}

impl Protocol {
    /// From `appProtocol`: IANA names, and Kubernetes' own (KEP-3726).
    pub(crate) fn of(name: Option<&str>) -> Protocol {
        match name.map(str::to_ascii_lowercase).as_deref() {
            None | Some("") => Protocol::Unknown,
            Some("http" | "kubernetes.io/ws" | "ws") => Protocol::Http,
            Some("kubernetes.io/h2c" | "h2c" | "grpc") => Protocol::H2c,
            Some(_) => Protocol::Tcp,
        }
    }
}

/// What a port leads to.
#[derive(Clone)]
pub(crate) enum Front {
    Service(Protocol, Arc<Group>, Clients),
    Ingress {
        routes: Arc<ArcSwap<Routes>>,
        tls: Option<Arc<Certificates>>,
    },
}

/// A listening port; dropping it closes the port and lets its connections come to an end.
pub(crate) struct Listener {
    front: Arc<ArcSwap<Front>>,
    /// HTTP has been spoken here, where nothing says which protocol it is: a client that is silent has only not asked yet
    /// (browsers connect ahead), and is not taken for one that waits for the server's first word
    heard_http: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
}

impl Listener {
    /// # Errors
    /// When the runtime can't take the socket.
    pub(crate) fn serve(socket: std::net::TcpListener, front: Front) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let front = Arc::new(ArcSwap::from_pointee(front));
        let (stop, stopped) = watch::channel(false);
        let heard_http = Arc::<AtomicBool>::default();
        tokio::spawn(accept(socket, front.clone(), heard_http.clone(), stopped));
        Ok(Listener {
            front,
            heard_http,
            stop,
        })
    }

    /// What new connections lead to from now on.
    pub(crate) fn lead_to(&self, front: Front) {
        let before = self.front.swap(Arc::new(front));
        let (Front::Service(_, old, _), Front::Service(_, new, _)) =
            (&*before, &*self.front.load_full())
        else {
            return;
        };
        if !Arc::ptr_eq(old, new) {
            self.heard_http.store(false, Relaxed);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(
    socket: TcpListener,
    front: Arc<ArcSwap<Front>>,
    heard_http: Arc<AtomicBool>,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            _ = stopped.changed() => return,
        };
        // The semaphore is never closed.
        let Ok(slot) = slot else { return };
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, client)) => {
                let (front, stopped) = (front.clone(), stopped.clone());
                let heard_http = heard_http.clone();
                tokio::spawn(async move {
                    let served = connection(stream, client, front, &heard_http, stopped);
                    if let Err(error) = served.await {
                        tracing::debug!(%client, %error, "a connection ended");
                    }
                    drop(slot);
                });
            }
            // Out of descriptors, or the client has gone: wait rather than spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    front: Arc<ArcSwap<Front>>,
    heard_http: &AtomicBool,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(&stream);
    let client = Client {
        ip: address.ip().to_canonical(),
        tls: false,
    };
    let now = front.load_full();
    match &*now {
        // as a packet that is dropped, as far as a proxy can do that
        Front::Service(.., clients) if !clients.admit(client.ip) => Ok(()),
        Front::Service(protocol, group, _) => {
            let http = match protocol {
                Protocol::Http | Protocol::H2c => true,
                Protocol::Tcp => false,
                Protocol::Unknown => speaks_http(&stream, heard_http).await?,
            };
            match http {
                true => http_connection(stream, front, client, stopped).await,
                false => splice(stream, client.ip, group).await,
            }
        }
        Front::Ingress { tls: None, .. } => http_connection(stream, front, client, stopped).await,
        Front::Ingress {
            tls: Some(certificates),
            ..
        } => {
            let stream = timeout(HANDSHAKE, certificates.acceptor().accept(stream)).await??;
            let client = Client {
                tls: true,
                ..client
            };
            http_connection(stream, front, client, stopped).await
        }
    }
}

/// Looks at the first bytes without taking them.
async fn speaks_http(stream: &TcpStream, heard: &AtomicBool) -> io::Result<bool> {
    let known = heard.load(Relaxed);
    let end = Instant::now() + if known { HEAD } else { SNIFF };
    let mut seen = 0;
    loop {
        let mut start = [0; 24];
        let length = match tokio::time::timeout_at(end, stream.peek(&mut start)).await {
            Ok(length) => length?,
            Err(_) => return Ok(known),
        };
        match sniff(&start[..length]) {
            Some(http) => {
                if http {
                    heard.store(true, Relaxed);
                }
                return Ok(http);
            }
            None if length == 0 => return Ok(false),
            // Peeking again answers at once with the same bytes: wait a little for more.
            None if length == seen => tokio::time::sleep(Duration::from_millis(5)).await,
            None => seen = length,
        }
    }
}

/// Is this the start of HTTP/1.x or of HTTP/2's preface? None when too little was said.
fn sniff(start: &[u8]) -> Option<bool> {
    const METHODS: [&[u8]; 9] = [
        b"GET ",
        b"POST ",
        b"PUT ",
        b"HEAD ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"TRACE ",
        b"PRI * HTTP/2.0",
    ];
    if METHODS.iter().any(|method| start.starts_with(method)) {
        return Some(true);
    }
    match METHODS.iter().any(|method| method.starts_with(start)) {
        true => None,
        false => Some(false),
    }
}

async fn http_connection<S>(
    stream: S,
    front: Arc<ArcSwap<Front>>,
    client: Client,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .keep_alive_interval(HEAD);
    let asked = Arc::new(AtomicBool::new(false));
    let first = asked.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        asked.store(true, Relaxed);
        // What the port leads to may have changed since the last request.
        let front = front.load_full();
        async move { Ok::<_, std::convert::Infallible>(handle(&front, request, client).await) }
    });
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // Until it is known which HTTP is spoken hyper has no deadline.
    let silent = async {
        tokio::time::sleep(HEAD).await;
        if first.load(Relaxed) {
            pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

async fn handle(front: &Front, request: Request<Incoming>, client: Client) -> Response<Body> {
    if let Some(refusal) = proxy::unfit(&request) {
        return refusal;
    }
    match front {
        Front::Service(protocol, group, _) => {
            proxy::forward(group, request, client, *protocol == Protocol::H2c).await
        }
        Front::Ingress { routes, .. } => {
            let routes = routes.load();
            match routes.find(&request) {
                Some((protocol, group)) => {
                    // The table isn't held while an endpoint thinks.
                    let (h2c, group) = (protocol == Protocol::H2c, group.clone());
                    drop(routes);
                    proxy::forward(&group, request, client, h2c).await
                }
                None => proxy::plain(
                    hyper::StatusCode::NOT_FOUND,
                    "no Ingress rule matches this host and path".into(),
                ),
            }
        }
    }
}

async fn splice(mut stream: TcpStream, client: IpAddr, group: &Group) -> io::Result<()> {
    let end = Instant::now() + ENDPOINT;
    let mut tried = Vec::new();
    loop {
        let Some(in_flight) = group.choose(client, &tried, end).await else {
            return Err(io::Error::other(format!(
                "Service {} has no ready endpoint",
                group.name
            )));
        };
        match in_flight.0.connect().await {
            Ok(mut backend) => {
                tokio::io::copy_bidirectional_with_sizes(
                    &mut stream,
                    &mut backend,
                    16 << 10,
                    16 << 10,
                )
                .await?;
                return Ok(());
            }
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => {
                if tried.contains(&in_flight.0.address) {
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                tried.push(in_flight.0.address);
            }
        }
    }
}

/// A peer that has vanished is noticed by the kernel, not by a deadline: a quiet connection may be a healthy one.
/// Noticed after two minutes, where the kernel's own figures make it two hours.
pub(crate) fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt;
    let set = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, Duration::from_secs(60)))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10)))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, 6));
    if let Err(error) = set {
        tracing::debug!(%error, "no TCP keep-alive");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes() {
        let cases: [(&str, &[u8], Option<bool>); 9] = [
            ("nothing yet", b"", None),
            ("a method's start", b"GE", None),
            ("a method", b"GET /", Some(true)),
            ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(true)),
            ("HTTP/2's start", b"PRI *", None),
            ("Redis", b"*1\r\n$4\r\nPING\r\n", Some(false)),
            ("TLS", b"\x16\x03\x01", Some(false)),
            ("PostgreSQL", b"\0\0\0\x08\x04\xd2\x16\x2f", Some(false)),
            ("lower case", b"get /", Some(false)),
        ];
        for (name, start, expected) in cases {
            assert_eq!(sniff(start), expected, "{name}");
        }
    }
}
