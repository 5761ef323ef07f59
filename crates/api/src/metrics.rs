//! What the server counts, in the Prometheus text format, under upstream's names and labels (apiserver
//! `pkg/endpoints/metrics`, client_golang's process collector). Series exist for what is served only, so that no client
//! can make them grow.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, header, request::Parts};
use parking_lot::Mutex;

use crate::{
    catalog::{self, Catalog, Route},
    patch::Patch,
    server::Inner,
};

/// Upper bounds of upstream's latency buckets, in seconds.
const BUCKETS_SECONDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// Subresources whose requests last as long as the client likes.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// What requests are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    dry_run: &'static str,
}

impl Labels {
    /// In upstream's (alphabetical) order; `code` where it counts.
    fn text(&self, code: Option<u16>, dry_run: bool) -> String {
        let mut out = String::new();
        if let Some(code) = code {
            out.push_str(&format!("code=\"{code}\","));
        }
        let component = if self.resource.is_empty() {
            ""
        } else {
            "apiserver"
        };
        out.push_str(&format!("component=\"{component}\","));
        if dry_run {
            out.push_str(&format!("dry_run=\"{}\",", self.dry_run));
        }
        out.push_str(&format!(
            "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            self.group, self.resource, self.scope, self.subresource, self.verb, self.version
        ));
        out
    }
}

#[derive(Default)]
struct Latency {
    buckets: [u64; BUCKETS_SECONDS.len()],
    count: u64,
    sum_seconds: f64,
}

#[derive(Default)]
struct Counts {
    requests: BTreeMap<(Labels, u16), u64>,
    latencies: BTreeMap<Labels, Latency>,
    long_running: BTreeMap<Labels, i64>,
    /// read-only, mutating
    inflight: [i64; 2],
}

/// All counters of a server.
#[derive(Default)]
pub struct Metrics(Mutex<Counts>);

/// A request under way; dropped when its answer is on its way, or for long ones when its stream ends.
pub struct Running {
    metrics: Arc<Metrics>,
    labels: Labels,
    long: bool,
    mutating: bool,
    started: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut counts = self.metrics.0.lock();
        if self.long {
            *counts.long_running.entry(self.labels).or_default() -= 1;
        } else {
            counts.inflight[usize::from(self.mutating)] -= 1;
        }
    }
}

impl Running {
    /// Lasts as long as its client likes.
    pub fn is_long(&self) -> bool {
        self.long
    }
    /// Counts the answer.
    pub fn answered(&self, code: u16) {
        let took: Duration = self.started.elapsed();
        let mut counts = self.metrics.0.lock();
        *counts.requests.entry((self.labels, code)).or_default() += 1;
        if self.long {
            return;
        }
        let latency = counts.latencies.entry(self.labels).or_default();
        let seconds = took.as_secs_f64();
        latency.count += 1;
        latency.sum_seconds += seconds;
        for (bound, n) in BUCKETS_SECONDS.iter().zip(&mut latency.buckets) {
            if seconds <= *bound {
                *n += 1;
            }
        }
    }
}

fn labels(catalog: &Catalog, parts: &Parts) -> Labels {
    let query = parts.uri.query().unwrap_or("");
    let has = |text: &str| query.split('&').any(|p| p == text);
    let mut l = Labels {
        verb: match parts.method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        },
        group: "",
        version: "",
        resource: "",
        subresource: "",
        scope: "",
        dry_run: if has("dryRun=All") { "All" } else { "" },
    };
    let path = parts.uri.path();
    let Some(Route::Resource(t)) = catalog.route(path) else {
        let root = path.trim_start_matches('/').split('/').next().unwrap_or("");
        let known = [
            "/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi", "/readyz", "/version",
        ];
        l.subresource = known.into_iter().find(|k| &k[1..] == root).unwrap_or("");
        return l;
    };
    let r = &t.resource;
    l.group = r.group;
    l.version = r.version;
    l.resource = r.plural;
    l.subresource = ["status", "scale"]
        .into_iter()
        .chain(r.subresources.iter().copied())
        .find(|s| *s == t.subresource)
        .unwrap_or("");
    l.scope = match (t.name.is_empty(), t.namespace.is_empty()) {
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    };
    let watch = t.watch || has("watch=1") || has("watch=true");
    l.verb = match l.verb {
        "GET" if watch && t.subresource.is_empty() => "WATCH",
        "GET" if t.name.is_empty() => "LIST",
        "DELETE" if t.name.is_empty() => "DELETECOLLECTION",
        "PATCH" => {
            let kind = crate::negotiate::content_type(&parts.headers);
            if Patch::is_apply(&kind) {
                "APPLY"
            } else {
                "PATCH"
            }
        }
        "GET" | "POST" if STREAMS.contains(&l.subresource) && l.subresource != "log" => "CONNECT",
        verb => verb,
    };
    l
}

