//! What every cluster has comes back when it is deleted: the range and the Service `kubernetes`, and the namespaces of the
//! system that may be deleted (upstream `pkg/controlplane/controller/{defaultservicecidr,kubernetesservice,systemnamespaces}`).

use std::sync::Arc;

use knarr_store::Event;

use crate::{bootstrap, server::Inner};

const RANGE: &str = "/registry/networking.k8s.io/servicecidrs/kubernetes";
const SERVICE: &str = "/registry/core/services/default/kubernetes";
const NAMESPACES: &str = "/registry/core/namespaces/";

/// Makes again what went.
pub async fn mend(inner: &Inner, events: &[Arc<Event>]) {
    let gone = |key: &str| {
        let last = events.iter().rev().find(|e| &*e.key == key);
        last.is_some_and(|e| e.value.is_none())
    };
    let mut outcomes = Vec::new();
    if bootstrap::NAMESPACES
        .iter()
        .any(|n| gone(&format!("{NAMESPACES}{n}")))
    {
        outcomes.push(bootstrap::namespaces(inner).await);
    }
    if gone(RANGE) {
        outcomes.push(bootstrap::service_range(inner).await);
    }
    if gone(SERVICE) {
        outcomes.push(bootstrap::own_service(inner).await);
    }
    for f in outcomes.into_iter().filter_map(Result::err) {
        tracing::warn!(
            "what every cluster has can't be made again: {}",
            f.message()
        );
    }
}
