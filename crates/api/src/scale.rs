//! The `scale` subresource as `autoscaling/v1` Scale.

use http::StatusCode;
use knarr_schema::managed::ApplyError;
use serde_json::{Value, json};

use crate::{
    catalog::{self, Target},
    decode::Raw,
    negotiate,
    object::{self, meta_mut},
    patch::Patch,
    registry::{FieldError, Resource, Scale, Selector},
    resource::{Outcome, options, write},
    selector::label_selector_string,
    server::{Answer, Call, Inner},
    status::Failure,
    write::{Change, Part, Written},
};

/// Scale's own descriptor: what its bodies are decoded as.
static SCALE: Resource = Resource {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    plural: "scales",
    singular: "scale",
    ..crate::kinds::PLAIN
};

/// Answers GET, PUT and PATCH of a scale.
pub async fn answer(
    inner: &Inner,
    call: &Call,
    t: &Target,
    verb: &str,
) -> Result<Outcome, Failure> {
    let Some(pointers) = &t.resource.scale else {
        return Err(Failure::no_such_path());
    };
    negotiate::form(&t.resource, &call.parts.headers)?;
    match verb {
        "get" => {
            let snapshot = inner.store.snapshot();
            let entry = snapshot
                .get(&catalog::key(&t.resource, &t.namespace, &t.name))
                .ok_or_else(|| Failure::not_found(&t.resource, &t.name))?;
            let bytes = crate::crd::bring(inner, &t.resource, entry.value.clone()).await?;
            let live = crate::versions::read(&t.resource, object::parse(&bytes)?);
            if let Some(custom) = &t.resource.custom
                && live.pointer(pointers.spec_replicas).is_none()
            {
                let path = custom.replicas_path().unwrap_or_default();
                return Err(Failure::internal(format!(
                    "the spec replicas field {path:?} does not exist"
                )));
            }
            let scale = of(pointers, &live);
            Ok(Answer::ok(scale.to_string()).into())
        }
        "update" => {
            let options = options(call, "UpdateOptions", false)?;
            let mut warnings = Vec::new();
            let raw = Raw::new(&call.parts.headers, call.body.clone())?;
            let given = raw.object(&SCALE, options.validation, &mut warnings)?;
            let mut w = write(inner, call, t, &options, Part::Sub("scale"));
            w.projection = Some(pointers);
            w.warnings = warnings;
            let written = w
                .update(|live, _| scaled(&t.resource, pointers, live, &given))
                .await?;
            done(pointers, written)
        }
        "patch" => {
            let content_type = negotiate::content_type(&call.parts.headers);
            let patch = Patch::read(&content_type, &call.body)?;
            let options = options(call, "PatchOptions", Patch::is_apply(&content_type))?;
            let mut w = write(inner, call, t, &options, Part::Sub("scale"));
            w.projection = Some(pointers);
            let written = match patch {
                Patch::Apply(applied, _) => {
                    w.update(|live, _| apply(&t.resource, pointers, live, &applied, &options))
                        .await?
                }
                patch => {
                    w.update(|live, warnings| {
                        let before = of(pointers, live);
                        let merged = patch.merge(&SCALE, &t.name, &before)?;
                        let scale =
                            crate::patch::conform(&SCALE, merged, options.validation, warnings)?;
                        scaled(&t.resource, pointers, live, &scale)
                    })
                    .await?
                }
            };
            done(pointers, written)
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

fn done(pointers: &Scale, written: Written) -> Result<Outcome, Failure> {
    let scale = of(pointers, &object::parse(&written.into_bytes())?);
    Ok(Answer::coded(StatusCode::OK, scale.to_string()).into())
}

/// The Scale of an object.
pub fn of(pointers: &Scale, o: &Value) -> Value {
    let number = |p: &str| o.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    let selector = match pointers.selector {
        Selector::Labels(p) => o.pointer(p).map(|s| label_selector_string(s, true)),
        Selector::LabelSelector(p) => o.pointer(p).map(|s| label_selector_string(s, false)),
        Selector::Text(p) => o.pointer(p).and_then(Value::as_str).map(str::to_owned),
        Selector::None => None,
    };
    let mut metadata = serde_json::Map::new();
    for k in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(v) = o["metadata"].get(k) {
            metadata.insert(k.into(), v.clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {},
        "status": {"replicas": number(pointers.status_replicas)},
    });
    // Go leaves a zero out
    match number(pointers.spec_replicas) {
        0 => {}
        n => scale["spec"]["replicas"] = n.into(),
    }
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// The live object with the Scale's replicas; its revision and uid, when given, must hold.
pub fn scaled(
    r: &Resource,
    pointers: &Scale,
    live: &Value,
    scale: &Value,
) -> Result<Change, Failure> {
    let name = object::meta(live, "name");
    let given = object::meta(scale, "name");
    if !given.is_empty() && given != name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let replicas = scale
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if replicas < 0 {
        return Err(Failure::invalid(
            "autoscaling",
            "Scale",
            name,
            &[FieldError::Invalid {
                field: "spec.replicas".into(),
                value: replicas.into(),
                detail: "must be greater than or equal to 0".into(),
            }],
        ));
    }
    let mut object = live.clone();
    match object.pointer_mut(pointers.spec_replicas) {
        Some(slot) => *slot = replicas.into(),
        None => insert(&mut object, pointers.spec_replicas, replicas.into()),
    }
    let m = meta_mut(&mut object);
    let version = object::meta(scale, "resourceVersion");
    m.insert("resourceVersion".into(), version.into());
    let uid = object::meta(scale, "uid");
    if !uid.is_empty() && uid != object::meta(live, "uid") {
        return Err(Failure::conflict(
            r,
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::meta(live, "uid")
            ),
        ));
    }
    Ok(Change {
        object,
        applied: false,
    })
}

/// Sets a value at a pointer, making the objects on the way.
fn insert(o: &mut Value, pointer: &str, value: Value) {
    let mut at = o;
    for key in pointer.trim_start_matches('/').split('/') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
}

/// Whether any manager owns the field at this pointer.
fn owned(o: &Value, pointer: &str) -> bool {
    let path = format!("/fieldsV1{}", pointer.replace('/', "/f:"));
    let entries = o.pointer("/metadata/managedFields");
    entries
        .and_then(Value::as_array)
        .is_some_and(|list| list.iter().any(|e| e.pointer(&path).is_some()))
}

/// Server-side apply of a Scale: on the object it is the apply of its replicas field alone.
fn apply(
    r: &Resource,
    pointers: &Scale,
    live: &Value,
    applied: &Value,
    options: &crate::query::WriteOptions,
) -> Result<Change, Failure> {
    let ty = crate::decode::Owned::of(r)
        .ok_or_else(|| Failure::internal("a kind without a schema has a scale"))?;
    let api_version = catalog::api_version(r);
    let mut wanted = json!({
        "apiVersion": api_version, "kind": r.kind,
        "metadata": {"name": live["metadata"]["name"], "namespace": live["metadata"]["namespace"]},
    });
    if let Some(n) = applied.pointer("/spec/replicas") {
        insert(&mut wanted, pointers.spec_replicas, n.clone());
    }
    let manager = knarr_schema::managed::Manager {
        name: &options.manager,
        subresource: "scale",
        api_version: &api_version,
        // upstream's entries of scale have no time
        time: "",
    };
    let mut live = live.clone();
    let path = pointers.spec_replicas;
    if live.pointer(path).is_some() && !owned(&live, path) {
        // replicas that nobody set count as set before
        let mut fields = json!({});
        insert(&mut fields, &path.replace('/', "/f:"), json!({}));
        let entry = json!({"manager": "before-first-apply", "operation": "Update", "apiVersion": api_version,
            "subresource": "scale", "fieldsType": "FieldsV1", "fieldsV1": fields});
        match meta_mut(&mut live)
            .entry("managedFields")
            .or_insert_with(|| json!([]))
        {
            Value::Array(list) => list.push(entry),
            other => *other = json!([entry]),
        }
    }
    // managers are told by the version of the subresource
    let using =
        |text: String| text.replace(&format!("using {api_version}"), "using autoscaling/v1");
    let merged =
        knarr_schema::managed::apply(ty.root(), Some(&live), &wanted, &manager, options.force)
            .map_err(|e| match e {
                ApplyError::Conflicts { message, causes } => {
                    let f = Failure::new(409, "Conflict", using(message));
                    causes.into_iter().fold(f, |f, c| {
                        f.cause("FieldManagerConflict", &using(c.message), &c.field)
                    })
                }
                ApplyError::Invalid(why) => Failure::new(500, "", why),
            })?;
    Ok(Change {
        object: merged,
        applied: true,
    })
}
