//! The search: devices for all requests of all claims at once, the first that fit (`allocator_incubating.go`).

mod outcome;
mod wants;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    capacity,
    constraint::{Check, Of},
    counters::Counters,
    expression::Expressions,
    model::{Allocation, Claim, Class, Device, Selector, Slice, Wanted},
    node::{Target, reaches},
    pools::{Pool, gather},
    taken::{Consumed, DeviceId, Taken},
};
use outcome::outcome;

/// Devices of one claim (`AllocationResultsMaxSize`).
const RESULTS_MAX: usize = 32;
/// Devices tried for one Pod on one node. Upstream gives up after ten seconds.
const STEPS_MAX: u32 = 200_000;

/// Why the search didn't come to an end, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Something is wrong with a claim, a class or a device: no node is looked at any more.
    #[error("{0}")]
    Broken(String),
    /// The node has nothing to offer that could be relied on.
    #[error("invalid resource pools were encountered")]
    InvalidPools,
    /// There is too much to try.
    #[error("node {0}: timed out trying to allocate devices")]
    TooMuch(String),
}

fn broken<T>(why: String) -> Result<T, Failure> {
    Err(Failure::Broken(why))
}

/// What is looked for, and where.
pub struct Question<'a> {
    pub node: Target<'a>,
    pub claims: &'a [Claim<'a>],
    pub slices: &'a [Slice<'a>],
    pub class: &'a dyn Fn(&str) -> Option<Class<'a>>,
    pub taken: &'a Taken,
    pub expressions: &'a Expressions,
}

/// A device and where it is.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    pool: usize,
    slice: Slice<'a>,
    device: &'a Device,
}

impl Candidate<'_> {
    fn id(&self) -> DeviceId {
        DeviceId {
            driver: self.slice.spec.driver.clone(),
            pool: self.slice.spec.pool.name.clone(),
            device: self.device.name.clone(),
        }
    }
}

/// A request, or one of its alternatives.
struct Choice<'a> {
    of: Of<'a>,
    wanted: &'a Wanted,
    class: Class<'a>,
    count: usize,
    /// when all are asked for: these
    all: Option<Arc<[Candidate<'a>]>>,
}

impl Choice<'_> {
    fn name(&self) -> String {
        match self.of.alternative {
            "" => self.of.request.to_owned(),
            alternative => format!("{}/{alternative}", self.of.request),
        }
    }
    /// As upstream names it in messages.
    fn own_name(&self) -> &str {
        match self.of.alternative {
            "" => self.of.request,
            alternative => alternative,
        }
    }
}

/// A device that was found.
struct Found<'a> {
    choice: usize,
    request: usize,
    candidate: Candidate<'a>,
    consumed: Option<std::collections::BTreeMap<Box<str>, knarr_quantity::Quantity>>,
}

/// One claim's part of the search.
struct Part<'a> {
    claim: Claim<'a>,
    /// for each request its alternatives; one when it has none
    requests: Vec<Vec<Choice<'a>>>,
    checks: Vec<Check<'a>>,
    found: Vec<Found<'a>>,
    /// for each request the alternative that was taken
    chosen: Vec<usize>,
}

/// Where the search is.
#[derive(Clone, Copy)]
struct At {
    claim: usize,
    request: usize,
    choice: usize,
    device: usize,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Step {
    Done,
    Not,
    /// This alternative would be more than a claim may have.
    Exceeded,
}

/// Of a claim's request's alternative and a device, by its address: it matches.
type Matches = HashMap<(usize, usize, usize, *const Device), bool>;

struct Search<'q, 'a> {
    question: &'q Question<'a>,
    pools: Vec<Pool<'a>>,
    parts: Vec<Part<'a>>,
    matches: Matches,
    /// devices that are given to claims in this search, and to which
    given: HashSet<(DeviceId, usize)>,
    shared: HashMap<DeviceId, (usize, Consumed)>,
    counters: Counters<'a>,
    steps: u32,
}

/// Devices for each of the claims, in their order; None: there aren't enough on the node. `share_id` makes a name that is
/// in no other allocation.
///
/// # Errors
/// See [`Failure`].
pub fn allocate(
    question: &Question<'_>,
    share_id: &mut dyn FnMut() -> Box<str>,
) -> Result<Option<Vec<Allocation>>, Failure> {
    let pools = gather(question.slices, question.node);
    let mut search = Search {
        question,
        parts: Vec::with_capacity(question.claims.len()),
        matches: HashMap::new(),
        given: HashSet::new(),
        shared: HashMap::new(),
        counters: Counters::default(),
        steps: 0,
        pools,
    };
    for index in 0..question.claims.len() {
        let part = search.part(index)?;
        search.parts.push(part);
    }
    let start = At {
        claim: 0,
        request: 0,
        choice: 0,
        device: 0,
    };
    if search.next(start, false)? == Step::Done {
        let node = question.node.name;
        let all = search
            .parts
            .iter()
            .map(|part| outcome(part, node, share_id));
        return all.collect::<Result<Vec<_>, _>>().map(Some);
    }
    match search.pools.iter().any(|p| p.invalid) {
        true => Err(Failure::InvalidPools),
        false => Ok(None),
    }
}

impl Question<'_> {
    /// The class, the request and the node allow it.
    fn selectable(
        &self,
        matches: &mut Matches,
        (claim_index, request, number): (usize, usize, usize),
        claim: Claim<'_>,
        choice: &Choice<'_>,
        candidate: Candidate<'_>,
    ) -> Result<bool, Failure> {
        let device = candidate.device;
        let key = (claim_index, request, number, std::ptr::from_ref(device));
        if let Some(known) = matches.get(&key) {
            return Ok(*known);
        }
        let of_class = || format!("class {}", choice.class.name);
        let of_claim = || format!("claim {}", claim.key);
        let answer = self.selected(&choice.class.spec.selectors, candidate, &of_class)?
            && self.selected(&choice.wanted.selectors, candidate, &of_claim)?
            && (!candidate.slice.spec.per_device_node_selection
                || reaches(
                    self.node,
                    &device.node_name,
                    device.all_nodes,
                    device.node_selector.as_ref(),
                ));
        matches.insert(key, answer);
        Ok(answer)
    }

