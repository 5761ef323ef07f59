//! Resources that are worked out when they are asked for, and not stored: usage (`metrics.k8s.io`), the states of components.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    body::{Body, Items},
    catalog::{self, Target},
    components, list, measured,
    negotiate::{Endpoint, Form},
    object,
    registry::Resource,
    resource::Outcome,
    server::{Answer, Call, Inner},
    status::Failure,
    table,
};

/// Whether this is served from here and not from the store.
pub fn is(r: &Resource) -> bool {
    r.custom.is_none() && (measured::is(r) || components::is(r))
}

/// Answers `get` and `list`; there is nothing else.
pub async fn answer(
    inner: &Inner,
    call: &Call,
    t: &Target,
    verb: &str,
) -> Result<Outcome, Failure> {
    if !t.subresource.is_empty() {
        return Err(Failure::no_such_path());
    }
    if verb == "watch" && t.name.is_empty() {
        // upstream's words for what can be listed and not watched
        return Err(Failure::not_supported(&t.resource, "watch"));
    }
    if components::is(&t.resource) {
        components::answer(inner, call, t, verb)
    } else {
        measured::answer(inner, call, t, verb).await
    }
}

/// A JSON answer in what was negotiated.
pub fn answered(t: &Target, body: Body) -> Outcome {
    let mut answer = Answer::ok(body);
    answer.negotiated = Some(Endpoint::of(&t.resource));
    answer.into()
}

/// As objects are stored: with what they are first.
pub fn written(r: &Resource, object: &Value) -> Bytes {
    let body = object.to_string();
    let rest = body.strip_prefix('{').unwrap_or(&body);
    let version = catalog::api_version(r);
    format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{version}\",{rest}",
        r.kind
    )
    .into()
}

/// A list in the form asked for.
pub fn listed(
    call: &Call,
    r: &Resource,
    form: Form,
    objects: VecDeque<Bytes>,
) -> Result<Body, Failure> {
    let values = || objects.iter().map(|o| object::parse(o));
    Ok(match form {
        Form::Plain => Body::Items(Items::new(
            r.kind,
            list::list_kind(r),
            &catalog::api_version(r),
            true,
            "{}".into(),
            objects,
        )),
        Form::Table(version) => {
            let include = table::Include::read(&call.query)?;
            let rows = values()
                .map(|o| Ok(table::row(r, &o?, version, include)))
                .collect::<Result<Vec<Value>, Failure>>()?;
            table::table(r, version, json!({}), true, rows)
                .to_string()
                .into()
        }
        Form::PartialList(version) => {
            let items = values()
                .map(|o| Ok(table::partial(o?["metadata"].take(), version)))
                .collect::<Result<Vec<Value>, Failure>>()?;
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {}, "items": items,
            });
            list.to_string().into()
        }
        Form::Partial(_) => return Err(list::wrong_form(r, true)),
    })
}
