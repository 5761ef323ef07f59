//! Streams at a node agent's own paths: `/exec`, `/attach`, `/portForward`, `/run`, `/containerLogs`. They are asked for at
//! the node's port and through `nodes/…/proxy`, in the kubelet's words, which are not those of the Pod's subresources.
//!
//! Source: kubernetes `pkg/kubelet/server/server.go` (getExec, getAttach, getPortForward, getRun, getContainerLogs),
//! `pkg/kubelet/kubelet_pods.go`; `k8s.io/cri-streaming` (NewOptions, NewV4Options).

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use knarr_remotecommand::{ServerStreams, StreamOptions};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    sync::{oneshot, watch},
};

use crate::{
    PodStreams, agent_port::plain, body::Body, log_options, object, pods, query::Query,
    server::Inner,
};

/// What a command's output may be long, in bytes, when it is answered as a whole.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// How long such a command may run.
const RUN_MAX: Duration = Duration::from_secs(120);
const PIPE_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Exec,
    Attach,
    PortForward,
    Run,
    Logs,
}

/// Which container of which Pod is meant.
#[derive(Debug, PartialEq, Eq)]
struct Meant {
    namespace: String,
    pod: String,
    uid: Option<String>,
    /// empty for what concerns the whole Pod
    container: String,
}

/// What is asked for at a decoded path. None: another path; Some(Err): of these, but nothing is there.
fn read(path: &str) -> Option<Result<(What, Meant), ()>> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let what = match parts.next()? {
        "exec" => What::Exec,
        "attach" => What::Attach,
        "portForward" => What::PortForward,
        "run" => What::Run,
        "containerLogs" => What::Logs,
        _ => return None,
    };
    let mut rest: Vec<&str> = parts.collect();
    if rest.last() == Some(&"") {
        rest.pop(); // as go-restful, which takes a slash at the end
    }
    if rest.iter().any(|part| part.is_empty()) {
        return Some(Err(()));
    }
    let meant = |uid: Option<&str>, container: &str| Meant {
        namespace: rest[0].into(),
        pod: rest[1].into(),
        uid: uid.map(Into::into),
        container: container.into(),
    };
    Some(Ok(match (what, rest.as_slice()) {
        (What::PortForward, [_, _]) => (what, meant(None, "")),
        (What::PortForward, [_, _, uid]) => (what, meant(Some(uid), "")),
        (What::PortForward, _) => return Some(Err(())),
        (_, [_, _, container]) => (what, meant(None, container)),
        (What::Exec | What::Attach | What::Run, [_, _, uid, container]) => {
            (what, meant(Some(uid), container))
        }
        _ => return Some(Err(())),
    }))
}

/// An answer in plain words.
struct Refused {
    code: u16,
    text: String,
}

fn refuse(code: u16, text: impl Into<String>) -> Refused {
    let text = text.into();
    Refused { code, text }
}

