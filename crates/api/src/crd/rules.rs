//! What the API refuses in a CustomResourceDefinition: apiextensions-apiserver `pkg/apis/apiextensions/validation`.

use knarr_structural::{
    Path,
    definition::{self, Strictness},
};
use serde_json::Value;

use super::{cel, definition::condition, errors::told};
use crate::{
    names,
    registry::{FieldError, NameRule},
};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];
const FIELDS_MAX: usize = 8;
const APPROVED: &str = "api-approved.kubernetes.io";

/// What is wrong with a new definition.
pub fn validate(o: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    let (plural, group) = (
        text(&o["spec"]["names"], "plural"),
        text(&o["spec"], "group"),
    );
    if o["metadata"]["name"] != format!("{plural}.{group}") {
        let value = o["metadata"]["name"].clone();
        e.invalid(
            "metadata.name",
            value,
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
    spec(o, None, Strictness::FULL, true, &mut e);
    e.status(o);
    e.stored(o);
    e.approval(o, None);
    e.preserve(o, None);
    e.0
}

/// What is wrong with a changed definition.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    let schemas = schemas(old);
    let mut strictness = Strictness::after(schemas.iter().copied());
    if old["spec"]["preserveUnknownFields"] != true {
        strictness.structural = true;
    }
    let all_have = versions(old)
        .iter()
        .all(|v| v.pointer("/schema/openAPIV3Schema").is_some());
    spec(new, Some(old), strictness, all_have, &mut e);
    let mut same = |field: &str, pointer: &str| {
        if new.pointer(pointer) != old.pointer(pointer) {
            let value = new.pointer(pointer).cloned().unwrap_or_default();
            e.invalid(field, value, "field is immutable");
        }
    };
    if condition(old, "Established") == Some("True") {
        same("spec.scope", "/spec/scope");
        same("spec.names.kind", "/spec/names/kind");
    }
    same("spec.group", "/spec/group");
    same("spec.names.plural", "/spec/names/plural");
    e.status(new);
    e.stored(new);
    e.approval(new, Some(old));
    e.preserve(new, Some(old));
    e.0
}

/// What is wrong with a status that somebody wrote.
pub fn validate_status(new: &Value) -> Vec<FieldError> {
    let mut e = Errors::default();
    e.status(new);
    e.0
}

/// Formats that no value is checked by.
pub fn unknown_formats(o: &Value) -> Vec<String> {
    schemas(o)
        .into_iter()
        .flat_map(definition::unknown_formats)
        .collect()
}

/// How a definition of a community's group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    Missing,
    Invalid,
    Bypassed,
    Approved,
}

/// The approval of a definition, and upstream's words on it; None when its group needs none.
pub fn approval(o: &Value) -> Option<(Approval, String)> {
    let group = text(&o["spec"], "group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|d| group == *d || group.strip_suffix(d).is_some_and(|g| g.ends_with('.')));
    if !protected {
        return None;
    }
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let given = o["metadata"]["annotations"][APPROVED]
        .as_str()
        .unwrap_or("");
    let host = given.split_once("://").map(|(scheme, rest)| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or("");
        !scheme.is_empty() && !host.is_empty()
    });
    Some(match given {
        "" => (
            Approval::Missing,
            format!("protected groups must have approval annotation {APPROVED:?}, {see}"),
        ),
        g if g.starts_with("unapproved") => (Approval::Bypassed, format!("not approved: {g:?}")),
        g if host == Some(true) => (Approval::Approved, format!("approved in {g}")),
        _ => (
            Approval::Invalid,
            format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"
            ),
        ),
    })
}

fn text<'v>(v: &'v Value, key: &str) -> &'v str {
    v[key].as_str().unwrap_or("")
}

fn versions(o: &Value) -> &[Value] {
    o["spec"]["versions"].as_array().map_or(&[], Vec::as_slice)
}

