//! UDP ports: each client's datagrams go to one endpoint, and what comes back goes to that client.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use crate::{
    clients::Clients,
    pool::{Group, InFlight},
};

/// Clients of one port at a time; datagrams of more are dropped, as UDP may.
const CLIENTS_MAX: usize = 4096;
/// A flow with no datagram either way for so long is over (the kernel's default for streams is 120 s).
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams that wait for a client's endpoint.
const WAITING_MAX: usize = 64;
const DATAGRAM_BYTES_MAX: usize = 65535;

/// What the port leads to, and for whom.
struct To {
    group: Arc<Group>,
    clients: Clients,
}

/// A published UDP port; dropping it closes the port.
pub(crate) struct UdpListener {
    to: Arc<ArcSwap<To>>,
    _stop: watch::Sender<()>,
}

impl UdpListener {
    /// # Errors
    /// When the runtime can't take the socket.
    pub(crate) fn serve(
        socket: std::net::UdpSocket,
        group: Arc<Group>,
        clients: Clients,
    ) -> io::Result<UdpListener> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let to = Arc::new(ArcSwap::from_pointee(To { group, clients }));
        let (stop, stopped) = watch::channel(());
        tokio::spawn(serve(socket, to.clone(), stopped));
        Ok(UdpListener { to, _stop: stop })
    }

    /// Where new flows go from now on.
    pub(crate) fn lead_to(&self, group: Arc<Group>, clients: Clients) {
        self.to.store(Arc::new(To { group, clients }));
    }
}

async fn serve(socket: Arc<UdpSocket>, to: Arc<ArcSwap<To>>, mut stopped: watch::Receiver<()>) {
    let mut flows = HashMap::<SocketAddr, mpsc::Sender<Vec<u8>>>::new();
    // Dropped with the port, and every flow with it.
    let mut tasks = tokio::task::JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (length, client) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // A client's closed port comes back as an error here; the others go on.
                Err(_) => continue,
            },
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Ok(client) = ended {
                    flows.remove(&client);
                }
                continue;
            }
            // Only ever the sender's end.
            _ = stopped.changed() => return,
        };
        let datagram = buffer[..length].to_vec();
        let To { group, clients } = &*to.load_full();
        if !clients.admit(client.ip()) {
            continue;
        }
        if let Some(flow) = flows.get(&client) {
            // Full: dropped. Closed: it ends at this moment, and the client will ask again.
            let _ = flow.try_send(datagram);
            continue;
        }
        if flows.len() >= CLIENTS_MAX {
            tracing::debug!(%client, "too many UDP clients");
            continue;
        }
        let (flow, waiting) = mpsc::channel(WAITING_MAX);
        let _ = flow.try_send(datagram);
        flows.insert(client, flow);
        let (socket, group) = (socket.clone(), group.clone());
        tasks.spawn(async move {
            if let Err(error) = run(&socket, client, &group, waiting).await {
                tracing::debug!(%client, %error, "a UDP flow ended");
            }
            client
        });
    }
}

/// One client's flow, until it is idle or its endpoint has gone.
async fn run(
    socket: &UdpSocket,
    client: SocketAddr,
    group: &Group,
    mut waiting: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    let Some(in_flight) = group.choose(client.ip().to_canonical(), &[], end).await else {
        return Err(io::Error::other(format!(
            "Service {} has no ready endpoint",
            group.name
        )));
    };
    let InFlight(backend) = &in_flight;
    let any: SocketAddr = match backend.address {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = UdpSocket::bind(any).await?;
    endpoint.connect(backend.address).await?;
    // A datagram's size isn't known before; most are small, and flows may be many.
    let mut buffer = vec![0; 2048];
    while !backend.is_gone() {
        let step = async {
            tokio::select! {
                datagram = waiting.recv() => match datagram {
                    Some(datagram) => endpoint.send(&datagram).await.map(|_| true),
                    None => Ok(false),
                },
                readable = endpoint.readable() => {
                    readable?;
                    match endpoint.try_recv(&mut buffer) {
                        Ok(length) if length == buffer.len() => {
                            // It may have been cut: from now on there is room for any.
                            buffer.resize(DATAGRAM_BYTES_MAX, 0);
                            Ok(true)
                        }
                        Ok(length) => socket.send_to(&buffer[..length], client).await.map(|_| true),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
                        Err(error) => Err(error),
                    }
                }
            }
        };
        match timeout(IDLE, step).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}
