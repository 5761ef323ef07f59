//! Who makes a policy read params must be allowed to read them (`pkg/registry/admissionregistration/*/authz.go`).

use knarr_access::Attributes as Question;
use serde_json::Value;

use crate::{
    access,
    admission::{Attributes, Operation, json::text, stored},
    identity::Identity,
    object::meta,
    registry::FieldError,
    server::Inner,
    status::Failure,
};

use super::params::ParamKind;

const GROUP: &str = "admissionregistration.k8s.io";

/// 422 for a `paramKind` or `paramRef` that the requester can't read.
pub fn validate(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    let concerns = a.resource.group == GROUP
        && a.subresource.is_empty()
        && matches!(a.operation, Operation::Create | Operation::Update)
        && !a.who.is_master();
    let Some(object) = a.object.as_ref().filter(|_| concerns) else {
        return Ok(());
    };
    let old = a.old.unwrap_or(&Value::Null);
    let same = |p: &str| object.pointer(p) == old.pointer(p);
    let fault = match a.resource.plural {
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => {
            let fault = if same("/spec/paramKind") {
                None
            } else {
                kind_fault(inner, a.who, &object["spec"])
            };
            fault.map(|why| ("spec.paramKind", why))
        }
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => {
            let known = same("/spec/paramRef") && same("/spec/policyName");
            let fault = if known || !object["spec"]["paramRef"].is_object() {
                None
            } else {
                reference_fault(inner, a, object)
            };
            fault.map(|why| ("spec.paramRef", why))
        }
        _ => None,
    };
    let Some((field, detail)) = fault else {
        return Ok(());
    };
    let errors = [FieldError::Forbidden {
        field: field.into(),
        detail,
    }];
    Err(Failure::invalid(
        GROUP,
        a.resource.kind,
        meta(object, "name"),
        &errors,
    ))
}

/// Group, version and plural that are asked about; `*` for what isn't known.
fn asked(inner: &Inner, kind: Option<&ParamKind>) -> [String; 3] {
    let any = || "*".to_string();
    match kind {
        None => [any(), any(), any()],
        Some(kind) => {
            let (group, version) = kind.group_version();
            let plural = kind.resource(inner);
            let plural = plural.map_or_else(any, |r| r.plural.to_string());
            [group.to_string(), version.to_string(), plural]
        }
    }
}

fn may(
    inner: &Inner,
    who: &Identity,
    verb: &str,
    [group, version, plural]: [String; 3],
    namespace: &str,
    name: &str,
) -> bool {
    let mut question = Question::resource(verb, &group, &plural, namespace, name);
    question.version = version;
    access::decide(inner, who.info(), &question).allowed()
}

/// Go's way to print a user.
fn shown(who: &Identity) -> String {
    let user = who.info();
    let mut extra: Vec<String> = user
        .extra
        .iter()
        .map(|(k, v)| format!("{k}:[{}]", v.join(" ")))
        .collect();
    extra.sort();
    format!(
        "&{{{} {} [{}] map[{}]}}",
        user.name,
        user.uid,
        user.groups.join(" "),
        extra.join(" ")
    )
}

fn kind_fault(inner: &Inner, who: &Identity, spec: &Value) -> Option<String> {
    let kind = ParamKind::read(spec)?;
    let about = asked(inner, Some(&kind));
    (!may(inner, who, "get", about, "*", "*")).then(|| {
        format!(
            "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
            shown(who),
            text(spec, "/paramKind/kind"),
            text(spec, "/paramKind/apiVersion")
        )
    })
}

fn reference_fault(inner: &Inner, a: &Attributes<'_>, binding: &Value) -> Option<String> {
    let name = text(binding, "/spec/policyName");
    let policies = a.resource.plural.replace("policybindings", "policies");
    let policy = stored(inner, GROUP, &policies, "", name);
    let kind = policy.as_ref().and_then(|p| ParamKind::read(&p["spec"]));
    let reference = &binding["spec"]["paramRef"];
    let object = text(reference, "/name");
    let verb = if object.is_empty() { "list" } else { "get" };
    let namespace = text(reference, "/namespace");
    let about = asked(inner, kind.as_ref());
    if may(inner, a.who, verb, about, namespace, object) {
        return None;
    }
    let user = shown(a.who);
    Some(match policy {
        None => format!(
            "unable to get policy {name} to determine minimum required permissions and user {user} does not have \"{verb}\" permission for all groups, versions and resources"
        ),
        Some(_) => format!(
            "user {user} does not have \"{verb}\" permission on the object referenced by paramRef"
        ),
    })
}
