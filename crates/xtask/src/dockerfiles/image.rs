//! An image as `docker save` writes it: what of it is compared.

use anyhow::Context;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    path::Path,
    process::Command,
};

pub struct Image {
    pub config: BTreeMap<String, String>,
    pub history: Vec<String>,
    pub layers: Vec<BTreeMap<String, Entry>>,
}

pub struct Entry {
    what: String,
    /// Seconds; of files and links from elsewhere alone.
    time: u64,
}

impl Entry {
    pub fn said(&self, times: bool) -> String {
        match times {
            true => format!("{} at {}", self.what, self.time),
            false => self.what.clone(),
        }
    }
}

pub fn read(archive: &Path) -> anyhow::Result<Image> {
    let dir = archive.with_extension("d");
    fs::create_dir_all(&dir)?;
    crate::builds::text(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&dir),
    )?;
    let json = |name: &str| -> anyhow::Result<Value> {
        let bytes = fs::read(dir.join(name)).with_context(|| name.to_owned())?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let manifest = &json("manifest.json")?[0];
    let whole = json(manifest["Config"].as_str().context("Config")?)?;
    let mut config = BTreeMap::new();
    for key in ["architecture", "variant", "os", "author"] {
        config.insert(key.to_owned(), whole[key].to_string());
    }
    for (key, value) in whole["config"].as_object().into_iter().flatten() {
        let empty = value.is_null()
            || value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty) && key != "Entrypoint"
            || value == ""
            || value == false;
        if !empty {
            config.insert(key.clone(), value.to_string());
        }
    }
    let said = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let empty = entry["empty_layer"] == true;
        format!(
            "{:?} {} {} {empty}",
            text("created_by"),
            text("comment"),
            text("author")
        )
    };
    let history = whole["history"].as_array().into_iter().flatten().map(said);
    let mut layers = vec![];
    for layer in manifest["Layers"].as_array().into_iter().flatten() {
        layers.push(entries(&dir.join(layer.as_str().context("a layer")?))?);
    }
    Ok(Image {
        config,
        history: history.collect(),
        layers,
    })
}

fn entries(layer: &Path) -> anyhow::Result<BTreeMap<String, Entry>> {
    let mut all = BTreeMap::new();
    let mut archive = tar::Archive::new(fs::File::open(layer)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut attributes = vec![];
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            if let Some(name) = extension.key()?.strip_prefix("SCHILY.xattr.") {
                let value = String::from_utf8_lossy(extension.value_bytes()).into_owned();
                attributes.push(format!("{name}={value:?}"));
            }
        }
        attributes.sort();
        let header = entry.header().clone();
        let link = entry
            .link_name_bytes()
            .map(|l| String::from_utf8_lossy(&l).into_owned());
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes)?;
        let mut hash = DefaultHasher::new();
        bytes.hash(&mut hash);
        let content = match String::from_utf8(bytes) {
            Ok(text) if text.len() < 120 => format!("{text:?}"),
            other => format!(
                "{} bytes {:x}",
                other.map_or_else(|e| e.into_bytes().len(), |t| t.len()),
                hash.finish()
            ),
        };
        let device = match header.entry_type() {
            tar::EntryType::Char | tar::EntryType::Block => {
                format!(" {:?},{:?}", header.device_major()?, header.device_minor()?)
            }
            _ => String::new(),
        };
        let whiteout = path
            .rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with(".wh."));
        if whiteout {
            let name = path.trim_start_matches("./").to_owned();
            let what = "hidden".to_owned();
            all.insert(name, Entry { what, time: 0 });
            continue;
        }
        let what = format!(
            "{:?} {:o} {}:{} {content}{} {}{device}",
            header.entry_type(),
            header.mode()? & 0o7777,
            header.uid()?,
            header.gid()?,
            link.map(|to| format!(" -> {to}")).unwrap_or_default(),
            attributes.join(" "),
        );
        let time = header.mtime()?;
        all.insert(
            path.trim_start_matches("./")
                .trim_end_matches('/')
                .to_owned(),
            Entry { what, time },
        );
    }
    Ok(all)
}
