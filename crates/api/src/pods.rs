//! The Pod's own subresources: binding, eviction, log, exec and attach.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use knarr_remotecommand::StreamOptions;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{
    PodStreams,
    admission::{self, Attributes, Kind, Operation, RequestOptions},
    body::Body,
    catalog::{self, Target},
    decode::Raw,
    delete::DeleteOptions,
    eviction, object,
    query::{Query, WriteOptions},
    resource::{Outcome, options, write},
    server::{Answer, Call, Inner},
    status::Failure,
    write::{Change, Part},
};

fn failure((code, reason, message): (u16, String, String)) -> Failure {
    Failure::new(code, reason, message)
}

/// The streams of the Pod's node; those of any when it has none yet, which knows what to say then.
fn streams(inner: &Inner, t: &Target) -> Result<Arc<dyn PodStreams>, Failure> {
    let key = catalog::key(&t.resource, &t.namespace, &t.name);
    let pod = match inner.store.snapshot().get(&key) {
        Some(entry) => object::parse(&entry.value)?,
        None => return Err(Failure::not_found(&t.resource, &t.name)),
    };
    let all = inner.streams.load();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let found = match node {
        "" => all.values().next(),
        node => all.get(node),
    };
    found.cloned().ok_or_else(|| {
        Failure::new(
            503,
            "ServiceUnavailable",
            "the node agent is not running yet; try again",
        )
        .retry_after(1)
    })
}

fn must_exist(inner: &Inner, t: &Target) -> Result<(), Failure> {
    let snapshot = inner.store.snapshot();
    match snapshot.get(&catalog::key(&t.resource, &t.namespace, &t.name)) {
        Some(_) => Ok(()),
        None => Err(Failure::not_found(&t.resource, &t.name)),
    }
}

/// `GET …/log`: the node's stream, as it comes.
pub async fn log(inner: &Inner, call: &Call, t: &Target) -> Result<Outcome, Failure> {
    must_exist(inner, t)?;
    crate::log_options::check(&t.name, &call.query)?;
    let query = call.parts.uri.query().unwrap_or("");
    let stream = streams(inner, t)?
        .log(&t.namespace, &t.name, query)
        .await
        .map_err(failure)?;
    if knarr_remotecommand::is_websocket(&call.parts.headers) {
        return over_websocket(call, knarr_remotecommand::Messages::Bytes, stream);
    }
    let mut response = Response::new(Body::Stream(stream));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(Outcome::Response(response))
}

/// The stream as WebSocket messages, for clients that can't read a body as it comes.
pub fn over_websocket(
    call: &Call,
    messages: knarr_remotecommand::Messages,
    stream: futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>,
) -> Result<Outcome, Failure> {
    let mut request = Request::new(());
    *request.headers_mut() = call.parts.headers.clone();
    if let Some(upgrade) = call.parts.extensions.get::<hyper::upgrade::OnUpgrade>() {
        request.extensions_mut().insert(upgrade.clone());
    }
    let response =
        knarr_remotecommand::accept_out(&mut request, messages, stream).map_err(refused)?;
    Ok(Outcome::Response(response.map(|()| Body::empty())))
}

