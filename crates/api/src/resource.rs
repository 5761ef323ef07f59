//! Requests for objects and collections: method and subresource to the code that answers.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    body::{Body, Items},
    catalog::{self, Target},
    computed,
    decode::Raw,
    delete::{self, DeleteOptions},
    list, negotiate,
    negotiate::{Endpoint, Form, Media},
    object,
    patch::{self, Patch},
    pods,
    query::WriteOptions,
    scale,
    server::{Answer, Call, Inner},
    status::Failure,
    table, versions, watch,
    write::{Change, Part, Write},
};

/// An answer to be encoded, or a response to be sent as it is.
pub enum Outcome {
    /// Encoded by the caller.
    Answer(Answer),
    /// Stream or upgrade.
    Response(Response<Body>),
}
impl From<Answer> for Outcome {
    fn from(a: Answer) -> Outcome {
        Outcome::Answer(a)
    }
}

/// What upstream's authorizer calls the request.
fn verb(call: &Call, t: &Target) -> &'static str {
    match call.parts.method {
        Method::GET | Method::HEAD if t.watch || call.query.flag("watch") => "watch",
        Method::GET | Method::HEAD if t.name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if t.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "unknown",
    }
}

/// Answers a resource request.
pub async fn answer(inner: &Arc<Inner>, call: Call, t: Target) -> Result<Outcome, Failure> {
    if call.parts.method == Method::HEAD {
        return Err(Failure::method_not_allowed());
    }
    let verb = verb(&call, &t);
    if computed::is(&t.resource) {
        return computed::answer(inner, &call, &t, verb).await;
    }
    match t.subresource.as_str() {
        "" => object_request(inner, &call, &t, verb).await,
        "status" if t.resource.has_status => match verb {
            "get" => get(inner, &call, &t).await,
            "update" => put(inner, &call, &t, Part::Status).await,
            "patch" => do_patch(inner, &call, &t, Part::Status).await,
            _ => Err(Failure::method_not_allowed()),
        },
        "scale" if t.resource.scale.is_some() => scale::answer(inner, &call, &t, verb).await,
        sub if t.resource.subresources.contains(&sub) => subresource(inner, call, &t, verb).await,
        _ => Err(Failure::no_such_path()),
    }
}

async fn object_request(
    inner: &Arc<Inner>,
    call: &Call,
    t: &Target,
    verb: &str,
) -> Result<Outcome, Failure> {
    match verb {
        "watch" => {
            let (media, body) = watch::watch(inner, t, &call.query, &call.parts.headers)?;
            if media == Media::Json
                && knarr_remotecommand::is_websocket(&call.parts.headers)
                && let Body::Stream(stream) = body
            {
                return pods::over_websocket(call, knarr_remotecommand::Messages::Lines, stream);
            }
            let mut response = Response::new(body);
            let content_type = match media {
                Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
                media => media.name(),
            };
            response.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static(content_type),
            );
            response.headers_mut().insert(
                http::header::CACHE_CONTROL,
                http::HeaderValue::from_static("no-cache, private"),
            );
            Ok(Outcome::Response(response))
        }
        "list" => {
            let form = negotiate::form_of_list(&t.resource, &call.parts.headers)?;
            Ok(answered(
                t,
                StatusCode::OK,
                list::list(inner, t, &call.query, form).await?,
            )
            .into())
        }
        "get" => get(inner, call, t).await,
        "create" if t.name.is_empty() => create(inner, call, t).await,
        "update" if !t.name.is_empty() => put(inner, call, t, Part::Main).await,
        "patch" if !t.name.is_empty() => do_patch(inner, call, t, Part::Main).await,
        "delete" => {
            let options = DeleteOptions::read(&call.parts.headers, call.body.clone(), &call.query)?;
            let by = match crate::audit::Span::of(&call.parts) {
                Some(span) => delete::Requester::Audited(&call.who, span),
                None => delete::Requester::Named(&call.who),
            };
            let done =
                delete::delete(inner, &t.resource, &t.namespace, &t.name, &options, by).await?;
            Ok(answered(t, StatusCode::OK, done.answer)
                .warn(done.warnings)
                .into())
        }
        "deletecollection" => delete_collection(inner, call, t).await,
        _ => Err(Failure::method_not_allowed()),
    }
}

