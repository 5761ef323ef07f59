//! `/stats/summary`: the kubelet's own form (k8s.io/kubelet `pkg/apis/stats/v1alpha1`).

use jiff::Timestamp;
use knarr_runtime::{Pressure, Stall, Usage};
use serde_json::{Map, Value, json};

use super::{
    files::{Room, Taken},
    gather::{ContainerSeen, Counted, Depth, PodSeen, Seen},
    network::Interface,
};

/// The summary; of CPU and memory alone for [`Depth::Shallow`].
pub(crate) fn write(seen: &Seen, depth: Depth) -> Value {
    let whole = depth == Depth::Whole;
    let pods: Vec<Value> = seen.pods.iter().map(|p| pod(seen, p, whole)).collect();
    json!({"node": node(seen, whole), "pods": pods})
}

fn time(at: Timestamp) -> Value {
    // metav1.Time has whole seconds
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
        .into()
}

fn set(o: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        o.insert(key.into(), value);
    }
}

fn stall(s: &Stall) -> Value {
    // microseconds, as the kernel counts and upstream hands on, whatever the type's comment says
    json!({"total": s.total_us, "avg10": s.avg10, "avg60": s.avg60, "avg300": s.avg300})
}

fn pressure(p: &Pressure) -> Value {
    json!({"full": stall(&p.full), "some": stall(&p.some)})
}

fn cpu(c: &Counted) -> Value {
    let mut o = json!({
        "time": time(c.at),
        "usageNanoCores": c.rate.map_or(0, |r| r.nano_cores),
        "usageCoreNanoSeconds": c.usage.cpu.total_ns,
    });
    if let Some(p) = &c.usage.pressure.cpu {
        o["psi"] = pressure(p);
    }
    o
}

fn memory(c: &Counted, limit: Option<u64>) -> Value {
    let m = &c.usage.memory;
    let mut o = json!({
        "time": time(c.at), "usageBytes": m.usage_bytes, "workingSetBytes": m.working_set_bytes,
        "rssBytes": m.rss_bytes, "pageFaults": m.page_faults, "majorPageFaults": m.major_page_faults,
    });
    if let Some(limit) = limit {
        o["availableBytes"] = limit.saturating_sub(m.working_set_bytes).into();
    }
    if let Some(p) = &c.usage.pressure.memory {
        o["psi"] = pressure(p);
    }
    o
}

fn io(c: &Counted) -> Option<Value> {
    let mut o = json!({ "time": time(c.at) });
    o["psi"] = pressure(c.usage.pressure.io.as_ref()?);
    Some(o)
}

fn swap(c: &Counted) -> Value {
    let m = &c.usage.memory;
    let mut o = json!({"time": time(c.at), "swapUsageBytes": m.swap_bytes});
    if let Some(limit) = m.swap_limit_bytes {
        o["swapAvailableBytes"] = limit.saturating_sub(m.swap_bytes).into();
    }
    o
}

fn fs(at: Timestamp, room: &Room, taken: Option<Taken>) -> Value {
    let mut o = json!({
        "time": time(at), "availableBytes": room.available_bytes, "capacityBytes": room.capacity_bytes,
        "inodesFree": room.inodes_free, "inodes": room.inodes,
    });
    if let Some(taken) = taken {
        o["usedBytes"] = taken.bytes.into();
        o["inodesUsed"] = taken.inodes.into();
    }
    o
}

fn all_of(room: &Room) -> Taken {
    Taken {
        bytes: room.used_bytes(),
        inodes: room.inodes_used(),
    }
}

fn interface(i: &Interface) -> Value {
    json!({"name": i.name, "rxBytes": i.received.bytes, "rxErrors": i.received.errors,
        "txBytes": i.sent.bytes, "txErrors": i.sent.errors})
}

fn network(at: Timestamp, all: &[Interface], default: &str) -> Value {
    let main = all.iter().find(|i| i.name == default).map(interface);
    let mut o = main.unwrap_or_else(|| json!({"name": ""}));
    o["time"] = time(at);
    o["interfaces"] = all.iter().map(interface).collect();
    o
}

fn own_limit(usage: &Usage) -> Option<u64> {
    usage.memory.limit_bytes
}

