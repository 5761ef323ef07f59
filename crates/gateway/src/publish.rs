//! From the model to open ports: groups, listeners, routes, and what the objects' status says of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Config,
    ingress::{Route, Routes},
    listen::{Front, Listener, Protocol},
    model::{BackendRef, Key, Model, Port, Transport},
    pool::Group,
    report::Report,
    tls::{Certificates, Names},
    udp::UdpListener,
};

/// How long a port that is taken is left alone, doubled up to the second figure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// namespace, Service, port
type GroupKey = (String, String, Transport, u16);

/// Where one listens.
type Place = (Transport, SocketAddr);

/// An open port.
enum Open {
    Tcp(Listener),
    Udp(UdpListener),
}

impl Open {
    fn bind((transport, address): Place, front: Front) -> std::io::Result<Open> {
        match (transport, front) {
            (Transport::Udp, Front::Service(_, group)) => {
                UdpListener::bind(address, group).map(Open::Udp)
            }
            (_, front) => Listener::bind(address, front).map(Open::Tcp),
        }
    }

    fn lead_to(&self, front: Front) {
        match (self, front) {
            (Open::Udp(listener), Front::Service(_, group)) => listener.lead_to(group),
            (Open::Tcp(listener), front) => listener.lead_to(front),
            // Ingresses are TCP.
            (Open::Udp(_), Front::Ingress { .. }) => {}
        }
    }
}

struct Taken {
    again: Instant,
    pause: Duration,
}

/// All that is open.
pub(crate) struct Publisher {
    config: Config,
    reports: mpsc::Sender<Report>,
    groups: HashMap<GroupKey, Arc<Group>>,
    listeners: HashMap<Place, Open>,
    taken: HashMap<Place, Taken>,
    /// Services whose trouble was told.
    told: BTreeSet<(Key, Place)>,
    routes: Arc<ArcSwap<Routes>>,
    certificates: Option<Arc<Certificates>>,
}

impl Publisher {
    pub(crate) fn new(config: Config, reports: mpsc::Sender<Report>) -> Publisher {
        Publisher {
            config,
            reports,
            groups: HashMap::new(),
            listeners: HashMap::new(),
            taken: HashMap::new(),
            told: BTreeSet::new(),
            routes: Arc::default(),
            certificates: None,
        }
    }

