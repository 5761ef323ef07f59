//! `knarr volume`: folders that outlive the containers of `run`.

use super::{
    named,
    options::{self, VolumeKind},
    record::Home,
};
use crate::{
    error::{Error, io},
    listing::{Filters, Shape},
    paths::Paths,
};
use clap::Subcommand;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Subcommand)]
pub enum VolumeVerb {
    /// List them
    #[command(visible_alias = "list")]
    Ls {
        /// Names only
        #[arg(short, long)]
        quiet: bool,
        /// Only those of which this holds: name=data, dangling=true, driver=local, label=NAME=value; may be repeated
        #[arg(short, long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
        /// A template like {{.Name}}, `table …` or `json`
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Make one
    Create {
        /// NAME=value; may be repeated
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        /// Only local
        #[arg(short, long, default_value = "local")]
        driver: String,
        /// type=none, o=bind and device=FOLDER make it a name of a folder of the machine
        #[arg(short = 'o', long = "opt", value_name = "NAME=VALUE")]
        options: Vec<String>,
        /// Else a name is made
        name: Option<String>,
    },
    /// All that is known of them
    Inspect(named::Inspect),
    /// Remove some, with all that is in them
    #[command(visible_alias = "remove")]
    Rm(named::Remove),
    /// Remove all that no container has
    Prune {
        /// Don't ask: nothing is asked anyway
        #[arg(short, long)]
        force: bool,
        /// Also those with names of their own
        #[arg(short, long)]
        all: bool,
        /// Only those of which this holds: label=NAME=value; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
}

fn names(home: &Home) -> Vec<String> {
    let folders = std::fs::read_dir(home.dir.join("volumes"));
    let mut all: Vec<String> = folders
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|f| f.file_name().into_string().ok())
        .collect();
    all.sort();
    all
}

/// Containers that have it.
fn users(home: &Home, volume: &str) -> Vec<String> {
    let uses = |kind: &VolumeKind| matches!(kind, VolumeKind::Named(name) if name == volume);
    let mut all = home.all();
    all.retain(|r| r.volumes.iter().any(|v| uses(&v.kind)));
    all.into_iter().map(|r| r.id).collect()
}

fn there(home: &Home, name: &str) -> Result<std::path::PathBuf, Error> {
    // names that lead elsewhere are none
    let known = options::volume(&format!("{name}:/x"));
    let named = known.is_ok_and(|v| matches!(v.kind, VolumeKind::Named(_)));
    let path = home.volume(name);
    match named && path.is_dir() {
        true => Ok(path),
        false => Err(Error::Failed(format!("get {name}: no such volume"))),
    }
}

fn remove(home: &Home, name: &str) -> Result<(), Error> {
    let path = there(home, name)?;
    // none is made or given to a container meanwhile
    let _lock = home.lock()?;
    let users = users(home, name);
    if !users.is_empty() {
        return Err(Error::Failed(format!(
            "remove {name}: volume is in use - [{}]",
            users.join(", ")
        )));
    }
    let _ = std::fs::remove_file(labels_path(home, name));
    std::fs::remove_dir_all(&path).map_err(io(path.display().to_string()))
}

fn labels_path(home: &Home, name: &str) -> std::path::PathBuf {
    home.dir.join("volume-labels").join(name)
}

fn labels(home: &Home, name: &str) -> BTreeMap<String, String> {
    super::record::read(&labels_path(home, name)).unwrap_or_default()
}

/// SOURCE: docker/cli `cli/command/formatter/volume.go`
const SHAPE: Shape = Shape {
    heads: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Size", "SIZE"),
        ("Links", "LINKS"),
    ],
    shown: &["Driver", "Name"],
};

pub fn inspected(home: &Home, name: &str) -> Result<Value, Error> {
    let path = there(home, name)?;
    let made = std::fs::metadata(&path).and_then(|m| m.created().or_else(|_| m.modified()));
    let made = made.ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
    let options = match std::fs::read_link(&path) {
        Ok(device) => json!({ "type": "none", "o": "bind", "device": device }),
        Err(_) => json!({}),
    };
    Ok(json!({
        "Name": name, "Driver": "local", "Mountpoint": path, "Scope": "local", "Labels": labels(home, name), "Options": options,
        "CreatedAt": made.map(|at| at.to_string()).unwrap_or_default(),
    }))
}

/// Removes the volumes that were made for a container which is no more, unless another has them.
///
/// # Errors
/// When one can't be removed.
pub fn forget_unnamed(home: &Home, record: &super::record::Record) -> Result<(), Error> {
    for volume in record.volumes.iter().filter(|v| v.unnamed) {
        let VolumeKind::Named(name) = &volume.kind else {
            continue;
        };
        if users(home, name).iter().all(|id| *id == record.id) && home.volume(name).is_dir() {
            let path = home.volume(name);
            std::fs::remove_dir_all(&path).map_err(io(path.display().to_string()))?;
        }
    }
    Ok(())
}

