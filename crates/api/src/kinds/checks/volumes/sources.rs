//! The sources that Pods and PersistentVolumes share.

use super::super::{
    path::{Errors, Path},
    rules,
};
use crate::kinds::json::{entries, list, str_of, yes};
use serde_json::Value;

pub(super) const LONG_PORTAL: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
const PARTITION: &str = "must be between 1 and 255, inclusive";
const PAIR: &str = "must be a host:port pair or multiple pairs separated by commas";

/// Texts that must not be empty.
pub(super) fn required(s: &Value, fields: &[&str], at: &Path<'_>, errors: &mut Errors) {
    for field in fields {
        if str_of(s, field).is_empty() {
            errors.required(&at.child(field), "");
        }
    }
}

/// A secret's reference, by name and in PersistentVolumes by namespace.
fn secret(s: &Value, persistent: bool, at: &Path<'_>, errors: &mut Errors) {
    if s["secretRef"].is_object() {
        let fields: &[&str] = if persistent {
            &["name", "namespace"]
        } else {
            &["name"]
        };
        required(&s["secretRef"], fields, &at.child("secretRef"), errors);
    }
}

/// One source at `at`; `volume` is the PersistentVolume's name, None in a Pod.
pub(super) fn check(
    field: &str,
    s: &Value,
    volume: Option<&str>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    match field {
        "hostPath" => host_path(s, at, errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let id = if field == "gcePersistentDisk" {
                "pdName"
            } else {
                "volumeID"
            };
            required(s, &[id], at, errors);
            if let Some(n) = s["partition"].as_i64().filter(|n| !(0..=255).contains(n)) {
                errors.invalid(&at.child("partition"), n, PARTITION);
            }
        }
        "nfs" => {
            required(s, &["server", "path"], at, errors);
            let path = str_of(s, "path");
            if !path.starts_with('/') {
                errors.invalid(&at.child("path"), path, "must be an absolute path");
            }
        }
        "iscsi" => iscsi(s, volume, at, errors),
        "glusterfs" => {
            required(s, &["endpoints", "path"], at, errors);
            if let Some(n) = s["endpointsNamespace"].as_str() {
                let at = at.child("endpointsNamespace");
                if n.is_empty() {
                    let detail =
                        "if the endpointnamespace is set, it must be a valid namespace name";
                    errors.invalid(&at, n, detail);
                } else {
                    errors.broken(&at, n, rules::dns_label(n));
                }
            }
        }
        "flocker" => flocker(s, at, errors),
        "rbd" => {
            monitors(s, at, errors);
            required(s, &["image"], at, errors);
        }
        "cephfs" => monitors(s, at, errors),
        "cinder" => {
            required(s, &["volumeID"], at, errors);
            secret(s, volume.is_some(), at, errors);
        }
        "quobyte" => quobyte(s, at, errors),
        "fc" => fibre_channel(s, at, errors),
        "flexVolume" => {
            required(s, &["driver"], at, errors);
            let at = at.child("options");
            for (key, _) in entries(&s["options"]) {
                let space = key.split_once('/').map_or(key, |(n, _)| n);
                let space = format!(".{}", space.to_lowercase());
                if space.ends_with(".kubernetes.io") || space.ends_with(".k8s.io") {
                    let detail = "kubernetes.io and k8s.io namespaces are reserved";
                    errors.invalid(&at.key(key), key, detail);
                }
            }
        }
        "azureFile" => {
            required(s, &["secretName", "shareName"], at, errors);
            if s["secretNamespace"] == "" {
                errors.required(&at.child("secretNamespace"), "");
            }
        }
        "azureDisk" => azure_disk(s, at, errors),
        "vsphereVolume" => required(s, &["volumePath"], at, errors),
        "photonPersistentDisk" => required(s, &["pdID"], at, errors),
        "portworxVolume" => required(s, &["volumeID"], at, errors),
        "scaleIO" => required(s, &["gateway", "system", "volumeName"], at, errors),
        "storageos" => {
            let name = str_of(s, "volumeName");
            required(s, &["volumeName"], at, errors);
            if !name.is_empty() {
                errors.broken(&at.child("volumeName"), name, rules::dns_label(name));
            }
            let space = str_of(s, "volumeNamespace");
            if !space.is_empty() {
                let messages = rules::dns_label(space);
                errors.broken(&at.child("volumeNamespace"), space, messages);
            }
            secret(s, volume.is_some(), at, errors);
        }
        _ => {}
    }
}

fn monitors(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    if list(s, "monitors").is_empty() {
        errors.required(&at.child("monitors"), "");
    }
}

fn host_path(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let path = str_of(s, "path");
    if path.is_empty() {
        errors.required(&at.child("path"), "");
        return;
    }
    rules::no_backsteps(path, &at.child("path"), errors);
    errors.supported(
        &at.child("type"),
        &s["type"],
        &[
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ],
    );
}