async fn subresource(
    inner: &Inner,
    call: Call,
    t: &Target,
    verb: &str,
) -> Result<Outcome, Failure> {
    let core = t.resource.group.is_empty();
    match (core, t.resource.plural, t.subresource.as_str(), verb) {
        (true, "pods", "log", "get") => pods::log(inner, &call, t).await,
        (true, "pods", "exec" | "attach", "get" | "create") => pods::exec(inner, call, t).await,
        (true, "pods", "portforward", "get" | "create") => pods::port_forward(inner, call, t).await,
        (true, "pods", "binding", "create") => {
            let name = t.name.clone();
            pods::bind(inner, &call, t, Some(&name)).await
        }
        (true, "pods", "eviction", "create") => pods::evict(inner, &call, t).await,
        (true, "namespaces", "finalize", "update") => {
            put(inner, &call, t, Part::Sub("finalize")).await
        }
        (_, _, "ephemeralcontainers", "get")
        | (true, "pods", "resize", "get")
        | (_, _, "approval", "get") => get(inner, &call, t).await,
        (true, "pods", "ephemeralcontainers", "update") => {
            put(inner, &call, t, Part::Sub("ephemeralcontainers")).await
        }
        (true, "pods", "ephemeralcontainers", "patch") => {
            do_patch(inner, &call, t, Part::Sub("ephemeralcontainers")).await
        }
        (true, "pods", "resize", "update") => put(inner, &call, t, Part::Sub("resize")).await,
        (true, "pods", "resize", "patch") => do_patch(inner, &call, t, Part::Sub("resize")).await,
        (_, _, "approval", "update") => put(inner, &call, t, Part::Sub("approval")).await,
        (_, _, "approval", "patch") => do_patch(inner, &call, t, Part::Sub("approval")).await,
        (_, _, "approval", _) => Err(Failure::method_not_allowed()),
        (
            true,
            "pods",
            "log"
            | "exec"
            | "attach"
            | "portforward"
            | "binding"
            | "eviction"
            | "ephemeralcontainers"
            | "resize",
            _,
        )
        | (true, "namespaces", "finalize", _) => Err(Failure::method_not_allowed()),
        _ => Err(Failure::no_such_path()),
    }
}

/// An answer about this target.
fn answered(t: &Target, code: StatusCode, body: impl Into<Body>) -> Answer {
    let mut answer = Answer::coded(code, body);
    answer.negotiated = Some(Endpoint::of(&t.resource));
    answer
}

/// Reads one object in the form asked for.
async fn get(inner: &Inner, call: &Call, t: &Target) -> Result<Outcome, Failure> {
    let form = negotiate::form(&t.resource, &call.parts.headers)?;
    let version = call.query.get("resourceVersion").unwrap_or("");
    let snapshot = inner.store.snapshot();
    if let Some(wanted) = list::parse_version(version)?
        && wanted > snapshot.revision()
    {
        return Err(list::too_large(wanted, snapshot.revision()));
    }
    let entry = snapshot
        .get(&catalog::key(&t.resource, &t.namespace, &t.name))
        .ok_or_else(|| Failure::not_found(&t.resource, &t.name))?;
    let bytes = crate::crd::bring(inner, &t.resource, entry.value.clone()).await?;
    let bytes = versions::served(&t.resource, &bytes);
    Ok(answered(t, StatusCode::OK, in_form(call, t, form, &bytes)?).into())
}

