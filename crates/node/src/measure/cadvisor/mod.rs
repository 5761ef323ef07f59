//! `/metrics/cadvisor`: the names and labels that dashboards know.
//!
//! Source: cadvisor v0.56 `metrics/prometheus.go`, `prometheus_machine.go`; kubernetes `pkg/kubelet/server/server.go`
//! (containerPrometheusLabelsFunc).

mod counted;
mod held;

use std::path::Path;

use knarr_runtime::Resources;

use super::{
    exposition::{Exposition, GAUGE},
    gather::{PodSeen, Seen},
};

const NS: f64 = 1e9;

type Name = (&'static str, &'static str, &'static str);

/// The six labels that every sample has.
struct Who<'a> {
    id: String,
    container: &'a str,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
}

impl Who<'_> {
    fn group(path: &Path) -> Who<'static> {
        Who {
            id: path.display().to_string(),
            container: "",
            image: "",
            name: "",
            namespace: "",
            pod: "",
        }
    }
    fn labels(&self) -> [(&str, &str); 6] {
        [
            ("container", self.container),
            ("id", &self.id),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ]
    }
}

struct Writer {
    all: Exposition,
}

/// What a machine says of itself beside its numbers.
pub(crate) struct Machine<'a> {
    pub boot_id: &'a str,
    pub machine_id: &'a str,
    pub system_uuid: &'a str,
    pub kernel: &'a str,
    pub os: &'a str,
    pub cores: u32,
    pub swap_bytes: u64,
}

/// The text; None: nothing could be read.
pub(crate) fn write(seen: Option<&Seen>, machine: &Machine<'_>) -> String {
    let mut w = Writer {
        all: Exposition::default(),
    };
    if let Some(seen) = seen {
        w.machine(seen, machine);
        for c in [&seen.machine, &seen.all_pods].into_iter().flatten() {
            let who = Who::group(&c.path);
            w.group(&who, c, &Resources::default());
        }
        if let Some(c) = &seen.machine {
            w.interfaces(&Who::group(&c.path), &seen.interfaces, c);
        }
        for pod in &seen.pods {
            w.pod(seen, pod);
        }
    }
    let failed = f64::from(u8::from(seen.is_none()));
    for name in ["container_scrape_error", "machine_scrape_error"] {
        let help = match name.starts_with('c') {
            true => "1 if there was an error while getting container metrics, 0 otherwise",
            false => "1 if there was an error while getting machine metrics, 0 otherwise.",
        };
        w.all.add((name, GAUGE, help), &[], failed, None);
    }
    w.all.finish()
}

impl Writer {
    fn machine(&mut self, seen: &Seen, m: &Machine<'_>) {
        let info = (
            "cadvisor_version_info",
            GAUGE,
            "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.",
        );
        let labels = [
            ("cadvisorRevision", ""),
            ("cadvisorVersion", ""),
            ("dockerVersion", ""),
            ("kernelVersion", m.kernel),
            ("osVersion", m.os),
        ];
        self.all.add(info, &[&labels], 1.0, None);
        let labels = [
            ("boot_id", m.boot_id),
            ("machine_id", m.machine_id),
            ("system_uuid", m.system_uuid),
        ];
        let at = Some(seen.at.as_millisecond());
        let names: [(Name, f64); 3] = [
            (
                ("machine_cpu_cores", GAUGE, "Number of logical CPU cores."),
                f64::from(m.cores),
            ),
            (
                (
                    "machine_memory_bytes",
                    GAUGE,
                    "Amount of memory installed on the machine.",
                ),
                seen.memory_bytes as f64,
            ),
            (
                (
                    "machine_swap_bytes",
                    GAUGE,
                    "Amount of swap memory available on the machine.",
                ),
                m.swap_bytes as f64,
            ),
        ];
        for (name, value) in names {
            self.all.add(name, &[&labels], value, at);
        }
    }

    fn pod(&mut self, seen: &Seen, pod: &PodSeen) {
        if let Some(c) = &pod.counted {
            let who = Who {
                namespace: &pod.namespace,
                pod: &pod.name,
                ..Who::group(&c.path)
            };
            self.group(&who, c, &Resources::default());
            if let Some(since) = pod.containers.iter().map(|c| c.since).min() {
                self.started(&who, since);
            }
            self.interfaces(&who, &pod.interfaces, c);
        }
        for c in &pod.containers {
            let who = Who {
                id: c.counted.path.display().to_string(),
                container: &c.name,
                image: &c.image,
                name: &c.id,
                namespace: &pod.namespace,
                pod: &pod.name,
            };
            self.group(&who, &c.counted, &c.limits);
            self.started(&who, c.since);
            self.held(seen, &who, c);
        }
    }

    fn started(&mut self, who: &Who<'_>, since: jiff::Timestamp) {
        let name = (
            "container_start_time_seconds",
            GAUGE,
            "Start time of the container since unix epoch in seconds.",
        );
        let labels = who.labels();
        self.all
            .add(name, &[&labels], since.as_second() as f64, None);
    }
}
