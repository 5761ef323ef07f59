//! Reads metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io (`podautoscaler/metrics/client.go`).

use serde::Deserialize;

use crate::{
    error::Error,
    machinery::rest::Rest,
    objects::{
        autoscaler::{MetricIdentifier, TargetRef},
        meta::{nullable, parse_time},
        quantity::Quantity,
        selector::Selector,
    },
};

use super::calculate::{Sample, Samples};

/// What custom metrics were measured over unless they say, s.
const CUSTOM_WINDOW_S: i64 = 60;

#[derive(Deserialize)]
struct PodMetricsList {
    #[serde(default, deserialize_with = "nullable")]
    items: Vec<PodMetrics>,
}
#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    #[serde(default)]
    timestamp: Box<str>,
    #[serde(default)]
    window: Box<str>,
    #[serde(default, deserialize_with = "nullable")]
    containers: Vec<ContainerMetrics>,
}
#[derive(Deserialize)]
struct Named {
    name: Box<str>,
}
#[derive(Deserialize)]
struct ContainerMetrics {
    name: Box<str>,
    #[serde(default)]
    usage: std::collections::HashMap<Box<str>, Quantity>,
}
#[derive(Deserialize)]
struct ValueList {
    #[serde(default, deserialize_with = "nullable")]
    items: Vec<MetricValue>,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: TargetRef,
    #[serde(default)]
    timestamp: Box<str>,
    #[serde(default, alias = "window")]
    window_seconds: Option<i64>,
    value: Quantity,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: Version,
}
#[derive(Deserialize)]
struct Version {
    version: Box<str>,
}

