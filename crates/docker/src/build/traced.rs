//! `POST /build?version=2`: BuildKit behind the classic request, its progress as `StatusResponse`s in base64.
//!
//! The context is the request's body (dockerode, testcontainers), a URL, or the client's session (`docker` up to 20.10).
//! SOURCE: moby `builder/builder-next/builder.go` Build

use crate::{
    buildkit::{
        request::{Export, Solve},
        solve,
        status::Told,
    },
    daemon::Daemon,
    error::{Fault, Result},
    http::{Ask, Query},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_grpc::proto::{Map, Message};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{sync::mpsc, task::JoinHandle};

pub fn asked(query: &Query) -> bool {
    query.get("version") == Some("2")
}

/// Where the client has the context, and not in the body.
pub fn by_session(query: &Query) -> bool {
    asked(query) && query.get("remote") == Some("client-session")
}

fn trace(message: &Message) -> Value {
    json!({ "id": "moby.buildkit.trace", "aux": STANDARD.encode(message.as_bytes()) })
}

pub fn image(id: &str) -> Value {
    json!({ "id": "moby.image.id", "aux": { "ID": id } })
}

pub fn failed(message: &str) -> Value {
    json!({ "errorDetail": { "message": message }, "error": message })
}

/// Sends what is told until its end.
pub fn sending(told: Arc<Told>, send: mpsc::Sender<Value>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(message) = told.next().await {
            if send.send(trace(&message)).await.is_err() {
                return;
            }
        }
    })
}

