//! What other servers add to `/openapi/v2` (kube-openapi `aggregator`): the paths of their group versions, and the
//! definitions that these refer to. A definition that has the name of another and isn't the same gets a name of its own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";

/// Of another server's document, what is about one group version.
#[derive(Debug, Default, PartialEq)]
pub struct Foreign {
    paths: Map<String, Value>,
    definitions: Map<String, Value>,
}

impl Foreign {
    /// Takes it from the whole document; shared parameters are written where they are used.
    pub fn of(mut document: Value, group: &str, version: &str) -> Foreign {
        let take = |v: &mut Value| match v.take() {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let parameters = take(&mut document["parameters"]);
        let mut definitions = take(&mut document["definitions"]);
        let prefix = format!("/apis/{group}/{version}/");
        let mut paths: Map<String, Value> = take(&mut document["paths"])
            .into_iter()
            .filter(|(path, _)| path.starts_with(&prefix))
            .collect();
        for item in paths.values_mut() {
            inline(item, &parameters);
        }
        let mut wanted: Vec<String> = Vec::new();
        paths.values().for_each(|v| references(v, &mut wanted));
        let mut kept = Map::new();
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if seen.insert(name.clone())
                && let Some(definition) = definitions.remove(&name)
            {
                references(&definition, &mut wanted);
                kept.insert(name, definition);
            }
        }
        Foreign {
            paths,
            definitions: kept,
        }
    }
}

/// Adds the paths that aren't there, and gives the definitions to be added. `own`: a definition that is there already.
pub(crate) fn take_in(
    all: &[&Foreign],
    paths: &mut Map<String, Value>,
    own: &dyn Fn(&str) -> Option<Value>,
) -> Map<String, Value> {
    let mut added: Map<String, Value> = Map::new();
    // as their servers told them: versions of one server's group tell the same
    let mut told: BTreeMap<String, &Value> = BTreeMap::new();
    for foreign in all {
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        for (name, definition) in &foreign.definitions {
            let there = |name: &str| own(name).or_else(|| told.get(name).map(|v| (*v).clone()));
            let mut free = name.clone();
            let mut number = 1;
            while let Some(other) = there(&free)
                && !same(&other, definition)
            {
                number += 1;
                free = format!("{name}_v{number}");
            }
            names.insert(name, free);
        }
        for (name, definition) in &foreign.definitions {
            let new = &names[name.as_str()];
            if own(new).is_none() && !added.contains_key(new) {
                told.insert(new.clone(), definition);
                let mut definition = definition.clone();
                rename(&mut definition, &names);
                added.insert(new.clone(), definition);
            }
        }
        for (path, item) in &foreign.paths {
            if !paths.contains_key(path) {
                let mut item = item.clone();
                rename(&mut item, &names);
                paths.insert(path.clone(), item);
            }
        }
    }
    added
}

/// The same but for words and the kinds it is said to be.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let aside = |k: &str| k == "description" || k == "x-kubernetes-group-version-kind";
            let told = |m: &Map<String, Value>| m.keys().filter(|k| !aside(k)).count();
            told(a) == told(b)
                && a.iter()
                    .filter(|(k, _)| !aside(k))
                    .all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b,
    }
}

fn inline(value: &mut Value, parameters: &Map<String, Value>) {
    let reference = value["$ref"]
        .as_str()
        .and_then(|r| r.strip_prefix(PARAMETERS));
    if let Some(parameter) = reference.and_then(|name| parameters.get(name)) {
        *value = parameter.clone();
        return;
    }
    each(value, &mut |v| inline(v, parameters));
}

fn references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let reference = map.get("$ref").and_then(Value::as_str);
            names.extend(
                reference
                    .and_then(|r| r.strip_prefix(DEFINITIONS))
                    .map(String::from),
            );
            map.values().for_each(|v| references(v, names));
        }
        Value::Array(all) => all.iter().for_each(|v| references(v, names)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<&str, String>) {
    if let Some(Value::String(reference)) = value.get_mut("$ref")
        && let Some(name) = reference.strip_prefix(DEFINITIONS)
        && let Some(new) = names.get(name)
    {
        *reference = format!("{DEFINITIONS}{new}");
    }
    each(value, &mut |v| rename(v, names));
}

fn each(value: &mut Value, f: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Object(map) => map.values_mut().for_each(f),
        Value::Array(all) => all.iter_mut().for_each(f),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "parameters": {"dry": {"name": "dryRun", "in": "query", "type": "string"}},
            "paths": {
                "/apis/w.example.com/v1/flunders": {"get": {
                    "parameters": [{"$ref": "#/parameters/dry"}],
                    "responses": {"200": {"schema": {"$ref": "#/definitions/w.Flunder"}}}}},
                "/apis/w.example.com/v2/flunders": {"get": {}},
                "/healthz": {"get": {}},
            },
            "definitions": {
                "w.Flunder": {"properties": {"metadata": {"$ref": "#/definitions/ObjectMeta"}, "status": {"$ref": "#/definitions/Status"}}},
                "ObjectMeta": {"description": "theirs", "properties": {"name": {"type": "string"}}},
                "Status": {"properties": {"code": {"type": "integer"}}},
                "Unused": {},
            },
        })
    }

    #[test]
    fn only_the_group_versions_part_is_taken() {
        let f = Foreign::of(document(), "w.example.com", "v1");
        let paths: Vec<&String> = f.paths.keys().collect();
        assert_eq!(paths, ["/apis/w.example.com/v1/flunders"]);
        let parameter = &f.paths["/apis/w.example.com/v1/flunders"]["get"]["parameters"][0];
        assert_eq!(parameter["name"], "dryRun");
        let names: BTreeSet<&str> = f.definitions.keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(["ObjectMeta", "Status", "w.Flunder"]));
    }

    #[test]
    fn what_differs_gets_a_name_of_its_own() {
        let f = Foreign::of(document(), "w.example.com", "v1");
        // ObjectMeta is the same but for words, Status is another
        let own = |name: &str| match name {
            "ObjectMeta" => {
                Some(json!({"description": "ours", "properties": {"name": {"type": "string"}}}))
            }
            "Status" => Some(json!({"properties": {"code": {"type": "string"}}})),
            _ => None,
        };
        let mut paths = Map::new();
        let added = take_in(&[&f, &f], &mut paths, &own);
        let names: BTreeSet<&str> = added.keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(["Status_v2", "w.Flunder"]));
        let fields = &added["w.Flunder"]["properties"];
        assert_eq!(fields["metadata"]["$ref"], "#/definitions/ObjectMeta");
        assert_eq!(fields["status"]["$ref"], "#/definitions/Status_v2");
        assert_eq!(paths.len(), 1);
    }
}
