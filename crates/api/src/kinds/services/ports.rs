//! Which ports of the nodes a Service gets (upstream `pkg/registry/core/service/storage/alloc.go`, `portallocator`).

use std::collections::HashSet;

use rand::Rng;
use serde_json::Value;

use crate::{
    kinds::{
        checks::services as checks,
        json::{items, items_mut, text},
    },
    registry::FieldError,
};

/// The range, and what of it is taken: by others, and by this Service as it goes.
pub(crate) struct Ports {
    low: i64,
    high: i64,
    taken: HashSet<i64>,
}

impl Ports {
    /// The ports of these Services are taken.
    pub fn new<'a>(range: (u16, u16), others: impl Iterator<Item = &'a Value>) -> Ports {
        let mut taken = HashSet::new();
        for service in others {
            let ports = items(service, "/spec/ports").iter();
            taken.extend(ports.filter_map(|p| p["nodePort"].as_i64()));
            taken.extend(service["spec"]["healthCheckNodePort"].as_i64());
        }
        Ports {
            low: range.0.into(),
            high: range.1.into(),
            taken,
        }
    }

    /// Takes the port that is asked for, or says why not.
    fn take(&mut self, port: i64) -> Result<(), String> {
        if !(self.low..=self.high).contains(&port) {
            let (low, high) = (self.low, self.high);
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            ));
        }
        match self.taken.insert(port) {
            true => Ok(()),
            false => Err("provided port is already allocated".into()),
        }
    }

    /// A free port, by chance; the lower part of the range is for those who ask for a port by number.
    fn next(&mut self) -> Option<i64> {
        let size = self.high - self.low + 1;
        let offset = match size {
            ..=16 => 0,
            size => (size / 32).clamp(16, 128),
        };
        let parts = [
            (self.low + offset, self.high),
            (self.low, self.low + offset - 1),
        ];
        let found = parts.into_iter().find_map(|(from, to)| {
            let count = to - from + 1;
            if count <= 0 {
                return None;
            }
            let start = rand::rng().random_range(0..count);
            (0..count)
                .map(|n| from + (start + n) % count)
                .find(|port| !self.taken.contains(port))
        })?;
        self.taken.insert(found);
        Some(found)
    }
}

fn invalid(i: usize, port: i64, detail: String) -> Vec<FieldError> {
    vec![FieldError::Invalid {
        field: format!("spec.ports[{i}].nodePort"),
        value: port.into(),
        detail,
    }]
}

fn full() -> Vec<FieldError> {
    vec![FieldError::Internal {
        field: "spec.ports".into(),
        detail: "failed to allocate a nodePort: range is full".into(),
    }]
}

fn asked(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or(0)
}

/// Gives the Service its ports; those that it had before stay its own.
pub(crate) fn give(
    o: &mut Value,
    old: Option<&Value>,
    ports: &mut Ports,
) -> Result<(), Vec<FieldError>> {
    let kind = text(o, "/spec/type").to_string();
    let on_nodes = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    let wanted =
        kind == "NodePort" || (on_nodes && o["spec"]["allocateLoadBalancerNodePorts"] != false);
    if !wanted {
        for p in items_mut(&mut o["spec"], "ports") {
            if asked(p) == 0
                && let Some(p) = p.as_object_mut()
            {
                p.remove("nodePort");
            }
        }
    }
    if on_nodes {
        match old {
            None => at_first(o, wanted, ports)?,
            Some(old) => again(o, old, wanted, ports)?,
        }
    }
    health(&mut o["spec"], old, ports)
}

/// Of a new Service: of one port number in several protocols the node's port is one (upstream's initNodePorts).
fn at_first(o: &mut Value, wanted: bool, ports: &mut Ports) -> Result<(), Vec<FieldError>> {
    let requested: Vec<(Value, i64)> = items(o, "/spec/ports")
        .iter()
        .map(|p| (p["port"].clone(), asked(p)))
        .collect();
    let mut given: Vec<(Value, i64)> = Vec::new();
    for (i, p) in items_mut(&mut o["spec"], "ports").enumerate() {
        let number = asked(p);
        if number == 0 && !wanted {
            continue;
        }
        let port = p["port"].clone();
        let same = |(of, n): &&(Value, i64)| *of == port && *n != 0;
        match given.iter().find(same) {
            Some((_, shared)) if number == 0 => p["nodePort"] = (*shared).into(),
            Some((_, shared)) if number == *shared => {}
            Some(_) => ports.take(number).map_err(|why| invalid(i, number, why))?,
            None => {
                let number = match requested.iter().find(same) {
                    Some((_, number)) => {
                        ports
                            .take(*number)
                            .map_err(|why| invalid(i, *number, why))?;
                        *number
                    }
                    None => ports.next().ok_or_else(full)?,
                };
                p["nodePort"] = number.into();
                given.push((port, number));
            }
        }
    }
    Ok(())
}

