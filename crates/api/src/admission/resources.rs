//! What a Pod asks for in all (`component-helpers/resource`, spec only).

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::items;
use crate::kinds::checks::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// A ResourceList.
pub fn amounts(list: &Value) -> Amounts {
    list.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), Quantity::of(v)?)))
        .collect()
}

/// Adds to each amount.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (k, v) in more {
        let sum = match to.get(k) {
            Some(present) => present.plus(v),
            None => v.clone(),
        };
        to.insert(k.clone(), sum);
    }
}

/// Raises each amount.
pub fn raise(to: &mut Amounts, least: &Amounts) {
    for (k, v) in least {
        if to.get(k).is_none_or(|present| v > present) {
            to.insert(k.clone(), v.clone());
        }
    }
}

/// `requests` or `limits` of a Pod's spec: the containers' sum, or what its init containers need at a time when that is
/// more; what the Pod itself says of cpu, memory and huge pages counts instead.
pub fn of_pod(spec: &Value, which: &str) -> Amounts {
    let of = |c: &Value| amounts(&c["resources"][which]);
    let mut total = Amounts::new();
    for c in items(spec, "/containers") {
        add(&mut total, &of(c));
    }
    let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
    for c in items(spec, "/initContainers") {
        let mut now = of(c);
        if c["restartPolicy"] == "Always" {
            add(&mut total, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut init, &now);
    }
    raise(&mut total, &init);
    for (k, v) in amounts(&spec["resources"][which]) {
        if matches!(k.as_str(), "cpu" | "memory") || k.starts_with("hugepages-") {
            total.insert(k, v);
        }
    }
    total
}

/// The amount as a floating point number.
pub fn float(q: &Quantity) -> f64 {
    q.float()
}