fn read<T: serde::de::DeserializeOwned + Default>(query: &Query, key: &str) -> Result<T> {
    match query.get(key) {
        None | Some("" | "null") => Ok(T::default()),
        Some(text) => {
            serde_json::from_str(text).map_err(|e| Fault::bad(format!("error reading {key}: {e}")))
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wanted {
    r#type: String,
    #[serde(default)]
    attrs: Option<BTreeMap<String, String>>,
}

/// The request as BuildKit's own.
fn solve(query: &Query) -> Result<Solve> {
    let mut options = Map::new();
    let mut put = |key: &str, value: String| {
        options.insert(key.to_string(), value);
    };
    for (option, key) in [
        ("target", "target"),
        ("filename", "dockerfile"),
        ("platform", "platform"),
        ("force-network-mode", "networkmode"),
    ] {
        if let Some(value) = query.get(key).filter(|v| !v.is_empty()) {
            put(option, value.to_string());
        }
    }
    for (kind, key) in [("build-arg", "buildargs"), ("label", "labels")] {
        let pairs: BTreeMap<String, Option<String>> = read(query, key)?;
        for (name, value) in pairs {
            if let Some(value) = value {
                put(&format!("{kind}:{name}"), value);
            }
        }
    }
    let hosts = query.get("extrahosts").unwrap_or_default();
    let hosts: Vec<String> = (hosts.split(',').filter(|h| !h.is_empty()))
        .map(|host| host.replacen(':', "=", usize::from(!host.contains('='))))
        .collect();
    put("add-hosts", hosts.join(","));
    let cache_from: Vec<String> = read(query, "cachefrom")?;
    put("cache-from", cache_from.join(","));
    if query.flag("nocache") {
        put("no-cache", String::new());
    }
    if query.flag("pull") {
        put("image-resolve-mode", "pull".into());
    }
    if let Some(size) = query.int("shmsize")?.filter(|s| *s > 0) {
        put("shm-size", size.to_string());
    }
    let limits: Vec<super::Ulimit> = read(query, "ulimits")?;
    let limits = limits.iter();
    let limits: Vec<String> = limits
        .map(|l| format!("{}={}:{}", l.name, l.soft, l.hard))
        .collect();
    if !limits.is_empty() {
        put("ulimit", limits.join(","));
    }
    let mut outputs: Vec<Wanted> = read(query, "outputs")?;
    if outputs.len() > 1 {
        return Err(Fault::bad("multiple outputs not supported"));
    }
    let tags: Vec<&str> = query.all("t");
    let tags: Vec<&str> = tags.into_iter().filter(|t| !t.is_empty()).collect();
    for tag in &tags {
        knarr_image::normalize(tag)?;
    }
    let mut export = match outputs.pop() {
        None => Some(Export {
            kind: "moby".into(),
            attrs: Map::new(),
        }),
        Some(output) if output.r#type == "cacheonly" => None,
        Some(output) => Some(Export {
            kind: output.r#type,
            attrs: output.attrs.unwrap_or_default().into_iter().collect(),
        }),
    };
    let named = export.iter_mut().filter(|_| !tags.is_empty());
    for export in named.filter(|e| matches!(&*e.kind, "moby" | "image")) {
        export.attrs.insert("name".into(), tags.join(","));
    }
    let host = query.get("networkmode") == Some("host");
    Ok(Solve {
        session: query.get("session").unwrap_or_default().to_string(),
        frontend: "dockerfile.v0".into(),
        options,
        entitlements: match host {
            true => vec!["network.host".into()],
            false => vec![],
        },
        exports: export.into_iter().collect(),
        ..Solve::default()
    })
}

/// Builds with the files of a client's session.
pub fn build(daemon: &Arc<Daemon>, ask: &Ask, send: mpsc::Sender<Value>) -> Result<()> {
    let solve = solve(&ask.query)?;
    let (daemon, handle) = (daemon.clone(), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || {
        handle.block_on(async {
            let told = Arc::new(Told::new(&crate::names::id()));
            let sent = sending(told.clone(), send.clone());
            let work = async {
                let inputs = BTreeMap::new();
                let done = solve::run(&daemon, &solve, &solve.options, &inputs, &told).await?;
                done.hand_over(&daemon, &solve, &told).await
            };
            let done = tokio::select! {
                done = work => Some(done),
                () = send.closed() => None,
            };
            told.end();
            let _ = sent.await;
            let last = match done {
                None => None,
                Some(Err(status)) => Some(failed(&status.message)),
                Some(Ok(response)) => {
                    let id = response.get("containerimage.config.digest");
                    let id = id.or_else(|| response.get("containerimage.digest"));
                    id.map(|id| image(id))
                }
            };
            if let Some(last) = last {
                let _ = send.send(last).await;
            }
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_buildkits() {
        let read = |text: &str| solve(&Query::parse(text));
        let got = read(
            "version=2&remote=client-session&session=abc&t=a&t=b:1&target=one&dockerfile=x/Dockerfile&nocache=1&pull=1\
             &buildargs=%7B%22A%22:%221%22,%22B%22:null%7D&labels=%7B%22l%22:%22v%22%7D&networkmode=host\
             &extrahosts=h:1.2.3.4&ulimits=%5B%7B%22Name%22:%22nofile%22,%22Soft%22:5,%22Hard%22:6%7D%5D",
        )
        .unwrap();
        assert_eq!(got.session, "abc");
        assert_eq!(got.exports[0].kind, "moby");
        assert_eq!(got.exports[0].attrs["name"], "a,b:1");
        assert_eq!(got.entitlements, ["network.host"]);
        let options: Vec<(&str, &str)> = (got.options.iter())
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let options: BTreeMap<&str, &str> = options.into_iter().collect();
        for (key, value) in [
            ("target", "one"),
            ("filename", "x/Dockerfile"),
            ("build-arg:A", "1"),
            ("label:l", "v"),
            ("no-cache", ""),
            ("image-resolve-mode", "pull"),
            ("add-hosts", "h=1.2.3.4"),
            ("ulimit", "nofile=5:6"),
        ] {
            assert_eq!(options.get(key), Some(&value), "{key}");
        }
        assert!(!options.contains_key("build-arg:B"));
        let got = read("version=2&outputs=%5B%7B%22Type%22:%22cacheonly%22%7D%5D").unwrap();
        assert!(got.exports.is_empty());
        for (text, told) in [
            (
                "outputs=%5B%7B%22Type%22:%22tar%22%7D,%7B%22Type%22:%22tar%22%7D%5D",
                "multiple outputs",
            ),
            ("buildargs=x", "error reading buildargs"),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.message.contains(told), "{text}: {}", fault.message);
        }
    }
}
