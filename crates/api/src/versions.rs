//! Built-in kinds that are served in two forms and stored in one: the other form is made when the object is read, and turned
//! back when it is written (upstream's conversions through the internal version).

use bytes::Bytes;
use serde_json::Value;

use crate::{
    object::{self, Encoded},
    registry::Resource,
};

/// How the objects of a resource are stored, when that is not as they are served.
pub struct Stored {
    /// Group whose keys the objects have.
    pub group: &'static str,
    /// From the stored form to the served one; kind and apiVersion with it.
    pub read: fn(Value) -> Value,
    /// From the served form to the stored one.
    pub write: fn(Value) -> Value,
}

/// The group in the keys of a resource's objects.
pub fn key_group(r: &Resource) -> &'static str {
    r.stored.map_or(r.group, |s| s.group)
}

/// A stored object in the form of the resource.
pub fn read(r: &Resource, object: Value) -> Value {
    match (r.stored, &r.custom) {
        (Some(s), _) => (s.read)(object),
        (None, Some(custom)) => custom.read(object),
        (None, None) => object,
    }
}

/// Stored bytes in the form of the resource; what isn't an object stays as it is.
pub fn served(r: &Resource, bytes: &Bytes) -> Bytes {
    if let Some(custom) = &r.custom {
        return custom.served(bytes);
    }
    let Some(s) = r.stored else {
        return bytes.clone();
    };
    let Ok(object) = object::parse(bytes) else {
        return bytes.clone();
    };
    let object = (s.read)(object);
    let revision = object::meta(&object, "resourceVersion").to_string();
    object::encode(&object).at(&revision)
}

/// An object as it would be shown had it been stored.
pub fn shown(r: &Resource, object: Value) -> Value {
    match r.stored {
        Some(s) => (s.read)((s.write)(object)),
        None => object,
    }
}

/// A served object as the store takes it.
pub fn encode(r: &Resource, object: &Value) -> Encoded {
    match (r.stored, &r.custom) {
        (Some(s), _) => object::encode(&(s.write)(object.clone())),
        (None, Some(custom)) => custom.encode(object),
        (None, None) => object::encode(object),
    }
}

/// An object of one resource as another shows it, whose objects are the same.
pub fn convert(from: &Resource, to: &Resource, object: Value) -> Value {
    let stored = match from.stored {
        Some(s) => (s.write)(object),
        None => object,
    };
    let mut shown = read(to, stored);
    if let Some(map) = shown.as_object_mut() {
        map.insert("apiVersion".into(), crate::catalog::api_version(to).into());
        map.insert("kind".into(), to.kind.into());
    }
    shown
}
