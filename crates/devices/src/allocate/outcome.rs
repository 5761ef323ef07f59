//! What is written of devices that were found.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Choice, Failure, Found, Part};
use crate::{
    model::{Allocation, AllocationResult, Results},
    node::{NodeSelector, Requirement, Term},
};

type Config = BTreeMap<String, Value>;

pub(super) fn outcome(
    part: &Part<'_>,
    node: &str,
    share_id: &mut dyn FnMut() -> Box<str>,
) -> Result<Allocation, Failure> {
    let results = part.found.iter().map(|found| {
        let choice = &part.requests[found.request][found.choice];
        let spec = found.candidate.slice.spec;
        let device = found.candidate.device;
        let admin = choice.wanted.admin_access && choice.of.alternative.is_empty();
        AllocationResult {
            request: choice.name().into(),
            driver: spec.driver.clone(),
            pool: spec.pool.name.clone(),
            device: device.name.clone(),
            admin_access: admin.then_some(true),
            tolerations: choice.wanted.tolerations.clone(),
            binding_conditions: device.binding_conditions.clone(),
            binding_failure_conditions: device.binding_failure_conditions.clone(),
            share_id: found.consumed.is_some().then(&mut *share_id),
            consumed_capacity: found.consumed.clone().unwrap_or_default(),
        }
    });
    let results = results.collect();
    Ok(Allocation {
        devices: Results {
            results,
            config: configuration(part),
        },
        node_selector: selector(&part.found, node)?,
        allocation_timestamp: None,
    })
}

/// The alternative of each request that was taken.
fn taken<'p, 'a>(part: &'p Part<'a>) -> impl Iterator<Item = &'p Choice<'a>> {
    let chosen = part.requests.iter().zip(&part.chosen);
    chosen.filter_map(|(choices, chosen)| choices.get(*chosen))
}

/// First the classes', then the claim's own.
fn configuration(part: &Part<'_>) -> Vec<Config> {
    let mut all: Vec<Config> = Vec::new();
    let mut of_class: BTreeMap<&str, std::ops::Range<usize>> = BTreeMap::new();
    for choice in taken(part) {
        if let Some(range) = of_class.get(choice.class.name) {
            for config in &mut all[range.clone()] {
                if let Some(Value::Array(requests)) = config.get_mut("requests") {
                    requests.push(choice.name().into());
                }
            }
            continue;
        }
        let start = all.len();
        for config in &choice.class.spec.config {
            let mut config = config.clone();
            config.insert("source".into(), "FromClass".into());
            config.insert("requests".into(), json!([choice.name()]));
            all.push(config);
        }
        of_class.insert(choice.class.name, start..all.len());
    }
    for config in &part.claim.spec.devices.config {
        let named = config.get("requests").and_then(Value::as_array);
        let named = named.map_or(&[][..], Vec::as_slice);
        let of_claim = || {
            let mut config = config.clone();
            config.insert("source".into(), "FromClaim".into());
            config
        };
        if named.is_empty() {
            all.push(of_claim());
            continue;
        }
        for choice in taken(part) {
            let is = |name: &str| named.iter().any(|n| n.as_str() == Some(name));
            if is(choice.of.request) || is(&choice.name()) {
                all.push(of_claim());
            }
        }
    }
    all
}

/// Where the devices can be used; None: anywhere.
fn selector(found: &[Found<'_>], node: &str) -> Result<Option<NodeSelector>, Failure> {
    let mut term = Term::default();
    let add = |from: &[Requirement], to: &mut Vec<Requirement>| {
        for requirement in from {
            if !to.contains(requirement) {
                to.push(requirement.clone());
            }
        }
    };
    for found in found {
        let (spec, device) = (found.candidate.slice.spec, found.candidate.device);
        let (name, selector) = match spec.per_device_node_selection {
            true => (&device.node_name, &device.node_selector),
            false => (&spec.node_name, &spec.node_selector),
        };
        if !name.is_empty() || device.binds_to_node {
            return Ok(Some(NodeSelector::only(node)));
        }
        let terms = selector
            .as_ref()
            .map_or(&[][..], |s| &s.node_selector_terms);
        match terms {
            [] => {}
            [one] => {
                add(&one.match_fields, &mut term.match_fields);
                add(&one.match_expressions, &mut term.match_expressions);
            }
            more => {
                return Err(Failure::Broken(format!(
                    "unsupported ResourceSlice.NodeSelector with {} terms",
                    more.len()
                )));
            }
        }
    }
    let any = !(term.match_fields.is_empty() && term.match_expressions.is_empty());
    Ok(any.then(|| NodeSelector {
        node_selector_terms: vec![term],
    }))
}
