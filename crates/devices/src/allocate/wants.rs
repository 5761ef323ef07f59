//! What claims ask for: requests and their alternatives, with the devices that a request for all of them means.

use super::{Candidate, Choice, Failure, Part, RESULTS_MAX, Search, broken};
use crate::{
    constraint::{Check, Of},
    model::{Claim, Request},
};

impl<'a> Search<'_, 'a> {
    /// One claim's part.
    pub(super) fn part(&mut self, index: usize) -> Result<Part<'a>, Failure> {
        let claim = self.question.claims[index];
        let devices = &claim.spec.devices;
        let mut requests = Vec::with_capacity(devices.requests.len());
        let mut least = 0_usize;
        for (number, request) in devices.requests.iter().enumerate() {
            let choices = self.choices(index, number, claim, request)?;
            least = least.saturating_add(choices.iter().map(|c| c.count).min().unwrap_or(0));
            requests.push(choices);
        }
        if least > RESULTS_MAX {
            return broken(format!(
                "claim {}: number of requested devices {least} exceeds the claim limit of {RESULTS_MAX}",
                claim.key
            ));
        }
        let mut checks = Vec::with_capacity(devices.constraints.len());
        for (i, constraint) in devices.constraints.iter().enumerate() {
            match Check::new(constraint) {
                Some(check) => checks.push(check),
                None => {
                    return broken(format!(
                        "claim {}, constraint #{i}: empty constraint (unsupported constraint type?)",
                        claim.key
                    ));
                }
            }
        }
        Ok(Part {
            claim,
            chosen: vec![0; requests.len()],
            requests,
            checks,
            found: Vec::new(),
        })
    }

    fn choices(
        &mut self,
        claim_index: usize,
        number: usize,
        claim: Claim<'a>,
        request: &'a Request,
    ) -> Result<Vec<Choice<'a>>, Failure> {
        let mut all = Vec::new();
        let exactly = request.exactly.iter();
        for (i, wanted) in exactly.chain(&request.first_available).enumerate() {
            let of = Of {
                request: &request.name,
                alternative: match request.exactly.is_some() {
                    true => "",
                    false => &wanted.name,
                },
            };
            let said = |what: &str| {
                let name = match of.alternative {
                    "" => of.request,
                    alternative => alternative,
                };
                format!("claim {}, request {name}{what}", claim.key)
            };
            let empty = wanted.selectors.iter().position(|s| s.cel.is_none());
            if let Some(i) = empty {
                return broken(said(&format!(
                    ", selector #{i}: CEL expression empty (unsupported selector type?)"
                )));
            }
            let class = &*wanted.device_class_name;
            if class.is_empty() {
                return broken(said(
                    ": missing device class name (unsupported request type?)",
                ));
            }
            let Some(class) = (self.question.class)(class) else {
                return broken(said(&format!(
                    ": could not retrieve device class {class}: deviceclass.resource.k8s.io \"{class}\" not found"
                )));
            };
            let mut choice = Choice {
                of,
                wanted,
                class,
                count: 0,
                all: None,
            };
            match &*wanted.allocation_mode {
                "" | "ExactCount" => {
                    choice.count = usize::try_from(wanted.count.max(1)).unwrap_or(usize::MAX);
                }
                "All" => {
                    let found = self.all_of(claim_index, number, i, claim, &choice, &said)?;
                    choice.count = found.len();
                    choice.all = Some(found.into());
                }
                other => return broken(said(&format!(": unsupported count mode {other}"))),
            }
            all.push(choice);
        }
        Ok(all)
    }

    /// All that a request for all means.
    fn all_of(
        &mut self,
        claim_index: usize,
        request: usize,
        number: usize,
        claim: Claim<'a>,
        choice: &Choice<'a>,
        said: &dyn Fn(&str) -> String,
    ) -> Result<Vec<Candidate<'a>>, Failure> {
        let mut found = Vec::new();
        for index in 0..self.pools.len() {
            let pool = &self.pools[index];
            let state = match (pool.incomplete, pool.invalid) {
                (true, _) => Some("being updated"),
                (_, true) => Some("invalid"),
                _ => None,
            };
            if let Some(state) = state {
                return broken(said(&format!(
                    ": asks for all devices, but resource pool {} is currently {state}",
                    pool.id()
                )));
            }
            for slice in pool.slices.clone() {
                for device in &slice.spec.devices {
                    let candidate = Candidate {
                        pool: index,
                        slice,
                        device,
                    };
                    let key = (claim_index, request, number);
                    if (self.question).selectable(
                        &mut self.matches,
                        key,
                        claim,
                        choice,
                        candidate,
                    )? && self.has_capacity(choice, candidate)
                    {
                        found.push(candidate);
                    }
                }
            }
        }
        Ok(found)
    }
}
