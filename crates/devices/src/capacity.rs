//! How much of a shared device a request takes (`consumable_capacity.go`).

use std::collections::BTreeMap;

use knarr_quantity::Quantity;

use crate::{
    model::{Capacity, CapacityRequests, Device, RequestPolicy, Text, ValidRange},
    taken::Consumed,
};

fn total(capacity: &Capacity) -> &Quantity {
    static NOTHING: Quantity = Quantity::ZERO;
    capacity.value.as_ref().unwrap_or(&NOTHING)
}

/// What the device gives for the request, rounded as its policy says.
fn given(requested: Option<&Quantity>, capacity: &Capacity) -> Quantity {
    let policy = capacity.request_policy.as_ref();
    let Some(requested) = requested else {
        let default = policy.and_then(|p| p.default.as_ref());
        return default.unwrap_or(total(capacity)).clone();
    };
    match policy {
        Some(RequestPolicy {
            valid_range:
                Some(ValidRange {
                    min: Some(min),
                    step,
                    ..
                }),
            ..
        }) => match step {
            _ if requested < min => min.clone(),
            None => requested.clone(),
            Some(step) => {
                let (low, step) = (min.value(), step.value().max(1));
                let steps = requested.value().saturating_sub(low).div_euclid(step);
                let exact = requested.value().saturating_sub(low).rem_euclid(step) == 0;
                let steps = steps.saturating_add(i64::from(!exact));
                Quantity::bytes(low.saturating_add(step.saturating_mul(steps)))
            }
        },
        Some(policy) if !policy.valid_values.is_empty() => policy
            .valid_values
            .iter()
            .find(|v| requested <= *v)
            .unwrap_or(requested)
            .clone(),
        _ => requested.clone(),
    }
}

fn violates(amount: &Quantity, policy: &RequestPolicy) -> bool {
    if policy.default.as_ref() == Some(amount) {
        return false;
    }
    match &policy.valid_range {
        Some(range) => {
            range.max.as_ref().is_some_and(|max| amount > max)
                || range.step.as_ref().is_some_and(|step| {
                    let low = range.min.as_ref().map_or(0, Quantity::value);
                    amount.value().saturating_sub(low) % step.value().max(1) != 0
                })
        }
        None => !policy.valid_values.is_empty() && !policy.valid_values.contains(amount),
    }
}

fn requested<'a>(wanted: Option<&'a CapacityRequests>, name: &str) -> Option<&'a Quantity> {
    wanted.and_then(|w| w.requests.get(name))
}

/// The device has all of the capacities that are asked for, and enough of each beside what is taken.
pub(crate) fn suffices(
    wanted: Option<&CapacityRequests>,
    device: &Device,
    taken: [Option<&Consumed>; 2],
) -> bool {
    let known = |w: &CapacityRequests| w.requests.keys().all(|n| device.capacity.contains_key(n));
    wanted.is_none_or(known)
        && device.capacity.iter().all(|(name, capacity)| {
            let mut amount = given(requested(wanted, name), capacity);
            let policy = capacity.request_policy.as_ref();
            if policy.is_some_and(|p| violates(&amount, p)) {
                return false;
            }
            for more in taken.iter().flatten().filter_map(|t| t.get(name)) {
                amount.add(more);
            }
            amount <= *total(capacity)
        })
}

/// What the request takes of each capacity.
pub(crate) fn consumed(
    wanted: Option<&CapacityRequests>,
    device: &Device,
) -> BTreeMap<Text, Quantity> {
    let all = device.capacity.iter();
    all.map(|(name, capacity)| (name.clone(), given(requested(wanted, name), capacity)))
        .collect()
}
