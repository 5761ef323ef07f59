//! What each metric of an autoscaler asks for, and what its status says of them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::objects::{
    autoscaler::{Autoscaler, MetricSource, MetricSpec, MetricTarget, Rules, TargetRef},
    meta::now,
    pod::Pod,
    quantity::Quantity,
};

use super::{
    Controller, Draft, SOURCE,
    calculate::{Aim, Proposal, Scene, TOLERANCE, Tolerances, requests},
    go, metrics,
    target::Scale,
};

/// A metric's proposal: what it's called, its size, its status.
type Proposed = (String, i32, Value);

/// Why there is none: the condition's reason, its message, and the error that's told.
struct Failed {
    reason: &'static str,
    why: String,
    told: String,
}

/// As an amount; memory in bytes.
fn amount(resource: &str, milli: i64) -> Quantity {
    if resource == "memory" && milli % 1000 == 0 {
        Quantity::bytes(milli / 1000)
    } else {
        Quantity::millis(milli)
    }
}

fn tolerances(hpa: &Autoscaler) -> Tolerances {
    let of = |r: Option<&Rules>| {
        r.and_then(|r| r.tolerance.as_ref())
            .map_or(TOLERANCE, Quantity::float)
    };
    let behavior = hpa.spec.behavior.as_ref();
    Tolerances {
        up: of(behavior.and_then(|b| b.scale_up.as_ref())),
        down: of(behavior.and_then(|b| b.scale_down.as_ref())),
    }
}

