//! Cluster DNS: answers from the shared model, forwards the rest.
//!
//! `zone` knows what names mean, `forward` asks the host's resolvers; here are the sockets.

mod forward;
mod zone;

pub(crate) use zone::odd_name;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    clients::{Asker, Clients},
    services::view::Views,
};
use forward::Upstreams;
use zone::Zone;

/// As the standard library has it.
const BACKLOG: i32 = 128;
/// Foreign questions asked at once; more are refused with SERVFAIL.
const FORWARDS_MAX: usize = 512;
const CONNECTIONS_MAX: usize = 128;
/// A TCP client's time between questions.
const IDLE: Duration = Duration::from_secs(10);
/// The largest UDP answer (DNS flag day 2020).
const UDP_BYTES_MAX: u16 = 1232;
/// The largest question heard, far above what a name and options take.
const QUERY_BYTES_MAX: usize = 4096;
/// After the system refused to receive or accept, as when it is out of memory or descriptors.
const PAUSE: Duration = Duration::from_millis(100);
const ALIASES_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "can't listen on {address}: {source}; end what listens there, or start a fresh data directory with another --service-cidr"
    )]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
}

pub(crate) struct Options {
    /// Where it listens; other servers are asked from here.
    pub(crate) place: Option<crate::Place>,
    /// One address a family.
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) cluster_domain: String,
    /// Ranges whose reverse names are the cluster's: Pods and Services.
    pub(crate) ranges: Vec<(IpAddr, u8)>,
    /// As our own, never asked.
    pub(crate) own: Vec<IpAddr>,
}

struct Server {
    zone: Zone,
    views: Arc<ArcSwap<Views>>,
    clients: Arc<Clients>,
    synced: watch::Receiver<bool>,
    upstreams: Upstreams,
    forwards: Semaphore,
}

/// Serves until dropped.
///
/// # Errors
/// [`Error::Bind`].
pub(crate) async fn run(
    views: Arc<ArcSwap<Views>>,
    clients: Arc<Clients>,
    synced: watch::Receiver<bool>,
    options: Options,
) -> Result<(), Error> {
    let own = options.listen.iter().map(SocketAddr::ip);
    let own = own.chain(options.own.iter().copied()).collect();
    let upstreams = Upstreams::host(Path::new("/etc/resolv.conf"), own);
    serve(views, clients, synced, options, upstreams).await
}

async fn serve(
    views: Arc<ArcSwap<Views>>,
    clients: Arc<Clients>,
    synced: watch::Receiver<bool>,
    options: Options,
    upstreams: Upstreams,
) -> Result<(), Error> {
    let server = Arc::new(Server {
        zone: Zone::new(
            &options.cluster_domain,
            options.listen.iter().map(SocketAddr::ip).collect(),
            options.ranges,
        ),
        views,
        clients,
        synced,
        upstreams,
        forwards: Semaphore::new(FORWARDS_MAX),
    });
    let mut loops = Vec::new();
    for address in options.listen {
        let bind = |source| Error::Bind { address, source };
        let (udp, tcp) = listen(options.place.as_ref(), address).map_err(bind)?;
        let udp = Arc::new(udp);
        let server = server.clone();
        loops.push(async move { tokio::join!(udp_loop(&server, &udp), tcp_loop(&server, &tcp)) });
    }
    futures::future::join_all(loops).await;
    Ok(())
}

/// Sockets of the place; served by this runtime, as all others.
fn listen(
    place: Option<&crate::Place>,
    address: SocketAddr,
) -> std::io::Result<(UdpSocket, TcpListener)> {
    let open = || -> std::io::Result<_> {
        let udp = std::net::UdpSocket::from(shared(address, SocketType::DGRAM)?);
        let tcp = shared(address, SocketType::STREAM)?;
        rustix::net::listen(&tcp, BACKLOG)?;
        let tcp = std::net::TcpListener::from(tcp);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((udp, tcp))
    };
    let (udp, tcp) =
        crate::place::within(place, || Ok(open())).map_err(std::io::Error::other)??;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}

