//! How fast a size may change: stabilization and scaling policies (`podautoscaler/horizontal.go`). Pure, but for what it remembers of one autoscaler.

use std::time::Duration;

use tokio::time::Instant;

use crate::objects::autoscaler::{Behavior, Policy, Rules};

/// Recommendations and changes remembered of one autoscaler; above it the oldest go.
const REMEMBERED_MAX: usize = 1024;
/// `--horizontal-pod-autoscaler-downscale-stabilization`, s
const DOWNSCALE_WINDOW_S: i32 = 300;

/// What was recommended and done lately.
#[derive(Debug, Default)]
pub struct Memory {
    recommendations: Vec<(i32, Instant)>,
    ups: Vec<(i32, Instant)>,
    downs: Vec<(i32, Instant)>,
}

/// A condition's reason and message.
pub type Why = (&'static str, &'static str);

/// What came of a recommendation.
#[derive(Debug, PartialEq, Eq)]
pub struct Normalized {
    /// the size
    pub replicas: i32,
    /// of AbleToScale, which is True
    pub able: Why,
    /// ScalingLimited is True
    pub limited: bool,
    /// of ScalingLimited
    pub limit: Why,
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const IN_RANGE: Why = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const UP_LIMIT: Why = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const DOWN_LIMIT: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);
const TOO_MANY: Why = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: Why = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);

/// The bounds and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// fewest
    pub min: i32,
    /// most
    pub max: i32,
    /// now
    pub current: i32,
}

fn seconds(n: i32) -> Duration {
    Duration::from_secs(n.max(0) as u64)
}

fn policies(rules: &Rules, up: bool) -> Vec<Policy> {
    let policy = |kind: &str, value| Policy {
        kind: kind.into(),
        value,
        period_seconds: 15,
    };
    match &rules.policies {
        Some(p) if !p.is_empty() => p.clone(),
        _ if up => vec![policy("Pods", 4), policy("Percent", 100)],
        _ => vec![policy("Percent", 100)],
    }
}

impl Memory {
    /// The first size seen.
    pub fn start(&mut self, current: i32, now: Instant) {
        if self.recommendations.is_empty() {
            self.recommendations.push((current, now));
        }
    }

    /// What becomes of a recommendation.
    pub fn normalize(
        &mut self,
        behavior: Option<&Behavior>,
        desired: i32,
        bounds: Bounds,
        now: Instant,
    ) -> Normalized {
        let none = Rules::default();
        match behavior {
            None => self.plain(desired, bounds, now),
            Some(b) => {
                let up = b.scale_up.as_ref().unwrap_or(&none);
                let down = b.scale_down.as_ref().unwrap_or(&none);
                self.with_rules(up, down, desired, bounds, now)
            }
        }
    }

    fn plain(&mut self, desired: i32, bounds: Bounds, now: Instant) -> Normalized {
        let window = seconds(DOWNSCALE_WINDOW_S);
        let recent = |at: &Instant| now.duration_since(*at) <= window;
        let stable = self
            .recommendations
            .iter()
            .filter(|(_, at)| recent(at))
            .map(|(n, _)| *n)
            .fold(desired, i32::max);
        self.recommendations.retain(|(_, at)| recent(at));
        self.recommend(desired, now);
        // twice as many at a time, at least 4
        let fastest = bounds.current.saturating_mul(2).max(4);
        let (most, why) = if bounds.max > fastest {
            (fastest, UP_LIMIT)
        } else {
            (bounds.max, TOO_MANY)
        };
        let (replicas, limit) = if stable < bounds.min {
            (bounds.min, TOO_FEW)
        } else if stable > most {
            (most, why)
        } else {
            (stable, IN_RANGE)
        };
        Normalized {
            replicas,
            able: if stable == desired {
                READY
            } else {
                DOWN_STABILIZED
            },
            limited: replicas != stable,
            limit,
        }
    }

    fn recommend(&mut self, desired: i32, now: Instant) {
        if self.recommendations.len() >= REMEMBERED_MAX {
            self.recommendations.remove(0);
        }
        self.recommendations.push((desired, now));
    }

