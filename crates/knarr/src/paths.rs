//! The data directory: everything knarr keeps is below it.

use crate::error::{Error, io};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

#[derive(Debug, Clone)]
pub struct Paths {
    pub data: PathBuf,
}

impl Paths {
    pub fn new(data: &Path) -> Result<Paths, Error> {
        let data = std::path::absolute(data).map_err(io(data.display().to_string()))?;
        Ok(Paths { data })
    }
    /// Makes the data directory, closed to others: it holds keys and the containers' files.
    pub fn create(&self) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.data)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::PermissionDenied => Error::Platform(format!(
                    "{}: {e}: run knarr as root, or give a --data-dir of your own",
                    self.data.display()
                )),
                _ => io(self.data.display().to_string())(e),
            })
    }

    /// Locked (flock) while the platform runs; holds its process id.
    pub fn pid(&self) -> PathBuf {
        self.data.join("knarr.pid")
    }
    pub fn log(&self) -> PathBuf {
        self.data.join("knarr.log")
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }
    /// A file here, named like a word of a request, proves to the platform that the request comes from somebody who may write
    /// here. Each is good for once: words of requests are logged.
    pub fn tokens(&self) -> PathBuf {
        self.data.join("tokens")
    }
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }
    pub fn settings(&self) -> PathBuf {
        self.data.join("settings.json")
    }
    pub fn sub(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// Where the registry listens, while it does.
    pub fn registry(&self) -> PathBuf {
        self.sub("registry.address")
    }

    /// The platform's process id, when it runs.
    pub fn running(&self) -> Option<i32> {
        let file = fs::File::open(self.pid()).ok()?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => fs::read_to_string(self.pid()).ok()?.trim().parse().ok(),
        }
    }
}

/// Nodes that one machine can be.
pub const NODES_MAX: u8 = 8;
/// A node has room for at least 254 Pods' addresses.
const NODE_BITS_MAX: u8 = 24;

/// Chosen at the first start of a data directory and kept: changing them would strand what runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Names this instance's cgroups, links and nft table.
    pub instance: String,
    pub api: SocketAddr,
    pub pod_cidr: (Ipv4Addr, u8),
    pub service_cidr: (Ipv4Addr, u8),
    pub cluster_domain: String,
    pub node: String,
    /// How many nodes the machine is; may change with each start.
    #[serde(default = "one")]
    pub nodes: u8,
}

fn one() -> u8 {
    1
}

/// Of the second family's Service addresses, as many as upstream's API server takes at most are more than enough.
const SERVICE_BITS6: u8 = 112;

impl Settings {
    /// The part of the Pods' range that a node gives out, counted from 1: an eighth, for as many nodes as there can be. A
    /// range too small to be shared is the first node's.
    pub fn node_cidr(&self, number: u8) -> Option<(Ipv4Addr, u8)> {
        let (base, bits) = self.pod_cidr;
        if bits > NODE_BITS_MAX - 3 {
            return (number == 1).then_some(self.pod_cidr);
        }
        let offset = u32::from(number).checked_sub(1)? << (32 - (bits + 3));
        (number <= NODES_MAX).then(|| (Ipv4Addr::from(u32::from(base) + offset), bits + 3))
    }

    /// The second family's ranges for a node, made from the first's, so that instances which differ in one differ in the
    /// other: unique local addresses (RFC 4193) whose last bits are those of the first family.
    pub fn ipv6(&self, number: u8) -> Option<knarr_network::Ipv6> {
        let wide = |base: Ipv4Addr, kind: u128| {
            const PREFIX: u128 = 0xfd6b_6e61_0000_0000_0000_0000_0000_0000;
            PREFIX | u128::from(u32::from(base)) << 64 | kind << 48
        };
        let ((pods, _), (services, _)) = (self.pod_cidr, self.service_cidr);
        let (node, bits) = self.node_cidr(number)?;
        let offset = u128::from(u32::from(node) - u32::from(pods));
        let (pods, services) = (wide(pods, 0), wide(services, 1));
        Some(knarr_network::Ipv6 {
            pod_cidr: (pods.into(), 96),
            node_cidr: ((pods + offset).into(), bits + 96),
            service_cidr: (services.into(), SERVICE_BITS6),
            dns_ip: (services + 10).into(),
        })
    }

    /// The tenth address of the service range, as is custom.
    pub fn dns_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_cidr.0).wrapping_add(10))
    }

    pub fn load(paths: &Paths) -> Option<Settings> {
        serde_json::from_slice(&fs::read(paths.settings()).ok()?).ok()
    }

    pub fn save(&self, paths: &Paths) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| Error::Failed(e.to_string()))?;
        write_private(&paths.settings(), &bytes)
    }
}

/// Writes a file that only its owner may read, by rename.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let temp = path.with_extension("tmp");
    let context = path.display().to_string();
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temp)
        .map_err(io(&context))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(io(&context))?;
    fs::rename(&temp, path).map_err(io(&context))
}

/// `10.42.0.0/16`
pub fn parse_cidr(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let (base, bits) = text
        .split_once('/')
        .ok_or("expected ADDRESS/BITS, e.g. 10.42.0.0/16")?;
    let base: Ipv4Addr = base
        .parse()
        .map_err(|_| format!("{base:?} is not an IPv4 address"))?;
    let bits: u8 = bits
        .parse()
        .ok()
        .filter(|b| (8..=28).contains(b))
        .ok_or("the prefix must be 8 to 28 bits")?;
    if u32::from(base) & (u32::MAX >> bits) != 0 {
        return Err(format!("{text} has host bits set"));
    }
    Ok((base, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_part_of_the_range() {
        let check = |cidr: &str, number: u8, wanted: Option<&str>| {
            let settings = serde_json::json!({"instance": "a", "api": "127.0.0.1:6443", "cluster_domain": "c",
                "pod_cidr": parse_cidr(cidr).unwrap(), "service_cidr": ["10.43.0.0", 16], "node": "n"});
            let settings: Settings = serde_json::from_value(settings).unwrap();
            let wanted = wanted.map(|text| parse_cidr(text).unwrap());
            assert_eq!(settings.node_cidr(number), wanted, "{cidr} {number}");
        };
        check("10.42.0.0/16", 1, Some("10.42.0.0/19"));
        check("10.42.0.0/16", 2, Some("10.42.32.0/19"));
        check("10.42.0.0/16", 8, Some("10.42.224.0/19"));
        check("10.42.0.0/16", 9, None);
        check("10.42.0.0/21", 2, Some("10.42.1.0/24"));
        check("10.42.0.0/22", 1, Some("10.42.0.0/22"));
        check("10.42.0.0/22", 2, None);
    }

    #[test]
    fn ranges_are_checked() {
        for (text, ok) in [
            ("10.42.0.0/16", true),
            ("10.42.0.1/16", false),
            ("10.42.0.0", false),
            ("x/16", false),
            ("10.0.0.0/31", false),
        ] {
            assert_eq!(parse_cidr(text).is_ok(), ok, "{text}");
        }
    }
}
