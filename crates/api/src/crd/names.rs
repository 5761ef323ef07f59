//! Conditions of a definition and the names it may have: apiextensions-apiserver `pkg/controller/{status,establish,apiapproval}`.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::definition::{Definition, condition};
use crate::object;

/// Names that the other definitions of a group have.
#[derive(Default)]
pub struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    /// Those of these definitions that are of the group.
    pub fn of<'d>(group: &str, all: impl Iterator<Item = &'d Definition>) -> Taken {
        let mut taken = Taken::default();
        for d in all.filter(|d| d.group == group) {
            let resources = [d.plural, d.singular].into_iter();
            let resources = resources.chain(d.short_names.iter().copied());
            taken.resources.extend(resources.map(str::to_owned));
            let kinds = [d.kind, d.list_kind].into_iter();
            taken.kinds.extend(kinds.map(str::to_owned));
        }
        for set in [&mut taken.resources, &mut taken.kinds] {
            set.remove("");
        }
        taken
    }
}

/// Sets a condition; its time changes with its status alone.
pub fn set(o: &mut Value, ty: &str, status: bool, reason: &str, message: &str) {
    let status = if status { "True" } else { "False" };
    if !o["status"]["conditions"].is_array() {
        o["status"]["conditions"] = json!([]);
    }
    let Some(all) = o["status"]["conditions"].as_array_mut() else {
        return;
    };
    let now = object::now();
    match all.iter_mut().find(|c| c["type"] == ty) {
        Some(c) => {
            if c["status"] != status {
                c["lastTransitionTime"] = now.into();
            }
            c["status"] = status.into();
            c["reason"] = reason.into();
            c["message"] = message.into();
        }
        None => all.push(
            json!({"type": ty, "status": status, "lastTransitionTime": now,
            "reason": reason, "message": message}),
        ),
    }
}

fn remove(o: &mut Value, ty: &str) {
    if let Some(all) = o["status"]["conditions"].as_array_mut() {
        all.retain(|c| c["type"] != ty);
    }
}

/// Gives the definition the names that nobody else has, and says so in its conditions. `refused` tells why it can't be
/// served even so. Nothing changes when nothing is to be said.
pub fn settle(o: &mut Value, taken: &Taken, refused: Option<&str>) {
    approval(o);
    // every schema is structural, or it would not have been let in
    remove(o, "NonStructuralSchema");
    let wanted = o["spec"]["names"].clone();
    let accepted = o["status"]["acceptedNames"].clone();
    let settled = condition(o, "NamesAccepted") == Some("True")
        && condition(o, "Established") == Some("True");
    if settled && wanted == accepted && refused.is_none() {
        return;
    }
    let mut new = accepted.clone();
    let mut conflict: Option<(&str, String)> = None;
    let free = |wanted: &Value, accepted: &Value, set: &HashSet<String>| -> Result<(), String> {
        let w = wanted.as_str().unwrap_or("");
        if w == accepted.as_str().unwrap_or("") || !set.contains(w) {
            return Ok(());
        }
        Err(format!("{w:?} is already in use"))
    };
    for (key, set, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let result = if key == "shortNames" {
            let empty = vec![];
            let mine = accepted[key].as_array().unwrap_or(&empty);
            let all = wanted[key].as_array().unwrap_or(&empty);
            let wrong: Vec<String> = all
                .iter()
                .filter(|n| !mine.contains(n))
                .filter_map(|n| free(n, &Value::Null, set).err())
                .collect();
            match wrong.as_slice() {
                [] => Ok(()),
                [one] => Err(one.clone()),
                many => Err(format!("[{}]", many.join(", "))),
            }
        } else {
            free(&wanted[key], &accepted[key], set)
        };
        match result {
            Ok(()) => copy(&mut new, &wanted, key),
            Err(why) => conflict = Some((reason, why)),
        }
    }
    copy(&mut new, &wanted, "categories");
    o["status"]["acceptedNames"] = new;
    match conflict {
        Some((reason, message)) => {
            set(o, "NamesAccepted", false, reason, &message);
            if condition(o, "Established").is_none() {
                set(
                    o,
                    "Established",
                    false,
                    "NotAccepted",
                    "not all names are accepted",
                );
            }
        }
        None => {
            set(
                o,
                "NamesAccepted",
                true,
                "NoConflicts",
                "no conflicts found",
            );
            if let Some(why) = refused {
                set(o, "Established", false, "NotServed", why);
            } else if condition(o, "Established") != Some("True") {
                set(
                    o,
                    "Established",
                    true,
                    "InitialNamesAccepted",
                    "the initial names have been accepted",
                );
            }
        }
    }
}

