//! What the gateway knows of the cluster, kept small: watched objects become these as they come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressBackend, IngressClass},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ApiResource,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use rustls::sign::CertifiedKey;

use crate::{clients::Clients, ingress::PathType, listen::Protocol, tls, watched::WatchedService};

/// Names the controller in IngressClass objects, and the `loadBalancerClass` served here.
pub(crate) const CONTROLLER: &str = "knarr.dev/gateway";
/// Annotation of a Service: the host address its ports are published on.
const HOST_IP: &str = "knarr.dev/host-ip";

/// namespace, name
pub(crate) type Key = (String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// None for what isn't served here (SCTP).
    fn of(protocol: Option<&str>) -> Option<Transport> {
        match protocol.unwrap_or("TCP") {
            "TCP" => Some(Transport::Tcp),
            "UDP" => Some(Transport::Udp),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) transport: Transport,
    pub(crate) protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceFacts {
    /// Of type LoadBalancer, and ours.
    pub(crate) published: bool,
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) ports: Vec<Port>,
    /// `sessionAffinity: ClientIP`
    pub(crate) sticky: bool,
    /// `loadBalancerSourceRanges`
    pub(crate) clients: Clients,
    /// `status.loadBalancer.ingress[*].ip`
    pub(crate) status: Vec<String>,
    pub(crate) uid: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Endpoint {
    ip: IpAddr,
    ready: bool,
    draining: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SliceFacts {
    service: String,
    ports: Vec<(String, Transport, u16)>,
    endpoints: Vec<Endpoint>,
}

/// Service name, and port number or name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BackendRef {
    pub(crate) service: String,
    pub(crate) port: Result<u16, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub(crate) host: Option<String>,
    pub(crate) path: String,
    pub(crate) kind: PathType,
    pub(crate) backend: BackendRef,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IngressFacts {
    class: Option<String>,
    pub(crate) rules: Vec<Rule>,
    /// hosts, Secret
    pub(crate) tls: Vec<(Vec<String>, String)>,
    pub(crate) status: Vec<String>,
}

pub(crate) struct SecretFacts {
    version: Option<String>,
    /// None when it can't be used; the log says why.
    pub(crate) pair: Option<Arc<CertifiedKey>>,
}

impl PartialEq for SecretFacts {
    fn eq(&self, other: &SecretFacts) -> bool {
        self.version == other.version
    }
}

/// The objects of one kind, and which of them the current relist has not shown yet.
pub(crate) struct Table<V> {
    pub(crate) all: BTreeMap<Key, V>,
    unseen: Option<BTreeSet<Key>>,
    synced: bool,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table {
            all: BTreeMap::new(),
            unseen: None,
            synced: false,
        }
    }
}

impl<V: PartialEq> Table<V> {
    /// Answers whether anything changed.
    fn take<K: Resource>(&mut self, event: Event<K>, facts: impl Fn(&K) -> Option<V>) -> bool {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => {
                self.unseen = Some(self.all.keys().cloned().collect());
                false
            }
            Event::InitDone => {
                let first = !std::mem::replace(&mut self.synced, true);
                let gone = self.unseen.take().unwrap_or_default();
                for key in &gone {
                    self.all.remove(key);
                }
                first || !gone.is_empty()
            }
            Event::Apply(object) | Event::InitApply(object) => {
                let key = key(&object);
                if let Some(unseen) = &mut self.unseen {
                    unseen.remove(&key);
                }
                match facts(&object) {
                    Some(new) if self.all.get(&key) == Some(&new) => false,
                    Some(new) => {
                        self.all.insert(key, new);
                        true
                    }
                    None => self.all.remove(&key).is_some(),
                }
            }
            Event::Delete(object) => self.all.remove(&key(&object)).is_some(),
        }
    }
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) services: Table<ServiceFacts>,
    slices: Table<SliceFacts>,
    ingresses: Table<IngressFacts>,
    classes: Table<String>,
    pub(crate) secrets: Table<SecretFacts>,
}

