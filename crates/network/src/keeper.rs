//! The one thread that speaks to nf_tables.
//!
//! A deletion there waits for a grace period (16 ms), so nobody else should wait with it: changes
//! are left in a mailbox where newer ones replace older ones, and the thread takes all at once.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::{
    Config, Error,
    fronts::Fronts,
    kernel::{Kernel, missing},
    nft::{
        family::Family,
        front::{Endpoint, Front},
        netlink::{Refusal, Socket},
        ruleset, table,
    },
    place, policy,
    services::Burst,
    state::State,
};

/// Pause after a failed commit, doubled up to the second figure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A Pod's ports on the node: front and where it leads.
pub(crate) type HostPorts = Vec<(Front, Endpoint)>;

/// Told when what was posted is in the kernel.
type Done = tokio::sync::oneshot::Sender<()>;

/// The mailbox: at most one entry a Service, Pod, and the newest policies.
#[derive(Default)]
struct Mailbox {
    burst: Option<Burst>,
    host_ports: HashMap<String, HostPorts>,
    policy: Option<Arc<policy::Desired>>,
    waiting: Vec<Done>,
    stop: bool,
}

impl Mailbox {
    fn is_empty(&self) -> bool {
        self.burst.is_none()
            && self.host_ports.is_empty()
            && self.policy.is_none()
            && self.waiting.is_empty()
    }
}

