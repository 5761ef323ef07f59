//! What drivers say of the health of their devices, as the statuses of containers that have them show it (KEP-4680).
//!
//! A driver has a stream on which it names all of its devices anew. What it says counts until it says something else, or for
//! a while, which the driver chooses; what isn't known is `Unknown`.
//!
//! Source: kubernetes `pkg/kubelet/cm/dra/{healthinfo,manager}.go`, `k8s.io/kubelet/pkg/apis/dra-health/v1alpha1`.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceHealth, ResourceStatus};
use knarr_grpc::{
    Channel, Status, code,
    proto::{Fields, Message},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Devices, plugins::Plugin, record::Device};
use crate::{context::Context, pod::entry::Registry, volumes::csi::rpc};

const METHOD: &str = "/v1alpha1.DRAResourceHealth/NodeWatchResources";
/// A stream that has ended is begun again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// The same, where the driver knows of no such stream.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(60);
/// What is said of a device counts for so long, unless the driver says how long (`DefaultHealthTimeout`).
const COUNTS: Duration = Duration::from_secs(30);
/// No driver says of more.
const COUNTS_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// `v1.ResourceHealthMessageMaxLength`
const MESSAGE_BYTES_MAX: usize = 1024;
/// More devices of a driver aren't listened to.
const DEVICES_MAX: usize = 16_384;

/// A device, as its driver names it: pool and name.
type Id = (String, String);

/// What was last said of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    health: &'static str,
    message: String,
}

#[derive(Debug)]
struct Known {
    /// the plugin's socket: of a driver that is being updated two may speak
    by: PathBuf,
    said: Said,
    until: Instant,
}

/// By driver.
#[derive(Default)]
pub(super) struct Health(Mutex<HashMap<Box<str>, HashMap<Id, Known>>>);

/// One device of a message.
fn report(fields: Fields<'_>) -> (Id, Said, Duration) {
    let (mut id, mut health, mut seconds, mut message) = (Id::default(), 0, 0, String::new());
    for (field, value) in fields {
        match field {
            1 => {
                for (field, value) in value.fields() {
                    match field {
                        1 => id.0 = value.text(),
                        2 => id.1 = value.text(),
                        _ => {}
                    }
                }
            }
            2 => health = value.number(),
            4 => seconds = value.number(),
            5 => message = value.text(),
            _ => {}
        }
    }
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - 3));
        message.push_str("...");
    }
    let health = match health {
        1 => "Healthy",
        2 => "Unhealthy",
        _ => "Unknown",
    };
    let counts = u64::try_from(seconds).ok().filter(|s| *s > 0);
    let counts = counts.map_or(COUNTS, |s| Duration::from_secs(s).min(COUNTS_MAX));
    (id, Said { health, message }, counts)
}

impl Health {
    /// Takes in what a plugin says; the devices of which it is something new.
    fn update(&self, driver: &str, by: &Path, message: &[u8], now: Instant) -> BTreeSet<Id> {
        let mut changed = self.expire(driver, by, now);
        let mut all = self.0.lock();
        let devices = all.entry(driver.into()).or_default();
        let reports = Fields(message).filter(|(field, _)| *field == 1);
        for (_, value) in reports.take(DEVICES_MAX) {
            let (id, said, counts) = report(value.fields());
            let known = Known {
                by: by.to_owned(),
                said,
                until: now + counts,
            };
            let before = devices.get(&id);
            if before.is_none() && devices.len() >= DEVICES_MAX {
                continue;
            }
            if before.is_none_or(|before| before.said != known.said) {
                changed.insert(id.clone());
            }
            devices.insert(id, known);
        }
        changed
    }

    /// Forgets what was said too long ago; of which devices.
    fn expire(&self, driver: &str, by: &Path, now: Instant) -> BTreeSet<Id> {
        self.forget(driver, |known| known.by == by && known.until <= now)
    }

    fn forget(&self, driver: &str, which: impl Fn(&Known) -> bool) -> BTreeSet<Id> {
        let mut all = self.0.lock();
        let Some(devices) = all.get_mut(driver) else {
            return BTreeSet::new();
        };
        let mut gone = BTreeSet::new();
        devices.retain(|id, known| {
            let goes = which(known);
            if goes {
                gone.insert(id.clone());
            }
            !goes
        });
        if devices.is_empty() {
            all.remove(driver);
        }
        gone
    }

