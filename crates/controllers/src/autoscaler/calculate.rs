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
mod tests;
