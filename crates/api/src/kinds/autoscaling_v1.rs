//! HorizontalPodAutoscaler between autoscaling/v2, as which it is stored, and autoscaling/v1, which has one number for CPU and
//! keeps the rest in annotations (upstream's `pkg/apis/autoscaling/v1/conversion.go`).

use super::json::{default, items, text};
use crate::registry::Stored;
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const STATUSES: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// Annotations that conversions make and take away.
const OWN: [&str; 6] = [
    METRICS,
    BEHAVIOR,
    STATUSES,
    CONDITIONS,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

pub(crate) static STORED: Stored = Stored {
    group: "autoscaling",
    read: from_v2,
    write: to_v2,
};

/// What an autoscaler without metrics goes by.
pub(crate) fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target":
        {"type": "Utilization", "averageUtilization": percent}}})
}

fn is_cpu(metric: &Value, percent: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric.pointer(percent).is_some_and(Value::is_number)
}

/// Copies fields that are there to other names; pointers below a metric's source.
fn copied(source: &Value, names: &[(&str, &str)]) -> Map<String, Value> {
    let mut out = Map::new();
    for (from, to) in names {
        if let Some(v) = source.pointer(from).filter(|v| !v.is_null()) {
            out.insert((*to).to_string(), v.clone());
        }
    }
    out
}

/// Fields that v1 can't leave out.
fn zero(source: &mut Map<String, Value>, fields: &[&str]) {
    for field in fields {
        source
            .entry(*field)
            .or_insert_with(|| Value::String("0".into()));
    }
}

/// The field of a metric that holds its source.
fn field_of(metric: &Value) -> Option<&'static str> {
    Some(match text(metric, "/type") {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "External" => "external",
        _ => return None,
    })
}

/// A v2 metric (or, with `current`, its status) in v1's words.
fn metric_to_v1(metric: &Value, current: bool) -> Value {
    let mut out = json!({ "type": metric["type"] });
    let Some(field) = field_of(metric) else {
        return out;
    };
    let names: &[(&str, &str)] = match (field, current) {
        ("object", false) => &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/target/value", "targetValue"),
            ("/metric/selector", "selector"),
            ("/target/averageValue", "averageValue"),
        ],
        ("object", true) => &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/current/value", "currentValue"),
            ("/metric/selector", "selector"),
            ("/current/averageValue", "averageValue"),
        ],
        ("pods", false) => &[
            ("/metric/name", "metricName"),
            ("/target/averageValue", "targetAverageValue"),
            ("/metric/selector", "selector"),
        ],
        ("pods", true) => &[
            ("/metric/name", "metricName"),
            ("/current/averageValue", "currentAverageValue"),
            ("/metric/selector", "selector"),
        ],
        ("external", false) => &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "targetAverageValue"),
        ],
        ("external", true) => &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/current/value", "currentValue"),
            ("/current/averageValue", "currentAverageValue"),
        ],
        (_, false) => &[
            ("/name", "name"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
            ("/container", "container"),
        ],
        (_, true) => &[
            ("/name", "name"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
            ("/container", "container"),
        ],
    };
    let mut source = copied(&metric[field], names);
    match (field, current) {
        ("object", false) => zero(&mut source, &["targetValue"]),
        ("object" | "external", true) => zero(&mut source, &["currentValue"]),
        ("pods", false) => zero(&mut source, &["targetAverageValue"]),
        ("pods" | "resource" | "containerResource", true) => {
            zero(&mut source, &["currentAverageValue"]);
        }
        _ => {}
    }
    out[field] = Value::Object(source);
    out
}

/// Two objects below a source: `metric` (or name and container), and the numbers.
fn source_to_v2(
    source: &Value,
    identity: &[(&str, &str)],
    number: (&str, Map<String, Value>),
) -> Value {
    let mut out = Map::new();
    let metric = copied(source, identity);
    if !metric.is_empty() {
        out.insert("metric".into(), metric.into());
    }
    out.extend(copied(
        source,
        &[
            ("/target", "describedObject"),
            ("/name", "name"),
            ("/container", "container"),
        ],
    ));
    out.insert(number.0.into(), number.1.into());
    Value::Object(out)
}

