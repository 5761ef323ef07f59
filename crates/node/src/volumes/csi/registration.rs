//! Plugin registration: sockets that appear in `plugins_registry` are asked who they are, and told what became of it.
//!
//! Source: kubernetes `pkg/kubelet/pluginmanager`, `pkg/volume/csi/csi_plugin.go` (RegistrationHandler).

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    drivers::{Driver, Drivers},
    limits,
    node_info::NodeInfo,
    proto::{Fields, Message},
    rpc,
    service::Service,
};
use crate::{
    devices::plugins::{Plugin as DevicePlugin, Plugins},
    inotify::Watcher,
    volumes::host_path,
};

const CALL_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(120);
const SOCKETS_MAX: usize = 256;

/// What a plugin says it is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plugin {
    kind: String,
    name: String,
    endpoint: String,
    versions: Vec<String>,
}

/// A socket as it was seen: one made anew at the same path is another.
type Identity = (u64, i64, i64);

enum Known {
    Registered(Identity),
    /// not to be asked before
    Failed(Identity, u32, tokio::time::Instant),
}

/// By driver: who keeps its limits in the CSINode.
#[derive(Default)]
struct Asking(BTreeMap<Box<str>, tokio::task::JoinHandle<()>>);

impl Asking {
    async fn begin(&mut self, node: &Arc<NodeInfo>, name: &str, driver: Option<Driver>) {
        self.end(name).await;
        if let Some(Driver { service, full, .. }) = driver {
            let work = limits::keep(node.clone(), name.to_owned(), service, full);
            self.0.insert(name.into(), tokio::spawn(work));
        }
    }

    /// What was being written is written, or isn't, when this returns.
    async fn end(&mut self, name: &str) {
        if let Some(task) = self.0.remove(name) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        for task in self.0.values() {
            task.abort();
        }
    }
}

pub(crate) struct Registrar {
    pub drivers: Arc<Drivers>,
    /// drivers of devices
    pub devices: Arc<Plugins>,
    pub node: Arc<NodeInfo>,
    /// what plugins know as `/var/lib/kubelet`
    pub kubelet_dir: PathBuf,
}

impl Registrar {
    fn folder(&self) -> PathBuf {
        self.kubelet_dir.join("plugins_registry")
    }