/// `GET|POST …/exec|attach`: checks, then the upgrade; the node pumps the streams.
pub async fn exec(inner: &Inner, call: Call, t: &Target) -> Result<Outcome, Failure> {
    must_exist(inner, t)?;
    let raw = call.parts.uri.query().unwrap_or("").to_string();
    let query = Query::parse(Some(&raw));
    if !call.parts.headers.contains_key(header::UPGRADE) {
        return Err(Failure::bad_request("Upgrade request required"));
    }
    let options = StreamOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        // upstream: a terminal has no stderr of its own
        stderr: query.flag("stderr") && !query.flag("tty"),
        tty: query.flag("tty"),
    };
    if !(options.stdin || options.stdout || options.stderr) {
        return Err(Failure::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    let mut object = json!({});
    for k in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(k) {
            object[k] = true.into();
        }
    }
    if let Some(container) = query.get("container") {
        object["container"] = container.into();
    }
    let kind = if t.subresource == "exec" {
        object["command"] = query.all("command").collect::<Vec<_>>().into();
        "PodExecOptions"
    } else {
        "PodAttachOptions"
    };
    admission::connect(inner, &call.who, t, kind, object).await?;
    let node = streams(inner, t)?;
    node.check(&t.namespace, &t.name, &raw)
        .await
        .map_err(failure)?;
    let mut request: Request<()> = Request::from_parts(call.parts, ());
    let (response, opening) =
        knarr_remotecommand::accept_exec(&mut request, options).map_err(refused)?;
    let (namespace, pod) = (t.namespace.clone(), t.name.clone());
    // attach is told from exec by this parameter, which no client sends
    let raw = if t.subresource == "attach" {
        format!("{raw}&attach=true")
    } else {
        raw
    };
    tokio::spawn(async move {
        match opening.await {
            Ok(streams) => node.exec(&namespace, &pod, &raw, streams).await,
            Err(e) => tracing::debug!(%namespace, %pod, "exec session did not open: {e}"),
        }
    });
    Ok(Outcome::Response(response.map(|()| Body::empty())))
}

/// Connections of one port-forward session at a time: as many as its framing takes, for one that waited for its turn would
/// hold up the data of all others.
const FORWARDS_MAX: usize = 512;

/// `GET|POST …/portforward`: the upgrade, then a connection into the Pod for each that the client makes.
pub async fn port_forward(inner: &Inner, call: Call, t: &Target) -> Result<Outcome, Failure> {
    must_exist(inner, t)?;
    if !call.parts.headers.contains_key(header::UPGRADE) {
        return Err(Failure::bad_request("Upgrade request required"));
    }
    let node = streams(inner, t)?;
    let query = Query::parse(call.parts.uri.query());
    let ports = query
        .all("ports")
        .flat_map(|list| list.split(','))
        .map(|port| port.parse::<u16>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Failure::bad_request("query parameter \"ports\" must be numbers"))?;
    let object = if ports.is_empty() {
        json!({})
    } else {
        json!({ "ports": ports })
    };
    admission::connect(inner, &call.who, t, "PodPortForwardOptions", object).await?;
    let mut request: Request<()> = Request::from_parts(call.parts, ());
    let (response, connections) =
        knarr_remotecommand::accept_port_forward(&mut request, &ports).map_err(refused)?;
    let (namespace, pod) = (t.namespace.clone(), t.name.clone());
    tokio::spawn(forward_all(node, namespace, pod, connections));
    Ok(Outcome::Response(response.map(|()| Body::empty())))
}

/// A connection into the Pod for each that the client makes, until it hangs up: its connections end with it.
pub async fn forward_all(
    node: Arc<dyn PodStreams>,
    namespace: String,
    pod: String,
    mut connections: tokio::sync::mpsc::Receiver<knarr_remotecommand::ForwardStream>,
) {
    let mut running = tokio::task::JoinSet::new();
    while let Some(connection) = connections.recv().await {
        while running.try_join_next().is_some() {}
        if running.len() >= FORWARDS_MAX {
            running.join_next().await;
        }
        let (node, namespace, pod) = (node.clone(), namespace.clone(), pod.clone());
        running.spawn(async move { forward(&*node, &namespace, &pod, connection).await });
    }
}

async fn forward(
    node: &dyn PodStreams,
    namespace: &str,
    pod: &str,
    connection: knarr_remotecommand::ForwardStream,
) {
    let knarr_remotecommand::ForwardStream { port, data, error } = connection;
    match node.dial(namespace, pod, port).await {
        Ok(stream) => pass(data, stream).await,
        Err(why) => {
            let uid = format!("{pod}_{namespace}");
            let text = format!(
                "error forwarding port {port} to pod {uid}, uid : failed to execute portforward in network namespace: {why}"
            );
            let _ = error.send(text);
        }
    }
}

