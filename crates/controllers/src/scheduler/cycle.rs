//! One pod's turn: the nodes that will do, the best of them, or why none will do and who would have to go. Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::objects::{node::Node, pod::Pod, policy::Budget, selector::Selector};

use super::{
    devices::{self, Devices, Pending, Reserve, Unready, Wishes},
    filter::NodeRules,
    interpod::Company,
    preempt::{self, Candidate},
    score,
    spread::Spread,
    verdict::{Diagnosis, Freed, Refusal, Rule},
    view::{Place, Placed, View},
    volumes::{Claims, Plan, Storage},
};

/// Pods for which room is being made, by the node.
pub type Nominated = HashMap<Box<str>, Vec<Arc<Placed>>>;

/// What a turn is decided on.
pub struct World<'a> {
    /// nodes and pods
    pub view: &'a View,
    /// claims and volumes
    pub storage: &'a Storage,
    /// pods for which room is being made
    pub nominated: &'a Nominated,
    /// volumes that other pods' claims are about to get
    pub taken: &'a HashSet<Box<str>>,
    /// devices and claims of them
    pub devices: &'a Devices,
    /// devices that claims are about to get
    pub pending: &'a Pending,
    /// the pod's like by its Services and owner
    pub like: &'a dyn Fn(&Pod) -> Option<Selector>,
    /// disruption budgets
    pub budgets: &'a dyn Fn() -> Vec<Arc<Budget>>,
}

/// What comes of a turn.
#[derive(Debug)]
pub enum Decision {
    /// the pod goes to the node, once this is done for its volumes and devices
    Bind(Box<str>, Todo),
    /// it can't, but there will be room when these are gone
    Preempt(Candidate, Diagnosis),
    /// it can't; true: no room is being made for it any more
    Wait(Diagnosis, bool),
}

/// What is to be done before the pod is bound.
#[derive(Debug, Default, Clone)]
pub struct Todo {
    /// volumes
    pub volumes: Plan,
    /// devices
    pub devices: Vec<Reserve>,
}

/// Why no node is asked.
pub enum Hopeless {
    /// this rule says no
    Refused(Refusal),
    /// what the pod's claims are made of is on its way
    Waits(String),
}

impl From<Refusal> for Hopeless {
    fn from(refusal: Refusal) -> Hopeless {
        Hopeless::Refused(refusal)
    }
}

/// What is asked of nodes for one pod.
pub struct Cycle<'a> {
    /// the pod
    pub pod: &'a Arc<Pod>,
    rules: NodeRules,
    company: Company,
    spread: Spread,
    claims: Claims,
    wishes: Wishes,
    storage: &'a Storage,
    devices: &'a Devices,
    nominated: &'a Nominated,
}

/// A node with pods tried in and out.
#[derive(Clone)]
pub struct Trial {
    /// the node
    pub place: Place,
    company: Company,
    spread: Spread,
    claims: Claims,
}

impl Trial {
    /// A pod more.
    pub fn add(&mut self, pod: &Arc<Placed>, node: &Node) {
        self.place.add(pod.clone());
        self.count(pod, node, 1);
    }
    /// A pod less.
    pub fn remove(&mut self, pod: &Arc<Placed>, node: &Node) {
        self.place.remove(&pod.pod.metadata.uid);
        self.count(pod, node, -1);
    }
    fn count(&mut self, pod: &Placed, node: &Node, n: i64) {
        self.company.count(pod, node, n);
        self.spread.count(pod, node, n);
        self.claims.count(pod, n);
    }
}

