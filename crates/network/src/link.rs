//! Links, addresses and routes (DESIGN 4.5): a veth a pod, a /32 each, no bridge.
//!
//! The pod's side is set up from a thread that has entered its namespace; the thread ends, so nothing else moves there.

use crate::{
    Config, Error, GATEWAY,
    error::{io, is, netlink},
    place::{self, Place},
    state::State,
};
use futures::TryStreamExt;
pub(crate) use rtnetlink::Handle;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoKind, InfoVeth, LinkAttribute},
        route::{RouteMessage, RouteScope},
    },
};
use std::{net::Ipv4Addr, os::fd::AsRawFd, path::Path, time::Duration};

/// How long a link may outlive its pod's namespace.
const LINGER: Duration = Duration::from_secs(5);

/// A netlink connection in the place, or else in this thread's namespace, and the task that drives it.
pub(crate) fn connect(
    place: Option<&Place>,
) -> Result<(Handle, tokio::task::JoinHandle<()>), Error> {
    let (connection, handle, _) =
        place::within(place, || rtnetlink::new_connection().map_err(io("netlink")))?;
    Ok((handle, tokio::spawn(connection)))
}

pub(crate) async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, Error> {
    match handle
        .link()
        .get()
        .match_name(name.to_string())
        .execute()
        .try_next()
        .await
    {
        Ok(link) => Ok(link.map(|l| l.header.index)),
        Err(e) if is(&e, libc::ENODEV) => Ok(None),
        Err(e) => Err(netlink(format!("looking for link {name}"))(e)),
    }
}

/// As [`index`], of a link that must be there.
pub(crate) async fn wanted(handle: &Handle, name: &str) -> Result<u32, Error> {
    index(handle, name)
        .await?
        .ok_or_else(|| Error::Worker(format!("link {name} has gone")))
}

pub(crate) async fn up(handle: &Handle, index: u32) -> Result<(), Error> {
    let message = LinkUnspec::new_with_index(index).up().build();
    handle
        .link()
        .set(message)
        .execute()
        .await
        .map_err(netlink("bringing a link up"))
}

pub(crate) async fn address(handle: &Handle, index: u32, address: Ipv4Addr) -> Result<(), Error> {
    match handle
        .address()
        .add(index, address.into(), 32)
        .execute()
        .await
    {
        Err(e) if !is(&e, libc::EEXIST) => Err(netlink(format!("adding address {address}"))(e)),
        _ => Ok(()),
    }
}

/// A route to a range through a neighbour on that link, whom nothing else needs to lead to.
pub(crate) async fn route_via(
    handle: &Handle,
    (to, bits): (Ipv4Addr, u8),
    via: Ipv4Addr,
    index: u32,
    source: Ipv4Addr,
) -> Result<(), Error> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to, bits)
        .gateway(via)
        .output_interface(index)
        .pref_source(source)
        .onlink()
        .build();
    match handle.route().add(route).replace().execute().await {
        Err(e) if !is(&e, libc::EEXIST) => Err(netlink(format!("adding the route to {to}"))(e)),
        _ => Ok(()),
    }
}

pub(crate) async fn host_route(handle: &Handle, to: Ipv4Addr, index: u32) -> Result<(), Error> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    match handle.route().add(route).replace().execute().await {
        Err(e) if !is(&e, libc::EEXIST) => Err(netlink(format!("adding the route to {to}"))(e)),
        _ => Ok(()),
    }
}

/// The node's own: addresses of the gateway, of DNS and of itself among its Pods on `lo`, the route of the service range, forwarding.
///
/// The route serves the node's own clients: their packets to a VIP must leave with an address that Pods can answer,
/// and a packet that no rule translates must come to the hook that refuses it.
pub(crate) async fn set_up_node(config: &Config, state: &State) -> Result<(), Error> {
    let place = config.place.as_ref();
    let (handle, task) = connect(place)?;
    let done = async {
        let lo = index(&handle, "lo").await?.unwrap_or(1);
        up(&handle, lo).await?;
        address(&handle, lo, GATEWAY).await?;
        address(&handle, lo, config.dns_ip).await?;
        address(&handle, lo, config.node_ip()).await?;
        let route = service_route(config, lo);
        match handle.route().add(route).replace().execute().await {
            Err(e) if !is(&e, libc::EEXIST) => {
                Err(netlink("adding the route of the service range")(e))
            }
            _ => place::within(place, || {
                state.set_sysctl("/proc/sys/net/ipv4/ip_forward", "1")
            }),
        }
    };
    let result = done.await;
    task.abort();
    result
}

fn service_route(config: &Config, lo: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(config.service_cidr.0, config.service_cidr.1)
        .output_interface(lo)
        .pref_source(GATEWAY)
        .scope(RouteScope::Link)
        .build()
}

/// Removes what [`set_up_node`] added; the gateway's address stays while it is `shared` with another instance.
pub(crate) async fn tear_down_node(config: &Config, shared: bool) -> Result<(), Error> {
    let (handle, task) = connect(config.place.as_ref())?;
    let done = async {
        let lo = index(&handle, "lo").await?.unwrap_or(1);
        match handle
            .route()
            .del(service_route(config, lo))
            .execute()
            .await
        {
            Err(e) if !is(&e, libc::ESRCH) => {
                return Err(netlink("removing the route of the service range")(e));
            }
            _ => {}
        }
        remove_address(&handle, config.dns_ip).await?;
        remove_address(&handle, config.node_ip()).await?;
        if !shared {
            remove_address(&handle, GATEWAY).await?;
        }
        Ok(())
    };
    let result = done.await;
    task.abort();
    result
}

