//! The network of `RUN`: a namespace of its own with a way out, and the files that tell a command of names.
//!
//! How a namespace gets its way out is not known here: [`Networks`] does it.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use futures::future::BoxFuture;
use knarr_dockerfile::Network;

use crate::{
    error::{Error, io},
    graph::Graph,
};

/// Gives network namespaces a way out.
pub trait Networks: Send + Sync {
    /// Sees to it that namespaces can be connected. Called before the first one is, and again only after it failed.
    fn open(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Gives a namespace an address and a route to where the machine gets.
    fn connect<'a>(&'a self, id: &'a str, namespace: &'a Path)
    -> BoxFuture<'a, Result<(), String>>;
    /// Takes back what [`Networks::connect`] gave.
    fn disconnect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// Where the machine is seen from inside.
    fn machine(&self) -> IpAddr;
    /// Takes all of it away.
    fn close(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// What `--add-host` calls the machine. SOURCE: moby opts.HostGatewayName
const HOST_GATEWAY: &str = "host-gateway";
/// SOURCE: buildkit executor/oci defaultHostname
const HOSTNAME: &str = "buildkitsandbox";
const RESOLV: &str = "/etc/resolv.conf";
/// What stands behind systemd's resolver on the loopback.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What a command of `RUN` is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    /// Nothing but a loopback.
    None,
    /// The machine's own.
    Machine,
    /// Its own, with a way out.
    Own,
}

impl Graph<'_> {
    /// What a step that asks for this gets.
    pub(crate) async fn net(&self, asked: Network) -> Net {
        match asked {
            Network::None => Net::None,
            Network::Host => Net::Machine,
            Network::Default => match self.engine.session.networks().await {
                Ok(true) => Net::Own,
                Ok(false) => Net::Machine,
                Err(why) => {
                    if self.engine.session.first_time() {
                        self.told.warn(format!(
                            "RUN has the machine's own network, for none can be made for it: {why}"
                        ));
                    }
                    Net::Machine
                }
            },
        }
    }

    /// What a command's host is called.
    pub(crate) fn hostname(&self) -> String {
        // SOURCE: buildkit frontend/dockerui keyHostnameArg
        let asked = self.request.args.get("BUILDKIT_SANDBOX_HOSTNAME");
        asked
            .filter(|name| !name.is_empty())
            .cloned()
            .unwrap_or_else(|| HOSTNAME.into())
    }

    /// (name below `/etc`, text) of what a container sees instead of the image's own.
    pub(crate) fn system_files(&self, net: Net) -> Result<Vec<(String, String)>, Error> {
        let machine = match (net, &self.engine.options.networks) {
            (Net::Own, Some(networks)) => networks.machine(),
            _ => IpAddr::from([127, 0, 0, 1]),
        };
        let hosts = hosts(&self.hostname(), &self.request.add_hosts, machine);
        let mut all = vec![("hosts".to_owned(), hosts)];
        let read = |path: &str| match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            other => other.map_err(io(PathBuf::from(path))),
        };
        let resolv = match net {
            Net::Machine => read(RESOLV)?,
            Net::Own | Net::None => {
                let text = read(RESOLV)?;
                let behind = match servers(&text).as_slice() {
                    [only] if *only == "127.0.0.53" => read(RESOLVED)?,
                    _ => String::new(),
                };
                inside(if behind.is_empty() { &text } else { &behind })
            }
        };
        all.push(("resolv.conf".to_owned(), resolv));
        Ok(all)
    }
}

/// SOURCE: buildkit executor/oci/hosts.go
fn hosts(hostname: &str, more: &[(String, String)], machine: IpAddr) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in more {
        match address.as_str() {
            HOST_GATEWAY => text += &format!("{machine}\t{name}\n"),
            address => text += &format!("{address}\t{name}\n"),
        }
    }
    text
}

