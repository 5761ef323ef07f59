//! Why a pod can't be where it wants to be, in the words of upstream's scheduler (`framework.FitError`).

use std::{borrow::Cow, collections::BTreeMap};

/// The rules of upstream's default profile, by which a pod may be turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// cordoned
    NodeUnschedulable,
    /// `spec.nodeName`-like fields
    NodeName,
    /// taints
    Taints,
    /// selector and node affinity
    NodeAffinity,
    /// host ports
    Ports,
    /// resources
    Resources,
    /// one pod alone may use a claim
    VolumeRestrictions,
    /// a driver attaches so many
    VolumeLimits,
    /// claims and volumes
    VolumeBinding,
    /// the volume's zone
    VolumeZone,
    /// topology spread
    Spread,
    /// pods with, and without, pods
    InterPod,
    /// claims of devices
    Devices,
}

/// A set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules(u16);

impl Rules {
    /// With one more.
    pub fn insert(&mut self, rule: Rule) {
        self.0 |= 1 << rule as u8;
    }
    /// It is among them.
    pub fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u8) != 0
    }
    /// There is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A rule turned a pod away from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// which
    pub rule: Rule,
    /// why
    pub reasons: Vec<Cow<'static, str>>,
    /// fewer pods on the node may help
    pub resolvable: bool,
    /// something is wrong that no other node helps against
    pub broken: bool,
}

impl Refusal {
    /// One that fewer pods on the node don't help against.
    pub fn lasting(rule: Rule, reason: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            rule,
            reasons: vec![reason.into()],
            resolvable: false,
            broken: false,
        }
    }
    /// One that ends the turn, as an error of the rule's plugin.
    pub fn broken(rule: Rule, plugin: &str, error: &str) -> Refusal {
        let reason = format!("running {plugin:?} filter plugin: {error}");
        Refusal {
            broken: true,
            ..Refusal::lasting(rule, reason)
        }
    }
    /// One that fewer pods on the node may help against.
    pub fn passing(rule: Rule, reason: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            resolvable: true,
            ..Refusal::lasting(rule, reason)
        }
    }
}

/// Why no node will do.
#[derive(Debug, Clone, Default)]
pub struct Diagnosis {
    /// nodes there are
    pub nodes: usize,
    /// what was wrong before any node was looked at
    pub before: Option<Cow<'static, str>>,
    /// how many nodes gave each reason
    pub reasons: BTreeMap<Cow<'static, str>, usize>,
    /// the rules that said no
    pub rules: Rules,
    /// what became of making room
    pub preemption: Option<String>,
    /// something is wrong: this, and nothing else, is said
    pub error: Option<Cow<'static, str>>,
    /// nobody is told: what the pod waits for is on the way
    pub quiet: bool,
    /// what became of making devices free
    pub devices: Freed,
}

/// What a pod that no node would take means for the devices of its claims.
#[derive(Debug, Clone, Default)]
pub enum Freed {
    /// it has no claims that were looked at
    #[default]
    Nothing,
    /// another rule said no before its claims were looked at
    NotLookedAt,
    /// they are needed, or don't help
    Still,
    /// those of this claim are where the pod can't be
    Claim(std::sync::Arc<crate::objects::device::ResourceClaim>),
}

impl Freed {
    /// In upstream's words.
    fn said(&self) -> &'static str {
        match self {
            Freed::Nothing => "no new claims to deallocate",
            Freed::NotLookedAt => "not found",
            Freed::Still => "still not schedulable",
            Freed::Claim(_) => "deallocation of ResourceClaim completed",
        }
    }
}

impl Diagnosis {
    /// Takes in one node's answer.
    pub fn note(&mut self, refusal: &Refusal) {
        self.rules.insert(refusal.rule);
        if refusal.broken {
            self.error = refusal.reasons.first().cloned();
        }
        for reason in &refusal.reasons {
            *self.reasons.entry(reason.clone()).or_default() += 1;
        }
    }
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. preemption: ...`
    pub fn message(&self) -> String {
        if let Some(error) = &self.error {
            return error.to_string();
        }
        if self.nodes == 0 && self.before.is_none() {
            return "no nodes available to schedule pods".into();
        }
        let mut text = format!("0/{} nodes are available:", self.nodes);
        match &self.before {
            Some(reason) => text.push_str(&format!(" {reason}.")),
            None => {
                let mut list: Vec<_> = self
                    .reasons
                    .iter()
                    .map(|(reason, n)| format!("{n} {reason}"))
                    .collect();
                list.sort();
                if !list.is_empty() {
                    text.push_str(&format!(" {}.", list.join(", ")));
                }
            }
        }
        if let Some(p) = &self.preemption {
            text.push(' ');
            text.push_str(self.devices.said());
            // upstream's plugin for devices fails where it wasn't asked before, and no other is asked then
            if !matches!(self.devices, Freed::NotLookedAt) {
                text.push_str(", preemption: ");
                text.push_str(p);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_upstream_writes_them() {
        let cases: [(&str, Diagnosis, &str); 4] = [
            (
                "no nodes",
                Diagnosis::default(),
                "no nodes available to schedule pods",
            ),
            (
                "reasons in order",
                Diagnosis {
                    nodes: 3,
                    reasons: [
                        ("node(s) were unschedulable".into(), 2),
                        ("Insufficient cpu".into(), 1),
                    ]
                    .into(),
                    ..Default::default()
                },
                "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.",
            ),
            (
                "before any node",
                Diagnosis {
                    nodes: 1,
                    before: Some("pod has unbound immediate PersistentVolumeClaims".into()),
                    preemption: Some(
                        "0/1 nodes are available: 1 Preemption is not helpful for scheduling."
                            .into(),
                    ),
                    devices: Freed::NotLookedAt,
                    ..Default::default()
                },
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
            ),
            (
                "never preempts",
                Diagnosis {
                    nodes: 1,
                    reasons: [("Insufficient memory".into(), 1)].into(),
                    preemption: Some("not eligible due to preemptionPolicy=Never.".into()),
                    ..Default::default()
                },
                "0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
            ),
        ];
        for (name, diagnosis, want) in cases {
            assert_eq!(diagnosis.message(), want, "{name}");
        }
    }
}