/// Stored bytes in the form asked for.
pub fn in_form(call: &Call, t: &Target, form: Form, bytes: &bytes::Bytes) -> Result<Body, Failure> {
    Ok(match form {
        Form::Plain => Body::Whole(bytes.clone()),
        Form::Table(version) => {
            let include = table::Include::read(&call.query)?;
            let o = object::parse(bytes)?;
            let metadata = json!({"resourceVersion": object::meta(&o, "resourceVersion")});
            let rows = vec![table::row(&t.resource, &o, version, include)];
            table::table(&t.resource, version, metadata, true, rows)
                .to_string()
                .into()
        }
        Form::Partial(version) => {
            let m = object::metadata(bytes)
                .ok_or_else(|| Failure::internal("stored object has no metadata"))?;
            table::partial(m, version).to_string().into()
        }
        Form::PartialList(_) => return Err(list::wrong_form(&t.resource, false)),
    })
}

fn user_agent(call: &Call) -> Option<&str> {
    call.parts
        .headers
        .get(http::header::USER_AGENT)
        .and_then(|v| v.to_str().ok())
}

/// The options of a write.
pub fn options(call: &Call, kind: &str, apply: bool) -> Result<WriteOptions, Failure> {
    WriteOptions::read(&call.query, user_agent(call), kind, apply)
}

/// A write of this request's target.
pub fn write<'a>(
    inner: &'a Inner,
    call: &'a Call,
    t: &'a Target,
    options: &'a WriteOptions,
    part: Part,
) -> Write<'a> {
    let mut w = Write::new(
        inner,
        &call.who,
        &t.resource,
        &t.namespace,
        &t.name,
        options,
        part,
    );
    w.span = crate::audit::Span::of(&call.parts).cloned();
    if call.parts.method == http::Method::PATCH {
        w.verb = "patch";
    }
    w
}

async fn create(inner: &Inner, call: &Call, t: &Target) -> Result<Outcome, Failure> {
    let form = negotiate::form(&t.resource, &call.parts.headers)?;
    let options = options(call, "CreateOptions", false)?;
    let mut w = write(inner, call, t, &options, Part::Main);
    if t.resource.namespaced && t.namespace.is_empty() {
        return Err(Failure::method_not_allowed());
    }
    let mut warnings = Vec::new();
    let raw = Raw::new(&call.parts.headers, call.body.clone())?;
    let o = raw.object(&t.resource, options.validation, &mut warnings)?;
    w.warnings = warnings;
    let made = w.create(o, false).await;
    let bytes = made.map_err(|f| f.warned(std::mem::take(&mut w.warnings)))?;
    let warnings = std::mem::take(&mut w.warnings);
    let body = in_form(call, t, form, &bytes)?;
    Ok(answered(t, StatusCode::CREATED, body).warn(warnings).into())
}

async fn put(inner: &Inner, call: &Call, t: &Target, part: Part) -> Result<Outcome, Failure> {
    let form = negotiate::form(&t.resource, &call.parts.headers)?;
    let options = options(call, "UpdateOptions", false)?;
    let mut w = write(inner, call, t, &options, part);
    let mut warnings = Vec::new();
    let raw = Raw::new(&call.parts.headers, call.body.clone())?;
    let mut o = raw.object(&t.resource, options.validation, &mut warnings)?;
    w.warnings = warnings;
    w.check_place(&mut o)?;
    let r = &t.resource;
    let unconditional = object::meta(&o, "resourceVersion").is_empty();
    if unconditional && !r.strategy().unconditional_update() && part == Part::Main {
        let key = catalog::key(r, &t.namespace, &t.name);
        if !r.strategy().create_on_update() && inner.store.snapshot().get(&key).is_none() {
            return Err(Failure::not_found(r, &t.name));
        }
        return Err(Failure::invalid(
            r.group,
            r.kind,
            &t.name,
            &[crate::registry::FieldError::Invalid {
                field: "metadata.resourceVersion".into(),
                value: 0.into(),
                detail: "must be specified for an update".into(),
            }],
        ));
    }
    let result = w
        .update(|live, _| {
            let object = if part == Part::Sub("finalize") {
                finalized(live, &o)
            } else {
                o.clone()
            };
            Ok(Change {
                object,
                applied: false,
            })
        })
        .await;
    let (code, bytes) = match result {
        Err(f) if f.code() == 404 && r.strategy().create_on_update() && part == Part::Main => {
            if !unconditional {
                return Err(Failure::modified(r, &t.name));
            }
            w.by_update = true;
            let made = w.create(o, false).await;
            let told = |f: Failure| f.warned(std::mem::take(&mut w.warnings));
            (StatusCode::CREATED, made.map_err(told)?)
        }
        Err(f) => return Err(f.warned(std::mem::take(&mut w.warnings))),
        Ok(done) => (StatusCode::OK, done.into_bytes()),
    };
    let warnings = std::mem::take(&mut w.warnings);
    Ok(answered(t, code, in_form(call, t, form, &bytes)?)
        .warn(warnings)
        .into())
}

