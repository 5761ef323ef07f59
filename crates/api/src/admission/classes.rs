//! DefaultStorageClass, DefaultIngressClass, StorageObjectInUseProtection and PersistentVolumeClaimResize.

use serde_json::Value;

use super::{
    Attributes, Operation,
    json::{list_mut, text},
    list, stored,
};
use crate::{
    object::{meta, meta_mut},
    server::Inner,
    status::Failure,
};

const STORAGE: (&str, &str) = ("storage.k8s.io", "storageclasses");
const INGRESS: (&str, &str) = ("networking.k8s.io", "ingressclasses");
const STORAGE_MARKS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const INGRESS_MARK: &str = "ingressclass.kubernetes.io/is-default-class";
const OLD_STORAGE: &str = "volume.beta.kubernetes.io/storage-class";
const OLD_INGRESS: &str = "kubernetes.io/ingress.class";

fn annotation<'v>(o: &'v Value, key: &str) -> Option<&'v str> {
    o.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// The newest of the classes marked default; of two made at once the one whose name comes first.
fn default_class(inner: &Inner, (group, plural): (&str, &str), marks: &[&str]) -> Option<String> {
    let mut classes = list(inner, group, plural, "");
    classes.retain(|c| marks.iter().any(|m| annotation(c, m) == Some("true")));
    classes.sort_by(|a, b| {
        meta(b, "creationTimestamp")
            .cmp(meta(a, "creationTimestamp"))
            .then_with(|| meta(a, "name").cmp(meta(b, "name")))
    });
    classes.first().map(|c| meta(c, "name").to_string())
}

/// A claim or Ingress that asks for no class gets the default one; claims, volumes and their attributes' classes are protected while in use.
pub fn admit(inner: &Inner, a: &mut Attributes<'_>) {
    if a.operation != Operation::Create {
        return;
    }
    if a.is("", "persistentvolumeclaims") {
        let Some(claim) = a.object.as_mut() else {
            return;
        };
        let has = annotation(claim, OLD_STORAGE).is_some()
            || !claim["spec"]["storageClassName"].is_null();
        if !has && let Some(class) = default_class(inner, STORAGE, &STORAGE_MARKS) {
            claim["spec"]["storageClassName"] = class.into();
        }
        protect(claim, "kubernetes.io/pvc-protection");
    } else if a.is("", "persistentvolumes") {
        if let Some(volume) = a.object.as_mut() {
            protect(volume, "kubernetes.io/pv-protection");
        }
    } else if a.is("storage.k8s.io", "volumeattributesclasses") {
        if let Some(class) = a.object.as_mut() {
            protect(class, "kubernetes.io/vac-protection");
        }
    } else if a.is("networking.k8s.io", "ingresses") {
        let Some(ingress) = a.object.as_mut() else {
            return;
        };
        let has = annotation(ingress, OLD_INGRESS).is_some()
            || !ingress["spec"]["ingressClassName"].is_null();
        if !has && let Some(class) = default_class(inner, INGRESS, &[INGRESS_MARK]) {
            ingress["spec"]["ingressClassName"] = class.into();
        }
    }
}

fn protect(o: &mut Value, finalizer: &str) {
    let mut metadata = Value::Object(std::mem::take(meta_mut(o)));
    let list = list_mut(&mut metadata, "finalizers");
    if !list.iter().any(|f| f == finalizer) {
        list.push(finalizer.into());
    }
    if let Value::Object(m) = metadata {
        *meta_mut(o) = m;
    }
}

/// A bound claim may grow where its class says so.
pub fn validate(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    use crate::kinds::checks::quantity::Quantity;
    if !a.is("", "persistentvolumeclaims") || a.operation != Operation::Update {
        return Ok(());
    }
    let (Some(new), Some(old)) = (&a.object, a.old) else {
        return Ok(());
    };
    let size = |o: &Value| Quantity::of(o.pointer("/spec/resources/requests/storage")?);
    let grows = match (size(old), size(new)) {
        (Some(old), Some(new)) => new > old,
        (None, Some(new)) => new.sign() > 0,
        _ => false,
    };
    if !grows {
        return Ok(());
    }
    if text(old, "/status/phase") != "Bound" {
        return Err(a.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = |o: &Value| {
        annotation(o, OLD_STORAGE)
            .unwrap_or_else(|| text(o, "/spec/storageClassName"))
            .to_string()
    };
    let (class, before) = (class(new), class(old));
    let expands = !class.is_empty()
        && class == before
        && stored(inner, STORAGE.0, STORAGE.1, "", &class)
            .is_some_and(|c| c["allowVolumeExpansion"] == true);
    if expands {
        return Ok(());
    }
    Err(a.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}
