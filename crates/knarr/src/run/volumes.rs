//! `knarr volume`: folders that outlive the containers of `run`.

use super::{
    named,
    options::{self, VolumeKind},
    record::Home,
};
use crate::{
    error::{Error, io},
    paths::Paths,
};
use clap::Subcommand;
use serde_json::{Value, json};

#[derive(Subcommand)]
pub enum VolumeVerb {
    /// List them
    #[command(visible_alias = "list")]
    Ls {
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Make one
    Create {
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
    std::fs::remove_dir_all(&path).map_err(io(path.display().to_string()))
}

fn inspected(home: &Home, name: &str) -> Result<Value, Error> {
    let path = there(home, name)?;
    let made = std::fs::metadata(&path).and_then(|m| m.created().or_else(|_| m.modified()));
    let made = made.ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
    Ok(json!({
        "Name": name, "Driver": "local", "Mountpoint": path, "Scope": "local", "Labels": {}, "Options": {},
        "CreatedAt": made.map(|at| at.to_string()).unwrap_or_default(),
    }))
}

pub async fn volume(paths: &Paths, verb: VolumeVerb) -> Result<u8, Error> {
    crate::connect::require_readable(paths)?;
    let paths = paths.clone();
    let done = tokio::task::spawn_blocking(move || run(&paths, verb)).await;
    done.map_err(|e| Error::Failed(e.to_string()))?
}

fn run(paths: &Paths, verb: VolumeVerb) -> Result<u8, Error> {
    let home = Home::new(paths);
    match verb {
        VolumeVerb::Ls { quiet } => {
            if !quiet {
                println!("DRIVER    VOLUME NAME");
            }
            for name in names(&home) {
                match quiet {
                    true => println!("{name}"),
                    false => println!("local     {name}"),
                }
            }
            Ok(0)
        }
        VolumeVerb::Create { name } => {
            let name = name.unwrap_or_else(|| format!("{0}{0}", uuid::Uuid::new_v4().simple()));
            let known = options::volume(&format!("{name}:/x")).map_err(Error::Input)?;
            if !matches!(known.kind, VolumeKind::Named(_)) {
                return Err(Error::Input(format!(
                    "{name:?} includes invalid characters for a local volume name"
                )));
            }
            paths.create()?;
            let path = home.volume(&name);
            std::fs::create_dir_all(&path).map_err(io(path.display().to_string()))?;
            println!("{name}");
            Ok(0)
        }
        VolumeVerb::Inspect(asked) => {
            asked.print(|name| inspected(&home, name))?;
            Ok(0)
        }
        VolumeVerb::Rm(asked) => {
            let there = |name: &str| there(&home, name).is_ok();
            Ok(asked.each(|name| remove(&home, name), there))
        }
        VolumeVerb::Prune { all, .. } => {
            // made names are two times 32 digits
            let made = |n: &String| n.len() == 64 && n.bytes().all(|b| b.is_ascii_hexdigit());
            for name in names(&home) {
                if (all || made(&name)) && users(&home, &name).is_empty() {
                    remove(&home, &name)?;
                    println!("{name}");
                }
            }
            Ok(0)
        }
    }
}