impl<'a> Cycle<'a> {
    /// Prepares; Err: no node will do, whatever is on it.
    pub fn new(pod: &'a Arc<Pod>, world: &World<'a>) -> Result<Cycle<'a>, Hopeless> {
        // what isn't there yet is on its way: other rules aren't asked
        let wishes = match Wishes::new(pod, world.devices, world.pending) {
            Err(Unready::Waits(why)) => return Err(Hopeless::Waits(why)),
            Err(Unready::Refused(refusal)) => Err(refusal),
            Ok(wishes) => Ok(wishes),
        };
        Ok(Cycle {
            rules: NodeRules::new(pod),
            company: Company::new(pod, world.view),
            spread: Spread::new(pod, world.view),
            claims: Claims::new(pod, world.storage, world.view, world.taken)?,
            wishes: wishes?,
            storage: world.storage,
            devices: world.devices,
            nominated: world.nominated,
            pod,
        })
    }
    /// The node as it is.
    pub fn trial(&self, view: &View, node: &Node) -> Trial {
        Trial {
            place: view
                .places
                .get(&node.metadata.name)
                .cloned()
                .unwrap_or_default(),
            company: self.company.clone(),
            spread: self.spread.clone(),
            claims: self.claims.clone(),
        }
    }
    /// Pods of at least the pod's priority that are to come to the node.
    fn to_come(&self, node: &Node) -> impl Iterator<Item = &Arc<Placed>> {
        self.nominated
            .get(&node.metadata.name)
            .into_iter()
            .flatten()
            .filter(|p| {
                p.pod.metadata.uid != self.pod.metadata.uid
                    && p.pod.spec.priority >= self.pod.spec.priority
            })
    }
    /// The pod can be there now, and also once those have come for which room is being made.
    pub fn fits(&self, node: &Node, trial: &Trial) -> Result<Todo, Refusal> {
        if self.to_come(node).next().is_some() {
            let mut fuller = trial.clone();
            for p in self.to_come(node) {
                fuller.add(p, node);
            }
            self.check(
                node,
                &fuller.place,
                &fuller.company,
                &fuller.spread,
                &fuller.claims,
            )?;
        }
        self.check(
            node,
            &trial.place,
            &trial.company,
            &trial.spread,
            &trial.claims,
        )
    }
    fn fits_as_is(&self, view: &View, node: &Node, place: &Place) -> Result<Todo, Refusal> {
        if self.to_come(node).next().is_some() {
            return self.fits(node, &self.trial(view, node));
        }
        self.check(node, place, &self.company, &self.spread, &self.claims)
    }
    fn check(
        &self,
        node: &Node,
        place: &Place,
        company: &Company,
        spread: &Spread,
        claims: &Claims,
    ) -> Result<Todo, Refusal> {
        self.rules.check(self.pod, node, place)?;
        let volumes = claims.check(node, place, self.storage)?;
        spread.check(node)?;
        company.check(node)?;
        let devices = self.wishes.check(node, self.devices)?;
        Ok(Todo { volumes, devices })
    }
}

/// Nodes that the pod's node affinity names, when it names all that it wants; None: any may do.
fn named(pod: &Pod) -> Option<HashSet<&str>> {
    let affinity = pod.spec.affinity.as_deref()?.node_affinity.as_ref()?;
    let terms = &affinity.required.as_ref()?.node_selector_terms;
    let mut all: HashSet<&str> = HashSet::new();
    for term in terms {
        let mut of_term: Option<HashSet<&str>> = None;
        for r in &term.match_fields {
            if &*r.key == "metadata.name" && &*r.operator == "In" {
                let names: HashSet<&str> = r.values.iter().map(|v| &**v).collect();
                of_term = Some(match of_term {
                    Some(before) => before.intersection(&names).copied().collect(),
                    None => names,
                });
            }
        }
        all.extend(of_term?);
    }
    (!terms.is_empty()).then_some(all)
}

