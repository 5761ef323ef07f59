//! Putting a resize into force: cgroup values of containers that run, and of their Pod.
//!
//! Source: kubernetes `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (doPodResizeAction, validateMemoryResizeAction).

use std::{sync::Arc, time::Duration};

use knarr_runtime::Resources;

use super::amounts::Amounts;
use crate::{context::Context, pod::jobs::Done};

const DEADLINE: Duration = Duration::from_secs(30);

/// One container that keeps running.
pub(super) struct Change {
    pub index: usize,
    pub id: Box<str>,
    pub name: Box<str>,
    pub from: Amounts,
    pub to: Amounts,
    pub limits: Resources,
}

impl Change {
    /// A memory limit comes to be, or gets smaller.
    fn squeezes(&self) -> bool {
        let (from, to) = (self.from.memory_limit, self.to.memory_limit);
        to > 0 && (from == 0 || to < from)
    }
    fn grows(&self) -> bool {
        self.to.cpu_limit > self.from.cpu_limit || self.to.memory_limit > self.from.memory_limit
    }
}

pub(super) struct Request {
    pub context: Arc<Context>,
    /// the Pod's own cgroup, what it gets, and a mark for it
    pub group: String,
    pub limits: Resources,
    pub mark: u64,
    pub changes: Vec<Change>,
    /// containers will restart before it's all done: the Pod's own limits need not be taken yet
    pub first_of_two: bool,
}

/// What came of it; also of what was done before an error.
pub(crate) struct Outcome {
    /// index, the runtime's id, what is in force
    pub changed: Vec<(usize, Box<str>, Amounts)>,
    pub group: Option<u64>,
    pub error: Option<String>,
}

pub(super) async fn run(request: Request) -> Done {
    let mut outcome = Outcome {
        changed: Vec::new(),
        group: None,
        error: None,
    };
    let work = put(request, &mut outcome);
    outcome.error = match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(_) => Some(format!(
            "resizing took longer than {} s",
            DEADLINE.as_secs()
        )),
    };
    Done::Resized(outcome)
}

async fn put(request: Request, outcome: &mut Outcome) -> Result<(), String> {
    let Request {
        context,
        group,
        limits,
        mark,
        mut changes,
        first_of_two,
    } = request;
    fits_in_new_limits(&context, &group, &limits, &changes).await?;
    // More for the Pod comes before more for its containers, less after less; the kernel refuses what is out of turn, so
    // the first of two attempts may fail.
    let early = context.engine.set_group(&group, limits.clone()).await;
    changes.sort_by_key(Change::grows);
    for change in changes {
        let done = context
            .engine
            .update_resources(&change.id, change.limits)
            .await;
        done.map_err(|e| format!("container {:?}: {e}", change.name))?;
        outcome.changed.push((change.index, change.id, change.to));
    }
    match early {
        Ok(()) => outcome.group = Some(mark),
        Err(_) if first_of_two => {}
        Err(_) => {
            context.engine.set_group(&group, limits).await?;
            outcome.group = Some(mark);
        }
    }
    Ok(())
}

/// What is used already can't be forbidden: the kernel would kill for it.
async fn fits_in_new_limits(
    context: &Arc<Context>,
    group: &str,
    limits: &Resources,
    changes: &[Change],
) -> Result<(), String> {
    let squeezed: Vec<(Box<str>, Box<str>, i64)> = changes
        .iter()
        .filter(|c| c.squeezes())
        .map(|c| (c.id.clone(), c.name.clone(), c.to.memory_limit))
        .collect();
    if squeezed.is_empty() {
        return Ok(());
    }
    let (engine, group) = (context.engine.clone(), group.to_owned());
    let of_pod = limits.memory_limit_bytes.filter(|l| *l > 0);
    let look = tokio::task::spawn_blocking(move || {
        let over = |used: Option<u64>, limit: i64| used.filter(|u| *u >= limit.unsigned_abs());
        let mut errors = Vec::new();
        if let Some(limit) = of_pod
            && let Some(used) = over(engine.group_memory(&group), limit)
        {
            errors.push(format!(
                "attempting to set pod memory limit ({limit}) below current usage ({used})"
            ));
        }
        for (id, name, limit) in squeezed {
            if let Some(used) = over(engine.memory(&id), limit) {
                errors.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
                ));
            }
        }
        errors
    });
    let errors = look.await.map_err(|e| e.to_string())?;
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(format!("cannot decrease memory limits: {one}")),
        more => Err(format!(
            "cannot decrease memory limits: [{}]",
            more.join(", ")
        )),
    }
}
