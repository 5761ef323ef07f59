//! Seats that levels lend each other, looked at every ten seconds for as long as somebody needs them.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{
    Configuration,
    level::{Kind, Level},
    shares::{Claim, divide},
};
use crate::server::Inner;

/// Upstream's borrowingAdjustmentPeriod.
const PERIOD: Duration = Duration::from_secs(10);

/// Runs until the server ends. It sleeps while no level is pressed.
pub async fn run(inner: Weak<Inner>) {
    let Some((pressure, stopping)) = inner
        .upgrade()
        .map(|i| (i.fairness.pressure.clone(), i.stopping.clone()))
    else {
        return;
    };
    loop {
        tokio::select! {
            () = pressure.notified() => {}
            () = stopping.cancelled() => return,
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = stopping.cancelled() => return,
            }
            let Some(inner) = inner.upgrade() else {
                return;
            };
            if !adjust(&inner.fairness.configuration.load(), Instant::now()) {
                break;
            }
        }
    }
}

/// Divides the seats anew by what was asked for; false when nothing was, and all is as at the start.
pub fn adjust(configuration: &Configuration, now: Instant) -> bool {
    let levels: Vec<&Arc<Level>> = configuration.levels.values().collect();
    let mut busy = false;
    let mut total = 0;
    let mut remaining = 0i64;
    let mut claims = Vec::new();
    for level in levels {
        let (limits, asked) = level.period(now);
        total += limits.nominal;
        if level.kind() == Kind::Exempt {
            remaining -= f64::from(limits.lower).max(asked.high) as i64;
            continue;
        }
        busy |= asked.smoothed > f64::from(limits.start());
        let lower = asked
            .high
            .min(limits.nominal.into())
            .max(limits.lower.into());
        let claim = Claim {
            lower,
            upper: limits.upper.into(),
            target: asked.smoothed.max(lower),
        };
        claims.push((level, limits, claim));
    }
    if !busy {
        for (level, limits, _) in &claims {
            level.set_current(limits.start());
        }
        return false;
    }
    remaining += i64::from(total);
    let sum_of = |f: fn(&(&Arc<Level>, super::level::Limits, Claim)) -> f64| {
        claims.iter().map(f).sum::<f64>()
    };
    let floor = sum_of(|(_, l, _)| l.lower.into());
    let wanted = sum_of(|(_, _, c)| c.lower);
    let left = remaining as f64;
    let all: Vec<Claim> = claims.iter().map(|(_, _, c)| *c).collect();
    let divided = divide(f64::from(total), &all);
    for (i, (level, limits, claim)) in claims.iter().enumerate() {
        let lower = f64::from(limits.lower);
        let seats = if left <= floor {
            lower
        } else if left <= wanted {
            lower + (claim.lower - lower) * (left - floor) / (wanted - floor)
        } else {
            divided.as_ref().map_or(limits.nominal.into(), |d| d[i])
        };
        level.set_current(seats.round() as u32);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::level::Limits;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_busy_level_borrows_what_idle_ones_lend_and_gives_it_back() {
        let queue = Kind::Queue {
            queues: 4,
            hand: 1,
            length: 100,
        };
        let limits = Limits {
            nominal: 10,
            lower: 2,
            upper: 610,
        };
        let level = |name: &str| Arc::new(Level::new(name, "", queue, limits));
        let (busy, idle) = (level("busy"), level("idle"));
        let configuration = Configuration {
            schemas: vec![],
            levels: [&busy, &idle].map(|l| (l.name.clone(), l.clone())).into(),
        };
        let current = || (busy.figures().current, idle.figures().current);
        assert_eq!(current(), (6, 6));
        let mut all: Vec<_> = (0..40)
            .map(|_| Box::pin(busy.enter(1, 1, Duration::from_secs(60))))
            .collect();
        let seats: Vec<_> = all.iter_mut().filter_map(|w| w.now_or_never()).collect();
        assert_eq!((seats.len(), busy.figures().waiting), (6, 34));
        let later = Instant::now() + PERIOD;
        assert!(adjust(&configuration, later));
        assert_eq!(current(), (18, 2));
        assert_eq!(busy.figures().executing, 18);
        drop((seats, all));
        // once the demand has gone, which takes some periods
        let mut periods = 1;
        while adjust(&configuration, later + PERIOD * periods) {
            periods += 1;
            assert!(periods < 500);
        }
        assert_eq!(current(), (6, 6));
    }
}
