//! Discovery documents as upstream writes them: the fields in the order of its Go types (`metav1.APIResource` …,
//! `apidiscovery/v2`), which scripts that look for a piece of text rely on.

use serde_json::Value;

/// Fields of all the types, in an order that is right for each.
const FIELDS: [&str; 27] = [
    "metadata",
    "name",
    "resource",
    "subresource",
    "responseKind",
    "scope",
    "singularResource",
    "singularName",
    "namespaced",
    "group",
    "groupVersion",
    "version",
    "kind",
    "resources",
    "verbs",
    "shortNames",
    "categories",
    "subresources",
    "storageVersionHash",
    "freshness",
    "items",
    "groups",
    "versions",
    "preferredVersion",
    "serverAddressByClientCIDRs",
    "clientCIDR",
    "serverAddress",
];

/// The document as JSON; its own kind and version first.
pub fn text(document: &Value) -> String {
    let mut out = String::new();
    write(document, true, &mut out);
    out
}

fn write(value: &Value, whole: bool, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut all: Vec<_> = fields.iter().collect();
            all.sort_by_key(|(name, _)| match name.as_str() {
                "kind" if whole => 0,
                "apiVersion" => 1,
                name => {
                    2 + FIELDS
                        .iter()
                        .position(|f| *f == name)
                        .unwrap_or(FIELDS.len())
                }
            });
            out.push('{');
            for (i, (name, value)) in all.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write(value, false, out);
            }
            out.push('}');
        }
        Value::Array(all) => {
            out.push('[');
            for (i, value) in all.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(value, false, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn fields_are_in_upstreams_order() {
        let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "apps/v1", "resources": [
            {"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
                "verbs": ["create"], "shortNames": ["deploy"], "categories": ["all"], "storageVersionHash": "x="},
            {"name": "deployments/scale", "singularName": "", "namespaced": true, "group": "autoscaling",
                "version": "v1", "kind": "Scale", "verbs": ["get"]}]});
        assert_eq!(
            super::text(&list),
            r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"apps/v1","resources":[{"name":"deployments","singularName":"deployment","namespaced":true,"kind":"Deployment","verbs":["create"],"shortNames":["deploy"],"categories":["all"],"storageVersionHash":"x="},{"name":"deployments/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get"]}]}"#
        );
        let aggregated = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
            "items": [{"metadata": {"name": "a"}, "versions": [{"version": "v1", "freshness": "Current", "resources": [
                {"resource": "b", "responseKind": {"group": "", "version": "", "kind": "B"}, "scope": "Cluster",
                    "singularResource": "b", "verbs": ["get"], "subresources": [
                        {"subresource": "status", "responseKind": {"group": "", "version": "", "kind": "B"}, "verbs": []}]}]}]}]});
        assert_eq!(
            super::text(&aggregated),
            r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":[{"metadata":{"name":"a"},"versions":[{"version":"v1","resources":[{"resource":"b","responseKind":{"group":"","version":"","kind":"B"},"scope":"Cluster","singularResource":"b","verbs":["get"],"subresources":[{"subresource":"status","responseKind":{"group":"","version":"","kind":"B"},"verbs":[]}]}],"freshness":"Current"}]}]}"#
        );
    }
}