/// A v1 metric (or, with `current`, its status) in v2's words.
fn metric_to_v2(metric: &Value, current: bool) -> Value {
    let mut out = json!({ "type": metric["type"] });
    let Some(field) = field_of(metric) else {
        return out;
    };
    let source = &metric[field];
    let identity: &[(&str, &str)] = match field {
        "object" | "pods" => &[("/metricName", "name"), ("/selector", "selector")],
        "external" => &[("/metricName", "name"), ("/metricSelector", "selector")],
        _ => &[],
    };
    if current {
        let mut numbers = copied(
            source,
            &[
                ("/currentValue", "value"),
                ("/currentAverageUtilization", "averageUtilization"),
                ("/currentAverageValue", "averageValue"),
            ],
        );
        if field == "object" {
            numbers.extend(copied(source, &[("/averageValue", "averageValue")]));
        }
        out[field] = source_to_v2(source, identity, ("current", numbers));
        return out;
    }
    let average = match field {
        "object" => "/averageValue",
        _ => "/targetAverageValue",
    };
    let mut numbers = copied(
        source,
        &[
            ("/targetValue", "value"),
            ("/targetAverageUtilization", "averageUtilization"),
            (average, "averageValue"),
        ],
    );
    let kind = if numbers.contains_key("averageUtilization") {
        "Utilization"
    } else if field == "object" && numbers.contains_key("averageValue") {
        if numbers.get("value").is_some_and(|v| v == "0") {
            numbers.remove("value");
        }
        "AverageValue"
    } else if numbers.contains_key("value") {
        "Value"
    } else {
        "AverageValue"
    };
    numbers.insert("type".into(), kind.into());
    out[field] = source_to_v2(source, identity, ("target", numbers));
    out
}