/// How long the one side may go on when the other has ended. SOURCE: containerd
/// `internal/cri/server/sandbox_portforward_linux.go`.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Copies both ways until both sides have ended, or one has and the other doesn't soon.
async fn pass(client: impl AsyncRead + AsyncWrite, pod: impl AsyncRead + AsyncWrite) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_pod, mut to_pod) = tokio::io::split(pod);
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_pod).await;
        let _ = to_pod.shutdown().await;
    };
    let down = async {
        let _ = tokio::io::copy(&mut from_pod, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::pin!(up, down);
    tokio::select! {
        // a client that has said all it wants to hears the rest, however long that takes
        () = &mut up => down.await,
        () = &mut down => drop(tokio::time::timeout(LAST_WORDS_MAX, up).await),
    }
}

/// What a client that can't be upgraded is told.
fn refused(error: knarr_remotecommand::Error) -> Failure {
    let code = error.status_code().as_u16();
    match code {
        403 => Failure::new(403, "Forbidden", error.to_string()),
        500 => Failure::new(500, "InternalError", error.to_string()),
        _ => Failure::bad_request(error.to_string()),
    }
}

/// `POST …/binding` and `POST …/bindings`: sets the Pod's node, once.
pub async fn bind(
    inner: &Inner,
    call: &Call,
    t: &Target,
    name: Option<&str>,
) -> Result<Outcome, Failure> {
    let options = options(call, "CreateOptions", false)?;
    checked(call, "", "v1", "Binding", "bindings")?;
    let binding = Raw::new(&call.parts.headers, call.body.clone())?.value()?;
    let given = object::meta(&binding, "name");
    let name = name.unwrap_or(given).to_string();
    if given != name {
        return Err(Failure::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    let target = binding.get("target").cloned().unwrap_or(Value::Null);
    let node = target.get("name").and_then(Value::as_str).unwrap_or("");
    let node = node.to_string();
    let kind = target.get("kind").and_then(Value::as_str).unwrap_or("");
    if node.is_empty() || !matches!(kind, "" | "Node") {
        return Err(Failure::invalid(
            "",
            "Binding",
            &name,
            &[crate::registry::FieldError::Required {
                field: "target.name".into(),
                detail: "a Node must be named".into(),
            }],
        ));
    }
    let t = Target {
        name: name.clone(),
        ..t.clone()
    };
    let uid = object::meta(&binding, "uid").to_string();
    let (binding, warnings) =
        admit_created(inner, call, &t, &options, "v1", "Binding", binding).await?;
    let mut w = write(inner, call, &t, &options, Part::Sub("binding"));
    w.admitted = true;
    w.update(|live, _| {
        let refuse = |why: String| Failure::conflict(&t.resource, &name, &why);
        if live["metadata"].get("deletionTimestamp").is_some() {
            return Err(refuse(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        let current = live
            .pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .unwrap_or("");
        if !current.is_empty() {
            return Err(refuse(format!(
                "pod {name} is already assigned to node {current:?}"
            )));
        }
        let gates = live
            .pointer("/spec/schedulingGates")
            .and_then(Value::as_array);
        if gates.is_some_and(|g| !g.is_empty()) {
            return Err(refuse(format!(
                "pod {name} has non-empty .spec.schedulingGates"
            )));
        }
        let mut object = live.clone();
        object["spec"]["nodeName"] = node.as_str().into();
        let m = object::meta_mut(&mut object);
        // a retry must see the newest object, whatever its revision
        m.remove("resourceVersion");
        if !uid.is_empty() {
            m.insert("uid".into(), uid.clone().into());
        }
        for key in ["annotations", "labels"] {
            let Some(Value::Object(more)) = binding["metadata"].get(key) else {
                continue;
            };
            let own = m.entry(key).or_insert_with(|| json!({}));
            for (k, v) in more {
                own[k] = v.clone();
            }
        }
        set_condition(&mut object, "PodScheduled");
        Ok(Change {
            object,
            applied: false,
        })
    })
    .await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Answer::coded(StatusCode::CREATED, status.to_string())
        .warn(warnings)
        .into())
}

/// Admission of a subresource that is created and not stored: as admission left it, and the warnings.
async fn admit_created(
    inner: &Inner,
    call: &Call,
    t: &Target,
    options: &WriteOptions,
    version: &str,
    kind: &str,
    mut object: Value,
) -> Result<(Value, Vec<String>), Failure> {
    let mut a = Attributes::new(
        &call.who,
        Operation::Create,
        &t.resource,
        &t.namespace,
        &t.name,
        RequestOptions::Write(options),
    );
    a.subresource = &t.subresource;
    let group = if kind == "Eviction" { "policy" } else { "" };
    a.kind = Kind {
        group,
        version,
        kind,
    };
    if let Some(map) = object.as_object_mut() {
        map.insert("kind".into(), kind.into());
        let api_version = if group.is_empty() {
            version.to_string()
        } else {
            format!("{group}/{version}")
        };
        map.insert("apiVersion".into(), api_version.into());
    }
    let m = object::meta_mut(&mut object);
    m.insert("name".into(), t.name.as_str().into());
    m.insert("namespace".into(), t.namespace.as_str().into());
    a.object = Some(object);
    a.span = crate::audit::Span::of(&call.parts).cloned();
    let (object, warnings) = admission::transient(inner, a).await?;
    Ok((object.unwrap_or_default(), warnings))
}

fn set_condition(o: &mut Value, kind: &str) {
    let now = object::now();
    let condition =
        json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    if !o["status"].is_object() {
        o["status"] = json!({});
    }
    let list = &mut o["status"]["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        match list.iter_mut().find(|c| c["type"] == kind) {
            Some(c) if c["status"] == "True" => {}
            Some(c) => *c = condition,
            None => list.push(condition),
        }
    }
}

/// 400 when the body isn't an object of the subresource's kind.
fn checked(
    call: &Call,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Result<(), Failure> {
    let r = crate::registry::Resource {
        group,
        version,
        kind,
        plural,
        ..crate::kinds::PLAIN
    };
    Raw::new(&call.parts.headers, call.body.clone())?
        .object(&r, crate::query::FieldValidation::Ignore, &mut Vec::new())
        .map(|_| ())
}

/// `POST …/eviction`: a delete that a PodDisruptionBudget may refuse. Kind and version of the body may be left out.
pub async fn evict(inner: &Inner, call: &Call, t: &Target) -> Result<Outcome, Failure> {
    let mut write_options = options(call, "CreateOptions", false)?;
    checked(call, "policy", "v1", "Eviction", "evictions")?;
    let eviction = Raw::new(&call.parts.headers, call.body.clone())?.value()?;
    let given = object::meta(&eviction, "name");
    if given != t.name {
        return Err(Failure::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let given_options = eviction
        .get("deleteOptions")
        .or_else(|| eviction.get("delete_options"))
        .filter(|v| v.is_object())
        .cloned()
        .unwrap_or_else(|| json!({}));
    let mut delete_options = DeleteOptions::from_value(&given_options, &Query::default())?;
    delete_options.dry_run |= write_options.dry_run;
    let (_, warnings) =
        admit_created(inner, call, t, &write_options, "v1", "Eviction", eviction).await?;
    let pod = {
        let snapshot = inner.store.snapshot();
        let entry = snapshot
            .get(&catalog::key(&t.resource, &t.namespace, &t.name))
            .ok_or_else(|| Failure::not_found(&t.resource, &t.name))?;
        object::parse(&entry.value)?
    };
    write_options.dry_run = delete_options.dry_run;
    eviction::evict(inner, call, t, &pod, &write_options, delete_options).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Answer::coded(StatusCode::CREATED, status.to_string())
        .warn(warnings)
        .into())
}
