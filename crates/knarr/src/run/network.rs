//! Addresses, ports and names of stand-alone containers: an instance of the network beside the platform's, with a range
//! of its own, which nobody runs: each command sets up what it needs and leaves it to the kernel.

use super::{
    networks,
    options::{Network as Kind, Port},
    record::{Home, Joined, Record},
    resolver, subnets,
};
use crate::error::{Error, io};
use knarr_network::{HostPort, Member, Network, Pod};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

/// The network while a command has it: nobody else gives addresses meanwhile.
pub struct Held {
    network: Network,
    _lock: fs::File,
}

pub async fn open(home: &Home) -> Result<Held, Error> {
    let (here, dir) = (home.clone(), home.network());
    let prepared = tokio::task::spawn_blocking(move || {
        let lock = here.lock()?;
        Ok::<_, Error>((lock, here.settings()?))
    });
    let (lock, settings) = prepared.await.map_err(|e| Error::Failed(e.to_string()))??;
    let base = u32::from(settings.base);
    let dns_ip = dns_ip(&settings);
    let config = knarr_network::Config {
        instance: settings.instance,
        node: "run".into(),
        state_dir: dir,
        pod_cidr: (settings.base, 17),
        node_cidr: (settings.base, 17),
        place: None,
        // no Services: what the network needs a range and an address for is never asked
        service_cidr: (Ipv4Addr::from(base | 0x8000), 24),
        dns_ip,
        cluster_domain: "cluster.local".into(),
        ipv6: None,
    };
    let network = Network::open(config).await.map_err(told)?;
    Ok(Held {
        network,
        _lock: lock,
    })
}

/// Where names in networks of one's own are asked for.
pub fn dns_ip(settings: &super::record::Settings) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(settings.base) | 0x800a)
}

/// By which every container reaches the others.
pub fn gateway() -> Ipv4Addr {
    knarr_network::GATEWAY
}

/// Takes all of it away.
pub async fn purge(home: &Home) -> Result<(), Error> {
    open(home).await?.network.purge().await.map_err(told)
}

fn told(error: knarr_network::Error) -> Error {
    Error::Failed(format!("network: {error}"))
}

impl Held {
    /// Gives a container's namespace an address and a way out, and the container its ports.
    pub async fn connect(
        &self,
        home: &Home,
        record: &mut Record,
        netns: &Path,
    ) -> Result<Ipv4Addr, Error> {
        self.network.scatter();
        choose_ports(home, record)?;
        subnets::give(home, record)?;
        let number = |port: &Port| match port.protocol.as_str() {
            "udp" => 17,
            "sctp" => 132,
            _ => 6,
        };
        let host_ports = record.ports.iter().map(|port| HostPort {
            host_ip: port.ip.filter(|ip| !ip.is_unspecified()),
            protocol: number(port),
            host_port: port.host,
            container_port: port.container,
        });
        let pod = Pod {
            uid: record.short().into(),
            host_ports: host_ports.collect(),
            resolver: !record.networks.is_empty(),
            further: subnets::addresses(record)
                .map(|(_, address)| address)
                .collect(),
            mac: record.mac.as_deref().and_then(mac),
            ..Pod::default()
        };
        let address = self.network.connect(&pod, netns).await.map_err(told)?;
        // others look at the records for who runs
        record.address = Some(address);
        home.save(record)?;
        let told = async {
            self.settle(home, record, Some(address)).await?;
            super::links::refresh(home, record)
        };
        match told.await {
            Ok(()) => Ok(address),
            Err(error) => {
                let _ = self.network.disconnect(record.short()).await;
                Err(error)
            }
        }
    }

    /// Brings rules and names up to date: `changed` runs with that address now, or doesn't any more.
    pub async fn settle(
        &self,
        home: &Home,
        changed: &Record,
        address: Option<Ipv4Addr>,
    ) -> Result<(), Error> {
        let before = resolver::members(home);
        if before.is_empty() && changed.networks.is_empty() {
            return Ok(());
        }
        let mut running: Vec<(Record, Ipv4Addr)> = home
            .all()
            .into_iter()
            .filter(|r| r.id != changed.id)
            .filter_map(|r| r.address.map(|a| (r, a)))
            .collect();
        running.extend(address.map(|address| (changed.clone(), address)));
        let any = running.iter().any(|(r, _)| !r.networks.is_empty());
        let members: Vec<Member> = running.iter().map(|(r, a)| member(r, *a)).collect();
        let internal = networks::internal(home);
        let isolated = self.network.isolate(&members, &internal).await;
        isolated.map_err(told)?;
        resolver::write(home, if any { &members } else { &[] })?;
        match any {
            true => resolver::ensure(home).await,
            false => Ok(()),
        }
    }
}

