//! Projected volumes: several sources in one directory.

use super::super::{
    path::{Errors, Path},
    pod::env,
    rules, selectors,
};
use super::{key_to_path, mode};
use crate::kinds::json::{list, str_of};
use serde_json::Value;
use std::collections::HashSet;

const FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const KEY_TYPES: [&str; 6] = [
    "RSA3072",
    "RSA4096",
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
];
const TWICE: &str = "conflicting duplicate paths";

/// A file with a field of the Pod or an amount of a container's resources.
pub(super) fn downward_file(file: &Value, at: &Path<'_>, errors: &mut Errors) {
    let path = str_of(file, "path");
    let place = at.child("path");
    if path.is_empty() {
        errors.required(&place, "");
    }
    rules::unreserved_path(path, &place, errors);
    let resource = &file["resourceFieldRef"];
    if file["fieldRef"].is_object() {
        env::field_ref(&file["fieldRef"], &FIELDS, &at.child("fieldRef"), errors);
        if resource.is_object() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid(at, "resource", detail);
        }
    } else if resource.is_object() {
        env::resource_field_ref(resource, true, &at.child("resourceFieldRef"), errors);
    } else {
        errors.required(at, "one of fieldRef and resourceFieldRef is required");
    }
    mode(&file["mode"], &at.child("mode"), errors);
}

pub(super) fn volume(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    mode(&s["defaultMode"], &at.child("defaultMode"), errors);
    let mut paths = HashSet::new();
    let all = at.child("sources");
    for (i, source) in list(s, "sources").iter().enumerate() {
        let place = all.index(i);
        let mut count = 0;
        for field in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let of = &source[field];
            if !of.is_object() {
                continue;
            }
            count += 1;
            let place = place.child(field);
            match field {
                "secret" | "configMap" => keys(of, &mut paths, at, &place, errors),
                "downwardAPI" => {
                    for file in list(of, "items") {
                        downward_file(file, &place, errors);
                        let path = str_of(file, "path");
                        if !path.is_empty() && !paths.insert(path) {
                            errors.invalid(at, path, TWICE);
                        }
                    }
                }
                "serviceAccountToken" => token(of, at, &place, errors),
                "clusterTrustBundle" => bundle(of, &mut paths, at, &place, errors),
                _ => certificate(of, &mut paths, at, &place, errors),
            }
        }
        if count > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.forbidden(&place, detail);
        }
    }
}

/// Files of a ConfigMap or Secret; `at` is the volume's place, `place` the source's.
fn keys<'a>(
    of: &'a Value,
    paths: &mut HashSet<&'a str>,
    at: &Path<'_>,
    place: &Path<'_>,
    errors: &mut Errors,
) {
    let name = str_of(of, "name");
    if name.is_empty() {
        errors.required(&place.child("name"), "");
    }
    let items = place.child("items");
    for (i, item) in list(of, "items").iter().enumerate() {
        key_to_path(item, &items.index(i), errors);
        let path = str_of(item, "path");
        if !path.is_empty() && !paths.insert(path) {
            errors.invalid(at, name, TWICE);
        }
    }
}

fn token(of: &Value, at: &Path<'_>, place: &Path<'_>, errors: &mut Errors) {
    let seconds = of["expirationSeconds"].as_i64().unwrap_or(0);
    let expiry = place.child("expirationSeconds");
    if seconds < 600 {
        let detail = "may not specify a duration less than 10 minutes";
        errors.invalid(&expiry, seconds, detail);
    }
    if seconds > 1 << 32 {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(&expiry, seconds, detail);
    }
    // upstream names the volume here, not the source
    match str_of(of, "path") {
        "" => errors.required(&at.child("path"), ""),
        path => rules::unreserved_path(path, &at.child("path"), errors),
    }
}

fn bundle<'a>(
    of: &'a Value,
    paths: &mut HashSet<&'a str>,
    at: &Path<'_>,
    place: &Path<'_>,
    errors: &mut Errors,
) {
    match (of["name"].as_str(), of["signerName"].as_str()) {
        (Some(_), Some(_)) => {
            let detail = "only one of name and signerName may be used";
            errors.invalid(place, of.clone(), detail);
        }
        (Some(name), None) => {
            let at = place.child("name");
            if name.is_empty() {
                errors.required(&at, "must be a valid object name");
            }
            for message in rules::dns_subdomain(name) {
                let detail = format!("not a valid clustertrustbundlename: {message}");
                errors.invalid(&at, name, detail);
            }
            if of["labelSelector"].is_object() {
                errors.invalid(
                    &place.child("labelSelector"),
                    of["labelSelector"].clone(),
                    "labelSelector must be unset if name is specified",
                );
            }
        }
        (None, Some(signer)) => {
            let at = place.child("signerName");
            if signer.is_empty() {
                errors.required(&at, "must be a valid signer name");
            }
            rules::signer_name(signer, &at, errors);
            let selector = &of["labelSelector"];
            selectors::labels(selector, &place.child("labelSelector"), errors);
        }
        (None, None) => errors.required(place, "either name or signerName must be specified"),
    }
    let path = str_of(of, "path");
    let file = place.child("path");
    if path.is_empty() {
        errors.required(&file, "");
    }
    rules::unreserved_path(path, &file, errors);
    if !paths.insert(path) {
        errors.invalid(at, path, TWICE);
    }
}

fn certificate<'a>(
    of: &'a Value,
    paths: &mut HashSet<&'a str>,
    at: &Path<'_>,
    place: &Path<'_>,
    errors: &mut Errors,
) {
    const SECONDS_MIN: i64 = 3600;
    /// 91 days
    const SECONDS_MAX: i64 = 7_862_400;
    /// One day, for the signers of Kubernetes itself.
    const OWN_SECONDS_MAX: i64 = 86_400;
    let signer = str_of(of, "signerName");
    rules::signer_name(signer, &place.child("signerName"), errors);
    let kind = str_of(of, "keyType");
    if !KEY_TYPES.contains(&kind) {
        errors.not_supported(&place.child("keyType"), kind, &KEY_TYPES);
    }
    if let Some(n) = of["maxExpirationSeconds"].as_i64() {
        let own = signer.split('/').next() == Some("kubernetes.io")
            || signer.starts_with("kubernetes.io/");
        let max = if own { OWN_SECONDS_MAX } else { SECONDS_MAX };
        let at = place.child("maxExpirationSeconds");
        if n < SECONDS_MIN {
            let detail = "if provided, maxExpirationSeconds must be >= 3600";
            errors.invalid(&at, n, detail);
        }
        if n > max {
            let detail = format!("if provided, maxExpirationSeconds must be <= {max}");
            errors.invalid(&at, n, detail);
        }
    }
    let mut count = 0;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let path = str_of(of, field);
        if path.is_empty() {
            continue;
        }
        count += 1;
        rules::unreserved_path(path, &place.child(field), errors);
        if !paths.insert(path) {
            errors.invalid(at, path, TWICE);
        }
    }
    if count == 0 {
        let detail =
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(place, detail);
    }
}
