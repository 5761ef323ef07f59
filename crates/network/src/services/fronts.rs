//! From a Service to what the VIP maps should hold for it.

use std::net::IpAddr;

use super::view::{Address, Here, Reach, ServicePort, View};
use crate::nft::{
    family::Family,
    front::{Barred, Front, Scope, Wanted},
};

/// The fronts of a Service in one family: its address, more addresses, and its node ports. `dns_ip` stays the node's own.
pub(crate) fn of(
    view: &View,
    family: Family,
    here: &Here,
    dns_ip: Option<IpAddr>,
) -> Vec<(Front, Wanted)> {
    let service = &view.service;
    let Address::Virtual(ips) = &service.address else {
        return Vec::new();
    };
    let Some(ip) = ips.iter().find(|ip| Family::of(**ip) == family) else {
        return Vec::new();
    };
    if service.foreign {
        return Vec::new();
    }
    let mut all = Vec::new();
    let inside = match service.internal_local {
        true => Reach::Local,
        false => Reach::Cluster,
    };
    if service.any_port && Some(*ip) != dns_ip {
        let wanted = Wanted {
            sticky_seconds: 0,
            endpoints: view.whole_targets(family, inside, here),
            barred: Barred::Refuse,
        };
        all.push((Front::rest_of(*ip), wanted));
        for ip in service.more.iter().filter(|ip| Family::of(**ip) == family) {
            let wanted = Wanted {
                sticky_seconds: 0,
                endpoints: view.whole_targets(family, Reach::Cluster, here),
                barred: Barred::Refuse,
            };
            all.push((Front::rest_of(*ip), wanted));
        }
    }
    for port in &service.ports {
        let front = |ip, number, scope| Front {
            ip,
            protocol: port.protocol,
            port: number,
            scope,
        };
        let wanted = |reach| wanted(view, port, family, reach, here);
        if Some(*ip) != dns_ip {
            all.push((front(*ip, port.port, Scope::All), wanted(inside)));
        }
        let node_port = (port.node_port != 0).then(|| (family.unspecified(), port.node_port));
        let more = service
            .more
            .iter()
            .filter(|ip| Family::of(**ip) == family)
            .map(|ip| (*ip, port.port));
        for (ip, number) in more.chain(node_port) {
            all.push((front(ip, number, Scope::All), wanted(Reach::Cluster)));
            if service.external_local {
                all.push((front(ip, number, Scope::Outside), wanted(Reach::Local)));
            }
        }
    }
    all
}

fn wanted(view: &View, port: &ServicePort, family: Family, reach: Reach, here: &Here) -> Wanted {
    let endpoints = view.targets(port, family, reach, here);
    let elsewhere = || !view.targets(port, family, Reach::Cluster, here).is_empty();
    Wanted {
        sticky_seconds: view.service.sticky_seconds,
        barred: match endpoints.is_empty() && reach == Reach::Local && elsewhere() {
            true => Barred::Drop,
            false => Barred::Refuse,
        },
        endpoints,
    }
}

#[cfg(test)]
#[path = "fronts_tests.rs"]
mod tests;
