//! Which phase a Pod is in, from what its containers show.
//!
//! Source: kubernetes `pkg/kubelet/kubelet_pods.go` (getPhase), `pkg/kubelet/status/status_manager.go` (TerminatePod,
//! mergePodStatus).

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated};

use super::state::Kind;

/// A container that a restart of them all has taken away.
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";

/// One init, sidecar or ordinary container; ephemeral ones don't count.
pub(super) struct View<'a> {
    pub kind: Kind,
    pub now: &'a ContainerState,
    pub before: Option<&'a ContainerStateTerminated>,
    /// of a sidecar: its startup probe is through
    pub started: bool,
    /// what an exit with this code leads to, by its policy and rules
    pub restarts: &'a dyn Fn(i32) -> bool,
}

/// How far the Pod as a whole is.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    /// an ordinary container was started since the sandbox was made or all were reset
    pub app_ran: bool,
    /// no container runs, and none will be started again
    pub over: bool,
    /// the Pod was failed as a whole (a deadline, a rejection, an eviction)
    pub failed: bool,
}

/// `Pending`, `Running`, `Succeeded` or `Failed`; the last two only when no container runs any more.
pub(super) fn phase(views: &[View<'_>], progress: Progress) -> &'static str {
    let found = of_containers(views, progress);
    match (progress.over, found) {
        (true, _) if progress.failed => "Failed",
        // What never ran to its end is treated as a failure.
        (true, "Succeeded") => "Succeeded",
        (true, _) => "Failed",
        // What still runs may use what others wait for: the end is told when it is one.
        (false, "Succeeded" | "Failed") if progress.app_ran => "Running",
        (false, "Succeeded" | "Failed") => "Pending",
        (false, phase) => phase,
    }
}

fn of_containers(views: &[View<'_>], progress: Progress) -> &'static str {
    let restartable = |view: &View<'_>, ended: &ContainerStateTerminated| {
        ended.reason.as_deref() == Some(RESTARTING_ALL) || (view.restarts)(ended.exit_code)
    };
    let (mut pending_init, mut pending_sidecar, mut lost_init) = (0, 0, 0);
    let (mut running, mut waiting, mut stopped, mut for_good, mut succeeded) = (0, 0, 0, 0, 0);
    for view in views {
        // The last end of one that doesn't run.
        let ended = view.now.terminated.as_ref().or(view.before);
        let runs = view.now.running.is_some();
        match (view.kind, ended.filter(|_| !runs)) {
            (Kind::Ephemeral, _) => {}
            (Kind::Init, Some(ended)) if ended.exit_code != 0 => {
                lost_init += usize::from(!restartable(view, ended));
            }
            // Of one that is waiting to run again after all.
            (Kind::Init, Some(_)) => {}
            (Kind::Init, None) => pending_init += 1,
            (Kind::Sidecar, None) if runs => {
                running += 1;
                pending_sidecar += usize::from(!view.started);
            }
            (Kind::Sidecar, Some(_)) => {}
            (Kind::Sidecar, None) => {
                pending_sidecar += 1;
                waiting += 1;
            }
            (Kind::App, None) if runs => running += 1,
            (Kind::App, Some(ended)) => {
                stopped += 1;
                for_good += usize::from(!restartable(view, ended));
                succeeded += usize::from(view.now.terminated.is_some() && ended.exit_code == 0);
            }
            (Kind::App, None) => waiting += 1,
        }
    }
    let initializing = pending_init > 0 || (pending_sidecar > 0 && !progress.app_ran);
    match () {
        () if lost_init > 0 => "Failed",
        () if initializing || waiting > 0 => "Pending",
        () if running > 0 => "Running",
        () if stopped == 0 => "Pending",
        () if !progress.over && stopped != for_good => "Running",
        () if stopped == succeeded => "Succeeded",
        () => "Failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `i` init, `s` sidecar, `a` ordinary; then `w` waiting, `r` running, `u` running but not started, `t<code>`
    /// terminated, `b<code>` waiting after an end with that code. Codes 0 and 1 follow `again`.
    fn check(containers: &str, again: &[i32], app_ran: bool, over: bool, want: &str) {
        let parsed: Vec<_> = containers
            .split_whitespace()
            .map(|text| {
                let kind = match &text[..1] {
                    "i" => Kind::Init,
                    "s" => Kind::Sidecar,
                    _ => Kind::App,
                };
                let code: i32 = text[2..].parse().unwrap_or(0);
                let ended = json!({"exitCode": code});
                let (now, before) = match &text[1..2] {
                    "w" => (json!({"waiting": {}}), None),
                    "t" => (json!({"terminated": ended}), None),
                    "b" => (json!({"waiting": {}}), Some(ended)),
                    _ => (json!({"running": {}}), None),
                };
                let now: ContainerState = serde_json::from_value(now).unwrap();
                let before = before.map(|b| serde_json::from_value(b).unwrap());
                (kind, now, before, &text[1..2] == "r")
            })
            .collect();
        let restarts = |code: i32| again.contains(&code);
        let views: Vec<View<'_>> = parsed
            .iter()
            .map(|(kind, now, before, started)| View {
                kind: *kind,
                now,
                before: before.as_ref(),
                started: *started,
                restarts: &restarts,
            })
            .collect();
        let progress = Progress {
            app_ran,
            over,
            failed: false,
        };
        let got = phase(&views, progress);
        assert_eq!(
            got, want,
            "{containers} again {again:?} ran {app_ran} over {over}"
        );
    }

    #[test]
    fn phases() {
        let (always, failure, never): (&[i32], &[i32], &[i32]) = (&[0, 1], &[1], &[]);
        check("aw", always, false, false, "Pending");
        check("ar", always, true, false, "Running");
        check("ar aw", always, true, false, "Pending");
        check("at0 at1", always, true, false, "Running");
        check("at0 at1", failure, true, false, "Running");
        check("at0", failure, true, true, "Succeeded");
        check("at0 at1", never, true, true, "Failed");
        check("at0 ab1", failure, true, false, "Running");
        // the last to run is a sidecar, which is being stopped
        check("sr at0", never, true, false, "Running");
        check("st137 at0", never, true, true, "Succeeded");
        // initialising
        check("ir aw", never, false, false, "Pending");
        check("it0 aw", never, false, false, "Pending");
        check("it1 aw", never, false, false, "Pending");
        check("it1 aw", never, false, true, "Failed");
        check("ib1 aw", always, false, false, "Pending");
        check("su ar", always, false, false, "Pending");
        check("su ar", always, true, false, "Running");
        check("sb1 ar", always, true, false, "Running");
        // deleted: what it came to
        check("aw", always, false, true, "Failed");
        check("at0", always, true, true, "Succeeded");
        check("at0 at143", always, true, true, "Failed");
        check("ab0", always, true, true, "Failed");
    }
}
