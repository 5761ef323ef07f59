//! Values as Go writes upstream's own types: all fields, in the order and by the names of its structs. That is what clients
//! are shown of what they may not change. The table is made by `crates/xtask/go/internal_types.go`.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Fields of the object's metadata, in Go's order.
const METADATA: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];
/// Fields of the API's types that have an order of their own.
const SELECTOR: [&str; 2] = ["matchLabels", "matchExpressions"];
const EXPRESSION: [&str; 3] = ["key", "operator", "values"];

/// Go's name of a field, its JSON name, what it is.
type Field = (&'static str, &'static str, &'static str);

struct Table(HashMap<&'static str, Vec<Field>>);

/// JSON whose fields have an order.
enum Node {
    Plain(String),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

impl Table {
    /// Read when something has to be shown: that is seldom.
    fn read() -> Table {
        let mut types = HashMap::new();
        let mut current = "";
        for line in include_str!("internal.txt").lines() {
            match line.strip_prefix(' ') {
                None => current = line,
                Some(field) => {
                    let mut words = field.split(' ');
                    if let (Some(go), Some(json), Some(of)) =
                        (words.next(), words.next(), words.next())
                    {
                        let fields: &mut Vec<Field> = types.entry(current).or_default();
                        fields.push((go, json, of));
                    }
                }
            }
        }
        Table(types)
    }

    fn of(&self, ty: &str, value: &Value, around: &Value) -> Node {
        if ty == "v1.LabelSelector" {
            return api(value, &SELECTOR);
        }
        let none = Vec::new();
        let fields = self.0.get(ty).unwrap_or(&none);
        let mut out = Vec::with_capacity(fields.len());
        for (go, json, of) in fields {
            if *go == "@" {
                let metadata = &value["metadata"];
                out.extend(METADATA.iter().filter_map(|name| {
                    let value = metadata.get(*name)?;
                    Some(((*name).to_owned(), plain(value)))
                }));
                continue;
            }
            let found = match json.strip_prefix('^') {
                Some(name) => &around[name],
                None => &value[*json],
            };
            out.push(((*go).to_owned(), self.field(of, found, value)));
        }
        Node::Fields(out)
    }

    fn field(&self, of: &str, value: &Value, around: &Value) -> Node {
        let text = |t: &str| Node::Plain(t.to_owned());
        let ty = of.get(1..).unwrap_or_default();
        let nothing = Value::Object(Map::new());
        match (of.as_bytes().first(), value) {
            (Some(b'='), Value::Null) => self.of(ty, &nothing, around),
            (Some(b'=' | b'*'), Value::Object(_)) => self.of(ty, value, around),
            (Some(b'['), Value::Array(all)) => {
                Node::List(all.iter().map(|v| self.of(ty, v, value)).collect())
            }
            (Some(b'{'), Value::Object(all)) => {
                let entry = |(k, v): (&String, &Value)| (k.clone(), self.of(ty, v, value));
                Node::Fields(all.iter().map(entry).collect())
            }
            (Some(b's'), Value::Null) => text("\"\""),
            (Some(b'0'), Value::Null) => text("0"),
            (Some(b'f'), Value::Null) => text("false"),
            (Some(b'q'), Value::Null) => text("\"0\""),
            _ => plain(value),
        }
    }
}

/// A struct of the API itself, which leaves out what isn't there.
fn api(value: &Value, order: &[&str]) -> Node {
    let fields = order.iter().filter_map(|name| {
        let Some(value) = value.get(*name) else {
            // these two are written always
            let text = matches!(*name, "key" | "operator");
            return text.then(|| ((*name).to_owned(), Node::Plain("\"\"".into())));
        };
        let node = match value {
            Value::Array(all) if *name == "matchExpressions" => {
                Node::List(all.iter().map(|e| api(e, &EXPRESSION)).collect())
            }
            other => plain(other),
        };
        Some(((*name).to_owned(), node))
    });
    Node::Fields(fields.collect())
}

fn plain(value: &Value) -> Node {
    match value {
        Value::Array(all) => Node::List(all.iter().map(plain).collect()),
        Value::Object(all) => {
            Node::Fields(all.iter().map(|(k, v)| (k.clone(), plain(v))).collect())
        }
        other => Node::Plain(other.to_string()),
    }
}

impl Node {
    /// `indent`: at this depth, with a line for each part; None: in one line.
    fn write(&self, out: &mut String, indent: Option<usize>) {
        let (open, close, count) = match self {
            Node::Plain(text) => return out.push_str(text),
            Node::List(all) => ('[', ']', all.len()),
            Node::Fields(all) => ('{', '}', all.len()),
        };
        out.push(open);
        let line = |out: &mut String, depth: Option<usize>| {
            if let Some(depth) = depth {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', depth));
            }
        };
        let deeper = indent.map(|d| d + 1);
        for i in 0..count {
            if i > 0 {
                out.push(',');
            }
            line(out, deeper);
            match self {
                Node::List(all) => all[i].write(out, deeper),
                Node::Fields(all) => {
                    let (name, value) = &all[i];
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    if indent.is_some() {
                        out.push(' ');
                    }
                    value.write(out, deeper);
                }
                Node::Plain(_) => {}
            }
        }
        if count > 0 {
            line(out, indent);
        }
        out.push(close);
    }
}

/// A value of upstream's type (`core.PodSpec`), in one line; null when it is null.
pub(crate) fn write(ty: &str, value: &Value) -> String {
    written(ty, value, None)
}

/// The same, line by line as `json.MarshalIndent` breaks it.
pub(crate) fn lines(ty: &str, value: &Value) -> Vec<String> {
    let text = written(ty, value, Some(0));
    text.lines().map(str::to_owned).collect()
}

fn written(ty: &str, value: &Value, indent: Option<usize>) -> String {
    if value.is_null() {
        return "null".into();
    }
    let mut out = String::new();
    Table::read()
        .of(ty, value, &Value::Null)
        .write(&mut out, indent);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_as_go_does() {
        let role = json!({"name": "r", "apiGroup": "g"});
        assert_eq!(
            write("rbac.RoleRef", &role),
            r#"{"APIGroup":"g","Kind":"","Name":"r"}"#
        );
        let claim = json!({"accessModes": ["ReadWriteOnce"], "selector": {"matchExpressions": [{"operator": "In", "key": "k"}], "matchLabels": {"a": "b"}},
            "resources": {"requests": {"storage": "1Gi"}}});
        let text = write("core.PersistentVolumeClaimSpec", &claim);
        assert!(text.starts_with(r#"{"AccessModes":["ReadWriteOnce"],"Selector":{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"In"}]},"Resources":{"Limits":null,"Requests":{"storage":"1Gi"}},"VolumeName":"","#), "{text}");
        let pod = json!({"hostNetwork": true, "securityContext": {"runAsUser": 1}, "containers": [{"name": "c"}]});
        let text = write("core.PodSpec", &pod);
        assert!(
            text.contains(r#""SecurityContext":{"HostNetwork":true,"HostPID":false,"#),
            "{text}"
        );
        assert!(text.contains(r#""EphemeralContainers":null"#), "{text}");
        let template = json!({"metadata": {"labels": {"a": "b"}, "name": "n"}});
        assert!(
            write("core.PodTemplateSpec", &template)
                .starts_with(r#"{"name":"n","labels":{"a":"b"},"Spec":{"Volumes":null,"#)
        );
        assert_eq!(
            lines("rbac.RoleRef", &role),
            [
                "{",
                " \"APIGroup\": \"g\",",
                " \"Kind\": \"\",",
                " \"Name\": \"r\"",
                "}"
            ]
        );
        assert_eq!(write("rbac.RoleRef", &Value::Null), "null");
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        let table = Table::read();
        for (ty, fields) in &table.0 {
            for (_, _, of) in fields {
                let named = of.trim_start_matches(['=', '*', '[', '{']);
                let known = named.len() == of.len()
                    || named == "v1.LabelSelector"
                    || table.0.contains_key(named);
                assert!(known, "{ty}: {of}");
            }
        }
    }
}