/// The schemas of all versions.
pub fn schemas(o: &Value) -> Vec<&Value> {
    versions(o)
        .iter()
        .filter_map(|v| v.pointer("/schema/openAPIV3Schema"))
        .collect()
}

/// Where a part of version `i` is in errors: upstream lifts what all versions have alike out of the versions.
pub fn place(o: &Value, i: usize, key: &str) -> String {
    let all = versions(o);
    let alike = !all.is_empty() && all.iter().all(|v| v[key] == all[0][key]);
    match (alike, key) {
        (true, "schema") => "spec.validation".into(),
        (true, key) => format!("spec.{key}"),
        (false, key) => format!("spec.versions[{i}].{key}"),
    }
}

#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, e: FieldError) {
        // what all versions have alike is told once
        if !self.0.contains(&e) {
            self.0.push(e);
        }
    }
    fn invalid(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldError::Invalid {
            field: field.into(),
            value: value.into(),
            detail: detail.into(),
        });
    }
    fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.push(FieldError::Required {
            field: field.into(),
            detail: detail.into(),
        });
    }
    fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push(FieldError::Forbidden {
            field: field.into(),
            detail: detail.into(),
        });
    }
    fn label(&mut self, field: &str, value: &str, kind: bool) {
        let name = if kind {
            value.to_lowercase()
        } else {
            value.to_owned()
        };
        let wrong = names::check(NameRule::Dns1035Label, &name, false);
        if value.is_empty() || wrong.is_empty() {
            return;
        }
        let wrong = wrong.join(",");
        let detail = if kind {
            format!("may have mixed case, but should otherwise match: {wrong}")
        } else {
            wrong
        };
        self.invalid(field, value, detail);
    }

    fn names(&mut self, names: &Value, at: &str) {
        for (key, kind) in [
            ("plural", false),
            ("singular", false),
            ("kind", true),
            ("listKind", true),
        ] {
            self.label(&format!("{at}.{key}"), text(names, key), kind);
        }
        for key in ["shortNames", "categories"] {
            for (i, name) in names[key].as_array().into_iter().flatten().enumerate() {
                let name = name.as_str().unwrap_or("");
                let field = format!("{at}.{key}[{i}]");
                let wrong = names::check(NameRule::Dns1035Label, name, false);
                if !wrong.is_empty() {
                    self.invalid(field, name, wrong.join(","));
                }
            }
        }
        let kind = text(names, "kind");
        if !kind.is_empty() && kind == text(names, "listKind") {
            let field = format!("{at}.listKind");
            self.invalid(field, kind, "kind and listKind may not be the same");
        }
    }

    fn status(&mut self, o: &Value) {
        self.names(&o["status"]["acceptedNames"], "status.acceptedNames");
    }

    fn stored(&mut self, o: &Value) {
        let field = "status.storedVersions";
        let list = &o["status"]["storedVersions"];
        let stored: Vec<&str> = list
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if stored.is_empty() {
            return self.invalid(
                field,
                Value::Array(vec![]),
                "must have at least one stored version",
            );
        }
        for v in versions(o) {
            let name = text(v, "name");
            if v["storage"] == true && !stored.contains(&name) {
                self.invalid(
                    field,
                    list.clone(),
                    format!("must have the storage version {name}"),
                );
            }
        }
        for (i, name) in stored.into_iter().enumerate() {
            if !versions(o).iter().any(|v| text(v, "name") == name) {
                self.invalid(
                    format!("{field}[{i}]"),
                    name,
                    format!("missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"),
                );
            }
        }
    }

    fn approval(&mut self, new: &Value, old: Option<&Value>) {
        let Some((state, why)) = approval(new) else {
            return;
        };
        if old
            .and_then(approval)
            .is_some_and(|(before, _)| before == state)
        {
            return;
        }
        let field = format!("metadata.annotations[{APPROVED}]");
        match state {
            Approval::Missing => self.required(field, &why),
            Approval::Invalid => {
                let value = new["metadata"]["annotations"][APPROVED].clone();
                self.invalid(field, value, why);
            }
            Approval::Bypassed | Approval::Approved => {}
        }
    }

    fn preserve(&mut self, new: &Value, old: Option<&Value>) {
        let set = |o: &Value| o["spec"]["preserveUnknownFields"] == true;
        if set(new) && !old.is_some_and(set) {
            self.invalid(
                "spec.preserveUnknownFields",
                true,
                "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
            );
        }
    }
}

