//! The checks of volumes: those of a Pod, PersistentVolumes, claims (`pkg/apis/core/validation`).

pub(crate) mod claims;
pub(crate) mod persistent;
mod projected;
mod sources;

use super::{
    path::{Errors, Path},
    quantity::Quantity,
    rules,
};
use crate::kinds::json::{list, str_of};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Permission bits, when they are there.
fn mode(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(n) = value.as_i64().filter(|n| !(0..=0o777).contains(n)) {
        errors.invalid(at, n, FILE_MODE);
    }
}

/// A key of a ConfigMap or Secret and the file it becomes.
fn key_to_path(item: &Value, at: &Path<'_>, errors: &mut Errors) {
    let path = str_of(item, "path");
    if str_of(item, "key").is_empty() {
        errors.required(&at.child("key"), "");
    }
    let place = at.child("path");
    if path.is_empty() {
        errors.required(&place, "");
    }
    rules::unreserved_path(path, &place, errors);
    mode(&item["mode"], &at.child("mode"), errors);
}

/// A Pod's volumes in the order upstream looks at their types: JSON field, name in the error that there are two.
const TYPES: [(&str, &str); 29] = [
    ("emptyDir", "emptyDir"),
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
];

/// The volumes of a Pod (its name is empty in templates); those that are sound, by name.
pub(crate) fn volumes<'a>(
    all: &'a [Value],
    pod: &str,
    at: &Path<'_>,
    errors: &mut Errors,
) -> HashMap<&'a str, &'a Value> {
    let created: HashSet<String> = all
        .iter()
        .filter(|v| !pod.is_empty() && v["ephemeral"].is_object())
        .map(|v| format!("{pod}-{}", str_of(v, "name")))
        .collect();
    let mut sound = HashMap::new();
    for (i, volume) in all.iter().enumerate() {
        let at = at.index(i);
        let name = str_of(volume, "name");
        let before = errors.0.len();
        source(volume, name, pod, &at, errors);
        let place = at.child("name");
        if name.is_empty() {
            errors.required(&place, "");
        } else {
            errors.broken(&place, name, rules::dns_label(name));
        }
        if sound.contains_key(name) {
            errors.duplicate(&place, name);
        }
        if errors.0.len() == before {
            sound.insert(name, volume);
        }
        let claim = str_of(&volume["persistentVolumeClaim"], "claimName");
        if created.contains(claim) {
            errors.invalid(
                &at.child("persistentVolumeClaim.claimName"),
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            );
        }
    }
    sound
}

fn source(volume: &Value, name: &str, pod: &str, at: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    let types = TYPES.iter().chain(&[("image", "image")]);
    for (field, shown) in types {
        let s = &volume[*field];
        if !s.is_object() {
            continue;
        }
        if count > 0 {
            let detail = "may not specify more than 1 volume type";
            errors.forbidden(&at.child(shown), detail);
        } else {
            count += 1;
            let place = if *field == "gcePersistentDisk" {
                "persistentDisk"
            } else {
                field
            };
            of_type(field, s, name, pod, at, &at.child(place), errors);
        }
        if *field == "iscsi"
            && s["initiatorName"].is_string()
            && name.len() + 1 + str_of(s, "targetPortal").len() > 64
        {
            errors.invalid(&at.child("name"), name, sources::LONG_PORTAL);
        }
    }
    if count == 0 {
        errors.required(at, "must specify a volume type");
    }
}

/// One source; `parent` is the volume's place, `at` the source's.
fn of_type(
    field: &str,
    s: &Value,
    name: &str,
    pod: &str,
    parent: &Path<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    match field {
        "emptyDir" => {
            if Quantity::of(&s["sizeLimit"]).is_some_and(|q| q.sign() < 0) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.forbidden(&at.child("sizeLimit"), detail);
            }
        }
        "gitRepo" => {
            sources::required(s, &["repository"], at, errors);
            let directory = str_of(s, "directory");
            rules::descending_path(directory, &at.child("directory"), errors);
        }
        "secret" | "configMap" => {
            let name = if field == "secret" {
                "secretName"
            } else {
                "name"
            };
            sources::required(s, &[name], at, errors);
            mode(&s["defaultMode"], &at.child("defaultMode"), errors);
            let at = at.child("items");
            for (i, item) in list(s, "items").iter().enumerate() {
                key_to_path(item, &at.index(i), errors);
            }
        }
        "persistentVolumeClaim" => sources::required(s, &["claimName"], at, errors),
        "downwardAPI" => {
            mode(&s["defaultMode"], &at.child("defaultMode"), errors);
            for file in list(s, "items") {
                projected::downward_file(file, at, errors);
            }
        }
        "projected" => projected::volume(s, at, errors),
        "csi" => {
            super::csi::driver_name(str_of(s, "driver"), &at.child("driver"), errors);
            let secret = &s["nodePublishSecretRef"];
            if secret.is_object() {
                match str_of(secret, "name") {
                    "" => errors.required(&at.child("nodePublishSecretRef.name"), ""),
                    n => errors.broken(&at.child("name"), n, rules::dns_subdomain(n)),
                }
            }
        }
        "ephemeral" => {
            let template = &s["volumeClaimTemplate"];
            if template.is_object() {
                claims::template(template, &at.child("volumeClaimTemplate"), errors);
            } else {
                errors.required(&at.child("volumeClaimTemplate"), "");
            }
            if !pod.is_empty() && !name.is_empty() {
                let claim = format!("{pod}-{name}");
                for message in rules::dns_subdomain(&claim) {
                    let detail = format!("PVC name {claim:?}: {message}");
                    errors.invalid(&parent.child("name"), name, detail);
                }
            }
        }
        "image" => {
            // a template may leave it to whoever makes the Pods
            if !pod.is_empty() && str_of(s, "reference").is_empty() {
                errors.required(&at.child("reference"), "");
            }
            errors.supported(
                &at.child("pullPolicy"),
                &s["pullPolicy"],
                &["Always", "IfNotPresent", "Never"],
            );
        }
        _ => sources::check(field, s, None, at, errors),
    }
}
