//! What is asked of a server, and how long it took, in seconds.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};

use crate::{anyhow_free::Result, servers::Server};

const PODS: &str = "/api/v1/namespaces/bench/pods";
const CONFIGMAPS: &str = "/api/v1/namespaces/bench/configmaps";
const JSON: &str = "application/json";

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<usize> {
    let mut request = Request::builder().method(method).uri(path);
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    let response = client.send(request.body(Body::from(body))?).await?;
    let status = response.status();
    let mut stream = response.into_body().into_data_stream();
    let mut bytes = 0;
    let mut head = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        bytes += chunk.len();
        if !status.is_success() && head.len() < 500 {
            head.extend_from_slice(&chunk);
        }
    }
    if status.is_success() {
        return Ok(bytes);
    }
    Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&head)).into())
}

/// Runs jobs, so many at once; their times in any order.
async fn timed<F: Future<Output = Result<usize>>>(
    jobs: impl Iterator<Item = F>,
    at_once: usize,
) -> Result<Vec<f64>> {
    let runs = futures::stream::iter(jobs).map(|job| async move {
        let started = Instant::now();
        job.await.map(|_| started.elapsed().as_secs_f64())
    });
    let done: Vec<Result<f64>> = runs.buffer_unordered(at_once).collect().await;
    done.into_iter().collect()
}

pub async fn namespace(client: &Client) -> Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
    send(
        client,
        Method::POST,
        "/api/v1/namespaces",
        &[("content-type", JSON)],
        body.to_string().into(),
    )
    .await?;
    Ok(())
}

/// A Pod as a Deployment's are: some 1.5 KB as it is sent.
fn pod(i: usize) -> Value {
    let env: Vec<Value> = (0..5)
        .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": format!("value-{n}-{i}")}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("web-{i}"), "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9", "n": i.to_string()},
            "annotations": {"example.com/owner": "the team that owns this Pod"}},
        "spec": {"automountServiceAccountToken": false, "serviceAccountName": "default", "nodeName": format!("node-{}", i % 50), "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "web", "image": "registry.example.com/shop/web:1.2.3", "args": ["--port=8080", "--verbose"], "env": env,
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/etc/web"}]}],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "config", "configMap": {"name": "web"}}]}})
}

pub async fn create_pods(
    client: &Client,
    count: usize,
    from: usize,
    at_once: usize,
) -> Result<Vec<f64>> {
    let jobs = (from..from + count).map(|i| async move {
        send(
            client,
            Method::POST,
            PODS,
            &[("content-type", JSON)],
            pod(i).to_string().into(),
        )
        .await
    });
    timed(jobs, at_once).await
}

pub async fn get_pods(client: &Client, count: usize, at_once: usize) -> Result<Vec<f64>> {
    let jobs = (0..count).map(|i| async move {
        send(
            client,
            Method::GET,
            &format!("{PODS}/web-{}", i % 500),
            &[],
            vec![],
        )
        .await
    });
    timed(jobs, at_once).await
}

pub async fn list_pods(client: &Client, accept: &str, count: usize) -> Result<(Vec<f64>, usize)> {
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..count {
        let started = Instant::now();
        bytes = send(
            client,
            Method::GET,
            "/api/v1/pods",
            &[("accept", accept)],
            vec![],
        )
        .await?;
        times.push(started.elapsed().as_secs_f64());
    }
    Ok((times, bytes))
}

pub async fn update_pods(client: &Client, count: usize) -> Result<Vec<f64>> {
    let jobs = (0..count).map(|i| async move {
        let mut p = pod(i);
        p["metadata"]["labels"]["changed"] = "yes".into();
        send(
            client,
            Method::PUT,
            &format!("{PODS}/web-{i}"),
            &[("content-type", JSON)],
            p.to_string().into(),
        )
        .await
    });
    timed(jobs, 1).await
}