/// A name server that is published on all of the machine's addresses has its place beside this one.
fn shared(at: SocketAddr, kind: SocketType) -> std::io::Result<std::os::fd::OwnedFd> {
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

async fn udp_loop(server: &Arc<Server>, socket: &Arc<UdpSocket>) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    loop {
        while tasks.try_join_next().is_some() {}
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(got) => got,
            // A client's closed port comes back as an error here; the socket goes on.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let asker = server.clients.asker(from.ip());
        match server.handle(&buffer[..length], &asker, false) {
            Reply::Now(answer) => drop(socket.send_to(&answer, from).await),
            Reply::Nothing => {}
            Reply::Ask(asking) => {
                let (server, socket) = (server.clone(), socket.clone());
                let query = buffer[..length].to_vec();
                tasks.spawn(async move {
                    let answer = server.ask(asking, &query, false).await;
                    let _ = socket.send_to(&answer, from).await;
                });
            }
        }
    }
}

async fn tcp_loop(server: &Arc<Server>, listener: &TcpListener) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let server = server.clone();
                let asker = server.clients.asker(from.ip());
                tasks.spawn(async move {
                    let _ = connection(&server, &asker, stream).await;
                    drop(slot);
                });
            }
            // Out of descriptors: wait for some to be given back.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn connection(server: &Server, asker: &Asker, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        if usize::from(length) > QUERY_BYTES_MAX {
            return Ok(());
        }
        let mut query = vec![0; usize::from(length)];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let answer = match server.handle(&query, asker, true) {
            Reply::Now(answer) => answer,
            Reply::Nothing => return Ok(()),
            Reply::Ask(asking) => server.ask(asking, &query, true).await,
        };
        let mut framed = Vec::with_capacity(answer.len() + 2);
        framed.extend_from_slice(&(answer.len() as u16).to_be_bytes());
        framed.extend_from_slice(&answer);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

enum Reply {
    Now(Vec<u8>),
    /// To be answered with the resolvers' help.
    Ask(Box<Asking>),
    /// Answers are never answered.
    Nothing,
}

struct Asking {
    request: Message,
    /// An answer so far whose alias leads outside.
    alias: Option<(Message, Name)>,
}

