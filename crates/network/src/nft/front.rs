//! Fronts (where clients connect to) and what is behind each.

use std::net::IpAddr;

use super::family::Family;

/// For whom a front is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Everybody.
    All,
    /// Who is neither this node nor one of its Pods (`externalTrafficPolicy: Local`); looked at first.
    Outside,
}

/// A place clients connect to. An unspecified `ip` means any address of this node; protocol and port 0 mean whatever no
/// other front of the address has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Front {
    pub(crate) ip: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) scope: Scope,
}

impl Front {
    pub(crate) fn is_node_port(&self) -> bool {
        self.ip.is_unspecified()
    }

    /// All protocols and ports of an address, but for those that have a front of their own.
    pub(crate) fn rest_of(ip: IpAddr) -> Front {
        Front {
            ip,
            protocol: 0,
            port: 0,
            scope: Scope::All,
        }
    }

    pub(crate) fn is_rest(&self) -> bool {
        self.protocol == 0
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.ip)
    }
}

pub(crate) type Endpoint = (IpAddr, u16);

/// What a front without endpoints does with its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Barred {
    /// Tells them: nobody serves it.
    Refuse,
    /// Says nothing: it is served, but not here (`…TrafficPolicy: Local`).
    Drop,
}

/// Endpoints by slot, and how one is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backends {
    /// How long a client keeps its endpoint after its last connection, in seconds; 0: not at all.
    pub(crate) sticky_seconds: u32,
    pub(crate) slots: Box<[Endpoint]>,
    /// Meant when there is no slot.
    pub(crate) barred: Barred,
}

impl Default for Backends {
    fn default() -> Self {
        Backends {
            sticky_seconds: 0,
            slots: Box::default(),
            barred: Barred::Refuse,
        }
    }
}

/// What a Service wants of a front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) sticky_seconds: u32,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) barred: Barred,
}

/// What of a packet is looked up to find its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum By {
    /// Address, protocol and port.
    Address,
    /// Protocol and port: the address is one of the node's.
    NodePort,
    /// The address alone; the port stays as it is.
    Rest,
}

/// A chain that spreads over a number of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Chain {
    pub(crate) by: By,
    pub(crate) scope: Scope,
    pub(crate) sticky_seconds: u32,
    pub(crate) endpoints: u32,
}

/// Where a front's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    Spread(Chain),
    Barred(Barred),
}

pub(crate) const REFUSE: &str = "refuse";
pub(crate) const DROP: &str = "dropped";

impl Target {
    pub(crate) fn of(front: &Front, backends: &Backends) -> Target {
        if backends.slots.is_empty() {
            return Target::Barred(backends.barred);
        }
        Target::Spread(Chain {
            by: match (front.is_node_port(), front.is_rest()) {
                (true, _) => By::NodePort,
                (_, true) => By::Rest,
                _ => By::Address,
            },
            scope: front.scope,
            sticky_seconds: backends.sticky_seconds,
            endpoints: backends.slots.len() as u32,
        })
    }

    pub(crate) fn chain(&self) -> String {
        match self {
            Target::Spread(chain) => chain.name(),
            Target::Barred(Barred::Refuse) => REFUSE.into(),
            Target::Barred(Barred::Drop) => DROP.into(),
        }
    }

    pub(crate) fn parse(chain: &str) -> Option<Target> {
        match chain {
            REFUSE => Some(Target::Barred(Barred::Refuse)),
            DROP => Some(Target::Barred(Barred::Drop)),
            other => Chain::parse(other).map(Target::Spread),
        }
    }
}

impl Chain {
    /// `lb-3`, `any-1`, `npx-2-sticky-10800`
    pub(crate) fn name(self) -> String {
        let base = match self.by {
            By::Address => "lb",
            By::NodePort => "np",
            By::Rest => "any",
        };
        let scope = if self.scope == Scope::Outside {
            "x"
        } else {
            ""
        };
        let endpoints = self.endpoints;
        match self.sticky_seconds {
            0 => format!("{base}{scope}-{endpoints}"),
            seconds => format!("{base}{scope}-{endpoints}-sticky-{seconds}"),
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Chain> {
        let mut parts = name.split('-');
        let (by, scope) = match parts.next()? {
            "lb" => (By::Address, Scope::All),
            "lbx" => (By::Address, Scope::Outside),
            "np" => (By::NodePort, Scope::All),
            "npx" => (By::NodePort, Scope::Outside),
            "any" => (By::Rest, Scope::All),
            "anyx" => (By::Rest, Scope::Outside),
            _ => return None,
        };
        let endpoints = parts.next()?.parse().ok()?;
        let sticky_seconds = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => 0,
            (Some("sticky"), Some(seconds), None) => seconds.parse().ok()?,
            _ => return None,
        };
        Some(Chain {
            by,
            scope,
            sticky_seconds,
            endpoints,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_round_trip() {
        for by in [By::Address, By::NodePort, By::Rest] {
            for scope in [Scope::All, Scope::Outside] {
                for sticky_seconds in [0, 10800] {
                    let chain = Chain {
                        by,
                        scope,
                        sticky_seconds,
                        endpoints: 12,
                    };
                    assert_eq!(Chain::parse(&chain.name()), Some(chain));
                }
            }
        }
        for foreign in [
            "lb",
            "lb-",
            "lb-x",
            "forward",
            "lby-3",
            "lb-3-sticky",
            "lb-3-sticky-x",
            "lb-3-4",
        ] {
            assert_eq!(Chain::parse(foreign), None, "{foreign}");
        }
    }
}