impl Controller {
    /// The largest size that a metric asks for, by which, and all metrics' statuses. Err: when none can be told, or when it would shrink by those alone that can.
    pub(super) async fn propose_all(
        &self,
        hpa: &Autoscaler,
        scale: &Scale,
        draft: &mut Draft,
    ) -> Result<(Vec<Value>, String, i32), (Vec<Value>, String)> {
        let pods = self
            .pods_of(hpa, scale, draft)
            .map_err(|why| (vec![], why))?;
        let specs = &hpa.spec.metrics;
        let mut statuses = vec![];
        let mut best: Option<(String, i32)> = None;
        let mut first: Option<Failed> = None;
        let mut invalid = 0;
        for spec in specs {
            match self.propose(hpa, scale, spec, &pods).await {
                Ok((name, replicas, status)) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(_, n)| replicas > *n) {
                        best = Some((name, replicas));
                    }
                }
                Err(failed) => {
                    self.recorder
                        .warning(hpa, SOURCE, failed.reason, failed.why.clone());
                    // a status of no type, as upstream's
                    statuses.push(json!({"type": ""}));
                    invalid += 1;
                    first.get_or_insert(failed);
                }
            }
        }
        let size = best.as_ref().map_or(0, |(_, n)| *n);
        match (first, best) {
            (Some(f), best) if best.is_none() || size < scale.replicas => {
                let message = format!("the HPA was unable to compute the replica count: {}", f.why);
                draft.condition("ScalingActive", false, f.reason, message);
                let why = format!(
                    "invalid metrics ({invalid} invalid out of {}), first error is: {}",
                    specs.len(),
                    f.told
                );
                Err((statuses, why))
            }
            (_, Some((name, replicas))) => {
                let message = format!(
                    "the HPA was able to successfully calculate a replica count from {name}"
                );
                draft.condition("ScalingActive", true, "ValidMetricFound", message);
                Ok((statuses, name, replicas))
            }
            // no metric at all: the server doesn't let that in
            (_, None) => Ok((statuses, String::new(), 0)),
        }
    }

    async fn propose(
        &self,
        hpa: &Autoscaler,
        scale: &Scale,
        spec: &MetricSpec,
        pods: &[Arc<Pod>],
    ) -> Result<Proposed, Failed> {
        let scene = Scene {
            pods,
            current: scale.replicas,
            tolerances: tolerances(hpa),
            now: now(),
        };
        let space = &*hpa.metadata.namespace;
        let failed = |reason, what: String| {
            move |why: String| Failed {
                reason,
                told: format!("{what}: {why}"),
                why,
            }
        };
        match (&*spec.kind, spec) {
            ("Resource", MetricSpec { resource: Some(r), .. }) => self
                .of_resource(space, scale, &scene, &r.name, "", &r.target)
                .await
                .map(|(name, n, current)| {
                    let status = json!({"type": "Resource", "resource": {"name": r.name, "current": current}});
                    (name, n, status)
                })
                .map_err(failed(
                    "FailedGetResourceMetric",
                    format!("failed to get {} resource metric value", r.name),
                )),
            ("ContainerResource", MetricSpec { container_resource: Some(r), .. }) => self
                .of_resource(space, scale, &scene, &r.name, &r.container, &r.target)
                .await
                .map(|(name, n, current)| {
                    let status = json!({"type": "ContainerResource", "containerResource":
                        {"name": r.name, "container": r.container, "current": current}});
                    (name, n, status)
                })
                .map_err(failed(
                    "FailedGetContainerResourceMetric",
                    format!("failed to get {} container metric value", r.container),
                )),
            ("Pods", MetricSpec { pods: Some(m), .. }) => self
                .of_pods(space, scale, &scene, m)
                .await
                .map_err(failed("FailedGetPodsMetric", "failed to get pods metric value".into())),
            ("Object", MetricSpec { object: Some(m), .. }) => self
                .of_object(space, scale, &scene, m)
                .await
                .map_err(failed("FailedGetObjectMetric", "failed to get object metric value".into())),
            ("External", MetricSpec { external: Some(m), .. }) => self
                .of_external(space, scale, &scene, m)
                .await
                .map_err(failed(
                    "FailedGetExternalMetric",
                    format!("failed to get {} external metric value", m.metric.name),
                )),
            (kind, _) => {
                let why = format!("unknown metric source type {kind:?}");
                Err(Failed {
                    reason: "InvalidMetricSourceType",
                    told: why.clone(),
                    why,
                })
            }
        }
    }

    async fn of_resource(
        &self,
        space: &str,
        scale: &Scale,
        scene: &Scene<'_>,
        name: &str,
        container: &str,
        target: &MetricTarget,
    ) -> Result<Proposed, String> {
        let samples =
            async { metrics::resource(&self.rest, space, &scale.selector, name, container).await };
        if let Some(average) = &target.average_value {
            let propose = |s| scene.of_pods(s, &Aim::Average(average.milli_value()), name);
            let p = samples
                .await
                .and_then(propose)
                .map_err(|e| format!("failed to get {name} usage: {e}"))?;
            let current = json!({"averageValue": amount(name, p.usage_milli)});
            return Ok((format!("{name} resource"), p.replicas, current));
        }
        let Some(percent) = target.average_utilization else {
            return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into());
        };
        let propose = |s| {
            let requests = requests(scene.pods, container, name)?;
            scene.of_pods(s, &Aim::Utilization(percent, &requests), name)
        };
        let p: Proposal = samples
            .await
            .and_then(propose)
            .map_err(|e| format!("failed to get {name} utilization: {e}"))?;
        let of = if container.is_empty() {
            "resource"
        } else {
            "container resource"
        };
        let current = json!({
            "averageUtilization": p.utilization,
            "averageValue": amount(name, p.usage_milli),
        });
        let name = format!("{name} {of} utilization (percentage of request)");
        Ok((name, p.replicas, current))
    }

    async fn of_pods(
        &self,
        space: &str,
        scale: &Scale,
        scene: &Scene<'_>,
        source: &MetricSource,
    ) -> Result<Proposed, String> {
        let average = source.target.average_value.as_ref();
        let aim = Aim::Average(average.map_or(0, Quantity::milli_value));
        let samples = metrics::of_pods(&self.rest, space, &scale.selector, &source.metric).await?;
        let p = scene.of_pods(samples, &aim, "")?;
        let status = json!({"type": "Pods", "pods": {
            "metric": source.metric, "current": {"averageValue": Quantity::millis(p.usage_milli)},
        }});
        Ok((
            format!("pods metric {}", source.metric.name),
            p.replicas,
            status,
        ))
    }

    async fn of_object(
        &self,
        space: &str,
        scale: &Scale,
        scene: &Scene<'_>,
        source: &MetricSource,
    ) -> Result<Proposed, String> {
        let (object, metric) = (&source.described_object, &source.metric);
        let read = async {
            let plural = self.group_resource(object).await?;
            metrics::of_object(&self.rest, space, object, &plural, metric).await
        };
        let status = |current: Value| {
            json!({"type": "Object", "object": {
                "describedObject": object, "metric": metric, "current": current,
            }})
        };
        match (
            &*source.target.kind,
            &source.target.value,
            &source.target.average_value,
        ) {
            ("Value", Some(value), _) => {
                let p = scene.of_value(read.await?, value.milli_value())?;
                let name = format!("{} metric {}", object.kind, metric.name);
                let current = json!({"value": Quantity::millis(p.usage_milli)});
                Ok((name, p.replicas, status(current)))
            }
            ("AverageValue", _, Some(average)) => {
                let usage = read
                    .await
                    .map_err(|e| format!("failed to get {} object metric: {e}", metric.name))?;
                let p = scene.of_value_per_pod(usage, average.milli_value(), scale.seen);
                let name = external_name(source);
                let current = json!({"averageValue": Quantity::millis(p.usage_milli)});
                Ok((name, p.replicas, status(current)))
            }
            _ => Err("invalid object metric source: neither a value target nor an average value target was set".into()),
        }
    }

    /// `services`, `ingresses.networking.k8s.io`
    async fn group_resource(&self, object: &TargetRef) -> Result<String, String> {
        let plural = self.targets.plural(&self.rest, object).await?;
        Ok(match object.api_version.split_once('/') {
            Some((group, _)) => format!("{plural}.{group}"),
            None => plural.into(),
        })
    }

    async fn of_external(
        &self,
        space: &str,
        scale: &Scale,
        scene: &Scene<'_>,
        source: &MetricSource,
    ) -> Result<Proposed, String> {
        let name = &source.metric.name;
        let read = metrics::external(&self.rest, space, &source.metric);
        let (p, current) = match (&source.target.average_value, &source.target.value) {
            (Some(average), _) => {
                let usage = read
                    .await
                    .map_err(|e| format!("failed to get {name} external metric: {e}"))?;
                let p = scene.of_value_per_pod(usage, average.milli_value(), scale.seen);
                let current = json!({"averageValue": Quantity::millis(p.usage_milli)});
                (p, current)
            }
            (None, Some(value)) => {
                let p = read
                    .await
                    .and_then(|usage| scene.of_value(usage, value.milli_value()))
                    .map_err(|e| format!("failed to get external metric {name}: {e}"))?;
                let current = json!({"value": Quantity::millis(p.usage_milli)});
                (p, current)
            }
            (None, None) => return Err("invalid external metric source: neither a value target nor an average value target was set".into()),
        };
        let status = json!({"type": "External", "external": {
            "metric": source.metric, "current": current,
        }});
        Ok((external_name(source), p.replicas, status))
    }
}

fn external_name(source: &MetricSource) -> String {
    format!(
        "external metric {}({})",
        source.metric.name,
        go::selector(source.metric.selector.as_ref())
    )
}