/// Keys with another first letter: upstream writes the behavior as Go names its fields.
fn recased(v: &Value, case: fn(&str) -> String) -> Value {
    match v {
        Value::Object(m) => m
            .iter()
            .map(|(k, v)| {
                let (first, rest) = k.split_at(k.chars().next().map_or(0, char::len_utf8));
                (format!("{}{rest}", case(first)), recased(v, case))
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(a) => a
            .iter()
            .map(|v| recased(v, case))
            .collect::<Vec<_>>()
            .into(),
        other => other.clone(),
    }
}

/// The rules of one direction as Go writes them, with nulls for what isn't there.
fn behavior_to_v1(behavior: &Value) -> Value {
    let mut out = Map::new();
    for (field, name) in [("scaleUp", "ScaleUp"), ("scaleDown", "ScaleDown")] {
        let mut rules = recased(&behavior[field], str::to_uppercase);
        if rules.is_object() {
            for key in [
                "StabilizationWindowSeconds",
                "SelectPolicy",
                "Policies",
                "Tolerance",
            ] {
                default(&mut rules, key, Value::Null);
            }
        }
        out.insert(name.into(), rules);
    }
    Value::Object(out)
}

fn behavior_to_v2(behavior: &Value) -> Option<Value> {
    let mut out = recased(behavior, str::to_lowercase);
    prune(&mut out);
    out.as_object()
        .is_some_and(|m| !m.is_empty())
        .then_some(out)
}

/// Drops nulls.
fn prune(v: &mut Value) {
    match v {
        Value::Object(m) => {
            m.retain(|_, v| !v.is_null());
            m.values_mut().for_each(prune);
        }
        Value::Array(a) => a.iter_mut().for_each(prune),
        _ => {}
    }
}

fn annotations(o: &mut Value) -> Option<&mut Map<String, Value>> {
    default(o.get_mut("metadata")?, "annotations", json!({}));
    o.pointer_mut("/metadata/annotations")?.as_object_mut()
}

/// Without the conversions' own annotations; an empty map goes, too.
fn drop_own(o: &mut Value) {
    if let Some(map) = annotations(o) {
        map.retain(|k, _| !OWN.contains(&k.as_str()));
        if map.is_empty()
            && let Some(m) = o["metadata"].as_object_mut()
        {
            m.remove("annotations");
        }
    }
}

fn from_v2(mut o: Value) -> Value {
    drop_own(&mut o);
    let percent = "/resource/target/averageUtilization";
    let metrics = items(&o, "/spec/metrics").to_vec();
    let statuses = items(&o, "/status/currentMetrics").to_vec();
    let conditions = items(&o, "/status/conditions").to_vec();
    let behavior = o["spec"]["behavior"].clone();
    let mut kept: Vec<(&str, String)> = Vec::new();
    let others = metrics.iter().filter(|m| !is_cpu(m, percent));
    let others: Vec<Value> = others.map(|m| metric_to_v1(m, false)).collect();
    if !others.is_empty() {
        kept.push((METRICS, Value::from(others).to_string()));
    }
    if !statuses.is_empty() {
        let all: Vec<Value> = statuses.iter().map(|m| metric_to_v1(m, true)).collect();
        kept.push((STATUSES, Value::from(all).to_string()));
    }
    if behavior.is_object() {
        kept.push((BEHAVIOR, behavior_to_v1(&behavior).to_string()));
    }
    if !conditions.is_empty() {
        kept.push((CONDITIONS, Value::from(conditions).to_string()));
    }
    if !kept.is_empty()
        && let Some(map) = annotations(&mut o)
    {
        map.extend(kept.into_iter().map(|(k, v)| (k.to_string(), v.into())));
    }
    o["apiVersion"] = "autoscaling/v1".into();
    if let Some(spec) = o["spec"].as_object_mut() {
        spec.remove("metrics");
        spec.remove("behavior");
        let cpu = metrics.iter().find(|m| is_cpu(m, percent));
        if let Some(n) = cpu.and_then(|m| m.pointer(percent)) {
            spec.insert("targetCPUUtilizationPercentage".into(), n.clone());
        }
    }
    if let Some(status) = o.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentMetrics");
        status.remove("conditions");
        let percent = "/resource/current/averageUtilization";
        let cpu = statuses.iter().rfind(|m| is_cpu(m, percent));
        if let Some(n) = cpu.and_then(|m| m.pointer(percent)) {
            status.insert("currentCPUUtilizationPercentage".into(), n.clone());
        }
        for field in ["currentReplicas", "desiredReplicas"] {
            status.entry(field).or_insert_with(|| 0.into());
        }
    }
    o
}

fn to_v2(mut o: Value) -> Value {
    let note = |o: &Value, key: &str| -> Option<Value> {
        serde_json::from_str(o["metadata"]["annotations"][key].as_str()?).ok()
    };
    let list = |v: Option<Value>| v.and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let others = list(note(&o, METRICS));
    let behavior = note(&o, BEHAVIOR).and_then(|b| behavior_to_v2(&b));
    let statuses = note(&o, STATUSES);
    let conditions = list(note(&o, CONDITIONS));
    drop_own(&mut o);
    o["apiVersion"] = "autoscaling/v2".into();
    if let Some(spec) = o["spec"].as_object_mut() {
        let percent = spec.remove("targetCPUUtilizationPercentage");
        let mut metrics: Vec<Value> = others.iter().map(|m| metric_to_v2(m, false)).collect();
        metrics.extend(percent.and_then(|p| p.as_i64()).map(cpu));
        if metrics.is_empty() {
            metrics.push(cpu(80));
        }
        spec.insert("metrics".into(), metrics.into());
        spec.extend(behavior.map(|b| ("behavior".to_string(), b)));
    }
    if let Some(status) = o.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.remove("currentCPUUtilizationPercentage");
        let current: Vec<Value> = match statuses {
            Some(all) => list(Some(all))
                .iter()
                .map(|m| metric_to_v2(m, true))
                .collect(),
            None => percent
                .iter()
                .map(|p| {
                    json!({"type": "Resource", "resource": {"name": "cpu",
                        "current": {"averageUtilization": p}}})
                })
                .collect(),
        };
        status.insert(
            "currentMetrics".into(),
            if current.is_empty() {
                Value::Null
            } else {
                current.into()
            },
        );
        if !conditions.is_empty() {
            status.insert("conditions".into(), conditions.into());
        }
        status.entry("desiredReplicas").or_insert_with(|| 0.into());
    }
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each v2 spec comes back from v1 as it was.
    #[test]
    fn nothing_is_lost_on_the_way_there_and_back() {
        let target = json!({"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "qps"},
            "target": {"type": "AverageValue", "averageValue": "50"}}});
        let object = json!({"type": "Object", "object": {"describedObject": target,
            "metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}},
            "target": {"type": "Value", "value": "2k"}}});
        let external = json!({"type": "External", "external": {"metric": {"name": "queue"},
            "target": {"type": "AverageValue", "averageValue": "30"}}});
        let container = json!({"type": "ContainerResource", "containerResource": {"name": "memory",
            "container": "app", "target": {"type": "Utilization", "averageUtilization": 60}}});
        let behavior = json!({"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}});
        for (name, spec) in [
            ("cpu", json!({"metrics": [cpu(50)]})),
            (
                "others",
                json!({"metrics": [pods, object, external, container]}),
            ),
            ("both", json!({"metrics": [pods, cpu(70)]})),
            (
                "behavior",
                json!({"metrics": [cpu(80)], "behavior": behavior}),
            ),
        ] {
            let o = json!({
                "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "web"}, "spec": spec,
                "status": {"currentReplicas": 1, "desiredReplicas": 2, "currentMetrics": null,
                    "conditions": [{"type": "AbleToScale", "status": "True"}]},
            });
            let v1 = from_v2(o.clone());
            assert_eq!(v1["apiVersion"], "autoscaling/v1", "{name}");
            assert!(v1["spec"]["metrics"].is_null(), "{name}");
            assert_eq!(to_v2(v1), o, "{name}");
        }
    }
}