    /// When the next word of the plugin doesn't count any more.
    fn next_end(&self, driver: &str, by: &Path) -> Option<Instant> {
        let all = self.0.lock();
        let devices = all.get(driver)?.values();
        devices.filter(|k| k.by == by).map(|k| k.until).min()
    }

    fn of(&self, driver: &str, device: &Device, now: Instant) -> ResourceHealth {
        let all = self.0.lock();
        let id = (device.pool.clone(), device.device.clone());
        let said = all.get(driver).and_then(|devices| devices.get(&id));
        let said = said.filter(|k| k.until > now).map(|k| k.said.clone());
        ResourceHealth {
            health: Some(said.as_ref().map_or("Unknown", |s| s.health).to_owned()),
            message: said.map(|s| s.message).filter(|m| !m.is_empty()),
            resource_id: match device.cdi.first() {
                Some(name) => name.clone(),
                None => format!("{driver}/{}/{}", id.0, id.1),
            },
        }
    }
}

impl Devices {
    /// How the devices are that a container has by its claims; None: it has none.
    pub(crate) fn health_of(
        &self,
        pod: &Pod,
        container: &Container,
    ) -> Option<Vec<ResourceStatus>> {
        let claims = container.resources.as_ref()?.claims.as_ref()?;
        let (mut all, now) = (Vec::new(), Instant::now());
        for wanted in claims {
            let Ok(Some(record)) = self.record_for(pod, &wanted.name) else {
                continue;
            };
            let request = wanted.request.as_deref().unwrap_or_default();
            let mut seen = BTreeSet::new();
            let mut resources = Vec::new();
            for (driver, device) in record.devices(request) {
                let health = self.health.of(driver, device, now);
                if seen.insert(health.resource_id.clone()) {
                    resources.push(health);
                }
            }
            if !resources.is_empty() {
                all.push(ResourceStatus {
                    name: match request {
                        "" => format!("claim:{}", wanted.name),
                        request => format!("claim:{}/{request}", wanted.name),
                    },
                    resources: Some(resources),
                });
            }
        }
        (!all.is_empty()).then_some(all)
    }
}

/// Listens to all drivers.
pub(crate) struct Listener {
    pub context: Arc<Context>,
    pub registry: Registry,
}

