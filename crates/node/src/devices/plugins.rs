//! The drivers of devices that have registered (`pkg/kubelet/cm/dra/plugin`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use knarr_grpc::proto::{Fields, Message};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::record::Device;
use crate::volumes::csi::rpc;

/// For one call (`defaultClientCallTimeout`).
const CALL_DEADLINE: Duration = Duration::from_secs(45);
/// Each version's name among what a plugin supports, and the service that it is. The first that a plugin names counts.
const SERVICES: [(&str, &str); 2] = [
    ("v1.DRAPlugin", "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"),
    (
        "v1beta1.DRAPlugin",
        "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin",
    ),
];

/// As Go prints a list of texts.
fn quoted<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = all.into_iter().map(|s| format!("{s:?}")).collect();
    format!("[{}]", all.join(" "))
}

/// A driver's plugin; several may be there while the driver is being updated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugin {
    /// the registration socket it came by
    pub by: PathBuf,
    /// where it is asked
    pub socket: PathBuf,
    service: &'static str,
}

/// A claim, as drivers are told of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub namespace: &'a str,
    pub uid: &'a str,
    pub name: &'a str,
}

impl Plugin {
    /// # Errors
    /// In upstream's words, when none of what it supports is known.
    pub(crate) fn new(
        name: &str,
        by: &Path,
        socket: PathBuf,
        supported: &[String],
    ) -> Result<Plugin, String> {
        let known = |wanted: &String| SERVICES.iter().find(|(name, _)| name == wanted);
        match supported.iter().find_map(known) {
            Some((_, service)) => Ok(Plugin {
                by: by.to_owned(),
                socket,
                service,
            }),
            None => {
                let why = match supported {
                    [] => "empty list of supported gRPC services (aka supported versions)".into(),
                    all => format!(
                        "none of services supported by the plugin ({}) are supported by the kubelet ({})",
                        quoted(all.iter().map(String::as_str)),
                        quoted(SERVICES.map(|(name, _)| name))
                    ),
                };
                Err(format!(
                    "invalid supported gRPC versions of DRA driver plugin {name} at endpoint {}: {why}",
                    socket.display()
                ))
            }
        }
    }

    async fn call(&self, method: &str, claim: Claim<'_>) -> Result<Vec<u8>, String> {
        let of = Message::default()
            .text(1, claim.namespace)
            .text(2, claim.uid)
            .text(3, claim.name);
        let request = Message::default().message(1, &of);
        let path = format!("/{}/{method}", self.service);
        let answer = rpc::call(&self.socket, &path, &request, CALL_DEADLINE).await;
        let answer = answer.map_err(|e| format!("{method}: {e}"))?;
        // map<uid, message>
        let mut found = None;
        for (_, entry) in Fields(&answer) {
            let (mut uid, mut result) = (String::new(), &[][..]);
            for (field, value) in entry.fields() {
                match field {
                    1 => uid = value.text(),
                    2 => result = value.bytes(),
                    _ => {}
                }
            }
            if uid != claim.uid {
                return Err(format!(
                    "{method} returned result for unknown claim UID {uid}"
                ));
            }
            found = Some(result.to_vec());
        }
        found.ok_or_else(|| format!("{method} skipped 1 ResourceClaims"))
    }

    /// Makes the claim's devices ready; which these are.
    pub(super) async fn prepare(&self, claim: Claim<'_>) -> Result<Vec<Device>, String> {
        let method = "NodePrepareResources";
        let answer = self.call(method, claim).await?;
        let (mut devices, mut error) = (Vec::new(), String::new());
        for (field, value) in Fields(&answer) {
            match field {
                1 => devices.push(device(value.fields())),
                2 => error = value.text(),
                _ => {}
            }
        }
        match error.as_str() {
            "" => Ok(devices),
            why => Err(format!(
                "{method} failed for ResourceClaim {}: {why}",
                claim.name
            )),
        }
    }

    /// The reverse.
    pub(super) async fn unprepare(&self, claim: Claim<'_>) -> Result<(), String> {
        let method = "NodeUnprepareResources";
        let answer = self.call(method, claim).await?;
        let errors = Fields(&answer).filter(|(field, _)| *field == 1);
        match errors.map(|(_, value)| value.text()).last().as_deref() {
            None | Some("") => Ok(()),
            Some(why) => Err(format!(
                "{method} failed for ResourceClaim {}: {why}",
                claim.name
            )),
        }
    }
}

fn device(fields: Fields<'_>) -> Device {
    let mut device = Device::default();
    for (field, value) in fields {
        match field {
            1 => device.requests.push(value.text()),
            2 => device.pool = value.text(),
            3 => device.device = value.text(),
            4 => device.cdi.push(value.text()),
            _ => {}
        }
    }
    device
}

