use super::*;
use serde::Deserialize;
use serde_json::{Value, json};

/// A case of upstream's `replica_calculator_test.go`.
#[derive(Deserialize)]
#[serde(default)]
struct Case {
    name: String,
    current: i32,
    want: i32,
    want_utilization: Option<i32>,
    want_usage: Option<i64>,
    error: Option<String>,
    ready: Vec<bool>,
    phase: Vec<String>,
    deleting: Vec<bool>,
    hot: Vec<bool>,
    container: String,
    requests: Vec<String>,
    names: Vec<String>,
    levels: Value,
    utilization: Option<i32>,
    metric: Option<String>,
    target: i64,
    /// below, above
    tolerances: (f64, f64),
}
impl Default for Case {
    fn default() -> Self {
        Case {
            tolerances: (0.1, 0.1),
            name: Default::default(),
            current: 0,
            want: 0,
            want_utilization: None,
            want_usage: None,
            error: None,
            ready: vec![],
            phase: vec![],
            deleting: vec![],
            hot: vec![],
            container: Default::default(),
            requests: vec![],
            names: vec![],
            levels: Value::Null,
            utilization: None,
            metric: None,
            target: 0,
        }
    }
}

const NOW: Seconds = 1_700_000_000;

fn pods(case: &Case) -> Vec<Arc<Pod>> {
    let count = (case.current as usize)
        .max(case.ready.len())
        .max(case.phase.len());
    let pod = |i: usize| {
        let started = match case.hot.get(i) {
            Some(true) => NOW - 60,
            Some(false) => NOW - 400,
            None => 0,
        };
        let requests = |r: &String| json!({"requests": {"cpu": r}});
        let resources = case.requests.get(i).map_or(json!({}), requests);
        let deleting = case.deleting.get(i) == Some(&true);
        serde_json::from_value(json!({
            "metadata": {"name": format!("p-{i}"),
                "deletionTimestamp": deleting.then_some("2023-11-14T22:13:20Z")},
            "spec": {"containers": [
                {"name": "container1", "resources": resources},
                {"name": "container2", "resources": resources}]},
            "status": {
                "phase": case.phase.get(i).map_or("Running", |p| p),
                "startTime": crate::objects::meta::rfc3339(started),
                "conditions": [{"type": "Ready",
                    "status": if case.ready.get(i) == Some(&false) { "False" } else { "True" }}],
            },
        }))
        .map(Arc::new)
        .unwrap()
    };
    (0..count).map(pod).collect()
}

fn samples(case: &Case) -> Samples {
    let mut all = Samples::new();
    for (i, level) in case.levels.as_array().unwrap().iter().enumerate() {
        let name = match case.names.get(i) {
            Some(n) => n.clone(),
            None => format!("p-{i}"),
        };
        let containers: Vec<i64> = match level {
            Value::Array(a) => a.iter().filter_map(Value::as_i64).collect(),
            one => vec![one.as_i64().unwrap()],
        };
        let milli = match &*case.container {
            "container1" => containers.first().copied(),
            "container2" => containers.get(1).copied(),
            _ if containers.is_empty() => None,
            _ => Some(containers.iter().sum()),
        };
        if let Some(milli) = milli {
            let sample = Sample {
                milli,
                // as long ago as the pods' conditions: less than a window after them
                at: 0,
                window_s: 60,
            };
            all.insert(name.into(), sample);
        }
    }
    all
}

fn propose(case: &Case) -> Result<Proposal, String> {
    let pods = pods(case);
    let scene = Scene {
        pods: &pods,
        current: case.current,
        tolerances: Tolerances {
            down: case.tolerances.0,
            up: case.tolerances.1,
        },
        now: NOW,
    };
    let sum = || {
        let levels = case.levels.as_array().unwrap().iter();
        levels
            .filter_map(Value::as_i64)
            .fold(0, i64::saturating_add)
    };
    match case.metric.as_deref() {
        None => {
            let all = samples(case);
            if all.is_empty() {
                return Err("unable to get metrics for resource cpu: no metrics returned from resource metrics API".into());
            }
            let requests = requests(&pods, &case.container, "cpu")?;
            let aim = Aim::Utilization(case.utilization.unwrap(), &requests);
            scene.of_pods(all, &aim, "cpu")
        }
        Some("pod") => scene.of_pods(samples(case), &Aim::Average(case.target), ""),
        Some("objectPerPod" | "externalPerPod") => {
            Ok(scene.of_value_per_pod(sum(), case.target, case.current))
        }
        Some(_) => scene.of_value(sum(), case.target),
    }
}

#[test]
fn as_upstream_calculates() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../data/replica_calculator.json")).unwrap();
    assert!(cases.len() > 60);
    let mut wrong = vec![];
    for case in &cases {
        let got = propose(case);
        let ok = match (&got, &case.error) {
            (Err(e), Some(want)) => e.contains(&**want),
            (Ok(p), None) => {
                p.replicas == case.want
                    && case.want_usage.is_none_or(|u| u == p.usage_milli)
                    && (case.want_utilization.is_none() || p.utilization == case.want_utilization)
            }
            _ => false,
        };
        if !ok {
            wrong.push(format!(
                "{}: {got:?}, want {} {:?} {:?} {:?}",
                case.name, case.want, case.want_utilization, case.want_usage, case.error
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// TestCalculateRequests
#[test]
fn what_pods_request() {
    let c = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": if cpu.is_empty() { json!({}) } else { json!({"cpu": cpu}) }}});
    let sidecar = |name: &str, cpu: &str| {
        let mut s = c(name, cpu);
        s["restartPolicy"] = "Always".into();
        s
    };
    for (name, spec, container, want) in [
        (
            "all containers",
            json!({"containers":[c("a","100m"),c("b","50m")]}),
            "",
            Ok(150),
        ),
        (
            "one",
            json!({"containers":[c("a","100m"),c("b","50m")]}),
            "b",
            Ok(50),
        ),
        (
            "sidecars, too",
            json!({"containers":[c("a","100m")],"initContainers":[c("i","1"),sidecar("s","50m")]}),
            "",
            Ok(150),
        ),
        (
            "the sidecar",
            json!({"containers":[c("a","100m")],"initContainers":[sidecar("s","50m")]}),
            "s",
            Ok(50),
        ),
        (
            "the pod's",
            json!({"resources":{"requests":{"cpu":"1"}},"containers":[c("a","100m")]}),
            "",
            Ok(1000),
        ),
        (
            "not the pod's",
            json!({"resources":{"requests":{"cpu":"1"}},"containers":[c("a","100m")]}),
            "a",
            Ok(100),
        ),
        (
            "none",
            json!({"containers":[c("a","100m"),c("b","")]}),
            "",
            Err("missing request for cpu in container b of Pod p"),
        ),
        (
            "no such container",
            json!({"containers":[c("a","100m")]}),
            "z",
            Err("container z not found in Pod p"),
        ),
    ] {
        let pod: Pod =
            serde_json::from_value(json!({"metadata":{"name":"p"},"spec":spec})).unwrap();
        let got = request(&pod, container, "cpu");
        assert_eq!(got, want.map_err(str::to_owned), "{name}");
    }
}
