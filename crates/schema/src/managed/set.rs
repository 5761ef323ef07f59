//! A set of paths as a tree, and its FieldsV1 form.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::Element;

/// A set of paths. A node that neither is a member nor has members below it doesn't exist.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Set {
    pub nodes: BTreeMap<Element, Node>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Node {
    pub member: bool,
    pub below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    pub(crate) fn of(paths: &[&[&str]]) -> Set {
        let mut set = Set::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a path; the empty path is nothing.
    pub(crate) fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        if !self.nodes.contains_key(first) {
            self.nodes.insert(first.clone(), Node::default());
        }
        if let Some(node) = self.nodes.get_mut(first) {
            if rest.is_empty() {
                node.member = true;
            } else {
                node.below.insert(rest);
            }
        }
    }

    pub(crate) fn has(&self, path: &[Element]) -> bool {
        match path.split_first() {
            None => false,
            Some((first, [])) => self.nodes.get(first).is_some_and(|n| n.member),
            Some((first, rest)) => self.nodes.get(first).is_some_and(|n| n.below.has(rest)),
        }
    }

    pub(crate) fn union(&self, other: &Set) -> Set {
        let mut out = self.clone();
        out.add(other);
        out
    }

    fn add(&mut self, other: &Set) {
        for (element, theirs) in &other.nodes {
            match self.nodes.get_mut(element) {
                Some(ours) => {
                    ours.member |= theirs.member;
                    ours.below.add(&theirs.below);
                }
                None => {
                    self.nodes.insert(element.clone(), theirs.clone());
                }
            }
        }
    }

    pub(crate) fn intersection(&self, other: &Set) -> Set {
        self.filtered(|element, ours| {
            let theirs = other.nodes.get(element)?;
            Some(Node {
                member: ours.member && theirs.member,
                below: ours.below.intersection(&theirs.below),
            })
        })
    }

    /// The paths that aren't in `other`; a path below one of `other`'s stays.
    pub(crate) fn difference(&self, other: &Set) -> Set {
        self.filtered(|element, ours| match other.nodes.get(element) {
            None => Some(ours.clone()),
            Some(theirs) => Some(Node {
                member: ours.member && !theirs.member,
                below: ours.below.difference(&theirs.below),
            }),
        })
    }

    /// The paths that neither are in `other` nor lie below one of its.
    pub(crate) fn recursive_difference(&self, other: &Set) -> Set {
        self.filtered(|element, ours| match other.nodes.get(element) {
            None => Some(ours.clone()),
            Some(theirs) if theirs.member => None,
            Some(theirs) => Some(Node {
                member: ours.member,
                below: ours.below.recursive_difference(&theirs.below),
            }),
        })
    }

    fn filtered(&self, keep: impl Fn(&Element, &Node) -> Option<Node>) -> Set {
        let nodes = self.nodes.iter().filter_map(|(element, node)| {
            let node = keep(element, node).filter(|n| !n.is_empty())?;
            Some((element.clone(), node))
        });
        Set {
            nodes: nodes.collect(),
        }
    }

    /// All paths in upstream's order: the members of a level before what is below them.
    pub(crate) fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut out);
        out
    }

    fn collect_paths(&self, prefix: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for (element, _) in self.nodes.iter().filter(|(_, n)| n.member) {
            out.push(prefix.iter().chain([element]).cloned().collect());
        }
        for (element, node) in &self.nodes {
            prefix.push(element.clone());
            node.below.collect_paths(prefix, out);
            prefix.pop();
        }
    }

    /// FieldsV1.
    pub(crate) fn to_fields(&self) -> Value {
        let mut out = Map::new();
        for (element, node) in &self.nodes {
            let mut below = match node.below.to_fields() {
                Value::Object(below) => below,
                _ => Map::new(),
            };
            if node.member && !node.below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(element.to_key(), Value::Object(below));
        }
        Value::Object(out)
    }

    /// Reads FieldsV1; steps of a kind that isn't known are skipped.
    pub(crate) fn from_fields(fields: &Value) -> Result<Set, String> {
        let Value::Object(fields) = fields else {
            return Err("fieldsV1 is no object".to_owned());
        };
        let mut set = Set::default();
        for (key, value) in fields.iter().filter(|(key, _)| *key != ".") {
            let Some(element) = Element::from_key(key)? else {
                continue;
            };
            let below = Set::from_fields(value)?;
            let member = below.is_empty() || value.get(".").is_some();
            set.nodes.insert(element, Node { member, below });
        }
        Ok(set)
    }
}
