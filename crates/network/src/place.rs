//! A further node on the same machine: network and host name namespaces of its own, one link to the machine's.
//!
//! ```text
//! machine                                            node k
//! knXnK  address: the first node's      ── veth ──   eth0  address: node k's
//!        route: node k's Pods via node k             route: everything via the first node
//! ```
//!
//! The namespaces are kept by bind mounts, so that they outlive this process as the containers in them do.

use crate::{
    Config, Error,
    error::io,
    link::{self, Handle},
};
use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount},
    thread::{LinkNameSpaceType, UnshareFlags},
};
use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// The link's name in the node's own namespace.
pub(crate) const UPLINK: &str = "eth0";

#[derive(Debug, Clone)]
pub struct Place {
    /// Folder of the namespaces' pins, the node's alone.
    pub dir: PathBuf,
    /// What its Pods on the node's network are told the machine is called.
    pub hostname: String,
    /// Names its link; the first node, which has the machine's own namespaces, is 1.
    pub number: u8,
    /// The first node's address among Pods ([`Config::node_ip`]).
    pub machine_ip: Ipv4Addr,
    pub machine_ip6: Option<Ipv6Addr>,
    /// What the machine calls itself towards the outside, an address a family at most: so it calls itself towards this
    /// node, too, as nodes do that are machines of their own. None, and it goes by its address among Pods.
    pub machine_outside: Vec<IpAddr>,
}

impl Place {
    /// The node's network namespace.
    pub fn net(&self) -> PathBuf {
        self.dir.join("net")
    }

    /// The node's host name namespace.
    pub fn uts(&self) -> PathBuf {
        self.dir.join("uts")
    }

    fn link_name(&self, instance: &str) -> String {
        format!("{}{}", links(instance), self.number)
    }

    /// Makes the namespaces if they aren't there. Blocking, quick.
    fn make(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.dir).map_err(io(&self.dir))?;
        if is_mount(&self.net()) && is_mount(&self.uts()) {
            return Ok(());
        }
        let at = |e: rustix::io::Errno| io(&self.dir)(e.into());
        if !is_mount(&self.dir) {
            mount_bind(&self.dir, &self.dir).map_err(at)?;
        }
        // A copy of a pin in another mount namespace would keep the node's namespace alive after its end.
        mount_change(&self.dir, MountPropagationFlags::PRIVATE).map_err(at)?;
        let making = || -> Result<(), Error> {
            // SAFETY: nothing that threads share is unshared, and this thread ends here.
            #[allow(unsafe_code)]
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWUTS) }
                .map_err(at)?;
            rustix::system::sethostname(self.hostname.as_bytes()).map_err(at)?;
            for (name, path) in [("net", self.net()), ("uts", self.uts())] {
                File::create(&path).map_err(io(&path))?;
                mount_bind(format!("/proc/thread-self/ns/{name}"), &path).map_err(at)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| scope.spawn(making).join())
            .map_err(|_| Error::Worker("it panicked".into()))?
    }

    /// Takes the namespaces' pins away; what is in them goes with the last process that uses them.
    fn remove(&self) -> Result<(), Error> {
        for path in [self.net(), self.uts(), self.dir.clone()] {
            while is_mount(&path) {
                unmount(&path, UnmountFlags::DETACH).map_err(|e| io(&path)(e.into()))?;
            }
        }
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(&self.dir)(e)),
            _ => Ok(()),
        }
    }
}

/// How the names of the links to further nodes begin; no Pod's link is called so.
pub(crate) fn links(instance: &str) -> String {
    format!("kn{instance}n")
}

fn is_mount(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|s| s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Moves this thread into the network of the place, for good.
pub(crate) fn enter(place: Option<&Place>) -> Result<(), Error> {
    let Some(place) = place else { return Ok(()) };
    let path = place.net();
    let namespace = File::open(&path).map_err(io(&path))?;
    let kind = LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
        .map_err(|e| io(&path)(e.into()))
}

/// Does `work` in the network of the place; here when there is none. What it opens stays there, served by this runtime.
pub(crate) fn within<T: Send>(
    place: Option<&Place>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let Some(place) = place else { return work() };
    let runtime = tokio::runtime::Handle::try_current();
    // A thread of its own, which never leaves the place and ends.
    let inside = move || {
        enter(Some(place))?;
        let _runtime = runtime.as_ref().ok().map(|runtime| runtime.enter());
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join())
        .map_err(|_| Error::Worker("it panicked".into()))?
}

/// Makes the place and joins it to the machine's network. Idempotent.
pub(crate) async fn open(config: &Config) -> Result<(), Error> {
    let Some(place) = &config.place else {
        return Ok(());
    };
    place.make()?;
    let name = place.link_name(&config.instance);
    let (machine, machine_task) = link::connect(None)?;
    let (node, node_task) = link::connect(Some(place))?;
    let done = join(&machine, &node, &name, config, place).await;
    machine_task.abort();
    node_task.abort();
    done
}

async fn join(
    machine: &Handle,
    node: &Handle,
    name: &str,
    config: &Config,
    place: &Place,
) -> Result<(), Error> {
    if link::index(node, UPLINK).await?.is_none() {
        // one without its other end is a former node's
        link::remove_with(machine, name).await?;
        let path = place.net();
        let namespace = File::open(&path).map_err(io(&path))?;
        link::add_pair(machine, name, (UPLINK, None), &namespace).await?;
    }
    let near = link::wanted(machine, name).await?;
    let far = link::wanted(node, UPLINK).await?;
    link::up(machine, near).await?;
    link::up(node, far).await?;
    let first = Ends {
        machine: place.machine_ip.into(),
        node: config.node_ip().into(),
        pods: (config.node_cidr.0.into(), config.node_cidr.1),
    };
    let second = config.ipv6.as_ref().zip(place.machine_ip6);
    let second = second.map(|(ipv6, machine_ip)| Ends {
        machine: machine_ip.into(),
        node: ipv6.node_ip().into(),
        pods: (ipv6.node_cidr.0.into(), ipv6.node_cidr.1),
    });
    for ends in std::iter::once(first).chain(second) {
        // On the link, so that what is masqueraded has an address that is known on the other side.
        link::address(machine, near, ends.machine).await?;
        link::address(node, far, ends.node).await?;
        let source = Some(ends.machine);
        link::route_via(machine, ends.pods, ends.node, near, source).await?;
        let same = |ip: &&IpAddr| ip.is_ipv4() == ends.node.is_ipv4();
        if let Some(outside) = place.machine_outside.iter().find(same) {
            // An address that has just gone is no reason to do without the node: its Pods' route leads there, too.
            if let Err(error) = link::host_route(machine, ends.node, near, Some(*outside)).await {
                tracing::debug!(%error, "no route of its own to a further node");
            }
        }
        link::host_route(node, ends.machine, far, Some(ends.node)).await?;
        let all = match ends.machine {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 0),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        link::route_via(node, all, ends.machine, far, Some(ends.node)).await?;
    }
    Ok(())
}

/// The ends of the link in one family, and what is behind the further one.
struct Ends {
    machine: IpAddr,
    node: IpAddr,
    pods: (IpAddr, u8),
}

/// Removes the place with all that is in its network.
pub(crate) async fn remove(config: &Config) -> Result<(), Error> {
    let Some(place) = &config.place else {
        return Ok(());
    };
    let (machine, task) = link::connect(None)?;
    let done = link::remove_with(&machine, &place.link_name(&config.instance)).await;
    task.abort();
    done?;
    place.remove()
}
