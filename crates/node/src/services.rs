//! The Services that become environment variables: a small table kept by one watch.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::{
    Api,
    api::{ApiResource, NotUsed, Object},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// How long a first container may wait for the table before it starts without it.
const SYNC_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServicePort {
    pub name: Option<Box<str>>,
    pub port: u16,
    pub protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceEntry {
    pub name: Box<str>,
    pub cluster_ip: IpAddr,
    pub ports: Vec<ServicePort>,
}

/// A Service without its status: an odd condition there (a zero time is `null` in Go's JSON, which the typed object
/// refuses) must not end the watch of all of them.
type Watched = Object<ServiceSpec, NotUsed>;

type Table = BTreeMap<(Box<str>, Box<str>), ServiceEntry>;

#[derive(Clone)]
pub(crate) struct Services {
    table: Arc<Mutex<Table>>,
    synced: watch::Receiver<bool>,
}

impl Services {
    /// Starts the watch; it ends with `cancel`.
    pub(crate) fn start(
        client: kube::Client,
        cancel: tokio_util::sync::CancellationToken,
    ) -> Services {
        let table = Arc::new(Mutex::new(Table::new()));
        let (sender, synced) = watch::channel(false);
        let shared = table.clone();
        tokio::spawn(async move {
            let _ = cancel
                .run_until_cancelled(keep(client, shared, sender))
                .await;
        });
        Services { table, synced }
    }

    /// The services that a container of `namespace` is linked to: all of its namespace (with `links`), and always the API server's.
    pub(crate) async fn of(&self, namespace: &str, links: bool) -> Vec<ServiceEntry> {
        let mut synced = self.synced.clone();
        if tokio::time::timeout(SYNC_DEADLINE, synced.wait_for(|s| *s))
            .await
            .is_err()
        {
            tracing::warn!(
                "the Service table is not there yet; a container starts without its service variables"
            );
        }
        let table = self.table.lock();
        let own = table
            .iter()
            .filter(|((ns, _), _)| links && &**ns == namespace);
        let master = table.iter().filter(|((ns, name), _)| {
            &**ns == "default" && &**name == "kubernetes" && !(links && namespace == "default")
        });
        own.chain(master).map(|(_, entry)| entry.clone()).collect()
    }
}

fn entry(service: &Watched) -> Option<ServiceEntry> {
    let spec = &service.spec;
    let cluster_ip = spec.cluster_ip.as_deref()?.parse().ok()?;
    let port = |p: &k8s_openapi::api::core::v1::ServicePort| {
        Some(ServicePort {
            name: p.name.as_deref().filter(|n| !n.is_empty()).map(Into::into),
            port: u16::try_from(p.port).ok()?,
            protocol: match p.protocol.as_deref() {
                Some("UDP") => "UDP",
                Some("SCTP") => "SCTP",
                _ => "TCP",
            },
        })
    };
    Some(ServiceEntry {
        name: service.metadata.name.as_deref()?.into(),
        cluster_ip,
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
    })
}

async fn keep(client: kube::Client, table: Arc<Mutex<Table>>, synced: watch::Sender<bool>) {
    let config = watcher::Config::default().page_size(100);
    let stream = watcher(
        Api::<Watched>::all_with(client, &ApiResource::erase::<Service>(&())),
        config,
    )
    .default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut fresh = Table::new();
    let key = |s: &Watched| -> (Box<str>, Box<str>) {
        (
            s.metadata.namespace.as_deref().unwrap_or_default().into(),
            s.metadata.name.as_deref().unwrap_or_default().into(),
        )
    };
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => fresh.clear(),
            Ok(Some(watcher::Event::InitApply(s))) => {
                if let Some(e) = entry(&s) {
                    fresh.insert(key(&s), e);
                }
            }
            Ok(Some(watcher::Event::InitDone)) => {
                *table.lock() = std::mem::take(&mut fresh);
                let _ = synced.send(true);
            }
            Ok(Some(watcher::Event::Apply(s))) => {
                match entry(&s) {
                    Some(e) => table.lock().insert(key(&s), e),
                    None => table.lock().remove(&key(&s)),
                };
            }
            Ok(Some(watcher::Event::Delete(s))) => {
                table.lock().remove(&key(&s));
            }
            Ok(None) => return,
            Err(error) => tracing::debug!(%error, "watch of Services is retried"),
        }
    }
}