fn copy(to: &mut Value, from: &Value, key: &str) {
    match (&from[key], to.as_object_mut()) {
        (Value::Null, Some(map)) => {
            map.remove(key);
        }
        (value, _) => to[key] = value.clone(),
    }
}

/// Groups of the community need an approval: `KubernetesAPIApprovalPolicyConformant`.
fn approval(o: &mut Value) {
    use super::rules::Approval;
    let Some((state, message)) = super::rules::approval(o) else {
        return;
    };
    let (status, reason) = match state {
        Approval::Missing => (false, "MissingAnnotation"),
        Approval::Invalid => (false, "InvalidAnnotation"),
        Approval::Bypassed => (false, "UnapprovedAnnotation"),
        Approval::Approved => (true, "ApprovedAnnotation"),
    };
    set(
        o,
        "KubernetesAPIApprovalPolicyConformant",
        status,
        reason,
        &message,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, shorts: &[&str]) -> Value {
        json!({"spec": {"group": "x.io", "names": {"plural": plural, "singular": kind.to_lowercase(),
            "kind": kind, "listKind": format!("{kind}List"), "shortNames": shorts}},
            "status": {"acceptedNames": {"plural": "", "kind": ""}}})
    }

    #[test]
    fn names_go_to_who_asks_first() {
        let mut taken = Taken::default();
        let mut free = definition("foos", "Foo", &["f"]);
        settle(&mut free, &taken, None);
        assert_eq!(condition(&free, "Established"), Some("True"));
        assert_eq!(free["status"]["acceptedNames"], free["spec"]["names"]);
        let before = free.clone();
        taken.resources.insert("foos".into());
        settle(&mut free, &taken, None);
        assert_eq!(free, before, "what was given stays");

        taken.kinds.insert("Bar".into());
        taken.resources.insert("b".into());
        let mut late = definition("bars", "Bar", &["b"]);
        settle(&mut late, &taken, None);
        assert_eq!(condition(&late, "NamesAccepted"), Some("False"));
        assert_eq!(condition(&late, "Established"), Some("False"));
        let accepted = &late["status"]["acceptedNames"];
        assert_eq!(
            (accepted["plural"].as_str(), accepted["kind"].as_str()),
            (Some("bars"), Some(""))
        );
        assert!(
            late.to_string().contains(r#"\"Bar\" is already in use"#),
            "{late}"
        );

        settle(&mut late, &Taken::default(), None);
        assert_eq!(condition(&late, "NamesAccepted"), Some("True"));
        assert_eq!(condition(&late, "Established"), Some("True"));
        assert_eq!(late["status"]["acceptedNames"], late["spec"]["names"]);
    }

    #[test]
    fn what_cannot_be_served_says_so_until_it_can() {
        let taken = Taken::default();
        let mut o = definition("foos", "Foo", &[]);
        set(
            &mut o,
            "NonStructuralSchema",
            true,
            "Violations",
            "by a client",
        );
        settle(&mut o, &taken, Some("too many"));
        assert_eq!(condition(&o, "NamesAccepted"), Some("True"));
        assert_eq!(condition(&o, "Established"), Some("False"));
        assert_eq!(condition(&o, "NonStructuralSchema"), None);
        assert!(o.to_string().contains("too many"), "{o}");
        let before = o.clone();
        settle(&mut o, &taken, Some("too many"));
        assert_eq!(o, before);
        settle(&mut o, &taken, None);
        assert_eq!(condition(&o, "Established"), Some("True"));
    }
}
