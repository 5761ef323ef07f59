//! What upstream fills into a PodSpec (pkg/apis/core/v1/defaults.go, SetDefaults_PodSpec and its parts).

use super::json::{child, default, items_mut};
use serde_json::{Value, json};

/// Fills a PodSpec, of a Pod or of a template.
pub(crate) fn pod_spec(spec: &mut Value) {
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    if let Some(account) = spec
        .get("serviceAccountName")
        .filter(|a| a.as_str().is_some_and(|s| !s.is_empty()))
        .cloned()
    {
        default(spec, "serviceAccount", account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        default(spec, "serviceAccountName", account);
    }
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for c in items_mut(spec, list) {
            container(c, host_network, list == "ephemeralContainers");
        }
    }
    for v in items_mut(spec, "volumes") {
        volume(v);
    }
}

fn container(c: &mut Value, host_network: bool, ephemeral: bool) {
    default(c, "terminationMessagePath", "/dev/termination-log");
    default(c, "terminationMessagePolicy", "File");
    let policy = pull_policy(c["image"].as_str().unwrap_or_default());
    default(c, "imagePullPolicy", policy);
    if !ephemeral {
        default(c, "resources", json!({}));
    }
    for port in items_mut(c, "ports") {
        default(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    for env in items_mut(c, "env") {
        if let Some(field) = env.pointer_mut("/valueFrom/fieldRef") {
            default(field, "apiVersion", "v1");
        }
        if let Some(resource) = env.pointer_mut("/valueFrom/resourceFieldRef") {
            default(resource, "divisor", "0");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = c.get_mut(name).filter(|p| p.is_object()) {
            default(probe, "timeoutSeconds", 1);
            default(probe, "periodSeconds", 10);
            default(probe, "successThreshold", 1);
            default(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(h) = c.pointer_mut(&format!("/lifecycle/{hook}")) {
            handler(h);
        }
    }
    // Limits without requests: the request is the limit.
    let limits = c["resources"]["limits"].as_object().cloned();
    if let Some(limits) = limits.filter(|l| !l.is_empty())
        && let Some(resources) = child(c, "resources")
        && let Some(requests) = child(resources, "requests")
    {
        for (name, amount) in limits {
            default(requests, &name, amount);
        }
    }
}

fn handler(h: &mut Value) {
    if let Some(http) = h.get_mut("httpGet").filter(|v| v.is_object()) {
        default(http, "path", "/");
        default(http, "scheme", "HTTP");
    }
    if let Some(grpc) = h.get_mut("grpc").filter(|v| v.is_object()) {
        default(grpc, "service", "");
    }
}

/// `Always` for `:latest` and no tag, `IfNotPresent` otherwise.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn volume(v: &mut Value) {
    let sources = [
        "configMap",
        "secret",
        "downwardAPI",
        "projected",
        "hostPath",
        "emptyDir",
        "persistentVolumeClaim",
    ];
    let any = v.as_object().is_some_and(|m| m.keys().any(|k| k != "name"));
    if !any {
        default(v, "emptyDir", json!({}));
    }
    for source in sources {
        let Some(s) = v.get_mut(source).filter(|s| s.is_object()) else {
            continue;
        };
        match source {
            "configMap" | "secret" | "downwardAPI" | "projected" => {
                default(s, "defaultMode", 0o644)
            }
            "hostPath" => default(s, "type", ""),
            _ => {}
        }
        for item in items_mut(s, "items") {
            if let Some(field) = item.get_mut("fieldRef").filter(|f| f.is_object()) {
                default(field, "apiVersion", "v1");
            }
        }
        for projected in items_mut(s, "sources") {
            if let Some(token) = projected
                .get_mut("serviceAccountToken")
                .filter(|t| t.is_object())
            {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(api) = projected.get_mut("downwardAPI") {
                for item in items_mut(api, "items") {
                    if let Some(field) = item.get_mut("fieldRef").filter(|f| f.is_object()) {
                        default(field, "apiVersion", "v1");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("localhost:5000/x", "Always"),
            ("localhost:5000/x:2", "IfNotPresent"),
            ("x@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn a_bare_container_gets_what_upstream_gives_it() {
        let mut spec = json!({ "containers": [{ "name": "c", "image": "i:1", "ports": [{ "containerPort": 80 }],
            "readinessProbe": { "httpGet": { "port": 80 } }, "resources": { "limits": { "cpu": "1" } } }],
            "volumes": [{ "name": "e" }, { "name": "c", "configMap": { "name": "x" } }] });
        pod_spec(&mut spec);
        let c = &spec["containers"][0];
        assert_eq!(c["ports"][0]["protocol"], "TCP");
        assert_eq!(
            c["readinessProbe"]["httpGet"],
            json!({ "port": 80, "path": "/", "scheme": "HTTP" })
        );
        assert_eq!(c["readinessProbe"]["failureThreshold"], 3);
        assert_eq!(c["resources"]["requests"]["cpu"], "1");
        assert_eq!(
            spec["volumes"],
            json!([{ "name": "e", "emptyDir": {} }, { "name": "c", "configMap": { "name": "x", "defaultMode": 420 } }])
        );
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    }
}
