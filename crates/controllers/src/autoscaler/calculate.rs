//! How many replicas a metric asks for (`podautoscaler/replica_calculator.go`). Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::objects::{
    meta::{Seconds, parse_time},
    pod::{Phase, Pod},
};

/// A pod's CPU use right after its start says little, s (`--horizontal-pod-autoscaler-cpu-initialization-period`).
const CPU_INITIALIZATION_S: Seconds = 300;
/// A pod that turned unready this soon after its start was never ready, s (`--horizontal-pod-autoscaler-initial-readiness-delay`).
const INITIAL_READINESS_S: Seconds = 30;
/// How far from the aim is near enough, unless it's said.
pub const TOLERANCE: f64 = 0.1;

/// What was measured of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// thousandths
    pub milli: i64,
    /// when
    pub at: Seconds,
    /// over how long, s
    pub window_s: Seconds,
}

/// By pod.
pub type Samples = BTreeMap<Box<str>, Sample>;

/// How far from the aim is near enough.
#[derive(Debug, Clone, Copy)]
pub struct Tolerances {
    /// above it
    pub up: f64,
    /// below it
    pub down: f64,
}

impl Tolerances {
    fn within(&self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// A size, and the use it comes of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// replicas
    pub replicas: i32,
    /// thousandths, per pod or in all
    pub usage_milli: i64,
    /// per cent of what is requested
    pub utilization: Option<i32>,
}

/// What a calculation looks at.
pub struct Scene<'a> {
    /// the target's pods
    pub pods: &'a [Arc<Pod>],
    /// size of the target
    pub current: i32,
    /// how near is near enough
    pub tolerances: Tolerances,
    /// now
    pub now: Seconds,
}

#[derive(Default)]
struct Groups {
    ready: usize,
    unready: Vec<Box<str>>,
    missing: Vec<Box<str>>,
    ignored: Vec<Box<str>>,
}

fn ceil(x: f64) -> i32 {
    // a float that's too large becomes the largest
    x.ceil() as i32
}

/// Pods by what their samples are worth.
fn group(pods: &[Arc<Pod>], samples: &Samples, resource: &str, now: Seconds) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone();
        if pod.metadata.deleting() || pod.status.phase == Phase::Failed {
            groups.ignored.push(name);
            continue;
        }
        if pod.status.phase == Phase::Pending {
            groups.unready.push(name);
            continue;
        }
        let Some(sample) = samples.get(&name) else {
            groups.missing.push(name);
            continue;
        };
        if resource == "cpu" && unready(pod, sample, now) {
            groups.unready.push(name);
            continue;
        }
        groups.ready += 1;
    }
    groups
}

fn unready(pod: &Pod, sample: &Sample, now: Seconds) -> bool {
    let condition = pod.status.conditions.iter().find(|c| &*c.kind == "Ready");
    let (Some(condition), Some(started)) = (condition, pod.status.start_time) else {
        return true;
    };
    let not_ready = &*condition.status == "False";
    let since = parse_time(condition.last_transition_time.as_deref()).unwrap_or(0);
    if started + CPU_INITIALIZATION_S > now {
        not_ready || sample.at < since + sample.window_s
    } else {
        not_ready && started + INITIAL_READINESS_S > since
    }
}

/// What each pod (or its container of that name) requests of the resource, in thousandths.
pub fn requests(
    pods: &[Arc<Pod>],
    container: &str,
    resource: &str,
) -> Result<BTreeMap<Box<str>, i64>, String> {
    pods.iter()
        .map(|p| Ok((p.metadata.name.clone(), request(p, container, resource)?)))
        .collect()
}

fn of(requests: &crate::objects::pod::Requests, resource: &str) -> i64 {
    match resource {
        "cpu" => requests.cpu_milli,
        "memory" => requests.memory_bytes.saturating_mul(1000),
        other => requests.other(other).unwrap_or(0).saturating_mul(1000),
    }
}

fn request(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let name = &pod.metadata.name;
    let whole = &pod.spec.resources.requests;
    if container.is_empty() && *whole != Default::default() {
        let n = of(&pod.requests(), resource);
        if n == 0 {
            return Err(format!(
                "missing pod-level request for {resource} in Pod {name}"
            ));
        }
        return Ok(n);
    }
    let sidecars = pod
        .spec
        .init_containers
        .iter()
        .filter(|c| &*c.restart_policy == "Always");
    let mut sum = 0;
    for c in pod.spec.containers.iter().chain(sidecars) {
        if !container.is_empty() && *c.name != *container {
            continue;
        }
        let n = of(&c.resources.requests, resource);
        if n == 0 {
            return Err(format!(
                "missing request for {resource} in container {} of Pod {name}",
                c.name
            ));
        }
        sum += n;
        if !container.is_empty() {
            return Ok(sum);
        }
    }
    if !container.is_empty() {
        return Err(format!("container {container} not found in Pod {name}"));
    }
    Ok(sum)
}

/// Ratio to the aim, use per pod, and per cent of the requests.
type Ratio = (f64, i64, Option<i32>);

