//! Volumes: folders of the machine that outlive their containers.
//!
//! ```text
//! <data>/volumes/<name>/_data         what is in it
//! <data>/volumes/<name>/volume.json   what is known of it; written last, by rename
//! ```

use crate::{
    daemon::Daemon,
    error::{Fault, Result, blocking},
    filters::Filters,
    http::{self, Answer, Ask, Fields},
    names,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    pub created: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Made for one container, without a name from anybody.
    #[serde(default)]
    pub anonymous: bool,
    /// Has been given an image's files, or was found not to be empty.
    #[serde(default)]
    pub filled: bool,
}

/// On volumes without a name of their own.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

fn dir(daemon: &Daemon) -> PathBuf {
    daemon.data_dir.join("volumes")
}

/// Where its files are: of a `bind` volume, where its options say.
pub fn place(daemon: &Daemon, volume: &Volume) -> PathBuf {
    match volume.options.get("device") {
        Some(device) => device.into(),
        None => dir(daemon).join(&volume.name).join("_data"),
    }
}

fn save(dir: &Path, volume: &Volume) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&serde_json::to_vec(volume)?)?;
    file.as_file().sync_all()?;
    file.persist(dir.join("volume.json"))
        .map_err(Fault::server)?;
    Ok(())
}

fn load(dir: &Path) -> Option<Volume> {
    serde_json::from_slice(&fs::read(dir.join("volume.json")).ok()?).ok()
}

/// By name. Blocking.
pub fn all(daemon: &Daemon) -> Vec<Volume> {
    let entries = fs::read_dir(dir(daemon)).into_iter().flatten().flatten();
    let mut all: Vec<Volume> = entries.filter_map(|e| load(&e.path())).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Blocking.
pub fn find(daemon: &Daemon, name: &str) -> Result<Volume> {
    let found = names::volume(name)
        .ok()
        .and_then(|()| load(&dir(daemon).join(name)));
    found.ok_or_else(|| Fault::not_found(format!("get {name}: no such volume")))
}

/// Local driver's options: only a folder of the machine.
fn check_options(options: &BTreeMap<String, String>) -> Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    let get = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let binds = get("o").split(',').any(|o| o == "bind" || o == "rbind");
    if get("type") == "none" && binds && get("device").starts_with('/') {
        return match Path::new(get("device")).is_dir() {
            true => Ok(()),
            false => Err(Fault::bad(format!(
                "failed to mount local volume: mount {}: no such file or directory",
                get("device")
            ))),
        };
    }
    Err(Fault::unsupported(format!(
        "a local volume with the options {options:?} (type=none,o=bind,device=/… is)"
    )))
}

/// Makes it when it isn't there. Blocking.
pub fn make(
    daemon: &Daemon,
    name: Option<&str>,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
) -> Result<Volume> {
    let _one = daemon.volumes.lock();
    let anonymous = name.is_none();
    let name = match name {
        Some(name) => {
            names::volume(name)?;
            name.to_string()
        }
        None => names::id(),
    };
    if let Some(known) = load(&dir(daemon).join(&name)) {
        return Ok(known);
    }
    check_options(&options)?;
    let mut volume = Volume {
        name: name.clone(),
        created: jiff::Timestamp::now().to_string(),
        labels,
        options,
        anonymous,
        filled: false,
    };
    if anonymous {
        volume.labels.insert(ANONYMOUS.into(), String::new());
    }
    let folder = dir(daemon).join(&name);
    fs::create_dir_all(folder.join("_data"))?;
    save(&folder, &volume)?;
    let attributes = json!({ "driver": "local" });
    let attributes = attributes.as_object().cloned().unwrap_or_default();
    daemon.events.tell("volume", "create", &name, attributes);
    Ok(volume)
}

/// A volume that is used for the first time, and empty, gets what the image has at the place. Blocking.
pub fn fill(daemon: &Daemon, volume: &Volume, layers: &[PathBuf], target: &str) -> Result<()> {
    if volume.filled {
        return Ok(());
    }
    let to = place(daemon, volume);
    if fs::read_dir(&to)?.next().is_none() {
        crate::images::files::copy_out(layers, target, &to)?;
    }
    let _one = daemon.volumes.lock();
    let mut filled = volume.clone();
    filled.filled = true;
    save(&dir(daemon).join(&volume.name), &filled)
}

/// Names of containers that have it.
fn users(daemon: &Daemon, name: &str) -> Vec<String> {
    let mut users = Vec::new();
    for entry in daemon.containers.all() {
        if entry.record.mounts.iter().any(|m| m.name == name) {
            users.push(entry.record.id.clone());
        }
    }
    users
}

/// Nothing when it is not there. Blocking.
pub fn delete(daemon: &Daemon, name: &str) -> Result<()> {
    let users = users(daemon, name);
    if !users.is_empty() {
        return Err(Fault::conflict(format!(
            "remove {name}: volume is in use - [{}]",
            users.join(", ")
        )));
    }
    let _one = daemon.volumes.lock();
    let folder = dir(daemon).join(name);
    if !folder.is_dir() {
        return Ok(());
    }
    // Without its description it is none any more, whatever happens after.
    fs::remove_file(folder.join("volume.json"))?;
    fs::remove_dir_all(&folder)?;
    let attributes = json!({ "driver": "local" });
    let attributes = attributes.as_object().cloned().unwrap_or_default();
    daemon.events.tell("volume", "destroy", name, attributes);
    Ok(())
}