/// A change of any kind.
// Short-lived, one at a time: a box each would cost more than it saves.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Change {
    Service(Event<WatchedService>),
    Slice(Event<EndpointSlice>),
    Ingress(Event<Ingress>),
    Class(Event<IngressClass>),
    Secret(Event<Secret>),
}

fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    wrap: fn(Event<K>) -> Change,
) -> BoxStream<'static, Change>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let url = api.resource_url().to_owned();
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            let event = event
                .inspect_err(|error| tracing::warn!(url, %error, "watch failed, trying again"))
                .ok()
                .map(wrap);
            std::future::ready(event)
        })
        .boxed()
}

/// Everything the gateway looks at, for ever.
pub(crate) fn changes(client: &Client) -> impl Stream<Item = Change> + Unpin + use<> {
    let all = watcher::Config::default;
    let of = || client.clone();
    let services = ApiResource::erase::<Service>(&());
    futures::stream::select_all([
        watch(Api::all_with(of(), &services), all(), Change::Service),
        watch(Api::all(of()), all(), Change::Slice),
        watch(Api::all(of()), all(), Change::Ingress),
        watch(Api::all(of()), all(), Change::Class),
        watch(
            Api::all(of()),
            all().fields("type=kubernetes.io/tls"),
            Change::Secret,
        ),
    ])
}

impl Model {
    /// Answers whether anything changed that matters here.
    pub(crate) fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Service(event) => self.services.take(event, |o| Some(service(o))),
            Change::Slice(event) => self.slices.take(event, slice),
            Change::Ingress(event) => self.ingresses.take(event, |o| Some(ingress(o))),
            Change::Class(event) => self
                .classes
                .take(event, |o| o.spec.as_ref()?.controller.clone()),
            Change::Secret(event) => self.secrets.take(event, |o| Some(secret(o))),
        }
    }

    /// All lists are in.
    pub(crate) fn synced(&self) -> bool {
        self.services.synced
            && self.slices.synced
            && self.ingresses.synced
            && self.classes.synced
            && self.secrets.synced
    }

    /// Where traffic for a Service's port goes: ready endpoints, or, when there is none, those that still serve while
    /// they terminate (KEP-1669).
    pub(crate) fn targets(
        &self,
        (namespace, service): (&str, &str),
        port: &Port,
    ) -> Vec<SocketAddr> {
        let of = |wanted: fn(&Endpoint) -> bool| {
            self.slices
                .all
                .iter()
                .filter(|((ns, _), slice)| ns == namespace && slice.service == service)
                .flat_map(|(_, slice)| {
                    let ports = slice.ports.iter().filter(|(name, transport, _)| {
                        *name == port.name && *transport == port.transport
                    });
                    ports.flat_map(move |(_, _, number)| {
                        let endpoints = slice.endpoints.iter().filter(move |e| wanted(e));
                        endpoints.map(|e| SocketAddr::new(e.ip, *number))
                    })
                })
                .collect::<BTreeSet<_>>()
        };
        let ready = of(|e| e.ready);
        let chosen = if ready.is_empty() {
            of(|e| e.draining)
        } else {
            ready
        };
        chosen.into_iter().collect()
    }

    /// The Ingresses that are ours: without a class, or of a class whose controller we are.
    pub(crate) fn ingresses(&self) -> impl Iterator<Item = (&Key, &IngressFacts)> {
        self.ingresses
            .all
            .iter()
            .filter(|(_, ingress)| match &ingress.class {
                None => true,
                Some(class) => self
                    .classes
                    .all
                    .get(&(String::new(), class.clone()))
                    .is_some_and(|c| c == CONTROLLER),
            })
    }
}