async fn remove_address(handle: &Handle, address: Ipv4Addr) -> Result<(), Error> {
    let found = handle
        .address()
        .get()
        .set_address_filter(address.into())
        .execute()
        .try_next()
        .await
        .map_err(netlink(format!("looking for address {address}")))?;
    let Some(message) = found else { return Ok(()) };
    handle
        .address()
        .del(message)
        .execute()
        .await
        .map_err(netlink(format!("removing address {address}")))
}

/// Makes the pair, its far end inside `netns` as `eth0`.
pub(crate) async fn attach(
    place: Option<&Place>,
    name: &str,
    pod: Ipv4Addr,
    netns: &Path,
) -> Result<(), Error> {
    let (handle, task) = connect(place)?;
    let result = attach_with(&handle, name, pod, netns).await;
    if result.is_err() {
        let _ = remove_with(&handle, name).await;
    }
    task.abort();
    result
}

async fn attach_with(
    handle: &Handle,
    name: &str,
    pod: Ipv4Addr,
    netns: &Path,
) -> Result<(), Error> {
    let namespace = std::fs::File::open(netns).map_err(io(netns))?;
    if index(handle, name).await?.is_none() {
        add_pair(handle, name, "eth0", &namespace).await?;
    }
    tokio::task::spawn_blocking(move || std::thread::spawn(move || inside(&namespace, pod)).join())
        .await
        .map_err(|e| Error::Worker(e.to_string()))?
        .map_err(|_| Error::Worker("it panicked".into()))??;
    let near = wanted(handle, name).await?;
    up(handle, near).await?;
    host_route(handle, pod, near).await
}

/// Adds a pair of links, its far end in another namespace.
pub(crate) async fn add_pair(
    handle: &Handle,
    name: &str,
    far: &str,
    namespace: &std::fs::File,
) -> Result<(), Error> {
    // Born in its place: moving a link between namespaces waits for a grace period, 25 ms. Not born up: the far end
    // would have no carrier yet.
    let far = LinkMessageBuilder::<LinkUnspec>::new()
        .name(far.to_string())
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .build();
    let added = handle.link().add(pair).execute().await;
    added.map_err(netlink("adding a pair of links"))
}

/// On a thread of its own: enters the namespace and sets its side up.
fn inside(namespace: &std::fs::File, pod: Ipv4Addr) -> Result<(), Error> {
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(namespace),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .map_err(|e| io("the pod's network namespace")(e.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(io("runtime"))?;
    runtime.block_on(async {
        let (handle, task) = connect(None)?;
        if let Some(lo) = index(&handle, "lo").await? {
            up(&handle, lo).await?;
        }
        let eth = index(&handle, "eth0")
            .await?
            .ok_or_else(|| Error::Worker("the pod has no eth0".into()))?;
        address(&handle, eth, pod).await?;
        up(&handle, eth).await?;
        host_route(&handle, GATEWAY, eth).await?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(GATEWAY)
            .output_interface(eth)
            .onlink()
            .build();
        let result = handle
            .route()
            .add(default)
            .replace()
            .execute()
            .await
            .map_err(netlink("adding the default route"));
        task.abort();
        result
    })
}

/// Removes a pod's link if it is still there in a while; its routes go with it.
///
/// It ends with the pod's namespace, which is being taken down when this is called. To remove it here would hold the
/// kernel's network lock for a grace period, 25 ms, in which no other pod's link can be made.
pub(crate) async fn remove_later(place: Option<Place>, name: String) -> Result<(), Error> {
    let (handle, task) = connect(place.as_ref())?;
    let found = index(&handle, &name).await;
    task.abort();
    let Some(found) = found? else { return Ok(()) };
    tokio::spawn(async move {
        tokio::time::sleep(LINGER).await;
        let Ok((handle, task)) = connect(place.as_ref()) else {
            return;
        };
        // the name may have been given to another by now
        if matches!(index(&handle, &name).await, Ok(Some(now)) if now == found)
            && let Err(error) = remove_with(&handle, &name).await
        {
            tracing::warn!(%error, "a pod's link stays behind until `knarr stop --purge`");
        }
        task.abort();
    });
    Ok(())
}

/// Removes all links whose names begin with `prefix`.
pub(crate) async fn remove_all(place: Option<&Place>, prefix: &str) -> Result<(), Error> {
    let (handle, task) = connect(place)?;
    let done = async {
        let mut links = handle.link().get().execute();
        let mut names = Vec::new();
        while let Some(link) = links
            .try_next()
            .await
            .map_err(netlink("listing the links"))?
        {
            names.extend(link.attributes.into_iter().filter_map(|a| match a {
                LinkAttribute::IfName(name) if name.starts_with(prefix) => Some(name),
                _ => None,
            }));
        }
        for name in names {
            remove_with(&handle, &name).await?;
        }
        Ok(())
    };
    let result = done.await;
    task.abort();
    result
}

pub(crate) async fn remove_with(handle: &Handle, name: &str) -> Result<(), Error> {
    let Some(found) = index(handle, name).await? else {
        return Ok(());
    };
    match handle.link().del(found).execute().await {
        Err(e) if !is(&e, libc::ENODEV) => Err(netlink(format!("removing link {name}"))(e)),
        _ => Ok(()),
    }
}