fn spec(
    o: &Value,
    old: Option<&Value>,
    strictness: Strictness,
    schemas_required: bool,
    e: &mut Errors,
) {
    let s = &o["spec"];
    let group = text(s, "group");
    let wrong = names::check(NameRule::DnsSubdomain, group, false);
    if group.is_empty() {
        e.required("spec.group", "");
    } else if !wrong.is_empty() {
        e.invalid("spec.group", group, wrong.join(","));
    } else if !group.contains('.') {
        e.invalid(
            "spec.group",
            group,
            "should be a domain with at least one dot",
        );
    }
    match text(s, "scope") {
        "" => e.required("spec.scope", ""),
        "Cluster" | "Namespaced" => {}
        other => e.push(FieldError::NotSupported {
            field: "spec.scope".into(),
            value: other.into(),
            supported: vec!["Cluster".into(), "Namespaced".into()],
        }),
    }
    let all = versions(o);
    for (i, v) in all.iter().enumerate() {
        if v.pointer("/schema/openAPIV3Schema").is_some() {
            continue;
        }
        let field = format!("spec.versions[{i}].schema.openAPIV3Schema");
        if schemas_required {
            e.required(field, "");
        } else if v["served"] == true && s["preserveUnknownFields"] != true {
            e.required(field, "because otherwise all fields are pruned");
        }
    }
    for (i, v) in all.iter().enumerate() {
        let name = text(v, "name");
        let wrong = names::check(NameRule::Dns1035Label, name, false);
        if !wrong.is_empty() {
            e.invalid(format!("spec.versions[{i}].name"), name, wrong.join(","));
        }
        version((o, old), v, i, strictness, e);
    }
    let given = s["versions"].clone();
    let mut seen = std::collections::HashSet::new();
    if !all.iter().all(|v| seen.insert(text(v, "name"))) {
        e.invalid(
            "spec.versions",
            given.clone(),
            "must contain unique version names",
        );
    }
    if all.iter().filter(|v| v["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        e.invalid("spec.versions", given, detail);
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(&s["names"], key).is_empty() {
            e.required(format!("spec.names.{key}"), "");
        }
    }
    e.names(&s["names"], "spec.names");
    conversion(&s["conversion"], e);
}

fn version(
    (o, old): (&Value, Option<&Value>),
    v: &Value,
    i: usize,
    strictness: Strictness,
    e: &mut Errors,
) {
    let status = v.pointer("/subresources/status").is_some();
    if let Some(warning) = v["deprecationWarning"].as_str() {
        let mut wrong = |why: String| {
            e.invalid(
                format!("spec.versions[{i}].deprecationWarning"),
                warning,
                why,
            );
        };
        if v["deprecated"] != true {
            wrong("can only be set for deprecated versions".into());
        } else {
            if warning.len() > 256 {
                wrong("must be <= 256 characters long".into());
            }
            if warning.is_empty() {
                wrong("must not be an empty string".into());
            }
            if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
                wrong(format!(
                    "must only contain printable UTF-8 characters; non-printable character found at index {at}"
                ));
            }
        }
    }
    let raw = v.pointer("/schema/openAPIV3Schema");
    if let Some(raw) = raw {
        let at = format!("{}.openAPIV3Schema", place(o, i, "schema"));
        let wrong = definition::check(raw, &Path::at(&at), status, strictness);
        if wrong.is_empty() && strictness.structural {
            defaults(raw, &at, e);
            let was = old.and_then(|o| {
                let same = versions(o).iter().find(|w| w["name"] == v["name"])?;
                same.pointer("/schema/openAPIV3Schema")
            });
            for error in cel::check(raw, &at, was == Some(raw)) {
                e.push(error);
            }
        }
        for error in wrong {
            e.push(told(error));
        }
    }
    if let Some(scale) = v.pointer("/subresources/scale") {
        let at = format!("{}.scale", place(o, i, "subresources"));
        scale_paths(scale, &at, e);
    }
    let at = place(o, i, "additionalPrinterColumns");
    let columns = v["additionalPrinterColumns"].as_array();
    for (k, c) in columns.into_iter().flatten().enumerate() {
        column(c, &format!("{at}[{k}]"), e);
    }
    let at = place(o, i, "selectableFields");
    let fields = v["selectableFields"].as_array().filter(|f| !f.is_empty());
    match (fields, raw) {
        (Some(fields), Some(raw)) => selectable(fields, raw, &at, e),
        (Some(_), None) => e.invalid(
            at,
            "",
            "may only be set when `version.schema.openAPIV3Schema` is not included",
        ),
        _ => {}
    }
}

