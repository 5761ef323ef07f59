//! A stand-alone container's start and end.

use super::{
    network,
    options::{Network, Restart},
    record::{Home, Record},
};
use crate::error::{Error, io};
use knarr_runtime::{Config, HostNamespaces, Runtime, SandboxSpec, State};
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

pub const LOG_BYTES_MAX: u64 = 10 << 20;
pub const LOG_FILES_MAX: u32 = 5;
/// Somebody else has a container's runtime open for moments only.
pub const HELD: Duration = Duration::from_secs(20);

/// The runtime's name for the one container and the one sandbox that it has.
pub fn inner_id(record: &Record) -> String {
    record.id[..32].to_string()
}

pub fn config(home: &Home, record: &Record) -> Result<Config, Error> {
    Ok(Config {
        root: home.container(&record.id).join("runtime"),
        exe: std::env::current_exe().map_err(io("this program's own path"))?,
        cgroup_parent: format!("/knarr-run-{}", record.short()),
        host: lent(home, record),
    })
}

/// The namespaces of the container whose network it has, in place of the machine's.
fn lent(home: &Home, record: &Record) -> HostNamespaces {
    const CHAIN_MAX: usize = 16;
    let mut lender = None;
    for _ in 0..CHAIN_MAX {
        let next = lender.as_ref().unwrap_or(record).network_of.clone();
        match next.and_then(|id| home.load(&id)) {
            Some(found) => lender = Some(found),
            None => break,
        }
    }
    match lender.filter(|l| !matches!(l.network, Network::Host | Network::Container)) {
        None => HostNamespaces::default(),
        Some(lender) => {
            let pins = home.container(&lender.id).join("runtime/pins");
            let at = |kind| Some(pins.join(inner_id(&lender)).join(kind));
            HostNamespaces {
                net: at("net"),
                uts: at("uts"),
            }
        }
    }
}

/// The first process of another container, which has to run.
pub fn process_of(home: &Home, id: &str, kind: &str) -> Result<i32, Error> {
    let other = home
        .load(id)
        .ok_or_else(|| Error::Failed(format!("No such container: {id}")))?;
    match super::show::state(home, &other) {
        State::Running { pid, .. } => Ok(pid),
        _ => Err(Error::Failed(format!(
            "cannot join {kind} namespace of a non running container: container {} is not running",
            other.name
        ))),
    }
}

/// A container's runtime while a command has it in hand: nobody else changes the container meanwhile, so it's dropped soon.
pub struct Hand {
    runtime: Runtime,
    _lock: fs::File,
}

impl std::ops::Deref for Hand {
    type Target = Runtime;
    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

/// Takes the container's runtime in hand.
///
/// # Errors
/// When it was removed meanwhile, or somebody has it for too long.
pub async fn open(home: &Home, record: &Record) -> Result<Hand, Error> {
    let config = config(home, record)?;
    let (home, id, name) = (home.clone(), record.id.clone(), record.name.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let lock = home.lock_one(&id, HELD)?;
        if home.load(&id).is_none() {
            home.forget_lock(&id);
            return Err(Error::Failed(format!("No such container: {name}")));
        }
        let runtime = Runtime::open(config).map_err(failed)?;
        Ok(Hand {
            runtime,
            _lock: lock,
        })
    });
    opened.await.map_err(|e| Error::Failed(e.to_string()))?
}

pub fn failed(error: knarr_runtime::Error) -> Error {
    Error::Failed(error.to_string())
}

/// Starts it; what a former run left goes first. `hold`: its output waits for who attaches. The runtime's own lock is what
/// keeps two commands from changing one container at the same time.
pub async fn start(
    home: &Home,
    record: &mut Record,
    hold: bool,
    in_hand: Option<Hand>,
) -> Result<Hand, Error> {
    let runtime = match in_hand {
        Some(runtime) => Ok(runtime),
        None => open(home, record).await,
    }?;
    record.exit = None;
    record.failed = None;
    record.paused = false;
    let started = try_start(home, record, hold, &runtime).await;
    if let Err(error) = &started {
        record.failed = Some(error.to_string());
        let _ = give_back(home, record, &runtime).await;
    }
    home.save(record)?;
    started?;
    super::health::begin(home, record)?;
    Ok(runtime)
}