fn service(object: &WatchedService) -> ServiceFacts {
    let spec = object.spec.clone();
    let ours = spec
        .load_balancer_class
        .as_deref()
        .is_none_or(|class| class == CONTROLLER);
    let ports = spec
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|port| {
            Some(Port {
                name: port.name.unwrap_or_default(),
                number: u16::try_from(port.port).ok()?,
                transport: Transport::of(port.protocol.as_deref())?,
                protocol: Protocol::of(port.app_protocol.as_deref()),
            })
        });
    let status = object
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    ServiceFacts {
        published: ours
            && spec.type_.as_deref() == Some("LoadBalancer")
            && object.metadata.deletion_timestamp.is_none(),
        host_ip: object
            .annotations()
            .get(HOST_IP)
            .and_then(|ip| ip.parse().ok()),
        ports: ports.collect(),
        sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        clients: Clients::of(&spec.load_balancer_source_ranges.unwrap_or_default()),
        status: status
            .into_iter()
            .flatten()
            .filter_map(|i| i.ip.clone())
            .collect(),
        uid: object.uid().unwrap_or_default(),
    }
}

fn slice(object: &EndpointSlice) -> Option<SliceFacts> {
    let service = object.labels().get("kubernetes.io/service-name")?.clone();
    let endpoints = object.endpoints.iter().flatten().filter_map(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // "A nil value should be interpreted as true" (discovery/v1).
        let ready = conditions.ready.unwrap_or(true);
        Some(Endpoint {
            ip: endpoint.addresses.first()?.parse().ok()?,
            ready,
            draining: conditions.serving.unwrap_or(ready)
                && conditions.terminating.unwrap_or(false),
        })
    });
    let ports = object.ports.iter().flatten().filter_map(|port| {
        Some((
            port.name.clone().unwrap_or_default(),
            Transport::of(port.protocol.as_deref())?,
            u16::try_from(port.port?).ok()?,
        ))
    });
    Some(SliceFacts {
        service,
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    })
}

fn backend(backend: &IngressBackend) -> Option<BackendRef> {
    let service = backend.service.as_ref()?;
    let port = service.port.as_ref()?;
    let port = match (port.number, &port.name) {
        (Some(number), _) => Ok(u16::try_from(number).ok()?),
        (None, Some(name)) => Err(name.clone()),
        _ => return None,
    };
    Some(BackendRef {
        service: service.name.clone(),
        port,
    })
}

fn ingress(object: &Ingress) -> IngressFacts {
    let spec = object.spec.clone().unwrap_or_default();
    let mut rules = Vec::new();
    for rule in spec.rules.iter().flatten() {
        for path in rule.http.iter().flat_map(|http| &http.paths) {
            let Some(backend) = backend(&path.backend) else {
                continue;
            };
            rules.push(Rule {
                host: rule
                    .host
                    .as_ref()
                    .filter(|h| !h.is_empty())
                    .map(|h| h.to_ascii_lowercase()),
                path: path.path.clone().unwrap_or_else(|| "/".into()),
                kind: if path.path_type == "Exact" {
                    PathType::Exact
                } else {
                    PathType::Prefix
                },
                backend,
            });
        }
    }
    if let Some(backend) = spec.default_backend.as_ref().and_then(backend) {
        rules.push(Rule {
            host: None,
            path: "/".into(),
            kind: PathType::Prefix,
            backend,
        });
    }
    let annotated = || {
        object
            .annotations()
            .get("kubernetes.io/ingress.class")
            .cloned()
    };
    let status = object
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    IngressFacts {
        class: spec.ingress_class_name.or_else(annotated),
        rules,
        tls: spec
            .tls
            .iter()
            .flatten()
            .filter_map(|tls| {
                Some((
                    tls.hosts.clone().unwrap_or_default(),
                    tls.secret_name.clone()?,
                ))
            })
            .collect(),
        status: status
            .into_iter()
            .flatten()
            .filter_map(|i| i.ip.clone())
            .collect(),
    }
}

fn secret(object: &Secret) -> SecretFacts {
    let part = |name| {
        object
            .data
            .as_ref()
            .and_then(|data| data.get(name))
            .map_or(&[][..], |bytes| &bytes.0)
    };
    let pair = tls::pair(part("tls.crt"), part("tls.key"));
    if let Err(error) = &pair {
        tracing::warn!(namespace = object.namespace(), secret = object.name_any(), %error, "not a usable certificate");
    }
    SecretFacts {
        version: object.resource_version(),
        pair: pair.ok().map(Arc::new),
    }
}