/// Defaults must hold by the rules of their schemas.
fn defaults(raw: &Value, at: &str, e: &mut Errors) {
    let Some(map) = raw.as_object() else { return };
    if let (Some(default), Some(tree)) = (map.get("default"), cel::Tree::read(raw)) {
        let schema = knarr_structural::Schema::read(raw);
        for mut error in cel::validate(&tree, default, None, &schema) {
            let field = match error.field() {
                "<nil>" | "" => format!("{at}.default"),
                below => format!("{at}.default.{below}"),
            };
            *error.field_mut() = field;
            e.push(error);
        }
    }
    for (k, p) in raw["properties"].as_object().into_iter().flatten() {
        defaults(p, &format!("{at}.properties[{k}]"), e);
    }
    if raw["items"].is_object() {
        defaults(&raw["items"], &format!("{at}.items"), e);
    }
}

fn simple_path(path: &str, field: &str, e: &mut Errors) -> bool {
    if !path.starts_with('.') {
        e.invalid(field, path, "must be a simple json path starting with .");
        return false;
    }
    true
}

fn scale_paths(scale: &Value, at: &str, e: &mut Errors) {
    for (key, root) in [
        ("specReplicasPath", ".spec."),
        ("statusReplicasPath", ".status."),
    ] {
        let (path, field) = (text(scale, key), format!("{at}.{key}"));
        if path.is_empty() {
            e.required(field, "");
        } else if simple_path(path, &field, e) && !path.starts_with(root) {
            let under = root.trim_end_matches('.');
            e.invalid(field, path, format!("should be a json path under {under}"));
        }
    }
    let (path, field) = (
        text(scale, "labelSelectorPath"),
        format!("{at}.labelSelectorPath"),
    );
    if !path.is_empty()
        && simple_path(path, &field, e)
        && ![".spec.", ".status."].iter().any(|r| path.starts_with(r))
    {
        e.invalid(
            field,
            path,
            "should be a json path under either .spec or .status",
        );
    }
}

fn column(c: &Value, at: &str, e: &mut Errors) {
    if text(c, "name").is_empty() {
        e.required(format!("{at}.name"), "");
    }
    let (ty, field) = (text(c, "type"), format!("{at}.type"));
    let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
    if ty.is_empty() {
        e.required(field, &detail);
    } else if !COLUMN_TYPES.contains(&ty) {
        e.invalid(field, ty, detail);
    }
    let format = text(c, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
        e.invalid(format!("{at}.format"), format, detail);
    }
    let (path, field) = (text(c, "jsonPath"), format!("{at}.JSONPath"));
    if path.is_empty() {
        e.required(field, "");
    } else {
        simple_path(path, &field, e);
    }
}