fn show(daemon: &Daemon, volume: &Volume) -> Value {
    let options = match volume.options.is_empty() {
        true => Value::Null,
        false => json!(volume.options),
    };
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": dir(daemon).join(&volume.name).join("_data"),
        "CreatedAt": volume.created,
        "Labels": if volume.labels.is_empty() { Value::Null } else { json!(volume.labels) },
        "Scope": "local",
        "Options": options,
    })
}

/// For `system df`: bytes and users. Blocking.
pub fn usage(daemon: &Daemon) -> Vec<Value> {
    let sized = |volume: Volume| {
        let mut shown = show(daemon, &volume);
        let size = size(&dir(daemon).join(&volume.name).join("_data"));
        shown["UsageData"] = json!({ "Size": size, "RefCount": users(daemon, &volume.name).len() });
        shown
    };
    all(daemon).into_iter().map(sized).collect()
}

/// Bytes of all files below. Blocking.
pub fn size(path: &Path) -> u64 {
    let mut sum = 0;
    let mut left = vec![path.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => left.push(entry.path()),
                Ok(meta) => sum += meta.len(),
                Err(_) => {}
            }
        }
    }
    sum
}

/// `POST /volumes/create`
pub async fn create(daemon: &Arc<Daemon>, mut ask: Ask) -> Result<Answer> {
    let mut f = Fields::new(ask.object().await?, "VolumeCreateOptions");
    let name = f.text("Name")?;
    let (labels, options) = (f.strings("Labels")?, f.strings("DriverOpts")?);
    match f.text("Driver")?.as_deref() {
        None | Some("local") => {}
        Some(driver) => {
            return Err(Fault::not_found(format!(
                "create {}: error looking up volume plugin {driver}: plugin \"{driver}\" not found",
                name.unwrap_or_default()
            )));
        }
    }
    f.finish_but(&["ClusterVolumeSpec"])?;
    let daemon = daemon.clone();
    let shown = blocking(move || {
        let volume = make(&daemon, name.as_deref(), labels, options)?;
        Ok(show(&daemon, &volume))
    });
    Ok(http::json_with(::http::StatusCode::CREATED, &shown.await?))
}

/// `GET /volumes`
pub async fn list(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = Filters::read(&ask.query)?;
    filters.only(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let daemon = daemon.clone();
    let shown = blocking(move || {
        let fits = |v: &Volume| {
            filters.any("name", |n| v.name.contains(n))
                && filters.any("driver", |d| d == "local")
                && filters.labels("label", &v.labels)
                && dangling.is_none_or(|d| d == users(&daemon, &v.name).is_empty())
        };
        let all = all(&daemon).into_iter().filter(fits);
        Ok(all.map(|v| show(&daemon, &v)).collect::<Vec<_>>())
    });
    Ok(http::json(
        &json!({ "Volumes": shown.await?, "Warnings": null }),
    ))
}

/// `GET /volumes/{name}`
pub async fn inspect(daemon: &Arc<Daemon>, name: &str) -> Result<Answer> {
    let (daemon, name) = (daemon.clone(), name.to_string());
    let shown = blocking(move || find(&daemon, &name).map(|v| show(&daemon, &v)));
    Ok(http::json(&shown.await?))
}

/// `DELETE /volumes/{name}`
pub async fn remove(daemon: &Arc<Daemon>, name: &str, ask: Ask) -> Result<Answer> {
    let force = ask.query.flag("force");
    let (daemon, name) = (daemon.clone(), name.to_string());
    blocking(move || match find(&daemon, &name) {
        Ok(_) => delete(&daemon, &name),
        Err(_) if force => Ok(()),
        Err(e) => Err(e),
    })
    .await?;
    Ok(http::done())
}

/// `POST /volumes/prune`
pub async fn prune(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = Filters::read(&ask.query)?;
    filters.only(&["label", "label!", "all"])?;
    // Since 1.42 only those without a name go, unless all are meant.
    let every = filters.flag("all")?.unwrap_or(false) || !ask.at_least(1, 42);
    let daemon = daemon.clone();
    let (gone, bytes) = blocking(move || {
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for volume in all(&daemon) {
            let fits = (every || volume.anonymous)
                && filters.labels("label", &volume.labels)
                && filters.not_labels("label!", &volume.labels);
            if fits && users(&daemon, &volume.name).is_empty() {
                bytes += size(&dir(&daemon).join(&volume.name).join("_data"));
                delete(&daemon, &volume.name)?;
                gone.push(volume.name);
            }
        }
        Ok((gone, bytes))
    })
    .await?;
    Ok(http::json(
        &json!({ "VolumesDeleted": gone, "SpaceReclaimed": bytes }),
    ))
}