/// By the driver's name, the newest last; shared by all Pods.
#[derive(Debug, Default)]
pub(crate) struct Plugins {
    all: Mutex<BTreeMap<Box<str>, Vec<Plugin>>>,
    changed: watch::Sender<()>,
}

impl Plugins {
    /// # Errors
    /// In upstream's words, when none has registered.
    pub(super) fn get(&self, driver: &str) -> Result<Plugin, String> {
        let all = self.all.lock();
        let newest = all.get(driver).and_then(|plugins| plugins.last());
        newest
            .cloned()
            .ok_or_else(|| format!("DRA driver {driver} is not registered"))
    }

    /// As [`Plugins::get`]; waits up to `patience` for it to register.
    pub(super) async fn find(&self, driver: &str, patience: Duration) -> Result<Plugin, String> {
        let mut changes = self.changed.subscribe();
        let come = async {
            loop {
                if let Ok(plugin) = self.get(driver) {
                    return plugin;
                }
                // the sender lives in self
                let _ = changes.changed().await;
            }
        };
        match tokio::time::timeout(patience, come).await {
            Ok(plugin) => Ok(plugin),
            Err(_) => self.get(driver),
        }
    }

    /// # Errors
    /// In upstream's words, when there is one at the same socket.
    pub(crate) fn insert(&self, driver: &str, plugin: Plugin) -> Result<(), String> {
        let mut all = self.all.lock();
        let plugins = all.entry(driver.into()).or_default();
        if plugins.iter().any(|p| p.socket == plugin.socket) {
            return Err(format!(
                "endpoint {} already registered for DRA driver plugin {driver}",
                plugin.socket.display()
            ));
        }
        plugins.push(plugin);
        drop(all);
        self.changed.send_replace(());
        Ok(())
    }

    /// Takes out the plugin that came by `socket`; its driver's name.
    pub(crate) fn remove_by(&self, socket: &Path) -> Option<Box<str>> {
        let mut all = self.all.lock();
        let name = all
            .iter()
            .find(|(_, plugins)| plugins.iter().any(|p| p.by == socket))
            .map(|(name, _)| name.clone())?;
        if let Some(plugins) = all.get_mut(&name) {
            plugins.retain(|p| p.by != socket);
            if plugins.is_empty() {
                all.remove(&name);
            }
        }
        drop(all);
        self.changed.send_replace(());
        Some(name)
    }

    /// All, with their drivers' names.
    pub(super) fn all(&self) -> Vec<(Box<str>, Plugin)> {
        let all = self.all.lock();
        let each = all.iter();
        each.flat_map(|(name, plugins)| plugins.iter().map(|p| (name.clone(), p.clone())))
            .collect()
    }

    /// Names of the drivers that are there.
    pub(super) fn names(&self) -> Vec<Box<str>> {
        self.all.lock().keys().cloned().collect()
    }

    /// Told of each that comes or goes.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(by: &str, socket: &str) -> Plugin {
        let supported = ["v1beta1.DRAPlugin".to_owned(), "v1.DRAPlugin".to_owned()];
        Plugin::new("d", Path::new(by), socket.into(), &supported).unwrap()
    }

    #[test]
    fn the_first_service_that_is_known_counts() {
        assert!(plugin("r", "s").service.ends_with(".v1beta1.DRAPlugin"));
        for (supported, want) in [
            (
                vec![],
                "empty list of supported gRPC services (aka supported versions)",
            ),
            (
                vec!["v9.DRAPlugin".to_owned()],
                "none of services supported by the plugin ([\"v9.DRAPlugin\"]) are supported by the kubelet ([\"v1.DRAPlugin\" \"v1beta1.DRAPlugin\"])",
            ),
        ] {
            let why = Plugin::new("d", Path::new("r"), "s".into(), &supported).unwrap_err();
            assert!(why.ends_with(want), "{why}");
        }
    }

    #[test]
    fn the_newest_is_asked_until_it_leaves() {
        let plugins = Plugins::default();
        let missing = plugins.get("d").unwrap_err();
        assert_eq!(missing, "DRA driver d is not registered");
        plugins.insert("d", plugin("r1", "s1")).unwrap();
        plugins.insert("d", plugin("r2", "s2")).unwrap();
        plugins.insert("d", plugin("r3", "s2")).unwrap_err();
        assert_eq!(plugins.get("d").unwrap().socket, Path::new("s2"));
        assert_eq!(plugins.remove_by(Path::new("r2")).as_deref(), Some("d"));
        assert_eq!(plugins.get("d").unwrap().socket, Path::new("s1"));
        assert_eq!(plugins.remove_by(Path::new("r2")), None);
        plugins.remove_by(Path::new("r1"));
        plugins.get("d").unwrap_err();
    }
}
