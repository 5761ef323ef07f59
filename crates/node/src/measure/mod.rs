//! What the machine, its Pods and their containers use.
//!
//! Nothing is read unless somebody asks: the files of the cgroups are read then. Only a rate needs two readings; for its
//! sake CPU times are read every ten seconds while somebody has asked lately (see [`sampler`]).

pub(crate) mod cadvisor;
mod exposition;
pub(crate) mod files;
pub(crate) mod gather;
mod network;
mod operations;
pub(crate) mod own;
mod processes;
pub(crate) mod resource;
mod sampler;
pub(crate) mod summary;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use knarr_runtime::State;

use crate::{context::Context, pod::entry::Registry};
pub(crate) use operations::Operations;
pub(crate) use sampler::Sampler;

/// Usage over a window that ends at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// CPU seconds per second, times 10⁹
    pub cpu_nano_cores: u64,
    pub working_set_bytes: u64,
    /// the end of the window
    pub at: Timestamp,
    /// over which the CPU was counted
    pub window: Duration,
}

/// What a node and its running containers use now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeUse {
    /// of the whole machine; None when its cgroups can't be read
    pub node: Option<Use>,
    pub containers: Vec<ContainerUse>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerUse {
    pub namespace: String,
    pub pod: String,
    pub container: String,
    pub used: Use,
}

/// A running container, and where it is counted.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub namespace: Box<str>,
    pub pod: Box<str>,
    pub container: Box<str>,
    pub group: PathBuf,
    pub since: std::time::SystemTime,
}

/// The containers that run now.
pub(crate) fn subjects(context: &Context, registry: &Registry) -> Vec<Subject> {
    let mut all = Vec::new();
    for entry in registry.all() {
        let units = entry.units.lock().clone();
        for unit in units {
            let Some(id) = unit.running else { continue };
            let Some(container) = context.engine.container(&id) else {
                continue;
            };
            let State::Running { since, .. } = container.state else {
                continue;
            };
            let Some(group) = context.engine.cgroup(&id) else {
                continue;
            };
            all.push(Subject {
                namespace: entry.namespace.clone(),
                pod: entry.name.clone(),
                container: unit.name,
                group,
                since,
            });
        }
    }
    all
}

/// Where the whole machine is counted.
pub(crate) const MACHINE: &str = "/";

/// Usage of the node and its containers; those that can't be measured (yet) are left out.
pub(crate) async fn usage(
    context: &Arc<Context>,
    registry: &Registry,
    sampler: &Arc<Sampler>,
) -> NodeUse {
    sampler.asked(context, registry).await;
    let (context, registry, sampler) = (context.clone(), registry.clone(), sampler.clone());
    let read = tokio::task::spawn_blocking(move || {
        let node = one(&context, &sampler, MACHINE.as_ref(), None);
        let containers = subjects(&context, &registry)
            .into_iter()
            .filter_map(|s| {
                let used = one(&context, &sampler, &s.group, Some(s.since))?;
                Some(ContainerUse {
                    namespace: s.namespace.into(),
                    pod: s.pod.into(),
                    container: s.container.into(),
                    used,
                })
            })
            .collect();
        NodeUse { node, containers }
    });
    read.await.unwrap_or_default()
}

fn one(
    context: &Context,
    sampler: &Sampler,
    group: &std::path::Path,
    since: Option<std::time::SystemTime>,
) -> Option<Use> {
    let usage = context.engine.usage(group)?;
    let rate = sampler.rate(group, usage.cpu.total_ns, since)?;
    Some(Use {
        cpu_nano_cores: rate.nano_cores,
        working_set_bytes: usage.memory.working_set_bytes,
        at: Timestamp::now(),
        window: rate.window,
    })
}
