//! metadata.managedFields: who owns which paths, in memory and in JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::set::Set;

/// How many managers of operation Update an object keeps; older ones are folded together (upstream's `DefaultMaxUpdateManagers`).
const UPDATE_MANAGERS_MAX: usize = 10;
const FOLDED: &str = "ancient-changes";

/// What makes two entries the same manager. An applier is the same one at every version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub manager: String,
    pub applies: bool,
    /// Empty when it applies.
    pub api_version: String,
    pub subresource: String,
}

impl Id {
    pub(crate) fn new(manager: &str, applies: bool, api_version: &str, subresource: &str) -> Id {
        Id {
            manager: if manager.is_empty() {
                "unknown"
            } else {
                manager
            }
            .to_owned(),
            applies,
            api_version: if applies { "" } else { api_version }.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// As conflicts name it.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if !self.applies {
            text += &format!(" using {}", self.api_version);
        }
        text
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Owned {
    pub set: Set,
    pub api_version: String,
    /// RFC 3339, None when never recorded.
    pub time: Option<String>,
}

/// Every manager of an object.
pub(crate) type Records = BTreeMap<Id, Owned>;

/// The records of an object's metadata.managedFields; errors are upstream's words.
pub(crate) fn read(object: Option<&Value>) -> Result<Records, String> {
    let mut out = Records::new();
    for (at, entry) in entries(object).iter().enumerate() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let applies = match text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => {
                return Err(format!(
                    "invalid fieldsType {other:?} in managed fields entry {at}"
                ));
            }
        }
        let set = match entry.get("fieldsV1") {
            None | Some(Value::Null) => Set::default(),
            Some(fields) => {
                Set::from_fields(fields).map_err(|e| format!("error decoding set: {e}"))?
            }
        };
        let id = Id {
            manager: text("manager").to_owned(),
            ..Id::new("", applies, text("apiVersion"), text("subresource"))
        };
        out.insert(
            id,
            Owned {
                set,
                api_version: text("apiVersion").to_owned(),
                time: entry["time"].as_str().map(str::to_owned),
            },
        );
    }
    Ok(out)
}

/// The entries as they stand in the object.
pub(crate) fn entries(object: Option<&Value>) -> &[Value] {
    object
        .and_then(|o| o["metadata"]["managedFields"].as_array())
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Writes the records into the object, in upstream's order; no records, no field.
pub(crate) fn write(object: &mut Value, records: &Records) {
    let mut sorted: Vec<(&Id, &Owned)> = records.iter().collect();
    sorted.sort_by_cached_key(|(id, owned)| {
        (
            !id.applies,
            seconds(owned.time.as_deref()),
            id.manager.clone(),
            owned.api_version.clone(),
            id.subresource.clone(),
        )
    });
    let entries = sorted.into_iter().map(|(id, owned)| {
        let mut entry = json!({
            "manager": id.manager,
            "operation": if id.applies { "Apply" } else { "Update" },
            "apiVersion": owned.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": owned.set.to_fields(),
        });
        if let Some(time) = owned.time.as_ref().filter(|t| !t.is_empty()) {
            entry["time"] = time.as_str().into();
        }
        if !id.subresource.is_empty() {
            entry["subresource"] = id.subresource.as_str().into();
        }
        entry
    });
    set_entries(
        object,
        (!records.is_empty()).then(|| Value::Array(entries.collect())),
    );
}

/// Replaces or removes metadata.managedFields.
pub(crate) fn set_entries(object: &mut Value, entries: Option<Value>) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    match entries {
        Some(entries) => {
            let metadata = object.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.insert("managedFields".to_owned(), entries);
            }
        }
        None => {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        }
    }
}

/// Folds the oldest updaters of a version into one until there are few enough.
pub(crate) fn cap(records: &mut Records) {
    let mut updaters: Vec<(i64, Id)> = records
        .iter()
        .filter(|(id, _)| !id.applies)
        .map(|(id, owned)| (seconds(owned.time.as_deref()), id.clone()))
        .collect();
    let mut count = updaters.len();
    if count <= UPDATE_MANAGERS_MAX {
        return;
    }
    updaters.sort();
    let mut first_of_version: BTreeMap<String, Id> = BTreeMap::new();
    for (_, id) in updaters {
        if count <= UPDATE_MANAGERS_MAX {
            return;
        }
        let Some(owned) = records.get(&id).cloned() else {
            continue;
        };
        let Some(first) = first_of_version.get(&owned.api_version) else {
            first_of_version.insert(owned.api_version, id);
            continue;
        };
        let bucket = Id::new(FOLDED, false, &owned.api_version, "");
        if !records.contains_key(&bucket)
            && let Some(first) = records.remove(first)
        {
            records.insert(bucket.clone(), first);
        }
        if let Some(folded) = records.get_mut(&bucket) {
            folded.set = folded.set.union(&owned.set);
            folded.time = owned.time;
        }
        records.remove(&id);
        count -= 1;
    }
}

/// Whether two lists of entries are the same but for their times.
pub(crate) fn same_but_times(a: &[Value], b: &[Value]) -> bool {
    let without = |entry: &Value| {
        let mut entry = entry.clone();
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("time");
        }
        entry
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| without(a) == without(b))
}

/// Unix seconds, 0 when there is no time.
fn seconds(time: Option<&str>) -> i64 {
    time.and_then(|t| t.parse::<jiff::Timestamp>().ok())
        .map_or(0, jiff::Timestamp::as_second)
}
