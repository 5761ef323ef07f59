//! The kubelet's HTTP API, as far as it is read: what `/api/v1/nodes/NAME/proxy/…` and the kubelet's port answer. Streams
//! are the API server's to open (`agent_streams.rs` there), which speaks their framings.
//!
//! Source: kubernetes `pkg/kubelet/server/server.go`.

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    LogRequest, LogStream, Node,
    measure::{cadvisor, gather::Depth, own, resource, summary},
    system_logs::{self, Found},
};

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// What is sent back.
pub struct KubeletAnswer {
    /// HTTP status
    pub status: u16,
    pub content_type: &'static str,
    pub body: BoxStream<'static, std::io::Result<Bytes>>,
}

impl KubeletAnswer {
    fn text(status: u16, content_type: &'static str, text: String) -> KubeletAnswer {
        let once = futures::stream::once(async move { Ok(Bytes::from(text)) });
        KubeletAnswer {
            status,
            content_type,
            body: once.boxed(),
        }
    }
    fn ok(content_type: &'static str, text: String) -> KubeletAnswer {
        KubeletAnswer::text(200, content_type, text)
    }
    fn missing() -> KubeletAnswer {
        KubeletAnswer::text(404, PLAIN, "404 page not found\n".into())
    }
}

fn parameter<'a>(query: &'a [(String, String)], key: &str) -> Option<&'a str> {
    let found = query.iter().find(|(k, _)| k == key);
    found.map(|(_, v)| v.as_str())
}

async fn system_log(parts: &[&str]) -> KubeletAnswer {
    let parts: Vec<String> = parts.iter().map(|p| (*p).to_owned()).collect();
    let found = tokio::task::spawn_blocking(move || {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        system_logs::find(&parts)
    })
    .await;
    match found {
        Ok(Ok(Found::Folder(page))) => KubeletAnswer::ok("text/html; charset=utf-8", page),
        Ok(Ok(Found::File(file))) => KubeletAnswer {
            status: 200,
            content_type: PLAIN,
            body: system_logs::bytes(file),
        },
        _ => KubeletAnswer::missing(),
    }
}

impl Node {
    /// Answers a GET. `path` is decoded, `query` the decoded parameters.
    pub async fn kubelet(&self, path: &str, query: &[(String, String)]) -> KubeletAnswer {
        let flag = |key: &str| matches!(parameter(query, key), Some("true" | "1"));
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => {
                KubeletAnswer::ok(PLAIN, "ok".into())
            }
            ["pods"] => KubeletAnswer::ok(JSON, self.pod_list(false).to_string()),
            ["runningpods"] => KubeletAnswer::ok(JSON, self.pod_list(true).to_string()),
            ["configz"] => {
                let config = self.inner.context.settings.shown(&self.inner.context);
                KubeletAnswer::ok(JSON, json!({ "kubeletconfig": config }).to_string())
            }
            ["stats", "summary"] => {
                let depth = match flag("only_cpu_and_memory") {
                    true => Depth::Shallow,
                    false => Depth::Whole,
                };
                match self.inner.gatherer.gather(depth).await {
                    Some(seen) => {
                        let summary = summary::write(&seen, depth);
                        KubeletAnswer::ok(JSON, format!("{summary:#}"))
                    }
                    None => KubeletAnswer::text(500, PLAIN, "the stats can't be read".into()),
                }
            }
            ["metrics"] => self.own_metrics().await,
            ["metrics", "resource"] => {
                let seen = self.inner.gatherer.gather(Depth::Shallow).await;
                KubeletAnswer::ok(METRICS, resource::write(seen.as_ref()))
            }
            ["metrics", "probes"] => {
                let seen = crate::measure::gather::started();
                KubeletAnswer::ok(METRICS, own::probes(&self.inner.registry, seen))
            }
            ["metrics", "cadvisor"] => self.cadvisor().await,
            ["logs", rest @ ..] => system_log(rest).await,
            _ => KubeletAnswer::missing(),
        }
    }

    async fn own_metrics(&self) -> KubeletAnswer {
        let inner = &self.inner;
        let seen = inner.gatherer.gather(Depth::Whole).await;
        let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let platform = format!("linux/{}", crate::machine::architecture());
        let build = own::Build {
            version: crate::machine::VERSION,
            platform: &platform,
        };
        let text = own::write(
            &inner.context.name,
            seen.as_ref(),
            &inner.registry,
            &inner.operations,
            v2,
            &build,
        );
        KubeletAnswer::ok(METRICS, text)
    }

    async fn cadvisor(&self) -> KubeletAnswer {
        let inner = &self.inner;
        let seen = inner.gatherer.gather(Depth::Whole).await;
        let info = crate::machine::info();
        let swap = crate::machine::meminfo("SwapTotal").unwrap_or(0);
        let machine = cadvisor::Machine {
            boot_id: &info.boot_id,
            machine_id: &info.machine_id,
            system_uuid: &info.system_uuid,
            kernel: &info.kernel_version,
            os: &info.os_image,
            cores: u32::try_from(inner.context.cpus_milli / 1000).unwrap_or(1),
            swap_bytes: swap,
        };
        KubeletAnswer::ok(METRICS, cadvisor::write(seen.as_ref(), &machine))
    }

    /// The Pods of this node, as it knows them.
    fn pod_list(&self, running: bool) -> Value {
        let mut all: Vec<Pod> = self
            .inner
            .registry
            .all()
            .iter()
            .filter(|e| !running || e.units.lock().iter().any(|u| u.running.is_some()))
            .filter_map(|e| e.mailbox.latest())
            .collect();
        let key = |p: &Pod| (p.metadata.namespace.clone(), p.metadata.name.clone());
        all.sort_by_key(|p| key(p));
        let items: Vec<Value> = all
            .iter()
            .filter_map(|p| {
                let mut o = serde_json::to_value(p).ok()?;
                // as in every list, items don't say what they are
                let fields = o.as_object_mut()?;
                fields.remove("kind");
                fields.remove("apiVersion");
                Some(o)
            })
            .collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }
}

impl LogRequest {
    /// From the parameters of a request for logs (PodLogOptions).
    pub fn read(namespace: &str, pod: &str, query: &[(String, String)]) -> LogRequest {
        let get = |key: &str| parameter(query, key);
        let flag = |key: &str| matches!(get(key), Some("true" | "1"));
        let number = |key: &str| get(key)?.parse().ok();
        LogRequest {
            namespace: namespace.into(),
            pod: pod.into(),
            container: get("container").filter(|c| !c.is_empty()).map(Into::into),
            follow: flag("follow"),
            tail_lines: number("tailLines"),
            since_seconds: number("sinceSeconds"),
            since_time: get("sinceTime").and_then(|t| t.parse().ok()),
            timestamps: flag("timestamps"),
            previous: flag("previous"),
            limit_bytes: number("limitBytes"),
            stream: match get("stream") {
                Some("Stdout") => Some(LogStream::Stdout),
                Some("Stderr") => Some(LogStream::Stderr),
                _ => None,
            },
        }
    }
}
