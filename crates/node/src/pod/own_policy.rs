//! What a Pod's annotations say of its containers' restarts beyond Kubernetes' words: `restart.knarr.dev/CONTAINER` with
//! `always`, `always:N`, `on-failure` or `on-failure:N`, perhaps followed by `delay=SECONDS` and `window=SECONDS`.
//!
//! Compose's services are told of so: a container that ended well stays ended and counts as ready, within a Deployment
//! too, and one that failed is started again with Docker's pauses.
//!
//! Source: moby `daemon/restartmanager` (100 ms, doubled up to a minute; anew when it ran for 10 s).

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::{
    backoff::Pace,
    state::{Ended, Kind, State, Unit},
};

const PREFIX: &str = "restart.knarr.dev/";
const DOCKER: Pace = Pace {
    at_first: Duration::ZERO,
    least: Duration::from_millis(100),
    most: Duration::from_secs(60),
    forget_after: Duration::from_secs(10),
};
/// A pause that is asked for may be as long as this.
const DELAY_MAX: Duration = Duration::from_secs(3600);

/// How a container's restarts are otherwise than Kubernetes has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct OwnPolicy {
    /// One that ended well is left so.
    pub on_failure: bool,
    /// It is left ended after as many restarts.
    pub most: Option<u32>,
    /// A run that lasts so long has come right, and doesn't count among those.
    pub window: Option<Duration>,
    pub pace: Pace,
}

impl OwnPolicy {
    pub(crate) fn of(pod: &Pod, container: &str) -> Option<OwnPolicy> {
        let annotations = pod.metadata.annotations.as_ref()?;
        OwnPolicy::read(annotations.get(&format!("{PREFIX}{container}"))?)
    }

    fn read(text: &str) -> Option<OwnPolicy> {
        let mut words = text.split_whitespace();
        let when = words.next()?;
        let (when, most) = match when.split_once(':') {
            Some((when, most)) => (when, Some(most.parse().ok()?).filter(|n| *n > 0)),
            None => (when, None),
        };
        let on_failure = match when {
            "always" => false,
            "on-failure" => true,
            _ => return None,
        };
        let (mut delay, mut window) = (None, None);
        for (key, seconds) in words.filter_map(|w| w.split_once('=')) {
            let seconds = seconds.parse::<f64>().ok();
            let time = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
            match key {
                "delay" => delay = time,
                "window" => window = time,
                _ => {}
            }
        }
        let pace = match delay.map(|d| d.min(DELAY_MAX)) {
            None => DOCKER,
            Some(delay) => Pace {
                at_first: delay,
                least: delay,
                most: delay,
                forget_after: Duration::MAX,
            },
        };
        Some(OwnPolicy {
            on_failure,
            most,
            window,
            pace,
        })
    }

    /// Whether a run from one moment to the other has come right, so that its end is none of those that are counted.
    pub(super) fn came_right(&self, ended: &Ended) -> bool {
        let lasted = |since| ended.finished_at.duration_since(since).unsigned_abs();
        self.window
            .is_some_and(|window| ended.started_at.is_some_and(|at| lasted(at) >= window))
    }
}

impl Unit {
    /// It has ended and is left so, though its Pod goes on.
    pub(super) fn rests(&self) -> bool {
        let (Some(own), State::Ended(ended)) = (&self.own, &self.state) else {
            return false;
        };
        let counted = self.attempt.saturating_sub(self.forgiven);
        self.kind == Kind::App
            && !self.redo
            && (own.on_failure && ended.exit_code == 0 || own.most.is_some_and(|n| counted >= n))
    }

    /// It has ended as it was to.
    pub(super) fn rests_well(&self) -> bool {
        self.rests() && matches!(&self.state, State::Ended(ended) if ended.exit_code == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read() {
        let docker = |on_failure, most| {
            Some(OwnPolicy {
                on_failure,
                most,
                window: None,
                pace: DOCKER,
            })
        };
        for (text, expected) in [
            ("always", docker(false, None)),
            ("always:2", docker(false, Some(2))),
            ("on-failure", docker(true, None)),
            ("on-failure:3", docker(true, Some(3))),
            ("on-failure:0", docker(true, None)),
            ("never", None),
            ("", None),
            ("on-failure:x", None),
        ] {
            assert_eq!(OwnPolicy::read(text), expected, "{text}");
        }
        let windowed = OwnPolicy::read("on-failure:3 window=1.5").unwrap();
        let run = |seconds: i64| {
            let second = |n| k8s_openapi::jiff::Timestamp::from_second(n).unwrap();
            Ended {
                id: "a".into(),
                exit_code: 1,
                reason: "".into(),
                message: None,
                started_at: Some(second(100)),
                finished_at: second(100 + seconds),
                finished: tokio::time::Instant::now(),
            }
        };
        assert!(windowed.came_right(&run(2)) && !windowed.came_right(&run(1)));
        assert!(!docker(true, Some(3)).unwrap().came_right(&run(99)));
        let slow = OwnPolicy::read("always delay=2.5").unwrap().pace;
        assert_eq!(
            (slow.at_first, slow.least, slow.most),
            (
                Duration::from_millis(2500),
                Duration::from_millis(2500),
                Duration::from_millis(2500)
            )
        );
    }
}
