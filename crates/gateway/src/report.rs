//! What the gateway writes back: addresses into status, troubles as Events.

use std::time::Duration;

use k8s_openapi::api::{
    core::v1::{Event, Service},
    networking::v1::Ingress,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::model::{CONTROLLER, Key};

const ATTEMPTS_MAX: u32 = 4;

pub(crate) enum Report {
    Service {
        key: Key,
        ips: Vec<String>,
    },
    Ingress {
        key: Key,
        ips: Vec<String>,
    },
    Trouble {
        service: Key,
        uid: String,
        /// of the Event
        reason: &'static str,
        text: String,
    },
}

/// Writes reports until the sender is dropped.
pub(crate) async fn write(client: Client, mut reports: mpsc::Receiver<Report>) {
    while let Some(report) = reports.recv().await {
        let mut pause = Duration::from_millis(100);
        for attempt in 1..=ATTEMPTS_MAX {
            match write_one(&client, &report).await {
                Ok(()) => break,
                // Gone meanwhile: nothing to say.
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                Err(error) if attempt == ATTEMPTS_MAX => {
                    tracing::warn!(%error, "a status could not be written")
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
    }
}

async fn write_one(client: &Client, report: &Report) -> kube::Result<()> {
    let status = |ips: &[String]| {
        let ingress = ips
            .iter()
            .map(|ip| json!({"ip": ip, "ipMode": "Proxy"}))
            .collect::<Vec<_>>();
        let ingress = if ingress.is_empty() {
            json!(null)
        } else {
            json!(ingress)
        };
        Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}))
    };
    let params = PatchParams::default();
    match report {
        Report::Service {
            key: (namespace, name),
            ips,
        } => {
            let api = Api::<Service>::namespaced(client.clone(), namespace);
            api.patch_status(name, &params, &status(ips))
                .await
                .map(drop)
        }
        Report::Ingress {
            key: (namespace, name),
            ips,
        } => {
            let api = Api::<Ingress>::namespaced(client.clone(), namespace);
            let ingress = ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
            let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
            api.patch_status(name, &params, &patch).await.map(drop)
        }
        Report::Trouble {
            service: (namespace, name),
            uid,
            reason,
            text,
        } => {
            let now = k8s_openapi::jiff::Timestamp::now();
            let event = json!({
                "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
                "involvedObject": {"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name, "uid": uid},
                "type": "Warning",
                "reason": reason,
                "message": text,
                "source": {"component": CONTROLLER},
                "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "count": 1,
            });
            let event: Event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
            let api = Api::<Event>::namespaced(client.clone(), namespace);
            api.create(&PostParams::default(), &event).await.map(drop)
        }
    }
}
