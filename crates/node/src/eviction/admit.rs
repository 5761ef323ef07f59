//! Which Pods a node takes that is short of something.
//!
//! Source: kubernetes `pkg/kubelet/eviction/eviction_manager.go` (Admit).

use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::{decide::Conditions, rank};
use crate::spec::resources;

const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

fn tolerates(toleration: &Toleration) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == "NoSchedule")
        && (key == MEMORY_TAINT || (key.is_empty() && exists))
        && (exists || value.is_empty())
}

/// Why a node in these conditions doesn't take a Pod; None when it does.
pub(crate) fn refusal(pod: &Pod, conditions: &Conditions) -> Option<String> {
    if conditions.is_empty() || rank::is_critical(pod) {
        return None;
    }
    if conditions.iter().eq(["MemoryPressure"].iter()) {
        let tolerations = pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten());
        if resources::qos_class(pod) != "BestEffort" || tolerations.into_iter().any(tolerates) {
            return None;
        }
    }
    let names: Vec<&str> = conditions.iter().copied().collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_is_taken() {
        let check = |conditions: &[&'static str], spec: serde_json::Value, want: Option<&str>| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            let got = refusal(&pod, &conditions.iter().copied().collect());
            assert_eq!(got.as_deref(), want, "{conditions:?} {spec}");
        };
        let plain = json!({"containers": [{"name": "c"}]});
        let asks = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let tolerant = json!({"containers": [{"name": "c"}], "tolerations": [
            {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]});
        let critical = json!({"priority": 2_000_001_000, "containers": [{"name": "c"}]});
        check(&[], plain.clone(), None);
        let memory = Some("The node had condition: [MemoryPressure]. ");
        check(&["MemoryPressure"], plain.clone(), memory);
        check(&["MemoryPressure"], asks.clone(), None);
        check(&["MemoryPressure"], tolerant.clone(), None);
        check(
            &["DiskPressure"],
            asks,
            Some("The node had condition: [DiskPressure]. "),
        );
        check(
            &["DiskPressure", "MemoryPressure"],
            tolerant,
            Some("The node had condition: [DiskPressure MemoryPressure]. "),
        );
        check(&["DiskPressure"], critical, None);
    }
}
