//! Links, addresses and routes (DESIGN 4.5): a veth a pod, a /32 (and a /128) each, no bridge.
//!
//! IPv4's gateway is one address on the node's `lo`; IPv6's is the same link-local address on each Pod's link, for a node
//! answers neighbours only for addresses of the link they ask on.
//!
//! The pod's side is set up from a thread that has entered its namespace; the thread ends, so nothing else moves there.

use crate::{
    Config, Error, GATEWAY, RESOLVER,
    error::{io, is, netlink},
    place::{self, Place},
    state::State,
};
use futures::TryStreamExt;
pub(crate) use rtnetlink::Handle;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoKind, InfoVeth, LinkAttribute},
        route::{RouteMessage, RouteScope, RouteType},
    },
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

/// What a Pod's IPv6 packets are sent to: this end of its link.
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

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

/// A single address, at once: it is nobody else's, so nobody is asked.
pub(crate) async fn address(handle: &Handle, index: u32, address: IpAddr) -> Result<(), Error> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(index, address, bits);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    match request.execute().await {
        Err(e) if !is(&e, libc::EEXIST) => Err(netlink(format!("adding address {address}"))(e)),
        _ => Ok(()),
    }
}

/// A route to a range through a neighbour on that link, whom nothing else needs to lead to.
pub(crate) async fn route_via(
    handle: &Handle,
    (to, bits): (IpAddr, u8),
    via: IpAddr,
    index: u32,
    source: Option<IpAddr>,
) -> Result<(), Error> {
    let route = match (to, via) {
        (IpAddr::V4(to), IpAddr::V4(via)) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, bits)
                .gateway(via)
                .output_interface(index)
                .onlink();
            match source {
                Some(IpAddr::V4(source)) => route.pref_source(source).build(),
                _ => route.build(),
            }
        }
        (IpAddr::V6(to), IpAddr::V6(via)) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, bits)
                .gateway(via)
                .output_interface(index)
                .onlink();
            match source {
                Some(IpAddr::V6(source)) => route.pref_source(source).build(),
                _ => route.build(),
            }
        }
        // Never asked for: a route is of one family.
        _ => return Ok(()),
    };
    add_route(handle, route, || format!("adding the route to {to}")).await
}

/// A route to one address on that link; `source` is what this side calls itself towards it.
pub(crate) async fn host_route(
    handle: &Handle,
    to: IpAddr,
    index: u32,
    source: Option<IpAddr>,
) -> Result<(), Error> {
    let route = match to {
        IpAddr::V4(to) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, 32)
                .output_interface(index)
                .scope(RouteScope::Link);
            match source {
                Some(IpAddr::V4(source)) => route.pref_source(source).build(),
                _ => route.build(),
            }
        }
        IpAddr::V6(to) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, 128)
                .output_interface(index);
            match source {
                Some(IpAddr::V6(source)) => route.pref_source(source).build(),
                _ => route.build(),
            }
        }
    };
    add_route(handle, route, || format!("adding the route to {to}")).await
}

async fn add_route(
    handle: &Handle,
    route: RouteMessage,
    doing: impl FnOnce() -> String,
) -> Result<(), Error> {
    match handle.route().add(route).replace().execute().await {
        Err(e) if !is(&e, libc::EEXIST) => Err(netlink(doing())(e)),
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
        for own in own_addresses(config) {
            address(&handle, lo, own).await?;
        }
        address(&handle, lo, GATEWAY.into()).await?;
        for route in service_routes(config, lo) {
            add_route(&handle, route, || {
                "adding the route of the service range".into()
            })
            .await?;
        }
        place::within(place, || {
            state.set_sysctl("/proc/sys/net/ipv4/ip_forward", "1")?;
            match &config.ipv6 {
                Some(_) => forward_ipv6(state),
                None => Ok(()),
            }
        })
    };
    let result = done.await;
    task.abort();
    result
}

/// The node's addresses that are this instance's alone.
fn own_addresses(config: &Config) -> Vec<IpAddr> {
    let mut all = vec![config.dns_ip.into(), config.node_ip().into()];
    if let Some(ipv6) = &config.ipv6 {
        all.extend([IpAddr::V6(ipv6.dns_ip), ipv6.node_ip().into()]);
    }
    all
}

