//! `fieldRef` and `resourceFieldRef`: values of the Pod itself, for env and downward API volumes.
//!
//! Source: kubernetes `pkg/fieldpath`, `pkg/api/v1/resource`.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::quantity;

/// What the node knows and the Pod doesn't say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub node_name: &'a str,
    /// One a family, the first family first.
    pub host_ips: &'a [IpAddr],
    /// None before the Pod has them.
    pub pod_ips: &'a [IpAddr],
    pub cpus_milli: i64,
    pub memory_bytes: i64,
}

/// The value at `path`, or a text saying that the path isn't supported.
pub(crate) fn field(pod: &Pod, path: &str, facts: &Facts<'_>) -> Result<String, String> {
    if let Some((base, key)) = subscript(path) {
        let map = match base {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(format!("invalid fieldPath with subscript {path:?}")),
        };
        let found = map.as_ref().and_then(|m| m.get(key));
        return Ok(found.cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => pod.metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.to_owned(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => joined(facts.host_ips.first()),
        "status.hostIPs" => joined(facts.host_ips),
        "status.podIP" => joined(facts.pod_ips.first()),
        "status.podIPs" => joined(facts.pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn joined<'a>(ips: impl IntoIterator<Item = &'a IpAddr>) -> String {
    let all: Vec<_> = ips.into_iter().map(IpAddr::to_string).collect();
    all.join(",")
}

/// `metadata.labels['a']` → (`metadata.labels`, `a`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let inner = path.strip_suffix("']")?;
    inner.split_once("['")
}

/// `key="value"` lines, sorted, values quoted as Go's strconv.Quote.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (i, (key, value)) in map.into_iter().flatten().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        out.push_str(&format!("{key}={}", quoted(value)));
    }
    out
}

fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef` for `container`; a limit that isn't set is its Pod's, or the node's capacity.
pub(crate) fn resource(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    container: &Container,
    facts: &Facts<'_>,
) -> Result<String, String> {
    let resources = container.resources.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let pod_limits = of_pod.and_then(|r| r.limits.as_ref());
    let get = |map: Option<&BTreeMap<String, Quantity>>, name: &str| -> Option<i128> {
        map.and_then(|m| m.get(name))
            .and_then(|q| quantity::milli(&q.0))
            .filter(|v| *v > 0)
    };
    let (list, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let map = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => {
            return Err(format!(
                "unsupported container resource : {}",
                selector.resource
            ));
        }
    };
    let milli = match (get(map, name), list, name) {
        (Some(milli), ..) => milli,
        (None, "limits", "cpu" | "memory") if get(pod_limits, name).is_some() => {
            get(pod_limits, name).unwrap_or(0)
        }
        (None, "limits", "cpu") => i128::from(facts.cpus_milli),
        (None, "limits", "memory") => i128::from(facts.memory_bytes) * 1000,
        (None, _, "cpu" | "memory" | "ephemeral-storage") => 0,
        (None, _, other) if other.starts_with("hugepages-") => 0,
        _ => {
            return Err(format!(
                "unsupported container resource : {}",
                selector.resource
            ));
        }
    };
    Ok(quantity::divided(milli, selector.divisor.as_ref()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn facts() -> Facts<'static> {
        Facts {
            node_name: "n1",
            host_ips: const { &[IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))] },
            pod_ips: const {
                &[
                    IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ]
            },
            cpus_milli: 4000,
            memory_bytes: 8 << 30,
        }
    }

    #[test]
    fn fields_of_the_pod() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u",
                "labels": {"b": "2", "a": "x\"y"}, "annotations": {"k": "line1\nline2"}},
            "spec": {"containers": [], "serviceAccountName": "sa"},
        }))
        .unwrap();
        let check = |path: &str, want: &str| {
            assert_eq!(field(&pod, path, &facts()).unwrap(), want, "{path}");
        };
        check("metadata.name", "p");
        check("metadata.uid", "u");
        check("metadata.labels", "a=\"x\\\"y\"\nb=\"2\"");
        check("metadata.annotations", "k=\"line1\\nline2\"");
        check("metadata.labels['b']", "2");
        check("metadata.labels['none']", "");
        check("spec.nodeName", "n1");
        check("spec.serviceAccountName", "sa");
        check("status.podIP", "10.1.0.1");
        check("status.podIPs", "10.1.0.1,::1");
        check("status.hostIPs", "10.0.0.1");
        check("status.hostIP", "10.0.0.1");
        assert!(field(&pod, "spec.containers", &facts()).is_err());
        assert!(field(&pod, "spec.x['a']", &facts()).is_err());
    }

    #[test]
    fn resources_of_the_container() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}},
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {"containers": [], "resources": {"limits": {"cpu": "3"}}},
        }))
        .unwrap();
        let check = |resource_name: &str, divisor: Option<&str>, want: &str| {
            let selector = ResourceFieldSelector {
                resource: resource_name.into(),
                divisor: divisor.map(|d| Quantity(d.into())),
                container_name: None,
            };
            let got = resource(&selector, &pod, &container, &facts()).unwrap();
            assert_eq!(got, want, "{resource_name} {divisor:?}");
        };
        check("limits.memory", None, "67108864");
        check("limits.memory", Some("1Mi"), "64");
        check("limits.cpu", None, "3");
        check("limits.cpu", Some("1m"), "3000");
        check("requests.cpu", None, "1");
        check("requests.cpu", Some("1m"), "250");
        check("requests.memory", None, "0");
    }
}