async fn try_start(
    home: &Home,
    record: &mut Record,
    hold: bool,
    runtime: &Hand,
) -> Result<(), Error> {
    let id = inner_id(record);
    super::networks::look_up(home, &mut record.networks)?;
    if let Some(other) = &record.network_of {
        process_of(home, other, "network")?;
    }
    let bridge = record.network == Network::Bridge;
    let prepare = async {
        runtime.delete(&id).await.map_err(failed)?;
        runtime.delete_sandbox(&id).await.map_err(failed)?;
        let spec = SandboxSpec {
            id: id.clone(),
            hostname: record.hostname.clone(),
            host_network: matches!(record.network, Network::Host | Network::Container),
            host_pid: record.host_pid,
            host_ipc: record.host_ipc,
            share_pid: record.init && !record.host_pid && record.pid_of.is_none(),
            sysctls: record.sysctls.clone(),
            ..SandboxSpec::default()
        };
        let sandbox = runtime.create_sandbox(spec).await.map_err(failed)?;
        Ok::<_, Error>(sandbox)
    };
    let network = async {
        match bridge {
            true => network::open(home).await.map(Some),
            false => Ok(None),
        }
    };
    let (prepared, network) = tokio::join!(prepare, network);
    let (sandbox, network) = (prepared?, network?);
    record.address = match (&network, &sandbox.netns) {
        (Some(network), Some(netns)) => Some(network.connect(home, record, netns).await?),
        (None, Some(netns)) if record.network == Network::None => {
            network::loopback(netns)?;
            None
        }
        _ => None,
    };
    drop(network);
    let spec = super::spec::spec(home, record, hold)?;
    runtime.run(spec).await.map_err(failed)?;
    Ok(())
}

/// Gives back what a container that has ended still holds: namespaces, address, ports.
async fn give_back(home: &Home, record: &mut Record, runtime: &Hand) -> Result<(), Error> {
    let taken_down = runtime.delete_sandbox(&inner_id(record)).await;
    taken_down.map_err(failed)?;
    match record.address.take() {
        Some(_) => network::give_back(home, record).await,
        None => Ok(()),
    }
}

/// Sees to a container's end, if it has ended: its exit is written down, what it held given back, and it is removed or
/// started again as asked. Idempotent, and done by whoever comes first. Gives the exit.
pub async fn ended(
    home: &Home,
    id: &str,
    in_hand: Option<Hand>,
) -> Result<Option<knarr_runtime::Exit>, Error> {
    let Some(record) = home.load(id) else {
        return Ok(None);
    };
    let runtime = match in_hand {
        Some(runtime) => runtime,
        None => match open(home, &record).await {
            Ok(runtime) => runtime,
            Err(_) if home.load(id).is_none() => return Ok(None),
            Err(error) => return Err(error),
        },
    };
    // its end may have been seen to while another had it in hand
    let Some(mut record) = home.load(id) else {
        return Ok(None);
    };
    if record.exit.is_none() {
        record.exit = match runtime.container(&inner_id(&record)).map(|c| c.state) {
            Some(State::Exited { exit, .. }) => Some(exit),
            Some(State::Failed(text)) => {
                record.failed.get_or_insert(text);
                None
            }
            Some(State::Created | State::Running { .. }) => return Ok(None),
            None => None,
        };
        if !record.remove {
            give_back(home, &mut record, &runtime).await?;
            home.save(&record)?;
        }
    }
    let exit = record.exit.clone();
    if let Some(pause) = again(&record) {
        drop(runtime);
        tokio::time::sleep(pause).await;
        let runtime = match open(home, &record).await {
            Ok(runtime) => runtime,
            Err(_) if home.load(id).is_none() => return Ok(exit),
            Err(error) => return Err(error),
        };
        return match home.load(id) {
            None => Ok(exit),
            Some(now) if now.stopped || now.exit != exit => Ok(exit),
            Some(mut now) => {
                now.restarts += 1;
                start(home, &mut now, false, Some(runtime))
                    .await
                    .map(|_| exit)
            }
        };
    }
    if record.remove {
        remove(home, &record, Some(runtime)).await?;
    }
    Ok(exit)
}