/// Where the pod goes.
pub fn decide(pod: &Arc<Pod>, world: &World) -> Decision {
    let view = world.view;
    let mut diagnosis = Diagnosis {
        nodes: view.nodes().count(),
        ..Default::default()
    };
    if diagnosis.nodes == 0 {
        return Decision::Wait(diagnosis, false);
    }
    let cycle = match Cycle::new(pod, world) {
        Ok(c) => c,
        Err(Hopeless::Waits(why)) => {
            diagnosis.rules.insert(Rule::Devices);
            diagnosis.before = Some(why.into());
            diagnosis.quiet = true;
            return Decision::Wait(diagnosis, false);
        }
        Err(Hopeless::Refused(refusal)) => {
            diagnosis.rules.insert(refusal.rule);
            diagnosis.devices = match refusal.rule {
                Rule::Devices => Freed::Nothing,
                _ => Freed::NotLookedAt,
            };
            diagnosis.before = refusal.reasons.into_iter().next();
            diagnosis.preemption = Some(match preempt::not_eligible(pod, None, view) {
                Some(why) => why.into(),
                None => format!(
                    "0/{n} nodes are available: {n} Preemption is not helpful for scheduling.",
                    n = diagnosis.nodes
                ),
            });
            return Decision::Wait(diagnosis, true);
        }
    };
    let nominated = &pod.status.nominated_node_name;
    if !nominated.is_empty()
        && let Some(place) = view.places.get(nominated)
        && let Some(node) = &place.node
        && let Ok(plan) = cycle.fits_as_is(view, node, place)
    {
        return Decision::Bind(nominated.clone(), plan);
    }
    let named = named(pod);
    let mut feasible: Vec<(&Arc<Node>, &Place)> = vec![];
    let mut plans: Vec<Todo> = vec![];
    let mut refusals: Vec<(Arc<Node>, Refusal)> = vec![];
    for (node, place) in view.nodes() {
        let answer = match &named {
            Some(names) if !names.contains(&*node.metadata.name) => Err(Refusal::lasting(
                Rule::NodeAffinity,
                "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            )),
            _ => cycle.fits_as_is(view, node, place),
        };
        match answer {
            Ok(plan) => {
                feasible.push((node, place));
                plans.push(plan);
            }
            Err(refusal) => {
                diagnosis.note(&refusal);
                refusals.push((node.clone(), refusal));
            }
        }
        if diagnosis.error.is_some() {
            return Decision::Wait(diagnosis, false);
        }
    }
    let best = match feasible.len() {
        0 => None,
        1 => Some(0),
        _ => {
            let like = || (world.like)(pod);
            let preferred = || plans.iter().map(|p| devices::preference(&p.devices));
            let preferred = (!cycle.wishes.is_empty()).then(|| preferred().collect());
            let scores = score::scores(pod, &cycle.company, view, like, preferred, &feasible);
            // of equals the one with the fewest pods, then the first
            (0..feasible.len()).min_by_key(|i| {
                let pods = feasible[*i].1.pods.len();
                (std::cmp::Reverse(scores[*i]), pods, *i)
            })
        }
    };
    if let Some(i) = best {
        let node = feasible[i].0.metadata.name.clone();
        return Decision::Bind(node, plans.swap_remove(i));
    }
    if !cycle.wishes.is_empty() {
        let of_devices = refusals.iter().filter(|(_, r)| r.rule == Rule::Devices);
        let mut idle = of_devices.filter_map(|(n, _)| cycle.wishes.idle_elsewhere(pod, n));
        diagnosis.devices = idle.next().map_or(Freed::Still, Freed::Claim);
    }
    let there = refusals
        .iter()
        .find(|(n, _)| n.metadata.name == *nominated)
        .map(|(_, r)| r);
    if let Some(why) = preempt::not_eligible(pod, there, view) {
        diagnosis.preemption = Some(why.into());
        return Decision::Wait(diagnosis, false);
    }
    match preempt::plan(&cycle, view, &refusals, &(world.budgets)()) {
        Ok(candidate) => Decision::Preempt(candidate, diagnosis),
        Err(why) => {
            diagnosis.preemption = Some(why);
            Decision::Wait(diagnosis, true)
        }
    }
}
