//! Services as they are watched.

use k8s_openapi::api::core::v1::{LoadBalancerStatus, ServiceSpec};
use kube::core::Object;

/// A Service without the conditions of its status: an odd one (a zero time is `null` in Go's JSON, which the typed object
/// refuses) must not end the watch of all of them.
pub(crate) type WatchedService = Object<ServiceSpec, WatchedStatus>;

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WatchedStatus {
    pub(crate) load_balancer: Option<LoadBalancerStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    #[test]
    fn a_condition_without_a_time_is_no_obstacle() {
        let odd = serde_json::json!({
            "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}, "conditions": [
                {"type": "X", "status": "True", "lastTransitionTime": null, "reason": "", "message": ""},
            ]},
        });
        assert!(serde_json::from_value::<Service>(odd.clone()).is_err());
        let read: WatchedService = serde_json::from_value(odd).unwrap();
        let ingress = read.status.unwrap().load_balancer.unwrap().ingress.unwrap();
        assert_eq!(ingress[0].ip.as_deref(), Some("10.0.0.1"));
    }
}
