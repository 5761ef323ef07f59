//! The pods of a StatefulSet: their identity and their claims (`stateful_set_utils.go`).

use serde_json::{Value, json};

use crate::{
    history::REVISION_LABEL,
    objects::{
        meta::Object,
        pod::Pod,
        template::{PodName, Template},
        workload::StatefulSet,
    },
};

/// Label: the pod's name.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label: its ordinal.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// First ordinal.
pub fn first(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().map_or(0, |o| o.start)
}

/// Ordinal of a pod of that name; None when it's no pod of the set.
pub fn ordinal(set: &StatefulSet, pod: &str) -> Option<i32> {
    let n = pod.strip_prefix(&*set.metadata.name)?.strip_prefix('-')?;
    // "01" is another name than "1"
    if n.len() > 1 && n.starts_with('0') {
        return None;
    }
    n.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| n.parse().ok())?
}

/// Name of a pod.
pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name)
}

/// The revision that a pod is of.
pub fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.get(REVISION_LABEL).unwrap_or("")
}

/// Claims of a pod: volume's name, claim's name.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, String)> {
    set.spec
        .volume_claim_templates
        .iter()
        .map(|t| {
            let volume = claim_volume(t);
            let claim = format!("{volume}-{}-{ordinal}", set.metadata.name);
            (volume, claim)
        })
        .collect()
}

fn claim_volume(template: &Template) -> String {
    template
        .value()
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned()
}

/// JSON of a claim.
pub fn claim_body(set: &StatefulSet, template: &Template, name: &str) -> Value {
    let mut claim = template.value();
    let meta = template.meta();
    let mut labels = meta.labels;
    for (k, v) in set.spec.selector.match_labels.iter() {
        labels.set(k, v);
    }
    claim["apiVersion"] = "v1".into();
    claim["kind"] = "PersistentVolumeClaim".into();
    claim["metadata"] = json!({
        "name": name, "namespace": set.metadata.namespace,
        "labels": labels, "annotations": meta.annotations,
    });
    if let Some(o) = claim.as_object_mut() {
        o.remove("status");
    }
    claim
}

/// JSON of a pod.
pub fn pod_body(set: &StatefulSet, template: &Template, revision: &str, ordinal: i32) -> Vec<u8> {
    let name = pod_name(set, ordinal);
    let volumes: Vec<Value> = claims(set, ordinal)
        .into_iter()
        .map(|(volume, claim)| {
            json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}})
        })
        .collect();
    template.pod_with_spec(
        PodName::Exact(&name),
        &set.metadata.namespace,
        &set.controller_ref(),
        |meta| {
            meta.labels.set(POD_NAME, &name);
            meta.labels.set(POD_INDEX, &ordinal.to_string());
            meta.labels.set(REVISION_LABEL, revision);
        },
        |spec| {
            spec.insert("hostname".into(), name.as_str().into());
            spec.insert("subdomain".into(), (*set.spec.service_name).into());
            let mut all = match spec.remove("volumes") {
                Some(Value::Array(a)) => a,
                _ => vec![],
            };
            // the claims' volumes go before the template's of the same name
            all.retain(|v| !volumes.iter().any(|c| c["name"] == v["name"]));
            all.extend(volumes);
            if !all.is_empty() {
                spec.insert("volumes".into(), Value::Array(all));
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata":{"name":"db","namespace":"n","uid":"u"},
            "spec":{"serviceName":"dbs","selector":{"matchLabels":{"app":"db"}},
                "template":{"metadata":{"labels":{"app":"db"}},"spec":{"containers":[{"name":"c"}],
                    "volumes":[{"name":"data","emptyDir":{}},{"name":"tmp","emptyDir":{}}]}},
                "volumeClaimTemplates":[{"metadata":{"name":"data","labels":{"x":"y"}},
                    "spec":{"accessModes":["ReadWriteOnce"]},"status":{"phase":"Pending"}}]}}))
        .unwrap()
    }

    #[test]
    fn ordinals() {
        for (name, want) in [
            ("db-0", Some(0)),
            ("db-12", Some(12)),
            ("db-01", None),
            ("db-", None),
            ("db-x", None),
            ("db-1-2", None),
            ("other-1", None),
            ("db-+1", None),
            ("db-99999999999", None),
        ] {
            assert_eq!(ordinal(&set(), name), want, "{name}");
        }
    }

    #[test]
    fn identity() {
        let s = set();
        let pod: Value =
            serde_json::from_slice(&pod_body(&s, &s.spec.template, "db-r1", 2)).unwrap();
        assert_eq!(pod["metadata"]["name"], "db-2");
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"app":"db",POD_NAME:"db-2",POD_INDEX:"2",REVISION_LABEL:"db-r1"})
        );
        assert_eq!(pod["spec"]["hostname"], "db-2");
        assert_eq!(pod["spec"]["subdomain"], "dbs");
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name":"tmp","emptyDir":{}},{"name":"data","persistentVolumeClaim":{"claimName":"data-db-2"}}])
        );
        let claim = claim_body(&s, &s.spec.volume_claim_templates[0], "data-db-2");
        assert_eq!(claim["metadata"]["labels"], json!({"app":"db","x":"y"}));
        assert!(claim.get("status").is_none());
    }
}