/// The aim of a metric of pods.
pub enum Aim<'a> {
    /// per cent of these requests
    Utilization(i32, &'a BTreeMap<Box<str>, i64>),
    /// thousandths per pod
    Average(i64),
}

impl Aim<'_> {
    fn ratio(&self, samples: &Samples) -> Result<Ratio, String> {
        match self {
            Aim::Average(target) => {
                let total: i64 = samples.values().map(|s| s.milli).sum();
                let usage = total / samples.len().max(1) as i64;
                Ok((usage as f64 / *target as f64, usage, None))
            }
            Aim::Utilization(target, requests) => {
                let (mut used, mut requested, mut n) = (0i64, 0i64, 0i64);
                for (pod, sample) in samples {
                    if let Some(r) = requests.get(pod) {
                        used += sample.milli;
                        requested += r;
                        n += 1;
                    }
                }
                if requested == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let percent = (i128::from(used) * 100 / i128::from(requested)) as i32;
                Ok((
                    f64::from(percent) / f64::from(*target),
                    used / n,
                    Some(percent),
                ))
            }
        }
    }
    /// What a pod without a sample counts for when the size would shrink.
    fn cautious(&self, pod: &str) -> i64 {
        match self {
            Aim::Average(target) => *target,
            Aim::Utilization(target, requests) => {
                requests.get(pod).copied().unwrap_or(0) * i64::from((*target).max(100)) / 100
            }
        }
    }
}

impl Scene<'_> {
    /// The size for a metric that is measured of each pod. `resource` is empty for other metrics than resources.
    pub fn of_pods(
        &self,
        mut samples: Samples,
        aim: &Aim,
        resource: &str,
    ) -> Result<Proposal, String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".into());
        }
        let groups = group(self.pods, &samples, resource, self.now);
        for pod in groups.ignored.iter().chain(&groups.unready) {
            samples.remove(pod);
        }
        if samples.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".into());
        }
        let (ratio, usage_milli, utilization) = aim.ratio(&samples)?;
        let proposal = |replicas| Proposal {
            replicas,
            usage_milli,
            utilization,
        };
        let grows_with_unready = !groups.unready.is_empty() && ratio > 1.0;
        if !grows_with_unready && groups.missing.is_empty() {
            if self.tolerances.within(ratio) {
                return Ok(proposal(self.current));
            }
            return Ok(proposal(ceil(ratio * groups.ready as f64)));
        }
        let assumed = |milli| Sample {
            milli,
            at: 0,
            window_s: 0,
        };
        for pod in &groups.missing {
            if ratio < 1.0 {
                samples.insert(pod.clone(), assumed(aim.cautious(pod)));
            } else if ratio > 1.0 {
                samples.insert(pod.clone(), assumed(0));
            }
        }
        if grows_with_unready {
            for pod in &groups.unready {
                samples.insert(pod.clone(), assumed(0));
            }
        }
        let (again, _, _) = aim.ratio(&samples)?;
        let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
        if self.tolerances.within(again) || turned {
            return Ok(proposal(self.current));
        }
        let replicas = ceil(again * samples.len() as f64);
        let wrong_way =
            (again < 1.0 && replicas > self.current) || (again > 1.0 && replicas < self.current);
        Ok(proposal(if wrong_way { self.current } else { replicas }))
    }

    /// The size for a metric of something else, by its value in all.
    pub fn of_value(&self, usage_milli: i64, target_milli: i64) -> Result<Proposal, String> {
        let ratio = usage_milli as f64 / target_milli as f64;
        let replicas = if self.current == 0 {
            ceil(ratio)
        } else if self.tolerances.within(ratio) {
            self.current
        } else {
            if self.pods.is_empty() {
                return Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".into());
            }
            let ready = self
                .pods
                .iter()
                .filter(|p| p.status.phase == Phase::Running && p.ready())
                .count();
            ceil(ratio * ready as f64)
        };
        Ok(Proposal {
            replicas,
            usage_milli,
            utilization: None,
        })
    }

    /// The size for a metric of something else, by its value per pod; `seen` are the replicas that there are.
    pub fn of_value_per_pod(&self, usage_milli: i64, target_milli: i64, seen: i32) -> Proposal {
        let ratio = usage_milli as f64 / (target_milli as f64 * f64::from(seen));
        let replicas = if self.tolerances.within(ratio) {
            seen
        } else {
            ceil(usage_milli as f64 / target_milli as f64)
        };
        Proposal {
            replicas,
            usage_milli: (usage_milli as f64 / f64::from(seen)).ceil() as i64,
            utilization: None,
        }
    }
}

#[cfg(test)]
mod tests {
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
            serde_json::from_str(include_str!("data/replica_calculator.json")).unwrap();
        assert!(cases.len() > 60);
        let mut wrong = vec![];
        for case in &cases {
            let got = propose(case);
            let ok = match (&got, &case.error) {
                (Err(e), Some(want)) => e.contains(&**want),
                (Ok(p), None) => {
                    p.replicas == case.want
                        && case.want_usage.is_none_or(|u| u == p.usage_milli)
                        && (case.want_utilization.is_none()
                            || p.utilization == case.want_utilization)
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
}
