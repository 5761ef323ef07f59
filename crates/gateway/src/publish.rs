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
    ground::Ground,
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

/// Where one listens: which of [`Publisher::grounds`], and the port there.
type Place = (usize, Transport, SocketAddr);

/// An open port.
enum Open {
    Tcp(Listener),
    Udp(UdpListener),
}

impl Open {
    fn bind(
        ground: &Ground,
        (_, transport, address): Place,
        front: Front,
    ) -> std::io::Result<Open> {
        match (transport, front) {
            (Transport::Udp, Front::Service(_, group, clients)) => {
                UdpListener::serve(ground.udp(address)?, group, clients).map(Open::Udp)
            }
            (_, front) => Listener::serve(ground.tcp(address)?, front).map(Open::Tcp),
        }
    }

    fn lead_to(&self, front: Front) {
        match (self, front) {
            (Open::Udp(listener), Front::Service(_, group, clients)) => {
                listener.lead_to(group, clients);
            }
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
    /// the machine's own network first
    grounds: Vec<Ground>,
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
    pub(crate) fn new(mut config: Config, reports: mpsc::Sender<Report>) -> Publisher {
        let further = std::mem::take(&mut config.further);
        Publisher {
            config,
            grounds: std::iter::once(Ground::machine()).chain(further).collect(),
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

    /// Has the neighbour close what is published now.
    pub(crate) async fn make_way(&mut self, model: &Model) {
        let Some(neighbour) = &mut self.config.neighbour else {
            return;
        };
        let mut wanted = BTreeSet::new();
        for service in model.services.all.values().filter(|s| s.published) {
            let ip = service.host_ip.unwrap_or(self.config.bind);
            let tcp = service.ports.iter();
            let tcp = tcp.filter(|p| p.transport == Transport::Tcp);
            wanted.extend(tcp.map(|p| SocketAddr::new(ip, p.number)));
        }
        neighbour.make_way(wanted).await;
    }

    /// Makes what is open what the model says.
    pub(crate) fn apply(&mut self, model: &Model) {
        let mut used = BTreeSet::new();
        let mut wanted = BTreeMap::<Place, (Option<Key>, Front)>::new();
        let mut troubles = Vec::<(Key, Place, String)>::new();
        for (key, service) in model.services.all.iter().filter(|(_, s)| s.published) {
            let ip = service.host_ip.unwrap_or(self.config.bind);
            for port in &service.ports {
                let at = SocketAddr::new(ip, port.number);
                let group = self.group(model, key, port, &mut used);
                let first = (0, port.transport, at);
                if let Some((Some((namespace, name)), _)) = wanted.get(&first) {
                    let text =
                        format!("port {at} is already published by Service {namespace}/{name}");
                    troubles.push((key.clone(), first, text));
                    continue;
                }
                let front = Front::Service(port.protocol, group, service.clients.clone());
                for ground in self.grounds_of(at) {
                    let front = (Some(key.clone()), front.clone());
                    wanted.insert((ground, port.transport, at), front);
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
                let (ground, _, at) = address;
                let place = self.grounds[ground].said();
                let text = format!(
                    "port {at}{place} can't be opened: {error}; end what listens there, or publish another port"
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
            let facts = model
                .services
                .all
                .get(&(namespace.clone(), service.clone()));
            group.stick(facts.is_some_and(|s| s.sticky));
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
            self.want(wanted, self.config.ingress_http, front);
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
            self.want(wanted, self.config.ingress_https, front);
        }
    }

    /// An Ingress's port is opened where no Service has it.
    fn want(
        &self,
        wanted: &mut BTreeMap<Place, (Option<Key>, Front)>,
        at: SocketAddr,
        front: Front,
    ) {
        for ground in self.grounds_of(at) {
            wanted
                .entry((ground, Transport::Tcp, at))
                .or_insert_with(|| (None, front.clone()));
        }
    }

    /// A port on all of the machine's addresses is one on the further nodes', too; an address is the machine's alone.
    fn grounds_of(&self, at: SocketAddr) -> std::ops::Range<usize> {
        match at.ip().is_unspecified() {
            true => 0..self.grounds.len(),
            false => 0..1,
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
        match Open::bind(&self.grounds[address.0], address, front) {
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
                    reason: "PortInUse",
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
