//! What the end of a container leads to: nothing, its restart, or the restart of all of the Pod's containers.
//!
//! Source: kubernetes `pkg/api/v1/pod/util.go` (ContainerShouldRestart), `pkg/kubelet/kuberuntime` (ContainersToReset),
//! KEP-5307 (container restart rules), KEP-5532 (restart of all containers).

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::{
    phase::RESTARTING_ALL,
    state::{self, Ended, Kind, State, Unit},
    worker::Worker,
};

const REMOVED: &str = "The container is removed because RestartAllContainers in place";

/// What the first of a container's rules that fits its exit code demands.
fn action(container: &Container, exit_code: i32) -> Option<&str> {
    let rules = container.restart_policy_rules.iter().flatten();
    let fits = |rule: &&k8s_openapi::api::core::v1::ContainerRestartRule| {
        let Some(codes) = &rule.exit_codes else {
            return false;
        };
        let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    rules.into_iter().find(fits).map(|r| r.action.as_str())
}

/// Whether a container that ended like this starts again.
pub(crate) fn restarts(pod: &Pod, container: &Container, kind: Kind, exit_code: i32) -> bool {
    let own = container.restart_policy.as_deref();
    if kind == Kind::Ephemeral {
        return false;
    }
    // Rules count only beside a policy of the container's own.
    let by_rule = own.and_then(|_| action(container, exit_code));
    if matches!(by_rule, Some("Restart" | "RestartAllContainers")) {
        return true;
    }
    let policy = own.unwrap_or_else(|| state::restart_policy(pod));
    match (kind, policy) {
        (Kind::Ephemeral, _) => false,
        (Kind::Sidecar, _) => true,
        // An init container that succeeded is done, whatever the policy.
        (Kind::Init, "Never") => false,
        (Kind::Init, _) => exit_code != 0,
        (Kind::App, "Never") => false,
        (Kind::App, "OnFailure") => exit_code != 0,
        (Kind::App, _) => true,
    }
}

/// Whether this end restarts all containers of the Pod.
fn restarts_all(container: &Container, kind: Kind, exit_code: i32) -> bool {
    kind != Kind::Ephemeral && action(container, exit_code) == Some("RestartAllContainers")
}

/// Whether any rule of the Pod can restart all its containers.
pub(super) fn could_restart_all(pod: &Pod) -> bool {
    state::containers(pod)
        .filter(|(kind, _)| *kind != Kind::Ephemeral)
        .any(|(_, c)| {
            let mut rules = c.restart_policy_rules.iter().flatten();
            rules.any(|r| r.action == "RestartAllContainers")
        })
}

impl Unit {
    /// It was taken away to be started with all others.
    pub(super) fn await_reset(&mut self) {
        // Removed containers leave no back-off behind.
        self.uncounted = true;
        self.state = State::Waiting {
            reason: RESTARTING_ALL,
            message: REMOVED.into(),
            since: Instant::now(),
            retry_at: None,
        };
    }
}

impl Worker {
    /// A container has ended: perhaps that restarts all.
    pub(super) fn note_end(&mut self, pod: &Pod, index: usize, exit_code: i32) {
        let kind = self.units[index].kind;
        let Some(container) = state::container_at(pod, index) else {
            return;
        };
        if self.kill_at.is_none() && !self.over && restarts_all(&container, kind, exit_code) {
            self.resetting = true;
        }
    }

    /// While all containers are to be restarted: kills what runs, without patience, then has them start from the first
    /// init container on. False when that's done, or nothing of it is going on.
    pub(super) fn reset_all(&mut self) -> bool {
        if !self.resetting {
            return false;
        }
        let counts = |kind: Kind| kind != Kind::Ephemeral;
        for index in (0..self.units.len()).rev() {
            if counts(self.units[index].kind) {
                self.kill_at_once(index);
            }
        }
        if self.units.iter().any(|u| counts(u.kind) && u.alive()) {
            return true;
        }
        for unit in self.units.iter_mut().filter(|u| counts(u.kind)) {
            unit.made_here = false;
            unit.redo = false;
            unit.backing_off = false;
            let State::Ended(ended) = &unit.state else {
                continue;
            };
            unit.last = Some(Box::new(Ended {
                exit_code: 137,
                reason: RESTARTING_ALL.into(),
                message: Some(REMOVED.into()),
                ..(**ended).clone()
            }));
            unit.await_reset();
        }
        self.resetting = false;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(kind: Kind, pod_policy: &str, container: Value, codes: &[(i32, bool)]) {
        let mut container = container;
        container["name"] = "c".into();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {}, "spec": {"restartPolicy": pod_policy, "containers": [container]},
        }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        for (code, want) in codes {
            let got = restarts(&pod, container, kind, *code);
            assert_eq!(
                got, *want,
                "{kind:?} {pod_policy} {container:?} exit {code}"
            );
        }
    }

    fn rule(action: &str, operator: &str, codes: &[i32]) -> Value {
        json!({"action": action, "exitCodes": {"operator": operator, "values": codes}})
    }

    #[test]
    fn policies_and_rules() {
        let none = json!({});
        check(Kind::App, "Always", none.clone(), &[(0, true), (1, true)]);
        check(
            Kind::App,
            "OnFailure",
            none.clone(),
            &[(0, false), (1, true)],
        );
        check(Kind::App, "Never", none.clone(), &[(0, false), (1, false)]);
        check(Kind::Init, "Always", none.clone(), &[(0, false), (1, true)]);
        check(Kind::Init, "Never", none.clone(), &[(0, false), (1, false)]);
        check(
            Kind::Sidecar,
            "Never",
            none.clone(),
            &[(0, true), (1, true)],
        );
        check(Kind::Ephemeral, "Always", none, &[(0, false), (1, false)]);
        let own = json!({"restartPolicy": "Never"});
        check(Kind::App, "Always", own, &[(0, false), (1, false)]);
        let own = json!({"restartPolicy": "Always"});
        check(Kind::App, "Never", own, &[(0, true), (1, true)]);
        let rules = [
            rule("Restart", "In", &[42]),
            rule("Restart", "NotIn", &[0, 1, 2]),
        ];
        let own = json!({"restartPolicy": "Never", "restartPolicyRules": rules});
        let want = [(42, true), (0, false), (1, false), (3, true)];
        check(Kind::App, "Always", own, &want);
        let all = [rule("RestartAllContainers", "In", &[42])];
        let own = json!({"restartPolicy": "Never", "restartPolicyRules": all});
        check(Kind::Init, "Never", own, &[(42, true), (1, false)]);
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = [
            rule("Restart", "In", &[1]),
            rule("RestartAllContainers", "In", &[1, 2]),
        ];
        let container: Container =
            serde_json::from_value(json!({"name": "c", "restartPolicyRules": rules})).unwrap();
        assert_eq!(action(&container, 1), Some("Restart"));
        assert!(!restarts_all(&container, Kind::App, 1));
        assert!(restarts_all(&container, Kind::App, 2));
        assert!(!restarts_all(&container, Kind::Ephemeral, 2));
        assert_eq!(action(&container, 3), None);
    }
}
