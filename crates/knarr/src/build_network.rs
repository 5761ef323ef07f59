//! The network of `RUN`: for each program that builds an instance of the network beside the platform's, with a small range
//! of its own, taken away when the program has built.
//!
//! ```text
//! /run/knarr/build-network/<namespace>/<n>/lock    held by who has the instance
//!                                         /range   where its addresses begin
//!                                         /state/  see knarr-network
//! ```
//! It is the machine's, not a data directory's, for ranges must not meet; and gone after a boot, as what it tells of. What a
//! killed program left is removed by the next one that builds.

use crate::error::{Error, io};
use futures::{FutureExt, future::BoxFuture};
use knarr_network::{Network, Pod};
use rustix::fs::FlockOperation;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tokio::sync::Mutex;

const DIR: &str = "/run/knarr/build-network";
/// Instances at the same time; each has 126 addresses, and no build runs as many containers.
const INSTANCES: u8 = 200;
/// Ranges are looked for from 10.127.0.0 downwards: `knarr run` and Pods choose others.
const RANGES: std::ops::RangeInclusive<u8> = 64..=127;
/// The gateway of every container, see knarr-network.
const MACHINE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));

/// A way out for containers of this program's builds.
pub struct Networks(Mutex<Option<Instance>>);

impl Networks {
    pub fn new() -> Networks {
        Networks(Mutex::new(None))
    }
}

/// While it lives nobody else has its number.
struct Instance {
    network: Network,
    dir: PathBuf,
    _lock: fs::File,
}

impl knarr_build::Networks for Networks {
    fn open(&self) -> BoxFuture<'_, Result<(), String>> {
        async {
            let mut held = self.0.lock().await;
            if held.is_none() {
                *held = Some(open().await.map_err(|e| e.to_string())?);
            }
            Ok(())
        }
        .boxed()
    }

    fn connect<'a>(
        &'a self,
        id: &'a str,
        namespace: &'a Path,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let network = match &*self.0.lock().await {
                Some(instance) => instance.network.clone(),
                None => return Err("it is closed".into()),
            };
            let pod = Pod {
                uid: id.into(),
                ..Pod::default()
            };
            let connected = network.connect(&pod, namespace).await;
            connected.map(drop).map_err(|e| e.to_string())
        }
        .boxed()
    }

    fn disconnect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let network = match &*self.0.lock().await {
                Some(instance) => instance.network.clone(),
                None => return Ok(()),
            };
            network.detach(id).await.map_err(|e| e.to_string())
        }
        .boxed()
    }

    fn machine(&self) -> IpAddr {
        MACHINE
    }

    fn close(&self) -> BoxFuture<'_, Result<(), String>> {
        async {
            match self.0.lock().await.take() {
                Some(instance) => remove(instance).await.map_err(|e| e.to_string()),
                None => Ok(()),
            }
        }
        .boxed()
    }
}

/// Removes what killed builds left.
pub async fn sweep() -> Result<(), Error> {
    for (dir, lock, base) in blocking(left).await? {
        let network = network(&dir, base).await?;
        let _lock = lock;
        remove(Instance {
            network,
            dir,
            _lock,
        })
        .await?;
    }
    Ok(())
}

/// Of this network namespace.
fn all() -> Result<PathBuf, Error> {
    let path = "/proc/self/ns/net";
    let namespace = fs::metadata(path).map_err(io(path))?.ino();
    Ok(Path::new(DIR).join(namespace.to_string()))
}

/// Held while instances come and go in this network namespace.
fn gate() -> Result<fs::File, Error> {
    let path = "/proc/self/ns/net";
    let file = fs::File::open(path).map_err(io(path))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| io(path)(e.into()))?;
    Ok(file)
}

