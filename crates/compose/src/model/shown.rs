//! How `docker compose config` writes values that may be written in several ways: durations as Go does, byte counts as
//! digits, hosts with `=`, and nothing where there is nothing to say.
//! SOURCE: compose-go `types`, the fields' tags and `MarshalJSON`

use crate::units;
use serde_json::{Map, Value, json};

/// Of a service, by path; `*` is each item of a list or each value of a mapping.
const DURATIONS: [&str; 13] = [
    "stop_grace_period",
    "healthcheck.interval",
    "healthcheck.timeout",
    "healthcheck.start_period",
    "healthcheck.start_interval",
    "deploy.restart_policy.delay",
    "deploy.restart_policy.window",
    "deploy.update_config.delay",
    "deploy.update_config.monitor",
    "deploy.rollback_config.delay",
    "deploy.rollback_config.monitor",
    "develop.watch.*.exec.timeout",
    "post_start.*.timeout",
];
const BYTES: [&str; 9] = [
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "shm_size",
    "build.shm_size",
    "deploy.resources.limits.memory",
    "deploy.resources.reservations.memory",
    "volumes.*.tmpfs.size",
];
const TEXTS: [&str; 3] = ["ports.*.published", "logging.options.*", "storage_opt.*"];
const NUMBERS: [&str; 2] = [
    "deploy.resources.limits.cpus",
    "deploy.resources.reservations.cpus",
];
const MODES: [&str; 2] = ["secrets.*.mode", "configs.*.mode"];
/// Left out when they are empty, zero or false.
const OMITTED: [&str; 33] = [
    "build.args",
    "build.dockerfile",
    "build.labels",
    "cap_add",
    "cap_drop",
    "container_name",
    "depends_on",
    "depends_on.*.restart",
    "devices",
    "domainname",
    "environment",
    "expose",
    "extra_hosts",
    "group_add",
    "hostname",
    "image",
    "labels",
    "platform",
    "ports",
    "privileged",
    "profiles",
    "pull_policy",
    "read_only",
    "restart",
    "security_opt",
    "stdin_open",
    "tmpfs",
    "tty",
    "user",
    "volumes.*.bind.create_host_path",
    "volumes.*.read_only",
    "volumes.*.source",
    "working_dir",
];

/// Brings the tree that [`super::config`] shows into that form.
pub(super) fn like_compose(tree: &mut Value) {
    let Some(tree) = tree.as_object_mut() else {
        return;
    };
    let services = tree.entry("services").or_insert_with(|| json!({}));
    for (_, service) in services.as_object_mut().into_iter().flatten() {
        service_like_compose(service);
    }
    for kind in ["volumes", "networks", "configs", "secrets"] {
        let all = tree.get_mut(kind).and_then(Value::as_object_mut);
        for (_, object) in all.into_iter().flatten() {
            for key in ["external", "name", "driver", "labels", "driver_opts"] {
                at(object, key, &mut omit);
            }
            at(object, "driver_opts.*", &mut text);
            at(object, "ipam.config.*.subnet", &mut omit);
            if kind == "secrets" {
                // What it holds is never shown.
                at(object, "x-#value", &mut |_| None);
            }
        }
    }
}

fn service_like_compose(service: &mut Value) {
    for path in DURATIONS {
        at(service, path, &mut |v| {
            let duration = v.as_str().and_then(units::duration);
            Some(duration.map_or(v, |d| go(d.as_nanos()).into()))
        });
    }
    for path in BYTES {
        at(service, path, &mut |v| {
            let bytes = v.as_str().and_then(units::bytes).or(v.as_u64());
            Some(bytes.map_or(v, |b| b.to_string().into()))
        });
    }
    for path in TEXTS {
        at(service, path, &mut text);
    }
    for path in NUMBERS {
        at(service, path, &mut |v| {
            let number = v.as_str().and_then(|t| t.parse::<f64>().ok());
            Some(match number {
                Some(n) if n.fract() == 0.0 && n.abs() < 1e9 => json!(n as i64),
                Some(n) => json!(n),
                None => v,
            })
        });
    }
    for path in MODES {
        at(service, path, &mut |v| {
            Some(v.as_u64().map_or(v, |mode| format!("0{mode:o}").into()))
        });
    }
    at(service, "dns_search", &mut |v| {
        Some(match v {
            Value::String(one) => json!([one]),
            v => v,
        })
    });
    at(service, "provider.options.*", &mut |v| {
        Some(match v {
            Value::Array(_) => v,
            one => Value::Array(text(one).into_iter().collect()),
        })
    });
    for path in ["extra_hosts", "build.extra_hosts"] {
        at(service, path, &mut hosts);
    }
    for path in ["deploy.resources.reservations.devices.*", "gpus.*"] {
        at(service, path, &mut devices);
    }
    at(service, "volumes.*", &mut |mut volume| {
        if volume["type"] == "volume" {
            at(&mut volume, "bind.create_host_path", &mut |_| None);
        }
        Some(volume)
    });
    for path in OMITTED {
        at(service, path, &mut omit);
    }
}

