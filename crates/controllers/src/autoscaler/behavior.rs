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
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn behavior(v: Value) -> Behavior {
        serde_json::from_value(v).unwrap()
    }
    fn ago(now: Instant, s: u64) -> Instant {
        now - Duration::from_secs(s)
    }
    fn bounds(min: i32, max: i32, current: i32) -> Bounds {
        Bounds { min, max, current }
    }

    // horizontal_test.go: TestConvertDesiredReplicasWithRules and TestNormalizeDesiredReplicas
    #[tokio::test(start_paused = true)]
    async fn without_behavior() {
        tokio::time::advance(Duration::from_secs(100_000)).await;
        let now = Instant::now();
        for (name, past, desired, b, want, able, limit) in [
            (
                "nothing known",
                vec![],
                5,
                bounds(1, 10, 5),
                5,
                READY,
                IN_RANGE,
            ),
            (
                "higher, recently",
                vec![(7, 60)],
                5,
                bounds(1, 10, 7),
                7,
                DOWN_STABILIZED,
                IN_RANGE,
            ),
            (
                "higher, long ago",
                vec![(7, 400)],
                5,
                bounds(1, 10, 7),
                5,
                READY,
                IN_RANGE,
            ),
            (
                "lower, recently",
                vec![(2, 60)],
                5,
                bounds(1, 10, 5),
                5,
                READY,
                IN_RANGE,
            ),
            ("too few", vec![], 0, bounds(2, 10, 3), 2, READY, TOO_FEW),
            (
                "too many",
                vec![],
                30,
                bounds(2, 10, 8),
                10,
                READY,
                TOO_MANY,
            ),
            (
                "too fast",
                vec![],
                30,
                bounds(2, 30, 8),
                16,
                READY,
                UP_LIMIT,
            ),
            (
                "too fast, from little",
                vec![],
                30,
                bounds(1, 30, 1),
                4,
                READY,
                UP_LIMIT,
            ),
        ] {
            let mut m = Memory {
                recommendations: past.iter().map(|(n, s)| (*n, ago(now, *s))).collect(),
                ..Default::default()
            };
            let got = m.normalize(None, desired, b, now);
            assert_eq!(
                (got.replicas, got.able, got.limit),
                (want, able, limit),
                "{name}"
            );
        }
    }

    // TestScalingWithRules
    #[tokio::test(start_paused = true)]
    async fn policies_limit() {
        tokio::time::advance(Duration::from_secs(100_000)).await;
        let now = Instant::now();
        let up = |policies: Value, select: &str| {
            behavior(json!({"scaleUp":{"policies":policies,"selectPolicy":select}}))
        };
        let down = |policies: Value, select: &str| {
            behavior(
                json!({"scaleDown":{"policies":policies,"selectPolicy":select,"stabilizationWindowSeconds":0}}),
            )
        };
        let pods = |n: i32, s: i32| json!({"type":"Pods","value":n,"periodSeconds":s});
        let percent = |n: i32, s: i32| json!({"type":"Percent","value":n,"periodSeconds":s});
        let none: Vec<(i32, u64)> = vec![];
        for (name, b, ups, downs, desired, bs, want, limit) in [
            (
                "up: pods",
                up(json!([pods(4, 60)]), "Max"),
                none.clone(),
                none.clone(),
                30,
                bounds(1, 100, 10),
                14,
                UP_LIMIT,
            ),
            (
                "up: percent, rounded up",
                up(json!([percent(10, 60)]), "Max"),
                none.clone(),
                none.clone(),
                30,
                bounds(1, 100, 11),
                13,
                UP_LIMIT,
            ),
            (
                "up: the larger",
                up(json!([pods(4, 60), percent(100, 60)]), "Max"),
                none.clone(),
                none.clone(),
                30,
                bounds(1, 100, 10),
                20,
                UP_LIMIT,
            ),
            (
                "up: the smaller",
                up(json!([pods(4, 60), percent(100, 60)]), "Min"),
                none.clone(),
                none.clone(),
                30,
                bounds(1, 100, 10),
                14,
                UP_LIMIT,
            ),
            (
                "up: disabled",
                up(json!([pods(4, 60)]), "Disabled"),
                none.clone(),
                none.clone(),
                30,
                bounds(1, 100, 10),
                10,
                UP_LIMIT,
            ),
            (
                "up: part of it done",
                up(json!([pods(4, 60)]), "Max"),
                vec![(3, 30)],
                none.clone(),
                30,
                bounds(1, 100, 10),
                11,
                UP_LIMIT,
            ),
            (
                "up: all of it done",
                up(json!([pods(4, 60)]), "Max"),
                vec![(6, 30)],
                none.clone(),
                30,
                bounds(1, 100, 10),
                10,
                UP_LIMIT,
            ),
            (
                "up: done long ago",
                up(json!([pods(4, 60)]), "Max"),
                vec![(4, 70)],
                none.clone(),
                30,
                bounds(1, 100, 10),
                14,
                UP_LIMIT,
            ),
            (
                "up: was shrunk meanwhile",
                up(json!([pods(4, 60)]), "Max"),
                none.clone(),
                vec![(2, 30)],
                30,
                bounds(1, 100, 10),
                16,
                UP_LIMIT,
            ),
            (
                "up: the default",
                behavior(json!({})),
                none.clone(),
                none.clone(),
                30,
                bounds(1, 100, 3),
                7,
                UP_LIMIT,
            ),
            (
                "up: most",
                up(json!([pods(50, 60)]), "Max"),
                none.clone(),
                none.clone(),
                30,
                bounds(1, 20, 10),
                20,
                TOO_MANY,
            ),
            (
                "down: pods",
                down(json!([pods(3, 60)]), "Max"),
                none.clone(),
                none.clone(),
                1,
                bounds(1, 100, 10),
                7,
                DOWN_LIMIT,
            ),
            (
                "down: percent, rounded down",
                down(json!([percent(25, 60)]), "Max"),
                none.clone(),
                none.clone(),
                1,
                bounds(1, 100, 10),
                7,
                DOWN_LIMIT,
            ),
            (
                "down: the larger change",
                down(json!([pods(3, 60), percent(50, 60)]), "Max"),
                none.clone(),
                none.clone(),
                1,
                bounds(1, 100, 10),
                5,
                DOWN_LIMIT,
            ),
            (
                "down: the smaller change",
                down(json!([pods(3, 60), percent(50, 60)]), "Min"),
                none.clone(),
                none.clone(),
                1,
                bounds(1, 100, 10),
                7,
                DOWN_LIMIT,
            ),
            (
                "down: disabled",
                down(json!([pods(3, 60)]), "Disabled"),
                none.clone(),
                none.clone(),
                1,
                bounds(1, 100, 10),
                10,
                DOWN_LIMIT,
            ),
            (
                "down: part of it done",
                down(json!([pods(3, 60)]), "Max"),
                none.clone(),
                vec![(2, 30)],
                1,
                bounds(1, 100, 10),
                9,
                DOWN_LIMIT,
            ),
            (
                "down: fewest",
                down(json!([pods(30, 60)]), "Max"),
                none.clone(),
                none.clone(),
                1,
                bounds(5, 100, 10),
                5,
                TOO_FEW,
            ),
            (
                "within",
                down(json!([pods(3, 60)]), "Max"),
                none.clone(),
                none,
                8,
                bounds(1, 100, 10),
                8,
                IN_RANGE,
            ),
        ] {
            let at = |all: Vec<(i32, u64)>| all.iter().map(|(n, s)| (*n, ago(now, *s))).collect();
            let mut m = Memory {
                ups: at(ups),
                downs: at(downs),
                ..Default::default()
            };
            let got = m.normalize(Some(&b), desired, bs, now);
            assert_eq!((got.replicas, got.limit), (want, limit), "{name}");
        }
    }

    // TestNormalizeDesiredReplicasWithBehavior
    #[tokio::test(start_paused = true)]
    async fn stabilization() {
        tokio::time::advance(Duration::from_secs(100_000)).await;
        let now = Instant::now();
        let windows = |up: i32, down: i32| {
            let free = json!([{"type":"Percent","value":1000,"periodSeconds":1}]);
            behavior(
                json!({"scaleUp":{"stabilizationWindowSeconds":up,"policies":free},"scaleDown":{"stabilizationWindowSeconds":down}}),
            )
        };
        for (name, b, past, current, desired, want, able) in [
            ("nothing known", windows(300, 300), vec![], 100, 5, 5, READY),
            (
                "down: the highest lately",
                windows(0, 300),
                vec![(7, 60), (9, 200), (20, 400)],
                100,
                5,
                9,
                DOWN_STABILIZED,
            ),
            (
                "down: no window",
                windows(0, 0),
                vec![(7, 60)],
                100,
                5,
                5,
                READY,
            ),
            (
                "up: the lowest lately",
                windows(300, 0),
                vec![(7, 60), (4, 200), (1, 400)],
                2,
                8,
                4,
                UP_STABILIZED,
            ),
            (
                "up: no window",
                windows(0, 300),
                vec![(1, 60)],
                2,
                8,
                8,
                READY,
            ),
            (
                "neither: stays between",
                windows(300, 300),
                vec![(2, 60), (10, 60)],
                5,
                8,
                5,
                UP_STABILIZED,
            ),
        ] {
            let mut m = Memory {
                recommendations: past.iter().map(|(n, s)| (*n, ago(now, *s))).collect(),
                ..Default::default()
            };
            let got = m.normalize(Some(&b), desired, bounds(1, 1000, current), now);
            assert_eq!((got.replicas, got.able), (want, able), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_remembered_as_long_as_they_count() {
        tokio::time::advance(Duration::from_secs(100_000)).await;
        let b = behavior(
            json!({"scaleUp":{"policies":[{"type":"Pods","value":2,"periodSeconds":60}]}}),
        );
        let mut m = Memory::default();
        let mut size = 1;
        let mut sizes = vec![];
        for _ in 0..5 {
            let now = Instant::now();
            let next = m
                .normalize(Some(&b), 100, bounds(1, 100, size), now)
                .replicas;
            m.scaled(Some(&b), size, next, now);
            sizes.push(next);
            size = next;
            tokio::time::advance(Duration::from_secs(31)).await;
        }
        assert_eq!(sizes, [3, 3, 5, 5, 7]);
    }
}
