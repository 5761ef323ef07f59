//! Reads what only the Go sources of the API types say: protobuf numbers, Go type names (decoding errors speak of them), and which JSON fields come from embedded structs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

/// One field line of a Go struct that carries a `json:` tag.
#[derive(Debug, Clone)]
pub struct GoField {
    /// Empty for an inlined (embedded) struct.
    pub json: String,
    pub go_type: String,
    pub protobuf: Option<u32>,
    pub omit_empty: bool,
    pub omit_zero: bool,
}

/// The structs and named types of one Go package.
#[derive(Debug, Default)]
pub struct Package {
    /// The last element of the import path, as error messages print it (`v1`).
    pub name: String,
    pub structs: BTreeMap<String, Vec<GoField>>,
}

/// Reads all hand-written `.go` files of a folder.
pub fn read_package(dir: &Path) -> anyhow::Result<Package> {
    let mut package = Package {
        name: dir
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
        ..Package::default()
    };
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if !name.ends_with(".go")
            || name.starts_with("zz_")
            || name.ends_with("_test.go")
            || name == "generated.pb.go"
        {
            continue;
        }
        read_structs(&std::fs::read_to_string(&path)?, &mut package.structs);
    }
    Ok(package)
}

fn read_structs(source: &str, into: &mut BTreeMap<String, Vec<GoField>>) {
    let mut current: Option<(String, Vec<GoField>)> = None;
    for line in source.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("type ") {
            if let Some(name) = rest.strip_suffix(" struct {") {
                current = Some((name.trim().to_owned(), Vec::new()));
            }
        } else if line == "}" {
            if let Some((name, fields)) = current.take() {
                into.insert(name, fields);
            }
        } else if let Some((_, fields)) = current.as_mut()
            && !line.starts_with("//")
            && let Some(field) = read_field(line)
        {
            fields.push(field);
        }
    }
}

fn read_field(line: &str) -> Option<GoField> {
    let (decl, tags) = line.split_once('`')?;
    let json_tag = tag(tags, "json:\"")?;
    let (json, options) = json_tag.split_once(',').unwrap_or((json_tag, ""));
    let words: Vec<&str> = decl.split_whitespace().collect();
    let go_type = (*words.last()?).to_owned();
    let protobuf = tag(tags, "protobuf:\"")
        .and_then(|t| t.split(',').nth(1))
        .and_then(|n| n.parse().ok());
    let inline = words.len() == 1 || options.split(',').any(|o| o == "inline");
    if json == "-" || (json.is_empty() && !inline) {
        return None;
    }
    let has = |option: &str| options.split(',').any(|o| o == option);
    let (omit_empty, omit_zero) = (has("omitempty") || has("omitzero"), has("omitzero"));
    Some(GoField {
        json: json.to_owned(),
        go_type,
        protobuf,
        omit_empty,
        omit_zero,
    })
}

fn tag<'a>(tags: &'a str, start: &str) -> Option<&'a str> {
    let at = tags.find(start)? + start.len();
    let rest = &tags[at..];
    Some(&rest[..rest.find('"')?])
}

/// A JSON field of a struct with embedded structs flattened: the protobuf path goes through the embedded messages.
#[derive(Debug, Clone)]
pub struct FlatField {
    pub go_type: String,
    pub protobuf: Vec<u32>,
    pub omit_empty: bool,
    pub omit_zero: bool,
    /// The embedded structs on the way (decoding errors name them).
    pub via: Vec<String>,
}

impl Package {
    /// The struct's JSON fields by name; None when the package has no such struct.
    pub fn flatten(&self, name: &str) -> Option<BTreeMap<String, FlatField>> {
        let mut out = BTreeMap::new();
        self.flatten_into(name, &[], &[], &mut out)?;
        Some(out)
    }

    fn flatten_into(
        &self,
        name: &str,
        prefix: &[u32],
        via: &[String],
        out: &mut BTreeMap<String, FlatField>,
    ) -> Option<()> {
        for field in self.structs.get(name)? {
            let path: Vec<u32> = prefix.iter().copied().chain(field.protobuf).collect();
            // An embedded struct without a number isn't in the message, and nothing in it is.
            let complete = field.protobuf.is_some() && path.len() == via.len() + 1;
            if field.json.is_empty() {
                let embedded = field.go_type.trim_start_matches('*');
                let via: Vec<String> = via.iter().cloned().chain([embedded.to_owned()]).collect();
                self.flatten_into(embedded, &path, &via, out);
            } else {
                out.insert(
                    field.json.clone(),
                    FlatField {
                        go_type: field.go_type.clone(),
                        protobuf: if complete { path } else { Vec::new() },
                        omit_empty: field.omit_empty,
                        omit_zero: field.omit_zero,
                        via: via.to_vec(),
                    },
                );
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
type Outer struct {
	metav1.TypeMeta `json:",inline"`
	// Said in words.
	Plain *int32 `json:"plain,omitempty" protobuf:"varint,1,opt,name=plain"`
	Inner `json:",inline" protobuf:"bytes,2,opt,name=inner"`
	Lost string
	// Old string `json:"old" protobuf:"bytes,9,opt,name=old"`
	At metav1.Time `json:"at,omitempty,omitzero" protobuf:"bytes,3,opt,name=at"`
}
type Inner struct {
	Deep []Kind `json:"deep" protobuf:"bytes,7,rep,name=deep"`
}
"#;

    #[test]
    fn embedded_structs_are_flattened_with_their_protobuf_path() {
        let mut package = Package::default();
        read_structs(SOURCE, &mut package.structs);
        let fields = package.flatten("Outer").unwrap();
        let check =
            |name: &str, go_type: &str, protobuf: &[u32], omit: (bool, bool), via: &[&str]| {
                let f = &fields[name];
                assert_eq!(
                    (
                        f.go_type.as_str(),
                        f.protobuf.as_slice(),
                        (f.omit_empty, f.omit_zero)
                    ),
                    (go_type, protobuf, omit),
                    "{name}"
                );
                assert_eq!(f.via, via, "{name}");
            };
        check("plain", "*int32", &[1], (true, false), &[]);
        check("deep", "[]Kind", &[2, 7], (false, false), &["Inner"]);
        check("at", "metav1.Time", &[3], (true, true), &[]);
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["at", "deep", "plain"]);
    }
}