fn selectable(fields: &[Value], schema: &Value, at: &str, e: &mut Errors) {
    let mut seen = Vec::new();
    for (i, f) in fields.iter().enumerate() {
        let (path, field) = (text(f, "jsonPath"), format!("{at}[{i}].jsonPath"));
        if path.is_empty() {
            e.required(field, "");
            continue;
        }
        match definition::field_path(path, schema, false) {
            Err(why) => e.invalid(field, path, format!("is an invalid path: {why}")),
            Ok((names, found)) => {
                if names.first().is_some_and(|n| n == "metadata") {
                    e.invalid(&field, path, "must not point to fields in metadata");
                }
                if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
                    e.invalid(&field, path, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
                }
                if seen.contains(&names) {
                    e.push(FieldError::Duplicate {
                        field,
                        value: path.into(),
                    });
                } else {
                    seen.push(names);
                }
            }
        }
    }
    if seen.len() > FIELDS_MAX {
        e.push(FieldError::TooMany {
            field: at.into(),
            actual: seen.len(),
            max: FIELDS_MAX,
        });
    }
}

fn conversion(c: &Value, e: &mut Errors) {
    if c.is_null() {
        return;
    }
    let strategy = text(c, "strategy");
    match strategy {
        "" => e.required("spec.conversion.strategy", ""),
        "None" | "Webhook" => {}
        other => e.push(FieldError::NotSupported {
            field: "spec.conversion.strategy".into(),
            value: other.into(),
            supported: vec!["None".into(), "Webhook".into()],
        }),
    }
    let webhook = &c["webhook"];
    let reviews = webhook["conversionReviewVersions"].as_array();
    let client = &webhook["clientConfig"];
    let at = "spec.conversion.webhookClientConfig";
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if client.is_object() {
            e.forbidden(at, detail);
        }
        if reviews.is_some_and(|l| !l.is_empty()) {
            e.forbidden("spec.conversion.conversionReviewVersions", detail);
        }
        return;
    }
    if !client.is_object() {
        e.required(at, "required when strategy is set to Webhook");
    } else {
        match (client["url"].as_str(), client["service"].is_object()) {
            (Some(url), false) => webhook_url(url, &format!("{at}.url"), e),
            (None, true) => webhook_service(&client["service"], &format!("{at}.service"), e),
            _ => e.required(at, "exactly one of url or service is required"),
        }
    }
    let at = "spec.conversion.conversionReviewVersions";
    let reviews: Vec<&str> = reviews
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if reviews.is_empty() {
        return e.required(at, "");
    }
    for (i, v) in reviews.iter().enumerate() {
        if reviews[..i].contains(v) {
            e.invalid(format!("{at}[{i}]"), *v, "duplicate version");
        }
        for wrong in names::check(NameRule::Dns1035Label, v, false) {
            e.invalid(format!("{at}[{i}]"), *v, wrong);
        }
    }
    if !reviews.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        let detail = "must include at least one of v1, v1beta1";
        e.invalid(at, webhook["conversionReviewVersions"].clone(), detail);
    }
}

fn webhook_url(url: &str, at: &str, e: &mut Errors) {
    let form = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{form}");
        e.invalid(at, scheme, detail);
    }
    if host.is_empty() || scheme.is_empty() {
        e.invalid(at, "", format!("host must be specified{form}"));
    }
    if let Some((user, _)) = host.split_once('@') {
        e.invalid(at, user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = url.split_once('#') {
        e.invalid(at, fragment, "fragments are not permitted in the URL");
    }
    let plain = url.split('#').next().unwrap_or("");
    if let Some((_, query)) = plain.split_once('?') {
        e.invalid(at, query, "query parameters are not permitted in the URL");
    }
}

fn webhook_service(service: &Value, at: &str, e: &mut Errors) {
    for key in ["name", "namespace"] {
        if text(service, key).is_empty() {
            e.required(format!("{at}.{key}"), "");
        }
    }
    let port = service["port"].as_i64().unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        e.invalid(format!("{at}.port"), port, detail);
    }
    let path = text(service, "path");
    if !path.is_empty() && !path.starts_with('/') {
        e.invalid(format!("{at}.path"), path, "must start with a '/'");
    }
}
