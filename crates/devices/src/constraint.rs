//! What the devices of a claim must have in common, or must not.

use crate::model::{Attribute, Constraint, Device, Text};

/// A request and, when it has alternatives, the one that is tried.
#[derive(Clone, Copy)]
pub(crate) struct Of<'a> {
    pub request: &'a str,
    pub alternative: &'a str,
}

/// One of a claim's, with the values of the devices that were added so far.
pub(crate) struct Check<'a> {
    requests: &'a [Text],
    attribute: &'a str,
    /// all the same, or each another one
    same: bool,
    values: Vec<&'a Attribute>,
}

impl<'a> Check<'a> {
    /// None: of a kind that isn't known.
    pub fn new(constraint: &'a Constraint) -> Option<Check<'a>> {
        let (attribute, same) = match constraint {
            Constraint {
                match_attribute: Some(name),
                ..
            } => (name, true),
            Constraint {
                distinct_attribute: Some(name),
                ..
            } => (name, false),
            _ => return None,
        };
        Some(Check {
            requests: &constraint.requests,
            attribute,
            same,
            values: Vec::new(),
        })
    }

    fn concerns(&self, of: Of<'_>) -> bool {
        let is_alternative = |named: &str| {
            named
                .split_once('/')
                .is_some_and(|(r, a)| r == of.request && a == of.alternative)
        };
        self.requests.is_empty()
            || self.requests.iter().any(|named| {
                **named == *of.request || (!of.alternative.is_empty() && is_alternative(named))
            })
    }

    /// Adds the device; false: it doesn't go with the others.
    pub fn add(&mut self, of: Of<'_>, driver: &str, device: &'a Device) -> bool {
        if !self.concerns(of) {
            return true;
        }
        let Some(value) = find(device, driver, self.attribute) else {
            return false;
        };
        let goes = match (self.values.first(), value) {
            (None, _) => true,
            (Some(_), Attribute::Other(_)) => false,
            (Some(first), _) if self.same => *first == value,
            (Some(_), _) => !self.values.contains(&value),
        };
        if goes {
            self.values.push(value);
        }
        goes
    }

    /// Takes back the device that was added last.
    pub fn remove(&mut self, of: Of<'_>) {
        if self.concerns(of) {
            self.values.pop();
        }
    }
}

/// By its whole name; one of the driver's own domain also without it.
fn find<'a>(device: &'a Device, driver: &str, name: &str) -> Option<&'a Attribute> {
    device.attributes.get(name).or_else(|| {
        let (domain, id) = name.split_once('/')?;
        (domain == driver).then(|| device.attributes.get(id))?
    })
}