impl Server {
    fn handle(&self, query: &[u8], asker: &Asker, tcp: bool) -> Reply {
        if query.len() < 12 || query[2] & 0x80 != 0 {
            return Reply::Nothing;
        }
        // The decoder makes room for as many questions as the header claims: up to one, then.
        let parsed = match (query[4], query[5]) {
            (0, 0 | 1) => Message::from_vec(query).ok(),
            _ => None,
        };
        let request = match parsed {
            Some(request) => request,
            None => {
                let id = u16::from_be_bytes([query[0], query[1]]);
                let op = OpCode::from_u8((query[2] >> 3) & 15);
                let message = Message::error_msg(id, op, ResponseCode::FormErr);
                return message.to_vec().map_or(Reply::Nothing, Reply::Now);
            }
        };
        if request.metadata.message_type != MessageType::Query {
            return Reply::Nothing;
        }
        let refuse = |code| Reply::Now(failed(&request, code, tcp));
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(ResponseCode::BADVERS);
        }
        let [question] = &request.queries[..] else {
            return refuse(ResponseCode::FormErr);
        };
        if question.query_class() != DNSClass::IN {
            return refuse(ResponseCode::Refused);
        }
        if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return refuse(ResponseCode::Refused);
        }
        match self.local(&request, question, asker, tcp) {
            Some(reply) => reply,
            None => Reply::Ask(Box::new(Asking {
                request,
                alias: None,
            })),
        }
    }

    /// None for a foreign name.
    fn local(
        &self,
        request: &Message,
        question: &Query,
        asker: &Asker,
        tcp: bool,
    ) -> Option<Reply> {
        let views = self.views.load();
        let mut answer = self.zone.answer(&views, question, asker)?;
        if !*self.synced.borrow() {
            return Some(Reply::Now(failed(request, ResponseCode::ServFail, tcp)));
        }
        let mut message = response(request);
        message.metadata.authoritative = true;
        message.metadata.response_code = answer.code;
        for _ in 0..ALIASES_MAX {
            // Clients take the first: let each get another. Who asks for itself binds the first.
            let others = match answer.first_stays {
                true => answer.records.get_mut(1..).unwrap_or_default(),
                false => &mut answer.records[..],
            };
            if others.len() > 1 {
                let by = rand::random::<u16>() as usize % others.len();
                others.rotate_left(by);
            }
            message.answers.append(&mut answer.records);
            let Some(target) = answer.chase.take() else {
                break;
            };
            match self.zone.answer(
                &views,
                &Query::query(target.clone(), question.query_type()),
                asker,
            ) {
                Some(next) => {
                    message.metadata.response_code = next.code;
                    answer = next;
                }
                None => {
                    let request = request.clone();
                    let alias = Some((message, target));
                    return Some(Reply::Ask(Box::new(Asking { request, alias })));
                }
            }
        }
        // With it, the absence at an alias's end may be kept, too (RFC 2308).
        message.authorities.extend(answer.soa);
        Some(Reply::Now(encode(request, message, tcp)))
    }

    async fn ask(&self, asking: Box<Asking>, query: &[u8], tcp: bool) -> Vec<u8> {
        let request = &asking.request;
        let Ok(_slot) = self.forwards.try_acquire() else {
            return failed(request, ResponseCode::ServFail, tcp);
        };
        let Some((mut message, target)) = asking.alias else {
            return match forward::forward(&self.upstreams, query, tcp).await {
                Some(answer) => answer,
                None => failed(request, ResponseCode::ServFail, tcp),
            };
        };
        let mut outer = Message::query();
        outer.metadata.recursion_desired = true;
        let kind = request
            .queries
            .first()
            .map_or(RecordType::A, Query::query_type);
        outer.add_query(Query::query(target, kind));
        let asked = match outer.to_vec() {
            Ok(bytes) => forward::whole(&self.upstreams, &bytes).await,
            Err(_) => None,
        };
        match asked.and_then(|bytes| Message::from_vec(&bytes).ok()) {
            // Cut to nothing: whether there are addresses is unknown.
            Some(answer) if answer.metadata.truncation && answer.answers.is_empty() => {
                message.metadata.response_code = ResponseCode::ServFail;
            }
            Some(answer) => {
                message.metadata.response_code = answer.metadata.response_code;
                message.answers.extend(answer.answers);
                let soa = |r: &hickory_proto::rr::Record| r.record_type() == RecordType::SOA;
                message
                    .authorities
                    .extend(answer.authorities.into_iter().filter(soa));
            }
            None => message.metadata.response_code = ResponseCode::ServFail,
        }
        encode(request, message, tcp)
    }
}

fn response(request: &Message) -> Message {
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.queries = request.queries.clone();
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        message.set_edns(edns);
    }
    message
}

fn failed(request: &Message, code: ResponseCode, tcp: bool) -> Vec<u8> {
    let mut message = response(request);
    message.metadata.response_code = code;
    if let Some(edns) = message.edns.as_mut() {
        edns.set_rcode_high(code.high());
    }
    encode(request, message, tcp)
}

/// The bytes; over UDP without records when they are too many (RFC 2181, section 9).
fn encode(request: &Message, message: Message, tcp: bool) -> Vec<u8> {
    let room = match (&request.edns, tcp) {
        (_, true) => u16::MAX,
        (Some(edns), _) => edns.max_payload().clamp(512, UDP_BYTES_MAX),
        (None, _) => 512,
    };
    match message.to_vec() {
        Ok(bytes) if bytes.len() <= usize::from(room) => bytes,
        Ok(_) => {
            let mut short = message.truncate();
            short.metadata.truncation = true;
            short.answers.clear();
            short.authorities.clear();
            short.to_vec().unwrap_or_default()
        }
        Err(error) => {
            tracing::warn!(%error, "a DNS answer can't be encoded");
            Message::error_msg(
                request.metadata.id,
                request.metadata.op_code,
                ResponseCode::ServFail,
            )
            .to_vec()
            .unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests;