impl Metrics {
    /// A request begins.
    pub fn begin(self: &Arc<Self>, catalog: &Catalog, parts: &Parts) -> Running {
        let labels = labels(catalog, parts);
        let upgrade = parts.headers.contains_key(header::UPGRADE);
        let long = labels.verb == "WATCH" || upgrade || STREAMS.contains(&labels.subresource);
        let mutating = !matches!(labels.verb, "GET" | "LIST" | "WATCH" | "HEAD");
        let mut counts = self.0.lock();
        if long {
            *counts.long_running.entry(labels).or_default() += 1;
        } else {
            counts.inflight[usize::from(mutating)] += 1;
        }
        drop(counts);
        Running {
            metrics: self.clone(),
            labels,
            long,
            mutating,
            started: Instant::now(),
        }
    }

    /// The exposition text.
    pub fn text(&self, inner: &Inner) -> String {
        let mut out = String::new();
        self.requests(&mut out);
        objects(inner, &mut out);
        process(&mut out);
        out
    }

    // writing to a String can't fail, so that results are let go
    fn requests(&self, out: &mut String) {
        let counts = self.0.lock();
        head(
            out,
            "apiserver_current_inflight_requests",
            "gauge",
            "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        for (kind, n) in [
            ("mutating", counts.inflight[1]),
            ("readOnly", counts.inflight[0]),
        ] {
            let _ = writeln!(
                out,
                "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {n}"
            );
        }
        head(
            out,
            "apiserver_longrunning_requests",
            "gauge",
            "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
        );
        for (labels, n) in &counts.long_running {
            let _ = writeln!(
                out,
                "apiserver_longrunning_requests{{{}}} {n}",
                labels.text(None, false)
            );
        }
        const NAME: &str = "apiserver_request_duration_seconds";
        head(
            out,
            NAME,
            "histogram",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        for (labels, l) in &counts.latencies {
            let labels = labels.text(None, true);
            for (bound, n) in BUCKETS_SECONDS.iter().zip(&l.buckets) {
                let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {n}");
            }
            let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {}", l.count);
            let _ = writeln!(out, "{NAME}_sum{{{labels}}} {}", l.sum_seconds);
            let _ = writeln!(out, "{NAME}_count{{{labels}}} {}", l.count);
        }
        head(
            out,
            "apiserver_request_total",
            "counter",
            "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for ((labels, code), n) in &counts.requests {
            let _ = writeln!(
                out,
                "apiserver_request_total{{{}}} {n}",
                labels.text(Some(*code), true)
            );
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Objects by resource, from the state itself.
fn objects(inner: &Inner, out: &mut String) {
    let snapshot = inner.store.snapshot();
    let catalog = inner.catalog();
    let mut counted: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for r in catalog.all().iter().filter(|r| !crate::computed::is(r)) {
        counted
            .entry((r.group, r.plural))
            .or_insert_with(|| snapshot.range(&catalog::prefix(r, ""), None).count());
    }
    head(
        out,
        "apiserver_resource_objects",
        "gauge",
        "[ALPHA] Number of stored objects at the time of last check split by kind.",
    );
    for ((group, resource), n) in &counted {
        let _ = writeln!(
            out,
            "apiserver_resource_objects{{group=\"{group}\",resource=\"{resource}\"}} {n}"
        );
    }
    head(
        out,
        "apiserver_storage_objects",
        "gauge",
        "[STABLE] Number of stored objects at the time of last check split by kind.",
    );
    for ((group, resource), n) in &counted {
        let name = crate::status::group_resource(group, resource);
        let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{name}\"}} {n}");
    }
    head(
        out,
        "apiserver_resource_version",
        "gauge",
        "Newest resourceVersion.",
    );
    let _ = writeln!(out, "apiserver_resource_version {}", snapshot.revision());
}

/// What the kernel says of this process.
fn process(out: &mut String) {
    const TICKS_A_SECOND: f64 = 100.0;
    const PAGE_BYTES: f64 = 4096.0;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    // the program's name may hold anything but its closing bracket is the last
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let field = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    let statm = read("/proc/self/statm");
    let pages = |at: usize| {
        let page = statm
            .split_whitespace()
            .nth(at)
            .and_then(|f| f.parse::<f64>().ok());
        page.unwrap_or(0.0) * PAGE_BYTES
    };
    let system = read("/proc/stat");
    let boot = system.lines().find_map(|l| l.strip_prefix("btime "));
    let boot: f64 = boot.and_then(|b| b.trim().parse().ok()).unwrap_or(0.0);
    let limits = read("/proc/self/limits");
    let files = limits.lines().find(|l| l.starts_with("Max open files"));
    let files: f64 = files
        .and_then(|l| l.split_whitespace().nth(3))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            (field(11) + field(12)) / TICKS_A_SECOND,
        ),
        (
            "process_max_fds",
            "gauge",
            "Maximum number of open file descriptors.",
            files,
        ),
        (
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            open as f64,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            pages(1),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            boot + field(19) / TICKS_A_SECOND,
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            pages(0),
        ),
    ] {
        head(out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    }
}
