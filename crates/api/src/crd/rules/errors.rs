//! The places and messages of what is refused.

use serde_json::Value;

use super::{APPROVED, Approval, approval, text, versions};
use crate::{
    names,
    registry::{FieldError, NameRule},
};

#[derive(Default)]
pub(super) struct Errors(pub(super) Vec<FieldError>);

impl Errors {
    pub(super) fn push(&mut self, e: FieldError) {
        // what all versions have alike is told once
        if !self.0.contains(&e) {
            self.0.push(e);
        }
    }
    pub(super) fn invalid(
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
    pub(super) fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.push(FieldError::Required {
            field: field.into(),
            detail: detail.into(),
        });
    }
    pub(super) fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push(FieldError::Forbidden {
            field: field.into(),
            detail: detail.into(),
        });
    }
    pub(super) fn label(&mut self, field: &str, value: &str, kind: bool) {
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

    pub(super) fn names(&mut self, names: &Value, at: &str) {
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

    pub(super) fn status(&mut self, o: &Value) {
        self.names(&o["status"]["acceptedNames"], "status.acceptedNames");
    }

    pub(super) fn stored(&mut self, o: &Value) {
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

    pub(super) fn approval(&mut self, new: &Value, old: Option<&Value>) {
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

    pub(super) fn preserve(&mut self, new: &Value, old: Option<&Value>) {
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
