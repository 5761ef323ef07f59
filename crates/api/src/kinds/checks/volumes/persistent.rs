//! PersistentVolumes.

use super::super::{
    difference::diff_of,
    path::{Errors, Go, Path},
    pod::node_selector,
    quantity::Quantity,
    rules,
};
use super::{claims, sources};
use crate::{
    kinds::json::{entries, list, str_of},
    registry::FieldError,
};
use serde_json::Value;

/// The types in the order upstream looks at them: JSON field, name in the error that there are two.
const TYPES: [(&str, &str); 21] = [
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephFS"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
];

pub(crate) fn volume(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    let modes = list(spec, "accessModes");
    let place = at.child("accessModes");
    if modes.is_empty() {
        errors.required(&place, "");
    }
    claims::access_modes(modes, &place, &mut errors);
    capacity(&spec["capacity"], &at.child("capacity"), &mut errors);
    errors.supported(
        &at.child("persistentVolumeReclaimPolicy"),
        &spec["persistentVolumeReclaimPolicy"],
        &["Delete", "Recycle", "Retain"],
    );
    let affinity = &spec["nodeAffinity"];
    if affinity.is_object() {
        let at = at.child("nodeAffinity.required");
        if affinity["required"].is_object() {
            node_selector(&affinity["required"], &at, &mut errors);
        } else {
            errors.required(&at, "must specify required node constraints");
        }
    }
    source(spec, str_of(&o["metadata"], "name"), &at, &mut errors);
    let root = spec["hostPath"]["path"]
        .as_str()
        .is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b == b'/'));
    if root && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&at.child("persistentVolumeReclaimPolicy"), detail);
    }
    claims::class_name(spec, "storageClassName", &at, &mut errors);
    errors.supported(
        &at.child("volumeMode"),
        &spec["volumeMode"],
        &claims::VOLUME_MODES,
    );
    if let Some(class) = spec["volumeAttributesClassName"].as_str() {
        let place = at.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.required(&place, "an empty string is disallowed");
        } else {
            errors.broken(&place, class, rules::dns_subdomain(class));
        }
        if !spec["csi"].is_object() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.required(&at.child("csi"), detail);
        }
    }
    errors.0
}

fn capacity(amounts: &Value, at: &Path<'_>, errors: &mut Errors) {
    let count = entries(amounts).count();
    if count == 0 {
        errors.required(at, "");
    }
    if amounts["storage"].is_null() || count > 1 {
        errors.not_supported(at, amounts.clone(), &["storage"]);
    }
    for (name, amount) in entries(amounts) {
        let Some(q) = Quantity::of(amount) else {
            continue;
        };
        let at = at.key(name);
        if q.sign() < 0 {
            errors.invalid(&at, q.value(), "must be a valid resource quantity");
        }
        if q.sign() <= 0 {
            errors.invalid(&at, q.canonical(), "must be greater than zero");
        }
    }
}

fn source(spec: &Value, name: &str, at: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    for (field, shown) in TYPES.iter().chain(&[("csi", "csi")]) {
        let s = &spec[*field];
        if !s.is_object() {
            continue;
        }
        if count > 0 && *field != "flexVolume" {
            let detail = "may not specify more than 1 volume type";
            errors.forbidden(&at.child(shown), detail);
            continue;
        }
        count += 1;
        let place = if *field == "gcePersistentDisk" {
            "persistentDisk"
        } else {
            field
        };
        let place = at.child(place);
        match *field {
            "local" => {
                sources::required(s, &["path"], &place, errors);
                rules::no_backsteps(str_of(s, "path"), &place.child("path"), errors);
                if !spec["nodeAffinity"].is_object() {
                    let detail = "Local volume requires node affinity";
                    errors.required(&at.child("nodeAffinity"), detail);
                }
            }
            "csi" => csi(s, &place, errors),
            _ => sources::check(field, s, Some(name), &place, errors),
        }
    }
    if count == 0 {
        errors.required(at, "must specify a volume type");
    }
}

fn csi(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    super::super::csi::driver_name(str_of(s, "driver"), &at.child("driver"), errors);
    sources::required(s, &["volumeHandle"], at, errors);
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let secret = &s[field];
        if !secret.is_object() {
            continue;
        }
        let at = at.child(field);
        for (field, rule) in [
            ("name", rules::dns_subdomain as fn(&str) -> Vec<String>),
            ("namespace", rules::dns_label),
        ] {
            match str_of(secret, field) {
                "" => errors.required(&at.child(field), ""),
                n => errors.broken(&at.child(field), n, rule(n)),
            }
        }
    }
}

pub(crate) fn volume_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let of = |o: &Value| -> Value {
        let types = TYPES.iter().chain(&[("csi", "csi")]);
        types
            .filter(|(f, _)| !o["spec"][*f].is_null())
            .map(|(f, _)| ((*f).to_string(), o["spec"][*f].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let (mut is, was) = (of(new), of(old));
    if was["csi"].is_object()
        && was["csi"]["controllerExpandSecretRef"].is_null()
        && let Some(csi) = is.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    if is != was {
        errors.forbidden(
            &Path::Root("spec.persistentvolumesource"),
            format!(
                "spec.persistentvolumesource is immutable after creation\n{}",
                diff_of("core.PersistentVolumeSource", &was, &is)
            ),
        );
    }
    errors.immutable(
        &Path::Root("volumeMode"),
        &new["spec"]["volumeMode"],
        &old["spec"]["volumeMode"],
    );
    let (is, was) = (&new["spec"]["nodeAffinity"], &old["spec"]["nodeAffinity"]);
    if was.is_object() && is != was && *is != renamed(was, is) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.invalid_go(&Path::Root("nodeAffinity"), is, &AFFINITY, detail);
    }
    let class = |o: &Value| o["spec"]["volumeAttributesClassName"].clone();
    if !class(old).is_null() && class(new).is_null() {
        errors.forbidden(
            &Path::Root("spec.volumeAttributesClassName"),
            "update from non-nil value to nil is forbidden",
        );
    }
    errors.0
}

/// VolumeNodeAffinity
const AFFINITY: Go = Go::Struct(&[(
    "required",
    "Required",
    Go::Struct(&[(
        "nodeSelectorTerms",
        "NodeSelectorTerms",
        Go::List(&Go::Struct(&[
            ("matchExpressions", "MatchExpressions", EXPRESSIONS),
            ("matchFields", "MatchFields", EXPRESSIONS),
        ])),
    )]),
)]);
const EXPRESSIONS: Go = Go::List(&Go::Struct(&[
    ("key", "Key", Go::Text),
    ("operator", "Operator", Go::Text),
    ("values", "Values", Go::Plain),
]));

/// Labels of nodes that have got other names.
const RENAMED: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ),
];

/// The old affinity, with the new names where the new one has them.
fn renamed(was: &Value, is: &Value) -> Value {
    let mut out = was.clone();
    let terms = |o: &Value| -> Vec<Value> { list(&o["required"], "nodeSelectorTerms").to_vec() };
    for (i, term) in terms(is).iter().enumerate() {
        for field in ["matchExpressions", "matchFields"] {
            for (j, e) in list(term, field).iter().enumerate() {
                let place = format!("/required/nodeSelectorTerms/{i}/{field}/{j}/key");
                if let Some(key) = out.pointer_mut(&place) {
                    let pair = |(beta, ga): &&(&str, &str)| *key == *beta && e["key"] == *ga;
                    if let Some((_, ga)) = RENAMED.iter().find(pair) {
                        *key = (*ga).into();
                    }
                }
            }
        }
    }
    out
}