impl Listener {
    /// Until cancelled.
    pub(crate) async fn run(self) {
        let me = Arc::new(self);
        let plugins = &me.context.devices.plugins;
        let mut changes = plugins.changes();
        let mut streams: Vec<(Box<str>, Plugin, DropGuard)> = Vec::new();
        loop {
            let there = plugins.all();
            let is_there = |driver: &str, plugin: &Plugin| {
                let mut there = there.iter();
                there.any(|(d, p)| **d == *driver && p == plugin)
            };
            let gone = streams.extract_if(.., |(driver, plugin, _)| !is_there(driver, plugin));
            for (driver, plugin, stop) in gone {
                drop(stop);
                me.forget(&driver, &plugin);
            }
            for (driver, plugin) in &there {
                if streams.iter().any(|(d, p, _)| d == driver && p == plugin) {
                    continue;
                }
                let stop = CancellationToken::new();
                let guard = stop.clone().drop_guard();
                let (me, to) = (me.clone(), (driver.clone(), plugin.clone()));
                tokio::spawn(async move {
                    stop.run_until_cancelled(me.listen(&to.0, &to.1)).await;
                });
                streams.push((driver.clone(), plugin.clone(), guard));
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn listen(&self, driver: &str, plugin: &Plugin) {
        loop {
            let ended = self.follow(driver, plugin).await;
            self.forget(driver, plugin);
            let pause = match ended {
                Err(e) if e.code == code::UNIMPLEMENTED => UNKNOWN_AGAIN,
                Err(error) => {
                    tracing::debug!(%error, %driver, "the driver's devices are listened to later");
                    AGAIN
                }
                Ok(()) => AGAIN,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream.
    async fn follow(&self, driver: &str, plugin: &Plugin) -> Result<(), Status> {
        let health = &self.context.devices.health;
        let stream = rpc::connect(&plugin.socket).await;
        let channel = Channel::open(stream.map_err(Status::unavailable)?).await?;
        let (outgoing, mut answers) = channel.stream(METHOD, HeaderMap::new()).await?;
        outgoing.send(&Message::default()).await?;
        drop(outgoing);
        loop {
            let end = health.next_end(driver, &plugin.socket);
            let ends = async {
                match end {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                message = answers.next() => match message? {
                    Some(message) => health.update(driver, &plugin.socket, &message, Instant::now()),
                    None => return Ok(()),
                },
                () = ends => health.expire(driver, &plugin.socket, Instant::now()),
            };
            self.tell(driver, &changed);
        }
    }

    /// What the plugin said doesn't count any more.
    fn forget(&self, driver: &str, plugin: &Plugin) {
        let health = &self.context.devices.health;
        let gone = health.forget(driver, |known| known.by == plugin.socket);
        self.tell(driver, &gone);
    }

    /// Has the Pods that have one of these devices say what is known of it now.
    fn tell(&self, driver: &str, changed: &BTreeSet<Id>) {
        if changed.is_empty() {
            return;
        }
        for uid in self.context.devices.users(driver, changed) {
            if let Some(entry) = self.registry.get(&uid) {
                entry.mailbox.nudge();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, health: i64, seconds: i64, message: &str) -> Message {
        let id = Message::default().text(1, "pool").text(2, name);
        Message::default()
            .message(1, &id)
            .number(2, health)
            .number(4, seconds)
            .text(5, message)
    }

    #[test]
    fn what_is_said_counts_for_a_while() {
        let health = Health::default();
        let (by, start) = (Path::new("s"), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let long = "ä".repeat(600);
        let told = |name: &str, now: Instant| {
            let device = Device {
                pool: "pool".into(),
                device: name.into(),
                ..Device::default()
            };
            let of = health.of("d", &device, now);
            assert_eq!(of.resource_id, format!("d/pool/{name}"));
            (of.health.unwrap(), of.message.unwrap_or_default())
        };
        let say = |all: &[Message], now: Instant| -> Vec<String> {
            let message = all.iter().fold(Message::default(), |m, d| m.message(1, d));
            let changed = health.update("d", by, message.as_bytes(), now);
            changed.into_iter().map(|(_, name)| name).collect()
        };
        let is = |health: &str, message: &str| (health.to_owned(), message.to_owned());
        assert_eq!(told("a", at(0)), is("Unknown", ""));
        let first = [device("a", 1, 0, ""), device("b", 2, 60, "too hot")];
        assert_eq!(say(&first, at(0)), ["a", "b"]);
        assert_eq!(told("a", at(0)), is("Healthy", ""));
        assert_eq!(told("b", at(59)), is("Unhealthy", "too hot"));
        assert_eq!(told("b", at(60)), is("Unknown", ""));
        // the same again counts for longer, and is no news
        assert_eq!(say(&[device("a", 1, -7, "")], at(10)), [""; 0]);
        assert_eq!(health.next_end("d", by), Some(at(40)));
        // of b nothing was said since
        let news = say(&[device("a", 2, 0, &long), device("c", 9, 0, "")], at(39));
        assert_eq!(news, ["a", "c"]);
        assert_eq!(told("a", at(39)).1.len(), 1023, "whole characters");
        assert!(told("a", at(39)).1.ends_with("ä..."));
        assert_eq!(told("c", at(39)), is("Unknown", ""));
        assert_eq!(say(&[], at(60)), ["b"]);
        let gone = health.expire("d", by, at(69));
        assert_eq!(gone.len(), 2);
        assert_eq!(health.next_end("d", by), None);
    }

    #[test]
    fn each_plugin_of_a_driver_speaks_for_itself() {
        let health = Health::default();
        let now = Instant::now();
        let message = |name: &str| Message::default().message(1, &device(name, 1, 0, ""));
        for (by, name) in [("old", "a"), ("old", "b"), ("new", "b")] {
            health.update("d", Path::new(by), message(name).as_bytes(), now);
        }
        let gone = health.forget("d", |known| known.by == Path::new("old"));
        assert_eq!(gone, [("pool".to_owned(), "a".to_owned())].into());
        assert!(health.forget("e", |_| true).is_empty());
        assert_eq!(health.next_end("d", Path::new("old")), None);
        assert!(health.next_end("d", Path::new("new")).is_some());
    }
}
