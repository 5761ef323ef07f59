//! CertificateSigningRequest: the rules of kubernetes `pkg/registry/certificates` and `pkg/apis/certificates/validation`.

use super::{
    PLAIN, age,
    cells::{AGE, NAME, column, or_none},
    json::{items, text},
};
use crate::{
    certs, names,
    registry::{FieldError, Lookup, NameRule, Resource, Strategy},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const EXPIRATION_SECONDS_MIN: i64 = 600;
/// Conditions that are there and true, or not there.
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

struct Csr;
struct CsrStatus;
struct CsrApproval;

impl Strategy for Csr {
    fn name(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn prepare_create(&self, o: &mut Value, lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        let who = lookup.requester();
        if let Some(spec) = o.get_mut("spec").and_then(Value::as_object_mut) {
            for key in ["username", "uid", "groups", "extra"] {
                spec.remove(key);
                if let Some(v) = who.get(key).filter(|v| !v.is_null() && **v != "") {
                    spec.insert(key.into(), v.clone());
                }
            }
        }
        o["status"] = json!({});
        Ok(())
    }
    /// Once made, it changes through its subresources only.
    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        new["spec"] = old["spec"].clone();
        new["status"] = old["status"].clone();
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = spec_errors(&o["spec"]);
        condition_errors(o, &mut errors);
        certificate_errors(o, &mut errors);
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        update_errors(new, old, false, false)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        match subresource {
            "status" => Some(&CsrStatus),
            "approval" => Some(&CsrApproval),
            _ => None,
        }
    }
}

impl Strategy for CsrStatus {
    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        new["spec"] = old["spec"].clone();
        for kind in ["Approved", "Denied"] {
            let (before, after) = (places(old, kind), places(new, kind));
            if before.len() == after.len() {
                for (from, to) in before.iter().zip(after) {
                    new["status"]["conditions"][to] = old["status"]["conditions"][*from].clone();
                }
            }
        }
        stamp(new, old);
        Ok(())
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Csr.validate(new);
        errors.extend(update_errors(new, old, false, true));
        errors
    }
}

impl Strategy for CsrApproval {
    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        stamp(new, old);
        let conditions = new.pointer("/status/conditions").cloned();
        new["spec"] = old["spec"].clone();
        new["status"] = old["status"].clone();
        match (conditions, new["status"].as_object_mut()) {
            (Some(c), Some(status)) => status.insert("conditions".into(), c),
            (Some(c), None) => {
                new["status"] = json!({ "conditions": c });
                None
            }
            (None, Some(status)) => status.remove("conditions"),
            (None, None) => None,
        };
        Ok(())
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        update_errors(new, old, true, false)
    }
}

/// Indices of the conditions of a type.
fn places(o: &Value, kind: &str) -> Vec<usize> {
    let all = items(o, "/status/conditions").iter().enumerate();
    all.filter(|(_, c)| c["type"] == kind)
        .map(|(i, _)| i)
        .collect()
}

/// Fills in the times a client left out.
fn stamp(new: &mut Value, old: &Value) {
    let now = crate::object::now();
    let Some(conditions) = new
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    for c in conditions.iter_mut().filter(|c| c.is_object()) {
        if c["lastUpdateTime"].is_null() {
            c["lastUpdateTime"] = now.as_str().into();
        }
        if c["lastTransitionTime"].is_null() {
            let before = items(old, "/status/conditions").iter().find(|o| {
                o["type"] == c["type"]
                    && o["status"] == c["status"]
                    && !o["lastTransitionTime"].is_null()
            });
            let at =
                before.map_or_else(|| now.as_str().into(), |o| o["lastTransitionTime"].clone());
            c["lastTransitionTime"] = at;
        }
    }
}

fn invalid(
    field: impl Into<String>,
    value: impl Into<Value>,
    detail: impl Into<String>,
) -> FieldError {
    FieldError::Invalid {
        field: field.into(),
        value: value.into(),
        detail: detail.into(),
    }
}
fn required(field: impl Into<String>) -> FieldError {
    FieldError::Required {
        field: field.into(),
        detail: String::new(),
    }
}
fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