/// Gives back a container's address and ports; its namespace has been taken down, and its link goes with that.
pub async fn give_back(home: &Home, record: &Record) -> Result<(), Error> {
    let (here, pod) = (home.clone(), record.short().to_string());
    let gone = record.clone();
    let alone = tokio::task::spawn_blocking(move || {
        let _lock = here.lock()?;
        // others' rules are about it
        let known = !resolver::members(&here).is_empty();
        if known && here.load(&gone.id).is_some() {
            here.save(&gone)?;
        }
        let given =
            !known && knarr_network::give_back_alone(&here.network(), &pod).map_err(told)?;
        Ok::<_, Error>(given)
    });
    if alone.await.map_err(|e| Error::Failed(e.to_string()))?? {
        return Ok(());
    }
    let held = open(home).await?;
    let gone = held.network.disconnect(record.short()).await;
    gone.map_err(told)?;
    held.settle(home, record, None).await
}

/// What rules and names know of a container. SOURCE for the names: moby `daemon` buildEndpointDNSNames.
fn member(record: &Record, address: Ipv4Addr) -> Member {
    let named = |joined: &Joined| {
        let own = [&record.name, record.short(), &record.hostname].map(str::to_string);
        let mut names: Vec<String> = own.into_iter().chain(joined.aliases.clone()).collect();
        names.sort();
        names.dedup();
        (joined.id.clone(), names)
    };
    Member {
        id: record.short().into(),
        address,
        networks: record.networks.iter().map(named).collect(),
        further: subnets::addresses(record)
            .map(|(network, address)| (network.to_string(), address))
            .collect(),
    }
}

/// Six bytes, as they were checked when the container was made.
fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|b| u8::from_str_radix(b, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// How often another port that is free is looked for.
const TRIES: usize = 64;

/// Sees that a container's ports of the machine are free, or chooses them. The lock is held.
fn choose_ports(home: &Home, record: &mut Record) -> Result<(), Error> {
    if record.ports.is_empty() {
        return Ok(());
    }
    let others = home.all().into_iter();
    let others = others.filter(|r| r.id != record.id && r.address.is_some());
    let mut taken: Vec<Port> = others.flat_map(|r| r.ports).collect();
    for port in &mut record.ports {
        choose(port, &taken)?;
        taken.push(port.clone());
    }
    Ok(())
}

/// Nobody listens for a container's port: who has it is known of the others' records, too.
fn choose(port: &mut Port, taken: &[Port]) -> Result<(), Error> {
    let fits = |port: &mut Port| {
        let bound = free(port);
        match taken.iter().any(|other| port.clashes(other)) {
            true => None,
            false => bound.ok(),
        }
    };
    if let Some((from, to)) = port.range {
        for number in from..=to {
            port.host = number;
            if fits(port).is_some() {
                return Ok(());
            }
        }
        port.host = 0;
        return Err(Error::Failed(format!(
            "Bind for {}:{from}-{to} failed: port is already allocated: all of them are",
            port.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
        )));
    }
    if port.host != 0 {
        return free(port);
    }
    port.chosen = true;
    for _ in 0..TRIES {
        port.host = 0;
        if fits(port).is_some() {
            return Ok(());
        }
    }
    port.host = 0;
    free(port)
}

/// Sees that a port of the machine is free, or chooses one.
fn free(port: &mut Port) -> Result<(), Error> {
    let ip = port.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let at = SocketAddr::new(ip, port.host);
    let bound = match port.protocol.as_str() {
        "udp" => UdpSocket::bind(at).and_then(|socket| socket.local_addr()),
        "tcp" => TcpListener::bind(at).and_then(|socket| socket.local_addr()),
        _ if port.host == 0 => Ok(SocketAddr::new(ip, port.container)),
        _ => Ok(at),
    };
    let bound = bound.map_err(|error| {
        Error::Failed(format!(
            "Bind for {at} failed: {}: choose another port, or stop what has it",
            match error.kind() {
                std::io::ErrorKind::AddrInUse => "port is already allocated".to_string(),
                _ => error.to_string(),
            }
        ))
    })?;
    port.host = bound.port();
    Ok(())
}

/// Sees that no other container has the ports.
pub fn allocated(home: &Home, record: &Record) -> Result<(), Error> {
    let mut said = record.ports.iter().filter(|p| p.range.is_none());
    if said.all(|port| port.host == 0) {
        return Ok(());
    }
    for other in home.all() {
        if other.id == record.id || other.address.is_none() {
            continue;
        }
        let clash = record
            .ports
            .iter()
            .filter(|port| port.range.is_none())
            .find(|a| other.ports.iter().any(|b| a.clashes(b)));
        if let Some(port) = clash {
            return Err(Error::Failed(format!(
                "Bind for {}:{} failed: port is already allocated: container {} has it",
                port.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
                port.host,
                other.name
            )));
        }
    }
    Ok(())
}

/// Brings up the loopback of a namespace that has nothing else.
pub fn loopback(netns: &Path) -> Result<(), Error> {
    let at = netns.display().to_string();
    let file = fs::File::open(netns).map_err(io(&at))?;
    let up = move || -> std::io::Result<()> {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        use std::os::fd::AsFd;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        super::super::netlink::loopback_up()
    };
    let done = std::thread::spawn(up).join();
    done.map_err(|_| Error::Failed("a thread ended".into()))?
        .map_err(io(at))
}

/// The files that tell the container of names: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.
pub fn files(home: &Home, record: &Record) -> Vec<(&'static str, String)> {
    let mut hosts = match record.network {
        Kind::Host | Kind::Container => fs::read_to_string("/etc/hosts").unwrap_or_default(),
        _ => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n".to_string(),
    };
    for (name, address) in &record.extra_hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    if let Some(address) = record.address {
        let names = match record.said.domain.as_str() {
            "" => record.hostname.clone(),
            domain => format!("{0}.{domain} {0}", record.hostname),
        };
        hosts.push_str(&format!("{address}\t{names}\n"));
        for (_, (further, _)) in subnets::addresses(record) {
            hosts.push_str(&format!("{further}\t{names}\n"));
        }
    }
    hosts.push_str(&super::links::lines(home, record));
    let resolv = match record.network {
        Kind::None => String::new(),
        _ if !record.networks.is_empty() => own_resolv(record),
        _ => resolv(record),
    };
    vec![
        ("hosts", hosts),
        ("hostname", format!("{}\n", record.hostname)),
        ("resolv.conf", resolv),
    ]
}

/// As Docker's in networks of one's own: there is a server at this address, see `resolver`.
fn own_resolv(record: &Record) -> String {
    let mut text = "nameserver 127.0.0.11\n".to_string();
    if !record.dns_search.is_empty() && record.dns_search != ["."] {
        text.push_str(&format!("search {}\n", record.dns_search.join(" ")));
    }
    let own = match record.dns_options.is_empty() {
        true => "ndots:0".to_string(),
        false => record.dns_options.join(" ") + " ndots:0",
    };
    text + &format!("options {own}\n")
}

/// SOURCE: moby `libnetwork/resolvconf`: name servers on the machine's loopback can't be reached from inside; what stands
/// behind systemd's can.
fn resolv(record: &Record) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut text = read("/etc/resolv.conf");
    if text
        .lines()
        .any(|line| line.trim() == "nameserver 127.0.0.53")
    {
        let behind = read("/run/systemd/resolve/resolv.conf");
        text = if behind.is_empty() { text } else { behind };
    }
    resolv_of(&text, record)
}