/// The thread's handle. Dropping it ends the thread (waiting for it, at most one commit) and leaves the kernel's tables as
/// they are: what was noted of them is whole for who opens them next.
pub(crate) struct Keeper {
    mailbox: Arc<(Mutex<Mailbox>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Checks the kernel's tables against what `state` remembers, repairs them if need be, and starts
    /// the thread. Blocks for some milliseconds. Works in the node's network namespace.
    pub(crate) fn start(
        config: Arc<Config>,
        state: Arc<State>,
        host_ports: Vec<(String, HostPorts)>,
    ) -> Result<Keeper, Error> {
        let mailbox = Arc::new((Mutex::new(Mailbox::default()), Condvar::new()));
        let (ready_sender, ready) = mpsc::sync_channel(1);
        let shared = mailbox.clone();
        let thread = std::thread::Builder::new()
            .name("knarr-nft".into())
            .stack_size(512 << 10)
            .spawn(move || {
                // The sockets that it opens stay where they are made, and so does this thread.
                let opened = place::enter(config.place.as_ref())
                    .and_then(|()| Worker::open(&config, &state, host_ports));
                let (answer, worker) = match opened {
                    Ok(worker) => (Ok(()), Some(worker)),
                    Err(error) => (Err(error), None),
                };
                let _ = ready_sender.send(answer);
                if let Some(mut worker) = worker {
                    work(&mut worker, &shared);
                }
            })
            .map_err(|source| Error::Worker(source.to_string()))?;
        ready
            .recv()
            .map_err(|_| Error::Worker("it panicked".into()))??;
        Ok(Keeper {
            mailbox,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Leaves the Services' changes for the thread.
    pub(crate) fn post(&self, burst: Burst) {
        self.leave(|mailbox| {
            let burst = match mailbox.burst.take() {
                Some(mut former) if !burst.whole => {
                    former.changes.extend(burst.changes);
                    former
                }
                _ => burst,
            };
            mailbox.burst = Some(burst);
        });
    }

    /// Replaces a Pod's ports on the node; answers when they are in the kernel.
    pub(crate) fn host_ports(
        &self,
        pod: &str,
        ports: HostPorts,
    ) -> tokio::sync::oneshot::Receiver<()> {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.leave(|mailbox| {
            mailbox.host_ports.insert(pod.to_string(), ports);
            mailbox.waiting.push(done);
        });
        wait
    }

    /// Leaves what policies want; answers when it is in the kernel.
    pub(crate) fn policy(
        &self,
        desired: Arc<policy::Desired>,
    ) -> tokio::sync::oneshot::Receiver<()> {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.leave(|mailbox| {
            mailbox.policy = Some(desired);
            mailbox.waiting.push(done);
        });
        wait
    }

    fn leave(&self, change: impl FnOnce(&mut Mailbox)) {
        let (mailbox, wake) = &*self.mailbox;
        change(&mut mailbox.lock());
        wake.notify_one();
    }

    /// Ends the thread and waits for it (at most one commit).
    pub(crate) fn stop(&self) {
        self.leave(|mailbox| mailbox.stop = true);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(worker: &mut Worker, shared: &(Mutex<Mailbox>, Condvar)) {
    let (mailbox, wake) = shared;
    let mut retry: Option<Duration> = None;
    // Those whose wish failed wait on, until it is fulfilled or they tire.
    let mut waiting = Vec::new();
    loop {
        let mut post = {
            let mut mailbox = mailbox.lock();
            match retry {
                Some(pause) if !mailbox.stop => drop(wake.wait_for(&mut mailbox, pause)),
                _ => {
                    while !mailbox.stop && mailbox.is_empty() {
                        wake.wait(&mut mailbox);
                    }
                }
            }
            if mailbox.stop {
                return;
            }
            std::mem::take(&mut *mailbox)
        };
        waiting.append(&mut post.waiting);
        waiting.retain(|done: &Done| !done.is_closed());
        match worker.apply(post, retry.is_some()) {
            Ok(()) => {
                retry = None;
                for done in waiting.drain(..) {
                    let _ = done.send(());
                }
            }
            Err(error) => {
                let pause = retry.map_or(RETRY.0, |pause| (pause * 2).min(RETRY.1));
                tracing::error!(error = %error.text, ?pause, "Service addresses are not up to date, trying again");
                retry = Some(pause);
            }
        }
    }
}

/// What the thread holds.
struct Worker {
    fronts: Fronts,
    kernels: Vec<Kernel>,
    policies: Vec<policy::kernel::Table>,
}

impl Worker {
    fn open(
        config: &Arc<Config>,
        state: &Arc<State>,
        host_ports: Vec<(String, HostPorts)>,
    ) -> Result<Worker, Error> {
        let mut worker = Worker {
            fronts: Fronts::default(),
            kernels: Vec::new(),
            policies: Vec::new(),
        };
        for plan in config.plans() {
            worker
                .policies
                .push(policy::kernel::Table::new(plan.family, &config.instance));
            worker
                .kernels
                .push(Kernel::open(config, plan, state.clone())?);
        }
        for (pod, ports) in host_ports {
            let wanted = worker.fronts.host_ports(&pod, ports);
            for kernel in &mut worker.kernels {
                // A former process left them there already, as a rule.
                kernel
                    .apply(&wanted, false)
                    .map_err(|refusal| missing(&refusal))?;
            }
        }
        Ok(worker)
    }

    /// Brings the kernel up to date; `anew` rebuilds the tables first, as after a failure.
    fn apply(&mut self, post: Mailbox, anew: bool) -> Result<(), Refusal> {
        let mut wanted = HashMap::new();
        for (pod, ports) in post.host_ports {
            wanted.extend(self.fronts.host_ports(&pod, ports));
        }
        if let Some(burst) = post.burst {
            let had = self.kernels.iter().flat_map(Kernel::fronts);
            let had = match burst.whole {
                true => had.copied().collect(),
                false => Vec::new(),
            };
            let plans = self.kernels.iter().map(|kernel| kernel.plan().clone());
            let plans = plans.collect::<Vec<_>>();
            wanted.extend(self.fronts.burst(burst, had, &plans));
        }
        let mut failed = Ok(());
        for kernel in &mut self.kernels {
            failed = failed.and(kernel.apply(&wanted, anew));
        }
        if let Some(desired) = post.policy {
            for table in &mut self.policies {
                table.want(desired.clone());
            }
        }
        for table in &mut self.policies {
            failed = failed.and(table.apply());
        }
        failed
    }
}

/// Removes the tables of an instance; answers whether another instance lives in this namespace.
pub(crate) fn remove_tables(config: &Config) -> Result<bool, Error> {
    let mut socket = Socket::open().map_err(|error| missing(&Refusal::io("socket", error)))?;
    let mut others = false;
    for family in [Family::V4, Family::V6] {
        for name in [
            ruleset::table_name(&config.instance),
            policy::kernel::table_name(&config.instance),
        ] {
            match table::delete(&mut socket, family, &name) {
                // A kernel without IPv6 has none of its tables.
                Err(refusal) if family == Family::V4 => return Err(missing(&refusal)),
                _ => {}
            }
        }
        if let Ok(left) = table::tables(&mut socket, family) {
            let prefix = ruleset::table_name("");
            others |= left.iter().any(|other| other.starts_with(&prefix));
        }
    }
    Ok(others)
}