pub async fn volume(paths: &Paths, verb: VolumeVerb) -> Result<u8, Error> {
    crate::connect::require_readable(paths)?;
    let paths = paths.clone();
    let done = tokio::task::spawn_blocking(move || run(&paths, verb)).await;
    done.map_err(|e| Error::Failed(e.to_string()))?
}

/// The folder of the machine that options of the local driver make a volume of.
fn device(options: &BTreeMap<String, String>) -> Result<Option<std::path::PathBuf>, Error> {
    if options.is_empty() {
        return Ok(None);
    }
    let get = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let binds = get("o").split(',').any(|o| o == "bind" || o == "rbind");
    let device = std::path::Path::new(get("device"));
    let known = options
        .keys()
        .all(|k| matches!(&**k, "type" | "o" | "device"));
    if !known || get("type") != "none" || !binds || !device.is_absolute() {
        return Err(Error::Input(format!(
            "a local volume with the options {options:?} is not there: type=none, o=bind and device=/… is"
        )));
    }
    match device.is_dir() {
        true => Ok(Some(device.into())),
        false => Err(Error::Failed(format!(
            "failed to mount local volume: mount {}: no such file or directory",
            device.display()
        ))),
    }
}

fn run(paths: &Paths, verb: VolumeVerb) -> Result<u8, Error> {
    let home = Home::new(paths);
    match verb {
        VolumeVerb::Ls {
            quiet,
            filter,
            format,
        } => {
            let known = ["name", "dangling", "driver", "label", "label!"];
            let filters = Filters::read(&filter, &known)?;
            let mut all = names(&home);
            all.retain(|name| {
                filters.name(name)
                    && filters.labels(&labels(&home, name))
                    && filters.any("driver", |said| said == "local")
                    && filters.any("dangling", |said| {
                        matches!(said, "true" | "1") == users(&home, name).is_empty()
                    })
            });
            if quiet && format.is_none() {
                all.iter().for_each(|name| println!("{name}"));
                return Ok(0);
            }
            let row = |name: &String| {
                let labels = labels(&home, name)
                    .into_iter()
                    .map(|(k, v)| format!("{k}={v}"));
                json!({
                    "Driver": "local", "Name": name, "Scope": "local", "Mountpoint": home.volume(name),
                    "Labels": labels.collect::<Vec<_>>().join(","), "Size": "N/A", "Links": "N/A",
                })
            };
            let rows: Vec<Value> = all.iter().map(row).collect();
            SHAPE.print(&rows, format.as_deref())?;
            Ok(0)
        }
        VolumeVerb::Create {
            label,
            driver,
            options,
            name,
        } => {
            let name = name.unwrap_or_else(|| format!("{0}{0}", uuid::Uuid::new_v4().simple()));
            if driver != "local" {
                return Err(Error::Failed(format!(
                    "create {name}: error looking up volume plugin {driver}: plugin {driver:?} not found"
                )));
            }
            let device = device(&super::describe::pairs(&options))?;
            let known = super::options::volume(&format!("{name}:/x"));
            let known = known.map_err(|why| Error::Input(format!("create {name}: {why}")))?;
            if !matches!(known.kind, VolumeKind::Named(_)) {
                return Err(Error::Input(format!(
                    "{name:?} includes invalid characters for a local volume name"
                )));
            }
            paths.create()?;
            let path = home.volume(&name);
            let _lock = home.lock()?;
            let fresh = !path.is_dir();
            let above = home.dir.join("volumes");
            std::fs::create_dir_all(&above).map_err(io(above.display().to_string()))?;
            match device.filter(|_| fresh) {
                Some(device) => std::os::unix::fs::symlink(device, &path),
                None => std::fs::create_dir_all(&path),
            }
            .map_err(io(path.display().to_string()))?;
            if fresh && !label.is_empty() {
                let at = labels_path(&home, &name);
                let above = home.dir.join("volume-labels");
                std::fs::create_dir_all(&above).map_err(io(above.display().to_string()))?;
                super::record::write(&at, &super::describe::pairs(&label))?;
            }
            println!("{name}");
            Ok(0)
        }
        VolumeVerb::Inspect(asked) => asked.print(|name| inspected(&home, name)),
        VolumeVerb::Rm(asked) => {
            let there = |name: &str| there(&home, name).is_ok();
            let gone = |name: &str| println!("{name}");
            Ok(asked.each(|name| remove(&home, name), there, gone))
        }
        VolumeVerb::Prune { all, filter, .. } => {
            let filters = Filters::read(&filter, &["label", "label!", "all"])?;
            let all = all
                || filters
                    .values("all")
                    .any(|said| matches!(said, "true" | "1"));
            // made names are two times 32 digits
            let made = |n: &String| n.len() == 64 && n.bytes().all(|b| b.is_ascii_hexdigit());
            let mut pruned = named::Reclaimed::new("Volumes");
            for name in names(&home) {
                let asked = (all || made(&name)) && filters.labels(&labels(&home, &name));
                if asked && users(&home, &name).is_empty() {
                    let bytes = super::show::bytes_below(&home.volume(&name));
                    remove(&home, &name)?;
                    pruned.say(&name, bytes);
                }
            }
            pruned.total();
            Ok(0)
        }
    }
}