fn folders(all: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(all) {
        Ok(entries) => Ok(entries.flatten().map(|e| e.path()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(io(all.display().to_string())(e)),
    }
}

/// Instances that nobody has any more.
fn left() -> Result<Vec<(PathBuf, fs::File, Ipv4Addr)>, Error> {
    let _gate = gate()?;
    let mut found = vec![];
    for dir in folders(&all()?)? {
        let Some(lock) = try_lock(&dir) else { continue };
        match range(&dir) {
            Some(base) => found.push((dir, lock, base)),
            // it was never one
            None => drop(fs::remove_dir_all(&dir)),
        }
    }
    Ok(found)
}

async fn open() -> Result<Instance, Error> {
    sweep().await?;
    let (dir, lock, base) = blocking(choose).await?;
    let network = network(&dir, base).await?;
    network.scatter();
    Ok(Instance {
        network,
        dir,
        _lock: lock,
    })
}

/// A free number, and a range for it that leads nowhere else.
fn choose() -> Result<(PathBuf, fs::File, Ipv4Addr), Error> {
    let _gate = gate()?;
    let all = all()?;
    // the range is shared with the instances beside it
    let beside = folders(&all)?.iter().find_map(|dir| range(dir));
    let second = match beside {
        Some(base) => base.octets()[1],
        None => free()?,
    };
    for number in 0..INSTANCES {
        let dir = all.join(number.to_string());
        let told = || io(dir.display().to_string());
        if dir.exists() {
            continue;
        }
        // programs in other namespaces take empty folders above away
        fs::create_dir_all(&dir)
            .or_else(|_| fs::create_dir_all(&dir))
            .map_err(told())?;
        let lock = try_lock(&dir)
            .ok_or_else(|| Error::Failed(format!("{} cannot be locked", dir.display())))?;
        let base = Ipv4Addr::new(10, second, number, 0);
        fs::write(dir.join("range"), base.to_string()).map_err(told())?;
        return Ok((dir, lock, base));
    }
    Err(Error::Failed(format!(
        "{INSTANCES} programs build at the same time: wait for one"
    )))
}

/// 10.SECOND.0.0/16 leads nowhere yet.
fn free() -> Result<u8, Error> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let taken = crate::run::routed(&routes);
    let overlaps = |second: u8| {
        let mut taken = taken.iter();
        taken.any(|(base, mask)| crate::run::overlaps(second, *base, *mask))
    };
    RANGES
        .rev()
        .find(|second| !overlaps(*second))
        .ok_or_else(|| Error::Failed("no range of addresses is free in 10.64.0.0/10".into()))
}

async fn network(dir: &Path, base: Ipv4Addr) -> Result<Network, Error> {
    let number = base.octets()[2];
    // others' names are hexadecimal digits
    let at = |last: u8| Ipv4Addr::from(u32::from(base) | u32::from(last));
    let config = knarr_network::Config {
        instance: format!("x{number:02x}"),
        node: "build".into(),
        state_dir: dir.join("state"),
        pod_cidr: (base, 25),
        node_cidr: (base, 25),
        place: None,
        // no Services: what the network needs a range and an address for is never asked
        service_cidr: (at(128), 28),
        dns_ip: at(130),
        cluster_domain: "cluster.local".into(),
        ipv6: None,
    };
    Network::open(config)
        .await
        .map_err(|e| Error::Failed(e.to_string()))
}

async fn remove(instance: Instance) -> Result<(), Error> {
    let gone = instance.network.purge().await;
    gone.map_err(|e| Error::Failed(e.to_string()))?;
    let Instance { dir, _lock, .. } = instance;
    let done = tokio::task::spawn_blocking(move || {
        // nobody may look at a folder that is half gone
        let _gate = gate()?;
        fs::remove_dir_all(&dir).map_err(io(dir.display().to_string()))?;
        // those above, when they are empty
        for above in dir.ancestors().skip(1).take(3) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(())
    });
    done.await.map_err(|e| Error::Failed(e.to_string()))?
}

fn range(dir: &Path) -> Option<Ipv4Addr> {
    let text = fs::read_to_string(dir.join("range")).ok()?;
    text.parse().ok()
}

/// None when another program has it, or it is no folder.
fn try_lock(dir: &Path) -> Option<fs::File> {
    if !dir.is_dir() {
        return None;
    }
    let file = fs::File::create(dir.join("lock")).ok()?;
    let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    locked.ok().map(|()| file)
}

async fn blocking<T: Send + 'static>(work: fn() -> Result<T, Error>) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::Failed(e.to_string()))?
}
