//! What is mounted into a container, and its devices.

use crate::{
    create::{devices, wanted::Wanted},
    error::Result,
    record::{Mounted, Record},
};
use serde_json::{Map, Value, json};

/// Volumes and their places, being collected.
#[derive(Default)]
struct Places {
    volumes: Vec<Value>,
    places: Vec<Value>,
}

impl Places {
    fn add(&mut self, mut volume: Value, mut place: Value) {
        let name = format!("m{}", self.volumes.len());
        volume["name"] = json!(name);
        place["name"] = json!(name);
        self.volumes.push(volume);
        self.places.push(place);
    }
}

/// Blocking: devices are looked for.
pub fn add(
    record: &Record,
    wanted: &Wanted,
    spec: &mut Value,
    container: &mut Value,
    extras: &mut Map<String, Value>,
) -> Result<()> {
    let mut all = Places::default();
    let mut memory = Vec::new();
    for mount in &record.mounts {
        match mount.kind.as_str() {
            "tmpfs" => memory.push(json!({
                "destination": mount.target, "options": mount.options,
            })),
            "image" => {
                let volume = json!({ "image": { "reference": mount.name, "pullPolicy": "Never" } });
                all.add(volume, place(mount, wanted));
            }
            _ => all.add(
                json!({ "hostPath": { "path": mount.source } }),
                place(mount, wanted),
            ),
        }
    }
    // one that may do all has them anyway
    let asked = wanted.host.devices.iter();
    let asked = asked.filter(|_| !wanted.host.privileged);
    let mut access = Vec::new();
    for device in asked
        .map(devices::find)
        .collect::<Result<Vec<_>>>()?
        .concat()
    {
        let kind = if device.block {
            "BlockDevice"
        } else {
            "CharDevice"
        };
        all.add(
            json!({ "hostPath": { "path": device.source, "type": kind } }),
            json!({ "mountPath": device.target }),
        );
        access.push(json!({ "target": device.target, "access": device.access }));
    }
    for (key, list) in [("tmpfs", memory), ("devices", access)] {
        if !list.is_empty() {
            extras.insert(key.into(), Value::Array(list));
        }
    }
    spec["volumes"] = json!(all.volumes);
    container["volumeMounts"] = json!(all.places);
    Ok(())
}

fn place(mount: &Mounted, wanted: &Wanted) -> Value {
    let mut place = json!({ "mountPath": mount.target, "readOnly": mount.read_only });
    if !mount.sub_path.is_empty() {
        place["subPath"] = json!(mount.sub_path);
    }
    let propagation = match mount.propagation.as_str() {
        "rshared" if wanted.host.privileged => Some("Bidirectional"),
        "rslave" | "rshared" => Some("HostToContainer"),
        _ => None,
    };
    if let Some(propagation) = propagation {
        place["mountPropagation"] = json!(propagation);
    } else if mount.kind == "bind" && mount.read_only && !mount.shallow {
        // SOURCE: moby 25: with all that is mounted below it
        place["recursiveReadOnly"] = json!("IfPossible");
    }
    place
}