    /// When a port that was taken is to be tried again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.taken.values().map(|taken| taken.again).min()
    }

    /// Makes what is open what the model says.
    pub(crate) fn apply(&mut self, model: &Model) {
        let mut used = BTreeSet::new();
        let mut wanted = BTreeMap::<Place, (Option<Key>, Front)>::new();
        let mut troubles = Vec::<(Key, Place, String)>::new();
        for (key, service) in model.services.all.iter().filter(|(_, s)| s.published) {
            let ip = service.host_ip.unwrap_or(self.config.bind);
            for port in &service.ports {
                let address = (port.transport, SocketAddr::new(ip, port.number));
                let group = self.group(model, key, port, &mut used);
                match wanted.get(&address) {
                    Some((Some((namespace, name)), _)) => {
                        let text = format!(
                            "port {} is already published by Service {namespace}/{name}",
                            address.1
                        );
                        troubles.push((key.clone(), address, text));
                    }
                    _ => drop(wanted.insert(
                        address,
                        (Some(key.clone()), Front::Service(port.protocol, group)),
                    )),
                }
            }
        }
        self.ingress(model, &mut used, &mut wanted);
        self.groups.retain(|key, _| used.contains(key));

        // Closed first: a port may move from one address to all of them.
        self.listeners
            .retain(|address, _| wanted.contains_key(address));
        self.taken.retain(|address, _| wanted.contains_key(address));
        for (address, (owner, front)) in wanted {
            if let Some(error) = self.open(address, front) {
                let text = format!(
                    "port {} can't be opened: {error}; end what listens there, or publish another port",
                    address.1
                );
                match owner {
                    Some(key) => troubles.push((key, address, text)),
                    None => tracing::warn!("Ingress: {text}"),
                }
            }
        }
        self.report(model, &troubles);
    }

    fn group(
        &mut self,
        model: &Model,
        (namespace, service): &Key,
        port: &Port,
        used: &mut BTreeSet<GroupKey>,
    ) -> Arc<Group> {
        let key = (
            namespace.clone(),
            service.clone(),
            port.transport,
            port.number,
        );
        let group = self
            .groups
            .entry(key.clone())
            .or_insert_with(|| Group::new(format!("{namespace}/{service}:{}", port.number)));
        if used.insert(key) {
            group.set(&model.targets((namespace, service), port));
        }
        group.clone()
    }

    fn ingress(
        &mut self,
        model: &Model,
        used: &mut BTreeSet<GroupKey>,
        wanted: &mut BTreeMap<Place, (Option<Key>, Front)>,
    ) {
        let mut routes = Vec::new();
        let mut names = Names::new();
        let (mut any, mut tls) = (false, false);
        for ((namespace, _), ingress) in model.ingresses() {
            any = true;
            for rule in &ingress.rules {
                let to = self.backend(model, namespace, &rule.backend, used);
                routes.push(Route {
                    host: rule.host.clone(),
                    path: rule.path.clone(),
                    kind: rule.kind,
                    to,
                });
            }
            for (hosts, secret) in &ingress.tls {
                tls = true;
                let pair = model
                    .secrets
                    .all
                    .get(&(namespace.clone(), secret.clone()))
                    .and_then(|s| s.pair.as_ref());
                names.extend(
                    hosts
                        .iter()
                        .filter_map(|host| Some((host.to_ascii_lowercase(), pair?.clone()))),
                );
            }
        }
        self.routes.store(Arc::new(Routes::new(routes)));
        if any {
            let front = Front::Ingress {
                routes: self.routes.clone(),
                tls: None,
            };
            wanted
                .entry((Transport::Tcp, self.config.ingress_http))
                .or_insert((None, front));
        }
        if tls && self.certificates.is_none() {
            match Certificates::new() {
                Ok(certificates) => self.certificates = Some(Arc::new(certificates)),
                Err(error) => tracing::error!(%error, "no TLS for Ingresses"),
            }
        }
        if let (true, Some(certificates)) = (tls, &self.certificates) {
            certificates.set(names);
            let front = Front::Ingress {
                routes: self.routes.clone(),
                tls: Some(certificates.clone()),
            };
            wanted
                .entry((Transport::Tcp, self.config.ingress_https))
                .or_insert((None, front));
        }
    }

    /// A backend that isn't there is an empty group: its requests are told so.
    fn backend(
        &mut self,
        model: &Model,
        namespace: &str,
        backend: &BackendRef,
        used: &mut BTreeSet<GroupKey>,
    ) -> (Protocol, Arc<Group>) {
        let key = (namespace.to_string(), backend.service.clone());
        let ports = model.services.all.get(&key).map_or(&[][..], |s| &s.ports);
        let mut tcp = ports.iter().filter(|p| p.transport == Transport::Tcp);
        let port = tcp.find(|port| match &backend.port {
            Ok(number) => port.number == *number,
            Err(name) => port.name == *name,
        });
        match port {
            Some(port) => {
                let protocol = if port.protocol == Protocol::H2c {
                    Protocol::H2c
                } else {
                    Protocol::Http
                };
                (protocol, self.group(model, &key, port, used))
            }
            None => (
                Protocol::Http,
                Group::new(format!("{namespace}/{}", backend.service)),
            ),
        }
    }

    /// What went wrong, if the port isn't open now.
    fn open(&mut self, address: Place, front: Front) -> Option<std::io::Error> {
        if let Some(listener) = self.listeners.get(&address) {
            listener.lead_to(front);
            return None;
        }
        let now = Instant::now();
        if let Some(taken) = self.taken.get(&address).filter(|taken| taken.again > now) {
            let _ = taken;
            return Some(std::io::ErrorKind::AddrInUse.into());
        }
        match Open::bind(address, front) {
            Ok(listener) => {
                self.taken.remove(&address);
                self.listeners.insert(address, listener);
                None
            }
            Err(error) => {
                let pause = self
                    .taken
                    .get(&address)
                    .map_or(RETRY.0, |taken| (taken.pause * 2).min(RETRY.1));
                self.taken.insert(
                    address,
                    Taken {
                        again: now + pause,
                        pause,
                    },
                );
                Some(error)
            }
        }
    }

    /// Status of what is published, and an Event for each new trouble.
    fn report(&mut self, model: &Model, troubles: &[(Key, Place, String)]) {
        let now = troubles
            .iter()
            .map(|(key, address, _)| (key.clone(), *address))
            .collect::<BTreeSet<_>>();
        for (key, address, text) in troubles {
            if !self.told.contains(&(key.clone(), *address)) {
                tracing::warn!(namespace = key.0, service = key.1, "{text}");
                let uid = model
                    .services
                    .all
                    .get(key)
                    .map(|s| s.uid.clone())
                    .unwrap_or_default();
                self.send(Report::Trouble {
                    service: key.clone(),
                    uid,
                    text: text.clone(),
                });
            }
        }
        self.told = now;
        for (key, service) in &model.services.all {
            let sound = !self.told.iter().any(|(troubled, _)| troubled == key);
            let ip = match service.host_ip.unwrap_or(self.config.bind) {
                ip if ip.is_unspecified() => self.config.address,
                ip => ip,
            };
            let wanted = if service.published && sound {
                vec![ip.to_string()]
            } else {
                Vec::new()
            };
            // Of a Service that isn't ours the status isn't, either.
            if service.status != wanted && (service.published || service.status == [ip.to_string()])
            {
                self.send(Report::Service {
                    key: key.clone(),
                    ips: wanted,
                });
            }
        }
        let ip = self.config.address.to_string();
        for (key, ingress) in model.ingresses() {
            if ingress.status != [ip.clone()] {
                self.send(Report::Ingress {
                    key: key.clone(),
                    ips: vec![ip.clone()],
                });
            }
        }
    }

    fn send(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::warn!(
                "too much to report at once: some status is left out until the next change"
            );
        }
    }
}