fn node(seen: &Seen, whole: bool) -> Value {
    let mut o = Map::new();
    o.insert("nodeName".into(), seen.node.as_str().into());
    o.insert("systemContainers".into(), system(seen).into());
    o.insert("startTime".into(), seen.booted.map_or(Value::Null, time));
    if let Some(m) = &seen.machine {
        o.insert("cpu".into(), cpu(m));
        o.insert("memory".into(), memory(m, Some(seen.memory_bytes)));
        o.insert("swap".into(), swap(m));
        if whole {
            set(&mut o, "io", io(m));
        }
    }
    if !whole {
        return o.into();
    }
    let default = seen.default_interface.as_deref().unwrap_or("eth0");
    o.insert(
        "network".into(),
        network(seen.at, &seen.interfaces, default),
    );
    let root = seen.root.map(|r| fs(seen.at, &r, Some(all_of(&r))));
    set(&mut o, "fs", root);
    if let Some(room) = &seen.images {
        let taken = seen.images_taken.map(|t| Taken {
            bytes: t.bytes,
            inodes: room.inodes_used(),
        });
        let images = fs(seen.at, room, taken);
        let runtime = json!({"imageFs": images, "containerFs": images});
        o.insert("runtime".into(), runtime);
    }
    if let (Some(max), Some(now)) = (seen.pids_max, seen.tasks) {
        let limit = json!({"time": time(seen.at), "maxpid": max, "curproc": now});
        o.insert("rlimit".into(), limit);
    }
    o.into()
}

/// This process is kubelet and runtime in one; and all Pods together.
fn system(seen: &Seen) -> Vec<Value> {
    let started = seen.own.started.map_or(Value::Null, time);
    let mut all = vec![json!({
        "name": "kubelet", "startTime": started,
        "cpu": {"time": time(seen.at), "usageNanoCores": 0, "usageCoreNanoSeconds": seen.own.cpu_ns},
        "memory": {"time": time(seen.at), "workingSetBytes": seen.own.resident_bytes,
            "usageBytes": seen.own.resident_bytes, "rssBytes": seen.own.resident_bytes},
    })];
    if let Some(pods) = &seen.all_pods {
        all.push(json!({
            "name": "pods", "startTime": started, "cpu": cpu(pods),
            "memory": memory(pods, Some(own_limit(&pods.usage).unwrap_or(seen.memory_bytes))),
        }));
    }
    all
}

fn pod(seen: &Seen, p: &PodSeen, whole: bool) -> Value {
    let mut o = Map::new();
    let reference = json!({"name": p.name, "namespace": p.namespace, "uid": p.uid});
    o.insert("podRef".into(), reference);
    o.insert("startTime".into(), p.started.map_or(Value::Null, time));
    let containers: Vec<Value> = p
        .containers
        .iter()
        .map(|c| container(seen, c, whole))
        .collect();
    o.insert("containers".into(), containers.into());
    if let Some(c) = &p.counted {
        o.insert("cpu".into(), cpu(c));
        o.insert("memory".into(), memory(c, own_limit(&c.usage)));
        o.insert("swap".into(), swap(c));
        if whole {
            set(&mut o, "io", io(c));
        }
    }
    if !whole {
        return o.into();
    }
    if !p.interfaces.is_empty() {
        let is_usual = |i: &&Interface| i.name == "eth0";
        let usual = p.interfaces.iter().find(is_usual);
        let default = usual.or(p.interfaces.first());
        let network = network(seen.at, &p.interfaces, default.map_or("eth0", |i| &i.name));
        o.insert("network".into(), network);
    }
    let volumes: Vec<Value> = p
        .volumes
        .iter()
        .map(|v| {
            let mut one = fs(seen.at, &v.room, Some(v.taken));
            one["name"] = v.name.as_str().into();
            if let Some(claim) = &v.claim {
                one["pvcRef"] = json!({"name": claim, "namespace": p.namespace});
            }
            one
        })
        .collect();
    if !volumes.is_empty() {
        o.insert("volume".into(), volumes.into());
    }
    if let Some(room) = &seen.root {
        let written = p.containers.iter().flat_map(|c| [c.root, c.logs]);
        let kept = p.volumes.iter().filter(|v| v.ephemeral);
        let sum =
            written
                .flatten()
                .chain(kept.map(|v| v.taken))
                .fold(Taken::default(), |sum, t| Taken {
                    bytes: sum.bytes + t.bytes,
                    inodes: sum.inodes + t.inodes,
                });
        o.insert("ephemeral-storage".into(), fs(seen.at, room, Some(sum)));
    }
    let processes: u64 = p.containers.iter().map(|c| c.processes.count).sum();
    o.insert("process_stats".into(), json!({"process_count": processes}));
    o.into()
}

fn container(seen: &Seen, c: &ContainerSeen, whole: bool) -> Value {
    let mut o = Map::new();
    o.insert("name".into(), (*c.name).into());
    o.insert("startTime".into(), time(c.since));
    o.insert("cpu".into(), cpu(&c.counted));
    let limit = own_limit(&c.counted.usage);
    o.insert("memory".into(), memory(&c.counted, limit));
    o.insert("swap".into(), swap(&c.counted));
    if !whole {
        return o.into();
    }
    set(&mut o, "io", io(&c.counted));
    let root = seen.images.map(|room| fs(seen.at, &room, c.root));
    set(&mut o, "rootfs", root);
    let logs = seen.root.map(|room| fs(seen.at, &room, c.logs));
    set(&mut o, "logs", logs);
    o.into()
}