fn spec_errors(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let request = text(spec, "/request");
    let pem = STANDARD.decode(request).unwrap_or_default();
    if let Err(why) = certs::Request::from_pem(&pem) {
        errors.push(invalid("spec.request", request, why));
    }
    let usages = items(spec, "/usages");
    if usages.is_empty() {
        errors.push(required("spec.usages"));
    }
    for (i, usage) in usages.iter().enumerate() {
        if !USAGES.contains(&usage.as_str().unwrap_or_default()) {
            errors.push(FieldError::NotSupported {
                field: format!("spec.usages[{i}]"),
                value: usage.clone(),
                supported: strings(&USAGES),
            });
        }
    }
    for (i, usage) in usages.iter().enumerate() {
        if usages[..i].contains(usage) {
            errors.push(FieldError::Duplicate {
                field: format!("spec.usages[{i}]"),
                value: usage.clone(),
            });
        }
    }
    let signer = text(spec, "/signerName");
    if signer == LEGACY_SIGNER {
        let why = "the legacy signerName is not allowed via this API version";
        errors.push(invalid("spec.signerName", signer, why));
    } else {
        signer_name("spec.signerName", signer, &mut errors);
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64()
        && seconds < EXPIRATION_SECONDS_MIN
    {
        errors.push(invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    errors
}

/// `ValidateSignerName` of kubernetes `pkg/apis/core/validation`.
pub(crate) fn signer_name(field: &str, name: &str, errors: &mut Vec<FieldError>) {
    const DOMAIN_BYTES_MAX: usize = 253;
    const NAME_BYTES_MAX: usize = DOMAIN_BYTES_MAX + 1 + 253 + 63 + 1;
    let too_long = |max| FieldError::TooLong {
        field: field.into(),
        value: "".into(),
        max,
    };
    if name.is_empty() {
        errors.push(required(field));
        return;
    }
    let segments: Vec<&str> = name.split('/').collect();
    let [domain, path] = segments[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(invalid(field, name, why));
        return;
    };
    if domain.len() > DOMAIN_BYTES_MAX {
        errors.push(too_long(DOMAIN_BYTES_MAX));
    }
    bad_label(field, domain, NameRule::DnsLabel, errors);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(invalid(field, domain, why));
    }
    bad_label(field, path, NameRule::DnsSubdomain, errors);
    if name.len() > NAME_BYTES_MAX {
        errors.push(too_long(NAME_BYTES_MAX));
    }
}

/// Errors of the first part between dots that breaks the rule.
fn bad_label(field: &str, segment: &str, rule: NameRule, errors: &mut Vec<FieldError>) {
    for label in segment.split('.') {
        let messages = names::check(rule, label, false);
        for m in &messages {
            let why = format!("validating label {label:?}: {m}");
            errors.push(invalid(field, segment, why));
        }
        if !messages.is_empty() {
            return;
        }
    }
}

fn condition_errors(o: &Value, errors: &mut Vec<FieldError>) {
    let path = "status.conditions";
    let (mut seen, mut approved, mut denied) = (Vec::new(), false, false);
    for (i, c) in items(o, "/status/conditions").iter().enumerate() {
        let (kind, status) = (text(c, "/type"), text(c, "/status"));
        if kind.is_empty() {
            errors.push(required(format!("{path}[{i}].type")));
        }
        let allowed: &[&str] = match LASTING.contains(&kind) {
            true => &["True"],
            false => &["False", "True", "Unknown"],
        };
        if status.is_empty() {
            errors.push(required(format!("{path}[{i}].status")));
        } else if !allowed.contains(&status) {
            errors.push(FieldError::NotSupported {
                field: format!("{path}[{i}].status"),
                value: status.into(),
                supported: strings(allowed),
            });
        }
        let both = "Approved and Denied conditions are mutually exclusive";
        approved |= kind == "Approved";
        denied |= kind == "Denied";
        if matches!(kind, "Approved" | "Denied") && approved && denied {
            errors.push(invalid(path, kind, both));
        }
        if seen.contains(&kind) {
            errors.push(FieldError::Duplicate {
                field: format!("{path}[{i}].type"),
                value: kind.into(),
            });
        }
        seen.push(kind);
    }
}

fn certificate_errors(o: &Value, errors: &mut Vec<FieldError>) {
    let given = text(o, "/status/certificate");
    if given.is_empty() {
        return;
    }
    let pem = STANDARD.decode(given).unwrap_or_default();
    if let Err(why) = certs::certificates(&pem) {
        errors.push(invalid("status.certificate", "<certificate data>", why));
    }
}

fn update_errors(new: &Value, old: &Value, approving: bool, signing: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut forbid = |field: &str, detail: String| {
        errors.push(FieldError::Forbidden {
            field: field.into(),
            detail,
        })
    };
    let of = |o: &Value, kind: &str| -> Vec<Value> {
        let all = items(o, "/status/conditions").iter();
        all.filter(|c| c["type"] == kind).cloned().collect()
    };
    for kind in LASTING {
        if of(new, kind).len() < of(old, kind).len() {
            let why = format!("updates may not remove a condition of type {kind:?}");
            forbid("status.conditions", why);
        }
    }
    for kind in ["Approved", "Denied"].into_iter().filter(|_| !approving) {
        let (before, after) = (of(old, kind), of(new, kind));
        let verb = match after.len().cmp(&before.len()) {
            std::cmp::Ordering::Less => continue, // told above
            std::cmp::Ordering::Greater => "add",
            std::cmp::Ordering::Equal if before != after => "modify",
            std::cmp::Ordering::Equal => continue,
        };
        let why = format!("updates may not {verb} a condition of type {kind:?}");
        forbid("status.conditions", why);
    }
    let (before, after) = (
        text(old, "/status/certificate"),
        text(new, "/status/certificate"),
    );
    if before != after {
        if !signing {
            let why = "updates may not set certificate content";
            forbid("status.certificate", why.into());
        } else if !before.is_empty() {
            let why = "updates may not modify existing certificate content";
            forbid("status.certificate", why.into());
        }
    }
    errors
}

fn condition(o: &Value) -> String {
    let has = |kind| !places(o, kind).is_empty();
    let mut all = vec![if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }];
    if has("Failed") {
        all.push("Failed");
    }
    if !text(o, "/status/certificate").is_empty() {
        all.push("Issued");
    }
    all.join(",")
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![Resource {
        group: "certificates.k8s.io",
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        namespaced: false,
        has_status: true,
        subresources: &["approval"],
        strategy: &Csr,
        selectable_fields: &[("spec.signerName", |o| text(o, "/spec/signerName").into())],
        columns: const {
            &[
                NAME,
                AGE,
                column("SignerName", "string", |o| {
                    or_none(text(o, "/spec/signerName").into())
                }),
                column("Requestor", "string", |o| text(o, "/spec/username").into()),
                column("RequestedDuration", "string", |o| {
                    let seconds = o["spec"]["expirationSeconds"].as_i64();
                    or_none(seconds.map(age::human).unwrap_or_default())
                }),
                column("Condition", "string", |o| condition(o).into()),
            ]
        },
        ..PLAIN
    }]
}
