//! RuntimeClasses: there is one way to run containers here, by the name that others know it.
//!
//! Source: kubernetes `pkg/kubelet/runtimeclass`, containerd `internal/cri/server/sandbox_run.go`.

use k8s_openapi::api::{core::v1::PodSpec, node::v1::RuntimeClass};
use kube::Api;

use crate::context::Context;

/// What manifests call the ordinary runtime.
pub(crate) const ORDINARY: &str = "runc";

/// Whether the Pod's RuntimeClass, if it names one, can be had here.
///
/// # Errors
/// A text for `FailedCreatePodSandBox`.
pub(super) async fn check(context: &Context, spec: &PodSpec) -> Result<(), String> {
    let Some(name) = spec.runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
        return Ok(());
    };
    let api: Api<RuntimeClass> = Api::all(context.client.clone());
    let class = match api.get_opt(name).await {
        Ok(Some(class)) => class,
        Ok(None) => return Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
        Err(error) => return Err(format!("RuntimeClass {name:?} can't be read: {error}")),
    };
    match class.handler.as_str() {
        ORDINARY | "" => Ok(()),
        other => Err(format!(
            "no runtime for {other:?} is configured: this node has {ORDINARY:?} only"
        )),
    }
}