pub async fn apply(client: &Client, count: usize) -> Result<Vec<f64>> {
    let jobs = (0..count).map(|i| async move {
        // each object is made, then changed
        let name = format!("applied-{}", i / 2);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "web"}},
            "data": {"a": i.to_string(), "b": "value", "c": "another value"}});
        let path = format!("{CONFIGMAPS}/{name}?fieldManager=bench");
        send(client, Method::PATCH, &path, &[("content-type", "application/apply-patch+yaml")], body.to_string().into()).await
    });
    timed(jobs, 1).await
}

/// Creates at a steady rate, each measured from when it was due: a server that falls behind is late for all that follow.
pub async fn paced(client: &Client, per_second: u32, seconds: u32) -> Result<Vec<f64>> {
    let times = Arc::new(Mutex::new(Vec::new()));
    let mut running = tokio::task::JoinSet::new();
    let start = Instant::now() + Duration::from_millis(100);
    for i in 0..per_second * seconds {
        let due = start + Duration::from_secs(1) * i / per_second;
        tokio::time::sleep_until(due.into()).await;
        let (client, times) = (client.clone(), times.clone());
        running.spawn(async move {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("paced-{i}")}, "data": {"k": "v".repeat(200)}});
            send(&client, Method::POST, CONFIGMAPS, &[("content-type", JSON)], body.to_string().into()).await?;
            if let Ok(mut times) = times.lock() {
                times.push(due.elapsed().as_secs_f64());
            }
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    let times = times.lock().map_err(|e| e.to_string())?.clone();
    Ok(times)
}

/// Opens watches, each on a connection of its own, then changes one object again and again; times from the change's
/// request to its event at each watcher. `name`: the object's own.
pub async fn fan_out(
    server: &Server,
    name: &str,
    accept: &str,
    watchers: usize,
    changes: usize,
) -> Result<Vec<f64>> {
    let client = server.client().await?;
    let path = format!("{CONFIGMAPS}/{name}");
    let body = |n: usize| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": n.to_string(), "fill": "x".repeat(500)}}).to_string()
    };
    send(
        &client,
        Method::POST,
        CONFIGMAPS,
        &[("content-type", JSON)],
        body(0).into(),
    )
    .await?;
    let seen = Arc::new(Mutex::new(Vec::with_capacity(watchers * changes)));
    let sent: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel::<()>(watchers);
    let mut tasks = tokio::task::JoinSet::new();
    let opening = futures::stream::iter(0..watchers).map(|_| async {
        let client = server.client().await?;
        let request = Request::get(format!(
            "{CONFIGMAPS}?watch=1&fieldSelector=metadata.name%3D{name}"
        ))
        .header("accept", accept)
        .body(Body::empty())?;
        let response = client.send(request).await?;
        let mut stream = response.into_body().into_data_stream();
        // the object as it is
        stream.next().await.ok_or("a watch ended at once")??;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(stream)
    });
    let streams: Vec<Result<_>> = opening.buffer_unordered(32).collect().await;
    for stream in streams {
        let (mut stream, seen, sent, arrived) =
            (stream?, seen.clone(), sent.clone(), arrived.clone());
        tasks.spawn(async move {
            while let Some(Ok(chunk)) = stream.next().await {
                // a frame may come in pieces: its end is what counts
                if !chunk.ends_with(b"\n") {
                    continue;
                }
                let since = sent.lock().ok().and_then(|s| *s);
                if let (Some(since), Ok(mut seen)) = (since, seen.lock()) {
                    seen.push(since.elapsed().as_secs_f64());
                }
                if arrived.send(()).await.is_err() {
                    return;
                }
            }
        });
    }
    for n in 1..=changes {
        if let Ok(mut sent) = sent.lock() {
            *sent = Some(Instant::now());
        }
        send(
            &client,
            Method::PUT,
            &path,
            &[("content-type", JSON)],
            body(n).into(),
        )
        .await?;
        for _ in 0..watchers {
            tokio::time::timeout(Duration::from_secs(60), arrivals.recv()).await?;
        }
    }
    let seen = seen.lock().map_err(|e| e.to_string())?.clone();
    Ok(seen)
}
