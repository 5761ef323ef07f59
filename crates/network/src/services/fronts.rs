//! From a Service to what the VIP maps should hold for it.

use std::net::Ipv4Addr;

use super::view::{Address, View};
use crate::nft::elements::{Endpoint, Front};

/// A front, whether clients stick to an endpoint, and the endpoints (none: clients are refused).
pub(crate) type Wanted = (Front, bool, Vec<Endpoint>);

/// The fronts of a Service: its address, and its node ports. `dns_ip` stays the node's own.
pub(crate) fn of(view: &View, dns_ip: Ipv4Addr) -> Vec<Wanted> {
    let service = &view.service;
    let Address::Virtual(ip) = service.address else {
        return Vec::new();
    };
    if service.foreign {
        return Vec::new();
    }
    let mut all = Vec::new();
    for port in &service.ports {
        let targets = view.targets(port);
        if port.node_port != 0 {
            let front = Front {
                ip: Ipv4Addr::UNSPECIFIED,
                protocol: port.protocol,
                port: port.node_port,
            };
            all.push((front, service.affinity, targets.clone()));
        }
        if ip != dns_ip {
            all.push((
                Front {
                    ip,
                    protocol: port.protocol,
                    port: port.port,
                },
                service.affinity,
                targets,
            ));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::{
        objects,
        view::{Service, Slice},
    };

    fn view(service: &str, slices: &[&str]) -> View {
        let service: objects::Service = serde_json::from_str(service).expect("service");
        let slices = slices.iter().map(|text| {
            let object: objects::EndpointSlice = serde_json::from_str(text).expect("slice");
            Slice::of(&object)
                .expect("an IPv4 slice of a service")
                .into()
        });
        View {
            service: Service::of(&service).into(),
            slices: slices.collect(),
        }
    }

    fn check(name: &str, service: &str, slices: &[&str], expected: &[&str]) {
        let got = of(&view(service, slices), Ipv4Addr::new(10, 96, 0, 10))
            .into_iter()
            .map(|(front, affinity, endpoints)| {
                let endpoints = endpoints
                    .iter()
                    .map(|(ip, port)| format!("{ip}:{port}"))
                    .collect::<Vec<_>>()
                    .join(",");
                format!(
                    "{}/{}:{}{} {endpoints}",
                    front.protocol,
                    front.ip,
                    front.port,
                    if affinity { " sticky" } else { "" }
                )
            })
            .collect::<Vec<_>>();
        assert_eq!(got, expected, "{name}");
    }

    const SERVICE: &str = r#"{"metadata":{"name":"web","namespace":"shop"},
        "spec":{"clusterIP":"10.96.0.5","ports":[{"name":"http","port":80,"targetPort":"http"}]}}"#;

    fn slice(endpoints: &str) -> String {
        format!(
            r#"{{"metadata":{{"name":"web-1","namespace":"shop","labels":{{"kubernetes.io/service-name":"web"}}}},
            "addressType":"IPv4","ports":[{{"name":"http","protocol":"TCP","port":8080}}],"endpoints":[{endpoints}]}}"#
        )
    }

    #[test]
    fn endpoints_as_kube_proxy_chooses_them() {
        let ready = r#"{"addresses":["10.42.0.2"],"conditions":{"ready":true}}"#;
        let unsaid = r#"{"addresses":["10.42.0.3"]}"#;
        let not_ready =
            r#"{"addresses":["10.42.0.4"],"conditions":{"ready":false,"serving":false}}"#;
        let draining = r#"{"addresses":["10.42.0.5"],"conditions":{"ready":false,"serving":true,"terminating":true}}"#;
        let dead = r#"{"addresses":["10.42.0.6"],"conditions":{"ready":false,"serving":false,"terminating":true}}"#;
        let join = |all: &[&str]| slice(&all.join(","));
        check("no slice", SERVICE, &[], &["6/10.96.0.5:80 "]);
        check(
            "ready and unsaid",
            SERVICE,
            &[&join(&[ready, unsaid, not_ready])],
            &["6/10.96.0.5:80 10.42.0.2:8080,10.42.0.3:8080"],
        );
        check(
            "draining yields to ready",
            SERVICE,
            &[&join(&[ready, draining])],
            &["6/10.96.0.5:80 10.42.0.2:8080"],
        );
        check(
            "draining alone serves",
            SERVICE,
            &[&join(&[draining, dead, not_ready])],
            &["6/10.96.0.5:80 10.42.0.5:8080"],
        );
        check(
            "slices join, doubles fold",
            SERVICE,
            &[&join(&[ready]), &join(&[ready, unsaid])],
            &["6/10.96.0.5:80 10.42.0.2:8080,10.42.0.3:8080"],
        );
    }

    #[test]
    fn services_and_their_fronts() {
        let slice = slice(r#"{"addresses":["10.42.0.2"]}"#);
        let with = |from: &str, to: &str| SERVICE.replace(from, to);
        check("headless", &with("10.96.0.5", "None"), &[&slice], &[]);
        check("IPv6", &with("10.96.0.5", "fd00::5"), &[&slice], &[]);
        check(
            "the DNS address is the node's",
            &with("10.96.0.5", "10.96.0.10"),
            &[&slice],
            &[],
        );
        check(
            "port names must match",
            &with(r#""name":"http","#, r#""name":"other","#),
            &[&slice],
            &["6/10.96.0.5:80 "],
        );
        check(
            "protocols must match",
            &with(r#""port":80"#, r#""port":80,"protocol":"UDP""#),
            &[&slice],
            &["17/10.96.0.5:80 "],
        );
        check(
            "node port and affinity",
            &with(r#""port":80"#, r#""port":80,"nodePort":30080"#).replace(
                r#""clusterIP""#,
                r#""sessionAffinity":"ClientIP","clusterIP""#,
            ),
            &[&slice],
            &[
                "6/0.0.0.0:30080 sticky 10.42.0.2:8080",
                "6/10.96.0.5:80 sticky 10.42.0.2:8080",
            ],
        );
        check(
            "another proxy's",
            &with(
                r#""name":"web","#,
                r#""name":"web","labels":{"service.kubernetes.io/service-proxy-name":"x"},"#,
            ),
            &[&slice],
            &[],
        );
        check(
            "external name",
            r#"{"metadata":{},"spec":{"type":"ExternalName","externalName":"a.example"}}"#,
            &[],
            &[],
        );
    }
}