/// A router heeds no advertisements of others unless told so: hosts that have their address and route from one would
/// lose them.
fn forward_ipv6(state: &State) -> Result<(), Error> {
    let conf = Path::new("/proc/sys/net/ipv6/conf");
    for link in std::fs::read_dir(conf).map_err(io(conf))?.flatten() {
        let knob = link.path().join("accept_ra");
        let heeds = std::fs::read_to_string(&knob).is_ok_and(|value| value.trim() == "1");
        let name = link.file_name().into_string().unwrap_or_default();
        // Pods' links come and go, and nobody advertises there.
        let none = matches!(&*name, "all" | "default" | "lo") || name.starts_with("kn");
        if let (true, false, Some(knob)) = (heeds, none, knob.to_str()) {
            match state.set_sysctl(knob, "2") {
                // The link has just gone.
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
    }
    state.set_sysctl("/proc/sys/net/ipv6/conf/all/forwarding", "1")
}

fn service_routes(config: &Config, lo: u32) -> Vec<RouteMessage> {
    let first = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(config.service_cidr.0, config.service_cidr.1)
        .output_interface(lo)
        .pref_source(GATEWAY)
        .scope(RouteScope::Link)
        .build();
    let second = config.ipv6.as_ref().map(|ipv6| {
        // The kernel makes a refusal of any other route to `lo`.
        RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(ipv6.service_cidr.0, ipv6.service_cidr.1)
            .output_interface(lo)
            .pref_source(ipv6.node_ip())
            .kind(RouteType::Local)
            .build()
    });
    std::iter::once(first).chain(second).collect()
}

/// Removes what [`set_up_node`] added; the gateway's address stays while it is `shared` with another instance.
pub(crate) async fn tear_down_node(config: &Config, shared: bool) -> Result<(), Error> {
    let (handle, task) = connect(config.place.as_ref())?;
    let done = async {
        let lo = index(&handle, "lo").await?.unwrap_or(1);
        for route in service_routes(config, lo) {
            match handle.route().del(route).execute().await {
                Err(e) if !is(&e, libc::ESRCH) => {
                    return Err(netlink("removing the route of the service range")(e));
                }
                _ => {}
            }
        }
        for own in own_addresses(config) {
            remove_address(&handle, own).await?;
        }
        if !shared {
            remove_address(&handle, GATEWAY.into()).await?;
        }
        Ok(())
    };
    let result = done.await;
    task.abort();
    result
}

async fn remove_address(handle: &Handle, address: IpAddr) -> Result<(), Error> {
    let found = handle
        .address()
        .get()
        .set_address_filter(address)
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

/// A Pod's end of its link.
#[derive(Debug, Clone, Default)]
pub(crate) struct End {
    /// Its addresses, each with the node's towards it.
    pub(crate) pod: Vec<(IpAddr, IpAddr)>,
    /// Further ones, and the ranges in which it goes by them.
    pub(crate) further: Vec<(Ipv4Addr, u8)>,
    /// None: any.
    pub(crate) mac: Option<[u8; 6]>,
    /// None: [`INTERFACE`].
    pub(crate) interface: Option<String>,
    /// It asks for names at [`RESOLVER`].
    pub(crate) resolver: bool,
}

impl End {
    fn interface(&self) -> &str {
        self.interface.as_deref().unwrap_or(INTERFACE)
    }
}

/// What a Pod calls its end.
const INTERFACE: &str = "eth0";

/// Makes the pair, its far end inside `netns`.
///
/// It asks the kernel some twenty things, one after the other. All of that is on one thread with a loop of its own: on the
/// platform's, each answer would wait behind all that it has to do, which is how a new Pod came to wait for a third of a
/// second while a hundred others restarted.
pub(crate) async fn attach(
    place: Option<&Place>,
    name: &str,
    end: End,
    netns: &Path,
) -> Result<(), Error> {
    let (place, name) = (place.cloned(), name.to_owned());
    let netns = netns.to_owned();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(io("runtime"))?;
        runtime.block_on(async {
            let (handle, task) = connect(place.as_ref())?;
            let result = attach_with(&handle, place.as_ref(), &name, &end, &netns).await;
            if result.is_err() {
                let _ = remove_with(&handle, &name).await;
            }
            task.abort();
            result
        })
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Worker(e.to_string()))?
}

/// Blocks now and then.
async fn attach_with(
    handle: &Handle,
    place: Option<&Place>,
    name: &str,
    end: &End,
    netns: &Path,
) -> Result<(), Error> {
    let open = || std::fs::File::open(netns).map_err(io(netns));
    let there = index(handle, name).await?.is_some();
    if !there {
        add_pair(handle, name, (end.interface(), end.mac), &open()?).await?;
    }
    if let Err(error) = enter_and_set_up(open()?, end.clone()) {
        if !there || !matches!(error, Error::NoLink) {
            return Err(error);
        }
        // the link of a former Pod, whose namespace is still being taken down
        remove_with(handle, name).await?;
        add_pair(handle, name, (end.interface(), end.mac), &open()?).await?;
        enter_and_set_up(open()?, end.clone())?;
    }
    let near = wanted(handle, name).await?;
    if end.pod.iter().any(|(ip, _)| ip.is_ipv6()) {
        address(handle, near, GATEWAY6.into()).await?;
    }
    up(handle, near).await?;
    // For node ports at 127.0.0.1; a rule keeps others from it.
    let knob = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
    place::within(place, || std::fs::write(&knob, "1").map_err(io(&knob)))?;
    for (address, node) in &end.pod {
        host_route(handle, *address, near, Some(*node)).await?;
    }
    for (address, _) in &end.further {
        host_route(handle, (*address).into(), near, Some(GATEWAY.into())).await?;
    }
    Ok(())
}

/// Adds a pair of links, its far end in another namespace.
pub(crate) async fn add_pair(
    handle: &Handle,
    name: &str,
    (far, mac): (&str, Option<[u8; 6]>),
    namespace: &std::fs::File,
) -> Result<(), Error> {
    // Born in its place: moving a link between namespaces waits for a grace period, 25 ms. Not born up: the far end
    // would have no carrier yet.
    let mut far = LinkMessageBuilder::<LinkUnspec>::new()
        .name(far.to_string())
        .setns_by_fd(namespace.as_raw_fd());
    if let Some(mac) = mac {
        far = far.address(mac.to_vec());
    }
    let far = far.build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .build();
    let added = handle.link().add(pair).execute().await;
    added.map_err(netlink("adding a pair of links"))
}

fn enter_and_set_up(namespace: std::fs::File, end: End) -> Result<(), Error> {
    std::thread::spawn(move || inside(&namespace, &end))
        .join()
        .map_err(|_| Error::Worker("it panicked".into()))?
}

/// On a thread of its own: enters the namespace and sets its side up.
fn inside(namespace: &std::fs::File, end: &End) -> Result<(), Error> {
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
        let eth = index(&handle, end.interface())
            .await?
            .ok_or(Error::NoLink)?;
        for (own, _) in &end.pod {
            address(&handle, eth, *own).await?;
        }
        for (own, _) in &end.further {
            address(&handle, eth, (*own).into()).await?;
        }
        up(&handle, eth).await?;
        host_route(&handle, GATEWAY.into(), eth, None).await?;
        let mut routes = vec![((Ipv4Addr::UNSPECIFIED.into(), 0), IpAddr::V4(GATEWAY))];
        if end.pod.iter().any(|(ip, _)| ip.is_ipv6()) {
            routes.push(((Ipv6Addr::UNSPECIFIED.into(), 0), GATEWAY6.into()));
        }
        let mut result = Ok(());
        for (own, bits) in &end.further {
            let range = (IpAddr::V4(first(*own, *bits)), *bits);
            let source = Some(IpAddr::V4(*own));
            result = result.and(route_via(&handle, range, GATEWAY.into(), eth, source).await);
        }
        if let (true, Some((IpAddr::V4(own), _))) = (end.resolver, end.pod.first()) {
            result = result.and(resolver(&handle, (end.interface(), eth), *own).await);
        }
        for (everywhere, via) in routes {
            result = result.and(route_via(&handle, everywhere, via, eth, None).await);
        }
        task.abort();
        result
    })
}

/// The first address of the range that this one is in.
fn first(address: Ipv4Addr, bits: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}

/// Leads [`RESOLVER`] out of the Pod, though it is an address of its loopback: the node's rules turn it to the DNS server.
/// Nobody but the node is on the link, so nobody else reaches the Pod's loopback by it.
async fn resolver(handle: &Handle, (name, eth): (&str, u32), own: Ipv4Addr) -> Result<(), Error> {
    const LOCAL: u32 = 255;
    let knob = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
    std::fs::write(&knob, "1").map_err(io(&knob))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(RESOLVER, 32)
        .gateway(GATEWAY)
        .output_interface(eth)
        .pref_source(own)
        .table_id(LOCAL)
        .onlink()
        .build();
    add_route(handle, route, || format!("adding the route to {RESOLVER}")).await
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