/// SOURCE: moby `restartmanager`, 100 ms and then twice as long each time, a minute at most.
fn again(record: &Record) -> Option<Duration> {
    let code = record.exit.as_ref()?.code;
    let wanted = match record.restart {
        Restart::No => false,
        Restart::OnFailure(most) => code != 0 && (most == 0 || record.restarts < most),
        Restart::Always | Restart::UnlessStopped => true,
    };
    let pause = Duration::from_millis(100 << record.restarts.min(10));
    (wanted && !record.stopped).then(|| pause.min(Duration::from_secs(60)))
}

/// Ends it by force if it runs, and removes all that there is of it, its log included.
pub async fn remove(home: &Home, record: &Record, in_hand: Option<Hand>) -> Result<(), Error> {
    let dir = home.container(&record.id);
    if home.load(&record.id).is_none() {
        return Ok(());
    }
    let runtime = match in_hand {
        Some(runtime) => runtime,
        None => match open(home, record).await {
            Ok(runtime) => runtime,
            Err(_) if home.load(&record.id).is_none() => return Ok(()),
            Err(error) => return Err(error),
        },
    };
    let Some(mut record) = home.load(&record.id) else {
        return Ok(());
    };
    runtime.purge().await.map_err(failed)?;
    give_back(home, &mut record, &runtime).await?;
    super::release_image(home, &record)?;
    let with_volumes = record.remove.then(|| record.clone());
    let removed = tokio::task::spawn_blocking(move || {
        // without its record it's gone for everybody
        let _ = fs::remove_file(dir.join("record.json"));
        fs::remove_dir_all(&dir).map_err(io(dir.display().to_string()))
    });
    let removed = removed.await.map_err(|e| Error::Failed(e.to_string()))?;
    home.forget_lock(&record.id);
    drop(runtime);
    removed?;
    match with_volumes {
        Some(record) => super::volumes::forget_unnamed(home, &record),
        None => Ok(()),
    }
}

/// Makes the folder of a new container; others can't look in.
pub fn make_folder(home: &Home, id: &str) -> Result<(), Error> {
    let dir = home.container(id);
    let context = dir.display().to_string();
    fs::create_dir_all(&dir).map_err(io(&context))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(io(context))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_runtime::Exit;

    #[test]
    fn policies_start_again() {
        let check = |restart, restarts, code, stopped, want: Option<u64>| {
            let mut record: Record =
                serde_json::from_value(super::super::record::test_record()).unwrap();
            record.restart = restart;
            record.restarts = restarts;
            record.stopped = stopped;
            record.exit = Some(Exit {
                code,
                signal: None,
                oom_killed: false,
                at: std::time::SystemTime::UNIX_EPOCH,
            });
            let got = again(&record).map(|pause| pause.as_millis() as u64);
            assert_eq!(got, want, "{restart:?} {restarts} {code} {stopped}");
        };
        check(Restart::No, 0, 1, false, None);
        check(Restart::Always, 0, 0, false, Some(100));
        check(Restart::Always, 3, 0, false, Some(800));
        check(Restart::Always, 60, 0, false, Some(60_000));
        check(Restart::UnlessStopped, 0, 0, true, None);
        check(Restart::OnFailure(0), 9, 0, false, None);
        check(Restart::OnFailure(0), 1, 1, false, Some(200));
        check(Restart::OnFailure(2), 2, 1, false, None);
    }
}