    fn with_rules(
        &mut self,
        up: &Rules,
        down: &Rules,
        desired: i32,
        bounds: Bounds,
        now: Instant,
    ) -> Normalized {
        let up_window = seconds(up.stabilization_window_seconds.unwrap_or(0));
        let down_window = seconds(
            down.stabilization_window_seconds
                .unwrap_or(DOWNSCALE_WINDOW_S),
        );
        let within = |at: &Instant, window: Duration| now.duration_since(*at) < window;
        let (mut lowest, mut highest) = (desired, desired);
        for (n, at) in &self.recommendations {
            if within(at, up_window) {
                lowest = lowest.min(*n);
            }
            if within(at, down_window) {
                highest = highest.max(*n);
            }
        }
        let stable = bounds.current.max(lowest).min(highest);
        self.recommendations
            .retain(|(_, at)| within(at, up_window) || within(at, down_window));
        self.recommend(desired, now);
        let able = match stable == desired {
            true => READY,
            false if desired >= bounds.current => UP_STABILIZED,
            false => DOWN_STABILIZED,
        };
        let (replicas, limit) = self.limit(up, down, stable, bounds, now);
        Normalized {
            replicas,
            able,
            limited: replicas != stable,
            limit,
        }
    }

    fn limit(
        &self,
        up: &Rules,
        down: &Rules,
        desired: i32,
        bounds: Bounds,
        now: Instant,
    ) -> (i32, Why) {
        if desired > bounds.current {
            let fastest = self.fastest_up(up, bounds.current, now).max(bounds.current);
            let (most, why) = if bounds.max > fastest {
                (fastest, UP_LIMIT)
            } else {
                (bounds.max, TOO_MANY)
            };
            if desired > most {
                return (most, why);
            }
        } else if desired < bounds.current {
            let fastest = self
                .fastest_down(down, bounds.current, now)
                .min(bounds.current);
            let (least, why) = if bounds.min < fastest {
                (fastest, DOWN_LIMIT)
            } else {
                (bounds.min, TOO_FEW)
            };
            if desired < least {
                return (least, why);
            }
        }
        (desired, IN_RANGE)
    }

    /// The size at the start of a period.
    fn before(&self, period_s: i32, current: i32, now: Instant) -> i32 {
        let sum = |changes: &[(i32, Instant)]| -> i32 {
            changes
                .iter()
                .filter(|(_, at)| now.duration_since(*at) < seconds(period_s))
                .map(|(n, _)| *n)
                .sum()
        };
        current - sum(&self.ups) + sum(&self.downs)
    }
    fn fastest_up(&self, rules: &Rules, current: i32, now: Instant) -> i32 {
        let limits = policies(rules, true).into_iter().map(|p| {
            let before = self.before(p.period_seconds, current, now);
            if &*p.kind == "Percent" {
                (f64::from(before) * (1.0 + f64::from(p.value) / 100.0)).ceil() as i32
            } else {
                before.saturating_add(p.value)
            }
        });
        match &*rules.select_policy {
            "Disabled" => current,
            "Min" => limits.min().unwrap_or(current),
            _ => limits.max().unwrap_or(current),
        }
    }
    fn fastest_down(&self, rules: &Rules, current: i32, now: Instant) -> i32 {
        let limits = policies(rules, false).into_iter().map(|p| {
            let before = self.before(p.period_seconds, current, now);
            if &*p.kind == "Percent" {
                (f64::from(before) * (1.0 - f64::from(p.value) / 100.0)) as i32
            } else {
                before.saturating_sub(p.value)
            }
        });
        match &*rules.select_policy {
            "Disabled" => current,
            // the smallest change leaves the most
            "Min" => limits.max().unwrap_or(current),
            _ => limits.min().unwrap_or(current),
        }
    }

    /// The size was changed.
    pub fn scaled(&mut self, behavior: Option<&Behavior>, from: i32, to: i32, now: Instant) {
        let Some(behavior) = behavior else { return };
        let none = Rules::default();
        let up = to > from;
        let (changes, rules) = if up {
            (&mut self.ups, &behavior.scale_up)
        } else {
            (&mut self.downs, &behavior.scale_down)
        };
        let longest = policies(rules.as_ref().unwrap_or(&none), up)
            .iter()
            .map(|p| p.period_seconds)
            .max()
            .unwrap_or(0);
        changes.retain(|(_, at)| now.duration_since(*at) <= seconds(longest));
        if changes.len() >= REMEMBERED_MAX {
            changes.remove(0);
        }
        changes.push(((to - from).abs(), now));
    }
}

#[cfg(test)]
mod tests;
