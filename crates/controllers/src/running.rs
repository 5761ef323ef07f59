//! Whether each controller runs: what asks (`kubectl get cs`) is told by name why one doesn't.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;

/// The scheduler is a component of its own, as upstream.
const SCHEDULER: &str = "scheduler";

#[derive(Debug, Clone)]
enum State {
    Running,
    /// With what is known of the reason.
    Ended(String),
}

/// Shared by whoever runs the controllers and whoever asks for them.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    controllers: Mutex<BTreeMap<&'static str, State>>,
    started: OnceLock<()>,
}

impl Running {
    pub(crate) fn begins(&self, name: &'static str) {
        self.0.controllers.lock().insert(name, State::Running);
        let _ = self.0.started.set(());
    }

    pub(crate) fn ended(&self, name: &'static str, why: String) {
        self.0.controllers.lock().insert(name, State::Ended(why));
    }

    /// All have ended: the platform stops.
    pub(crate) fn stopped(&self) {
        for state in self.0.controllers.lock().values_mut() {
            *state = State::Ended("the controllers were stopped".into());
        }
    }

    /// Whether the component of upstream's control plane runs: `scheduler`, or `controller-manager` for all the others.
    /// Err says which doesn't, and why.
    pub fn check(&self, component: &str) -> Result<(), String> {
        if self.0.started.get().is_none() {
            return Err("the controllers have not been started yet".into());
        }
        let controllers = self.0.controllers.lock();
        let ended = controllers.iter().find_map(|(name, state)| match state {
            State::Ended(why) if (*name == SCHEDULER) == (component == SCHEDULER) => {
                Some(format!("{name}: {why}"))
            }
            _ => None,
        });
        ended.map_or(Ok(()), Err)
    }
}

/// Tells of the end of them all, however it comes.
pub(crate) struct UntilDropped(pub Running);
impl Drop for UntilDropped {
    fn drop(&mut self) {
        self.0.stopped();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_answers_for_its_own() {
        let running = Running::default();
        assert!(running.check("scheduler").is_err(), "not started");
        let until = UntilDropped(running.clone());
        running.begins("scheduler");
        running.begins("job");
        let both = || ["scheduler", "controller-manager"].map(|c| running.check(c));
        assert_eq!(both(), [Ok(()), Ok(())]);
        running.ended("job", "it panicked".into());
        assert_eq!(both(), [Ok(()), Err("job: it panicked".to_string())]);
        drop(until);
        assert!(both().iter().all(Result::is_err));
    }
}
