//! HorizontalPodAutoscaler.

use super::{
    PLAIN, autoscaling_v1,
    cells::{AGE, NAME, column},
    checks::autoscaling as checks,
    json::{child, default, items, number, text},
};
use crate::registry::{FieldError, Lookup, Resource, Stored, Strategy};
use serde_json::{Value, json};

/// autoscaling/v2.
struct Autoscaler;
impl Strategy for Autoscaler {
    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) else {
            return;
        };
        default(spec, "minReplicas", 1);
        if items(spec, "/metrics").is_empty() {
            spec["metrics"] = json!([autoscaling_v1::cpu(80)]);
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
            rules(behavior);
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "desiredReplicas": 0, "currentMetrics": null });
        Ok(())
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::autoscaler(o, None)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::autoscaler(new, Some(old))
    }
}

/// What a behavior leaves open.
fn rules(behavior: &mut Value) {
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    if let Some(up) = child(behavior, "scaleUp") {
        default(up, "stabilizationWindowSeconds", 0);
        default(up, "selectPolicy", "Max");
        default(up, "policies", json!([pods, percent]));
    }
    if let Some(down) = child(behavior, "scaleDown") {
        default(down, "selectPolicy", "Max");
        default(down, "policies", json!([percent]));
    }
}

/// autoscaling/v1: checked as what it is stored as.
struct First;
impl Strategy for First {
    fn default(&self, o: &mut Value) {
        if let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) {
            default(spec, "minReplicas", 1);
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "currentReplicas": 0, "desiredReplicas": 0 });
        Ok(())
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::autoscaler(&(autoscaling_v1::STORED.write)(o.clone()), None)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let old = (autoscaling_v1::STORED.write)(old.clone());
        checks::autoscaler(&(autoscaling_v1::STORED.write)(new.clone()), Some(&old))
    }
}

/// How many metrics a cell shows.
const SHOWN_MAX: usize = 2;

/// `current/target` of one metric, as upstream's printer writes it.
fn metric(spec: &Value, status: &Value) -> String {
    let kind = text(spec, "/type");
    let (field, named) = match kind {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let (source, target) = (&spec[field], &spec[field]["target"]);
    let current = &status[field]["current"];
    let amount = |v: &Value| v.as_str().unwrap_or("0").to_string();
    let known = |v: &Value| v.as_str().unwrap_or("<unknown>").to_string();
    let percent = |v: &Value, absent: &str| match v.as_i64() {
        Some(n) => format!("{n}%"),
        None => absent.to_string(),
    };
    let average = !target["averageValue"].is_null();
    if named {
        let name = text(source, "/name");
        let of = if average {
            format!(
                "{}/{}",
                known(&current["averageValue"]),
                amount(&target["averageValue"])
            )
        } else {
            format!(
                "{}/{}",
                percent(&current["averageUtilization"], "<unknown>"),
                percent(&target["averageUtilization"], "<auto>")
            )
        };
        return format!("{name}: {of}");
    }
    match (average, kind) {
        (_, "Pods") => format!(
            "{}/{}",
            known(&current["averageValue"]),
            amount(&target["averageValue"])
        ),
        (true, _) => format!(
            "{}/{} (avg)",
            known(&current["averageValue"]),
            amount(&target["averageValue"])
        ),
        _ => format!("{}/{}", known(&current["value"]), amount(&target["value"])),
    }
}

fn targets(o: &Value) -> Value {
    let specs = items(o, "/spec/metrics");
    if specs.is_empty() {
        return "<none>".into();
    }
    let statuses = items(o, "/status/currentMetrics");
    let shown: Vec<String> = specs
        .iter()
        .take(SHOWN_MAX)
        .enumerate()
        .map(|(i, spec)| metric(spec, statuses.get(i).unwrap_or(&Value::Null)))
        .collect();
    let shown = shown.join(", ");
    match specs.len().checked_sub(SHOWN_MAX) {
        Some(more @ 1..) => format!("{shown} + {more} more...").into(),
        _ => shown.into(),
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let autoscaler =
        |version, strategy: &'static dyn Strategy, stored: Option<&'static Stored>| Resource {
            group: "autoscaling",
            version,
            stored,
            strategy,
            kind: "HorizontalPodAutoscaler",
            plural: "horizontalpodautoscalers",
            singular: "horizontalpodautoscaler",
            short_names: &["hpa"],
            categories: &["all"],
            has_status: true,
            columns: const {
                &[
                    NAME,
                    column("Reference", "string", |o| {
                        format!(
                            "{}/{}",
                            text(o, "/spec/scaleTargetRef/kind"),
                            text(o, "/spec/scaleTargetRef/name")
                        )
                        .into()
                    }),
                    column("Targets", "string", targets),
                    column("MinPods", "string", |o| {
                        match o["spec"]["minReplicas"].as_i64() {
                            Some(n) => n.to_string().into(),
                            None => "<unset>".into(),
                        }
                    }),
                    column("MaxPods", "string", |o| {
                        number(o, "/spec/maxReplicas").into()
                    }),
                    column("Replicas", "string", |o| {
                        number(o, "/status/currentReplicas").into()
                    }),
                    AGE,
                ]
            },
            ..PLAIN
        };
    vec![
        autoscaler("v2", &Autoscaler, None),
        autoscaler("v1", &First, Some(&autoscaling_v1::STORED)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_show_what_is_and_what_should_be() {
        let resource = json!({"type": "Resource", "resource": {"name": "cpu", "target":
            {"type": "Utilization", "averageUtilization": 80}}});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target":
            {"type": "AverageValue", "averageValue": "50"}}});
        let external = json!({"type": "External", "external": {"metric": {"name": "q"}, "target":
            {"type": "Value", "value": "30"}}});
        let current = json!({"type": "Resource", "resource": {"name": "cpu", "current":
            {"averageUtilization": 10}}});
        for (name, specs, statuses, want) in [
            ("none", json!([]), json!([]), "<none>"),
            (
                "unknown",
                json!([resource]),
                json!([]),
                "cpu: <unknown>/80%",
            ),
            ("known", json!([resource]), json!([current]), "cpu: 10%/80%"),
            (
                "three",
                json!([resource, pods, external]),
                json!([current]),
                "cpu: 10%/80%, <unknown>/50 + 1 more...",
            ),
            ("external", json!([external]), json!([]), "<unknown>/30"),
        ] {
            let o = json!({"spec": {"metrics": specs}, "status": {"currentMetrics": statuses}});
            assert_eq!(targets(&o), want, "{name}");
        }
    }
}