/// As a query's value.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(b).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// What the server said, as client-go writes it; `what` is what was asked for, e.g. `get pods.metrics.k8s.io`.
fn said(e: &Error, what: &str) -> String {
    match e {
        Error::Api(status) if status.code == 404 && status.reason.is_empty() => {
            format!("the server could not find the requested resource ({what})")
        }
        Error::Api(status) if status.code == 503 => {
            format!("the server is currently unable to handle the request ({what})")
        }
        Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Go's duration text, `1m30s`, in whole seconds.
fn duration_s(text: &str) -> i64 {
    let mut total = 0.0;
    let mut number = String::new();
    let mut unit = String::new();
    let add = |number: &mut String, unit: &mut String, total: &mut f64| {
        let n: f64 = number.parse().unwrap_or(0.0);
        *total += n * match unit.as_str() {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => 0.0,
        };
        number.clear();
        unit.clear();
    };
    for c in text.chars() {
        if c.is_ascii_digit() || c == '.' {
            if !unit.is_empty() {
                add(&mut number, &mut unit, &mut total);
            }
            number.push(c);
        } else {
            unit.push(c);
        }
    }
    add(&mut number, &mut unit, &mut total);
    total as i64
}

/// Use of a resource by each pod of the selector (in the API's text form), or by one container of each.
pub async fn resource(
    rest: &Rest,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: &str,
) -> Result<Samples, String> {
    let path = format!(
        "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
        encoded(selector)
    );
    let fail = |why: String| {
        format!(
            "unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {why}"
        )
    };
    let list: PodMetricsList = rest
        .get(&path)
        .await
        .map_err(|e| fail(said(&e, "get pods.metrics.k8s.io")))?;
    if list.items.is_empty() {
        return Err(format!(
            "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        ));
    }
    let mut samples = Samples::new();
    for pod in list.items {
        let mut wanted = pod
            .containers
            .iter()
            .filter(|c| container.is_empty() || *c.name == *container)
            .peekable();
        if wanted.peek().is_none() {
            continue;
        }
        let sum: Option<i64> = wanted
            .map(|c| c.usage.get(resource).map(Quantity::milli_value))
            .sum();
        if let Some(milli) = sum {
            let sample = Sample {
                milli,
                at: parse_time(Some(&pod.timestamp)).unwrap_or(0),
                window_s: duration_s(&pod.window),
            };
            samples.insert(pod.metadata.name, sample);
        }
    }
    Ok(samples)
}

/// `metricLabelSelector=…`, after what is there.
fn narrowed(mut path: String, key: &str, selector: Option<&Selector>) -> String {
    if let Some(s) = selector.filter(|s| !s.is_empty()) {
        let sep = if path.contains('?') { '&' } else { '?' };
        path.push_str(&format!("{sep}{key}={}", encoded(&s.to_string())));
    }
    path
}

async fn custom_version(rest: &Rest) -> Result<Box<str>, String> {
    let group: Group = rest
        .get("/apis/custom.metrics.k8s.io")
        .await
        .map_err(|e| match e.is_not_found() {
            true => "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered".to_owned(),
            false => format!("unable to fetch metrics from custom metrics API: {e}"),
        })?;
    Ok(group.preferred_version.version)
}

/// A metric of each pod of the selector.
pub async fn of_pods(
    rest: &Rest,
    namespace: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<Samples, String> {
    let name = &metric.name;
    let read = async {
        let version = custom_version(rest).await?;
        let path = format!(
            "/apis/custom.metrics.k8s.io/{version}/namespaces/{namespace}/pods/*/{name}?labelSelector={}",
            encoded(selector)
        );
        let path = narrowed(path, "metricLabelSelector", metric.selector.as_ref());
        let list: ValueList = rest.get(&path).await.map_err(|e| {
            format!(
                "unable to fetch metrics from custom metrics API: {}",
                said(&e, "get pods.custom.metrics.k8s.io *")
            )
        })?;
        if list.items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        Ok(list)
    };
    let list = read
        .await
        .map_err(|e: String| format!("unable to get metric {name}: {e}"))?;
    let sample = |m: MetricValue| {
        let sample = Sample {
            milli: m.value.milli_value(),
            at: parse_time(Some(&m.timestamp)).unwrap_or(0),
            window_s: m.window_seconds.unwrap_or(CUSTOM_WINDOW_S),
        };
        (m.described_object.name, sample)
    };
    Ok(list.items.into_iter().map(sample).collect())
}

/// A metric of one object, in thousandths. `plural` is its resource: `services`, `ingresses.networking.k8s.io`.
pub async fn of_object(
    rest: &Rest,
    namespace: &str,
    object: &TargetRef,
    plural: &str,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let (name, kind) = (&metric.name, &object.kind);
    let read = async {
        let version = custom_version(rest).await?;
        let root = format!("/apis/custom.metrics.k8s.io/{version}");
        let path = if &**kind == "Namespace" && !object.api_version.contains('/') {
            format!("{root}/namespaces/{namespace}/metrics/{name}")
        } else {
            format!(
                "{root}/namespaces/{namespace}/{plural}/{}/{name}",
                object.name
            )
        };
        let path = narrowed(path, "metricLabelSelector", metric.selector.as_ref());
        let list: ValueList = rest.get(&path).await.map_err(|e| {
            let what = format!("get {plural}.custom.metrics.k8s.io {}", object.name);
            format!(
                "unable to fetch metrics from custom metrics API: {}",
                said(&e, &what)
            )
        })?;
        match list.items.first() {
            Some(v) => Ok(v.value.milli_value()),
            None => Err(format!(
                "unable to fetch metrics from custom metrics API: the custom metrics API server did not return any results for {plural}/{}",
                object.name
            )),
        }
    };
    read.await.map_err(|e: String| {
        format!(
            "unable to get metric {name}: {e} on {kind} {namespace}/{}",
            object.name
        )
    })
}

/// The sum of an external metric's values, in thousandths.
pub async fn external(
    rest: &Rest,
    namespace: &str,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let name = &metric.name;
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}");
    let path = narrowed(path, "labelSelector", metric.selector.as_ref());
    let fail = |why: String| {
        let selector = super::go::selector(metric.selector.as_ref());
        format!("unable to get external metric {namespace}/{name}/{selector}: {why}")
    };
    let list: ValueList = rest.get(&path).await.map_err(|e| {
        let why = said(&e, &format!("get {name}.external.metrics.k8s.io"));
        fail(format!(
            "unable to fetch metrics from external metrics API: {why}"
        ))
    })?;
    if list.items.is_empty() {
        return Err(fail(
            "no metrics returned from external metrics API".to_owned(),
        ));
    }
    let add = |sum: i64, m: &MetricValue| sum.saturating_add(m.value.milli_value());
    Ok(list.items.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("30s", 30),
            ("1m0s", 60),
            ("1m30.5s", 90),
            ("1h1m1s", 3661),
            ("", 0),
        ] {
            assert_eq!(duration_s(text), want, "{text}");
        }
    }
}