fn servers(text: &str) -> Vec<&str> {
    fn server(line: &str) -> Option<&str> {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    }
    text.lines().filter_map(server).collect()
}

/// A `resolv.conf` as it serves in a namespace of its own: name servers on the machine's loopback can't be reached there.
/// SOURCE: moby libnetwork/internal/resolvconf TransformForLegacyNw
fn inside(text: &str) -> String {
    let (mut out, mut left) = (String::new(), 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().unwrap_or_default();
                let address = address.split('%').next().unwrap_or_default();
                let local = address
                    .parse::<IpAddr>()
                    .map_or(true, |ip| ip.is_loopback() || ip.is_ipv6());
                if !local {
                    out += &format!("{line}\n");
                    left += 1;
                }
            }
            Some(first) if !first.starts_with(['#', ';']) => out += &format!("{line}\n"),
            _ => {}
        }
    }
    if left == 0 {
        // SOURCE: libnetwork/internal/resolvconf defaultIPv4NSs
        out = format!("nameserver 8.8.8.8\nnameserver 8.8.4.4\n{out}");
    }
    out
}

/// What programs say when a name or an address can't be reached.
const UNREACHABLE: [&str; 22] = [
    "Temporary failure resolving",
    "Temporary failure in name resolution",
    "Could not resolve",
    "could not resolve",
    "Couldn't resolve",
    "Name or service not known",
    "bad address '",
    "Network is unreachable",
    "network is unreachable",
    "No route to host",
    "Connection refused",
    "connection refused",
    "Connection timed out",
    "Operation timed out",
    "i/o timeout",
    "no such host",
    "EAI_AGAIN",
    "ENOTFOUND",
    "ECONNREFUSED",
    "ETIMEDOUT",
    "Unable to connect to",
    "temporary error (try again later)",
];

/// What helps a command that failed because it didn't reach what the machine reaches.
pub(crate) fn hint(net: Net, log: &[String]) -> Option<&'static str> {
    let said = |text: &str| log.iter().any(|line| line.contains(text));
    if net == Net::Machine || !UNREACHABLE.iter().any(|text| said(text)) {
        return None;
    }
    Some(match net {
        Net::None => "the step has no network (--network=none)",
        _ => {
            "RUN has a network of its own, in which the machine's loopback is another: what is reached only from the \
             machine itself, e.g. a mirror or proxy at 127.0.0.1, needs `--network=host`"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_can_be_reached() {
        for (text, want) in [
            ("nameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"),
            (
                "# a\nsearch x\nnameserver 127.0.0.1\nnameserver 192.0.2.1\n",
                "search x\nnameserver 192.0.2.1\n",
            ),
            (
                "nameserver ::1\nsearch x\n",
                "nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch x\n",
            ),
            ("", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        ] {
            assert_eq!(inside(text), want, "{text:?}");
        }
        assert_eq!(
            servers("nameserver 127.0.0.53\noptions edns0\nnameserver\t::1 x\n"),
            ["127.0.0.53", "::1"]
        );
    }

    #[test]
    fn hosts_are_told() {
        let more = [("a", "192.0.2.7"), ("me", "host-gateway")];
        let more = more.map(|(name, ip)| (name.to_owned(), ip.to_owned()));
        let machine = IpAddr::from([169, 254, 1, 1]);
        assert_eq!(
            hosts("box", &more, machine),
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n192.0.2.7\ta\n169.254.1.1\tme\n"
        );
    }

    #[test]
    fn what_is_not_reached_is_explained() {
        let refused = ["wget: can't connect: Connection refused".to_owned()];
        let other = ["make: no rule".to_owned()];
        assert!(hint(Net::Own, &refused).is_some_and(|t| t.contains("--network=host")));
        assert!(hint(Net::None, &refused).is_some_and(|t| t.contains("none")));
        assert_eq!(hint(Net::Machine, &refused), None);
        assert_eq!(hint(Net::Own, &other), None);
    }
}