/// What `change` makes of the values at a path; None: they go.
fn at(value: &mut Value, path: &str, change: &mut dyn FnMut(Value) -> Option<Value>) {
    let (key, rest) = path.split_once('.').unwrap_or((path, ""));
    match value {
        Value::Object(map) if key == "*" => {
            let keys: Vec<String> = map.keys().cloned().collect();
            keys.iter().for_each(|key| in_map(map, key, rest, change));
        }
        Value::Object(map) => in_map(map, key, rest, change),
        Value::Array(items) if key == "*" => {
            for item in items {
                match rest {
                    "" => *item = change(item.take()).unwrap_or_default(),
                    rest => at(item, rest, change),
                }
            }
        }
        _ => {}
    }
}

fn in_map(
    map: &mut Map<String, Value>,
    key: &str,
    rest: &str,
    change: &mut dyn FnMut(Value) -> Option<Value>,
) {
    match (map.get_mut(key), rest) {
        (None, _) => {}
        (Some(value), "") => match change(value.take()) {
            Some(changed) => *value = changed,
            None => {
                map.remove(key);
            }
        },
        (Some(value), rest) => at(value, rest, change),
    }
}

fn omit(value: Value) -> Option<Value> {
    let empty = match &value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
    };
    (!empty).then_some(value)
}

fn text(value: Value) -> Option<Value> {
    Some(match value {
        Value::Number(n) => n.to_string().into(),
        Value::Bool(on) => on.to_string().into(),
        other => other,
    })
}

/// `name=address`, sorted.
fn hosts(value: Value) -> Option<Value> {
    let Value::Array(items) = value else {
        return Some(value);
    };
    let mut lines: Vec<String> = items
        .iter()
        .filter_map(Value::as_str)
        .map(|line| match line.split_once(['=', ':']) {
            Some((name, address)) => {
                let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                format!("{}={}", name.trim(), bare.unwrap_or(address).trim())
            }
            None => line.to_string(),
        })
        .collect();
    lines.sort();
    Some(lines.into())
}

/// All of them is `-1`, which is also what is meant when neither a count nor identifiers are given.
fn devices(mut value: Value) -> Option<Value> {
    if let Some(device) = value.as_object_mut() {
        let all = device.get("count").is_some_and(|c| c == "all");
        let none = !device.contains_key("count") && !device.contains_key("device_ids");
        if all || none {
            device.insert("count".into(), json!(-1));
        }
    }
    Some(value)
}

/// As Go writes a duration: `1m0s`, `1.5s`, `250ms`.
fn go(nanos: u128) -> String {
    let fraction = |whole: u128, unit: u128| {
        let (n, rest) = (whole / unit, whole % unit);
        let digits = unit.to_string().len() - 1;
        let rest = format!("{rest:0digits$}");
        match rest.trim_end_matches('0') {
            "" => n.to_string(),
            rest => format!("{n}.{rest}"),
        }
    };
    match nanos {
        0 => "0s".into(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => fraction(n, 1_000) + "µs",
        n if n < 1_000_000_000 => fraction(n, 1_000_000) + "ms",
        n => {
            let (minutes, rest) = (n / 60_000_000_000, n % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000) + "s";
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_compose_writes_them() {
        for (service, want) in [
            (
                json!({"stop_grace_period": "60s", "healthcheck": {"interval": "1h", "timeout": "1500ms", "start_period": "0"}}),
                json!({"stop_grace_period": "1m0s", "healthcheck": {"interval": "1h0m0s", "timeout": "1.5s", "start_period": "0s"}}),
            ),
            (
                json!({"mem_limit": "256mb", "shm_size": 1024, "memswap_limit": -1}),
                json!({"mem_limit": "268435456", "shm_size": "1024", "memswap_limit": -1}),
            ),
            (
                json!({"extra_hosts": ["b:1.2.3.4", "a=[::1]", "c:host-gateway"]}),
                json!({"extra_hosts": ["a=::1", "b=1.2.3.4", "c=host-gateway"]}),
            ),
            (
                json!({"ports": [{"published": 80}], "logging": {"options": {"max-file": 3}}, "environment": {}, "tty": false}),
                json!({"ports": [{"published": "80"}], "logging": {"options": {"max-file": "3"}}}),
            ),
            (
                json!({"deploy": {"resources": {"limits": {"cpus": "0.5"}, "reservations": {"cpus": "2", "devices": [{}, {"count": "all"}, {"device_ids": ["0"]}]}}}}),
                json!({"deploy": {"resources": {"limits": {"cpus": 0.5}, "reservations": {"cpus": 2, "devices": [{"count": -1}, {"count": -1}, {"device_ids": ["0"]}]}}}}),
            ),
            (
                json!({"secrets": [{"mode": 288}], "dns_search": "", "volumes": [{"type": "volume", "bind": {"create_host_path": true}}]}),
                json!({"secrets": [{"mode": "0440"}], "dns_search": [""], "volumes": [{"type": "volume", "bind": {}}]}),
            ),
        ] {
            let mut tree = json!({"services": {"a": service}});
            like_compose(&mut tree);
            assert_eq!(tree, json!({"services": {"a": want}}), "{service}");
        }
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (nanos, want) in [
            (0, "0s"),
            (15, "15ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (61_050_000_000, "1m1.05s"),
        ] {
            assert_eq!(go(nanos), want);
        }
    }
}
