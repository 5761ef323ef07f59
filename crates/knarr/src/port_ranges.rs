//! `ports: ["8000-8010:80"]`: which of them it is. One for each replica, free ones, and as long as they are in the range those
//! that the service has.

use crate::error::Error;
use k8s_openapi::api::core::v1::Service;
use knarr_compose::{Port, Project};
use kube::{Api, Client, ResourceExt, api::ListParams};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// A port of the host, as a container is given it.
type Held = (u16, String);

/// Chooses.
///
/// # Errors
/// When a range has too few free ports; when the platform does not answer.
pub async fn choose(client: &Client, project: &mut Project) -> Result<(), Error> {
    let is_range = |p: &Port| p.published.is_some_and(|(a, b)| a != b);
    let services = || project.services.values();
    if !services().any(|s| s.ports.iter().any(is_range)) {
        return Ok(());
    }
    let namespace = knarr_compose::namespace(&project.name);
    // Of the project's services, (service, container port, host port); and what others have.
    let (mut own, mut others) = (Vec::new(), BTreeSet::<Held>::new());
    let all = Api::<Service>::all(client.clone());
    for service in all.list(&ListParams::default()).await? {
        let balanced =
            service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
        let name = service.labels().get("app.kubernetes.io/name").cloned();
        let is_own = service.namespace().as_ref() == Some(&namespace);
        for port in service.spec.and_then(|s| s.ports).into_iter().flatten() {
            let (Ok(number), Some(protocol)) = (u16::try_from(port.port), port.protocol) else {
                continue;
            };
            match (&name, is_own && balanced) {
                (Some(name), true) => {
                    own.push((name.clone(), port.target_port, (number, protocol)))
                }
                _ if balanced => drop(others.insert((number, protocol))),
                _ => {}
            }
        }
    }
    let fixed = services().flat_map(|s| s.ports.iter().filter(|p| !is_range(p)));
    let fixed = fixed.filter_map(|p| Some((p.published?.0, p.protocol.clone())));
    let mut taken: BTreeSet<Held> = others;
    taken.extend(fixed);
    for service in project.services.values_mut() {
        let object = knarr_compose::object_name(&service.name);
        let wanted = usize::try_from(service.mode.replicas().max(1)).unwrap_or(1);
        let mut ports = Vec::new();
        for port in std::mem::take(&mut service.ports) {
            let Some((first, last)) = port.published.filter(|(a, b)| a != b) else {
                ports.push(port);
                continue;
            };
            let target = i32::from(port.target);
            let had = own.iter().filter(|(name, to, _)| {
                use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int;
                *name == object && *to == Some(Int(target))
            });
            let had: BTreeSet<u16> = had.map(|(_, _, (number, _))| *number).collect();
            let range = first..=last;
            let kept = range.clone().filter(|n| had.contains(n));
            let fresh = range.filter(|n| !had.contains(n) && is_free(&port, *n));
            let chosen: Vec<u16> = kept
                .chain(fresh)
                .filter(|n| !taken.contains(&(*n, port.protocol.clone())))
                .take(wanted)
                .collect();
            if chosen.len() < wanted {
                return Err(Error::Input(format!(
                    "{}: {} of the ports {first}-{last} are free, and its {wanted} replicas need one each: widen the range in `ports`",
                    service.name,
                    chosen.len(),
                )));
            }
            for number in chosen {
                taken.insert((number, port.protocol.clone()));
                ports.push(Port {
                    published: Some((number, number)),
                    ..port.clone()
                });
            }
        }
        service.ports = ports;
    }
    Ok(())
}

fn is_free(port: &Port, number: u16) -> bool {
    let ip = port.host_ip.as_ref().and_then(|i| i.parse().ok());
    let address = SocketAddr::new(ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), number);
    match port.protocol.as_str() {
        "UDP" => std::net::UdpSocket::bind(address).is_ok(),
        _ => std::net::TcpListener::bind(address).is_ok(),
    }
}