    /// Registers what comes and lets go of what leaves, until cancelled.
    pub(crate) async fn run(self) {
        let watcher = match Watcher::on(&self.folder()) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, dir = %self.folder().display(), "plugins can't be watched for: no driver will be found");
                return;
            }
        };
        self.node.create().await;
        let mut asking = Asking::default();
        let mut known: BTreeMap<PathBuf, Known> = BTreeMap::new();
        loop {
            let next = self.round(&mut known, &mut asking).await;
            let pause = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = watcher.changed() => if changed.is_err() {
                    return;
                },
                () = pause => {}
            }
        }
    }

    /// One look at the folder; when the next is due for what failed.
    async fn round(
        &self,
        known: &mut BTreeMap<PathBuf, Known>,
        asking: &mut Asking,
    ) -> Option<tokio::time::Instant> {
        let folder = self.folder();
        let sockets = tokio::task::spawn_blocking(move || sockets(&folder))
            .await
            .unwrap_or_default();
        let gone: Vec<PathBuf> = known
            .iter()
            .filter(|(path, k)| {
                let (Known::Registered(was) | Known::Failed(was, ..)) = k;
                sockets.get(*path) != Some(was)
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            known.remove(&path);
            if let Some(name) = self.devices.remove_by(&path) {
                tracing::info!(driver = %name, "a driver of devices has left");
            }
            if let Some(name) = self.drivers.remove_by(&path) {
                tracing::info!(driver = %name, "a CSI driver has left");
                asking.end(&name).await;
                // the socket of a driver that restarts comes back under the same name
                if !sockets.contains_key(&path) {
                    self.node.uninstall(&name).await;
                }
            }
        }
        let mut next = None;
        for (path, identity) in sockets {
            let now = tokio::time::Instant::now();
            let tries = match known.get(&path) {
                Some(Known::Registered(_)) => continue,
                Some(Known::Failed(_, tries, at)) if *at > now => {
                    next = Some(next.map_or(*at, |n: tokio::time::Instant| n.min(*at)));
                    let _ = tries;
                    continue;
                }
                Some(Known::Failed(_, tries, _)) => *tries,
                None => 0,
            };
            let state = match self.register(&path).await {
                Ok(name) => {
                    tracing::info!(driver = %name, "a driver has registered");
                    asking
                        .begin(&self.node, &name, self.drivers.get(&name))
                        .await;
                    Known::Registered(identity)
                }
                Err(error) => {
                    tracing::warn!(socket = %path.display(), %error, "a plugin was not registered; it is asked again");
                    let wait = crate::pod::backoff::doubling(RETRY_MIN, RETRY_MAX, tries);
                    let at = tokio::time::Instant::now() + wait;
                    next = Some(next.map_or(at, |n| n.min(at)));
                    Known::Failed(identity, tries + 1, at)
                }
            };
            known.insert(path, state);
        }
        next
    }

    async fn register(&self, socket: &Path) -> Result<String, String> {
        let method = |m: &str| format!("/pluginregistration.Registration/{m}");
        let info = rpc::call(
            socket,
            &method("GetInfo"),
            &Message::default(),
            CALL_DEADLINE,
        )
        .await
        .map_err(|e| e.to_string())?;
        let plugin = read(&info);
        let result = self.take(socket, &plugin).await;
        let status = match &result {
            Ok(()) => Message::default().flag(1, true),
            Err(error) => Message::default().text(2, error),
        };
        let told = rpc::call(
            socket,
            &method("NotifyRegistrationStatus"),
            &status,
            CALL_DEADLINE,
        )
        .await;
        match (result, told) {
            (Ok(()), Ok(_)) => Ok(plugin.name),
            (Ok(()), Err(e)) => {
                self.drivers.remove_by(socket);
                self.devices.remove_by(socket);
                Err(e.to_string())
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Where the plugin is asked.
    fn endpoint(&self, socket: &Path, plugin: &Plugin) -> PathBuf {
        match plugin.endpoint.as_str() {
            "" => socket.to_owned(),
            path => host_path::on_machine(&self.kubelet_dir, Path::new(path)),
        }
    }

    async fn take(&self, socket: &Path, plugin: &Plugin) -> Result<(), String> {
        if plugin.kind == "DRAPlugin" {
            let socket_of = self.endpoint(socket, plugin);
            let known = DevicePlugin::new(&plugin.name, socket, socket_of, &plugin.versions)?;
            return self.devices.insert(&plugin.name, known);
        }
        if plugin.kind != "CSIPlugin" {
            return Err(format!(
                "no handler registered for plugin type: {} at socket {}",
                plugin.kind,
                socket.display()
            ));
        }
        let name = &plugin.name;
        let Some(version) = plugin.versions.iter().filter_map(|v| version(v)).max() else {
            return Err(format!(
                "RegisterPlugin for CSI driver {name:?} failed. None of the versions specified {:?} are supported. err=could not find highest supported version from the list",
                plugin.versions.join(",")
            ));
        };
        if let Some(other) = self.drivers.get(name).filter(|d| d.version >= version) {
            let (major, minor, patch) = other.version;
            return Err(format!(
                "RegisterPlugin for CSI driver {name:?} failed. Another driver with the same name is already registered with a higher supported version: \"{major}.{minor}.{patch}\""
            ));
        }
        let service = Service {
            socket: self.endpoint(socket, plugin),
        };
        let info = service.info().await.map_err(|e| e.to_string())?;
        let abilities = service.abilities().await.map_err(|e| e.to_string())?;
        self.node.install(name, &info).await?;
        let driver = Driver {
            service,
            by: socket.to_owned(),
            version,
            abilities,
            full: Arc::default(),
        };
        self.drivers.insert(name, driver);
        Ok(())
    }
}

fn read(info: &[u8]) -> Plugin {
    let mut plugin = Plugin::default();
    for (field, value) in Fields(info) {
        match field {
            1 => plugin.kind = value.text(),
            2 => plugin.name = value.text(),
            3 => plugin.endpoint = value.text(),
            4 => plugin.versions.push(value.text()),
            _ => {}
        }
    }
    plugin
}

/// `1.x` in any form (`1`, `v1.0`, `1.2.3`): CSI 0 is no longer, CSI 2 not yet, spoken.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts = text.splitn(3, '.').map(|p| p.parse::<u32>().ok());
    let part = |p: Option<Option<u32>>| p.unwrap_or(Some(0));
    let version = (parts.next()??, part(parts.next())?, part(parts.next())?);
    (version.0 == 1).then_some(version)
}

/// Sockets in the folder. Blocking.
fn sockets(folder: &Path) -> BTreeMap<PathBuf, Identity> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if let Ok(meta) = entry.metadata()
            && meta.file_type().is_socket()
            && !hidden
            && found.len() < SOCKETS_MAX
        {
            let identity = (meta.ino(), meta.ctime(), meta.ctime_nsec());
            found.insert(entry.path(), identity);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, want) in [
            ("1.0.0", Some((1, 0, 0))),
            ("v1.2", Some((1, 2, 0))),
            ("1", Some((1, 0, 0))),
            ("0.3.0", None),
            ("2.0.0", None),
            ("", None),
            ("1.x", None),
        ] {
            assert_eq!(version(text), want, "{text}");
        }
    }

    #[test]
    fn plugins_say_what_they_are() {
        let message = Message::default()
            .text(1, "CSIPlugin")
            .text(2, "hostpath.csi.k8s.io")
            .text(3, "/var/lib/kubelet/plugins/h/csi.sock")
            .texts(4, ["1.0.0"]);
        let want = Plugin {
            kind: "CSIPlugin".into(),
            name: "hostpath.csi.k8s.io".into(),
            endpoint: "/var/lib/kubelet/plugins/h/csi.sock".into(),
            versions: vec!["1.0.0".into()],
        };
        assert_eq!(read(message.as_bytes()), want);
    }
}