impl From<Refused> for Response<Body> {
    fn from(refused: Refused) -> Self {
        let code = StatusCode::from_u16(refused.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        plain(code, refused.text)
    }
}

/// Go's `%q` of a name.
fn quoted(name: &str) -> String {
    format!("{name:?}")
}

/// Answers what is asked of `node` at `path` (decoded). None: it's no stream's path.
pub async fn answer(
    inner: &Inner,
    node: &str,
    path: &str,
    parts: &mut Parts,
) -> Option<Response<Body>> {
    let (what, meant) = match read(path)? {
        Ok(found) => found,
        Err(()) => return Some(refuse(404, "404: Page Not Found").into()),
    };
    let methods: &[Method] = match what {
        What::Run => &[Method::POST],
        What::Logs => &[Method::GET],
        _ => &[Method::GET, Method::POST],
    };
    if !methods.contains(&parts.method) {
        let mut response = Response::from(refuse(405, "405: Method Not Allowed"));
        let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
        if let Ok(allow) = HeaderValue::from_str(&names.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        return Some(response);
    }
    let query = Query::parse(parts.uri.query());
    let answered = match what {
        What::Exec | What::Attach => session(inner, node, what, &meant, &query, parts).await,
        What::PortForward => forward(inner, node, &meant, &query, parts),
        What::Run => run(inner, node, &meant, &query).await,
        What::Logs => logs(inner, node, &meant, &query).await,
    };
    Some(answered.unwrap_or_else(Response::from))
}

/// The Pod, if it is one of this node's.
fn pod(inner: &Inner, node: &str, meant: &Meant) -> Option<Value> {
    let pods = inner.catalog().find("", "v1", "pods")?;
    let key = crate::catalog::key(&pods, &meant.namespace, &meant.pod);
    let snapshot = inner.store.snapshot();
    let pod = object::parse(&snapshot.get(&key)?.value).ok()?;
    (pod["spec"]["nodeName"] == node).then_some(pod)
}

fn has_uid(pod: &Value, meant: &Meant) -> bool {
    match &meant.uid {
        Some(uid) => object::meta(pod, "uid") == uid,
        None => true,
    }
}

fn streams(inner: &Inner, node: &str) -> Result<Arc<dyn PodStreams>, Refused> {
    let found = inner.streams.load().get(node).cloned();
    found.ok_or_else(|| refuse(503, "the node agent is not running yet; try again"))
}

/// The running container, or what upstream says when there is none.
async fn running(
    inner: &Inner,
    node: &str,
    what: What,
    meant: &Meant,
) -> Result<Arc<dyn PodStreams>, Refused> {
    let pod = pod(inner, node, meant).ok_or_else(|| refuse(404, "pod does not exist"))?;
    let missing = || {
        refuse(
            500,
            match what {
                What::Attach => format!(
                    "container {} not found in pod {}_{}",
                    meant.container, meant.pod, meant.namespace
                ),
                _ => format!("container not found ({})", quoted(&meant.container)),
            },
        )
    };
    if !has_uid(&pod, meant) {
        return Err(missing());
    }
    let streams = streams(inner, node)?;
    let checked = streams
        .check(
            &meant.namespace,
            &meant.pod,
            &encoded(&[("container", &meant.container)]),
        )
        .await;
    checked.map(|()| streams).map_err(|_| missing())
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

/// What the node is asked for, as the Pod's subresource would have it.
fn for_node(what: What, meant: &Meant, options: StreamOptions, command: &[&str]) -> String {
    let mut pairs = vec![("container", meant.container.as_str())];
    let flags = [
        ("stdin", options.stdin),
        ("stdout", options.stdout),
        ("stderr", options.stderr),
        ("tty", options.tty),
        ("attach", what == What::Attach),
    ];
    pairs.extend(
        flags
            .iter()
            .filter(|(_, on)| *on)
            .map(|(k, _)| (*k, "true")),
    );
    pairs.extend(command.iter().map(|word| ("command", *word)));
    encoded(&pairs)
}

/// The request as the framing wants it: heads alone.
fn upgradable(parts: &mut Parts) -> Request<()> {
    let mut request = Request::new(());
    *request.headers_mut() = parts.headers.clone();
    if let Some(upgrade) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() {
        request.extensions_mut().insert(upgrade);
    }
    request
}

/// As `httpstream.IsUpgradeRequest`.
fn wants_upgrade(parts: &Parts) -> bool {
    let mut all = parts.headers.get_all(header::CONNECTION).iter();
    all.any(|v| {
        v.to_str()
            .is_ok_and(|v| v.to_ascii_lowercase().contains("upgrade"))
    })
}

async fn session(
    inner: &Inner,
    node: &str,
    what: What,
    meant: &Meant,
    query: &Query,
    parts: &mut Parts,
) -> Result<Response<Body>, Refused> {
    let on = |key: &str| query.get(key) == Some("1");
    let options = StreamOptions {
        stdin: on("input"),
        stdout: on("output"),
        stderr: on("error") && !on("tty"),
        tty: on("tty"),
    };
    if !(options.stdin || options.stdout || options.stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(refuse(400, text));
    }
    let node = running(inner, node, what, meant).await?;
    if !wants_upgrade(parts) {
        return Err(refuse(500, "Upgrade request required\n"));
    }
    let command: Vec<&str> = query.all("command").collect();
    let raw = for_node(what, meant, options, &command);
    let (response, opening) =
        knarr_remotecommand::accept_exec(&mut upgradable(parts), options).map_err(not_upgraded)?;
    let (namespace, pod) = (meant.namespace.clone(), meant.pod.clone());
    tokio::spawn(async move {
        match opening.await {
            Ok(streams) => node.exec(&namespace, &pod, &raw, streams).await,
            Err(e) => tracing::debug!(%namespace, %pod, "session did not open: {e}"),
        }
    });
    Ok(response.map(|()| Body::empty()))
}

fn not_upgraded(error: knarr_remotecommand::Error) -> Refused {
    refuse(error.status_code().as_u16(), error.to_string())
}

/// The ports of the channel protocols, which can't name them later (NewV4Options).
fn ports(query: &Query) -> Result<Vec<u16>, String> {
    let given: Vec<&str> = query.all("port").collect();
    if given.is_empty() {
        return Err("query parameter \"port\" is required".into());
    }
    let mut all = Vec::new();
    for list in given {
        if list.is_empty() {
            return Err("query parameter \"port\" cannot be empty".into());
        }
        for port in list.split(',') {
            let parsed = port.parse::<u16>().map_err(|_| {
                let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                let why = match digits {
                    true => "value out of range",
                    false => "invalid syntax",
                };
                format!(
                    "unable to parse {list:?} as a port: strconv.ParseUint: parsing {port:?}: {why}"
                )
            })?;
            if parsed == 0 {
                return Err(format!("port {list:?} must be > 0"));
            }
            all.push(parsed);
        }
    }
    Ok(all)
}

fn forward(
    inner: &Inner,
    node: &str,
    meant: &Meant,
    query: &Query,
    parts: &mut Parts,
) -> Result<Response<Body>, Refused> {
    let tunnelled = parts
        .headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.contains("SPDY/3.1+"));
    let by_channel = knarr_remotecommand::is_websocket(&parts.headers) && !tunnelled;
    let ports = match by_channel {
        true => ports(query).map_err(|why| refuse(400, why))?,
        false => Vec::new(),
    };
    let found = pod(inner, node, meant).ok_or_else(|| refuse(404, "pod does not exist"))?;
    if !has_uid(&found, meant) {
        return Err(refuse(404, "pod not found"));
    }
    let node = streams(inner, node)?;
    if !wants_upgrade(parts) {
        return Err(refuse(500, "Upgrade request required\n"));
    }
    let (response, connections) =
        knarr_remotecommand::accept_port_forward(&mut upgradable(parts), &ports)
            .map_err(not_upgraded)?;
    tokio::spawn(pods::forward_all(
        node,
        meant.namespace.clone(),
        meant.pod.clone(),
        connections,
    ));
    Ok(response.map(|()| Body::empty()))
}

/// Runs a command without input and answers with what it wrote: first all of stdout, then all of stderr.
async fn run(
    inner: &Inner,
    node: &str,
    meant: &Meant,
    query: &Query,
) -> Result<Response<Body>, Refused> {
    let node = running(inner, node, What::Run, meant).await?;
    let command = query.get("cmd").unwrap_or("");
    let words: Vec<&str> = command.split(' ').collect();
    let options = StreamOptions {
        stdout: true,
        stderr: true,
        ..StreamOptions::default()
    };
    let raw = for_node(What::Run, meant, options, &words);
    let (out_near, out_far) = tokio::io::duplex(PIPE_BYTES);
    let (err_near, err_far) = tokio::io::duplex(PIPE_BYTES);
    let (status, told) = oneshot::channel();
    let (_sizes, resize) = watch::channel(None);
    let boxed =
        |w: tokio::io::DuplexStream| Some(Box::new(w) as Box<dyn AsyncWrite + Send + Unpin>);
    let streams = ServerStreams {
        stdin: None,
        stdout: boxed(out_far),
        stderr: boxed(err_far),
        resize,
        status,
    };
    let all = async {
        let ((), stdout, stderr) = tokio::join!(
            node.exec(&meant.namespace, &meant.pod, &raw, streams),
            whole(out_near),
            whole(err_near),
        );
        (stdout, stderr, told.await)
    };
    let Ok((stdout, stderr, told)) = tokio::time::timeout(RUN_MAX, all).await else {
        let text = format!("command {command:?} timed out");
        return Err(refuse(500, text));
    };
    let told: Value = told
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    if told["status"] != "Success" {
        let causes = told.pointer("/details/causes").and_then(Value::as_array);
        let code = causes
            .into_iter()
            .flatten()
            .find(|c| c["reason"] == "ExitCode")
            .and_then(|c| c["message"].as_str());
        let text = match code {
            Some(code) => format!(
                "command '{command}' exited with {code}: {}",
                String::from_utf8_lossy(&stderr)
            ),
            None => told["message"].as_str().unwrap_or("no exit code").into(),
        };
        return Err(refuse(500, text));
    }
    let mut response = Response::new(Body::from([stdout, stderr].concat()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// What comes until the end, up to the limit; the rest is read and dropped, so that nobody waits for room.
async fn whole(from: tokio::io::DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut limited = from.take(OUTPUT_BYTES_MAX);
    let _ = limited.read_to_end(&mut all).await;
    let mut rest = limited.into_inner();
    let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    all
}

async fn logs(
    inner: &Inner,
    node: &str,
    meant: &Meant,
    query: &Query,
) -> Result<Response<Body>, Refused> {
    // `tail` is what `tailLines` was called; "all" of it is the same as none
    let mut pairs: Vec<(&str, &str)> = [
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "stream",
    ]
    .into_iter()
    .filter_map(|key| Some((key, query.get(key)?)))
    .collect();
    if let Some(tail) = query.get("tail").filter(|tail| !tail.is_empty()) {
        pairs.retain(|(key, _)| *key != "tailLines");
        if tail != "all" {
            pairs.push(("tailLines", tail));
        }
    }
    pairs.push(("container", &meant.container));
    let raw = encoded(&pairs);
    log_options::check(&meant.pod, &Query::parse(Some(&raw))).map_err(|f| match f.code() {
        400 => refuse(400, "{\"message\": \"Unable to decode query.\"}"),
        _ => refuse(422, "{\"message\": \"Invalid request.\"}"),
    })?;
    let (name, container) = (quoted(&meant.pod), quoted(&meant.container));
    let found =
        pod(inner, node, meant).ok_or_else(|| refuse(404, format!("pod {name} does not exist")))?;
    let named = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .filter_map(|list| found["spec"][*list].as_array())
        .flatten()
        .any(|c| c["name"] == meant.container.as_str());
    if !named {
        let text = format!("container {container} not found in pod {name}");
        return Err(refuse(404, text));
    }
    let stream = streams(inner, node)?
        .log(&meant.namespace, &meant.pod, &raw)
        .await
        .map_err(|(_, _, why)| refuse(400, why))?;
    let mut response = Response::new(Body::Stream(stream));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_containers() {
        let meant = |uid: Option<&str>, container: &str| Meant {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: uid.map(Into::into),
            container: container.into(),
        };
        for (path, wanted) in [
            ("/exec/ns/p/c", Some(Ok((What::Exec, meant(None, "c"))))),
            (
                "/exec/ns/p/u/c",
                Some(Ok((What::Exec, meant(Some("u"), "c")))),
            ),
            (
                "/attach/ns/p/c/",
                Some(Ok((What::Attach, meant(None, "c")))),
            ),
            (
                "/run/ns/p/u/c",
                Some(Ok((What::Run, meant(Some("u"), "c")))),
            ),
            (
                "/portForward/ns/p",
                Some(Ok((What::PortForward, meant(None, "")))),
            ),
            (
                "/portForward/ns/p/u",
                Some(Ok((What::PortForward, meant(Some("u"), "")))),
            ),
            ("/portForward/ns/p/u/x", Some(Err(()))),
            (
                "/containerLogs/ns/p/c",
                Some(Ok((What::Logs, meant(None, "c")))),
            ),
            ("/containerLogs/ns/p/u/c", Some(Err(()))),
            ("/exec/ns//c", Some(Err(()))),
            ("/exec", Some(Err(()))),
            ("/execute/ns/p/c", None),
            ("/pods", None),
            ("", None),
        ] {
            assert_eq!(read(path), wanted, "{path}");
        }
    }

    #[test]
    fn ports_are_read_as_upstream_does() {
        for (query, wanted) in [
            ("port=80", Ok(vec![80])),
            ("port=80,81&port=82", Ok(vec![80, 81, 82])),
            ("ports=80", Err("query parameter \"port\" is required")),
            ("port=", Err("query parameter \"port\" cannot be empty")),
            ("port=0", Err("port \"0\" must be > 0")),
            (
                "port=70000",
                Err(
                    "unable to parse \"70000\" as a port: strconv.ParseUint: parsing \"70000\": value out of range",
                ),
            ),
            (
                "port=1,x",
                Err(
                    "unable to parse \"1,x\" as a port: strconv.ParseUint: parsing \"x\": invalid syntax",
                ),
            ),
        ] {
            let wanted = wanted.map_err(String::from);
            assert_eq!(ports(&Query::parse(Some(query))), wanted, "{query}");
        }
    }
}