fn resolv_of(text: &str, record: &Record) -> String {
    let inside = record.network != Kind::Host;
    let (mut out, mut servers) = (String::new(), 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let local = words
                    .next()
                    .and_then(|ip| ip.parse::<IpAddr>().ok())
                    .is_none_or(|ip| ip.is_loopback());
                if record.dns.is_empty() && !(inside && local) {
                    out.push_str(&format!("{line}\n"));
                    servers += 1;
                }
            }
            Some("search" | "domain") if !record.dns_search.is_empty() => {}
            Some("options") if !record.dns_options.is_empty() => {}
            Some(first) if !first.starts_with(['#', ';']) => out.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    for ip in &record.dns {
        out.push_str(&format!("nameserver {ip}\n"));
    }
    if record.dns.is_empty() && servers == 0 && inside {
        out.push_str("nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }
    if !record.dns_search.is_empty() && record.dns_search != ["."] {
        out.push_str(&format!("search {}\n", record.dns_search.join(" ")));
    }
    if !record.dns_options.is_empty() {
        out.push_str(&format!("options {}\n", record.dns_options.join(" ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_inside_can_be_reached() {
        let check = |text: &str, kind: Kind, dns: &[&str], want: &str| {
            let mut record: Record =
                serde_json::from_value(super::super::record::test_record()).unwrap();
            record.network = kind;
            record.dns = dns.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(resolv_of(text, &record), want, "{text:?} {kind:?} {dns:?}");
        };
        let own = "# mine\nnameserver 127.0.0.1\nnameserver 192.0.2.1\nsearch a.test\n";
        check(
            own,
            Kind::Bridge,
            &[],
            "nameserver 192.0.2.1\nsearch a.test\n",
        );
        check(
            own,
            Kind::Host,
            &[],
            "nameserver 127.0.0.1\nnameserver 192.0.2.1\nsearch a.test\n",
        );
        check(
            own,
            Kind::Bridge,
            &["192.0.2.9"],
            "search a.test\nnameserver 192.0.2.9\n",
        );
        check(
            "nameserver ::1\n",
            Kind::Bridge,
            &[],
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n",
        );
    }
}