/// Of a Service that is there: what it had is its own (upstream's updateNodePorts).
fn again(
    o: &mut Value,
    old: &Value,
    wanted: bool,
    ports: &mut Ports,
) -> Result<(), Vec<FieldError>> {
    let had = items(old, "/spec/ports").iter().map(asked);
    let mut own: HashSet<i64> = had.filter(|n| *n != 0).collect();
    ports.taken.extend(&own);
    for (i, p) in items_mut(&mut o["spec"], "ports").enumerate() {
        match asked(p) {
            0 if !wanted => {}
            0 => p["nodePort"] = ports.next().ok_or_else(full)?.into(),
            number if own.contains(&number) => {}
            number => {
                ports.take(number).map_err(|why| invalid(i, number, why))?;
                own.insert(number);
            }
        }
    }
    Ok(())
}

/// The port at which balancers ask nodes for endpoints, from the same range.
fn health(spec: &mut Value, old: Option<&Value>, ports: &mut Ports) -> Result<(), Vec<FieldError>> {
    const FIELD: &str = "spec.healthCheckNodePort";
    if !checks::needs_health_port(spec) {
        return Ok(());
    }
    let asked = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    let had = old.and_then(|o| o["spec"]["healthCheckNodePort"].as_i64());
    if asked != 0 && had == Some(asked) {
        return Ok(());
    }
    if asked == 0 {
        let number = ports.next().ok_or_else(|| {
            let detail = "failed to allocate a HealthCheck NodePort 0: range is full".into();
            vec![FieldError::Internal {
                field: FIELD.into(),
                detail,
            }]
        })?;
        spec["healthCheckNodePort"] = number.into();
        return Ok(());
    }
    ports.take(asked).map_err(|why| {
        vec![FieldError::Internal {
            field: FIELD.into(),
            detail: format!("failed to allocate requested HealthCheck NodePort {asked}: {why}"),
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(ports: Value) -> Value {
        json!({"spec": {"type": "NodePort", "ports": ports}})
    }

    fn numbers(o: &Value) -> Vec<i64> {
        items(o, "/spec/ports").iter().map(asked).collect()
    }

    #[test]
    fn ports_are_given_as_upstream_does() {
        let other = service(json!([{"port": 1, "nodePort": 30001}]));
        let old = service(json!([{"port": 80, "nodePort": 30080}]));
        let udp = |port: i64| json!({"port": port, "protocol": "UDP"});
        let tcp = |port: i64, node: i64| json!({"port": port, "protocol": "TCP", "nodePort": node});
        for (name, ports, old, wanted) in [
            ("asked for", json!([tcp(80, 30080)]), None, Ok(vec![30080])),
            (
                "its own",
                json!([tcp(81, 30080)]),
                Some(&old),
                Ok(vec![30080]),
            ),
            (
                "one number, two protocols",
                json!([udp(53), tcp(53, 30053)]),
                None,
                Ok(vec![30053, 30053]),
            ),
            (
                "and the other way round",
                json!([tcp(53, 30053), udp(53)]),
                None,
                Ok(vec![30053, 30053]),
            ),
            (
                "another's",
                json!([tcp(80, 30001)]),
                None,
                Err("provided port is already allocated"),
            ),
            (
                "outside",
                json!([tcp(80, 29999)]),
                None,
                Err(
                    "provided port is not in the valid range. The range of valid ports is 30000-32767",
                ),
            ),
        ] {
            let mut o = service(ports);
            let mut of = Ports::new((30000, 32767), [&other].into_iter());
            let given = give(&mut o, old, &mut of).map(|()| numbers(&o));
            let given = given.map_err(|e| match &e[0] {
                FieldError::Invalid { detail, .. } => detail.clone(),
                other => panic!("{name}: {other:?}"),
            });
            assert_eq!(given, wanted.map_err(String::from), "{name}");
        }
        // two that are free and not of the part for those who ask
        let mut o = service(json!([udp(53), tcp(53, 0), tcp(80, 0)]));
        let mut of = Ports::new((30000, 32767), [&other].into_iter());
        give(&mut o, None, &mut of).unwrap();
        let given = numbers(&o);
        assert!(given[0] == given[1] && given[1] != given[2], "{given:?}");
        assert!(
            given.iter().all(|n| (30086..=32767).contains(n)),
            "{given:?}"
        );
    }

    #[test]
    fn a_full_range_is_told() {
        let mut of = Ports::new((30000, 30001), std::iter::empty());
        let mut o = service(json!([{"port": 1}, {"port": 2}]));
        give(&mut o, None, &mut of).unwrap();
        let mut more = service(json!([{"port": 1}]));
        assert_eq!(give(&mut more, None, &mut of), Err(full()));
    }
}