/// `iqn.2001-04.com.example:disk`, `eui.` or `naa.` and letters or digits.
fn is_initiator(name: &str) -> bool {
    let plain = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let Some(rest) = name.strip_prefix("iqn.") else {
        let eui = name.strip_prefix("eui.").is_some_and(|r| plain(r, 16));
        return eui || name.strip_prefix("naa.").is_some_and(|r| plain(r, 32));
    };
    let Some((date, (domain, tail))) = rest
        .split_once('.')
        .and_then(|(date, rest)| Some((date, rest.split_once(':')?)))
    else {
        return false;
    };
    let digits = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    date.split_once('-')
        .is_some_and(|(year, month)| digits(year, 4) && digits(month, 2))
        && !domain.is_empty()
        && domain.bytes().all(word)
        && !tail.is_empty()
        && !tail.contains([',', ';', '*', '&', '$', '|'])
        && !tail.contains(char::is_whitespace)
}

fn iscsi(s: &Value, volume: Option<&str>, at: &Path<'_>, errors: &mut Errors) {
    let unlike = if volume.is_some() {
        "must be valid format"
    } else {
        "must be valid format starting with iqn, eui, or naa"
    };
    let known = |n: &str| ["iqn", "eui", "naa"].iter().any(|p| n.starts_with(p));
    let portal = str_of(s, "targetPortal");
    required(s, &["targetPortal"], at, errors);
    let initiator = s["initiatorName"].as_str();
    if let (Some(volume), Some(_)) = (volume, initiator)
        && volume.len() + 1 + portal.len() > 64
    {
        errors.invalid(&at.child("targetportal"), portal, LONG_PORTAL);
    }
    let place = at.child("iqn");
    match str_of(s, "iqn") {
        "" => errors.required(&place, ""),
        n if !known(n) => errors.invalid(&place, n, unlike),
        n if !is_initiator(n) => errors.invalid(&place, n, "must be valid format"),
        _ => {}
    }
    let lun = s["lun"].as_i64().unwrap_or(0);
    errors.broken(&at.child("lun"), lun, rules::between(lun, 0, 255));
    let chap = yes(s, "chapAuthDiscovery") || yes(s, "chapAuthSession");
    if chap && !s["secretRef"].is_object() {
        errors.required(&at.child("secretRef"), "");
    }
    if volume.is_some() && s["secretRef"].is_object() {
        required(&s["secretRef"], &["name"], &at.child("secretRef"), errors);
    }
    let place = at.child("initiatorname");
    match initiator {
        Some(n) if !known(n) => errors.invalid(&place, n, unlike),
        Some(n) if !is_initiator(n) => errors.invalid(&place, n, "must be valid format"),
        _ => {}
    }
}

fn flocker(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let name = str_of(s, "datasetName");
    match (name.is_empty(), str_of(s, "datasetUUID").is_empty()) {
        (true, true) => errors.required(at, "one of datasetName and datasetUUID is required"),
        (false, false) => errors.invalid(
            at,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        ),
        _ => {}
    }
    if name.contains('/') {
        errors.invalid(&at.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let registry = str_of(s, "registry");
    if registry.is_empty() {
        errors.required(&at.child("registry"), PAIR);
    } else if str_of(s, "tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&at.child("tenant"), detail);
    } else {
        for pair in registry.split(',') {
            let host_and_port = pair.rsplit_once(':');
            if host_and_port.is_none_or(|(host, _)| host.contains(':') && !host.ends_with(']')) {
                errors.invalid(&at.child("registry"), registry, PAIR);
            }
        }
    }
    required(s, &["volume"], at, errors);
}

fn fibre_channel(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (names, ids) = (list(s, "targetWWNs"), list(s, "wwids"));
    let place = at.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        let detail = "must specify either targetWWNs or wwids, but not both";
        errors.required(&place, detail);
    }
    if !names.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&place, names.to_vec(), detail);
    }
    if names.is_empty() {
        return;
    }
    let place = at.child("lun");
    match s["lun"].as_i64() {
        None => errors.required(&place, "lun is required if targetWWNs is specified"),
        Some(n) => errors.broken(&place, n, rules::between(n, 0, 255)),
    }
}

fn azure_disk(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    required(s, &["diskName", "diskURI"], at, errors);
    errors.supported(
        &at.child("cachingMode"),
        &s["cachingMode"],
        &["None", "ReadOnly", "ReadWrite"],
    );
    let kinds = ["Dedicated", "Managed", "Shared"];
    errors.supported(&at.child("kind"), &s["kind"], &kinds);
    let uri = str_of(s, "diskURI");
    let (prefix, shape) = match s["kind"].as_str() {
        None => return,
        Some("Managed") => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        Some(_) => (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        ),
    };
    if !uri.starts_with(prefix) {
        errors.not_supported(&at.child("diskURI"), uri, &[shape]);
    }
}