    fn selected(
        &self,
        selectors: &[Selector],
        candidate: Candidate<'_>,
        whose: &dyn Fn() -> String,
    ) -> Result<bool, Failure> {
        for (i, selector) in selectors.iter().enumerate() {
            let Some(cel) = &selector.cel else { continue };
            let driver = &candidate.slice.spec.driver;
            let answer = (self.expressions).matches(&cel.expression, driver, candidate.device);
            match answer {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => return broken(format!("{}: selector #{i}: {why}", whose())),
            }
        }
        Ok(true)
    }
}

impl<'a> Search<'_, 'a> {
    fn has_capacity(&self, choice: &Choice<'a>, candidate: Candidate<'a>) -> bool {
        let id = candidate.id();
        let taken = [
            self.question.taken.shared.get(&id),
            self.shared.get(&id).map(|(_, consumed)| consumed),
        ];
        capacity::suffices(choice.wanted.capacity.as_ref(), candidate.device, taken)
    }

    /// Goes on from here to the end; false where there is no way.
    fn next(&mut self, at: At, alternative: bool) -> Result<Step, Failure> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(Failure::TooMuch(self.question.node.name.to_owned()));
        }
        let Some(part) = self.parts.get(at.claim) else {
            return Ok(Step::Done);
        };
        let Some(choices) = part.requests.get(at.request) else {
            let after = At {
                claim: at.claim + 1,
                request: 0,
                choice: 0,
                device: 0,
            };
            // what another claim may not have says nothing of this one
            return Ok(match self.next(after, false)? {
                Step::Exceeded => Step::Not,
                other => other,
            });
        };
        if !alternative && !choices.first().is_some_and(|c| c.of.alternative.is_empty()) {
            return self.any_of(at, choices.len());
        }
        let choice = &choices[at.choice];
        let all = choice.all.clone();
        if all.as_ref().is_some_and(|all| all.is_empty()) {
            return Ok(Step::Not);
        }
        if at.device >= choice.count {
            let after = At {
                request: at.request + 1,
                choice: 0,
                device: 0,
                ..at
            };
            return self.next(after, false);
        }
        let after = part.found.len().saturating_add(choice.count - at.device);
        if after > RESULTS_MAX {
            return Ok(Step::Exceeded);
        }
        let further = At {
            device: at.device + 1,
            ..at
        };
        if let Some(all) = all {
            if !self.take(at, all[at.device], true)? {
                return Ok(Step::Not);
            }
            let step = self.next(further, alternative)?;
            if step != Step::Done {
                self.give_back(at);
            }
            return Ok(step);
        }
        for pool in 0..self.pools.len() {
            if self.pools[pool].incomplete || self.pools[pool].invalid {
                continue;
            }
            for index in 0..self.pools[pool].slices.len() {
                let slice = self.pools[pool].slices[index];
                for device in &slice.spec.devices {
                    let candidate = Candidate {
                        pool,
                        slice,
                        device,
                    };
                    if !self.take(at, candidate, false)? {
                        continue;
                    }
                    let step = self.next(further, alternative)?;
                    if step == Step::Done {
                        return Ok(step);
                    }
                    self.give_back(at);
                    if step == Step::Exceeded {
                        return Ok(step);
                    }
                }
            }
        }
        Ok(Step::Not)
    }

    /// The first of the alternatives with which there is a way.
    fn any_of(&mut self, at: At, count: usize) -> Result<Step, Failure> {
        let mut exceeded = true;
        for choice in 0..count {
            match self.next(At { choice, ..at }, true)? {
                Step::Exceeded => continue,
                Step::Done => {
                    self.parts[at.claim].chosen[at.request] = choice;
                    return Ok(Step::Done);
                }
                Step::Not => exceeded = false,
            }
        }
        Ok(match exceeded {
            true => Step::Exceeded,
            false => Step::Not,
        })
    }

    /// Gives the device to the request; false: it can't be. One that `must` be given and can't is an error.
    fn take(&mut self, at: At, candidate: Candidate<'a>, must: bool) -> Result<bool, Failure> {
        self.steps += 1;
        let id = candidate.id();
        let part = &self.parts[at.claim];
        let choice = &part.requests[at.request][at.choice];
        let (wanted, of, claim) = (choice.wanted, choice.of, part.claim);
        let own_name = choice.own_name().to_owned();
        let device = candidate.device;
        let admin = wanted.admin_access && of.alternative.is_empty();
        let multiple = device.allow_multiple_allocations;
        if admin {
            if !multiple && self.given.contains(&(id.clone(), at.claim)) {
                return Ok(false);
            }
        } else if self.question.taken.whole.contains(&id)
            || (0..self.parts.len()).any(|claim| self.given.contains(&(id.clone(), claim)))
        {
            return Ok(false);
        }
        if !must {
            // looked at only now: expressions cost more than the look at who has it
            let key = (at.claim, at.request, at.choice);
            let matches = &mut self.matches;
            if !(self.question).selectable(matches, key, claim, choice, candidate)? {
                return Ok(false);
            }
        }
        let tolerated = device.taints.iter().all(|taint| {
            !matches!(&*taint.effect, "NoExecute" | "NoSchedule")
                || wanted.tolerations.iter().any(|t| t.tolerates(taint))
        });
        if !tolerated || !self.has_capacity(choice, candidate) {
            return Ok(false);
        }
        let driver = &candidate.slice.spec.driver;
        let checks = &mut self.parts[at.claim].checks;
        let failed = (0..checks.len()).find(|i| !checks[*i].add(of, driver, device));
        if let Some(failed) = failed {
            checks[..failed].iter_mut().for_each(|c| c.remove(of));
            if must {
                return broken(format!(
                    "claim {}, request {own_name}: cannot add device {id} because a claim constraint would not be satisfied",
                    claim.key
                ));
            }
            return Ok(false);
        }
        let in_use = self.question.taken.shared.contains_key(&id) || self.shared.contains_key(&id);
        let counts = !(device.consumes_counters.is_empty() || multiple && in_use);
        if counts {
            let pool = &self.pools[candidate.pool];
            let taken = self.question.taken;
            if !self.counters.take(candidate.pool, pool, taken, device) {
                checks.iter_mut().for_each(|c| c.remove(of));
                return Ok(false);
            }
        }
        let consumed = multiple.then(|| capacity::consumed(wanted.capacity.as_ref(), device));
        match &consumed {
            None => drop(self.given.insert((id, at.claim))),
            Some(amounts) => {
                let (users, all) = self.shared.entry(id).or_default();
                *users += 1;
                for (name, amount) in amounts {
                    let sum = all
                        .entry(name.clone())
                        .or_insert(knarr_quantity::Quantity::ZERO);
                    sum.add(amount);
                }
            }
        }
        self.parts[at.claim].found.push(Found {
            choice: at.choice,
            request: at.request,
            candidate,
            consumed,
        });
        Ok(true)
    }

    /// Takes back what was given last.
    fn give_back(&mut self, at: At) {
        let part = &mut self.parts[at.claim];
        let of = part.requests[at.request][at.choice].of;
        let Some(found) = part.found.pop() else {
            return;
        };
        part.checks.iter_mut().for_each(|c| c.remove(of));
        let device = found.candidate.device;
        let id = found.candidate.id();
        let mut counts = !device.consumes_counters.is_empty();
        match found.consumed {
            None => drop(self.given.remove(&(id, at.claim))),
            Some(amounts) => {
                if let Some((users, all)) = self.shared.get_mut(&id) {
                    *users -= 1;
                    for (name, amount) in &amounts {
                        if let Some(sum) = all.get_mut(name) {
                            sum.sub(amount);
                        }
                    }
                    // the counters were taken by the first of its users
                    counts &= *users == 0 && !self.question.taken.shared.contains_key(&id);
                    if *users == 0 {
                        self.shared.remove(&id);
                    }
                }
            }
        }
        if counts {
            self.counters.give_back(found.candidate.pool, device);
        }
    }
}
