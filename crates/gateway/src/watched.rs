//! Services as they are watched.

use std::borrow::Cow;

use k8s_openapi::{
    api::core::v1::{LoadBalancerStatus, Service, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;

/// A Service without what isn't read here: an odd condition in its status (a zero time is `null` in Go's JSON, which the
/// typed object refuses) must not end the watch of all of them.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct WatchedService {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: Option<ServiceSpec>,
    #[serde(default)]
    pub(crate) status: Option<WatchedStatus>,
}
impl Resource for WatchedService {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;
    fn kind(_: &()) -> Cow<'_, str> {
        Service::kind(&())
    }
    fn group(_: &()) -> Cow<'_, str> {
        Service::group(&())
    }
    fn version(_: &()) -> Cow<'_, str> {
        Service::version(&())
    }
    fn plural(_: &()) -> Cow<'_, str> {
        Service::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WatchedStatus {
    pub(crate) load_balancer: Option<LoadBalancerStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;

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