/// `/finalize` changes the namespace's finalizers alone.
fn finalized(live: &Value, given: &Value) -> Value {
    let mut new = live.clone();
    let finalizers = given
        .pointer("/spec/finalizers")
        .cloned()
        .unwrap_or_else(|| json!([]));
    new["spec"] = match finalizers.as_array() {
        Some(list) if !list.is_empty() => json!({ "finalizers": finalizers }),
        _ => json!({}),
    };
    let version = object::meta(given, "resourceVersion").to_string();
    let uid = object::meta(given, "uid").to_string();
    let m = object::meta_mut(&mut new);
    m.insert("resourceVersion".into(), version.into());
    if !uid.is_empty() {
        m.insert("uid".into(), uid.into());
    }
    new
}

async fn do_patch(inner: &Inner, call: &Call, t: &Target, part: Part) -> Result<Outcome, Failure> {
    let form = negotiate::form(&t.resource, &call.parts.headers)?;
    let content_type = negotiate::content_type(&call.parts.headers);
    let patch = Patch::read(&content_type, &call.body)?;
    let options = options(call, "PatchOptions", Patch::is_apply(&content_type))?;
    let mut w = write(inner, call, t, &options, part);
    let done = patch::run(&mut w, patch, &options).await;
    let (created, written) = done.map_err(|f| f.warned(std::mem::take(&mut w.warnings)))?;
    let warnings = std::mem::take(&mut w.warnings);
    let code = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let body = in_form(call, t, form, &written.into_bytes())?;
    Ok(answered(t, code, body).warn(warnings).into())
}

/// Objects deleted at once by one deletecollection; their commits share a flush.
const DELETE_CONCURRENCY: usize = 32;

async fn delete_collection(inner: &Inner, call: &Call, t: &Target) -> Result<Outcome, Failure> {
    use futures::{StreamExt, TryStreamExt};
    let r = &t.resource;
    let everywhere = r.namespaced && t.namespace.is_empty();
    if everywhere || (r.group.is_empty() && r.plural == "namespaces") {
        return Err(Failure::method_not_allowed());
    }
    let options = DeleteOptions::read(&call.parts.headers, call.body.clone(), &call.query)?;
    let (metadata, entries) = list::select(inner, t, &call.query).await?;
    let keys: Vec<std::sync::Arc<str>> = entries.into_iter().map(|e| e.key).collect();
    let options = &options;
    let deleted: Vec<(bytes::Bytes, Vec<String>)> = futures::stream::iter(keys)
        .map(|key| async move {
            let (namespace, name) = catalog::split_key(r, &key);
            let by = delete::Requester::Collection(&call.who);
            match delete::delete(inner, r, namespace, name, options, by).await {
                Ok(d) => Ok(Some((d.object, d.warnings))),
                Err(f) if f.code() == 404 => Ok(None),
                Err(f) => Err(f),
            }
        })
        .buffered(DELETE_CONCURRENCY)
        .try_filter_map(|o| async move { Ok(o) })
        .try_collect()
        .await?;
    let (deleted, warnings): (Vec<bytes::Bytes>, Vec<Vec<String>>) = deleted.into_iter().unzip();
    let metadata = Value::Object(metadata);
    let items = Items::new(
        r.kind,
        list::list_kind(r),
        &catalog::api_version(r),
        r.custom.is_none(),
        metadata.to_string(),
        deleted.into(),
    );
    Ok(answered(t, StatusCode::OK, Body::Items(items))
        .warn(warnings.concat())
        .into())
}
