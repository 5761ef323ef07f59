//! One webhook asked about one request.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{Hook, review};
use crate::{
    admission::{
        Attributes, Kind,
        matching::Hit,
        review::Response,
        versioned::{Forms, Versioned},
    },
    patch,
    query::FieldValidation,
    server::Inner,
    status::Failure,
    webhook,
};

/// Why the request doesn't simply go on.
pub enum Error {
    /// The webhook could not be asked, or gave no answer that can be understood: its failure policy decides.
    Call(String),
    /// It said no, or its patch can't be used.
    Refused(Failure),
}

impl Error {
    /// As the client is told.
    pub fn failure(self, hook: &Hook) -> Failure {
        match self {
            Error::Refused(f) => f,
            Error::Call(why) => {
                Failure::internal(format!("failed calling webhook {:?}: {why}", hook.name))
            }
        }
    }
}

/// What a mutating webhook wants.
pub enum Said {
    /// Nothing changed.
    Fine,
    /// The new object, and the patch that made it.
    Changed(Value, Value),
}

/// What a webhook wants told and noted.
#[derive(Default)]
pub struct Notes {
    /// For the client.
    pub warnings: Vec<String>,
    /// For the audit event, without the webhook's name.
    pub annotations: Vec<(String, String)>,
}

async fn ask(
    inner: &Inner,
    hook: &Hook,
    seen: &Versioned<'_>,
    a: &Attributes<'_>,
    mutating: bool,
) -> Result<Response, Error> {
    if a.dry_run {
        match hook.side_effects.as_deref() {
            None => return Err(Error::Call("Webhook SideEffects is nil".into())),
            Some("None" | "NoneOnDryRun") => {}
            Some(_) => {
                return Err(Error::Refused(Failure::bad_request(format!(
                    "admission webhook {:?} does not support dry run",
                    hook.name
                ))));
            }
        }
    }
    let version = hook.version.ok_or_else(|| {
        Error::Call("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".into())
    })?;
    let target = hook
        .target
        .as_ref()
        .map_err(|e| Error::Call(format!("could not get REST client: {e}")))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let body = review::review(a, seen, version, &uid).to_string();
    let answer = webhook::post(inner, target, hook.timeout, body.into())
        .await
        .map_err(|e| Error::Call(format!("failed to call webhook: {e}")))?;
    review::response(&answer, version, &uid, mutating)
        .map_err(|e| Error::Call(format!("received invalid webhook response: {e}")))
}

/// `webhookerrors.ToStatusErr`
fn refusal(hook: &Hook, result: &Value) -> Failure {
    let denied = format!("admission webhook {:?} denied the request", hook.name);
    let text = |k: &str| result[k].as_str().unwrap_or("");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = result["code"].as_u64().and_then(|c| u16::try_from(c).ok());
    let code = code.filter(|c| (400..=599).contains(c)).unwrap_or(400);
    let details = match &result["details"] {
        Value::Object(m) => m.clone(),
        _ => Map::new(),
    };
    Failure::new(code, text("reason"), message).detailed(details)
}

/// Asks a validating webhook.
pub async fn validating(
    inner: &Inner,
    hook: &Hook,
    seen: &Versioned<'_>,
    a: &Attributes<'_>,
) -> (Notes, Result<(), Error>) {
    let said = match ask(inner, hook, seen, a, false).await {
        Ok(said) => said,
        Err(e) => return (Notes::default(), Err(e)),
    };
    let notes = Notes {
        warnings: said.warnings,
        annotations: said.annotations,
    };
    let outcome = if said.allowed {
        Ok(())
    } else {
        Err(Error::Refused(refusal(hook, &said.result)))
    };
    (notes, outcome)
}

/// Asks a mutating webhook, and does what it wants.
pub async fn mutating(
    inner: &Inner,
    hook: &Hook,
    hit: &Hit,
    a: &mut Attributes<'_>,
    forms: &mut Forms,
) -> Result<Said, Error> {
    // upstream wraps this one twice
    let inconvertible = |why| Error::Refused(Failure::internal(Failure::internal(why).message()));
    let seen = hit
        .versioned(inner, a, forms)
        .await
        .map_err(inconvertible)?;
    let said = ask(inner, hook, &seen, a, true).await?;
    let wanted = !said.patch.is_empty();
    let shown = seen.object.filter(|_| wanted).map(Cow::into_owned);
    for (key, value) in &said.annotations {
        a.annotate(&format!("{}/{key}", hook.name), value);
    }
    a.warnings.extend(said.warnings);
    if !said.allowed {
        return Err(Error::Refused(refusal(hook, &said.result)));
    }
    if said.patch.is_empty() {
        return Ok(Said::Fine);
    }
    let undecodable = |e: serde_json::Error| {
        Error::Call(format!(
            "received undecodable patch in webhook response: {e}"
        ))
    };
    let steps: Vec<Value> = serde_json::from_slice(&said.patch).map_err(undecodable)?;
    if steps.is_empty() {
        return Ok(Said::Fine);
    }
    let Some(mut object) = shown else {
        return Err(Error::Refused(Failure::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        ))));
    };
    crate::json_patch6902::apply(&mut object, &steps)
        .map_err(|e| Error::Refused(Failure::internal(e)))?;
    if a.kind == Kind::of(a.resource) {
        object = conformed(hit.resource(a), object).map_err(Error::Refused)?;
        object = hit
            .back(inner, a, forms, object)
            .await
            .map_err(|why| Error::Refused(Failure::new(500, "", why)))?;
    }
    let steps = serde_json::from_slice(&said.patch).map_err(undecodable)?;
    Ok(Said::Changed(object, steps))
}

/// A patched object as if the client had sent it: unknown fields dropped, defaults filled in.
pub fn conformed(r: &crate::registry::Resource, object: Value) -> Result<Value, Failure> {
    let mut ignored = Vec::new();
    let mut object = patch::conform(r, object, FieldValidation::Ignore, &mut ignored)
        .map_err(|f| Failure::internal(f.message()))?;
    r.strategy().default(&mut object);
    Ok(object)
}
