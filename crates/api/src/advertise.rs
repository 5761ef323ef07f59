//! Where Pods reach this server: the endpoints of the Service `kubernetes`, which has no selector (upstream
//! `pkg/controlplane/reconcilers`, `pkg/controlplane/controller/kubernetesservice`).

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    bootstrap::{self, MANAGER},
    catalog,
    own::change,
    registry::Resource,
    server::Inner,
    status::Failure,
    write::Part,
};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const PLACE: (&str, &str) = (NAMESPACE, NAME);
const PORT_NAME: &str = "https";

/// Says that the server listens at `address`, and nowhere else.
pub async fn run(inner: &Inner, address: SocketAddr) -> Result<(), Failure> {
    let (ip, port) = (address.ip().to_string(), address.port());
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let ports = json!([{"name": PORT_NAME, "port": port, "protocol": "TCP"}]);
    let catalog = inner.catalog();
    if let Some(r) = catalog.preferred("", "endpoints") {
        let wanted = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": ip}], "ports": ports}],
        });
        put(inner, &r, wanted, &["subsets"]).await?;
    }
    if let Some(r) = catalog.preferred("discovery.k8s.io", "endpointslices") {
        let wanted = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
            "addressType": family, "ports": ports,
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        });
        put(inner, &r, wanted, &["endpoints", "ports"]).await?;
    }
    if let Some(r) = catalog.preferred("", "services") {
        change(inner, &r, PLACE, Part::Main, MANAGER, |service| {
            let ports = service["spec"]["ports"].as_array_mut();
            for p in ports.into_iter().flatten() {
                if p["name"] == PORT_NAME {
                    p["targetPort"] = port.into();
                }
            }
        })
        .await?;
    }
    Ok(())
}

/// Makes the object, or gives the one that is there these fields and the labels.
async fn put(inner: &Inner, r: &Resource, wanted: Value, fields: &[&str]) -> Result<(), Failure> {
    let key = catalog::key(r, NAMESPACE, NAME);
    if inner.store.snapshot().get(&key).is_none() {
        return bootstrap::ensure(inner, r, NAMESPACE, wanted).await;
    }
    change(inner, r, PLACE, Part::Main, MANAGER, |live| {
        for field in fields {
            live[*field] = wanted[*field].clone();
        }
        for (k, v) in wanted["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
        {
            live["metadata"]["labels"][k] = v.clone();
        }
    })
    .await
}
